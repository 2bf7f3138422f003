"""A server that root starts: no stranger leads it to another file, its logs are its own, and it can become another user."""

import os
import pwd
import shutil
import signal
import socket
import subprocess

import pytest

import peers
from own_server import Site
from webservers import processes
from webservers.account import USER, new_directory
from webservers.processes import until
from webservers.users import AS_ROOT, as_user, take

pytestmark = AS_ROOT

APP = """\
import os

IMPORTED_BY = os.getresuid()

def application(environ, start_response):
    said = {"pid": os.getpid(), "users": {*os.getresuid(), *IMPORTED_BY}, "groups": {*os.getresgid(), *os.getgroups()},
            "home": os.environ.get("HOME"), "user": os.environ.get("USER")}
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("%r\\n" % said).encode()]
"""
# Notes who runs it.
PYTHON = '#!/bin/sh\nid -u >>{noted}\nexec /usr/bin/python3 "$@"\n'


@pytest.fixture
def site(build, tmp_path_factory, owner):
    """Its processes end before their user, the owner, goes."""
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        (site.directory / "app.py").write_text(APP)
        yield site
        processes.end(site.alive())
        site.gone()


@pytest.fixture
def place():
    """A directory of root's, as /run and /var/log are."""
    directory = new_directory("runfcgi-root-")
    yield directory
    shutil.rmtree(directory)


def users_of(site):
    """The users that the site's processes run as, or ran as."""
    found = set()
    for pid in site.alive():
        with open(f"/proc/{pid}/status") as status:
            found |= set(status.read().split("\nUid:")[1].splitlines()[0].split())
    return found


def end(site, pidfile):
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    site.gone()


def test_root_is_led_to_no_other_file(site, owner, place):
    """By a link of a stranger's, or through a directory that is his."""
    target = place / "target"
    target.write_text("root's\n")
    shared, his = place / "shared", place / "his"
    for directory in (shared, his):
        directory.mkdir()
        (directory / "link").symlink_to(target)
        os.lchown(directory / "link", owner.pw_uid, owner.pw_gid)
    shared.chmod(0o1777)
    os.chown(his, owner.pw_uid, owner.pw_gid)
    for option, code in (("errlog", "RF0243"), ("outlog", "RF0243"), ("pidfile", "RF0242"), ("socket", "RF0240")):
        for path in (shared / "link", his / "link", his / "new"):
            if (option, path) != ("socket", his / "link"):
                done = site.run(*(["socket=s"] if option != "socket" else []), f"{option}={path}")
                assert done.returncode == 1 and code in done.stderr and str(path) in done.stderr, (option, path, done)
    logs = f'[log]\nfile = "{his}/new"\naccess = "{shared}/link"\n'
    site.config.write_text(site.config.read_text() + logs)
    errlog = site.directory / "err.log"
    site.daemon("socket=my.sock", "pidfile=my.pid", "errlog=err.log")
    site.ask()
    reason = f"log file {his}/new: {his} belongs to user {owner.pw_uid}, but we run as user 0"
    until(lambda: reason in errlog.read_text(), 10, "the log tells why")
    end(site, site.directory / "my.pid")
    assert target.read_text() == "root's\n" and sorted(os.listdir(his)) == sorted(os.listdir(shared)) == ["link"]


def test_links_that_are_good_are_followed(site, owner, place):
    """The owner's own, also when root starts his program, and those of the system: /dev/stderr."""
    home = site.directory
    (home / "logs").symlink_to(home / "data")
    (home / "data").mkdir()
    take(home, owner)
    words = ["socket=my.sock", "pidfile=my.pid", f"errlog={home}/logs/err.log"]
    for user in (as_user(owner), {}):
        site.daemon(*words, **user)
        site.ask()
        end(site, home / "my.pid")
        log = home / "data" / "err.log"
        assert "imported the app" in log.read_text() and log.stat().st_mode & 0o777 == 0o600
        log.unlink()
    site.config.write_text(site.config.read_text() + '[log]\nfile = "/dev/stderr"\naccess = "/dev/stdout"\n')
    with open(place / "out", "wb") as out, open(place / "err", "wb") as err:
        server = site.foreground("socket=my.sock", stdout=out, stderr=err)
        until(lambda: (home / "my.sock").exists() and site.ask(), 10, "it serves")
        until(lambda: "GET /page" in (place / "out").read_text(), 10, "the access log")
        server.terminate()
        assert server.wait(10) == 0
    assert (place / "err").read_text().count("imported the app") == 2, "as standard error, and as the log"


