"""Looking at processes through /proc. Knows no web server."""

import contextlib
import os
import signal
import time
from pathlib import Path


def until(condition, seconds, what):
    """Waits for `condition` to give something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def touching(directory):
    """{pid: what it is} of all processes that run in, run from, name or hold open something below `directory`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _touches(entry, str(directory)):
            found[int(entry.name)] = describe(int(entry.name))
    return found


def named(directory, name):
    """Process ids below `directory` whose /proc/PID/comm is `name`."""
    return [pid for pid in touching(directory) if comm(pid) == name]


def open_files(pid):
    """What the descriptors of a process stand for."""
    found = []
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(link))
    return found


def comm(pid):
    """The short name of a process; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def describe(pid):
    """One line about a process, for messages."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
        parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
    except OSError:
        return "(gone)"
    return f"{comm(pid)}: {line} (parent {parent})"


def end(pids):
    """Ends processes that a test has started and that should have gone by themselves."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _touches(entry, directory):
    try:
        if entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return False
        links = [entry / "cwd", entry / "exe", *entry.joinpath("fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            if os.readlink(link).startswith(directory):
                return True
        except OSError:
            continue
    try:
        return directory.encode() in entry.joinpath("cmdline").read_bytes()
    except OSError:
        return False


def left_behind(runtime):
    """What the processes of a site have left in its runtime directory, but for the journal of failures, which stays."""
    try:
        return sorted(name for name in os.listdir(runtime) if name != "journal")
    except FileNotFoundError:
        return []
