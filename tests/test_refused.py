"""The system refuses descriptors or processes: the message has the reason, and when there are some, all goes on."""

import contextlib
import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest

import peers
from own_server import Site, in_background, listening
from plain_site import RUN_AS, ask, kill, parent
from webservers.fastcgi import Reply, connect, encode, read, record
from webservers.processes import until

GET_VALUES = 9
LEAST = 24  # descriptors that a front needs
AS_OWNER = {"user": RUN_AS["uid"], "group": RUN_AS["gid"], "extra_groups": []} if RUN_AS else {}


@pytest.fixture
def site(build, tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        yield site


@pytest.fixture
def plain(make_plain, manage):
    """A site that works, and the one process of it."""
    site = make_plain()
    front = manage(site).spawn()
    ask(front, "/pid")
    return site, front


@contextlib.contextmanager
def no_more_descriptors(pid):
    """Within it, this process of the site gets no further descriptor. Those that it has go on."""
    soft = re.search(r"Max open files +(\d+)", Path(f"/proc/{pid}/limits").read_text())[1]

    def limit(most):
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={most}:"], check=True, **AS_OWNER)

    limit(3)
    try:
        yield
    finally:
        limit(soft)


def test_without_descriptors_visitors_wait(plain):
    site, front = plain
    with no_more_descriptors(front.pid), connect(front.socket):
        until(lambda: "RF0333 accepting pauses: Too many open files" in site.log(), 20, "the log tells")
    ask(front, "/pid")


def test_without_descriptors_no_worker_is_started(plain):
    site, front = plain
    with connect(front.socket) as visitor:
        visitor.sendall(record(GET_VALUES, b"", number=0))
        assert visitor.recv(65536), "the connection is accepted"
        with no_more_descriptors(front.pid):
            for pid in site.workers():
                kill(pid)
            until(lambda: "RF0406" in site.log(), 20, "the loss is noticed")
            visitor.sendall(encode("/pid"))
            until(lambda: "RF0402 a worker cannot be started: Too many open files" in site.log(), 20, "the log tells")
        reply = Reply(0)
        read(visitor, reply)
    assert reply.status == 200, reply


def test_whatever_descriptor_a_start_lacks_the_reason_is_told(site):
    codes = []
    for most in range(4, 12):
        with open(site.directory / "errors", "w+") as errors:
            limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))}
            server = site.foreground(f"socket={site.socket}", stderr=errors, **limit)
            until(lambda: server.poll() is not None or listening(site.socket), 20, "it listens, or it has ended")
            if listening(site.socket):
                server.send_signal(signal.SIGTERM)
                server.wait(20)
                break
            errors.seek(0)
            told = re.fullmatch(r"runfcgi: (RF\d{4}):? (?!EMFILE).*: .*Too many open files.*\n", text := errors.read())
            assert told and server.returncode > 0, (most, text)
            codes.append(told[1])
    assert "RF0245" in codes, codes


@contextlib.contextmanager
def limited(site, most):
    """A server that may have so many descriptors: yields how to read its standard error."""
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))}
    with open(path := site.directory / "errors", "w") as errors:
        server = site.foreground(f"socket={site.socket}", stderr=errors, **limit)
    until(lambda: listening(site.socket), 20, "it listens")
    yield path.read_text
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0


@pytest.mark.parametrize("most", [16, LEAST - 1])
def test_with_too_few_open_files_each_visitor_is_told_to_come_later(site, most):
    with limited(site, most) as errors:
        for _ in range(3):
            assert peers.fastcgi(site.socket, "/page").startswith("Status: 503 ")
    told = f"RF0233 RLIMIT_NOFILE allows {most} open files, and serving a request needs {LEAST}; ask the host for a higher"
    assert errors().count(told) == 1, errors()
    assert "Too many open files" not in errors()


@pytest.mark.parametrize("most", [LEAST, 40])
def test_connections_leave_descriptors_to_what_serves(site, most):
    with limited(site, most) as errors, contextlib.ExitStack() as stack:
        visitor = stack.enter_context(connect(str(site.socket)))
        upload = encode("/page", method="POST", body=bytes(1 << 20))
        visitor.sendall(upload[:4000])
        for _ in range(60):
            stack.enter_context(connect(str(site.socket)))
        visitor.sendall(upload[4000:])
        read(visitor, reply := Reply(0))
        assert reply.status == 200, reply
        stack.close()
        assert [site.ask()["path"] for _ in range(3)] == ["/page"] * 3
    assert "Too many open files" not in errors(), errors()
    assert errors().count(f"RF0233 RLIMIT_NOFILE allows {most} open files: of these, connections may take ") == 1


def test_a_daemon_that_cannot_be_started_is_told_of(site):
    if AS_OWNER:
        os.chown(site.directory, RUN_AS["uid"], RUN_AS["gid"])
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))}
    done = site.run("socket=my.sock", **limit, **AS_OWNER)
    assert done.returncode == 1 and "RF0244 cannot start in the background: Resource temporarily" in done.stderr, done


def test_a_daemon_that_is_killed_in_its_first_moments_is_told_of(site):
    os.mkfifo(site.directory / "err.log")  # it is opened when somebody reads, and nobody will
    shell = in_background(lambda: site.run("socket=my.sock", "errlog=err.log"))

    def daemon():
        fronts = site.fronts()
        return [pid for pid in fronts if parent(pid) not in (0, os.getpid(), *fronts)]  # 0: it has gone meanwhile

    kill(until(daemon, 20, "the daemon is started")[0])
    shell.join(20)
    assert shell.result.returncode == 1 and "RF0244 the daemon ended before it was ready" in shell.result.stderr
