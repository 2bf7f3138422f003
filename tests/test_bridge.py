"""Tests of src/worker/bridge/: real interpreters, driven over socket pairs as the front drives them.

    python3 -m unittest tests/test_bridge.py        (or pytest; RUNFCGI_TEST_PYTHONS=path:path names interpreters)

Each test runs on every interpreter found: those of RUNFCGI_TEST_PYTHONS, or else python3.N and pypy3 on PATH and
~/.pyenv/versions/*. At least one must exist.
"""

import array
import concurrent.futures
import contextlib
import fcntl
import glob
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import textwrap
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
WORKER = os.path.join(HERE, '..', 'src', 'worker')


def bridge():
    """The parts of the bridge, joined as src/worker/spawn.rs joins them."""
    with open(os.path.join(WORKER, 'spawn.rs')) as file:
        parts = re.findall(r'include_str!\("(bridge/\w+\.py)"\)', file.read())
    source = b''
    for part in parts:
        with open(os.path.join(WORKER, part), 'rb') as file:
            source += file.read()
    return source


BRIDGE = bridge()

# What the front gives to `python -c`: it reads the bridge's length and source from descriptor 0 and runs it.
LOADER = (
    "import os;n=int(os.read(0,8),16);b=b''\n"
    "while len(b)<n:b+=os.read(0,n-len(b))\n"
    "exec(compile(b,'<runfcgi>','exec'),{'__name__':'__runfcgi__'})"
)
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


def request(body=b'', fd=False, **environ):
    env = {'REQUEST_METHOD': 'GET', 'SCRIPT_NAME': '', 'PATH_INFO': '/', 'QUERY_STRING': '', 'SERVER_NAME': 'localhost'}
    env.update({'SERVER_PORT': '80', 'SERVER_PROTOCOL': 'HTTP/1.1', 'HTTP_HOST': 'localhost'})
    if body:
        env.update({'REQUEST_METHOD': 'POST', 'CONTENT_LENGTH': len(body), 'CONTENT_TYPE': 'text/plain'})
    env.update(environ)
    block = pairs(env)
    return struct.pack('>cBxxIQ', b'R', 1 if fd else 0, len(block), len(body)) + block + (b'' if fd else body)


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
        return self.of(b'X').decode()


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

    def __init__(self, test, python, app, mode, fds=(), readable=False, preexec_fn=None, outputs=(), **settings):
        self.folder = tempfile.mkdtemp(prefix='bridge-')
        test.addCleanup(shutil.rmtree, self.folder, True)
        with open(os.path.join(self.folder, 'app.py'), 'w') as file:
            file.write(textwrap.dedent(app))
        self.log_path = os.path.join(self.folder, 'log')
        if readable:
            os.chmod(self.folder, 0o755)
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT)
        test.addCleanup(ours.close)
        environ = {'PATH': '/usr/bin:/bin', 'LANG': 'C.UTF-8', 'PYTHONUTF8': '1', 'PYTHONDONTWRITEBYTECODE': '1'}
        environ['MARK'] = self.folder
        with open(self.log_path, 'ab') as log:
            stdout, stderr = outputs or (log, log)
            self.process = subprocess.Popen(
                [python, '-c', LOADER], stdin=theirs, stdout=stdout, stderr=stderr, cwd=self.folder, env=environ,
                preexec_fn=preexec_fn,
            )  # fmt: skip
        theirs.close()
        test.addCleanup(self.end)
        self.setup = ours
        ours.sendall(b'%08x' % len(BRIDGE) + BRIDGE)
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
        super().__init__(
            test, python, app, 'preloader', [listener.fileno(), lock], socket=self.path, lock=self.lock_path, **settings
        )
        listener.close()
        os.close(lock)
        self.test = test
        self.pid = None
        self.cuts = []

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

    def fork(self, sock=None, slots=1):
        """FORK: (answer, slot sockets, lifeline write end, stderr read end)"""
        sock = sock or self.setup
        lifeline_read, lifeline = os.pipe()
        stderr, stderr_write = os.pipe()
        both = [socket.socketpair() for _ in range(slots)]
        fds = [lifeline_read, stderr_write, stderr_write] + [theirs.fileno() for _, theirs in both]
        send_fds(sock, frame(b'f'), fds)
        os.close(lifeline_read)
        os.close(stderr_write)
        for ours, theirs in both:
            theirs.close()
            ours.settimeout(TIMEOUT)
            self.test.addCleanup(ours.close)
        self.cuts += [lifeline, stderr]
        kind, payload = read_frame(sock)[:2]
        return (kind, payload), [ours for ours, _ in both], lifeline, stderr

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


