"""Other users of the machine: what they can take by connecting, and who may connect at all."""

import os
import resource
import signal

import pytest

import peers
from own_server import Site
from raw_peers import fcgi, records, running
from webservers.processes import until


@pytest.fixture
def site(build, tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        yield site


def silent(connect, count, data=b""):
    """Connections on which no request comes: nothing, or its first byte."""
    made = []
    for _ in range(count):
        made.append(connect())
        try:
            made[-1].sendall(data)
        except OSError:
            pass  # it was closed for another one
    return made


class Kept:
    """A connection that is kept open, as web servers keep theirs for the next request."""

    def __init__(self, peer):
        self.peer, self.number = peer, 0
        self.records = records(self.peer)

    def ask(self):
        self.number += 1
        self.peer.sendall(fcgi(self.number, keep=1))
        for kind, number, _ in self.records:
            if kind == 3 and number == self.number:
                return
        raise AssertionError("it was closed")


@pytest.mark.parametrize("data", [b"", b"\1"], ids=["nothing", "a byte"])
def test_who_sends_no_request_makes_room_for_who_does(build, tmp_path, data):
    with running(build, tmp_path, "fcgi", "max_connections = 50") as server:
        kept = [Kept(server.connect()) for _ in range(5)]
        for one in kept:
            one.ask()
        silents = silent(server.connect, 300, data)
        server.ask()
        assert server.descriptors() < 50 + 30
        for one in kept:
            one.ask()
        assert 1 <= server.log().count("RF0336 a connection on which no request has come is closed") <= 6, server.log()
        for one in silents:
            one.close()


def test_who_sends_no_request_leaves_descriptors_to_others(build, tmp_path):
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))}
    with running(build, tmp_path, "fcgi", "", **few) as server:
        silents = silent(server.connect, 200)
        for _ in range(3):
            server.ask()
        assert "RF0333" not in server.log() and "RF0336" in server.log(), server.log()
        for one in silents:
            one.close()


def test_when_all_connections_are_in_use_the_log_says_so(build, tmp_path):
    with running(build, tmp_path, "fcgi", "max_connections = 3") as server:
        kept = []
        for _ in range(3):
            kept.append(Kept(server.connect()))
            kept[-1].ask()
        with server.connect() as visitor:
            visitor.sendall(server.good)
            until(lambda: "RF0336 3 connections are open and in use" in server.log(), 20, "the log tells")
            kept.pop().peer.close()
            assert b"got 5" in visitor.recv(65536)
        for one in kept:
            one.ask()
            one.peer.close()


def test_a_new_executable_knows_who_has_had_a_request(site):
    site.config.write_text(site.config.read_text() + "[limits]\nmax_connections = 20\n")
    site.daemon("socket=my.sock", "pidfile=my.pid", "errlog=err.log")
    pid, before = site.pid(), site.ask()["pid"]
    connect = lambda: peers.connect(site.socket)
    kept, silents = Kept(connect()), silent(connect, 15)
    kept.ask()
    with site.executable.open("ab") as executable:
        executable.write(b"another one")
    until(lambda: site.ask()["pid"] != before, 20, "the restart")
    assert site.fronts() == [pid]
    for one in silents:
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recv(1)
    silents += silent(connect, 100)
    site.ask()
    kept.ask()
    for one in [*silents, kept.peer]:
        one.close()
    os.kill(pid, signal.SIGTERM)
    site.gone()


@pytest.mark.parametrize("protocol", ["fcgi", "scgi", "ajp"])
def test_the_first_request_must_come_in_time(build, tmp_path, protocol):
    with running(build, tmp_path, protocol, "read_timeout = 1") as server, server.connect() as peer:
        kept = Kept(server.connect()) if protocol == "fcgi" else None
        if kept:
            kept.ask()
        assert peer.recv(1) == b"", "it is closed"
        assert "RF0331 a connection is closed: no request has come on it" in server.log()
        server.ask()
        if kept:
            kept.ask()
            kept.peer.close()
