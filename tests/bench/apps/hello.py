"""The smallest WSGI app that says which release it is."""

from stamp import release

BODY = b"hello, world\n"
HEADERS = [
    ("Content-Type", "text/plain"),
    ("Content-Length", str(len(BODY))),
    ("X-Release", release()),
]


def application(environ, start_response):
    start_response("200 OK", HEADERS[:])
    return [BODY]
