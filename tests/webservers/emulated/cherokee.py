"""Cherokee, from deploy/cherokee/mysite.conf.

It connects to a source; where nothing answers, it starts the source's interpreter with `/bin/sh -c "exec …"`, which has
to make the socket by itself. A connection for each request, a record for each variable, the last of them padded; the body
goes on as it comes. REQUEST_URI is the path *decoded*. Where a body might have come, and none did, the end of STDIN comes
twice, the second time after the header of a record that was not filled in. A chunked body comes after the end of STDIN, and
in no record.
"""

import re
import shlex
import threading
import time
from itertools import chain
from pathlib import Path

from ..fastcgi import STDIN, connect
from ..recipe import CLEAN
from .front import Refused, below, header_variables
from .programs import address, spawn
from .wire import Exchange, Way, record

WAY = Way(record_per_variable=True, padding="last", piece=32700)
# Headers that Cherokee knows by name: the first of them is passed on. Any other is passed on each time that it comes.
KNOWN = (
    "accept accept-charset accept-encoding accept-language authorization connection cookie if-modified-since "
    "if-none-match if-range keep-alive range referer user-agent x-forwarded-for x-forwarded-host"
).split()
SILENT = {"host", "content-length", "content-type", "transfer-encoding", "expect", "upgrade"}


class Tree:
    """`a!b!c = value` lines. Each line has to be asked for: `finish` says which one no server would read."""

    def __init__(self, text):
        self.values = {}
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                key, separator, value = line.partition(" = ")
                assert separator and key not in self.values, f"Cherokee cannot read {line!r}"
                self.values[key] = value
        self.left = set(self.values)

    def get(self, key, otherwise=None):
        self.left.discard(key)
        value = self.values.get(key, otherwise)
        assert value is not None, f"Cherokee misses {key}"
        return value

    def has(self, key):
        return key in self.values

    def numbers(self, prefix):
        """The numbers that come after a prefix."""
        found = (re.match(re.escape(prefix) + r"!(\d+)!", key) for key in self.values)
        return sorted({int(match[1]) for match in found if match})

    def finish(self):
        assert not self.left, f"Cherokee does not know {sorted(self.left)}"


