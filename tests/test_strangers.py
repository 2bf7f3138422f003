"""Other users of the machine: what they can take by connecting, and who may connect at all."""

import os
import pwd
import resource
import signal
import socket
import subprocess

import pytest

import peers
from own_server import Site, free_port
from raw_peers import fcgi, pairs, records, running
from webservers.fastcgi import record
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


# --- who may connect ---

AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can connect as other users")
STRANGER, WELCOME = 54711, 54712
# What is read from the standard input is sent to a path, or to an address and port; "leave": and no answer is awaited.
CLIENT = """\
import socket, sys
where, leave = sys.argv[1:3], sys.argv[3:]
if where[1]:
    peer = socket.create_connection(where, 20)
else:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(where[0])
peer.settimeout(20)
try:
    peer.sendall(sys.stdin.buffer.read())
    while not leave and (data := peer.recv(65536)):
        sys.stdout.buffer.write(data)
except ConnectionError:
    pass
"""


def begin(user, address, *leave, query=""):
    """A request of this user, by a program of his own; `.communicate()[0]` is the answer."""
    where = [str(word) for word in address] if isinstance(address, tuple) else [str(address), ""]
    command = ["/usr/bin/python3", "-c", CLIENT, *where, *leave]
    client = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", user=user, group=user, extra_groups=[]
    )
    variables = {"QUERY_STRING": query, "REMOTE_USER": "admin"}
    client.stdin.write(record(1, b"\0\1\0\0\0\0\0\0") + record(4, pairs(**variables)) + record(4, b"") + record(5, b""))
    client.stdin.close()
    client.stdin = None
    return client


def answer(user, address, query=""):
    client = begin(user, address, query=query)
    said = client.communicate(timeout=30)[0]
    assert client.returncode == 0
    return said


def serve(site, *words, host="127.0.0.1"):
    """It listens on a socket that all may write, and on a port: their addresses."""
    port = free_port(socket.AF_INET6 if ":" in host else socket.AF_INET)
    where = ["socket=my.sock", "socket_mode=0666", f"host={host}", f"port={port}"]
    site.daemon(*where, "pidfile=my.pid", "errlog=err.log", *words)
    return site.socket, (host, port)


def log(site):
    return (site.directory / "err.log").read_text()


@AS_ROOT
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_allowed_users_are_heard(site, host):
    addresses = serve(site, f"allowed_users=nobody,{WELCOME}", host=host)
    for address in addresses:
        for user in (0, WELCOME, pwd.getpwnam("nobody").pw_uid):
            assert b"Status: 200" in answer(user, address), (user, address)
        assert "RF0332" not in log(site)
    for address in addresses:
        assert answer(STRANGER, address, "sleep=0") == b"", address
    line = f"RF0332 refused a connection from user {STRANGER}: not in [server] allowed_users"
    until(lambda: log(site).count(line) == 2, 5, "the log tells who it was")
    for _ in range(10):
        assert answer(STRANGER, addresses[1], "sleep=0") == b""
    assert log(site).count(line) == 5, "a flood is counted"
    assert not (site.directory / "started").exists(), "the app was never asked"
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


@AS_ROOT
def test_who_has_left_is_not_taken_for_root(site):
    """A socket that nobody has open any more belongs to root, says the kernel."""
    addresses = serve(site, "allowed_users=")
    for address in addresses:
        assert b"Status: 200" in answer(0, address)
    os.kill(site.pid(), signal.SIGSTOP)
    for address in addresses:
        assert begin(STRANGER, address, "leave", query="sleep=0").wait(20) == 0
    os.kill(site.pid(), signal.SIGCONT)
    until(lambda: log(site).count("RF0332 refused a connection from ") == 2, 20, "both are refused")
    assert b"Status: 200" in answer(0, addresses[1])
    assert not (site.directory / "started").exists(), "the app was never asked"
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


@AS_ROOT
def test_who_is_allowed_goes_live(site):
    addresses = serve(site)
    for address in addresses:
        assert b"Status: 200" in answer(STRANGER, address), "by default, all are"
    good = site.config.read_text()
    site.config.write_text(good + f"allowed_users = [{WELCOME}]\n")
    until(lambda: not any(answer(STRANGER, address) for address in addresses), 20, "now he is refused")
    site.config.write_text(good + f'allowed_users = [{WELCOME}, "{STRANGER}"]\n')
    until(lambda: all(b"Status: 200" in answer(STRANGER, address) for address in addresses), 20, "now he is allowed")
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_a_user_who_is_not_there_is_an_error(site):
    done = site.run("socket=my.sock", "allowed_users=root,no-such-user")
    assert done.returncode == 2 and 'names a user who is not in /etc/passwd: "no-such-user"' in done.stderr, done.stderr
