"""Where `runfcgi` listens: sockets and ports, what systemd passes, and FCGI_FORCE_CGI, with which it does not."""

import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess

import pytest

import peers
from own_server import Site, free_port, in_background, listening
from webservers.account import REPOSITORY
from webservers.processes import until


@pytest.fixture
def site(build, tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        yield site


# --- sockets ---


def test_only_a_dead_socket_is_replaced(site):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(site.socket))
        other.listen()
        done = site.run("socket=my.sock")
        assert done.returncode == 1 and "in use" in done.stderr and done.stderr.count("\n") == 1
        assert site.socket.is_socket()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        site.socket.unlink()
        other.bind(str(site.socket))
        assert site.run("socket=my.sock").returncode == 1 and site.socket.is_socket(), "another kind of socket"
    site.socket.unlink()
    site.socket.write_text("precious")
    done = site.run("socket=my.sock")
    assert done.returncode == 1 and "something else than a socket" in done.stderr
    assert site.socket.read_text() == "precious"
    site.socket.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(site.socket))
    site.daemon("socket=my.sock", "socket_mode=0660", "pidfile=my.pid")
    assert stat.S_IMODE(site.socket.stat().st_mode) == 0o660
    assert site.ask()
    done = site.run("socket=" + "x" * 120)
    assert done.returncode == 1 and "too long" in done.stderr
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_of_two_that_start_at_once_one_serves(site):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(site.socket))
    for turn in range(4):
        calls = [in_background(lambda: site.run("socket=my.sock")) for _ in range(3)]
        for call in calls:
            call.join()
        assert sorted(call.result.returncode for call in calls) == [0, 1, 1]
        assert site.ask()
        (front,) = site.fronts()
        os.kill(front, signal.SIGKILL if turn % 2 else signal.SIGTERM)
        until(lambda: not site.fronts(), 10, "it has gone")


def test_when_one_place_is_taken_nothing_is_left_of_the_others(site):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = site.run("socket=my.sock", "host=127.0.0.1", f"port={other.getsockname()[1]}")
    assert done.returncode == 1 and not site.socket.exists() and site.alive() == {}


def test_several_places_and_protocols(site):
    tcp, six = free_port(), free_port(socket.AF_INET6)
    words = ["socket=my.sock", "protocol=scgi", "socket=scgi.sock", "host=::1", f"port={six}"]
    site.daemon("protocol=fcgi", *words, "protocol=ajp", "host=localhost", f"port={tcp}", "pidfile=my.pid")
    assert site.ask()
    assert peers.scgi(site.directory / "scgi.sock").startswith("Status: 200")
    assert peers.scgi(("::1", six)).startswith("Status: 200")
    assert peers.ajp_ping(("127.0.0.1", tcp)) == b"AB\0\1\x09"
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()
    assert not site.socket.exists() and not (site.directory / "scgi.sock").exists()


def test_beyond_the_machine_is_said_once(site):
    port = free_port()
    done = site.run("host=0.0.0.0", f"port={port}", "pidfile=my.pid", "errlog=err.log")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "RF0241" in done.stderr and "beyond this machine" in done.stderr
    before = site.ask("", ("127.0.0.1", port))["pid"]
    site.config.write_text(site.config.read_text() + "# changed\n")
    until(lambda: site.ask("", ("127.0.0.1", port))["pid"] != before, 20, "the restart")
    assert "beyond" not in (site.directory / "err.log").read_text()
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


@pytest.mark.parametrize("list, welcome", [("127.0.0.1", True), ("10.9.8.7, 127.0.0.1", True), ("10.9.8.7", False)])
def test_fcgi_web_server_addrs(site, list, welcome):
    port = free_port()
    words = ["host=127.0.0.1", f"port={port}", "socket=my.sock", "pidfile=my.pid", "errlog=err.log"]
    site.daemon(*words, env={**os.environ, "FCGI_WEB_SERVER_ADDRS": list})
    assert site.ask(), "a unix socket is not concerned"
    with peers.connect(("127.0.0.1", port)) as peer:
        try:
            peers.begin_fastcgi(peer)
            answer = peers.read(peer)
        except ConnectionError:
            answer = b""
    assert (b"Status: 200" in answer) == welcome and bool(answer) == welcome
    line = "RF0332 refused a connection from 127.0.0.1"
    if welcome:
        assert line not in (site.directory / "err.log").read_text()
    else:
        until(lambda: line in (site.directory / "err.log").read_text(), 5, "the log tells it")
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_at_the_end_a_visitor_behind_many_who_are_refused_is_answered(site):
    port = free_port()
    words = ["host=127.0.0.1", f"port={port}", "pidfile=my.pid", "errlog=err.log"]
    site.daemon(*words, env={**os.environ, "FCGI_WEB_SERVER_ADDRS": "127.0.0.2"})
    pid = site.pid()
    os.kill(pid, signal.SIGSTOP)
    strangers = [peers.connect(("127.0.0.1", port)) for _ in range(100)]
    with socket.create_connection(("127.0.0.1", port), 20, ("127.0.0.2", 0)) as visitor:
        peers.begin_fastcgi(visitor)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        assert peers.end_fastcgi(visitor).startswith("Status: 200")
    for stranger in strangers:
        stranger.close()
    site.gone()


def test_a_bad_address_of_a_web_server_is_refused(site):
    done = site.run("socket=my.sock", env={**os.environ, "FCGI_WEB_SERVER_ADDRS": "127.0.0.1,example.com"})
    assert done.returncode == 2 and "RF0119" in done.stderr and "example.com" in done.stderr and done.stderr.count("\n") == 1


