"""The preloader: holds the imported application, forks a worker whenever a front asks, and leaves when it may."""

import gc
import os
import select
import signal
import stat
import struct
import sys
import time
import traceback
from socket import SOL_SOCKET

from .app import load_app
from .chance import find_generators, reseed
from .files import same_file, tidy, unlink
from .opened import describe_opened, list_descriptors
from .output import ERRORS, attempt, describe_exception, encode_tail, log
from .private import PRIVATE
from .processes import (
    count_threads,
    describe_exit,
    do_nothing,
    end_processes,
    find_descendants,
    has_no_children,
    ignore_signals,
    is_alive,
    set_process_name,
)
from .warm import collect_as_usual, warm_up
from .wire import (
    DATA_LIMIT,
    EXITED,
    FAILED,
    FORK,
    FORKED,
    FRAME_HEADER,
    HELLO,
    LOG_LIMIT,
    OUTPUT,
    READY,
    REFUSED,
    RELEASE,
    SO_PEERCRED,
    TEXT_LIMIT,
    Poll,
    decode_pairs,
    encode_pairs,
    frame,
    receive_with_fds,
    unix_socket,
)
from .worker import hold_lifeline, run_worker

FAILED_BACKOFF = 4.0  # seconds in which a broken application is not imported again; below the front's own RETRY


class Control:
    """A front's control connection."""

    def __init__(self, sock):
        self.sock = PRIVATE.add(sock)
        self.sock.setblocking(False)
        self.data = b''
        self.fds = []
        self.greeted = False

    def read_frame(self):
        """(type, payload, descriptors), or None when there is no whole frame yet. EOFError at the end.

        Never reads beyond a frame, so that descriptors stay with the frame that they came with.
        """
        while True:
            need = FRAME_HEADER.size
            if len(self.data) >= need:
                kind, _, size = FRAME_HEADER.unpack_from(self.data)
                if size > DATA_LIMIT:
                    raise EOFError
                need += size
                if len(self.data) == need:
                    payload, fds = self.data[FRAME_HEADER.size :], self.fds
                    self.data, self.fds = b'', []
                    return kind, payload, fds
            try:
                more, fds = receive_with_fds(self.sock, need - len(self.data))
            except BlockingIOError:
                return None
            if not more:
                raise EOFError
            self.data += more
            self.fds += fds


