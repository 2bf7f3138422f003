"""Drives src/workers/bridge/ in real interpreters over socket pairs, as the front does; the tests of it import this.

Each test runs on every interpreter found: those of RUNFCGI_TEST_PYTHONS (path:path), or else python3.N and pypy3 on
PATH and ~/.pyenv/versions/*. At least one must exist.
"""

import array
import concurrent.futures
import contextlib
import fcntl
import glob
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import textwrap
import time

HERE = os.path.dirname(os.path.abspath(__file__))
WORKER = os.path.join(HERE, '..', 'src', 'workers')


def package():
    """The package and its length, as src/workers/spawn.rs sends them."""
    items = []
    for path in sorted(glob.glob(os.path.join(WORKER, 'bridge', '*.py'))):
        with open(path, encoding='utf-8') as file:
            items += [os.path.basename(path)[:-3], file.read()]
    sources = ''.join(item + '\0' for item in items).encode()
    return b'%08x' % len(sources) + sources


with open(os.path.join(WORKER, 'loader.py')) as file:
    LOADER = file.read()
PACKAGE = package()
TIMEOUT = 20.0


def discover():
    """The interpreters to test, one for each version, by name."""
    named = os.environ.get('RUNFCGI_TEST_PYTHONS')
    if named:
        candidates = named.split(os.pathsep)
    else:
        candidates = [os.path.realpath(p) for p in glob.glob(os.path.expanduser('~/.pyenv/versions/*/bin/python3'))]
        for folder in os.environ.get('PATH', '').split(os.pathsep):
            candidates += glob.glob(os.path.join(folder, 'python3.[0-9]')) + glob.glob(os.path.join(folder, 'pypy3'))
            candidates += glob.glob(os.path.join(folder, 'python3.[0-9][0-9]'))
    found = {}
    show = 'import sys,platform;print(platform.python_implementation()+"-"+platform.python_version())'
    for path in candidates:
        try:
            name = subprocess.check_output([path, '-c', show], stderr=subprocess.DEVNULL, timeout=20).decode().strip()
        except (OSError, subprocess.SubprocessError):
            continue
        if tuple(int(part) for part in name.partition('-')[2].split('.')[:2]) >= (3, 6):
            found.setdefault(name, path)
    return found


PYTHONS = discover()


# The front's half of the wire ----------------------------------------------------------------------------------------


def pairs(mapping):
    return b''.join(k.encode() + b'\0' + str(v).encode('latin-1') + b'\0' for k, v in mapping.items())


def frame(kind, payload=b''):
    return struct.pack('>cBxxI', kind, 0, len(payload)) + payload


def request(body=b'', fd=False, serial=0, **environ):
    env = {'REQUEST_METHOD': 'GET', 'SCRIPT_NAME': '', 'PATH_INFO': '/', 'QUERY_STRING': '', 'SERVER_NAME': 'localhost'}
    env.update({'SERVER_PORT': '80', 'SERVER_PROTOCOL': 'HTTP/1.1', 'HTTP_HOST': 'localhost'})
    if body:
        env.update({'REQUEST_METHOD': 'POST', 'CONTENT_LENGTH': len(body), 'CONTENT_TYPE': 'text/plain'})
    env.update(environ)
    block = pairs(env)
    return struct.pack('>cBHIQ', b'R', 1 if fd else 0, serial, len(block), len(body)) + block + (b'' if fd else body)


ABORT = b'A' + bytes(15)


def send_fds(sock, data, fds):
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))])


def receive(sock, size):
    data, fds = b'', array.array('i')
    while len(data) < size:
        more, control, _, _ = sock.recvmsg(size - len(data), socket.CMSG_SPACE(64))
        if not more:
            raise EOFError('end of stream after {!r}'.format(data))
        data += more
        for _, _, raw in control:
            fds.frombytes(raw)
    return data, list(fds)


def read_frame(sock):
    """(type, payload, flags, descriptors)"""
    head, fds = receive(sock, 8)
    kind, flags, size = struct.unpack('>cBxxI', head)
    return kind, receive(sock, size)[0], flags, fds


