"""Processes: those that the application started, and this one's name and signals."""

import os
import signal
import threading
import time

from .private import PRIVATE

END_WITHIN = 0.5  # seconds between TERM and KILL


def list_children():
    """Our living children: {pid: name}."""
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
    """What /proc/PID/stat says."""

    def __init__(self, line):
        before, _, after = line.rpartition(b')')
        fields = after.split()
        self.name = before.partition(b'(')[2].decode('utf-8', 'replace')
        self.lives = fields[0] not in (b'Z', b'X')
        self.parent, self.session, self.start = int(fields[1]), int(fields[3]), fields[19].decode()


def list_processes():
    """All living processes by pid."""
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
    """The descendants of these processes: {pid: start time}. Without `but` and theirs, and without those that have left
    our session: they mean to stay."""
    processes, session, found = list_processes(), os.getsid(0), {}
    while ancestors:
        ancestors = [
            pid
            for pid, process in processes.items()
            if process.parent in ancestors and process.session == session and pid not in found and pid not in but
        ]
        found.update((pid, processes[pid].start) for pid in ancestors)
    return found


def identify(pid):
    """(pid, start time); the time is '0' if that cannot be seen."""
    try:
        with open('/proc/{}/stat'.format(pid), 'rb') as file:
            return pid, Process(file.read()).start
    except (OSError, IndexError):
        return pid, '0'


def is_alive(pid, start):
    """Whether the process with this pid and start time is alive. One that we may not look at counts as alive."""
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
    """An abnormal exit in words; None for a normal one. The front knows which SIGKILL came from its own lifeline."""
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
    """Ends these processes, as long as pid and start time still match."""
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


def guard_started(settings):
    """Forks a process that waits for us to end and then ends what the import started. We can't do it ourselves: when
    our lifeline is cut, the kernel kills us at once."""
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
            set_command_line('guard', settings)
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
    """Sets handlers, not SIG_IGN, which programs that the application starts would inherit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, do_nothing)


def do_nothing(_number, _stack):
    """Handler of a signal that is the front's business."""


def count_threads():
    """All threads of this process, including those that no Python code started."""
    try:
        return len(os.listdir('/proc/self/task'))
    except OSError:
        return threading.active_count()


def set_process_name(name):
    """The name that ps and top show."""
    try:
        with open('/proc/self/comm', 'wb', 0) as comm:
            comm.write(name.encode())
    except OSError:
        pass


# Where the kernel reads the command line: begin and end. A fork has them at the same addresses.
ARGUMENTS = []


def set_command_line(role, settings):
    """What ps shows instead of `python -c` and the loader. The kernel reads it from our memory, so it is written there."""
    text = 'runfcgi: {} of {}'.format(role, settings.get('app_path', ''))
    try:
        if not ARGUMENTS:
            with open('/proc/self/stat', 'rb') as file:
                ARGUMENTS.extend(map(int, file.read().rpartition(b')')[2].split()[45:47]))
        begin, end = ARGUMENTS
        memory = os.open('/proc/self/mem', os.O_WRONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return
    try:
        if 0 < begin < end:
            os.lseek(memory, begin, os.SEEK_SET)
            os.write(memory, os.fsencode(text)[: end - begin - 1].ljust(end - begin, b'\0'))
    except OSError:
        pass
    finally:
        os.close(memory)