class Preloader:
    """Holds the imported application and forks workers for the fronts that connect.

    The lock is free when, and only when, there is no preloader; the socket is unlinked only while the lock is held.
    """

    def __init__(self, settings, first, listener_fd, lock_fd):
        self.settings = settings
        self.listener = PRIVATE.add(unix_socket(listener_fd))
        self.listener.setblocking(False)
        self.lock = PRIVATE.add(lock_fd)
        self.pid = os.getpid()
        self.app = None
        self.answer = b''  # READY or FAILED
        self.controls = {}
        self.children = {}  # pid: the control connection that asked for it
        self.spawners = set()
        self.linger = 0.0
        self.idle_since = None
        self.wake = None
        self.old_sigchld = None
        self.generators = []  # of random numbers
        self.poll = Poll()
        self.poll.register(self.listener, select.POLLIN)
        self.add_control(first)

    def run(self):
        """Imports, then serves until it is time to leave. Never returns."""
        set_process_name('runfcgi-preload')
        PRIVATE.guard_forks()
        self.set_signals()
        self.claim()
        began = time.time()
        known = self.read_opened()
        opened = known or self.import_app()
        threads = count_threads()
        if threads == 1 and not opened:
            self.go_on_as_child()
        version = '{}.{}.{}'.format(*sys.version_info)
        seconds = '{:.3f}'.format(time.time() - began)
        ready = ('python', version, 'threads', str(threads), 'seconds', seconds, 'pid', str(self.pid))
        ready += ('open', opened, 'said', '1' if known else '')
        ready += ('errors', take_output(ERRORS))
        if sys.__stdout__.kind == OUTPUT:
            ready += ('output', take_output(sys.__stdout__))
        self.answer = frame(READY, encode_pairs(*ready))
        self.write_lock('{} {}'.format(self.pid, self.settings['ready']))  # from now on whoever gets no answer may do so
        self.set_signals()  # again: the application may have set its own while it was imported
        self.old_sigchld = signal.signal(signal.SIGCHLD, do_nothing)
        self.open_wake_pipe()
        while True:
            self.turn(self.patience())
            self.reap()
            forget_output()
            if self.may_leave():
                self.leave()

    def import_app(self):
        """Imports the application, or tells why it cannot. What it has left open, in words."""
        before = list_descriptors()
        try:
            app = load_app(self.settings)
            warm_up(app, self.settings)
        except BaseException:
            text = describe_exception()
            log(text)
            self.answer = frame(FAILED, encode_tail(text, TEXT_LIMIT))
            self.serve_failure(watched_files(self.settings['app_path']))
        self.app = app
        collect_as_usual()
        gc.disable()
        self.generators = attempt('finding random number generators', find_generators) or []
        opened = attempt('finding what is open', lambda: describe_opened(before)) or ''
        if opened:
            attempt('noting what is open', lambda: self.write_opened(opened))
        return opened

    def read_opened(self):
        """What a preloader before this one found open after the import of this very version; then it need not be
        imported to tell."""
        try:
            with open(self.settings['open_file'], encoding='utf-8', errors='surrogateescape') as file:
                version, _, opened = file.read().partition(' ')
        except (OSError, ValueError):
            return ''
        return opened if version == self.settings['version'] else ''

    def write_opened(self, opened):
        path = self.settings['open_file']
        temporary = '{}.{}'.format(path, self.pid)
        with open(temporary, 'w', encoding='utf-8', errors='surrogateescape') as file:
            file.write('{} {}'.format(self.settings['version'], opened))
        os.rename(temporary, path)

    def go_on_as_child(self):
        """Leaves behind what only the import had mapped: parts of libraries, 2 to 3 MB. Where no process more is
        allowed it goes on as it is."""
        ERRORS.flush()
        sys.stdout.flush()
        held, PRIVATE.held = PRIVATE.held, []  # the child is the preloader, so it keeps them
        try:
            ours, parents = os.pipe()
            try:
                if os.fork():
                    os._exit(0)
            finally:
                os.close(parents)
            os.read(ours, 1)  # ends with the parent, which held the listener and the lock
            os.close(ours)
        except OSError:
            pass
        finally:
            PRIVATE.held = held
        self.claim()

    def claim(self):
        """Writes our process id into the lock: by it a front ends us if the import hangs."""
        self.pid = os.getpid()
        self.write_lock(str(self.pid))

    def write_lock(self, text):
        """A lock without words still is one."""
        try:
            os.ftruncate(self.lock, os.pwrite(self.lock, text.encode(), 0))
        except OSError as error:
            log('runfcgi: the lock file cannot be written: {}'.format(error))

    def serve_failure(self, before):
        """Tells every front why the import failed, until a file changes or the back-off is over; then leaves."""
        end = time.monotonic() + FAILED_BACKOFF
        while time.monotonic() < end and before == {path: stamp(path) for path in before}:
            self.turn(0.5)
        self.leave()

    def set_signals(self):
        """The front ends us by closing its connection; a TERM from elsewhere is obeyed, the rest is not for us."""
        ignore_signals()
        signal.signal(signal.SIGTERM, self.on_term)

    def on_term(self, _number, _stack):
        if os.getpid() == self.pid:
            self.take_away()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(self.pid, signal.SIGTERM)  # so that who waits for us sees that it was not the app
        os._exit(0)

    def open_wake_pipe(self):
        """Makes the end of a child end the wait."""
        self.wake, write_end = os.pipe()
        PRIVATE.add(self.wake), PRIVATE.add(write_end)
        os.set_blocking(self.wake, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end)
        self.poll.register(self.wake, select.POLLIN)

    def turn(self, timeout):
        """Waits for events once, and deals with them."""
        for fd, _ in self.poll.poll(None if timeout is None else int(timeout * 1000) + 1):
            if fd == self.listener.fileno():
                self.accept()
            elif fd == self.wake:
                os.read(self.wake, 4096)
            elif fd in self.controls:
                self.read_control(self.controls[fd])

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log('runfcgi: accept failed: {}'.format(error))
                time.sleep(0.1)  # out of descriptors, say: not again and again at once
                return
            _, uid, _ = struct.unpack('3i', sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
            if uid != os.geteuid():
                log('runfcgi: a process of user {} tried to connect: refused'.format(uid))
                sock.close()
                continue
            self.add_control(sock)

    def add_control(self, sock):
        self.controls[sock.fileno()] = Control(sock)
        self.poll.register(sock, select.POLLIN)
        self.idle_since = None

    def drop_control(self, control):
        del self.controls[control.sock.fileno()]
        self.poll.unregister(control.sock)
        close_all(control.fds)
        PRIVATE.discard(control.sock)

    def read_control(self, control):
        try:
            while True:
                received = control.read_frame()
                if received is None:
                    return
                kind, payload, fds = received
                if kind == HELLO:
                    self.greet(control, decode_pairs(payload))
                elif kind == FORK and self.app is not None and len(fds) >= 4:
                    self.fork(control, fds)
                else:
                    close_all(fds)
                    raise EOFError
        except (OSError, EOFError, ValueError):
            self.drop_control(control)

    def greet(self, control, pairs):
        """HELLO: how long to linger for this front, and who spawned it."""
        self.linger = float(pairs.get('linger') or 0)
        spawner = int(pairs.get('spawner') or 0)
        if spawner > 0:
            self.spawners.add((spawner, pairs.get('spawner_start') or '0'))
        control.greeted = True
        control.sock.sendall(self.answer)

    def fork(self, control, fds):
        """FORK: a worker for this front."""
        try:
            pid = os.fork()
        except OSError as error:
            control.sock.sendall(frame(REFUSED, 'fork was refused: {}'.format(error).encode()))
            close_all(fds)  # after it: the front learns of the refusal before its slots end
            for other in list(self.controls.values()):
                if other is not control and other.greeted:
                    self.ask_release(other)
            return
        if pid == 0:
            try:
                self.become_worker(fds[0], fds[1], fds[2], fds[3:])
            except BaseException:
                log('runfcgi: the worker could not start\n' + describe_exception())
            finally:
                os._exit(1)
        close_all(fds)
        self.children[pid] = control
        control.sock.sendall(frame(FORKED, struct.pack('>I', pid)))

    def ask_release(self, control):
        """A front that does not read is not asked twice; what is wrong with it shows in its own turn."""
        try:
            control.sock.sendall(frame(RELEASE))
        except OSError:
            pass

    def become_worker(self, lifeline, stdout, stderr, slots):
        """In the forked child, which has dropped listener, lock and control sockets already."""
        hold_lifeline(lifeline)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self.old_sigchld or signal.SIG_DFL)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        close_all((stdout, stderr))
        reseed(self.generators)
        gc.enable()
        run_worker(self.app, self.settings, slots)

    def reap(self):
        """Collects ended workers; never another child of the application."""
        for child in list(self.children):
            try:
                pid, status = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                pid, status = child, 0
            if pid:
                self.tell_exit(pid, self.children.pop(pid), describe_exit(status))

    def tell_exit(self, pid, control, words):
        """EXITED: the front that had asked for the worker explains its end to the owner."""
        if words and self.controls.get(control.sock.fileno()) is control:
            try:
                control.sock.sendall(frame(EXITED, struct.pack('>I', pid) + words.encode()))
            except OSError:
                pass

    def patience(self):
        """How long the next wait may be."""
        if self.controls:
            return None
        if self.idle_since is None:
            self.idle_since = time.monotonic()
        return max(0.0, min(1.0, self.idle_since + self.linger - time.monotonic()))

    def may_leave(self):
        """Whether nobody needs us: no front, and the time to linger is over or all that spawn fronts are gone."""
        if self.controls or self.idle_since is None:
            return False
        if time.monotonic() - self.idle_since >= self.linger or self.is_superseded():
            return True
        return bool(self.spawners) and not any(is_alive(pid, start) for pid, start in self.spawners)

    def is_superseded(self):
        """Whether a newer version of the code has been imported with success: no new front will ask for ours."""
        try:
            with open(self.settings['good_file']) as file:
                return file.readline().strip() != self.settings['version']
        except OSError:
            return False

    def leave(self):
        self.take_away()
        os._exit(0)

    def take_away(self):
        """Takes the socket away while the lock is held, turns away who waits there, and ends what the application has
        started."""
        if same_file(self.settings['lock'], self.lock):
            unlink(self.settings['socket'])
        try:
            while True:
                self.listener.accept()[0].close()
        except OSError:
            pass
        lock = self.settings['lock']
        if same_file(lock, self.lock):
            unlink(lock)
            tidy(os.path.dirname(lock), self.settings['swept'].split(), self.settings['kept'].split())
        if not has_no_children():
            attempt('ending what the application has started', self.end_started)
        ERRORS.flush()

    def end_started(self):
        """Ends the processes that the application has started here; the workers have a life of their own."""
        end_processes(find_descendants([self.pid], self.children))


