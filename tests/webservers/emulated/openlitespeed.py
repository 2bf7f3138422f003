"""OpenLiteSpeed, from deploy/openlitespeed/vhconf.conf.

It holds the socket and starts the program in a session of its own, with a connection to the server as descriptor 1.
A few connections stay open, and each has many requests in turn; all variables come in one record, all records are
padded; the body is taken in first. It refuses a `Proxy` header.
"""

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

from ..fastcgi import connect
from .front import Refused, below, header_variables
from .programs import address, listen, spawn
from .wire import Exchange, Way

# What may stand in a block, and what it is when it does not.
EXTERNAL = {
    "type": None, "address": None, "path": "", "autoStart": "0", "instances": "1", "maxConns": "5", "initTimeout": "3",
    "retryTimeout": "10", "persistConn": "1", "pcKeepAliveTimeout": "-1", "respBuffer": "1", "backlog": "100",
}  # fmt: skip
CONTEXT = {"type": "NULL", "location": "", "handler": "", "allowBrowse": "1", "addDefaultCharset": "off"}
UNNAMED = {"host", "content-type", "content-length", "transfer-encoding"}


def blocks(text):
    """The `name value` lines of the top, and [(kind, name, {…})] of the blocks."""
    top, found, inside = {}, [], None
    for line in text.splitlines():
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        opening = re.fullmatch(r"(\S+) (\S+) \{", line.strip())
        if opening:
            assert inside is None, line
            inside = {}
            found.append((opening[1], opening[2], inside))
        elif line.strip() == "}":
            inside = None
        else:
            assert len(words) == 2, f"OpenLiteSpeed cannot read {line!r}"
            (top if inside is None else inside)[words[0]] = words[1].strip()
    return top, found


def settled(given, known):
    """A block with its defaults."""
    assert set(given) <= set(known), f"OpenLiteSpeed does not know {set(given) - set(known)}"
    whole = {**known, **given}
    assert None not in whole.values(), f"something is missing in {given}"
    numbers = [name for name, usual in known.items() if re.fullmatch("-?[0-9]+", usual or "")]
    assert all(re.fullmatch("-?[0-9]+", whole[name]) for name in numbers), f"something is no number in {given}"
    return whole


class OpenLiteSpeed:
    """The server."""

    failed = 503
    leaves_after_head = False

    def __init__(self, site, text):
        self.site = site
        top, found = blocks(text)
        assert set(top) == {"docRoot"}, top
        self.root = top["docRoot"]
        self.workers, self.contexts = {}, []
        for kind, name, given in found:
            if kind == "extprocessor":
                self.workers[name] = Worker(site, settled(given, EXTERNAL))
            else:
                assert kind == "context", kind
                context = settled(given, CONTEXT)
                assert context["type"] in ("NULL", "fcgi"), name
                assert context["location"] or context["handler"] in self.workers, name
                self.contexts.append((name, context))
        # The longest address that fits is taken; patterns come first.
        self.contexts.sort(key=lambda item: (item[0].startswith("exp:"), len(item[0])), reverse=True)
        (self.worker,) = self.workers.values()

    def route(self, visit):
        if visit.field("Proxy"):
            raise Refused(400)
        path = visit.path()
        for name, context in self.contexts:
            pattern = name.partition("exp:")[2]
            if re.search(pattern, path) if pattern else path.startswith(name):
                break
        else:
            raise Refused(404)
        if context["type"] == "fcgi":
            return [*self.variables(visit, path, name)]
        if context["allowBrowse"] != "1":
            raise Refused(403)
        place = context["location"].replace("$DOC_ROOT", self.root)
        return below(place if pattern else place + path[len(name) :])

    def variables(self, visit, path, context):
        yield "GATEWAY_INTERFACE", "CGI/1.1"
        yield "SERVER_SOFTWARE", "LiteSpeed"
        yield "SERVER_PROTOCOL", visit.protocol
        yield "REQUEST_METHOD", visit.method
        yield "QUERY_STRING", visit.query
        yield "SCRIPT_NAME", context
        yield from {
            "DOCUMENT_ROOT": self.root,
            "REMOTE_ADDR": visit.visitor[0],
            "REMOTE_PORT": str(visit.visitor[1]),
            "SERVER_ADDR": "127.0.0.1",
            "SERVER_NAME": visit.host,
            "SERVER_PORT": str(visit.port),
            "REQUEST_URI": visit.target,
        }.items()
        if path != context:
            yield "PATH_TRANSLATED", self.root + path
            yield "PATH_INFO", path[len(context) - 1 :]
        yield "LSWS_EDITION", "Openlitespeed 1.8.2"
        yield "X-LSCACHE", "1"
        yield "HTTP_HOST", visit.field("Host")
        if visit.field("Content-Type"):
            yield "CONTENT_TYPE", visit.field("Content-Type")
        yield from header_variables(visit.fields, UNNAMED)

    def exchange(self, pairs, body):
        whole = b"".join(body.pieces(65536))
        if whole:
            # A chunked one has a length from now on.
            pairs.append(("CONTENT_LENGTH", str(len(whole))))
        return self.worker.exchange(pairs, whole)

    def over(self, exchange):
        self.worker.over(exchange)

    def close(self):
        self.worker.close()


