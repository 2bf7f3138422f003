"""The HTTP side that the emulated servers have in common: visits come in, files and answers of the program go out.

Knows no FastCGI and no configuration. A server gives `route(visit)`, which names a file or gives the variables of the
request, `exchange(answer, body)`, which sends it, `over(exchange)`, and `close()`.
"""

import mimetypes
import posixpath
import re
import threading
import traceback
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote_to_bytes

from .wire import ProgramFailed, VisitorGone

# What a server writes by itself, or what is a matter of one connection.
OURS = {"date", "server", "connection", "keep-alive", "transfer-encoding"}


class Refused(Exception):
    """The server answers by itself, with this status."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


@dataclass
class Visit:
    """A request, as the visitor wrote it: text is Latin-1, so that every byte is a character."""

    method: str
    target: str
    protocol: str
    fields: list
    visitor: tuple
    port: int

    @property
    def query(self):
        return self.target.partition("?")[2]

    @property
    def host(self):
        return self.field("Host").partition(":")[0]

    def field(self, name, otherwise=""):
        """The first header of that name."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), otherwise)

    def path(self, keep_slash=False):
        """The path, decoded, with one slash where there were several, and without `.` and `..`."""
        raw = self.target.partition("?")[0]
        if keep_slash:
            raw = re.sub("%2f", lambda found: "%25" + found[0][1:], raw, flags=re.IGNORECASE)
        plain = re.sub("/+", "/", unquote_to_bytes(raw.encode("latin-1")).decode("latin-1"))
        tidy = posixpath.normpath(plain)
        return tidy + "/" if plain.endswith(("/", "/.", "/..")) and tidy != "/" else tidy


class Body:
    """What comes after the head of a request."""

    def __init__(self, stream, visit):
        self.stream = stream
        self.chunked = visit.field("Transfer-Encoding").lower() == "chunked"
        self.left = int(visit.field("Content-Length", "0"))
        self.finished = not self.chunked and not self.left

    def pieces(self, size):
        """As it comes, in pieces of at most this size."""
        try:
            if self.chunked:
                yield from self._chunks(size)
            else:
                yield from self._read(size)
        except (OSError, ValueError) as error:
            raise VisitorGone from error
        self.finished = True

    def _chunks(self, size):
        while True:
            self.left = int(self.stream.readline().split(b";")[0], 16)
            if not self.left:
                self.stream.readline()
                return
            yield from self._read(size)
            self.stream.readline()

    def _read(self, size):
        while self.left:
            piece = self.stream.read1(min(size, self.left))
            if not piece:
                raise VisitorGone
            self.left -= len(piece)
            yield piece


class Front(ThreadingHTTPServer):
    """`with Front(port, web) as front:` serves; `front.failures` tells what no visitor can see."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port, web):
        self.web = web
        self.failures = []
        super().__init__(("127.0.0.1", port), Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.web.close()
        print("--- what the emulated server saw ---", *self.failures, sep="\n")

    def handle_error(self, request, client_address):
        self.failures.append(traceback.format_exc())


class Handler(BaseHTTPRequestHandler):
    """One visitor's connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, VisitorGone):
            self.close_connection = True

    def finish(self):
        try:
            super().finish()
        except ConnectionError:
            pass

    def answer(self):
        target = self.requestline.split(" ")[1]
        port = self.server.server_port
        visit = Visit(self.command, target, self.request_version, self.headers.items(), self.client_address, port)
        body = Body(self.rfile, visit)
        web = self.server.web
        try:
            answer = web.route(visit)
            if isinstance(answer, Path):
                self.send_file(answer)
            else:
                self.relay(web, web.exchange(answer, body))
        except Refused as refused:
            self.send_all(refused.status, b"text/plain", str(refused.status).encode())
        if not body.finished:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def send_file(self, path):
        if self.command not in ("GET", "HEAD"):
            raise Refused(405)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self.send_all(200, kind.encode(), path.read_bytes())

    def send_all(self, status, kind, content):
        self.send_response(status)
        self.send_header("Content-Type", kind.decode())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def relay(self, web, exchange):
        """Passes on what the program answers. After a failure the visitor gets the server's own page, or half of one."""
        begun = False
        try:
            status, fields = exchange.head()
            begun = True
            self.pass_on(web, exchange, status, fields)
        except ProgramFailed as failure:
            self.close_connection = True
            if exchange.gone:
                raise VisitorGone from failure
            self.server.failures.append(f"{self.requestline}: {failure}")
            if not begun:
                raise Refused(web.failed) from failure
        finally:
            web.over(exchange)

    def pass_on(self, web, exchange, status, fields):
        length = next((int(value) for name, value in fields if name.lower() == "content-length"), None)
        nothing = self.command == "HEAD" or status in (204, 304)
        chunked = length is None and not nothing
        self.send_response_only(status, HTTPStatus(status).phrase)
        for name, value in fields:
            if name.lower() not in OURS:
                self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD" and web.leaves_after_head:
            return
        sent = 0
        for piece in exchange.body():
            sent += len(piece)
            if not nothing:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                self.wfile.flush()
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        if sent and nothing:
            raise ProgramFailed(f"{sent} bytes where there is no body")
        if not nothing and length not in (None, sent):
            raise ProgramFailed(f"{sent} bytes, but Content-Length {length}")

    def log_message(self, *_):
        pass


def header_variables(fields, dropped=()):
    """`HTTP_…`, one for each header."""
    for name, value in fields:
        if name.lower() not in dropped:
            yield "HTTP_" + name.upper().replace("-", "_"), value


def below(place):
    """The file of a path that came from an address; directories are not listed."""
    file = Path(place.encode("latin-1").decode(errors="surrogateescape"))
    if not file.is_file():
        raise Refused(403 if file.is_dir() else 404)
    return file
