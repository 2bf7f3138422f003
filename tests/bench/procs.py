"""Processes of this run, read from /proc: who belongs to which site, what they cost, and their end.

The bench adopts orphans (PR_SET_CHILD_SUBREAPER), so whatever a contender daemonizes stays below us: only what
we started is ever looked at or killed, by pid.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TICK = os.sysconf("SC_CLK_TCK")
WEB_SERVERS = ("nginx", "apache2")


def adopt_orphans():
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def below(ancestor):
    """Pids below a process, zombies left out."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(entry)
            if fields and fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [ancestor]
    while todo:
        young = children.get(todo.pop(), [])
        found += young
        todo += young
    return found


def members(directory):
    """Pids of the site in `directory`: its path shows in their command line, working directory or environment,
    or in that of an ancestor of theirs. The web server itself is not one, unless it works in that directory."""
    directory = os.fsencode(str(directory))
    ours = set()
    for pid in below(os.getpid()):
        if comm(pid) in WEB_SERVERS and not works_in(pid, directory):
            continue
        fields = stat(pid)
        if fields and int(fields[1]) in ours or names(pid, directory):
            ours.add(pid)
    return sorted(ours)


def cpu(pid):
    """CPU seconds (user and system) of a process so far: in nanoseconds while it has had one thread, else in ticks."""
    fields = stat(pid)
    ticks = (int(fields[11]) + int(fields[12])) / TICK if fields else 0.0
    return max(ticks, int((read(f"/proc/{pid}/schedstat").split() or [0])[0]) / 1e9)


def cpu_of(directory):
    """CPU seconds of each member of a site: {pid: (role, seconds)}."""
    return {pid: (role(pid), cpu(pid)) for pid in members(directory)}


def cpu_of_others():
    """CPU seconds of the whole machine, less those of this process and of children that have been waited for."""
    fields = [int(field) for field in read("/proc/stat").split(b"\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK - sum(os.times()[:4])


def cpu_between(before, after):
    """CPU seconds used between two `cpu_of`, by role."""
    spent = {}
    for pid, (kind, seconds) in after.items():
        spent[kind] = spent.get(kind, 0.0) + seconds - before.get(pid, (kind, 0.0))[1]
    return spent


def await_end(directory, roles):
    """Waits, though not for ever, until no process of these roles is left of a site."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(role(pid) in roles for pid in members(directory)):
        time.sleep(0.02)


def pss(directory):
    """(MB of PSS by role, processes by role) of a site."""
    sizes, counts = {}, {}
    for pid in members(directory):
        text = read(f"/proc/{pid}/smaps_rollup")
        lines = [line for line in text.splitlines() if line.startswith(b"Pss:")]
        if lines:
            kind = role(pid)
            sizes[kind] = sizes.get(kind, 0.0) + int(lines[0].split()[1]) / 1024
            counts[kind] = counts.get(kind, 0) + 1
    return sizes, counts


def role(pid):
    """`worker` and `preloader` for processes of runfcgi that call themselves so, `front` for its binary, else `app`."""
    name = comm(pid)
    if name.startswith("runfcgi-"):
        return "worker" if name == "runfcgi-worker" else "preloader"
    return "front" if name == "runfcgi" or is_elf_fcgi(pid, name) else "app"


def is_elf_fcgi(pid, name):
    """A script named mysite.fcgi shows its interpreter as executable; a program shows itself (or a private copy)."""
    try:
        return name.startswith("mysite") and "python" not in os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return False


def kill(pids):
    """KILLs processes and waits until they are gone."""
    pids = list(pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any((stat(pid) or "Z")[0] != "Z" for pid in pids):
        time.sleep(0.005)


def kill_rest():
    """Ends whatever is still below us; returns their command lines, for the record."""
    left = []
    for _ in range(5):
        pids = below(os.getpid())
        if not pids:
            break
        left += [read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace") for pid in pids]
        kill(pids)
    reap()
    return left


def reap():
    """Collects adopted orphans that have ended. Call it only when no Popen of ours is waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def stat(pid):
    """Fields of /proc/PID/stat from the state on, or None."""
    text = read(f"/proc/{pid}/stat").decode(errors="replace")
    return text.rpartition(")")[2].split() if text else None


def comm(pid):
    return read(f"/proc/{pid}/comm").decode(errors="replace").strip()


def names(pid, directory):
    if directory in read(f"/proc/{pid}/cmdline") or directory in read(f"/proc/{pid}/environ"):
        return True
    return works_in(pid, directory)


def works_in(pid, directory):
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/cwd")).startswith(directory)
    except OSError:
        return False


def read(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
