"""A WSGI app for tests of failures: notes each import of it, and does on request what must harm nobody else.

MARKS names a directory for what it notes; IMPORT_SECONDS makes the import slow; IMPORT_THREAD starts a thread in it;
EXIT_MARK notes that exit functions are run.
"""

import atexit
import hashlib
import logging
import os
import signal
import stat
import sys
import threading
import time
from urllib.parse import parse_qs

from myproject.version import VERSION

MARKS = os.environ.get("MARKS", "/nowhere")
KEPT = []


def mark(name, text=""):
    """Leaves a file with our process id, whole or not at all."""
    path = os.path.join(MARKS, name)
    with open(path + ".new", "w") as file:
        file.write(text or str(os.getpid()))
    os.replace(path + ".new", path)


with open(os.path.join(MARKS, "imports"), "a") as imports:
    imports.write("%d\n" % os.getpid())
time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))
if os.environ.get("IMPORT_THREAD"):
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
if os.environ.get("EXIT_MARK"):
    atexit.register(mark, os.environ["EXIT_MARK"])


def app(environ, start_response):
    query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    view = VIEWS[environ["PATH_INFO"].strip("/")]
    return view(environ, start_response, query)


def plain(start_response, text):
    data = text.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


def pid(_environ, start_response, _query):
    return plain(start_response, str(os.getpid()))


def version(_environ, start_response, query):
    time.sleep(float(query.get("seconds", "0")))
    return plain(start_response, VERSION)


def sleep(_environ, start_response, query):
    mark(query["mark"])
    deadline = time.monotonic() + float(query["seconds"])
    while time.monotonic() < deadline:
        time.sleep(0.05)
    return plain(start_response, "done")


def spin(_environ, _start_response, query):
    """Pure Python that no signal but KILL ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    mark(query["mark"])
    while True:
        pass


def generator(_environ, start_response, query):
    start_response("200 OK", [("Content-Type", "text/plain")])

    def pieces():
        try:
            while True:
                yield b"a piece\n"
                time.sleep(0.05)
        finally:
            mark(query["mark"])

    return pieces()


def talk(_environ, start_response, _query):
    print("said by print")
    print("said to stderr", file=sys.stderr)
    os.write(1, b"said to descriptor 1\n")
    _environ["wsgi.errors"].write("said to wsgi.errors\n")
    logging.getLogger("site").warning("said by logging")
    return plain(start_response, "said")


def meddle(_environ, start_response, _query):
    """Writes to each socket that the process has."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"rubbish!" * 9)
        except OSError:
            pass
    return plain(start_response, "done")


def forge(_environ, start_response, _query):
    """Sends a response of its own on each socket, as if it were one to an earlier request."""
    head = b"200 OK\0Content-Length\0006\0"
    frames = ((b"H", head), (b"D", b"forged"), (b"E", b""))
    data = b"".join(kind + bytes(3) + len(payload).to_bytes(4, "big") + payload for kind, payload in frames)
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, data)
        except OSError:
            pass
    return plain(start_response, "done")


def deaf(_environ, _start_response, query):
    """Closes all that ties this process to others, and goes on."""
    mark("deaf", str(os.getpid()))
    os.closerange(0, 1 << 16)
    time.sleep(float(query["seconds"]))
    os._exit(0)


def grow(_environ, start_response, query):
    KEPT.append(b"x" * (int(query["megabytes"]) << 20))
    return plain(start_response, str(os.getpid()))


def upload(environ, start_response, _query):
    body = environ["wsgi.input"].read()
    return plain(start_response, "%s %d %s" % (VERSION, len(body), hashlib.sha256(body).hexdigest()))


class Closing(list):
    """A response that is all there before its close(), which takes a while."""

    def close(self):
        time.sleep(0.3)
        mark("closed")


def closing(_environ, start_response, _query):
    return Closing(plain(start_response, str(os.getpid())))


VIEWS = {
    view.__name__: view
    for view in (pid, version, sleep, spin, generator, talk, meddle, forge, deaf, grow, upload, closing)
}