class Answer:
    """All frames of one response."""

    def __init__(self, sock):
        self.frames = []
        while not self.frames or self.frames[-1][0] != b'E':
            self.frames.append(read_frame(sock))
        self.truncated = self.frames[-1][2] & 1 == 1

    def of(self, kind):
        return b''.join(f[1] for f in self.frames if f[0] == kind)

    @property
    def order(self):
        return b''.join(f[0] for f in self.frames).decode()

    @property
    def status(self):
        return self.of(b'H').split(b'\0')[0].decode()

    @property
    def fields(self):
        items = iter(self.of(b'H').decode('latin-1').split('\0')[1:])
        return dict(zip(items, items))

    @property
    def body(self):
        return self.of(b'D')

    @property
    def log(self):
        return self.of(b'L').decode()

    @property
    def error(self):
        """The traceback of the exception that was let out."""
        return self.told(b'X').get('traceback', '')

    def told(self, kind):
        """What is told of an exception."""
        items = iter(self.of(kind).decode().split('\0'))
        return dict(zip(items, items))


def wait_for(condition, what, timeout=TIMEOUT):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError('waited too long for ' + what)


def is_gone(pid):
    """Whether the process has ended; a zombie has."""
    try:
        with open('/proc/{}/stat'.format(pid)) as file:
            return file.read().rpartition(')')[2].split()[0] in 'ZX'
    except OSError:
        return True


def start_ticks(pid):
    with open('/proc/{}/stat'.format(pid)) as file:
        return file.read().rpartition(')')[2].split()[19]


class Front:
    """Starts one Python as the front does and holds the other ends."""

    def __init__(
        self, test, python, app, mode, fds=(), readable=False, preexec_fn=None, outputs=(), files=None,
        environ=None, **settings
    ):  # fmt: skip
        """`files`: more of the app's, by path. `environ`: more of the environment."""
        self.folder = tempfile.mkdtemp(prefix='bridge-')
        test.addCleanup(shutil.rmtree, self.folder, True)
        for name, text in dict(files or {}, **{'app.py': app}).items():
            path = os.path.join(self.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w') as file:
                file.write(textwrap.dedent(text))
        self.log_path = os.path.join(self.folder, 'log')
        if readable:
            os.chmod(self.folder, 0o755)
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT)
        test.addCleanup(ours.close)
        variables = {'PATH': '/usr/bin:/bin', 'LANG': 'C.UTF-8', 'PYTHONUTF8': '1', 'PYTHONDONTWRITEBYTECODE': '1'}
        variables.update(environ or {}, MARK=self.folder)
        with open(self.log_path, 'ab') as log:
            stdout, stderr = outputs or (log, log)
            self.process = subprocess.Popen(
                [python, '-c', LOADER], stdin=theirs, stdout=stdout, stderr=stderr, cwd=self.folder, env=variables,
                preexec_fn=preexec_fn,
            )  # fmt: skip
        theirs.close()
        test.addCleanup(self.end)
        self.setup = ours
        ours.sendall(PACKAGE)
        chosen = {'mode': mode, 'app_path': self.folder, 'wsgi': 'app:app', 'threads': '1', 'multiprocess': '1'}
        chosen.update(settings)
        send_fds(ours, frame(b'S', pairs(chosen)), fds)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self):
        with open(self.log_path) as file:
            return file.read()


class Worker(Front):
    """mode=worker, with `slots` sockets."""

    def __init__(self, test, python, app, slots=1, **settings):
        lifeline_read, self.lifeline = os.pipe()
        both = [socket.socketpair() for _ in range(slots)]
        self.slots = [ours for ours, _ in both]
        fds = [lifeline_read] + [theirs.fileno() for _, theirs in both]
        super().__init__(test, python, app, 'worker', fds, threads=str(slots), **settings)
        os.close(lifeline_read)
        for ours, theirs in both:
            theirs.close()
            ours.settimeout(TIMEOUT)
            test.addCleanup(ours.close)
        test.addCleanup(self.cut)
        self.slot = self.slots[0]

    def cut(self):
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def started(self):
        for slot in self.slots:
            kind, payload, _, _ = read_frame(slot)
            assert kind == b'W', (kind, payload)
        self.pid = struct.unpack('>I', payload)[0]
        return self

    def ask(self, *args, **environ):
        self.slot.sendall(request(*args, **environ))
        return Answer(self.slot)