def test_root_becomes_the_user(site, owner, place):
    """What is root's to open is opened, and no Python runs before."""
    subprocess.run(["usermod", "-aG", USER.pw_name, owner.pw_name], check=True)
    noted = place / "ran"
    noted.touch()
    noted.chmod(0o666)
    python = place / "python"
    python.write_text(PYTHON.format(noted=noted))
    python.chmod(0o755)
    (site.directory / "run").mkdir(mode=0o700)
    take(site.directory / "run", owner)
    config = site.config.read_text().replace("[server]", f'python = "{python}"\n[server]\nuser = "{owner.pw_name}"')
    site.config.write_text(config + f'[log]\naccess = "{place}/access.log"\n')
    sock, pidfile = place / "my.sock", place / "my.pid"
    site.daemon(f"socket={sock}", f"pidfile={pidfile}", f"errlog={place}/err.log")
    uid, log = owner.pw_uid, place / "err.log"
    pids = set()
    for turn in range(2):
        said = until(lambda: (said := site.ask(address=sock))["pid"] not in pids and said, 20, "the restart")
        pids.add(said["pid"])
        assert said["users"] == {uid} and said["groups"] == {owner.pw_gid, USER.pw_gid}
        assert (said["home"], said["user"]) == (owner.pw_dir, owner.pw_name)
        assert users_of(site) == {str(uid)}
        site.config.write_text(site.config.read_text() + "# changed\n")
    subprocess.run([site.executable, "check"], cwd=site.directory, stdout=subprocess.DEVNULL, timeout=40)
    assert set(noted.read_text().split()) == {str(uid)}, "check, too, becomes the user"
    assert sock.stat().st_uid == uid and pidfile.stat().st_uid == 0
    for path in (log, place / "access.log"):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (uid, 0o600)
    assert "RF0246" not in log.read_text() and "GET /page" in (place / "access.log").read_text()
    end(site, pidfile)
    # What root was left with, a second start takes over.
    site.daemon(f"socket={sock}", f"pidfile={pidfile}", f"errlog={log}")
    site.ask(address=sock)
    end(site, pidfile)


def test_a_web_server_of_roots_too(site, owner):
    """spawn-fcgi, say: the socket is descriptor 0."""
    (site.directory / "run").mkdir(mode=0o700)
    take(site.directory / "run", owner)
    site.config.write_text(site.config.read_text() + f'user = "{owner.pw_name}"\n')
    with socket.socket(socket.AF_UNIX) as listener, open(site.directory / "err.log", "wb") as log:
        listener.bind(str(site.socket))
        listener.listen()
        front = subprocess.Popen(["./mysite.fcgi"], stdin=listener, stderr=log, cwd=site.directory)
    assert site.ask()["users"] == {owner.pw_uid} and users_of(site) == {str(owner.pw_uid)}
    front.terminate()
    assert front.wait(10) == 0


def test_a_user_that_cannot_be_become(site, owner):
    nobody = pwd.getpwnam("nobody")
    for words, options, reason in [
        ("user=ghost", {}, "RF0122 user: ghost is not in /etc/passwd"),
        ("user=nobody", as_user(owner), f"RF0122 user: only root can become nobody, and this is user {owner.pw_uid}"),
    ]:
        done = site.run("socket=my.sock", *words.split(), **options)
        assert done.returncode == 2 and reason in done.stderr and done.stderr.count("\n") == 1, done
    (site.directory / "run").mkdir(mode=0o700)
    take(site.directory, nobody)
    site.daemon("socket=my.sock", "pidfile=my.pid", "user=nobody", **as_user(nobody))
    assert site.ask()["users"] == {nobody.pw_uid}
    end(site, site.directory / "my.pid")


def test_that_the_app_runs_as_root_is_told_at_each_start(site):
    log = site.directory / "err.log"
    words = ["socket=my.sock", "pidfile=my.pid", "errlog=err.log"]
    for told in (1, 2):
        site.daemon(*words)
        before = site.ask()["pid"]
        if told == 1:
            site.config.write_text(site.config.read_text() + "# changed\n")
            until(lambda: site.ask()["pid"] != before, 20, "the restart, which is no start")
        end(site, site.directory / "my.pid")
        assert log.read_text().count("warning: RF0246 the app runs as root: set user below [server]") == told
    site.daemon(*words, "user=root")
    assert site.ask()["users"] == {0}
    end(site, site.directory / "my.pid")
    assert log.read_text().count("RF0246") == 2
