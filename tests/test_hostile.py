"""Peers that send rubbish, half a request or nothing cost their own connection and nothing else, on every protocol."""

import contextlib
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

APP = '''
import time


def application(environ, start_response):
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/cut":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])
        return iter([b"four"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.5)
    if environ["PATH_INFO"] == "/parts":
        return iter([b"got ", b"%d" % len(body)])
    return [b"got %d" % len(body)]
'''
IDLE, HOSTILE = 1000, 200


def record(kind, content, number=1):
    return struct.pack(">BBHHBx", 1, kind, number, len(content), 0) + content


def pairs(**variables):
    content = b""
    for name, value in variables.items():
        content += struct.pack(">BB", len(name), len(value)) + name.encode() + value.encode()
    return content


VARIABLES = {"REQUEST_METHOD": "POST", "REQUEST_URI": "/", "SCRIPT_NAME": "", "PATH_INFO": "/", "CONTENT_LENGTH": "5"}


def head(number=1, path="/", length=5, keep=1):
    """The records of a request up to its body."""
    variables = pairs(**{**VARIABLES, "PATH_INFO": path, "CONTENT_LENGTH": str(length)})
    return record(1, struct.pack(">HB5x", 1, keep), number) + record(4, variables, number) + record(4, b"", number)


def fcgi(number=1, path="/", body=b"hello", keep=0):
    pieces = [record(5, body[at : at + 60000], number) for at in range(0, len(body), 60000)]
    return head(number, path, len(body), keep) + b"".join(pieces) + record(5, b"", number)


def scgi():
    headers = b"CONTENT_LENGTH\x005\x00SCGI\x001\x00REQUEST_METHOD\x00POST\x00REQUEST_URI\x00/\x00"
    return b"%d:%s,hello" % (len(headers), headers)


def ajp():
    def text(value):
        return struct.pack(">H", len(value)) + value + b"\0"

    head = bytes([2, 4]) + text(b"HTTP/1.1") + text(b"/") + text(b"127.0.0.1") + b"\xff\xff" + text(b"localhost")
    head += struct.pack(">HBH", 80, 0, 1) + b"\xa0\x08" + text(b"5") + b"\xff"
    body = struct.pack(">H", 5) + b"hello"
    return b"".join(b"\x12\x34" + struct.pack(">H", len(packet)) + packet for packet in (head, body))


PROTOCOLS = {"fcgi": fcgi, "scgi": scgi, "ajp": ajp}
SETTINGS = '''
[app]
path = "."
wsgi = "hostile:application"
python = "/usr/bin/python3"
[server]
maxchildren = 1
ping = "/ping"
[log]
access = "access.log"
format = "%U %I %s %X"
[limits]
'''


@pytest.fixture(params=PROTOCOLS)
def server(request, build, tmp_path):
    with running(build, tmp_path, request.param, "read_timeout = 2") as server:
        yield server


@contextlib.contextmanager
def running(build, tmp_path, protocol, limits, app=APP, stderr=None, **options):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    (tmp_path / "hostile.py").write_text(app)
    (tmp_path / "site.toml").write_text(SETTINGS + limits)
    os.chmod(tmp_path / "site.toml", 0o644)
    path = str(tmp_path / "s.sock")
    words = ["runfcgi", "--config", str(tmp_path / "site.toml"), f"socket={path}", f"protocol={protocol}"]
    with open(tmp_path / "log", "wb") as log:
        words += ["daemonize=false"]
        process = subprocess.Popen([str(build), *words], stderr=stderr or log, cwd=tmp_path, **options)
    server = Server(process, path, PROTOCOLS[protocol]())
    until(lambda: connects(path), "it listens")
    server.ask()
    yield server
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Server:
    def __init__(self, process, path, good):
        self.process, self.path, self.good, self.dir = process, path, good, Path(path).parent

    def connect(self):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(self.path)
        peer.settimeout(20)
        return peer

    def ask(self, request=None, expected=b"got 5"):
        """A good request gets its good answer."""
        with self.connect() as peer:
            peer.sendall(request or self.good)
            answer = b""
            while expected not in answer:
                more = peer.recv(65536)
                assert more, answer
                answer += more

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def log(self, name="log"):
        return (self.dir / name).read_text()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def connects(path):
    with socket.socket(socket.AF_UNIX) as peer:
        return peer.connect_ex(path) == 0


def until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited too long until {what}"
        time.sleep(0.02)


def hostile(good, number):
    """What the hostile peer of this number sends."""
    chance = random.Random(number)
    kind = number % 4
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 3000))
    if kind == 1:
        return good[: chance.randrange(1, len(good))]
    if kind == 2:
        broken = bytearray(good)
        broken[chance.randrange(len(broken))] ^= chance.randrange(1, 256)
        return bytes(broken)
    return b""


