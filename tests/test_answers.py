"""What an app gives that is no whole answer, and what it is given that is not a whole request: told as what it is."""

import re
import time

import pytest

from raw_peers import fcgi, head, records, running
from webservers.fastcgi import record

APP = '''
import os
import time

TEXT = [("Content-Type", "text/plain")]


def pieces(*given):
    yield from given
    time.sleep(12)
    yield b"and this is too late"


def application(environ, start_response):
    name = environ["PATH_INFO"]
    if name == "/enough":
        start_response("200 OK", TEXT + [("Content-Length", "1000")])
        return pieces(b"x" * 600, b"x" * 400)
    if name == "/short":
        start_response("200 OK", TEXT + [("Content-Length", "10")])
        return [b"four"]
    if name == "/long-head":
        start_response("200 OK", TEXT + [("X-Long", "x" * 2000)] * 1000)
        return [b"body"]
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [b"%d got %d, %s" % (os.getpid(), len(body), body[-4:])]
'''


@pytest.fixture
def server(build, tmp_path):
    with running(build, tmp_path, "fcgi", "", app=APP) as server:
        yield server


def ask(server, request):
    """Head and body of the answer."""
    with server.connect() as peer:
        peer.sendall(request)
        came = list(records(peer))
    assert came[-1][0] == 3, "no END_REQUEST"
    top, _, body = b"".join(content for kind, _, content in came if kind == 6).partition(b"\r\n\r\n")
    return top.decode(), body.decode()


def pid(server):
    return int(ask(server, fcgi())[1].split()[0])


def test_a_worker_is_free_once_the_content_length_is_met(server):
    begin = time.monotonic()
    assert ask(server, fcgi(path="/enough"))[1] == "x" * 1000
    assert " got 5, " in ask(server, fcgi())[1], "there is one worker"
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("path, words", [
    ("/short", "the response has 4 bytes, but its Content-Length says 10"),
    ("/long-head", r"the response head has \d+ bytes, more than 1048512"),
])  # fmt: skip
def test_what_cannot_be_sent_is_a_page_with_an_incident(server, path, words):
    worker = pid(server)
    for _ in range(3):
        top, body = ask(server, fcgi(path=path))
        assert top.startswith("Status: 500 "), top
        incident = re.search(r"\b[0-9a-f]{8}\b", body)[0]
        assert re.search(f"incident {incident}: POST (.*\n)*.*{words}", server.log()), server.log()
    assert pid(server) == worker, "it goes on with the next request"


@pytest.mark.parametrize("size", [100, 200_000], ids=["in-memory", "spooled"])
def test_a_body_ends_where_its_content_length_does(server, size):
    body = b"x" * (size - 4) + b"last"
    more = record(5, b"and more") * 3
    records = b"".join(record(5, body[at : at + 60000]) for at in range(0, size, 60000))
    told = ask(server, head(length=size, keep=0) + records + more + record(5, b""))[1]
    assert told.partition(" ")[2] == f"got {size}, last"
