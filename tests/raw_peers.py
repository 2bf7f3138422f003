"""A server of a small app, and peers that send it what they like, byte by byte, on every protocol."""

import contextlib
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
from pathlib import Path

from webservers.fastcgi import record
from webservers.processes import until

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


def records(peer):
    """The FastCGI records that come: (type, request, content)."""
    with peer.makefile("rb") as stream:
        while header := stream.read(8):
            _, kind, number, length, padding = struct.unpack(">BBHHBx", header)
            yield kind, number, stream.read(length + padding)[:length]


def scgi(path="/"):
    headers = b"CONTENT_LENGTH\x005\x00SCGI\x001\x00REQUEST_METHOD\x00POST\x00REQUEST_URI\x00%s\x00" % path.encode()
    return b"%d:%s,hello" % (len(headers), headers)


def ajp(path="/"):
    def text(value):
        return struct.pack(">H", len(value)) + value + b"\0"

    head = bytes([2, 4]) + text(b"HTTP/1.1") + text(path.encode()) + text(b"127.0.0.1") + b"\xff\xff" + text(b"localhost")
    head += struct.pack(">HBH", 80, 0, 1) + b"\xa0\x08" + text(b"5") + b"\xff"
    body = struct.pack(">H", 5) + b"hello"
    return b"".join(b"\x12\x34" + struct.pack(">H", len(packet)) + packet for packet in (head, body))


PROTOCOLS = {"fcgi": fcgi, "scgi": scgi, "ajp": ajp}
SETTINGS = '''
[app]
path = "."
wsgi = "app:application"
python = "/usr/bin/python3"
[server]
maxchildren = 1
ping = "/ping"
[log]
access = "access.log"
format = "%U %I %s %X"
[limits]
'''


@contextlib.contextmanager
def running(build, tmp_path, protocol, limits, app=APP, stderr=None, **options):
    """A `Server` in this directory; at its end it must leave with 0."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "site.toml").write_text(SETTINGS + limits)
    os.chmod(tmp_path / "site.toml", 0o644)
    path = str(tmp_path / "s.sock")
    words = ["runfcgi", "--config", str(tmp_path / "site.toml"), f"socket={path}", f"protocol={protocol}"]
    with open(tmp_path / "log", "wb") as log:
        words += ["daemonize=false"]
        process = subprocess.Popen([str(build), *words], stderr=stderr or log, cwd=tmp_path, **options)
    server = Server(process, path, PROTOCOLS[protocol]())
    until(lambda: connects(path), 20, "it listens")
    server.ask()
    yield server
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0, process.returncode
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Server:
    """What listens at `path`, and `good`: a request that it answers well."""

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


def on_disk(server):
    """Bytes that its unnamed files take."""
    total = 0
    for number in os.listdir(f"/proc/{server.process.pid}/fd"):
        try:
            found = os.stat(f"/proc/{server.process.pid}/fd/{number}")
        except OSError:
            continue
        total += found.st_blocks * 512 if found.st_nlink == 0 and stat.S_ISREG(found.st_mode) else 0
    return total


def connects(path):
    with socket.socket(socket.AF_UNIX) as peer:
        return peer.connect_ex(path) == 0
