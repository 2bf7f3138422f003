"""Takes and gives 10 MiB: `/upload` reads, `/download` makes, `/file` hands over a file."""

import os
from wsgiref.util import FileWrapper

from stamp import HERE, release

PIECE = b"x" * 65536
SIZE = 160 * len(PIECE)
RELEASE = release()
FILE = os.path.join(HERE, "data")
with open(f"{FILE}.{os.getpid()}", "wb") as whole:
    whole.write(PIECE * 160)
os.replace(f"{FILE}.{os.getpid()}", FILE)


def application(environ, start_response):
    path, size = environ["PATH_INFO"], SIZE
    if path == "/download":
        body = (PIECE for _ in range(160))
    elif path == "/file":
        body = environ.get("wsgi.file_wrapper", FileWrapper)(open(FILE, "rb"), len(PIECE))
    else:
        left = length = int(environ.get("CONTENT_LENGTH") or 0)
        while left and (piece := environ["wsgi.input"].read(min(left, len(PIECE)))):
            left -= len(piece)
        body = [b"%d" % (length - left)]
        size = len(body[0])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(size)), ("X-Release", RELEASE)])
    return body
