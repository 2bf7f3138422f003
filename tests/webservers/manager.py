"""Plays mod_fcgid's process manager: spawns an executable as that does, each process on a socket of its own.

As a program it does the spawning, so that it can be killed like any other process:

    manager.py EXECUTABLE DIRECTORY

reads `spawn` lines, answers `spawned PID SOCKET`, and tells of each end with `ended PID STATUS`. At the end of its input
it ends what it spawned as mod_fcgid does: TERM, and KILL 8 s later. `Manager` is the tests' side of it.
"""

import contextlib
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass


@dataclass
class Front:
    """A process that was spawned, and the socket that it was given."""

    pid: int
    socket: str


class Manager:
    """`with Manager(account) as manager: front = manager.spawn()`."""

    def __init__(self, account, uid=None, gid=None, limits=(), wrap=()):
        """`wrap`: a command of root that ends with running the one that follows it."""
        self.account = account
        self.directory = account.base / f"sockets-{time.monotonic_ns()}"
        self.directory.mkdir()
        self.errors = account.base / "manager.log"
        self.uid, self.gid, self.limits, self.wrap = uid, gid, dict(limits), wrap
        if uid is not None:
            os.chown(self.directory, uid, gid)
        self.ended = {}
        self._spawned = queue.Queue()
        self.process = None

    def __enter__(self):
        command = [sys.executable, "-I", __file__, str(self.account.executable), str(self.directory)]
        user = {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}
        if self.wrap:
            change = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"] if user else []
            command, user = [*self.wrap, *change, *command], {}
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                preexec_fn=self._set_limits,
                **user,
            )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def spawn(self):
        """One more process."""
        self.process.stdin.write("spawn\n")
        self.process.stdin.flush()
        return self._spawned.get(timeout=10)

    def stop(self):
        """What mod_fcgid does when Apache stops."""
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(20)

    def kill(self):
        """Ends the manager itself at once, and nobody else."""
        self.process.kill()
        self.process.wait()

    def log(self):
        return self.errors.read_text(errors="replace")

    def status_of(self, front):
        """How a process has ended: exit status, or minus the signal. None while it runs."""
        return self.ended.get(front.pid)

    def _listen(self):
        for line in self.process.stdout:
            word, pid, rest = line.split(None, 2)
            if word == "spawned":
                self._spawned.put(Front(int(pid), rest.strip()))
            else:
                self.ended[int(pid)] = int(rest)

    def _set_limits(self):
        for limit, value in self.limits.items():
            resource.setrlimit(limit, (value, value))


def main(executable, directory):
    """The program."""
    # The web server is the topmost ancestor of one name, and nothing above this program is part of it.
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write("manager")
    children = {}
    lock = threading.Lock()
    counter = 0

    def tell(line):
        with lock:
            print(line, flush=True)

    def wait(child):
        tell(f"ended {child.pid} {child.wait()}")
        children.pop(child.pid, None)

    for line in sys.stdin:
        assert line == "spawn\n", line
        path = os.path.join(directory, f"{os.getpid()}.{counter}")
        counter += 1
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            os.chmod(path, 0o700)
            listener.listen(5)
            child = subprocess.Popen(
                [executable],
                stdin=listener,
                stdout=sys.stderr,
                cwd=os.path.dirname(executable),
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                restore_signals=False,
            )
        children[child.pid] = child
        tell(f"spawned {child.pid} {path}")
        threading.Thread(target=wait, args=(child,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in list(children):
            os.kill(pid, number)
        deadline = time.monotonic() + 8
        while children and time.monotonic() < deadline:
            time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