RICH_APP = """
import io, os, sys, tempfile, threading
from wsgiref.validate import validator

TEXT = [('Content-Type', 'text/plain')]

class Closing:
    def __init__(self, pieces):
        self.pieces = iter(pieces)
    def __iter__(self):
        return self
    def __next__(self):
        piece = next(self.pieces)
        if isinstance(piece, BaseException):
            raise piece
        return piece
    def close(self):
        print('closed')

def make_file(size=100000):
    file = tempfile.TemporaryFile()
    file.write(bytes(range(100)) * (size // 100))
    file.seek(0)
    return file

def generator(env, start):
    start('200 OK', TEXT)
    yield b''
    yield b'one'
    print('between')
    yield b'two'

def late_start(env, start):
    yield start('201 Created', TEXT) and b''

def write(env, start):
    send = start('200 OK', TEXT)
    send(b'a')
    send(b'b')
    return [b'c']

def exc_info(env, start):
    start('200 OK', TEXT)
    try:
        raise KeyError('spoon')
    except KeyError:
        start('500 Oops', TEXT + [('X-Kept', 'no')], sys.exc_info())
    return [b'sorry']

def exc_info_late(env, start):
    start('200 OK', TEXT)(b'begun')
    try:
        raise KeyError('spoon')
    except KeyError:
        start('500 Oops', TEXT, sys.exc_info())
    return [b'never']

def twice(env, start):
    start('200 OK', TEXT)
    start('200 OK', TEXT)
    return []

def never(env, start):
    return [b'body without head']

def big(env, start):
    start('200 OK', TEXT)
    return [b'0123456789' * 300000, b'tail']

def echo(env, start):
    start('200 OK', TEXT)
    return [env['wsgi.input'].read()]

def methods(env, start):
    source = env['wsgi.input']
    found = [source.readline(3), source.readline(), source.readlines(5), source.read(2)]
    found += [list(source), source.read(), source.seek(1), source.read(4)]
    start('200 OK', TEXT)
    return [repr(found).encode()]

def file(env, start):
    start('200 OK', TEXT)
    source = make_file()
    source.read(1000)
    return env['wsgi.file_wrapper'](source)

def file_cut(env, start):
    start('200 OK', TEXT + [('Content-Length', '7')])
    return env['wsgi.file_wrapper'](make_file())

def file_memory(env, start):
    start('200 OK', TEXT)
    return env['wsgi.file_wrapper'](io.BytesIO(b'in memory'), 4)

def file_gzip(env, start):
    import gzip
    packed = tempfile.TemporaryFile()
    with gzip.GzipFile(fileobj=packed, mode='wb') as out:
        out.write(b'unpacked')
    packed.seek(0)
    start('200 OK', TEXT)
    return env['wsgi.file_wrapper'](gzip.GzipFile(fileobj=packed))

def fail_first(env, start):
    start('200 OK', TEXT)
    return Closing([ValueError('before the head')])

def fail_later(env, start):
    start('200 OK', TEXT)
    return Closing([b'some', ValueError('after the head')])

def leave(env, start):
    sys.exit(3)

def interrupt(env, start):
    raise KeyboardInterrupt

def header(env, start):
    start(env.get('HTTP_STATUS', '200 OK'), [(env.get('HTTP_NAME', 'X-A'), env.get('HTTP_VALUE', 'v'))])
    return [b'x']

def odd_types(env, start):
    start('200 OK', [('X-A', b'bytes')])
    return [b'x']

def text_body(env, start):
    start('200 OK', TEXT)
    return ['text']

def longer(env, start):
    start('200 OK', TEXT + [('Content-Length', '4')])
    return iter([b'abc', b'def', b'ghi'])

NINE = TEXT + [('Content-Length', '9')]

def shorter(env, start):
    start('200 OK', NINE)
    return iter([b'abc'])

def short_list(env, start):
    start('200 OK', NINE)
    return [b'abc', b'def']

def short_single(env, start):
    start('200 OK', NINE)
    return {b'abc'}

def short_file(env, start):
    start('200 OK', TEXT + [('Content-Length', '100001')])
    return env['wsgi.file_wrapper'](make_file())

def no_body(env, start):
    start('200 OK', NINE)
    return iter([b'', b''])

def more(*pieces):
    try:
        yield from pieces
        print('asked for more')
    finally:
        print('generator closed')

def enough(env, start):
    start('200 OK', NINE)
    return more(b'', b'nine', b' here')

def enough_by_write(env, start):
    start('200 OK', NINE)(b'nine here')
    return more()

def enough_of_nothing(env, start):
    start('200 OK', TEXT + [('Content-Length', '0')])
    return more(b'')

def not_modified(env, start):
    start('304 Not Modified', [])
    return more(b'not sent')

def long_head(env, start):
    start('200 OK', TEXT + [('X-Long', 'x' * 70000)] * int(env['QUERY_STRING']))
    return [b'body']

def status(env, start):
    start(env['QUERY_STRING'] + ' X', TEXT)
    return [b'body']

def endless(env, start):
    start('200 OK', TEXT)
    try:
        while True:
            yield b'x' * 100
    finally:
        print('generator closed')

def logs(env, start):
    env['wsgi.errors'].write('to errors\\n')
    env['wsgi.errors'].writelines(['a', 'b\\n'])
    print('to stdout', 1)
    print('to stderr \\udcff', file=sys.stderr)
    sys.stdout.buffer.write(b'raw \\xff\\n')
    sys.stdout.flush()
    thread = threading.Thread(target=print, args=('from a thread',))
    thread.start()
    thread.join()
    sys.stdout.write('unended')
    start('200 OK', TEXT)
    return []

def environ(env, start):
    start('200 OK', TEXT)
    return [repr(sorted((k, v) for k, v in env.items() if k.startswith('wsgi.') or k.startswith('X'))).encode()]

def signals(env, start):
    import signal
    start('200 OK', TEXT)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    return [os.popen('grep SigIgn /proc/self/status').read().split()[1].encode()]

def forked(env, start):
    if os.fork() == 0:
        print('from the child')
        os.execvp('sleep', ['sleep', '5'])
    start('200 OK', TEXT)
    return [b'parent']

def valid(env, start):
    def inner(env, start):
        body = env['wsgi.input'].read(5) + env['wsgi.input'].readline() + b''.join(env['wsgi.input'])
        env['wsgi.errors'].write('valid\\n')
        env['wsgi.errors'].flush()
        start('200 OK', TEXT + [('Content-Length', str(len(body) + 2))])
        return [b'<', body, b'>'] if env['REQUEST_METHOD'] != 'HEAD' else []
    return validator(inner)(env, start)

def app(env, start):
    return globals()[env['PATH_INFO'][1:]](env, start)
"""


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


