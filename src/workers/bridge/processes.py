"""Processes: what the application has started, and what this one shows and obeys."""

import os
import signal
import threading
import time

from .private import PRIVATE

END_WITHIN = 0.5  # seconds that a process has to obey TERM


def list_children():
    """Living processes that this one has started: the name of each."""
    if has_no_children():
        return {}
    return {pid: process.name for pid, process in list_processes().items() if process.parent == os.getpid()}


def has_no_children():
    if not hasattr(os, 'waitid'):
        return os.getpid() not in [process.parent for process in list_processes().values()]
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


class Process:
    """A line of /proc/PID/stat."""

    def __init__(self, line):
        before, _, after = line.rpartition(b')')
        fields = after.split()
        self.name = before.partition(b'(')[2].decode('utf-8', 'replace')
        self.lives = fields[0] not in (b'Z', b'X')
        self.parent, self.session, self.start = int(fields[1]), int(fields[3]), fields[19].decode()


def list_processes():
    """All that live, by number."""
    found = {}
    try:
        numbers = [int(name) for name in os.listdir('/proc') if name.isdigit()]
    except OSError:
        numbers = []
    for number in numbers:
        try:
            with open('/proc/{}/stat'.format(number), 'rb') as file:
                process = Process(file.read())
        except (OSError, IndexError):
            continue
        if process.lives:
            found[number] = process
    return found


def find_descendants(ancestors, but=()):
    """Those that these processes have started, and theirs: the start time of each. Not `but`, nor theirs; nor one that
    has left our session, for it means to stay."""
    processes, session, found = list_processes(), os.getsid(0), {}
    while ancestors:
        ancestors = [
            pid
            for pid, process in processes.items()
            if process.parent in ancestors and process.session == session and pid not in found and pid not in but
        ]
        found.update((pid, processes[pid].start) for pid in ancestors)
    return found


def is_alive(pid, start):
    """Whether the process lives that had this pid and start time. One that may not be looked at counts as alive."""
    try:
        with open('/proc/{}/stat'.format(pid), 'rb') as file:
            fields = file.read().rpartition(b')')[2].split()
        return fields[0] not in (b'Z', b'X') and start in ('', '0', fields[19].decode())
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def describe_exit(status):
    """An unusual end in words; None for a usual one. The front knows which SIGKILL its own lifeline sent."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            return 'was killed (SIGKILL): for want of memory, or by hand'
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = 'signal'
        return 'was ended by {} ({})'.format(name, number)
    code = os.WEXITSTATUS(status)
    return 'exited with status {}'.format(code) if code else None


def end_processes(left):
    """Ends processes that are still those which had these numbers and start times."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = {pid: start for pid, start in left.items() if is_alive(pid, start)}
        for pid in left:
            try:
                os.kill(pid, number)
            except OSError:
                pass
        end = time.monotonic() + END_WITHIN
        while any(is_alive(pid, start) for pid, start in left.items()) and time.monotonic() < end:
            time.sleep(0.01)


def guard_started():
    """Leaves a process that waits for our end and then ends what the import has started: whoever cuts our lifeline
    gives us no time for it."""
    if not list_children():
        return
    started = find_descendants([os.getpid()])
    ours, parents = os.pipe()
    child = os.fork()
    if child:
        os.close(ours)
        PRIVATE.add(parents)
        os.waitpid(child, 0)
        return
    try:
        os.close(parents)
        if os.fork() == 0:
            set_process_name('runfcgi-guard')
            ignore_signals()
            null = os.open('/dev/null', os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.read(ours, 1)  # ends with the worker
            started.update(find_descendants(list(started)))
            end_processes(started)
    finally:
        os._exit(0)


def ignore_signals():
    """Handlers, not SIG_IGN: that the programs which the application starts would inherit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, do_nothing)


def do_nothing(_number, _stack):
    """A signal that the front deals with."""


def count_threads():
    """All threads of this process, also those that no Python code started."""
    try:
        return len(os.listdir('/proc/self/task'))
    except OSError:
        return threading.active_count()


def set_process_name(name):
    """The name that ps and top show."""
    try:
        comm = os.open('/proc/self/comm', os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    os.write(comm, name.encode())
    os.close(comm)