def close_all(fds):
    for fd in fds:
        os.close(fd)


def take_output(stream):
    """What was written to the stream's descriptor until now, as far as it can be read back; the file is emptied."""
    stream.flush()
    sys.stdout.flush()
    fd = stream.fileno()
    try:
        size = os.fstat(fd).st_size
        text = os.pread(fd, TEXT_LIMIT, max(0, size - TEXT_LIMIT))
        os.ftruncate(fd, 0)
    except OSError:
        return ''
    return text.decode('utf-8', 'replace').replace('\0', '')


def forget_output():
    """Once the application is imported nobody reads what is written to the preloader's nameless files."""
    for fd in (1, 2):
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and not status.st_nlink and status.st_size > LOG_LIMIT:
            os.ftruncate(fd, 0)


def stamp(path):
    """What changes when a file is written anew."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def watched_files(app_path):
    """The files whose change may cure the failed import just being handled, with their stamps."""
    paths = {getattr(module, '__file__', None) or '' for module in list(sys.modules.values())}
    paths = {path for path in paths if path.startswith(os.path.join(app_path, ''))}
    error = sys.exc_info()[1]
    for _ in range(10):
        if error is not None:
            paths.update(entry[0] for entry in traceback.extract_tb(error.__traceback__))
            paths.update((getattr(error, 'filename', None), getattr(error, 'path', None)))
            error = error.__cause__ or error.__context__
    stamps = {path: stamp(path) for path in paths if isinstance(path, str)}
    return {path: seen for path, seen in stamps.items() if seen}
