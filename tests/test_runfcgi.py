"""`mysite.fcgi runfcgi key=value …`: each example of Django's old document, and words that are wrong."""

import os
import re
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

import peers
from own_server import Site, free_port, in_background, listening
from webservers.account import REPOSITORY
from webservers.fastcgi import request
from webservers.processes import until

NOBODY, WWW_DATA = 65534, 33


@pytest.fixture
def site(build, tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        yield site


def test_a_threaded_server_at_a_port(site):
    port = free_port()
    site.daemon("method=threaded", "host=127.0.0.1", f"port={port}")
    address = ("127.0.0.1", port)
    slow = in_background(lambda: site.ask("sleep=1", address))
    until((site.directory / "started").exists, 10, "the slow request runs")
    quick = site.ask("", address)
    slow.join()
    assert quick["threads"] and slow.result["pid"] == quick["pid"], "another thread of the same process"
    (front,) = site.fronts()
    os.kill(front, signal.SIGTERM)
    site.gone()


def test_a_preforked_server_at_a_socket_and_kill(site):
    site.daemon("method=prefork", f"socket={site.socket}", "pidfile=django.pid")
    pid = site.pid("django.pid")
    assert (site.directory / "django.pid").read_text() == f"{pid}\n"
    assert stat.S_IMODE((site.directory / "django.pid").stat().st_mode) == 0o644
    assert stat.S_IMODE(site.socket.stat().st_mode) == 0o755, "umask 022"
    said = site.ask()
    assert not said["threads"] and said["cwd"] == str(site.directory) and said["leaked"] == []
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert session not in (pid, os.getsid(0)), "a session of its own, that it does not lead"
    assert terminal == 0
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    subprocess.run(f"kill `cat {site.directory}/django.pid`", shell=True, check=True)
    site.gone()
    assert not site.socket.exists() and not (site.directory / "django.pid").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, to be two users")
@pytest.mark.parametrize("umask, welcome", [("0002", True), (None, False)])
def test_the_web_server_as_another_user_of_the_group(site, umask, welcome):
    os.chown(site.directory, NOBODY, WWW_DATA)
    words = [f"socket={site.socket}", "pidfile=my.pid"] + ([f"umask={umask}"] if umask else [])
    site.daemon(*words, prefix=["setpriv", f"--reuid={NOBODY}", f"--regid={WWW_DATA}", "--clear-groups", "env", "HOME=/"])
    client = ["setpriv", f"--reuid={WWW_DATA}", f"--regid={WWW_DATA}", "--clear-groups", "/usr/bin/python3", "-c"]
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(site.socket)!r})"
    done = subprocess.run([*client, code], capture_output=True, text=True)
    assert (done.returncode == 0) == welcome, done.stderr
    assert welcome or "PermissionError" in done.stderr
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_in_the_foreground_with_maxrequests(site):
    process = site.foreground(f"socket={site.socket}", "maxrequests=1")
    until(lambda: listening(site.socket), 10, "it listens")
    assert process.pid in site.fronts()
    assert len({site.ask()["pid"] for _ in range(3)}) == 3, "a worker serves one request"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    site.gone()


def test_scgi(site):
    site.daemon("protocol=scgi", f"socket={site.socket}", "pidfile=my.pid")
    assert peers.scgi(site.socket, "/x").startswith("Status: 200 OK\r\n")
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_scgi_alone_lacks_a_place_to_listen(site):
    done = site.run("protocol=scgi")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "add socket=PATH, or host=ADDRESS and port=NUMBER" in done.stderr


def test_scgi_alone_serves_the_socket_on_descriptor_0(site):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(site.socket))
        server.listen()
        command = ["./mysite.fcgi", "runfcgi", "protocol=scgi"]
        process = subprocess.Popen(command, cwd=site.directory, stdin=server)
    assert peers.scgi(site.socket, "/x").startswith("Status: 200 OK\r\n")
    process.terminate()
    assert process.wait(10) == 0


def test_wrong_words_from_a_web_server_are_told_in_an_answer(site):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(site.socket))
        server.listen()
        command = ["./mysite.fcgi", "runfcgi", "methd=fork"]
        process = subprocess.Popen(command, cwd=site.directory, stdin=server)
    reply = request(str(site.socket), "/")
    assert reply.status == 500 and "RF0105 option methd=fork: unknown option; did you mean method?" in reply.errors
    process.terminate()
    assert process.wait(10) == 0


def test_the_restart_script(site):
    script = (REPOSITORY / "deploy" / "restart.sh").read_text()
    script, count = re.subn('(?m)^PROJDIR=.*$', f'PROJDIR="{site.directory}"', script)
    assert count == 1
    file = site.directory / "restart.sh"
    file.write_text(script)
    file.chmod(0o755)
    address, pidfile = site.directory / "mysite.sock", "mysite.pid"

    def restart():
        done = subprocess.run([file], cwd="/", capture_output=True, text=True, env={"SECRET": "x", **os.environ})
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return site.pid(pidfile)

    first = restart()
    assert site.ask("", address)["pythonpath"] == "../python:.."
    assert b"SECRET" not in Path(f"/proc/{first}/environ").read_bytes()
    slow = in_background(lambda: site.ask("sleep=2", address))
    until((site.directory / "started").exists, 10, "the slow request runs")
    second = restart()
    assert second != first and slow.is_alive()
    assert site.ask("", address)["path"] == "/page", "the new one serves while the old one finishes"
    slow.join()
    assert slow.result["path"] == "/page"
    until(lambda: site.fronts() == [second], 10, "the old one has gone")
    assert address.is_socket() and site.pid(pidfile) == second, "and has left what is the new one's"
    os.kill(second, signal.SIGTERM)
    site.gone()


def test_help_lists_all_options(site):
    done = site.run("help")
    assert done.returncode == 0 and done.stderr == ""
    options = "protocol host port socket method maxrequests maxspare minspare maxchildren daemonize pidfile workdir debug"
    for option in (options + " outlog errlog umask").split():
        assert re.search(rf"(?m)^  {option} ", done.stdout), option


@pytest.mark.parametrize("words, text", [
    ("maxrequest=5", "RF0105 option maxrequest=5: unknown option; did you mean maxrequests?"),
    ("wibble=1", "unknown option"),
    ("port=99999 host=127.0.0.1", "port"),
    ("port=x host=127.0.0.1", "port"),
    ("host=127.0.0.1", "RF0116 "),
    ("host=example.com port=1", "no IP address"),
    ("socket=s maxspare=1 minspare=2", "RF0114 option minspare=2"),
    ("socket=s umask=0888", "umask"),
    ("socket=s daemonize=perhaps", "daemonize"),
    ("socket=s method=turbo", "method"),
    ("socket=s protocol=http", "protocol"),
    ("socket=s maxrequests=-1", "maxrequests"),
    ("socket", "socket"),
    ("", "RF0117 runfcgi: nowhere to listen, and no web server gave us a socket; add socket=PATH"),
])  # fmt: skip
def test_wrong_words_are_one_line(site, words, text):
    done = site.run(*words.split())
    assert done.returncode == 2, done
    assert text in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert site.alive() == {}


def test_debug_false_is_false_and_said_once(site):
    done = site.run("debug=false", f"socket={site.socket}", "pidfile=my.pid")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "RF0130 option debug: debug=false turns it off" in done.stderr
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()
