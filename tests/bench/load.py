"""Requests: wrk for load, a few Python clients where each answer matters, and FastCGI straight to a socket."""

import http.client
import re
import socket
import struct
import subprocess
import threading
import time

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
PATIENCE = 20
MIB = 10
TRANSFERS = ("/upload", "/download", "/file")
# What a web server says of a GET, by FastCGI and CGI.
GET = {
    "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "REQUEST_URI": "/", "QUERY_STRING": "",
    "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "127.0.0.1",
    "GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_ADDR": "127.0.0.1", "CONTENT_LENGTH": "0",
}


def wrk(port, connections, seconds, path="/"):
    """One slice of load. Latencies in ms; `failed` counts answers other than 2xx and 3xx, and socket errors."""
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", f"{PATIENCE}s", "--latency"]
    text = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=seconds + 2 * PATIENCE, check=True,
    ).stdout
    requests, wall, unit = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", text).groups()
    wall = float(wall) * UNITS[unit] / 1e3
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    result = {
        "requests": int(requests),
        "rps": (int(requests) - failed) / wall,
        "failed": failed + sum(map(int, errors.groups() if errors else ())),
    }
    for percent in ("50", "99"):
        found = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m) *$", text, re.M)
        if not found:
            raise RuntimeError(f"wrk gave no latencies: {text}")
        result[f"p{percent}"] = float(found[1]) * UNITS[found[2]]
    return result


class Client:
    """One kept-alive HTTP connection; `get` gives (ok, release) and never raises for what a server may do."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def get(self):
        try:
            self.connection.request("GET", "/")
            response = self.connection.getresponse()
            response.read()
            return response.status == 200, response.getheader("X-Release")
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return False, None

    def close(self):
        self.connection.close()


def transfer(port, path, seconds):
    """Moves 10 MiB again and again, at least once, on one connection: the seconds of each time."""
    size = MIB << 20
    body, buffer, times = bytes(size), bytearray(1 << 18), []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3 * PATIENCE)
    while sum(times) < seconds:
        began, got = time.perf_counter(), 0
        if path == "/upload":
            connection.request("POST", path, body)
            response = connection.getresponse()
            got = int(response.read()) if response.status == 200 else 0
        else:
            connection.request("GET", path)
            response = connection.getresponse()
            while count := response.readinto(buffer):
                got += count
        if response.status != 200 or got != size:
            raise RuntimeError(f"{path}: status {response.status}, {got} bytes of {size}")
        times.append(time.perf_counter() - began)
    connection.close()
    return times


def until_answered(port, began, refused=None):
    """Asks until the answer is 200; seconds since `began`. Each refusal is appended to `refused`."""
    client = Client(port)
    try:
        while time.perf_counter() - began < PATIENCE:
            if client.get()[0]:
                return time.perf_counter() - began
            if refused is not None:
                refused.append(time.perf_counter() - began)
            time.sleep(0.005)
        return None
    finally:
        client.close()


def at_once(port, count, began):
    """`count` first requests at the same time: (seconds until each was answered, refusals)."""
    answers, refused = [], []
    threads = [
        threading.Thread(target=lambda: answers.append(until_answered(port, began, refused))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, len(refused)


class Crowd:
    """Clients that ask without pause and note (when, ok, release) of each answer."""

    def __init__(self, port, count):
        self.answers = []
        self.leaving = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(port,)) for _ in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over = time.perf_counter()
        self.leaving.set()
        for thread in self.threads:
            thread.join()

    def ask(self, port):
        client = Client(port)
        while not self.leaving.is_set():
            ok, release = client.get()
            self.answers.append((time.perf_counter(), ok, release))
            if not ok:
                time.sleep(0.01)
        client.close()


class Idle:
    """Connections to a FastCGI socket, each kept after one request; fewer when one gets no answer in time."""

    def __init__(self, path, count):
        self.path, self.count, self.connections = path, count, []

    def __enter__(self):
        for _ in range(self.count):
            connection = socket.socket(socket.AF_UNIX)
            self.connections.append(connection)
            connection.settimeout(1)
            try:
                connection.connect(str(self.path))
                fastcgi_ask(connection, keep=True)
            except OSError:
                break
        return self

    def open(self):
        """How many the other side still has open."""
        return sum(is_open(connection) for connection in self.connections)

    def __exit__(self, *_):
        for connection in self.connections:
            connection.close()


def is_open(connection):
    try:
        connection.setblocking(False)
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def fastcgi_get(path):
    """One GET straight to a FastCGI socket; True when its answer is a complete 200."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        return fastcgi_ask(connection)


def fastcgi_ask(connection, keep=False):
    params = b"".join(bytes([len(k), len(v)]) + k.encode() + v.encode() for k, v in GET.items())
    begin = struct.pack(">HB5x", 1, keep)
    asked = record(1, begin) + record(4, params) + record(4, b"") + record(5, b"")
    out = b""
    connection.sendall(asked)
    stream = connection.makefile("rb")
    while header := stream.read(8):
        _, kind, _, length, padding = struct.unpack(">BBHHBx", header)
        content = stream.read(length)
        stream.read(padding)
        if kind == 6:
            out += content
        if kind == 3:
            head = out.split(b"\r\n\r\n")[0]
            return b"X-Release" in head and (b"Status:" not in head or b"Status: 200" in head)
    return False


def record(kind, content):
    return struct.pack(">BBHHBx", 1, kind, 1, len(content), 0) + content
