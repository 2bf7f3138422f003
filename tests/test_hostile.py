"""Peers that send rubbish, half a request or nothing cost their own connection and nothing else, on every protocol."""

import os
import random
import resource
import signal
import socket
import struct
import subprocess
import time

import pytest

APP = '''
def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
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


def fcgi():
    return (
        record(1, struct.pack(">HB5x", 1, 0)) + record(4, pairs(**VARIABLES)) + record(4, b"")
        + record(5, b"hello") + record(5, b"")
    )


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


@pytest.fixture(params=PROTOCOLS)
def server(request, build, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    (tmp_path / "hostile.py").write_text(APP)
    (tmp_path / "site.toml").write_text(
        '[app]\npath = "."\nwsgi = "hostile:application"\npython = "/usr/bin/python3"\n[server]\nmaxchildren = 1\n[limits]\nread_timeout = 2\n'
    )
    os.chmod(tmp_path / "site.toml", 0o644)
    path = str(tmp_path / "s.sock")
    words = ["runfcgi", "--config", str(tmp_path / "site.toml"), f"socket={path}", f"protocol={request.param}"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([str(build), *words, "daemonize=false"], stderr=log, cwd=tmp_path)
    server = Server(process, path, PROTOCOLS[request.param]())
    until(lambda: os.path.exists(path), "the socket is there")
    server.ask()
    yield server
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Server:
    def __init__(self, process, path, good):
        self.process, self.path, self.good = process, path, good

    def connect(self):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(self.path)
        peer.settimeout(20)
        return peer

    def ask(self):
        """A good request gets its good answer."""
        with self.connect() as peer:
            peer.sendall(self.good)
            answer = b""
            while b"got 5" not in answer:
                more = peer.recv(65536)
                assert more, answer
                answer += more

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


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