class Cherokee:
    """The server."""

    failed = 502
    leaves_after_head = True

    def __init__(self, site, text):
        self.site = site
        self.program = None
        self.lock = threading.Lock()
        tree = Tree(text)
        (vserver,) = tree.numbers("vserver")
        self.root = tree.get(f"vserver!{vserver}!document_root")
        assert tree.get(f"vserver!{vserver}!nick") and tree.get(f"vserver!{vserver}!match") == "wildcard"
        self.host = tree.get(f"vserver!{vserver}!match!domain!1")
        rules = f"vserver!{vserver}!rule"
        # The greatest number is asked first.
        self.rules = [Rule(tree, f"{rules}!{number}", self.root) for number in reversed(tree.numbers(rules))]
        self.source = Source(tree, f"source!{next(rule.source for rule in self.rules if rule.source)}")
        tree.finish()

    def route(self, visit):
        if visit.host != self.host:
            raise Refused(404)
        path = visit.path()
        rule = next((rule for rule in self.rules if rule.matches(path)), None)
        if rule is None:
            raise Refused(404)
        if rule.source is None:
            return below(rule.root + path)
        return [*self.variables(visit, path, rule)]

    def variables(self, visit, path, rule):
        if rule.pass_headers:
            yield from header_variables(visit.fields, {*KNOWN, *SILENT})
        yield from {
            "SERVER_SOFTWARE": "Cherokee/1.2.104 (Debian)",
            "SERVER_SIGNATURE": "<address>Cherokee Web Server</address>",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "PATH": CLEAN["PATH"],
            "DOCUMENT_ROOT": self.root,
            "REMOTE_ADDR": visit.visitor[0],
            "REMOTE_PORT": str(visit.visitor[1]),
            "HTTP_HOST": visit.field("Host"),
            "SERVER_NAME": visit.host,
        }.items()
        if visit.field("Content-Type"):
            yield "CONTENT_TYPE", visit.field("Content-Type")
        yield from {
            "QUERY_STRING": visit.query,
            "SERVER_PROTOCOL": visit.protocol,
            "REQUEST_METHOD": visit.method,
            "PATH_INFO": path,
            "REQUEST_URI": path + ("?" + visit.query if visit.query else ""),
            "SCRIPT_URL": path,
            "HTTPS": "off",
            "SERVER_PORT": str(visit.port),
            "SERVER_ADDR": "127.0.0.1",
        }.items()
        for name in KNOWN:
            if visit.field(name):
                yield from header_variables([(name, visit.field(name))])
        # Without check_file there is no script.
        yield "SCRIPT_NAME", ""
        yield "PATH_TRANSLATED", self.root + path
        if visit.field("Content-Length"):
            yield "CONTENT_LENGTH", visit.field("Content-Length")
        if visit.field("Transfer-Encoding"):
            yield "CONTENT_TRANSFER_ENCODING", visit.field("Transfer-Encoding")
        yield "SCRIPT_FILENAME", path

    def exchange(self, pairs, body):
        pieces, afterthoughts = body.pieces(WAY.piece), []
        if body.chunked:
            raw = (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            pieces, afterthoughts = [], chain(raw, [b"0\r\n\r\n"])
        elif body.finished and dict(pairs)["REQUEST_METHOD"] not in ("GET", "HEAD"):
            afterthoughts = [bytes(8) + record(STDIN)]
        return Exchange(self.connect(), WAY, pairs, pieces, afterthoughts)

    def connect(self):
        """Tries; starts the interpreter; tries again until the source's timeout."""
        source = self.source
        deadline = None
        while True:
            try:
                return connect(source.address, 60)
            except OSError:
                if not source.interpreter:
                    raise Refused(503) from None
            if deadline is None:
                deadline = time.monotonic() + source.timeout
                self.start()
            if time.monotonic() > deadline:
                raise Refused(504)
            time.sleep(0.05)

    def start(self):
        """One at a time. Descriptor 0 is no socket, and the directory is the server's own."""
        with self.lock:
            if self.program is None or self.program.poll() is not None:
                environ = {**CLEAN, "HOME": str(self.site.account.home)} if self.source.inherits else {}
                self.program = spawn(self.site, ["/bin/sh", "-c", f"exec {self.source.interpreter}"], environ, "/")

    def over(self, exchange):
        exchange.close()

    def close(self):
        if self.program:
            self.program.terminate()


class Source:
    """An information source."""

    def __init__(self, tree, key):
        kind = tree.get(f"{key}!type")
        assert kind in ("interpreter", "host"), kind
        self.interpreter = None
        assert tree.get(f"{key}!nick")
        self.address = address(tree.get(f"{key}!host"))
        if kind == "interpreter":
            self.interpreter = tree.get(f"{key}!interpreter")
            self.timeout = float(tree.get(f"{key}!timeout", "10"))
            self.inherits = tree.get(f"{key}!env_inherited") == "1"
            assert Path(shlex.split(self.interpreter)[0]).is_file()


class Rule:
    """What is done with which addresses."""

    def __init__(self, tree, key, root):
        self.matches = self.matcher(tree, f"{key}!match")
        self.source = None
        self.root = root
        handler = tree.get(f"{key}!handler")
        if handler == "file":
            self.root = tree.get(f"{key}!document_root", root)
            return
        assert handler == "fcgi", handler
        assert tree.get(f"{key}!handler!balancer") == "round_robin"
        self.source = int(tree.get(f"{key}!handler!balancer!source!1"))
        # With it Cherokee would look for a file of the address's name, and give the rest as PATH_INFO.
        assert tree.get(f"{key}!handler!check_file") == "0"
        self.pass_headers = tree.get(f"{key}!handler!pass_req_headers", "1") == "1"
        for name, wanted in (("error_handler", "1"), ("xsendfile", "0")):
            assert tree.get(f"{key}!handler!{name}") == wanted, name

    def matcher(self, tree, key):
        kind = tree.get(key)
        if kind == "request":
            pattern = re.compile(tree.get(f"{key}!request"))
            return lambda path: pattern.search(path) is not None
        if kind == "directory":
            directory = tree.get(f"{key}!directory")
            return lambda path: path == directory or path.startswith(directory + "/")
        if kind == "or":
            left, right = self.matcher(tree, f"{key}!left"), self.matcher(tree, f"{key}!right")
            return lambda path: left(path) or right(path)
        assert kind == "default", kind
        return lambda path: True
