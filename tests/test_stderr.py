"""Standard error belongs to the web server: what becomes of what is written there is its affair, and stops nothing."""

import fcntl
import os
import re
import select
import shutil
import socket
import tempfile
import time
import tty
from pathlib import Path

import pytest

from raw_peers import fcgi, running
from webservers.processes import until

APP = r'''
def application(environ, start_response):
    for number in range(int(environ["PATH_INFO"][1:] or 0)):
        environ["wsgi.errors"].write("said %04d %s\n" % (number, "x" * 50))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"got 5"]
'''


def pipe():
    reader, writer = os.pipe()
    return reader, writer


def sockets():
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def terminal():
    reader, writer = os.openpty()
    tty.setraw(writer)
    return reader, writer


class Unread:
    """A server whose standard error is `writer`; what it says is `text`, once somebody reads."""

    def __init__(self, server, reader):
        self.server, self.reader, self.text = server, reader, ""

    def say(self, lines):
        self.server.ask(fcgi(path=f"/{lines}"))

    def read(self):
        while select.select([self.reader], [], [], 0)[0]:
            self.text += os.read(self.reader, 65536).decode()
        return self.text

    def told(self):
        """Lines that arrived, and those that are said to be lost."""
        lost = re.findall(r"warning: RF0603 nobody has read standard error: messages lost: (\d+)", self.read())
        return len(re.findall(r"said \d{4} x{50}$", self.text, re.MULTILINE)), sum(int(number) for number in lost)


def pipe_of_root():
    """For a program that runs as another user, and so cannot open it."""
    return pipe()


@pytest.fixture
def anyones():
    """A directory for any user, whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="runfcgi-stderr-") as name:
        os.chmod(name, 0o1777)
        yield Path(name)


@pytest.fixture(params=[pipe, pipe_of_root, sockets, terminal])
def unread(request, build, anyones):
    reader, writer = request.param()
    shared = fcntl.fcntl(writer, fcntl.F_GETFL)
    options = {}
    if request.param is pipe_of_root:
        build = Path(shutil.copy(build, anyones / "copy"))
        options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    try:
        with running(build, anyones, "fcgi", "", app=APP, stderr=writer, **options) as server:
            yield Unread(server, reader)
            assert fcntl.fcntl(writer, fcntl.F_GETFL) == shared, "other processes have it too"
    finally:
        os.close(reader)
        os.close(writer)


def test_nobody_reads(unread):
    begin = time.monotonic()
    for _ in range(80):
        unread.say(100)
    assert time.monotonic() - begin < 20
    until(lambda: sum(unread.told()) >= 8000, 5, "the rest is told, and how much is missing")
    came, lost = unread.told()
    assert came >= 100 and lost >= 1000 and came + lost == 8000, (came, lost)
    unread.say(1)
    until(lambda: unread.told() == (came + 1, lost), 2, "it goes on as before")
    # TERM comes when nobody reads, too.
    for _ in range(10):
        unread.say(100)


def test_somebody_reads(unread):
    for count in range(1, 30):
        unread.say(25)
        until(lambda: unread.told() == (25 * count, 0), 20, "all of it comes")
    numbers = [int(number) for number in re.findall(r"said (\d{4})", unread.text)]
    assert numbers == list(range(25)) * 29
    assert "imported the app" in unread.text


def test_a_reader_that_goes_changes_nothing(build, tmp_path):
    reader, writer = os.pipe()
    with running(build, tmp_path, "fcgi", "", app=APP, stderr=writer) as server:
        os.close(writer)
        os.close(reader)
        server.ask(fcgi(path="/1000"))
