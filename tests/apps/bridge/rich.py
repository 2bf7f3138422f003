"""One answer of each kind, by path."""

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
    env['wsgi.errors'].write('to errors\n')
    env['wsgi.errors'].writelines(['a', 'b\n'])
    print('to stdout', 1)
    print('to stderr \udcff', file=sys.stderr)
    sys.stdout.buffer.write(b'raw \xff\n')
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
        env['wsgi.errors'].write('valid\n')
        env['wsgi.errors'].flush()
        start('200 OK', TEXT + [('Content-Length', str(len(body) + 2))])
        return [b'<', body, b'>'] if env['REQUEST_METHOD'] != 'HEAD' else []
    return validator(inner)(env, start)

def app(env, start):
    return globals()[env['PATH_INFO'][1:]](env, start)
