"""Failures of single system calls, injected by strace into one process of a site: neither the program nor Python knows.

strace counts the calls of each process by itself, so `when=3` is the third call of each process that it follows.
"""

import contextlib
import errno
import os
import re
import shutil

import socket
import subprocess
import time
from pathlib import Path

from plain_site import RUN_AS, kill, parent, state
from webservers import fastcgi, processes
from webservers.account import USER, give
from webservers.processes import until

CONFIG = """\
[app]
path = "{{project}}"
wsgi = "faults:app"
python = "{python}"
[server]
runtime_dir = "{{runtime}}"
maxchildren = 1
{server}
[limits]
start_timeout = 8
[log]
file = "{log}"
[env]
MARKS = "{marks}"
"""
# Runs its words as the same process, which strace is attached to before. strace is nobody's child here, and holds none of
# the descriptors.
TRACED = """\
#!/bin/sh
options=$1
shift
if [ -e "$options" ]; then
    read -r words < "$options"
    rm -f "$options"
    (exec strace -qq $words -p $$ < /dev/null > /dev/null 2>&1 &)
    traced=0
    while [ $traced = 0 ]; do
        while read -r key value; do
            [ "$key" != TracerPid: ] || traced=$value
        done < /proc/$$/status
    done
fi
exec "$@"
"""


def is_possible():
    """Whether strace is here and may look at processes."""
    if not shutil.which("strace"):
        return False
    return subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


