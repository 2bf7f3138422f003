"""The Python side of runfcgi: takes requests from the front, calls the WSGI application, sends the answers back.

Embedded in the executable and handed to `python -c LOADER` through descriptor 0 (a unix stream socket), where LOADER is

    import os;n=int(os.read(0,8),16);b=b''
    while len(b)<n:b+=os.read(0,n-len(b))
    exec(compile(b,'<runfcgi>','exec'),{'__name__':'__runfcgi__'})

so nothing needs to be installed. Eight hexadecimal digits tell the length of this source, the source follows, then a
SETUP frame. The frames are those of src/worker/wire.rs; the calling convention is PEP 3333.

Two modes. A `worker` imports the application and serves its slots, one request at a time on each. A `preloader` imports
it once and forks a worker whenever a front asks; it has no threads of its own.

Runs unchanged on CPython 3.6 to 3.14 and PyPy, with the standard library only. Must not know the web server's protocol.
"""

import array
import atexit
import errno
import faulthandler
import fcntl
import gc
import importlib
import io
import os
import re
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
from socket import AF_UNIX, CMSG_SPACE, MSG_DONTWAIT, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET
