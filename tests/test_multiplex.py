"""Many requests at once on one FastCGI connection, their records in any order."""

import collections
import hashlib
import random
import select
import signal
import socket
import struct
import subprocess
import time

from webservers.fastcgi import record

APP = '''
import hashlib

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("%d %s" % (len(body), hashlib.sha256(body).hexdigest())).encode()]
'''
BEGIN_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6
AT_ONCE, ROUNDS = 16, 6


def upload(number, body):
    """The records of one request."""
    variables = {"REQUEST_METHOD": "POST", "REQUEST_URI": "/", "PATH_INFO": "/", "CONTENT_LENGTH": str(len(body))}
    pairs = b"".join(struct.pack(">BB", len(n), len(v)) + n.encode() + v.encode() for n, v in variables.items())
    keep = struct.pack(">HB5x", 1, 1)
    records = [record(BEGIN_REQUEST, keep, number), record(PARAMS, pairs, number), record(PARAMS, b"", number)]
    records += [record(STDIN, body[at : at + 16000], number) for at in range(0, len(body), 16000)]
    return records + [record(STDIN, b"", number)]


def exchange(peer, chance, todo):
    """Sends the records of all requests, each request's in order, and takes the answers: {number: bytes}."""
    out, came, answers, ended = b"", b"", collections.defaultdict(bytes), set()
    asked = set(todo)
    while ended != asked:
        if not out and todo:
            number = chance.choice(sorted(todo))
            out = todo[number].pop(0)
            if not todo[number]:
                del todo[number]
        readable, writable, _ = select.select([peer], [peer] if out else [], [], 20)
        assert readable or writable, f"nothing moves; without an end: {asked - ended}"
        if writable:
            out = out[peer.send(out) :]
        if readable:
            more = peer.recv(65536)
            assert more, "the connection was closed"
            came += more
        while len(came) >= 8:
            _, kind, number, length, padding = struct.unpack(">BBHHBx", came[:8])
            if len(came) < 8 + length + padding:
                break
            if kind == STDOUT:
                answers[number] += came[8 : 8 + length]
            elif kind == END_REQUEST:
                ended.add(number)
            came = came[8 + length + padding :]
    return answers


def test_uploads_mixed_on_one_connection_are_not_mixed_up(build, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    address = str(tmp_path / "s.sock")
    words = [f"socket={address}", f"path={tmp_path}", "wsgi=app:application", "python=/usr/bin/python3", "maxchildren=4"]
    process = subprocess.Popen([str(build), "runfcgi", *words, "daemonize=false"], cwd=tmp_path)
    end = time.monotonic() + 10
    chance = random.Random(1)
    with socket.socket(socket.AF_UNIX) as peer:
        while peer.connect_ex(address):  # it is not there yet, or does not listen yet
            assert time.monotonic() < end
            time.sleep(0.02)
        peer.setblocking(False)
        for _ in range(ROUNDS):
            bodies = {n: chance.randbytes(chance.choice([0, 10, 70_000, 700_000])) for n in range(1, AT_ONCE + 1)}
            answers = exchange(peer, chance, {n: upload(n, body) for n, body in bodies.items()})
            for number, body in bodies.items():
                expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
                assert answers[number].split(b"\r\n\r\n", 1)[1] == expected
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