class Worker:
    """An external app: its socket, its processes, and the connections to it."""

    PIECE = 65528

    def __init__(self, site, settings):
        assert settings["type"] == "fcgi", settings
        self.settings = settings
        keep = settings["persistConn"] == "1"
        self.way = Way(keep=keep, record_per_variable=False, padding="all", piece=self.PIECE)
        # `UDS://tmp/x` is /tmp/x.
        where = settings["address"]
        self.address = where.removeprefix("UDS:/") if where.startswith("UDS:/") else address(where)
        self.room = threading.Semaphore(int(settings["maxConns"]))
        self.idle = []
        self.opened = 0
        self.recovered = 0
        self.lock = threading.Lock()
        self.listener = self.control = self.program = None
        if settings["autoStart"] == "1":
            self.start(site, settings["path"])

    def start(self, site, path):
        self.listener = listen(self.address, int(self.settings["backlog"]))
        assert self.settings["instances"] == "1" and Path(path).is_absolute()
        self.control, theirs = socket.socketpair()
        environ = {"PATH": "/bin:/usr/bin"}
        self.program = spawn(site, [path], environ, Path(path).parent, self.listener, theirs, session=True)
        theirs.close()

    def exchange(self, pairs, body):
        """On a connection that is open, else on a new one; one more try where a kept one turns out to be closed."""
        self.room.acquire()
        try:
            connection, fresh = self.connection()
            pieces = (body[at : at + self.PIECE] for at in range(0, len(body), self.PIECE))
            if not fresh and closed(connection):
                self.recovered += 1
                connection, _ = self.connection(new=True)
            return Exchange(connection, self.way, pairs, pieces)
        except BaseException:
            self.room.release()
            raise

    def connection(self, new=False):
        oldest = time.monotonic() - float(self.settings["pcKeepAliveTimeout"])
        with self.lock:
            while self.idle and not new:
                connection, since = self.idle.pop()
                if since > oldest or oldest > time.monotonic():
                    return connection, False
                connection.close()
            self.opened += 1
        try:
            return connect(self.address, float(self.settings["initTimeout"])), True
        except OSError:
            raise Refused(503) from None

    def over(self, exchange):
        """Where all of the answer has come, the connection may have the next request."""
        if exchange.ended and self.way.keep:
            with self.lock:
                self.idle.append((exchange.socket, time.monotonic()))
        else:
            exchange.close()
        self.room.release()

    def close(self):
        """A stop: SIGTERM and SIGUSR1 at once, while connections are still open."""
        if self.program:
            self.program.send_signal(signal.SIGTERM)
            self.program.send_signal(signal.SIGUSR1)
            begin = time.monotonic()
            status = self.program.wait(10)
            assert status == 0 and time.monotonic() - begin < 4, "5 s after SIGTERM comes SIGKILL"
            self.control.setblocking(False)
            assert self.control.recv(1) == b"", "descriptor 1 is the server's: nothing is written to it"
            self.control.close()
            self.listener.close()
            os.unlink(self.address)
        for connection, _ in self.idle:
            connection.close()


def closed(connection):
    """Whether the other side has closed a connection in the meantime."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(60)