# --- FCGI_FORCE_CGI ---


def test_force_cgi_answers_one_request_and_leaves_the_socket(site):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(site.socket))
        server.listen()
        env = {**os.environ, **peers.environment("/forced"), "FCGI_FORCE_CGI": "Y"}
        done = subprocess.run([site.executable], stdin=server, env=env, capture_output=True, text=True, timeout=40)
        assert done.returncode == 0 and done.stdout.startswith("Status: 200 OK\n") and "'/forced'" in done.stdout
        env = {**os.environ, "FCGI_FORCE_CGI": "Y"}
        done = subprocess.run([site.executable], stdin=server, env=env, capture_output=True, text=True, timeout=40)
        assert done.returncode == 2 and "RF0154" in done.stderr and "REQUEST_METHOD" in done.stderr and done.stderr.count("\n") == 1
    done = site.run(env=env)
    assert done.returncode == 2 and "CGI request" in done.stderr
    site.daemon("socket=other.sock", "pidfile=my.pid", env=env)
    assert site.ask("", site.directory / "other.sock"), "a socket that is named counts"
    os.kill(site.pid(), signal.SIGTERM)


# --- systemd ---


class Manager:
    """What systemd does: opens sockets, passes them from descriptor 3 up, and is notified."""

    def __init__(self, site, sockets, names):
        self.site = site
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.settimeout(15)
        self.notified.bind(f"\0runfcgi-test-{os.getpid()}-{id(self)}")
        name = "@" + self.notified.getsockname()[1:].decode()
        env = {**os.environ, "NOTIFY_SOCKET": name, "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(names)}
        moves = " ".join(f"{3 + at}<&{s.fileno()}" for at, s in enumerate(sockets))
        command = ["/bin/bash", "-c", f'export LISTEN_PID=$$; exec ./mysite.fcgi runfcgi "$@" {moves}', "bash"]
        self.command, self.env, self.fds = command, env, [s.fileno() for s in sockets]

    def start(self, *words):
        options = {"cwd": self.site.directory, "env": self.env, "pass_fds": self.fds, "stdin": subprocess.DEVNULL}
        options["stderr"] = self.site.directory.joinpath("err").open("w")
        self.process = subprocess.Popen([*self.command, *words], **options)

    def says(self):
        return self.site.directory.joinpath("err").read_text()

    def hears(self):
        """What it is told, but for the words on how the service does."""
        while True:
            told = [line for line in self.notified.recv(1000).decode().split("\n") if not line.startswith("STATUS=")]
            if told:
                return "\n".join(told)


def test_sockets_and_notifications_of_systemd(site):
    one, two = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    two.bind(str(site.socket))
    two.listen()
    # Above those numbers to which the shell moves them.
    one, two = (socket.socket(fileno=fcntl.fcntl(s.detach(), fcntl.F_DUPFD, 50)) for s in (one, two))
    manager = Manager(site, [one, two], ["mysite.socket", "scgi"])
    manager.start("daemonize=false")
    assert manager.hears() == "READY=1"
    address = one.getsockname()
    before = site.ask("", address)
    assert before["leaked"] == []
    assert peers.scgi(site.socket).startswith("Status: 200")
    site.config.write_text(site.config.read_text() + "# changed\n")
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.hears())
    assert manager.hears() == "READY=1"
    assert site.ask("", address)["pid"] != before["pid"]
    assert peers.scgi(site.socket).startswith("Status: 200"), "the protocol is remembered"
    manager.process.terminate()
    assert manager.hears() == "STOPPING=1"
    assert manager.process.wait(10) == 0
    assert listening(site.socket) and listening(address), "systemd's sockets stay as they are"
    one.close()
    two.close()


def test_what_systemd_cannot_mean(site):
    stream = socket.create_server(("127.0.0.1", 0))
    stream = socket.socket(fileno=fcntl.fcntl(stream.detach(), fcntl.F_DUPFD, 50))
    manager = Manager(site, [stream], ["x"])
    manager.start("daemonize=true")
    assert manager.process.wait(10) == 2 and "RF0118 option daemonize" in manager.says()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram = socket.socket(fileno=fcntl.fcntl(datagram.detach(), fcntl.F_DUPFD, 50))
    manager = Manager(site, [datagram], ["x"])
    manager.start()
    assert manager.process.wait(10) == 2 and "RF0118 socket " in manager.says()
    assert site.run(env={**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1"}).returncode == 2, "meant for another"
    stream.close()
    datagram.close()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd is not installed")
def test_systemd_s_own_activation(site):
    command = ["systemd-socket-activate", "-l", str(site.socket), "--fdname=scgi", "./mysite.fcgi", "runfcgi"]
    process = subprocess.Popen(command, cwd=site.directory, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(site.socket.is_socket, 10, "the socket is there")
    assert peers.scgi(site.socket).startswith("Status: 200")
    process.terminate()
    assert process.wait(10) == 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_units_are_well_formed(site):
    units = REPOSITORY / "deploy" / "systemd"
    for unit in units.iterdir():
        text = unit.read_text().replace("/home/user/public_html/mysite.fcgi", str(site.executable))
        (site.directory / unit.name).write_text(text.replace("=user\n", "=www-data\n"))
    command = ["systemd-analyze", "verify", "--man=no", "./mysite.service", "./mysite.socket"]
    done = subprocess.run(command, cwd=site.directory, capture_output=True, text=True)
    assert done.returncode == 0 and "mysite" not in done.stderr, done.stderr