def test_hostile_and_idle_peers_cost_their_own_connection(server):
    before = server.descriptors()
    idle = [server.connect() for _ in range(IDLE)]
    peers = []
    for number in range(HOSTILE):
        peer = server.connect()
        peer.setblocking(False)
        try:
            peer.sendall(hostile(server.good, number))
            if number % 8 == 1:
                peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was closed for what it had sent: so be it
        peers.append(peer)
        if number % 10 == 0:
            server.ask()
    for _ in range(20):
        server.ask()
    assert server.memory() < 40_000, "kB with all those peers"
    # A half request is given up after [limits] read_timeout; who has sent nothing may stay.
    until(lambda: server.descriptors() <= before + IDLE + HOSTILE // 2 + 20, "half requests are given up")
    server.ask()
    for peer in idle + peers:
        peer.close()
    until(lambda: server.descriptors() <= before + 10, "all descriptors are free again")
    server.ask()


def test_many_good_requests_beside_peers_that_do_not_read(server):
    """A peer that takes no answer holds up nobody else."""
    stalled = [server.connect() for _ in range(20)]
    for peer in stalled:
        peer.sendall(server.good)
    for _ in range(50):
        server.ask()
    for peer in stalled:
        peer.close()


def records(peer):
    """The FastCGI records that come: (type, request, content)."""
    with peer.makefile("rb") as stream:
        while header := stream.read(8):
            _, kind, number, length, padding = struct.unpack(">BBHHBx", header)
            yield kind, number, stream.read(length + padding)[:length]


# What costs the peer little to send and is answered: protocol, bytes.
FLOODS = {
    "management-records": ("fcgi", lambda: record(20, b"", 0) * 100_000),
    "cpings": ("ajp", lambda: b"\x12\x34\0\1\x0a" * 100_000),
    "requests": ("fcgi", lambda: b"".join(fcgi(number, "/", keep=1) for number in range(1, 60_000))),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_who_only_sends_is_not_read_and_then_dropped(build, tmp_path, kind):
    protocol, data = FLOODS[kind]
    data = memoryview(data())
    with running(build, tmp_path, protocol, "write_timeout = 1") as server:
        # The requests fill the queue: then others get what needs no worker.
        ask = (lambda: server.ask(fcgi(1, "/ping"), b"pong")) if kind == "requests" else server.ask
        before, descriptors, at = server.memory(), server.descriptors(), 0
        with server.connect() as peer:
            peer.setblocking(False)
            began, dropped = time.monotonic(), False
            while not dropped:
                try:
                    at = (at + peer.send(data[at : at + 65536])) % len(data)
                except BlockingIOError:
                    select.select([], [peer], [], 0.05)
                except OSError:
                    dropped = True
                ask()
                assert server.memory() < before + 8000, "kB for a peer that takes nothing"
                assert time.monotonic() < began + 6, "still connected long after write_timeout"
        assert "its peer has stalled" in server.log()
        server.ask()
        until(lambda: server.descriptors() <= descriptors, "its descriptor is free again")


# Cherokee, where there is no body: the header of a record that it has not filled in, and the end of STDIN once more.
AFTERTHOUGHT = bytes(8) + record(5, b"")


@pytest.mark.parametrize("when", ["at once", "while it is answered", "after the answer"])
def test_what_follows_a_whole_request_costs_it_nothing(build, tmp_path, when):
    with running(build, tmp_path, "fcgi", "") as server:
        descriptors = server.descriptors()
        with server.connect() as peer:
            peer.sendall(fcgi(1, "/slow" if when == "while it is answered" else "/"))
            if when == "while it is answered":
                time.sleep(0.2)
            came = records(peer)
            if when == "after the answer":
                assert any(kind == 3 for kind, _, _ in came)
            peer.sendall(AFTERTHOUGHT)
            if when != "after the answer":
                assert b"got 5" in b"".join(content for kind, _, content in came if kind == 6)
                assert "version" not in server.log()
            assert peer.recv(1) == b"", "its end is an end, not an error"
            began = time.monotonic()
            with pytest.raises(BrokenPipeError):
                while time.monotonic() < began + 9:
                    peer.sendall(AFTERTHOUGHT)
                    time.sleep(0.1)
            assert 3 < time.monotonic() - began < 8, "and then it is closed, also on a peer that goes on"
        until(lambda: server.descriptors() <= descriptors, "its descriptor is free again")
        assert "stalled" not in server.log()


def test_what_was_sent_while_no_answers_were_taken_is_not_lost(build, tmp_path):
    count = 8000
    with running(build, tmp_path, "fcgi", "write_timeout = 5") as server, server.connect() as peer:
        data = b"".join(fcgi(number, "/ping", keep=1) + record(20, b"", 0) for number in range(1, count + 1))
        sender = threading.Thread(target=peer.sendall, args=(data,), daemon=True)
        sender.start()
        sender.join(0.3)
        assert sender.is_alive(), "the server took all of it, so this shows nothing"
        ended, unknown = [], 0
        for kind, number, _ in records(peer):
            ended += [number] if kind == 3 else []
            unknown += kind == 11
            if len(ended) == unknown == count:
                break
        assert ended == list(range(1, count + 1))
        sender.join()


def test_half_requests_of_one_connection_are_bounded(build, tmp_path):
    limits = "read_timeout = 2\nmax_connections = 200"
    with running(build, tmp_path, "fcgi", limits) as server:
        before, descriptors = server.memory(), server.descriptors()
        with server.connect() as first, server.connect() as second, server.connect() as third:
            half = [head(number) + record(5, b"he", number) for number in range(1, 301)]
            first.sendall(b"".join(half))
            came = records(first)
            refused = [next(came) for _ in range(300 - 128)]
            assert refused == [(3, number, b"\0\0\0\0\x02\0\0\0") for number in range(129, 301)], "FCGI_OVERLOADED"
            server.ask()
            # As many as there may be connections are all that there may be.
            second.sendall(b"".join(half[:128]))
            came = records(second)
            turned_away = set()
            while len(turned_away) < 128 - (200 - 128):
                kind, number, content = next(came)
                if kind == 6 and content.startswith(b"Status: 503"):
                    turned_away.add(number)
            assert turned_away == set(range(73, 129))
            # Params that have no end.
            for number in range(1, 129):
                third.sendall(head(number)[:16] + record(4, bytes(60_000), number) * 4)
            assert server.memory() < before + 8000, "kB for half requests"
            assert server.log().count("requests are going on already") == 1, server.log()
            until(lambda: server.descriptors() <= descriptors, "they are given up after read_timeout", 5)
        server.ask()


def test_a_half_request_beside_good_ones_ends_alone(build, tmp_path):
    with running(build, tmp_path, "fcgi", "read_timeout = 1") as server, server.connect() as peer:
        peer.sendall(head(1) + record(5, b"he", 1))
        began, came, page = time.monotonic(), records(peer), b""
        for number in range(2, 100):
            peer.sendall(fcgi(number, keep=1))
            ended = set()
            while number not in ended:
                kind, of, content = next(came)
                ended |= {of} if kind == 3 else set()
                page += content if of == 1 and kind == 6 else b""
            if page:
                break
            assert time.monotonic() < began + 5
            time.sleep(0.1)
        assert page.startswith(b"Status: 408") and time.monotonic() > began + 1
        peer.sendall(fcgi(200, keep=1))
        assert any(kind == 3 and of == 200 for kind, of, _ in came)


@pytest.mark.parametrize("megabytes", [1, 4])
def test_an_upload_above_the_limit_of_file_sizes_is_refused(build, tmp_path, megabytes):
    """Of the executable no copy can be made either, with the smaller one."""
    limit = megabytes << 20
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    with running(build, tmp_path, "fcgi", "", **limited) as server:
        with server.connect() as peer:
            sender = threading.Thread(target=peer.sendall, args=(fcgi(1, "/", bytes(8 << 20)),), daemon=True)
            sender.start()
            answer = b"".join(content for kind, _, content in records(peer) if kind == 6)
            sender.join()
        assert answer.startswith(b"Status: 413 "), answer[:200]
        assert "RLIMIT_FSIZE" in server.log() and "incident" in server.log(), server.log()
        assert server.process.poll() is None
        server.ask(fcgi(1, "/", bytes(limit // 2)), b"got %d" % (limit // 2))


def test_the_access_log_tells_what_came_and_what_broke_off(build, tmp_path):
    with running(build, tmp_path, "fcgi", "read_timeout = 2") as server:
        server.ask(fcgi(1, "/large", bytes(100_000)), b"got 100000")
        server.ask(fcgi(1, "/parts", bytes(100_000)), b"100000")
        with server.connect() as peer:
            peer.sendall(head(1, "/abort") + record(5, b"he") + record(2, b""))
            assert (3, 1, bytes(8)) in records(peer)
        with server.connect() as peer:
            peer.sendall(fcgi(1, "/cut"))
            assert not any(kind == 3 for kind, _, _ in records(peer)), "an answer that is cut looks complete"
        assert server.log("access.log").splitlines() == [
            "/ 5 200 -", "/large 100000 200 -", "/parts 100000 200 -", "/abort 2 - X", "/cut 5 200 X",
        ]  # fmt: skip
