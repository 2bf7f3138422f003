from settings_common import *

NAME = "two"
