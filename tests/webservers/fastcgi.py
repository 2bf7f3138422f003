"""A FastCGI client that does what mod_fcgid does: one connection, one request, no keep-conn. Knows no web server."""

import socket
import struct
import time
from dataclasses import dataclass, field

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR = 1, 2, 3, 4, 5, 6, 7
HEADER = struct.Struct(">BBHHBx")


@dataclass
class Reply:
    """What came back. `ended`: END_REQUEST came; without it nothing of the rest can be trusted."""

    begin: float
    output: bytes = b""
    errors: str = ""
    ended: bool = False
    end: float = 0.0
    failure: str = ""
    fields: dict = field(default_factory=dict)

    @property
    def status(self):
        """0 when no whole answer came."""
        if not self.ended or b"\r\n\r\n" not in self.output:
            return 0
        for line in self.output.split(b"\r\n\r\n")[0].split(b"\r\n"):
            if line.lower().startswith(b"status:"):
                return int(line.split()[1])
        return 200

    @property
    def head(self):
        return self.output.partition(b"\r\n\r\n")[0].decode()

    @property
    def text(self):
        return self.output.partition(b"\r\n\r\n")[2].decode()

    @property
    def seconds(self):
        return self.end - self.begin


def connect(address, timeout=30):
    """A connection to a unix socket's path or a (host, port)."""
    sock = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def encode(path, method="GET", body=b"", more=()):
    """The records of one request."""
    path, _, query = path.partition("?")
    params = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "/mysite.fcgi",
        "PATH_INFO": path,
        "REQUEST_URI": f"/mysite.fcgi{path}?{query}",
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "127.0.0.1",
        **dict(more),
    }
    if body:
        params["CONTENT_LENGTH"] = str(len(body))
    pairs = b"".join(
        struct.pack(">II", len(name) | 1 << 31, len(value) | 1 << 31) + name.encode() + value.encode()
        for name, value in params.items()
    )
    pieces = [record(BEGIN, struct.pack(">HB5x", 1, 0)), record(PARAMS, pairs), record(PARAMS, b"")]
    pieces += [record(STDIN, body[at : at + 8000]) for at in range(0, len(body), 8000)]
    return b"".join(pieces) + record(STDIN, b"")


def record(kind, content, number=1):
    return HEADER.pack(1, kind, number, len(content), 0) + content


def request(address, path, timeout=30, **options):
    """Sends a request and reads the answer to its end. Failures to connect are raised, later ones are told."""
    reply = Reply(time.monotonic())
    with connect(address, timeout) as sock:
        try:
            sock.sendall(encode(path, **options))
            read(sock, reply)
        except OSError as error:
            reply.failure = repr(error)
    reply.end = time.monotonic()
    return reply


def read(sock, reply):
    """Reads records until END_REQUEST or the end of the stream."""
    data = bytearray()
    while not reply.ended:
        more = sock.recv(65536)
        if not more:
            reply.failure = "the connection was closed before END_REQUEST"
            return
        data += more
        while len(data) >= 8:
            _, kind, _, length, padding = HEADER.unpack_from(data)
            if len(data) < 8 + length + padding:
                break
            content = bytes(data[8 : 8 + length])
            del data[: 8 + length + padding]
            if kind == STDOUT:
                reply.output += content
            elif kind == STDERR:
                reply.errors += content.decode(errors="replace")
            elif kind == END:
                reply.ended = True
