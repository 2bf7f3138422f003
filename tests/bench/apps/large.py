"""A page that takes 6 MB and a second."""

import time

from stamp import release

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "3"), ("X-Release", release())]


def application(environ, start_response):
    page = bytearray(b"x") * (6 << 20)
    time.sleep(1)
    start_response("200 OK", HEADERS[:])
    return [b"ok\n"] if page else []
