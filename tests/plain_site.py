"""Sites of tests/apps/plain/faults.py, whose processes a test spawns, sees and kills."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from webservers.account import USER, give
from webservers.fastcgi import request
from webservers.processes import comm, touching, until

RUN_AS = {"uid": USER.pw_uid, "gid": USER.pw_gid} if os.getuid() == 0 else {}

CONFIG = """\
[app]
path = "{{project}}"
wsgi = "faults:app"
python = "/usr/bin/python3"
[server]
runtime_dir = "{{runtime}}"
{server}
[limits]
{limits}
[restart]
{restart}
[log]
file = "{log}"
{logging}
[env]
MARKS = "{marks}"
{env}
"""


class Plain:
    """An account whose site is tests/apps/plain/faults.py: what a test wants of it, and what can be seen of it."""

    def __init__(self, account, server="", limits="", logging="", env="", restart=""):
        self.account = account
        self.marks = account.base / "marks"
        self.marks.mkdir(exist_ok=True)
        give(self.marks)
        self.logged = account.home / "site.log"
        text = CONFIG.format(
            server=server, limits=limits, logging=logging, env=env, restart=restart, marks=self.marks, log=self.logged
        )
        account.configure(text)

    def log(self):
        return self.logged.read_text(errors="replace") if self.logged.exists() else ""

    def status(self):
        """What `status` tells."""
        owner = os.stat(self.account.executable).st_uid
        user = {"user": owner, "group": owner, "extra_groups": []} if RUN_AS else {}
        command = [str(self.account.executable), "status", "--json"]
        return json.loads(subprocess.run(command, cwd="/", capture_output=True, timeout=20, **user).stdout)

    def imports(self):
        """The processes that imported the app, in turn."""
        path = self.marks / "imports"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def mark(self, name):
        """What the app has noted under this name."""
        path = self.marks / name
        return until(lambda: path.exists() and path.read_text(), 15, f"the app notes {name}")

    def pids(self, name):
        """Living processes of the site by their short name."""
        return [pid for pid in all_named(name) if self.owns(pid)]

    def owns(self, pid):
        try:
            return os.readlink(f"/proc/{pid}/cwd").startswith(str(self.account.base)) and state(pid) not in "ZX"
        except OSError:
            return False

    def preloaders(self):
        """Those that are not a worker in its first moments."""
        found = self.pids("runfcgi-preload")
        return [pid for pid in found if parent(pid) not in found]

    def workers(self):
        return self.pids("runfcgi-worker")

    def fronts(self):
        return self.pids("mysite.fcgi")

    def gone(self):
        return not touching(self.account.base)

    def zombies(self):
        """Dead children that nobody has collected within two seconds, of any process of the site."""
        deadline = time.monotonic() + 2
        while True:
            ours = set(self.fronts() + self.preloaders() + self.workers())
            dead = [pid for pid in all_processes() if state(pid) == "Z" and parent(pid) in ours]
            if not dead or time.monotonic() > deadline:
                return dead
            time.sleep(0.05)


def all_processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def all_named(name):
    return [pid for pid in all_processes() if comm(pid) == name]


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["X", "0"]


def state(pid):
    return stat(pid)[0]


def parent(pid):
    return int(stat(pid)[1])


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def in_namespace(script):
    """What Manager is to be wrapped in, so that what this script mounts is seen by the site alone."""
    return ["unshare", "-m", "sh", "-c", script + '\nexec "$@"', "sh"]


def ask(front, path, **options):
    """A request that must be answered well."""
    reply = request(front.socket, path, **options)
    assert reply.status == 200, (reply, front)
    return reply
