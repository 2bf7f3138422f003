"""Servers that Debian has no package of: their way of starting the program and of speaking, by a small client.

mod_fastcgi, Cherokee and OpenLiteSpeed, as their sources have it; the words that they start the program with are taken
from deploy/.
"""

import hashlib
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from webservers.account import USER
from webservers.processes import until
from webservers.recipe import METHODS, Site, connects, end, recipe

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR = 1, 2, 3, 4, 5, 6, 7
KEEP_CONN = 1
AS_USER = dict(user=USER.pw_uid, group=USER.pw_gid, extra_groups=[]) if os.getuid() == 0 else {}


def record(kind, content=b"", pad=False):
    padding = -len(content) % 8 if pad else 0
    return struct.pack("!BBHHBB", 1, kind, 1, len(content), padding, 0) + content + bytes(padding)


def pair(name, value):
    def length(n):
        return struct.pack("!B", n) if n < 128 else struct.pack("!I", n | 0x80000000)

    name, value = name.encode(), value.encode()
    return length(len(name)) + length(len(value)) + name + value


def variables(path, method="GET", body=b"", **more):
    query = path.partition("?")[2]
    return {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": method,
        "REQUEST_URI": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_HOST": "127.0.0.1",
        **({"CONTENT_LENGTH": str(len(body))} if body else {}),
        **more,
    }


class Connection:
    """One connection from a web server: `ask` sends a request the way that server does, and reads the answer."""

    def __init__(self, address, flags=0, one_record_per_variable=True, padded=False, piece=8184):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(address))
        self.flags, self.single, self.padded, self.piece = flags, one_record_per_variable, padded, piece

    def send(self, pairs, body):
        self.socket.sendall(record(BEGIN, struct.pack("!HB5x", 1, self.flags)))
        encoded = [pair(*item) for item in pairs.items()]
        for content in encoded if self.single else [b"".join(encoded)]:
            self.socket.sendall(record(PARAMS, content, self.padded))
        self.socket.sendall(record(PARAMS))
        for at in range(0, len(body), self.piece):
            self.socket.sendall(record(STDIN, body[at : at + self.piece], self.padded))
        self.socket.sendall(record(STDIN))

    def ask(self, path, body=b"", **more):
        pairs = variables(path, "POST" if body else "GET", body, **more)
        # A body is sent while the answer is awaited, as all of these servers do.
        sender = threading.Thread(target=self.send, args=(pairs, body))
        sender.start()
        out = b""
        while True:
            kind, content = self.record()
            if kind == STDOUT:
                out += content
            elif kind == END:
                assert content == bytes(8), "appStatus and protocolStatus must be 0"
                break
            else:
                assert kind == STDERR
        sender.join(30)
        head, _, rest = out.partition(b"\r\n\r\n")
        # OpenLiteSpeed acts on Location when it sees it, so the status has to come first.
        assert head.startswith(b"Status: "), head
        return int(head[8:11]), head.decode(), rest

    def record(self):
        version, kind, number, length, padding, _ = struct.unpack("!BBHHBB", self.exactly(8))
        assert (version, number) == (1, 1)
        return kind, self.exactly(length + padding)[:length]

    def exactly(self, length):
        got = b""
        while len(got) < length:
            piece = self.socket.recv(length - len(got))
            assert piece, "the connection ended in the middle of an answer"
            got += piece
        return got

    def ended(self):
        return self.socket.recv(1) == b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


class Manager:
    """A process manager that keeps the listening socket open and starts programs with it as descriptor 0."""

    def __init__(self, site, count, environ, output=None, session=False):
        self.site, self.environ, self.output, self.session = site, environ, output, session
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(site.sock))
        os.chmod(site.sock, 0o666)
        self.listener.listen(100)
        for _ in range(count):
            self.spawn()

    def spawn(self):
        with open(self.site.log, "ab") as log:
            executable = str(self.site.account.executable)
            process = subprocess.Popen(
                [executable],
                cwd=self.site.account.site,
                env=self.environ,
                stdin=self.listener,
                stdout=self.output or log,
                stderr=log,
                start_new_session=self.session,
                **AS_USER,
            )
        self.site.programs.append(process)
        return process

    def close(self):
        self.listener.close()
        self.site.sock.unlink()


def scenes(connect, site):
    """What a page, a body and new code need, whoever asks. `connect` gives a fresh connection."""

    def ask(*request, **more):
        with connect() as connection:
            return connection.ask(*request, **more)

    assert ask("/version/")[::2] == (200, b"0")
    status, head, _ = ask("/redirect/")
    assert status == 302 and "Location: /target/" in head
    body = os.urandom(5 << 20)
    assert hashlib.sha256(body).hexdigest().encode() in ask("/upload/", body)[2]
    assert len(ask("/stream/5000000/")[2]) == len(ask("/file/5000000/")[2]) == 5000000
    assert ask("/error/")[0] == 500
    for _ in range(3):
        # A visitor who has gone: the server closes the connection before the answer.
        with connect() as gone:
            gone.send(variables("/stream/50000000/"), b"")
            gone.socket.recv(1000)
    with ThreadPoolExecutor(10) as pool:
        assert {a[::2] for a in pool.map(lambda _: ask("/version/"), range(100))} == {(200, b"0")}
    answers, over = [], threading.Event()

    def visit():
        while not over.is_set():
            answers.append(ask("/version/")[::2])

    visitors = [threading.Thread(target=visit) for _ in range(3)]
    for visitor in visitors:
        visitor.start()
    try:
        site.account.code(1)
        site.account.touch()
        until(lambda: answers and answers[-10:] == [(200, b"1")] * 10, 15, "new code is live in every process")
    finally:
        over.set()
        for visitor in visitors:
            visitor.join(30)
    assert {status for status, _ in answers} == {200}


