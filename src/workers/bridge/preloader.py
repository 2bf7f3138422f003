"""The preloader: holds the imported application, forks a worker whenever a front asks, and exits when unused.

In the plain form, the workers import the application, and the preloader only forks and keeps them.
"""

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
from .control import Control
from .files import same_file, tidy, unlink
from .frameworks import connect
from .hints import describe_failure, encode_failure
from .imports import few_operations
from .opened import describe_opened, list_descriptors
from .output import ERRORS, attempt, describe_exception, log
from .plain import import_and_serve
from .private import PRIVATE
from .processes import (
    count_threads,
    do_nothing,
    end_processes,
    find_descendants,
    has_no_children,
    identify,
    ignore_signals,
    is_alive,
    set_process_name,
)
from .report import Report
from .site_pool import SitePool
from .warm import collect_as_usual, share_memory, warm_up
from .wire import (
    BUSY,
    FAILED,
    FORK,
    GONE,
    HELLO,
    KEEP,
    LOG_LIMIT,
    MAKE_ROOM,
    OUTPUT,
    READY,
    SO_PEERCRED,
    TEXT_LIMIT,
    Poll,
    decode_pairs,
    encode_pairs,
    frame,
    unix_socket,
)
from .worker import hold_lifeline, run_worker

MAKE_WAY_WITHIN = 2.0  # seconds for the fronts to read that they need another preloader
FAILED_BACKOFF = 4.0  # seconds before a broken application is imported again; less than the front's own RETRY