class Preloader(Front):
    """mode=preloader, with the listener and the lock that the front makes."""

    def __init__(self, test, python, app, **settings):
        self.runtime = tempfile.mkdtemp(prefix='bridge-run-')
        test.addCleanup(shutil.rmtree, self.runtime, True)
        self.path = os.path.join(self.runtime, 'v.sock')
        self.lock_path = os.path.join(self.runtime, 'v.lock')
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(128)
        lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = {'version': 'v', 'socket': self.path, 'lock': self.lock_path, 'ready': 'ready'}
        names.update({name + '_file': os.path.join(self.runtime, name) for name in ('good', 'open')})
        names.update(swept='front- exe-', kept='good open python reload turn', aged='journal')
        names.update(settings)
        super().__init__(test, python, app, 'preloader', [listener.fileno(), lock], **names)
        listener.close()
        os.close(lock)
        self.test = test
        self.pid = None
        self.cuts = []
        self.given = []  # descriptors that came with the last answer to FORK

    def end(self):
        super().end()
        for fd in self.cuts:
            with contextlib.suppress(OSError):
                os.close(fd)
        if self.pid and not is_gone(self.pid):
            os.kill(self.pid, signal.SIGKILL)

    def hello(self, sock=None, linger=0, spawner=0, start='0'):
        """HELLO, and the answer to it: (type, text or pairs)."""
        sock = sock or self.setup
        sock.sendall(
            frame(b'h', pairs({'pid': os.getpid(), 'spawner': spawner, 'spawner_start': start, 'linger': linger}))
        )
        kind, payload, _, _ = read_frame(sock)
        if kind == b'r':
            items = iter(payload.decode().split('\0'))
            told = dict(zip(items, items))
            self.pid = int(told['pid'])
            return kind, told
        return kind, payload.decode()

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        self.test.addCleanup(sock.close)
        sock.connect(self.path)
        return sock

    def fork(self, sock=None, slots=1, shape=''):
        """FORK: (answer, slot sockets, lifeline write end, stderr read end)"""
        sock = sock or self.setup
        lifeline_read, lifeline = os.pipe()
        stderr, stderr_write = os.pipe()
        both = [socket.socketpair() for _ in range(slots)]
        fds = [lifeline_read, stderr_write, stderr_write] + [theirs.fileno() for _, theirs in both]
        send_fds(sock, frame(b'f', shape.encode()), fds)
        os.close(lifeline_read)
        os.close(stderr_write)
        for ours, theirs in both:
            theirs.close()
            ours.settimeout(TIMEOUT)
            self.test.addCleanup(ours.close)
        self.cuts += [lifeline, stderr]
        kind, payload, _, self.given = read_frame(sock)
        while kind == b'l':  # asked for a worker meanwhile
            sock.sendall(frame(b'y'))
            kind, payload, _, self.given = read_frame(sock)
        return (kind, payload), [ours for ours, _ in both], lifeline, stderr

    def keep(self, pid, lifeline, stderr, slot, sock=None, shape='1', **facts):
        """KEEP: as a front gives away its idle worker."""
        facts = {'pid': pid, 'shape': shape, 'served': 1, 'idle_timeout': 60, 'spare': 1, 'old_in': '', **facts}
        send_fds(sock or self.setup, frame(b'p', pairs(facts)), [lifeline, stderr, slot.fileno()])
        slot.close()
        for fd in (lifeline, stderr):
            self.cuts.remove(fd)
            os.close(fd)

    def can_lock(self):
        try:
            fd = os.open(self.lock_path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)


HELLO_APP = """
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'hello']
"""


with open(os.path.join(HERE, 'apps', 'bridge', 'rich.py')) as file:
    RICH_APP = file.read()


def each_python(method):
    """Runs a test once for each interpreter, some at a time: most of a test is waiting."""

    def run(self):
        self.assertTrue(PYTHONS, 'no python3 found to test with')

        def run_one(path):
            case = type(self)(self._testMethodName)  # its own asserts and cleanups
            try:
                method(case, path)
            except BaseException as error:
                return error
            finally:
                case.doCleanups()

        names = sorted(PYTHONS)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            errors = list(pool.map(run_one, [PYTHONS[name] for name in names]))
        for name, error in zip(names, errors):
            with self.subTest(python=name):
                if error is not None:
                    raise error

    run.__name__, run.__doc__ = method.__name__, method.__doc__
    return run