class Site:
    """An account whose front, and whose Python processes, can be traced from their first moment."""

    def __init__(self, account):
        self.account = account
        base = account.base
        self.marks, self.logged = base / "marks", account.home / "site.log"
        self.errors = base / "errors"
        self.traced, self.python = base / "traced", base / "python"
        self.found = base.with_name(base.name + "-calls")
        self.marks.mkdir()
        self.traced.write_text(TRACED)
        self.python.write_text(f'#!/bin/sh\nexec /bin/sh {self.traced} {base}/trace-python /usr/bin/python3 "$@"\n')
        for path in (self.traced, self.python):
            path.chmod(0o755)
        self.configure("linger = 0")
        give(base)
        self.process = self.stracer = None
        self.count = 0
        self.fresh = 0

    def configure(self, server):
        text = CONFIG.format(python=self.python, log=self.logged, marks=self.marks, server=server)
        self.account.configure(text)

    def trace(self, role, options):
        """The next process of this role is traced so. None: it is not."""
        path = self.account.base / f"trace-{role}"
        path.unlink(missing_ok=True)
        if options is not None:
            path.write_text(f"-o {self.found} {options}\n")
            give(path)

    def attach(self, pid, options):
        """Traces this process from now on."""
        command = ["strace", "-qq", "-o", str(self.found), *options.split(), "-p", str(pid)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: tracer(pid) or process.poll() is not None, 5, "it is traced")
        self.stracer = process

    def detach(self):
        """Ends all tracing: what is traced goes on."""
        for pid in tracers(self.found):
            kill(pid)
        until(lambda: not tracers(self.found), 5, "nobody is traced any more")
        if self.stracer:
            self.stracer.wait()

    def injected(self):
        """How often a call has failed by our doing."""
        return self.found.read_text(errors="replace").count("(INJECTED)") if self.found.exists() else 0

    def spawn(self):
        """A front, as a web server spawns it."""
        self.count += 1
        self.path = self.account.base / f"{self.count}.sock"
        with socket.socket(socket.AF_UNIX) as listener, open(self.errors, "ab") as errors:
            listener.bind(str(self.path))
            os.chmod(self.path, 0o700)
            listener.listen(50)
            give(self.path)
            user = {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": []} if RUN_AS else {}
            command = ["/bin/sh", str(self.traced), f"{self.account.base}/trace-front", str(self.account.executable)]
            self.process = subprocess.Popen(
                command, stdin=listener, stdout=errors, stderr=errors, cwd=self.account.site,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, **user,
            )  # fmt: skip

    def ask(self, path="/version", timeout=12, **options):
        """A reply; status 0: the front could not be reached, or has broken off."""
        try:
            reply = fastcgi.request(str(self.path), path, timeout=timeout, **options)
            text = {200: reply.text, None: reply.failure}.get(reply.status, reply.errors.strip()[:300])
            return reply.status or 0, text
        except OSError as error:
            return 0, repr(error)

    def stop(self):
        """As a web server stops it. Returns its exit status; None: it had to be killed."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(9)
        self.process.kill()
        self.process.wait()
        return None

    def pids(self, name):
        found = [pid for pid in processes.named(self.account.base, name) if state(pid) not in "ZX"]
        return [pid for pid in found if parent(pid) not in found]

    def end_workers(self):
        """Kills them, so that the next request needs another one. Waits until the front knows."""
        for pid in (pids := self.pids("runfcgi-worker")):
            kill(pid)
        until(lambda: not any(pid in self.pids("runfcgi-worker") for pid in pids), 5, "they are gone")
        time.sleep(0.2)

    def log(self):
        logged = self.logged.read_text(errors="replace") if self.logged.exists() else ""
        return logged + self.errors.read_text(errors="replace")

    def forget(self):
        self.found.unlink(missing_ok=True)
        for path in filter(Path.exists, (self.logged, self.errors)):
            os.truncate(path, 0)

    def put(self, number):
        self.account.code(number)
        self.account.touch()

    def remains(self):
        """Processes and files that are left."""
        with contextlib.suppress(AssertionError):
            until(lambda: not processes.touching(self.account.base), 5, "all have left")
        found = processes.touching(self.account.base)
        processes.end(found)
        left = processes.left_behind(self.account.runtime)
        return [*found.values(), *left]


def tracer(pid):
    try:
        return int(re.search(r"TracerPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
    except (OSError, TypeError):
        return 0


def tracers(found):
    """The straces that write to this file."""
    name = str(found).encode()
    result = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and name in (words := Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")) and words[0] == b"strace":
                if state(int(entry)) not in "ZX":
                    result.append(int(entry))
    return result


def live(site, role, call, error, ordinal, how="touch"):
    """A life of the site in which one call fails. Returns (whether it did, [what went wrong])."""
    site.forget()
    inject = f"-e trace={call} -e inject={call}:error={error}:when={ordinal}" if error else f"-e trace={call}"
    if role == "python":
        inject = "-f " + inject
    wrong = []
    seen = []  # bad replies while calls fail
    site.trace(role, inject) if role in ("front", "python") else None
    site.put(number := site.fresh + 1)
    site.fresh = number
    site.spawn()
    reply = site.ask()
    if reply != (200, str(number)):
        seen.append(reply)
    if role == "worker":
        site.attach(until(lambda: site.pids("runfcgi-worker"), 10, "there is a worker")[0], inject)
    elif role == "preloader":
        site.attach(until(lambda: site.pids("runfcgi-preload"), 10, "there is a preloader")[0], inject)
        site.end_workers()
    for path, options in REQUESTS:
        reply = site.ask(path, **options)
        if reply[0] != 200:
            seen.append(reply)
    if not error or not site.injected():
        number = site.fresh = site.fresh + 1
        site.account.code(number)
        if how == "exec":
            with open(site.account.executable, "ab") as executable:
                executable.write(b"+")
        else:
            site.account.touch()
        deadline = time.monotonic() + 5
        while (reply := site.ask()) != (200, str(number)) and time.monotonic() < deadline:
            if reply[0] != 200:
                seen.append(reply)
            time.sleep(0.1)
        was_live = reply == (200, str(number))
    else:
        was_live = True
    stopped = False
    if not site.injected() and role != "worker":
        stopped = True
        if (code := site.stop()) != 0:
            wrong.append(f"stopped with {code}")
    did = site.injected()
    site.detach()
    for kind in ("front", "python"):
        site.trace(kind, None)
    if not error:
        if not stopped:
            site.stop()
        return did, wrong + site.remains()
    if not stopped and site.process.poll() is not None:
        seen.append((0, f"the front has ended with {site.process.returncode}"))
        stopped = True
    if stopped:
        site.spawn()
    begin = time.monotonic()
    reply = site.ask(timeout=20)
    took = time.monotonic() - begin
    if reply[0] == 500 and "RF0309" in reply[1]:
        # An import that fails is told of, and tried again after five seconds.
        until(lambda: site.ask()[0] == 200, 10, "the next import serves")
        reply, took = site.ask(), 0
    if reply[0] != 200:
        wrong.append(f"afterwards: {reply}")
    elif not reply[1].isdigit() or not site.fresh - 1 <= int(reply[1]) <= site.fresh:
        wrong.append(f"afterwards: {reply}, not {site.fresh}")
    if took > 3:
        wrong.append(f"afterwards: only after {took:.1f} s")
    if not was_live or reply != (200, str(site.fresh)):
        site.put(number := site.fresh + 1)
        site.fresh = number
        deadline = time.monotonic() + 10
        while (reply := site.ask()) != (200, str(number)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if reply != (200, str(number)):
            wrong.append(f"new code does not go live: {reply}")
    if (code := site.stop()) != 0:
        wrong.append(f"at the end stopped with {code}")
    if left := site.remains():
        wrong += [f"left: {what}" for what in left if " (parent " in what]
        # Files that a process could not remove, the next one removes.
        site.spawn()
        site.ask()
        site.stop()
        wrong += [f"left: {what}" for what in site.remains()]
    if seen and did and is_untold(site, role, call, error, seen):
        wrong.append(f"untold: {seen[:2]}")
    return did, wrong


def is_untold(site, role, call, error, replies):
    """Whether a visitor saw a failure whose cause nobody is told of. A connection that breaks is no news."""
    if (role, call) in {("front", "read"), ("front", "write"), ("worker", "sendto"), ("worker", "recvmsg")}:
        if error in ("EIO", "EPIPE", "ECONNRESET"):
            return False
    cause = os.strerror(getattr(errno, error))
    return cause not in site.log() + "".join(text for _, text in replies)


REQUESTS = [("/version", {}), ("/upload", {"method": "POST", "body": bytes(300 << 10)}), ("/talk", {})]


def serve(site, role, call, error, ordinal):
    """The same in a site that is up, for the time of three requests. Returns (whether it did, [what went wrong])."""
    site.forget()
    name = {"worker": "runfcgi-worker", "preloader": "runfcgi-preload"}.get(role)
    if role == "preloader" and not site.pids(name):
        # The call before this one has ended it. The next one comes when a worker is needed.
        site.end_workers()
        site.ask()
    pid = site.process.pid if role == "front" else until(lambda: site.pids(name), 10, f"there is a {name}")[0]
    inject = f"-e trace={call} -e inject={call}:error={error}:when={ordinal}"
    site.attach(pid, inject)
    if role == "preloader":
        site.end_workers()
    replies = [site.ask(path, **options) for path, options in REQUESTS]
    did = site.injected()
    site.detach()
    wrong = []
    if site.process.poll() is not None:
        wrong.append(f"the front has ended with {site.process.returncode}")
        site.spawn()
    reply = site.ask()
    if reply != (200, str(site.fresh)):
        wrong.append(f"afterwards: {reply}")
    failed = [reply for reply in replies if reply[0] != 200]
    if failed and is_untold(site, role, call, error, failed):
        wrong.append(f"untold: {failed}")
    return did, wrong
