"""One request to a FastCGI program, sent the way a certain web server sends it. Knows no HTTP and no configuration."""

import socket
import struct
import threading
import time
from dataclasses import dataclass

from ..fastcgi import BEGIN, END, HEADER, PARAMS, STDERR, STDIN, STDOUT

RESPONDER, KEEP_CONN = 1, 1


class VisitorGone(Exception):
    """The visitor has left in the middle of the body."""


class ProgramFailed(Exception):
    """What came from the program is no answer that this server would pass on."""


@dataclass
class Way:
    """How a web server speaks. `padding`: of no record, of the `last` variable's, or of `all`."""

    keep: bool = False
    record_per_variable: bool = True
    padding: str = "no"
    piece: int = 8184


class Exchange:
    """A request on its way and its answer. The body goes out while the answer comes in, as with all of these servers.

    `afterthoughts` are bytes that follow the end of STDIN, each in a write of its own.
    """

    def __init__(self, connection, way, pairs, pieces, afterthoughts=()):
        self.socket, self.way = connection, way
        self.afterthoughts = afterthoughts
        self.closed = False
        self.buffer = bytearray()
        self.rest = b""
        self.ended = self.gone = False
        self.sender = threading.Thread(target=self._send, args=(pairs, pieces), daemon=True)
        self.sender.start()

    def head(self):
        """(status, [(name, value)]), as these servers read them: `Status: ` and `Location: ` with exactly one space."""
        if self.afterthoughts:
            # Before it has sent everything, Cherokee does not look at what comes.
            self.sender.join(30)
            if self.closed:
                raise ProgramFailed("the connection was closed before all was sent")
        out = b""
        while b"\r\n\r\n" not in out:
            content = self._output()
            if content is None:
                raise ProgramFailed(f"no whole head: {out!r}")
            out += content
        head, _, self.rest = out.partition(b"\r\n\r\n")
        status, fields = 200, []
        for line in head.decode("latin-1").split("\r\n"):
            name, separator, value = line.partition(": ")
            if not separator:
                raise ProgramFailed(f"not a header: {line!r}")
            if name.lower() == "status":
                status = int(value[:3])
                continue
            if name.lower() == "location" and status == 200:
                raise ProgramFailed("a Location before any other status than 200 is followed at once")
            fields.append((name, value))
        return status, fields

    def body(self):
        """The pieces of the body, to END_REQUEST."""
        if self.rest:
            yield self.rest
        while (content := self._output()) is not None:
            yield content
        self.sender.join(30)

    def close(self):
        """Ends the connection, wherever the exchange is."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()

    def _send(self, pairs, pieces):
        try:
            flags = KEEP_CONN if self.way.keep else 0
            start = record(BEGIN, struct.pack("!HB5x", RESPONDER, flags))
            self.socket.sendall(start + b"".join(self._params(pairs, len(start))))
            for piece in pieces:
                self.socket.sendall(record(STDIN, piece, pad=self.way.padding == "all"))
            self.socket.sendall(record(STDIN))
            for more in self.afterthoughts:
                time.sleep(0.02)
                self.socket.sendall(more)
        except VisitorGone:
            self.gone = True
            self.close()
        except OSError:
            # The program has closed; the reader of its answer finds out what that means.
            self.closed = True

    def _params(self, pairs, begin):
        encoded = [pair(name, value) for name, value in pairs]
        if not self.way.record_per_variable:
            whole = b"".join(encoded)
            encoded = [whole[at : at + 60000] for at in range(0, len(whole), 60000)]
        for number, content in enumerate(encoded):
            last = number == len(encoded) - 1
            piece = record(PARAMS, content, pad=self.way.padding == "all" or (self.way.padding == "last" and last))
            yield piece
        yield record(PARAMS)

    def _output(self):
        """The next content of STDOUT; None after END_REQUEST."""
        while not self.ended:
            version, kind, number, length, padding = HEADER.unpack(self._exactly(8))
            content = self._exactly(length + padding)[:length]
            if (version, number) != (1, 1) or kind not in (STDOUT, STDERR, END):
                raise ProgramFailed(f"record of version {version}, type {kind}, request {number}")
            if kind == STDOUT and content:
                return content
            if kind == END:
                if content != bytes(8):
                    raise ProgramFailed(f"END_REQUEST says {content!r}")
                self.ended = True
        return None

    def _exactly(self, length):
        while len(self.buffer) < length:
            try:
                more = self.socket.recv(65536)
            except OSError as error:
                raise ProgramFailed(f"{error!r} in the middle of an answer") from error
            if not more:
                raise ProgramFailed("the connection ended in the middle of an answer")
            self.buffer += more
        piece = bytes(self.buffer[:length])
        del self.buffer[:length]
        return piece


def record(kind, content=b"", pad=False):
    """A record of request 1; with `pad` the next one begins at a multiple of eight."""
    padding = -len(content) % 8 if pad else 0
    return HEADER.pack(1, kind, 1, len(content), padding) + content + bytes(padding)


def pair(name, value):
    """A name-value pair, with lengths of one byte where they fit."""

    def length(number):
        return struct.pack("!B", number) if number < 128 else struct.pack("!I", number | 1 << 31)

    name, value = name.encode("latin-1"), value.encode("latin-1")
    return length(len(name)) + length(len(value)) + name + value