class Preloader:
    """Holds the imported application and forks workers for the fronts that connect.

    The lock is free if and only if there is no preloader; the socket is unlinked only while the lock is held.
    """

    def __init__(self, settings, first, listener_fd, lock_fd):
        self.settings = settings
        self.listener = PRIVATE.add(unix_socket(listener_fd))
        self.listener.setblocking(False)
        self.lock = PRIVATE.add(lock_fd)
        self.pid = os.getpid()
        self.app = None  # or workers import it
        self.answer = b''  # READY or FAILED
        self.report = None
        self.controls = {}
        self.spawners = set()
        self.linger = 0.0
        self.idle_since = None
        self.wake = None
        self.old_sigchld = None
        self.generators = []  # of random numbers
        self.poll = Poll()
        self.poll.register(self.listener, select.POLLIN)
        self.pool = SitePool(settings, self.poll, self.become_worker)
        self.add_control(first)

    def run(self):
        """Imports the application, then serves fronts until it is time to exit. Never returns."""
        set_process_name('runfcgi-preload')
        PRIVATE.guard_forks()
        self.set_signals()
        self.claim()
        began = time.monotonic()
        opened = self.read_opened()
        plain = bool(opened) or self.settings.get('preload') == '0'
        if not plain:
            opened = self.import_app()
        threads = count_threads()
        shared = plain or (threads == 1 and not opened)
        if shared:
            self.continue_in_child()
        version = '{}.{}.{}'.format(*sys.version_info)
        seconds = '{:.3f}'.format(time.monotonic() - began)
        ready = ('python', version, 'threads', str(threads), 'seconds', seconds, 'pid', str(self.pid))
        ready += ('open', opened, 'plain', '1' if plain else '')
        ready += ('errors', take_output(ERRORS))
        if sys.__stdout__.kind == OUTPUT:
            ready += ('output', take_output(sys.__stdout__))
        self.answer = frame(READY, encode_pairs(*ready))
        if not shared:
            self.make_way(opened or '{} threads'.format(threads))
        self.pool.opens(plain)
        line = '{} {}'.format(self.pid, self.settings['ready'])
        self.write_lock(line)  # from now on no answer means we hang
        self.report = Report(self.lock, line)
        self.set_signals()  # again: the import may have set others
        self.old_sigchld = signal.signal(signal.SIGCHLD, do_nothing)
        try:
            self.open_wake_pipe()
            self.serve()
        finally:
            log('runfcgi: the preloader ends\n' + describe_exception())
            self.clean_up()
            os._exit(1)

    def serve(self):
        """Serves fronts until it is time to exit. Never returns."""
        while True:
            self.handle_events(self.timeout())
            self.pool.on_time()
            self.pool.tell(self.controls.values())
            self.report.update(self.pool)
            forget_output()
            if self.may_leave():
                self.leave()

    def import_app(self):
        """Imports the application, or reports why it can't. Returns a description of what it has left open."""
        before = list_descriptors()
        try:
            with few_operations(self.settings):
                app = load_app(self.settings)
                warm_up(app, self.settings)
                connect(self.settings)
            share_memory()
        except BaseException:
            text = describe_failure(self.settings)
            log(text)
            self.answer = frame(FAILED, encode_failure(text, TEXT_LIMIT))
            self.serve_failure(watched_files(self.settings['app_path']))
        self.app = app
        collect_as_usual()
        gc.disable()
        self.generators = attempt('finding random number generators', find_generators) or []
        return attempt('finding what is open', lambda: describe_opened(before)) or ''

    def make_way(self, opened):
        """Workers must not be forked from here: notes why, tells the fronts, and leaves. The next preloader of this version
        does not import the application."""
        attempt('noting what is open', lambda: self.write_opened(opened))
        self.clean_up(successor=True)
        end = time.monotonic() + MAKE_WAY_WITHIN
        while self.controls and time.monotonic() < end:
            self.handle_events(end - time.monotonic())
        os._exit(0)

    def read_opened(self):
        """What an earlier preloader found open after importing this version. If it did, there is no need to import."""
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

    def continue_in_child(self):
        """Forks and exits the parent. That sheds what only the import had mapped: parts of libraries, 2 to 3 MB. Where
        fork is refused, goes on as it is."""
        ERRORS.flush()
        sys.stdout.flush()
        held, PRIVATE.held = PRIVATE.held, []  # the child becomes the preloader, so it keeps them
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
        """Writes our pid into the lock file, so that a front can kill us if the import hangs."""
        self.pid = os.getpid()
        self.write_lock(str(self.pid))

    def write_lock(self, text):
        """A failure is only logged: the lock holds without its text."""
        try:
            os.ftruncate(self.lock, os.pwrite(self.lock, text.encode(), 0))
        except OSError as error:
            log('runfcgi: cannot write the lock file: {}'.format(error))

    def serve_failure(self, before):
        """Tells every front why the import failed, until a file changes or the back-off is over; then exits."""
        end = time.monotonic() + FAILED_BACKOFF
        while time.monotonic() < end and before == {path: stamp(path) for path in before}:
            self.handle_events(0.5)
        self.leave()

    def set_signals(self):
        """Obeys TERM and ignores the rest: a front ends us by closing its connection."""
        ignore_signals()
        signal.signal(signal.SIGTERM, self.on_term)

    def on_term(self, _number, _stack):
        if os.getpid() == self.pid:
            self.clean_up()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(self.pid, signal.SIGTERM)  # so that our parent sees that it was not the app's fault
        os._exit(0)

    def open_wake_pipe(self):
        """Makes SIGCHLD wake the poll."""
        self.wake, write_end = os.pipe()
        PRIVATE.add(self.wake), PRIVATE.add(write_end)
        os.set_blocking(self.wake, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end)
        self.poll.register(self.wake, select.POLLIN)

    def handle_events(self, timeout):
        """Waits for events once, and handles them."""
        for fd, _ in self.poll.poll(None if timeout is None else int(timeout * 1000) + 1):
            if fd == self.listener.fileno():
                self.accept()
            elif fd == self.wake:
                os.read(self.wake, 4096)
            elif fd in self.controls:
                self.read_control(self.controls[fd])
            else:
                self.pool.kept.on_event(fd)

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log('runfcgi: accept failed: {}'.format(error))
                time.sleep(0.1)  # out of descriptors, say: don't spin
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
        self.pool.forget(control)
        PRIVATE.discard(control.sock)

    def read_control(self, control):
        fds = []
        try:
            while True:
                received = control.read_frame()
                if received is None:
                    return
                kind, payload, fds = received
                if kind == HELLO:
                    self.greet(control, decode_pairs(payload))
                elif kind == FORK and self.pool.is_open and len(fds) >= 4:
                    self.pool.request(control, payload, fds)
                elif kind == KEEP and len(fds) >= 3:
                    self.pool.keep(control, decode_pairs(payload), fds)
                elif kind == BUSY:
                    self.pool.busy(control)
                elif kind == GONE:
                    self.pool.gone(control, *struct.unpack('>I', payload))
                elif kind == MAKE_ROOM:
                    self.pool.make_room(control)
                else:
                    raise EOFError
                fds = []  # whoever took them closes them
        except (OSError, EOFError, ValueError, KeyError, struct.error):
            close_all(fds)
            self.drop_control(control)

    def greet(self, control, pairs):
        """HELLO: how long to linger for this front, and who spawned it."""
        self.linger = float(pairs.get('linger') or 0)
        control.front = control.front or identify(int(pairs['pid']))
        spawner = int(pairs.get('spawner') or 0)
        if spawner > 0:
            self.spawners.add((spawner, pairs.get('spawner_start') or '0'))
        control.sock.sendall(self.answer)
        control.greeted = True

    def become_worker(self, lifeline, stdout, stderr, slots):
        """Runs in the forked child, which has closed the listener, lock and control sockets already."""
        hold_lifeline(lifeline)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self.old_sigchld or signal.SIG_DFL)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        close_all((stdout, stderr))
        if self.app is None:
            import_and_serve(self.settings, slots)
        reseed(self.generators)
        gc.enable()
        run_worker(self.app, self.settings, slots)

    def timeout(self):
        """How long the next poll may wait, in seconds; None: forever."""
        now = time.monotonic()
        times = [self.pool.deadline(), self.report.deadline() if self.report else None]
        if not self.controls:
            if self.idle_since is None:
                self.idle_since = now
            times.append(min(now + 1.0, self.idle_since + self.linger))
        times = [at for at in times if at is not None]
        return max(0.0, min(times) - now) if times else None

    def may_leave(self):
        """Whether nobody needs us: no front is connected, and the linger time is over, a newer version works, or every
        process that spawns fronts is gone."""
        if self.controls or self.idle_since is None:
            return False
        if time.monotonic() - self.idle_since >= self.linger or self.is_superseded():
            return True
        return bool(self.spawners) and not any(is_alive(pid, start) for pid, start in self.spawners)

    def is_superseded(self):
        """Whether a newer version of the code works: no new front will ask for ours."""
        try:
            with open(self.settings['good_file']) as file:
                return file.readline().strip() != self.settings['version']
        except OSError:
            return False

    def leave(self):
        self.clean_up()
        self.pool.end()
        os._exit(0)

    def clean_up(self, successor=False):
        """Removes the socket while the lock is held, disconnects the fronts in its backlog, and ends what the
        application has started. Without a `successor`, also what only preloaders need."""
        lock = self.settings['lock']
        # Where the socket cannot be removed, the lock file stays too: who sweeps that removes both.
        ours = same_file(lock, self.lock) and unlink(self.settings['socket'])
        try:
            while True:
                self.listener.accept()[0].close()
        except OSError:
            pass
        if ours:
            unlink(lock)
            if not successor:
                tidy(os.path.dirname(lock), *[self.settings[name].split() for name in ('swept', 'kept', 'aged')])
        if not has_no_children():
            attempt('ending what the application has started', self.end_started)
        ERRORS.flush()

    def end_started(self):
        """Ends the processes that the application started here, but not the workers."""
        end_processes(find_descendants([self.pid], self.pool.children))


def close_all(fds):
    for fd in fds:
        os.close(fd)


def take_output(stream):
    """Returns what was written to the stream's descriptor, if it can be read back, and empties the file."""
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
    """Truncates the preloader's nameless output files: nobody reads them once the application is imported."""
    for fd in (1, 2):
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and not status.st_nlink and status.st_size > LOG_LIMIT:
            os.ftruncate(fd, 0)


def stamp(path):
    """What changes when a file is rewritten."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def watched_files(app_path):
    """The files whose change may fix the import error being handled, with their stamps."""
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