class WorkerTest(unittest.TestCase):
    @each_python
    def test_hello(self, python):
        worker = Worker(self, python, HELLO_APP).started()
        self.assertEqual(worker.pid, worker.process.pid)
        for _ in range(2):
            answer = worker.ask()
            self.assertEqual((answer.order, answer.status, answer.body), ('HDE', '200 OK', b'hello'))
            self.assertEqual(answer.fields, {'Content-Type': 'text/plain', 'Content-Length': '5'})
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)

    @each_python
    def test_requests_in_any_pieces(self, python):
        worker = Worker(self, python, RICH_APP).started()
        whole = request(b'body', PATH_INFO='/echo')
        for byte in whole[:40]:
            worker.slot.sendall(bytes([byte]))
        worker.slot.sendall(whole[40:])
        self.assertEqual(Answer(worker.slot).body, b'body')
        worker.slot.sendall(ABORT + ABORT + whole + ABORT)
        self.assertEqual(Answer(worker.slot).body, b'body')
        for size in (70000, 3000000):
            self.assertEqual(len(worker.ask(b'z' * size, PATH_INFO='/echo').body), size)
        self.assertEqual(worker.ask(PATH_INFO='/echo', HTTP_X='y' * 200000).status, '200 OK')

    @each_python
    def test_response_forms(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/generator')
        self.assertEqual((answer.order, answer.body, answer.log), ('HDLDE', b'onetwo', 'between\n'))
        self.assertNotIn('Content-Length', answer.fields)
        answer = worker.ask(PATH_INFO='/late_start')
        self.assertEqual((answer.order, answer.status), ('HE', '201 Created'))
        answer = worker.ask(PATH_INFO='/write')
        self.assertEqual((answer.order, answer.body), ('HDDDE', b'abc'))
        answer = worker.ask(PATH_INFO='/exc_info')
        self.assertEqual((answer.status, answer.fields['X-Kept'], answer.body), ('500 Oops', 'no', b'sorry'))
        answer = worker.ask(PATH_INFO='/exc_info_late')
        self.assertEqual((answer.status, answer.body, answer.truncated), ('200 OK', b'begun', True))
        self.assertIn("KeyError: 'spoon'", answer.log)
        answer = worker.ask(PATH_INFO='/big')
        self.assertEqual((answer.body, answer.fields['Content-Length']), (b'0123456789' * 300000 + b'tail', '3000004'))
        self.assertLessEqual(max(len(f[1]) for f in answer.frames), 1 << 20)

    @each_python
    def test_body_may_be_left_out(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/big', REQUEST_METHOD='HEAD')
        self.assertEqual((answer.order, answer.fields['Content-Length']), ('HE', '3000004'))
        answer = worker.ask(PATH_INFO='/endless', REQUEST_METHOD='HEAD')
        self.assertEqual((answer.order, answer.truncated, answer.log), ('HLE', False, 'generator closed\n'))
        for code in ('204', '304'):
            answer = worker.ask(PATH_INFO='/status', QUERY_STRING=code)
            self.assertEqual((answer.order, 'Content-Length' in answer.fields), ('HE', False))

    @each_python
    def test_content_length_is_kept(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/longer')
        self.assertEqual((answer.body, answer.truncated), (b'abcd', False))
        self.assertEqual(answer.log.count('longer than its Content-Length 4'), 1)
        answer = worker.ask(PATH_INFO='/shorter')
        self.assertEqual((answer.body, answer.truncated), (b'abc', True))
        self.assertIn('6 bytes shorter', answer.log)

    @each_python
    def test_known_to_be_short_is_an_error(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for path, size, of in (
            ('/short_list', 6, 9), ('/short_single', 3, 9), ('/short_file', 100000, 100001), ('/no_body', 0, 9),
        ):  # fmt: skip
            answer = worker.ask(PATH_INFO=path)
            self.assertEqual(answer.order, 'XE', path)
            text = 'the response has {} bytes, but its Content-Length says {}'.format(size, of)
            self.assertEqual(answer.error, 'ValueError: ' + text + '\n')
            answer = worker.ask(PATH_INFO=path, REQUEST_METHOD='HEAD')
            self.assertEqual((answer.order, answer.fields['Content-Length'], answer.truncated), ('HE', str(of), False))

    @each_python
    def test_iteration_ends_with_the_content_length(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for path, body in (('/enough', b'nine here'), ('/enough_by_write', b'nine here'), ('/enough_of_nothing', b'')):
            answer = worker.ask(PATH_INFO=path)
            self.assertEqual((answer.body, answer.truncated), (body, False))
            # A generator that was never begun has nothing to close.
            self.assertEqual(answer.log, '' if path == '/enough_by_write' else 'generator closed\n')
        answer = worker.ask(PATH_INFO='/not_modified')
        self.assertEqual((answer.order, answer.log), ('HLE', 'generator closed\n'))

    @each_python
    def test_a_head_above_the_limit_is_an_error(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for count in (14, 15, 40):
            answer = worker.ask(PATH_INFO='/long_head', QUERY_STRING=str(count))
            if count == 14:
                self.assertEqual(answer.status, '200 OK')
                continue
            self.assertEqual(answer.order, 'XE')
            size = len('200 OK\0Content-Type\0text/plain\0') + count * len('X-Long\0\0') + count * 70000
            self.assertIn('ValueError: the response head has {} bytes, more than 1048512'.format(size), answer.error)
        self.assertEqual(worker.ask(PATH_INFO='/echo').status, '200 OK')

    @each_python
    def test_errors(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for path, error in (
            ('/twice', 'AssertionError: start_response was called a second time'),
            ('/never', 'AssertionError: the application did not call start_response'),
            ('/leave', 'SystemExit: 3'),
            ('/interrupt', 'KeyboardInterrupt'),
            ('/odd_types', 'TypeError: a header value is not a str'),
            ('/text_body', 'TypeError: the response body must be bytes, not str'),
            ('/missing', "KeyError: 'missing'"),
        ):
            answer = worker.ask(PATH_INFO=path)
            self.assertEqual(answer.order, 'XE', path)
            self.assertIn(error, answer.error)
            self.assertNotIn(
                '<runfcgi>', answer.error.partition('\n')[2].partition('\n')[0] if 'app.py' in answer.error else ''
            )
        answer = worker.ask(PATH_INFO='/fail_first')
        self.assertEqual((answer.order, answer.log), ('LXE', 'closed\n'))
        self.assertIn('ValueError: before the head', answer.error)
        answer = worker.ask(PATH_INFO='/fail_later')
        self.assertEqual((answer.body, answer.truncated), (b'some', True))
        self.assertIn('ValueError: after the head', answer.log)
        self.assertIn('closed\n', answer.log)

    @each_python
    def test_head_is_checked(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for bad in (
            {'HTTP_VALUE': 'a\r\nX-Injected: b'}, {'HTTP_VALUE': 'a\nb'}, {'HTTP_VALUE': 'a\x7f'}, {'HTTP_NAME': 'X:A'},
            {'HTTP_NAME': 'X A'}, {'HTTP_NAME': ''}, {'HTTP_NAME': 'X-\xe9'}, {'HTTP_STATUS': '200 OK\r\nX: y'},
            {'HTTP_STATUS': '200'}, {'HTTP_STATUS': 'OK'}, {'HTTP_STATUS': '99 X'},
            {'HTTP_NAME': 'Content-Length', 'HTTP_VALUE': '-1'},
        ):  # fmt: skip
            for _ in range(2):
                self.assertEqual(worker.ask(PATH_INFO='/header', **bad).order, 'XE', bad)
        answer = worker.ask(PATH_INFO='/header', HTTP_NAME='Connection', HTTP_VALUE='close')
        self.assertEqual(answer.fields, {'Content-Length': '1'})
        answer = worker.ask(PATH_INFO='/header', HTTP_VALUE='caf\xe9')
        self.assertEqual(answer.fields['X-A'], 'caf\xe9')

    @each_python
    def test_input_methods(self, python):
        worker = Worker(self, python, RICH_APP).started()
        body = b'first line\nsecond\nthird\nfourth\nfifth'
        expected = repr(
            [b'fir', b'st line\n', [b'second\n'], b'th', [b'ird\n', b'fourth\n', b'fifth'], b'', 1, b'irst']
        )
        self.assertEqual(worker.ask(body, PATH_INFO='/methods').body.decode(), expected)
        with tempfile.TemporaryFile() as spool:
            spool.write(body)
            spool.seek(0)
            send_fds(worker.slot, request(body, fd=True, PATH_INFO='/methods'), [spool.fileno()])
            self.assertEqual(Answer(worker.slot).body.decode(), expected)
        wait_for(lambda: spool_count(worker.pid) == 0, 'the body file to be closed')

    @each_python
    def test_file_wrapper(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/file')
        self.assertEqual((answer.order, answer.fields['Content-Length']), ('HFE', '99000'))
        _, extent, _, (fd,) = answer.frames[1]
        self.assertEqual(struct.unpack('>QQ', extent), (1000, 99000))
        self.assertEqual(os.pread(fd, 3, 1001), b'\x01\x02\x03')
        os.close(fd)
        answer = worker.ask(PATH_INFO='/file_cut')
        self.assertEqual((struct.unpack('>QQ', answer.of(b'F')), answer.truncated), ((0, 7), False))
        os.close(answer.frames[1][3][0])
        self.assertEqual(worker.ask(PATH_INFO='/file', REQUEST_METHOD='HEAD').order, 'HE')
        answer = worker.ask(PATH_INFO='/file_memory')
        self.assertEqual((answer.order, answer.body), ('HDDDE', b'in memory'))
        self.assertEqual(worker.ask(PATH_INFO='/file_gzip').body, b'unpacked')

    @each_python
    def test_validator(self, python):
        worker = Worker(self, python, RICH_APP).started()
        self.assertEqual(worker.ask(PATH_INFO='/valid').body, b'<>')
        answer = worker.ask(b'some\nlines\nhere', PATH_INFO='/valid')
        self.assertEqual((answer.body, answer.log, answer.error), (b'<some\nlines\nhere>', 'valid\n', ''))
        answer = worker.ask(PATH_INFO='/valid', REQUEST_METHOD='HEAD')
        self.assertEqual((answer.order, answer.fields['Content-Length']), ('LHE', '2'))

    @each_python
    def test_abort_closes_generator(self, python):
        worker = Worker(self, python, RICH_APP).started()
        worker.slot.sendall(request(PATH_INFO='/endless') + ABORT)
        answer = Answer(worker.slot)
        self.assertEqual((answer.truncated, answer.log), (True, 'generator closed\n'))
        worker.slot.sendall(request(PATH_INFO='/endless'))
        for _ in range(50):
            read_frame(worker.slot)
        worker.slot.sendall(ABORT)
        self.assertTrue(Answer(worker.slot).truncated)
        self.assertEqual(worker.ask(PATH_INFO='/write').body, b'abc')
        worker.slot.sendall(request(PATH_INFO='/endless'))
        read_frame(worker.slot)
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)
        self.assertIn('generator closed', worker.log)

    @each_python
    def test_log_belongs_to_its_request(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/logs')
        lines = ['to errors', 'ab', 'to stdout 1', 'to stderr \\udcff', 'raw \\xff', 'unended']
        self.assertEqual(answer.log.splitlines(), lines)
        wait_for(lambda: 'from a thread' in worker.log, 'the text of a thread')
        self.assertNotIn('unended', worker.log)

    @each_python
    def test_a_line_without_an_end_comes_in_pieces(self, python):
        app = 'for _ in range(30000):\n    print(".", end="")\n' + HELLO_APP
        worker = Worker(self, python, app).started()
        wait_for(lambda: worker.log.count('.') >= 20000, 'the dots')
        self.assertEqual(worker.ask().body, b'hello')

    @each_python
    def test_standard_output_is_kept_apart(self, python):
        app = RICH_APP + '\nimport atexit\natexit.register(print, "good night")\nassert sys.stdout.fileno() == 1\n'
        worker = Worker(self, python, app, outlog='1').started()
        answer = worker.ask(PATH_INFO='/logs')
        self.assertEqual(answer.log.splitlines(), ['to errors', 'ab', 'to stderr \\udcff'])
        self.assertEqual(answer.of(b'O').decode().splitlines(), ['to stdout 1', 'raw \\xff', 'unended'])
        wait_for(lambda: 'from a thread' in worker.log, 'the text of a thread')
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)
        self.assertIn('good night', worker.log)

    @each_python
    def test_what_an_import_writes_is_told_apart(self, python):
        app = 'import os, sys\nprint("out")\nos.write(1, b"more\\n")\nprint("err", file=sys.stderr)\n' + HELLO_APP
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            preloader = Preloader(self, python, app, outputs=(output, errors), outlog='1')
            told = preloader.hello()[1]
            self.assertEqual((told['output'], told['errors']), ('out\nmore\n', 'err\n'))
            self.assertEqual([os.fstat(file.fileno()).st_size for file in (output, errors)], [0, 0])
            told = Preloader(self, python, app, outputs=(output, output)).hello()[1]
            self.assertEqual((told.get('output'), told['errors']), (None, 'out\nmore\nerr\n'))

    @each_python
    def test_environ_and_signals(self, python):
        worker = Worker(self, python, RICH_APP, slots=2, multiprocess='0').started()
        told = worker.ask(PATH_INFO='/environ', HTTPS='on').body.decode()
        for part in (
            "('wsgi.multithread', True)", "('wsgi.multiprocess', False)", "('wsgi.url_scheme', 'https')",
            "('wsgi.version', (1, 0))", "('wsgi.run_once', False)", "('wsgi.input_terminated', True)",
        ):  # fmt: skip
            self.assertIn(part, told)
        ignored = int(worker.ask(PATH_INFO='/signals').body, 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            self.assertFalse(ignored >> (number - 1) & 1, number)
        self.assertEqual(worker.ask(PATH_INFO='/write').body, b'abc')

    @each_python
    def test_threads(self, python):
        app = """
        import threading
        both = threading.Barrier(2)
        def app(environ, start_response):
            both.wait(5)
            print('log of', environ['QUERY_STRING'])
            start_response('200 OK', [])
            return [environ['QUERY_STRING'].encode()]
        """
        worker = Worker(self, python, app, slots=2).started()
        for name, slot in zip('ab', worker.slots):
            slot.sendall(request(QUERY_STRING=name))
        for name, slot in zip('ab', worker.slots):
            answer = Answer(slot)
            self.assertEqual((answer.body.decode(), answer.log), (name, 'log of {}\n'.format(name)))
        worker.slots[0].close()
        self.assertIsNone(worker.process.poll())
        worker.slots[1].close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)

    @each_python
    def test_boot_failed(self, python):
        worker = Worker(self, python, 'import absent_module\n')
        kind, text, _, _ = read_frame(worker.slot)
        self.assertEqual(kind, b'B')
        self.assertIn("No module named 'absent_module'", text.decode())
        self.assertEqual(worker.process.wait(TIMEOUT), 1)
        worker = Worker(self, python, HELLO_APP, wsgi='app:absent.name')
        self.assertIn(b'absent', read_frame(worker.slot)[1])

    @each_python
    def test_exit_functions_run(self, python):
        app = HELLO_APP + "\nimport atexit\natexit.register(print, 'good night')\n"
        worker = Worker(self, python, app).started()
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)
        self.assertIn('good night', worker.log)

    @each_python
    def test_lifeline_ends_a_stubborn_worker(self, python):
        app = """
        import signal
        def app(environ, start_response):
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            print('spinning')
            while True:
                pass
        """
        worker = Worker(self, python, app).started()
        worker.slot.sendall(request())
        self.assertEqual(read_frame(worker.slot)[1], b'spinning\n')
        worker.cut()
        self.assertEqual(worker.process.wait(TIMEOUT), -signal.SIGKILL)

    @each_python
    def test_lifeline_ends_an_endless_import(self, python):
        app = "import os, time\nopen(os.environ['MARK'] + '/begun', 'w').close()\ntime.sleep(60)\n"
        worker = Worker(self, python, app)
        wait_for(lambda: os.path.exists(worker.folder + '/begun'), 'the import to begin')
        worker.cut()
        self.assertEqual(worker.process.wait(TIMEOUT), -signal.SIGKILL)

    @each_python
    def test_child_of_a_request_does_not_hold_the_slot(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/forked')
        self.assertEqual((answer.order, answer.body), ('HDE', b'parent'))
        worker.process.kill()
        self.assertEqual(worker.slot.recv(1), b'')

    @each_python
    def test_stack_on_demand(self, python):
        app = HELLO_APP.replace('def app', 'import time\ndef app').replace(
            '    start', "    print('now')\n    time.sleep(0.5)\n    start"
        )
        worker = Worker(self, python, app).started()
        worker.slot.sendall(request())
        read_frame(worker.slot)
        os.kill(worker.pid, signal.SIGUSR2)
        self.assertEqual(Answer(worker.slot).body, b'hello')
        if 'pypy' not in python:
            self.assertIn('in app', worker.log)

    @each_python
    def test_bytecode_goes_elsewhere(self, python):
        """Only where the application's directory cannot be written, which root always can."""
        app = (
            "import os, sys\nbody = repr((sys.path[0], sys.argv, 'HOME' in os.environ, '' in sys.path)).encode()\n"
            + HELLO_APP
        )
        worker = Worker(self, python, app.replace("b'hello'", 'body'), pycache='1').started()
        expected = repr((worker.folder, ['runfcgi'], True, False))
        self.assertEqual(worker.ask().body.decode(), expected)

    @unittest.skipUnless(os.geteuid() == 0, 'only root can become another user')
    def test_bytecode_goes_to_an_own_directory(self):
        """An application that the user may not write to, and a home that does not exist."""
        base = '/var/tmp/runfcgi-65534'
        if not os.path.exists(base):
            self.addCleanup(shutil.rmtree, base, True)
        app = HELLO_APP.replace("b'hello'", 'repr(sys.pycache_prefix).encode()') + '\nimport sys\n'
        tested = 0
        for name, path in PYTHONS.items():
            if path.startswith('/usr/') and not name.partition('-')[2].startswith(('3.6.', '3.7.')):
                worker = Worker(self, path, app, pycache='1', readable=True, preexec_fn=become_nobody).started()
                self.assertEqual(worker.ask().body.decode(), repr(base + '/pycache'))
                self.assertEqual(os.stat(base + '/pycache').st_mode & 0o777, 0o700)
                tested += 1
        if not tested:
            self.skipTest('no python that another user may run')


def become_nobody():
    os.setgid(65534)
    os.setuid(65534)


def spool_count(pid):
    """How many unlinked files the process has open."""
    links = []
    for fd in os.listdir('/proc/{}/fd'.format(pid)):
        with contextlib.suppress(OSError):
            links.append(os.readlink('/proc/{}/fd/{}'.format(pid, fd)))
    return sum(link.endswith(' (deleted)') for link in links)


class PreloaderTest(unittest.TestCase):
    @each_python
    def test_fork_serves(self, python):
        app = HELLO_APP.replace('hello', '%d').replace("b'%d'", "b'%d %d' % (os.getpid(), os.getppid())")
        app = 'import os\nopen(os.environ["MARK"] + "/imports", "a").write("x")\n' + app
        preloader = Preloader(self, python, app)
        self.assertEqual(preloader.process.wait(TIMEOUT), 0)
        kind, told = preloader.hello()
        self.assertEqual((kind, told['threads']), (b'r', '1'))
        other = preloader.connect()
        preloader.hello(other)
        slots = []
        for control in (None, other, None):
            (kind, payload), (slot,), _, _ = preloader.fork(control)
            self.assertEqual(kind, b'k')
            self.assertEqual(read_frame(slot)[:2], (b'W', payload))
            slot.sendall(request())
            pid = struct.unpack('>I', payload)[0]
            self.assertEqual(Answer(slot).body.decode(), '{} {}'.format(pid, preloader.pid))
            slots.append((pid, slot))
        with open('/proc/{}/comm'.format(preloader.pid)) as file:
            self.assertEqual(file.read(), 'runfcgi-preload\n')
        self.assertEqual(os.getsid(preloader.pid) == os.getsid(0), False)
        self.assertNotEqual(os.getsid(preloader.pid), preloader.pid)
        preloader.setup.close()
        other.close()
        wait_for(lambda: is_gone(preloader.pid), 'the preloader to leave')
        self.assertFalse(os.path.exists(preloader.path))
        self.assertFalse(os.path.exists(preloader.lock_path))
        for pid, slot in slots:
            slot.sendall(request())
            self.assertTrue(Answer(slot).body.startswith(str(pid).encode()))
            slot.close()
            wait_for(lambda: is_gone(pid), 'the worker to end')
        with open(os.path.join(preloader.folder, 'imports')) as file:
            self.assertEqual(file.read(), 'x')

    @each_python
    def test_workers_end_and_leave_no_zombie(self, python):
        preloader = Preloader(self, python, RICH_APP + '\nimport atexit\natexit.register(print, "good night")\n')
        preloader.hello()
        (_, payload), (slot,), _, stderr = preloader.fork()
        pid = struct.unpack('>I', payload)[0]
        slot.close()
        self.assertEqual(os.read(stderr, 100), b'good night\n')
        wait_for(lambda: not os.path.exists('/proc/{}'.format(pid)), 'the worker to be reaped')
        (_, payload), (slot,), lifeline, _ = preloader.fork()
        pid = struct.unpack('>I', payload)[0]
        read_frame(slot)
        os.close(lifeline)
        preloader.cuts.remove(lifeline)
        wait_for(lambda: not os.path.exists('/proc/{}'.format(pid)), 'the worker to be reaped')
        self.assert_exited(preloader, pid, b'was killed (SIGKILL)')
        (_, payload), (slot,), _, _ = preloader.fork()
        pid = struct.unpack('>I', payload)[0]
        read_frame(slot)
        os.kill(pid, signal.SIGSEGV)
        self.assert_exited(preloader, pid, b'was ended by SIGSEGV')

    def assert_exited(self, preloader, pid, words):
        kind, payload = read_frame(preloader.setup)[:2]
        self.assertEqual((kind, payload[:4]), (b'q', struct.pack('>I', pid)))
        self.assertIn(words, payload)

    @each_python
    def test_threads_of_a_worker(self, python):
        preloader = Preloader(self, python, HELLO_APP, threads='3')
        preloader.hello()
        _, slots, _, _ = preloader.fork(slots=3)
        for slot in slots:
            self.assertEqual(read_frame(slot)[0], b'W')
        for slot in reversed(slots):
            slot.sendall(request())
            self.assertEqual(Answer(slot).body, b'hello')

    @each_python
    def test_threads_of_the_app_are_told(self, python):
        app = 'import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n' + HELLO_APP
        self.assertEqual(Preloader(self, python, app).hello()[1]['threads'], '2')

    @each_python
    def test_failed(self, python):
        preloader = Preloader(self, python, 'import os\nraise ValueError("broken on purpose")\n')
        kind, text = preloader.hello()
        self.assertEqual(kind, b'b')
        self.assertIn('ValueError: broken on purpose', text)
        self.assertEqual(preloader.hello(preloader.connect())[1], text)
        self.assertIn('broken on purpose', preloader.log)
        self.assertFalse(preloader.can_lock())
        with open(os.path.join(preloader.folder, 'app.py'), 'a') as file:
            file.write('# mended\n')
        began = time.monotonic()
        self.assertEqual(preloader.setup.recv(1), b'')
        self.assertLess(time.monotonic() - began, 3)
        wait_for(preloader.can_lock, 'the lock to be free')
        self.assertFalse(os.path.exists(preloader.path))

    @each_python
    def test_refused(self, python):
        app = (
            'import os, errno\ndef fork():\n    raise OSError(errno.EAGAIN, "no more processes")\nos.fork = fork\n'
            + HELLO_APP
        )
        preloader = Preloader(self, python, app)
        preloader.hello()
        other = preloader.connect()
        preloader.hello(other)
        (kind, payload), (slot,), _, _ = preloader.fork()
        self.assertEqual(kind, b'n')
        self.assertIn(b'no more processes', payload)
        self.assertEqual(read_frame(other)[0], b'l')
        self.assertEqual(slot.recv(1), b'')

    @each_python
    def test_app_child_holds_nothing(self, python):
        app = """
        import os, subprocess, time
        sleeper = os.fork()
        if sleeper == 0:
            time.sleep(20)
            os._exit(0)
        program = subprocess.Popen(['sleep', '20'])
        with open(os.environ['MARK'] + '/pids', 'w') as file:
            file.write('%d %d' % (sleeper, program.pid))
        """
        preloader = Preloader(self, python, textwrap.dedent(app) + HELLO_APP)
        preloader.hello()
        (_, _), (slot,), _, _ = preloader.fork()
        read_frame(slot)
        with open(os.path.join(preloader.folder, 'pids')) as file:
            pids = [int(pid) for pid in file.read().split()]
        for pid in pids:
            self.addCleanup(os.kill, pid, signal.SIGKILL)
        self.assertFalse(preloader.can_lock())
        os.kill(preloader.pid, signal.SIGKILL)
        self.assertEqual(preloader.setup.recv(1), b'')
        wait_for(lambda: is_gone(preloader.pid), 'the preloader to end')
        for pid in pids:
            self.assertFalse(is_gone(pid))
        with self.assertRaises(ConnectionRefusedError):
            preloader.connect()
        self.assertTrue(preloader.can_lock())
        slot.sendall(request())
        self.assertEqual(Answer(slot).body, b'hello')

    @each_python
    def test_term_and_other_signals(self, python):
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(preloader.pid, number)
        self.assertEqual(preloader.fork()[0][0], b'k')
        os.kill(preloader.pid, signal.SIGTERM)
        self.assertEqual(preloader.setup.recv(1), b'')
        wait_for(preloader.can_lock, 'the lock to be free')
        self.assertFalse(os.path.exists(preloader.path))

    @each_python
    def test_lingers_for_its_time(self, python):
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello(linger=1)
        began = time.monotonic()
        preloader.setup.close()
        time.sleep(0.3)
        other = preloader.connect()
        self.assertEqual(preloader.hello(other, linger=1)[0], b'r')
        self.assertEqual(preloader.fork(other)[0][0], b'k')
        other.close()
        wait_for(lambda: is_gone(preloader.pid), 'the preloader to leave')
        self.assertGreaterEqual(time.monotonic() - began, 1.3)

    @each_python
    def test_linger_ends_with_the_spawner(self, python):
        spawner = subprocess.Popen(['sleep', '30'])
        self.addCleanup(spawner.wait)
        self.addCleanup(spawner.kill)
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello(linger=60, spawner=spawner.pid, start=start_ticks(spawner.pid))
        preloader.setup.close()
        time.sleep(0.2)
        self.assertFalse(is_gone(preloader.pid))
        spawner.kill()
        wait_for(lambda: is_gone(preloader.pid), 'the preloader to leave')
        self.assertFalse(os.path.exists(preloader.path))

    @unittest.skipUnless(os.geteuid() == 0, 'only root can become another user')
    @each_python
    def test_another_user_is_turned_away(self, python):
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello()
        os.chmod(preloader.runtime, 0o755)
        os.chmod(preloader.path, 0o777)
        stranger = os.fork()
        if stranger == 0:
            code = 1
            try:
                os.setuid(65534)
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(TIMEOUT)
                sock.connect(preloader.path)
                code = 0 if sock.recv(1) == b'' else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(stranger, 0)[1], 0)
        self.assertIn('a process of user 65534 tried to connect', preloader.log)

    @each_python
    def test_app_may_fail_to_warm(self, python):
        app = (
            HELLO_APP
            + "\ninner = app\ndef app(environ, start_response):\n    if environ['PATH_INFO'] == '/warm':\n        raise SystemExit(1)\n    return inner(environ, start_response)\n"
        )
        preloader = Preloader(self, python, app, warm='/warm?now')
        self.assertEqual(preloader.hello()[0], b'r')
        self.assertIn('the warming request failed', preloader.log)

    @each_python
    def test_another_import_in_hand_is_left_on_term(self, python):
        app = "import os, time\nwith open(os.environ['MARK'] + '/pid', 'w') as file: file.write(str(os.getpid()))\ntime.sleep(20)\n"
        preloader = Preloader(self, python, app)
        path = os.path.join(preloader.folder, 'pid')
        wait_for(lambda: os.path.exists(path) and os.path.getsize(path), 'the import to begin')
        with open(path) as file:
            pid = int(file.read())
        os.kill(pid, signal.SIGTERM)
        self.assertEqual(preloader.setup.recv(1), b'')
        wait_for(preloader.can_lock, 'the lock to be free')


if __name__ == '__main__':
    unittest.main()
