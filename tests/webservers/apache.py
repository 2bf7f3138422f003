"""An Apache of our own on a free port, from deploy/apache/private.conf, for one account."""

import os
import shutil
import signal
import socket
import subprocess

from . import processes
from .account import REPOSITORY, USER
from .client import Client
from .processes import until

CONF = REPOSITORY / "deploy" / "apache" / "private.conf"
MODULES = "/usr/lib/apache2/modules"
# Options: what runs the site when only one of the two is there.
FCGID_ONLY = ("-D", "NO_CGI")
CGI_ONLY = ("-D", "NO_FCGID")


class Apache:
    """`with Apache(account) as apache:` starts it and, at the end, stops it and looks that nothing is left."""

    def __init__(self, account, extra="", options=(), wrap=()):
        self.account = account
        self.directory = account.base / "server"
        self.directory.mkdir()
        self.port = free_port()
        self.client = Client(self.port)
        self.errors = self.directory / "error.log"
        (self.directory / "extra.conf").write_text(extra)
        self.options = options
        self.wrap = wrap  # a command that runs it
        self.process = None

    def __enter__(self):
        definitions = {
            "ADDRESS": f"127.0.0.1:{self.port}",
            "SERVER": self.directory,
            "PUBLIC": self.account.public,
            "MODULES": MODULES,
        }
        if os.getuid() == 0:
            definitions["RUN_AS"] = USER.pw_name
        command = [*self.wrap, shutil.which("apache2", path="/usr/sbin:/usr/bin"), "-d", str(self.directory), "-f", str(CONF)]
        for name, value in definitions.items():
            command += ["-C", f"Define {name} {value}"]
        command += ["-c", f"Include {self.directory}/extra.conf", "-D", "FOREGROUND", *self.options]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        self.process = subprocess.Popen(command, env=clean, stdin=subprocess.DEVNULL, start_new_session=True)
        until(self._listens, 10, f"Apache listens on port {self.port}")
        return self

    def __exit__(self, kind, *_):
        try:
            left = self.stop()
        finally:
            print("--- error.log of Apache, its end ---", *self.log().splitlines()[-60:], sep="\n")
        if kind is None:
            assert not left, f"still there after Apache has stopped: {left}"

    def stop(self):
        """Stops Apache as its init script does; returns the processes of the account that did not leave."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        try:
            until(lambda: not processes.touching(self.account.base), 5, "the account's processes have left")
        except AssertionError:
            left = processes.touching(self.account.base)
            processes.end(left)
            return left
        return {}

    def graceful(self):
        """What `apachectl graceful` does, log rotation in the night for example."""
        self.process.send_signal(signal.SIGUSR1)

    def log(self):
        return self.errors.read_text(errors="replace") if self.errors.exists() else ""

    def workers(self):
        return processes.named(self.account.base, "runfcgi-worker")

    def _listens(self):
        assert self.process.poll() is None, f"Apache did not start: {self.log()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
