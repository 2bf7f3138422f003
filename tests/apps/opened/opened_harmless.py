import logging
import logging.handlers
import os
import random
import socket
import subprocess
import sys
import tempfile

marks = os.environ["MARKS"]
LOG = logging.getLogger("shop")
LOG.addHandler(logging.FileHandler(os.path.join(marks, "shop.log")))
LOG.addHandler(logging.handlers.SysLogHandler(os.environ["SERVICE"]))
LOG.warning("said at import")
NULL, CHANCE = open("/dev/null", "r+b"), open("/dev/urandom", "rb")
DATA, TEMPORARY = open(__file__, "rb"), tempfile.TemporaryFile()
LISTENER = socket.socket()
LISTENER.bind(("127.0.0.1", 0))
LISTENER.listen()
MEMORY = os.memfd_create("shop")
DIRECTORY = os.open("/", os.O_RDONLY)
ENDED = subprocess.Popen([sys.executable, "-c", "print('1.0')"], stdout=subprocess.PIPE)
VERSION = ENDED.stdout.read()
assert DATA.read(3) == b'imp' and random.random() >= 0


def fetch(query):
    LOG.warning("said in a request")
    return query
