"""Which interpreters are run: none that another user of the machine could have put in the way."""

import os
import shutil
import signal
import subprocess

import pytest

import peers
from webservers.account import USER, new_directory
from webservers.processes import end, touching, until
from webservers.recipe import connects
from webservers.users import AS_ROOT, as_user

pytestmark = AS_ROOT
APP = """\
import sys

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [sys.prefix.encode()]
"""


class Place:
    """`x/y` with a site in it, in a directory that all may write, as /tmp is; and a virtualenv beside `x`."""

    def __init__(self, build, stranger):
        self.base = new_directory("runfcgi-test-")
        self.base.chmod(0o1777)
        self.stranger = stranger
        self.site = self.base / "x" / "y"
        self.executable, self.config = self.site / "mysite.fcgi", self.site / "mysite.toml"
        self.socket, self.log = self.site / "my.sock", self.site / "log"
        self.site.mkdir(parents=True)
        shutil.copy(build, self.executable)
        (self.site / "app.py").write_text(APP)
        self.settings("")
        self.venv = self.base / "venv"
        self.marks = self.base / "marks"
        self.marks.mkdir()
        self.marks.chmod(0o777)
        self.give(self.base / "x", USER)
        self.virtualenv()

    def settings(self, python):
        self.config.write_text(f'[app]\nwsgi = "app:application"\n{python}\n[server]\nruntime_dir = "run"\n')
        self.give(self.config, USER)

    def virtualenv(self):
        """Laid out as a real one; its interpreter leaves a mark of whoever runs it."""
        (self.venv / "bin").mkdir(parents=True)
        python = self.venv / "bin" / "python3"
        python.write_text(f'#!/bin/sh\ntouch {self.marks}/$(id -u)\nexec /usr/bin/python3 "$@"\n')
        python.chmod(0o755)
        self.give(self.venv, self.stranger)

    def give(self, path, user):
        subprocess.run(["chown", "-hR", f"{user.pw_uid}:{user.pw_gid}", path], check=True)

    def has_run(self):
        return any(self.marks.iterdir())

    def check(self):
        command = [self.executable, "check"]
        done = subprocess.run(command, cwd=self.site, env={"HOME": "/nowhere"}, capture_output=True, text=True, **as_user(USER))
        return done.stdout + done.stderr

    def serve(self):
        """Starts a server; its answer, and what its log says."""
        command = [self.executable, "runfcgi", "daemonize=false", f"socket={self.socket}"]
        with self.log.open("w") as log:
            server = subprocess.Popen(command, cwd=self.site, env={"HOME": "/nowhere"}, stderr=log, **as_user(USER))
        try:
            until(lambda: connects(self.socket), 20, "the server listens")
            answer = peers.fastcgi(self.socket, "/")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)
        return answer, self.log.read_text()


@pytest.fixture
def place(build, owner):
    place = Place(build, owner)
    yield place
    end(touching(place.base))
    shutil.rmtree(place.base)


def test_another_users_virtualenv_is_not_run(place):
    """It lies where the search comes by, and only who runs the site may say what runs."""
    reason = f"{place.venv} belongs to user {place.stranger.pw_uid}, but we run as user {USER.pw_uid}"
    told = place.check()
    assert not place.has_run() and reason in told and "the site can be served" in told, told
    answer, log = place.serve()
    assert not place.has_run() and reason in log and "/usr" in answer, (answer, log)


def test_another_users_interpreter_is_refused_when_it_is_named(place):
    place.settings(f'python = "{place.venv}/bin/python3"')
    reason = f"[app] python: {place.venv}/bin/python3 is not run: {place.venv} belongs to user {place.stranger.pw_uid}"
    told = place.check()
    assert not place.has_run() and reason in told and "cannot be served" in told and "chown" not in told, told
    answer, log = place.serve()
    assert not place.has_run() and "Status: 500" in answer, answer
    assert reason in log, log


def spoil_group(place):
    place.give(place.venv, USER)
    os.chown(place.venv, USER.pw_uid, place.stranger.pw_gid)
    place.venv.chmod(0o775)


def spoil_link(place):
    theirs = place.base / "theirs"
    (place.venv / "bin" / "python3").rename(theirs)
    place.give(place.venv, USER)
    (place.venv / "bin" / "python3").symlink_to(theirs)


def spoil_above(place):
    place.give(place.venv, USER)
    place.base.chmod(0o777)


def spoil(name):
    def change(place):
        place.give(place.venv, USER)
        (place.venv / name).chmod(0o777)

    return change


# What is done to the virtualenv; what is said of it, nothing when it is good.
CASES = {
    "it belongs to whom the site runs as": (lambda place: place.give(place.venv, USER), ""),
    "it is writable for the group of its owner alone": (
        lambda place: (place.give(place.venv, USER), place.venv.chmod(0o775)),
        "",
    ),
    "it belongs to the owner of the executable": (lambda place: place.give(place.executable, place.stranger), ""),
    "another group may write it": (spoil_group, "others may write {venv} (mode 0775)"),
    "all may write it": (spoil("."), "others may write {venv} (mode 0777)"),
    "all may write its programs": (spoil("bin"), "others may write {venv}/bin (mode 0777)"),
    "all may write the interpreter": (spoil("bin/python3"), "others may write {venv}/bin/python3 (mode 0777)"),
    "all may write the directory above": (spoil_above, "others may write {base} (mode 0777)"),
    "it is a link to another user's program": (spoil_link, "{base}/theirs belongs to user {stranger}"),
}


@pytest.mark.parametrize("case", CASES)
def test_who_may_have_put_it_there(place, case):
    change, reason = CASES[case]
    change(place)
    told = place.check()
    reason = reason.format(venv=place.venv, base=place.base, stranger=place.stranger.pw_uid)
    assert place.has_run() != bool(reason), told
    assert reason in told and "the site can be served" in told, told