CONFIG = 'method = "{}"\nlinger = 0\n[log]\nfile = "../../server/site.log"\n'


@pytest.mark.parametrize("method", METHODS)
def test_mod_fastcgi_dynamic(model, build, method):
    """Several processes at one socket that their parent holds; no environment at all; a record for each variable."""
    with Site(model, build, config=CONFIG.format(method)) as site:
        manager = Manager(site, 2, {})
        scenes(lambda: Connection(site.sock), site)
        # The process manager tells one to leave, and starts another in its place. Nobody notices.
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(lambda: Connection(site.sock).ask("/version/")[0]) for _ in range(100)]
            old = site.programs[0]
            old.send_signal(signal.SIGTERM)
            manager.spawn()
            assert {answer.result() for answer in answers} == {200}
        # Another status than 0 would keep mod_fastcgi from starting it again for ten minutes.
        assert old.wait(10) == 0
        manager.close()


def test_mod_fastcgi_external(model, build):
    """Its recipe: the socket that FastCgiExternalServer names."""
    with Site(model, build) as site:
        text = recipe("apache/mod_fastcgi.conf", ("/home/user/mysite.sock", site.sock), ("example.com", "127.0.0.1"))
        address = re.search(r"^FastCgiExternalServer \S+ -socket (\S+)", text, re.MULTILINE)[1]
        site.runfcgi(f"socket={site.sock}")
        with Connection(address) as connection:
            told = connection.ask("/echo/a%20b/", SCRIPT_NAME="/mysite.fcgi", PATH_INFO="/echo/a b/", SCRIPT_URL="/echo/a b/")
            assert b'"SCRIPT_NAME": ""' in told[2] and b'"url": "/target/"' in told[2]
            assert connection.ended()


@pytest.mark.parametrize("method", METHODS)
def test_cherokee_starts_an_interpreter(model, build, method):
    """`/bin/sh -c "exec …"`: the program binds the socket itself, also where an old one was left behind."""
    with Site(model, build, config=f'method = "{method}"\n') as site:
        text = recipe(
            "cherokee/mysite.conf",
            ("/home/user/public_html", site.account.public),
            ("/home/user/mysite.sock", site.sock),
            ("example.com", "127.0.0.1"),
        )
        command = re.search(r"^source!1!interpreter = (.*)$", text, re.MULTILINE)[1]
        assert str(site.sock) == re.search(r"^source!1!host = (.*)$", text, re.MULTILINE)[1]
        first = site.start(["/bin/sh", "-c", f"exec {command}"], ready=site.sock)
        assert shlex.split(command)[0] == str(site.account.executable)
        scenes(lambda: Connection(site.sock, padded=True), site)
        # Cherokee kills the one before it starts another; a dead socket is replaced.
        first.kill()
        first.wait(10)
        assert site.sock.exists() and not connects(site.sock)
        site.start(["/bin/sh", "-c", f"exec {command}"], ready=site.sock)
        with Connection(site.sock, padded=True) as connection:
            assert connection.ask("/version/")[::2] == (200, b"1")
        end(site.programs[-1])
        assert not site.sock.exists()


@pytest.mark.parametrize("method", METHODS)
def test_openlitespeed(model, build, method):
    """Five connections that stay open, many requests on each; descriptor 1 belongs to the server; a session of its own."""
    ours, theirs = socket.socketpair()
    with Site(model, build, config=CONFIG.format(method)) as site, ours, theirs:
        manager = Manager(site, 1, {"PATH": "/bin:/usr/bin"}, output=theirs, session=True)
        theirs.close()

        def connect():
            return Connection(site.sock, KEEP_CONN, one_record_per_variable=False, padded=True, piece=60000)

        kept = [connect() for _ in range(5)]

        def visit(connection):
            return [connection.ask("/version/")[::2] for _ in range(40)]

        with ThreadPoolExecutor(5) as pool:
            assert {answer for answers in pool.map(visit, kept) for answer in answers} == {(200, b"0")}
        body = os.urandom(1 << 20)
        assert hashlib.sha256(body).hexdigest().encode() in kept[0].ask("/upload/", body)[2]
        site.account.code(1)
        site.account.touch()
        until(lambda: kept[1].ask("/version/")[2] == b"1", 6, "new code is live on a connection that stayed open")
        # All five are still the same connections.
        assert {connection.ask("/version/")[::2] for connection in kept} == {(200, b"1")}
        program = site.programs[0]
        assert os.getsid(program.pid) == program.pid
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        # A stop: SIGTERM and SIGUSR1 at once, when nothing is in hand.
        begin = time.monotonic()
        program.send_signal(signal.SIGTERM)
        program.send_signal(signal.SIGUSR1)
        assert program.wait(5) == 0 and time.monotonic() - begin < 4
        for connection in kept:
            connection.socket.close()
        manager.close()
