from settings_common import *

NAME = "one"
