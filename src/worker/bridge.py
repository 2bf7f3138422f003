"""The Python side of runfcgi: takes requests from the front, calls the WSGI application, sends the answers back.

Embedded in the executable and handed to `python -c LOADER` through descriptor 0 (a unix stream socket), where LOADER is

    import os;n=int(os.read(0,8),16);b=b''
    while len(b)<n:b+=os.read(0,n-len(b))
    exec(compile(b,'<runfcgi>','exec'),{'__name__':'__runfcgi__'})

so nothing needs to be installed. Eight hexadecimal digits tell the length of this source, the source follows, then a
SETUP frame. The frames are those of src/worker/wire.rs; the calling convention is PEP 3333.

Two modes. A `worker` imports the application and serves its slots, one request at a time on each. A `preloader` imports
it once and forks a worker whenever a front asks; it has no threads of its own.

Runs unchanged on CPython 3.6 to 3.14 and PyPy, with the standard library only. Must not know the web server's protocol.
"""

import array
import atexit
import errno
import faulthandler
import fcntl
import gc
import importlib
import io
import os
import re
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
from socket import AF_UNIX, CMSG_SPACE, MSG_DONTWAIT, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET

# The wire ------------------------------------------------------------------------------------------------------------

REQUEST, ABORT = ord('R'), ord('A')
STARTED, BOOT_FAILED = ord('W'), ord('B')
HEAD, DATA, FILE, LOG, OUTPUT, EXCEPTION, END = (ord(c) for c in 'HDFLOXE')
SETUP, HELLO, FORK, READY, FAILED, FORKED, REFUSED, RELEASE, EXITED = (ord(c) for c in 'Shfrbknlq')
BODY_FD = TRUNCATED = 1

REQUEST_HEADER = struct.Struct('>BBxxIQ')
FRAME_HEADER = struct.Struct('>BBxxI')
SO_PEERCRED = getattr(socket, 'SO_PEERCRED', 17)  # PyPy does not name all that Linux has
MSG_CMSG_CLOEXEC, O_ASYNC = 0x40000000, getattr(os, 'O_ASYNC', 0o20000)
F_SETOWN, F_SETSIG, F_DUPFD_CLOEXEC = 8, 10, 1030
RIGHTS_SPACE = CMSG_SPACE(253 * 4)  # 253: the most descriptors that Linux passes at once
ONE_RIGHT_SPACE = CMSG_SPACE(4)

RECEIVE_SIZE = 65536 + REQUEST_HEADER.size
JOIN_LIMIT = 65536  # up to here copying a body into one buffer is cheaper than a scattered send
DATA_LIMIT = 1 << 20  # longest payload of one DATA frame
LOG_LIMIT = 65536  # longest payload of one LOG or OUTPUT frame
TAIL_LIMIT = 8192  # longest text, in characters, that is kept until its line ends
TEXT_LIMIT = 8192  # what FAILED and BOOT_FAILED tell, from the end

FORK_WITHIN = 10.0  # seconds in which the preloader's own fork may be refused
FAILED_BACKOFF = 5.0  # seconds in which a broken application is not imported again
LEFT_TO_THE_LAST = {'good', 'python', 'reload', 'turn', 'want'}  # files of the runtime directory that need nobody

Socket, Poll = socket.socket, select.poll  # taken now: gevent, say, changes them when the application is imported


def frame(kind, payload=b'', flags=0):
    """One whole frame."""
    return FRAME_HEADER.pack(kind, flags, len(payload)) + payload


END_FRAME = frame(END)
END_TRUNCATED = frame(END, flags=TRUNCATED)


def encode_pairs(*items):
    """Names and values in turn, each ended by NUL."""
    return ''.join(item + '\0' for item in items).encode('utf-8', 'surrogateescape')


def decode_pairs(payload):
    """The dict of NUL-ended names and values."""
    items = iter(payload.decode('utf-8', 'surrogateescape').split('\0'))
    return dict(zip(items, items))


def unix_socket(fd):
    """A socket object for a descriptor; its type is given because Python 3.6 does not detect it."""
    sock = Socket(AF_UNIX, SOCK_STREAM, 0, fileno=fd)
    sock.setblocking(True)
    return sock


def receive_with_fds(sock, size):
    """At most `size` bytes and the descriptors that came with them, which no exec inherits."""
    data, control, _, _ = sock.recvmsg(size, RIGHTS_SPACE, MSG_CMSG_CLOEXEC)
    return data, unpack_fds(control)


def unpack_fds(control):
    """The descriptors in the ancillary data of recvmsg."""
    fds = array.array('i')
    for level, kind, data in control:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


# Descriptors that no forked child may keep ---------------------------------------------------------------------------


class Private:
    """The sockets and descriptors of this process that any child it forks must drop at once.

    A child of the application (a daemon started at import, a multiprocessing pool) that kept the listener would make
    every later connect hang; one that kept a slot would hide the end of its worker.
    """

    def __init__(self):
        self.held = []

    def add(self, item):
        """Holds a socket object or a descriptor."""
        self.held.append(item)
        return item

    def discard(self, item):
        """Closes one and forgets it."""
        if item in self.held:
            self.held.remove(item)
        self._close(item)

    def drop_in_child(self):
        """Runs in each forked child, before anything else of it."""
        held, self.held = self.held, []
        for item in held:
            self._close(item)
        LOCAL.sink = Descriptors()

    def guard_forks(self):
        """From here on every child that Python code forks drops them."""
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(after_in_child=self.drop_in_child)
            return
        real_fork = os.fork

        def fork():
            pid = real_fork()
            if pid == 0:
                self.drop_in_child()
            return pid

        os.fork = fork

    @staticmethod
    def _close(item):
        try:
            os.close(item) if isinstance(item, int) else item.close()
        except OSError:
            pass


PRIVATE = Private()
LOCAL = threading.local()

# What the application prints -----------------------------------------------------------------------------------------


class Descriptors:
    """Where text goes outside a request: descriptors 1 and 2, whole lines at a time."""

    def __init__(self):
        self.tails = {LOG: '', OUTPUT: ''}  # lines not yet ended

    def emit(self, kind, data):
        """Writes it all; a log that has gone is no reason to fail."""
        try:
            while data:
                data = data[os.write(DESCRIPTOR[kind], data) :]
        except OSError:
            pass


DESCRIPTOR = {LOG: 2, OUTPUT: 1}


class LogStream(io.TextIOBase):
    """sys.stdout, sys.stderr or wsgi.errors: text goes to the log of the request that its thread serves."""

    encoding = 'utf-8'
    errors = 'backslashreplace'
    line_buffering = True
    mode = 'w'

    def __init__(self, name, kind):
        self.name = name
        self.kind = kind
        self.buffer = LogBuffer(self)

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError('write() argument must be str, not ' + type(text).__name__)
        sink = current_sink()
        end = text.rfind('\n') + 1
        if end:
            lines, sink.tails[self.kind] = sink.tails[self.kind] + text[:end], text[end:]
            sink.emit(self.kind, lines.encode('utf-8', 'backslashreplace'))
        else:
            sink.tails[self.kind] += text
            if len(sink.tails[self.kind]) > TAIL_LIMIT:
                self.flush()
        return len(text)

    def flush(self):
        flush_sink(current_sink(), self.kind)

    def writable(self):
        return True

    def fileno(self):
        return DESCRIPTOR[self.kind]

    def close(self):
        """Stays open: it belongs to the process, not to whom it was given."""

    def reconfigure(self, **_options):
        """Accepted, as for any text stream; the log is always UTF-8."""


class LogBuffer(io.RawIOBase):
    """sys.stdout.buffer: bytes for the same log."""

    def __init__(self, text):
        self.text = text

    def write(self, data):
        self.text.write(bytes(data).decode('utf-8', 'backslashreplace'))
        return len(data)

    def flush(self):
        self.text.flush()

    def writable(self):
        return True

    def fileno(self):
        return self.text.fileno()

    def close(self):
        """Stays open, as its text stream does."""


def current_sink():
    """Where the text of this thread goes now."""
    sink = getattr(LOCAL, 'sink', None)
    if sink is None:
        sink = LOCAL.sink = Descriptors()
    return sink


def flush_sink(sink, kind):
    """Lets out a line not yet ended."""
    text, sink.tails[kind] = sink.tails[kind], ''
    if text:
        sink.emit(kind, text.encode('utf-8', 'backslashreplace'))


def encode_tail(text, limit):
    """The last `limit` bytes of a text: the end of a traceback is what tells most."""
    data = text.encode('utf-8', 'backslashreplace')
    return data if len(data) <= limit else b'...' + data[3 - limit :]


def log(text):
    """One message of the bridge, to the log of the current request or of the process."""
    ERRORS.write(text if text.endswith('\n') else text + '\n')


def describe_exception():
    """The traceback of the current exception, without our own frames above the application's."""
    kind, error, trace = sys.exc_info()
    try:
        while trace is not None and trace.tb_frame.f_code.co_filename == '<runfcgi>':
            trace = trace.tb_next
        return ''.join(traceback.format_exception(kind, error, trace))
    except Exception:
        return 'error: {} (its traceback cannot be shown)\n'.format(kind.__name__)
    finally:
        del error, trace


ERRORS = LogStream('<stderr>', LOG)

# The response head ---------------------------------------------------------------------------------------------------

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
STATUS = re.compile(r'[1-5][0-9][0-9] ')
HOP_BY_HOP = frozenset(
    'connection keep-alive proxy-authenticate proxy-authorization te trailer trailers transfer-encoding upgrade'.split()
)
CONTROL = re.compile('[\\x00-\\x1f\\x7f]')
CONTROLS = bytes(range(1, 32)) + b'\x7f'  # NUL is counted instead: it separates the fields
PLAIN, LENGTH, DROPPED = 0, 1, 2
CACHE_LIMIT = 512

known_names = {}
known_statuses = {}


def check_name(name):
    """What a field name means here; remembered, so that a usual name costs one lookup."""
    if not isinstance(name, str):
        raise TypeError('header name {!r} is not a str'.format(name))
    if not TOKEN.match(name):
        raise ValueError('header name {!r} holds a character that is not allowed'.format(name))
    lower = name.lower()
    meaning = LENGTH if lower == 'content-length' else DROPPED if lower in HOP_BY_HOP else PLAIN
    if len(known_names) < CACHE_LIMIT:
        known_names[str(name)] = meaning
    return meaning


def check_status(status):
    """The number of a status line."""
    if not isinstance(status, str):
        raise TypeError('status {!r} is not a str'.format(status))
    if not STATUS.match(status):
        raise ValueError('status {!r} is not three digits, a space and a reason'.format(status))
    code = int(status[:3])
    if len(known_statuses) < CACHE_LIMIT:
        known_statuses[str(status)] = code
    return code


def check_length(value, before):
    """The number in a Content-Length field."""
    if not isinstance(value, str) or not value.strip().isdigit():
        raise ValueError('Content-Length {!r} is not a number'.format(value))
    length = int(value)
    if before is not None and before != length:
        raise ValueError('Content-Length is given twice: {} and {}'.format(before, length))
    return length


def encode_head(status, fields):
    """The payload of HEAD, the status number and the Content-Length, from what start_response was given."""
    code = known_statuses.get(status) or check_status(status)
    length = None
    parts = [status]
    for name, value in fields:
        meaning = known_names.get(name)
        if meaning is None:
            meaning = check_name(name)
        if meaning:
            if meaning == DROPPED:
                continue
            if length is not None and check_length(value, length) == length:
                continue
            length = check_length(value, length)
        parts.append(name)
        parts.append(value)
    parts.append('')
    try:
        head = '\0'.join(parts).encode('latin-1')
    except TypeError:
        raise TypeError('a header value is not a str: {!r}'.format(fields)) from None
    except UnicodeEncodeError as error:
        raise ValueError('a header holds characters beyond latin-1: {}'.format(error)) from None
    if head.count(0) != len(parts) - 1 or len(head.translate(None, CONTROLS)) != len(head):
        bad = [part for part in parts if CONTROL.search(part)]
        raise ValueError('the status or a header holds a control character: {!r}'.format(bad))
    return head, code, length


# A request and its response ------------------------------------------------------------------------------------------


class FrontGone(Exception):
    """The front no longer listens, so the worker's life is over."""


class FileWrapper:
    """wsgi.file_wrapper: a file as a response, handed over as a descriptor where it is a plain file."""

    def __init__(self, filelike, block_size=65536):
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, 'close'):
            self.close = filelike.close

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.block_size)
        if not data:
            raise StopIteration
        return data

    def extent(self):
        """(descriptor, offset, length) when reading the descriptor gives what the file object would give."""
        inner = self.filelike
        while type(inner).__module__ in FILE_PROXIES and hasattr(inner, 'file'):
            inner = inner.file
        raw = inner.raw if type(inner) in (io.BufferedReader, io.BufferedRandom) else inner
        if type(raw) is not io.FileIO:
            return None
        try:
            if type(inner) is io.BufferedRandom:
                inner.flush()
            fd, offset = raw.fileno(), inner.tell()
            status = os.fstat(fd)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or not raw.readable():
            return None
        return fd, offset, max(0, status.st_size - offset)


# Classes in these modules only pass calls on to their `file`. (A GzipFile, say, does more, and has a fileno too.)
FILE_PROXIES = frozenset(
    ('tempfile', 'django.core.files.base', 'django.core.files.temp', 'django.core.files.uploadedfile')
    + ('django.db.models.fields.files',)
)


class Response:
    """The answer to one request: start_response, write, and the rules of PEP 3333 about them."""

    __slots__ = ('slot', 'is_head', 'head', 'code', 'length', 'left', 'bodyless', 'sent', 'pending', 'cut', 'aborted')

    def __init__(self, slot, is_head):
        self.slot = slot
        self.is_head = is_head
        self.head = None  # payload of HEAD, once start_response was called
        self.sent = False  # whether the head has gone out
        self.pending = b''  # a whole response, waiting to go out together with END
        self.cut = False  # whether bytes beyond Content-Length were dropped
        self.aborted = False  # whether the visitor went before the end

    def start_response(self, status, headers, exc_info=None):
        """As in PEP 3333."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.head is not None:
            raise AssertionError('start_response was called a second time without exc_info')
        self.head, code, self.length = encode_head(status, headers)
        self.code = code
        self.left = self.length
        self.bodyless = self.is_head or code == 304 or code == 204 or code < 200
        return self.write

    def write(self, data):
        """The callable that start_response returns."""
        self.emit(data)

    def require_start(self):
        if self.head is None:
            raise AssertionError('the application did not call start_response before its response body')

    def fit(self, data):
        """What of a piece of the body may be sent."""
        if self.bodyless:
            return b''
        left = self.left
        if left is not None:
            if len(data) > left:
                if not self.cut:
                    self.cut = True
                    log('runfcgi: the response is longer than its Content-Length {}: cut'.format(self.length))
                data = data[:left]
            self.left = left - len(data)
        return data

    def head_frame(self, known_length=None):
        """The frame HEAD, with a Content-Length when the app gave none and it is known and allowed."""
        head = self.head
        if known_length is not None and self.length is None and (not self.bodyless or self.is_head and known_length):
            if self.code >= 200 and self.code != 204 and self.code != 304:
                head += b'Content-Length\0%d\0' % known_length
        return FRAME_HEADER.pack(HEAD, 0, len(head)) + head

    def emit(self, data, known_length=None):
        """Sends a piece of the body now, after the head if that has not gone yet."""
        if not isinstance(data, bytes):
            raise TypeError('the response body must be bytes, not ' + type(data).__name__)
        self.require_start()
        if not data:
            return
        before = b'' if self.sent else self.head_frame(known_length)
        data = self.fit(data)
        self.sent = True
        if before or data:
            self.slot.transmit(before, data)

    def take_list(self, result):
        """A list or tuple: everything is there, so it goes out in one piece with END."""
        for data in result:
            if not isinstance(data, bytes):
                raise TypeError('the response body must be bytes, not ' + type(data).__name__)
        body = result[0] if len(result) == 1 else b''.join(result)
        self.require_start()
        if self.sent:  # by write()
            self.emit(body)
            return
        before = self.head_frame(len(body))
        body = self.fit(body)
        self.sent = True
        size = len(body)
        if size <= JOIN_LIMIT:
            self.pending = before + FRAME_HEADER.pack(DATA, 0, size) + body if size else before
        else:
            self.slot.transmit(before, body)

    def take_file(self, wrapper):
        """A plain file: its descriptor goes to the front. False when it has to be read here."""
        extent = wrapper.extent()
        if extent is None or self.sent:
            return False
        fd, offset, length = extent
        self.require_start()
        slot = self.slot
        slot.send(self.head_frame(length))
        self.sent = True
        if self.bodyless:
            return True
        if self.left is not None:
            length = min(length, self.left)
            self.left -= length
        if length:
            slot.send_fd(FRAME_HEADER.pack(FILE, 0, 16) + struct.pack('>QQ', offset, length), fd)
        return True

    def take_iterable(self, result):
        """Anything else: each piece goes out before the next is asked for."""
        try:
            single = len(result) == 1
        except Exception:
            single = False
        pieces = 0
        for data in result:
            self.emit(data, len(data) if single else None)
            if not data:
                continue
            pieces += 1
            if self.is_head:
                break
            if pieces > 2 and self.slot.aborted():
                self.aborted = True
                return
        if not self.sent:
            self.require_start()
            self.pending = self.head_frame(0)
            self.sent = True

    def end(self, failure):
        """Sends what is left, and END."""
        slot = self.slot
        last = END_FRAME
        if failure is not None:
            if not self.sent:
                slot.end_log()
                slot.send(frame(EXCEPTION, encode_tail(failure, LOG_LIMIT)) + END_FRAME)
                return
            log(failure)
            last = END_TRUNCATED
        elif self.aborted:
            last = END_TRUNCATED
        elif self.left and not self.bodyless:
            log('runfcgi: the response is {} bytes shorter than its Content-Length'.format(self.left))
            last = END_TRUNCATED
        if slot.tails[LOG] or slot.tails[OUTPUT]:
            slot.end_log()
        slot.send(self.pending + last)


class Slot:
    """One socket to the front and the thread that serves it: one request at a time."""

    def __init__(self, fd, app, settings):
        self.sock = PRIVATE.add(unix_socket(fd))
        self.app = app
        self.rest = b''  # received, not yet used
        self.tails = {LOG: '', OUTPUT: ''}  # lines not yet ended
        self.gone = False  # the front closed it, or a frame went out only in part
        self.idle_sink = Descriptors()
        self.base = base_environ(settings)
        # Waiting in poll and not in recvmsg: the front's reading of our answer would wake the latter for nothing.
        waiting = Poll()
        waiting.register(self.sock, select.POLLIN)
        self.poll = waiting.poll

    def serve(self):
        """Until the front closes the socket."""
        LOCAL.sink = self.idle_sink
        try:
            self.send(frame(STARTED, struct.pack('>I', os.getpid())))
            while not self.gone and self.serve_one():
                pass
        except (FrontGone, ConnectionError):
            pass
        finally:
            self.gone = True
            PRIVATE.discard(self.sock)

    def serve_one(self):
        """Waits for a request and answers it. False at the end of the stream."""
        request = self.receive()
        if request is None:
            return False
        environ, body = request
        app, response, result, failure = self.app, Response(self, environ.get('REQUEST_METHOD') == 'HEAD'), None, None
        LOCAL.sink = self
        try:
            result = app(environ, response.start_response)
            kind = type(result)
            if kind is list or kind is tuple:
                response.take_list(result)
            elif kind is not FileWrapper or not response.take_file(result):
                response.take_iterable(result)
        except BaseException:
            failure = describe_exception()
        close = getattr(result, 'close', None)
        if close is not None:
            try:
                close()
            except BaseException:
                log('runfcgi: close() of the response failed\n' + describe_exception())
        if self.gone:
            LOCAL.sink = self.idle_sink
            return False
        response.end(failure)
        LOCAL.sink = self.idle_sink
        if type(body) is not io.BytesIO:
            body.close()
        return True

    def receive(self):
        """The next request as (environ, input stream), or None at the end of the stream. Stray ABORTs are skipped."""
        data, self.rest = self.rest, b''
        fds = None
        while True:
            have = len(data)
            if have >= 16:
                kind, flags, env_size, body_size = REQUEST_HEADER.unpack_from(data)
                if kind == ABORT:
                    data = data[16:]
                    continue
                if kind != REQUEST:
                    raise FrontGone('unknown frame {}'.format(kind))
                env_end = 16 + env_size
                end = env_end if flags & BODY_FD else env_end + body_size
                if have >= end:
                    break
                more, control, _, _ = self.sock.recvmsg(min(end - have, DATA_LIMIT), ONE_RIGHT_SPACE, MSG_CMSG_CLOEXEC)
            else:
                if not have:
                    self.poll()
                more, control, _, _ = self.sock.recvmsg(RECEIVE_SIZE, ONE_RIGHT_SPACE, MSG_CMSG_CLOEXEC)
            if not more:
                return None
            if control:
                fds = unpack_fds(control)
            if have < 1 << 16:
                data = data + more if have else more
            else:
                if type(data) is bytes:
                    data = bytearray(data)
                data += more
        if have > end:
            self.rest = bytes(data[end:])
        items = iter(data[16:env_end].decode('latin-1').split('\0'))
        environ = dict(zip(items, items))
        environ.update(self.base)
        if environ.get('HTTPS') in HTTPS_ON:
            environ['wsgi.url_scheme'] = 'https'
        if flags & BODY_FD:
            if not fds:
                raise FrontGone('a request announced a body file, and none came')
            body = open(fds[0], 'rb', 65536)
        else:
            body = io.BytesIO(data[env_end:end]) if body_size else io.BytesIO()
        environ['wsgi.input'] = body
        return environ, body

    def aborted(self):
        """Whether the front has said that the visitor is gone."""
        if len(self.rest) < 16:
            try:
                more = self.sock.recv(16 - len(self.rest), MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not more:
                self.gone = True
                raise FrontGone('the front has closed the slot')
            self.rest += more
        return len(self.rest) >= 16 and self.rest[0] == ABORT

    def send(self, data):
        """Sends it all; whatever stops it half-way ends this slot, for the stream is then out of step."""
        if self.gone:
            raise FrontGone('the slot has ended')
        try:
            self.sock.sendall(data)
        except BaseException:
            self.gone = True
            raise

    def send_fd(self, data, fd):
        """Sends a frame with a descriptor beside its first byte."""
        try:
            sent = self.sock.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, array.array('i', [fd]))])
        except BaseException:
            self.gone = True
            raise
        if sent < len(data):
            self.send(data[sent:])

    def transmit(self, before, body):
        """Sends `before` and then the body as DATA frames; a long body is not copied."""
        size = len(body)
        if size <= JOIN_LIMIT:
            self.send(before + FRAME_HEADER.pack(DATA, 0, size) + body if size else before)
            return
        view = memoryview(body)
        for start in range(0, size, DATA_LIMIT):
            piece = view[start : start + DATA_LIMIT]
            self.send_scattered([before + FRAME_HEADER.pack(DATA, 0, len(piece)), piece])
            before = b''

    def send_scattered(self, buffers):
        """Sends several buffers as one."""
        if self.gone:
            raise FrontGone('the slot has ended')
        buffers = [memoryview(buffer) for buffer in buffers]
        try:
            while buffers:
                sent = self.sock.sendmsg(buffers)
                while buffers and sent >= len(buffers[0]):
                    sent -= len(buffers.pop(0))
                if sent:
                    buffers[0] = buffers[0][sent:]
        except BaseException:
            self.gone = True
            raise

    def emit(self, kind, data):
        """Text of the application, as LOG or OUTPUT; to its descriptor once the front is gone. Printing never fails."""
        if not self.gone:
            try:
                for start in range(0, len(data), LOG_LIMIT):
                    self.send(frame(kind, data[start : start + LOG_LIMIT]))
                return
            except OSError:
                pass
        self.idle_sink.emit(kind, data)

    def end_log(self):
        """Lets out the last, unended lines of the request."""
        for kind, tail in self.tails.items():
            if tail:
                self.tails[kind] += '\n'
                flush_sink(self, kind)


HTTPS_ON = ('on', 'ON', '1')


def base_environ(settings):
    """What every request's environ has, beside what the web server told."""
    return {
        'wsgi.version': (1, 0),
        'wsgi.url_scheme': 'http',
        'wsgi.errors': ERRORS,
        'wsgi.multithread': int(settings.get('threads') or 1) > 1,
        'wsgi.multiprocess': settings.get('multiprocess') == '1',
        'wsgi.run_once': False,
        'wsgi.file_wrapper': FileWrapper,
        'wsgi.input_terminated': True,
    }


# The application -----------------------------------------------------------------------------------------------------


def load_app(settings):
    """Imports the WSGI callable that the configuration names, or else the one of the Django settings."""
    if settings.get('settings'):
        os.environ['DJANGO_SETTINGS_MODULE'] = settings['settings']
    if settings.get('wsgi'):
        module, _, path = settings['wsgi'].partition(':')
        app = importlib.import_module(module)
        for name in (path or 'application').split('.'):
            app = getattr(app, name)
    elif settings.get('settings'):
        app = load_django_app()
    else:
        raise RuntimeError('no application is named: set `wsgi` ("module:callable") or the Django `settings` module')
    if not callable(app):
        raise TypeError('{} names no callable, but a {}'.format(settings.get('wsgi') or 'WSGI_APPLICATION', type(app)))
    return app


def load_django_app():
    """The callable that settings.WSGI_APPLICATION names, or Django's own."""
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    path = getattr(settings, 'WSGI_APPLICATION', None)
    if not path:
        return get_wsgi_application()
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


def django_settings():
    """Django's settings when the application uses them."""
    conf = sys.modules.get('django.conf')
    return conf.settings if conf is not None and conf.settings.configured else None


def attempt(what, action):
    """Does something that helps but must not fail."""
    try:
        return action()
    except BaseException:
        log('runfcgi: {} failed; the application is served all the same\n{}'.format(what, describe_exception()))


def warm_up(app, settings):
    """Loads what the first request would load, so that each forked worker has it. A URLconf that cannot be imported
    is an error of the site: no request could be answered."""
    django = django_settings()
    if django is not None:
        attempt('loading the translations', warm_translations)
        warm_urls()
        attempt('loading the template engines', warm_templates)
        attempt('warming the middleware', lambda: warm_middleware(django))
    if settings.get('warm'):
        attempt('the warming request', lambda: warm_request(app, settings, django))
    release_connections()
    gc.collect()
    if hasattr(gc, 'freeze'):
        gc.freeze()  # what lives now lives for ever, and a collection in a fork would copy its pages
    fill_holes()


def warm_translations():
    from django.conf import settings
    from django.utils import translation

    translation.activate(settings.LANGUAGE_CODE)
    translation.gettext('')


def warm_urls():
    from django.conf import settings
    from django.urls import get_resolver

    def populate(resolver):
        for pattern in resolver.url_patterns:
            if hasattr(pattern, 'url_patterns'):
                populate(pattern)

    if getattr(settings, 'ROOT_URLCONF', None):
        resolver = get_resolver()
        populate(resolver)
        resolver._populate()


def warm_templates():
    from django.template import engines
    from django.utils.formats import get_format

    for backend in engines.all():
        engine = getattr(backend, 'engine', None)  # only Django's own have these, made when first looked at
        getattr(engine, 'template_loaders', None)
        getattr(engine, 'template_context_processors', None)
    get_format('DATE_FORMAT')


# Django's own that keep nothing, and ask neither a database nor a cache, when a visitor without cookies comes.
SESSIONS = 'django.contrib.sessions.middleware.SessionMiddleware'
QUIET_MIDDLEWARE = {SESSIONS}.union(
    'django.' + name
    for name in (
        'middleware.security.SecurityMiddleware',
        'middleware.locale.LocaleMiddleware',
        'middleware.common.CommonMiddleware',
        'middleware.csrf.CsrfViewMiddleware',
        'middleware.clickjacking.XFrameOptionsMiddleware',
        'middleware.http.ConditionalGetMiddleware',
        'middleware.gzip.GZipMiddleware',
        'contrib.auth.middleware.AuthenticationMiddleware',
        'contrib.messages.middleware.MessageMiddleware',
    )
)
WARM_TEMPLATE = (
    '{% block a %}{% for n in rows %}{% if forloop.first %}{{ n|default:"-" }}{% else %}<p class="{% cycle 1 2 %}" '
    'title="{{ n.x|escape }}">{{ n|capfirst|upper }}{% endif %}{% empty %}-{% endfor %}{% endblock %}'
    '{% with m=rows.0 %}{{ m|date }}{{ rows|length }}{{ rows|join:" " }}{% endwith %}{% url "runfcgi" 1 %}'
    '{% if rows|length > 2 and request.path %}{{ request.path|lower }}{% endif %}'
)
WARM_ROUNDS = 10  # CPython 3.11 and later fit byte code to what it meets after some eight calls


def warm_middleware(django):
    """Answers an empty page, through those of the site's middleware that have no side effects. What that writes to
    byte code and caches is then the same in all workers, and stays shared."""
    import logging

    from django.core.handlers.base import BaseHandler
    from django.core.handlers.wsgi import WSGIRequest
    from django.db.transaction import non_atomic_requests
    from django.http import HttpResponse
    from django.template import Engine, RequestContext
    from django.urls import re_path, set_urlconf

    engine = Engine(context_processors=['django.template.context_processors.request'])

    def page(request, number):
        template = engine.from_string(WARM_TEMPLATE)
        return HttpResponse(template.render(RequestContext(request, {'rows': [number, 'a', None]})))

    for alias in django.DATABASES:
        page = non_atomic_requests(using=alias)(page)
    urlconf = (re_path('^runfcgi/([0-9]+)/$', page, name='runfcgi'),)
    middleware = django.MIDDLEWARE
    handler = BaseHandler()
    # What Django reports of a failure here, to the administrators say, would be of no use to them.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        django.MIDDLEWARE = quiet_middleware(django)
        handler.load_middleware()
        for _ in range(WARM_ROUNDS if warm_host(django) else 0):
            request = WSGIRequest(warm_environ({}, django, '/runfcgi/1/'))
            request.urlconf = urlconf
            response = handler.get_response(request)
            b''.join(response)
            if response.status_code != 200:
                break
    finally:
        django.MIDDLEWARE = middleware
        logging.disable(disabled)
        set_urlconf(None)


def quiet_middleware(django):
    """Those of the site's middleware that are quiet, and have what they need among these."""
    stores = (getattr(django, 'SESSION_ENGINE', ''), getattr(django, 'MESSAGE_STORAGE', ''))
    quiet = [name for name in django.MIDDLEWARE if name in QUIET_MIDDLEWARE]
    if SESSIONS in quiet and all(store.startswith('django.') for store in stores):
        return quiet
    return [name for name in quiet if not name.startswith('django.contrib.')]


def warm_host(django):
    """A host name that the site answers to; None if it refuses all."""
    from django.http.request import validate_host

    allowed = django.ALLOWED_HOSTS or (['localhost'] if django.DEBUG else [])
    for pattern in allowed:
        host = 'localhost' if pattern == '*' else pattern.lstrip('.')
        if validate_host(host, allowed):
            return host
    return None


def warm_environ(settings, django, uri):
    """The environ of a GET that a visitor without cookies sends, to a host that Django accepts."""
    host = django and warm_host(django) or 'localhost'
    path, _, query = uri.partition('?')
    environ = base_environ(settings)
    environ.update(
        REQUEST_METHOD='GET', SCRIPT_NAME='', PATH_INFO=path, QUERY_STRING=query, REQUEST_URI=uri,
        SERVER_NAME=host, SERVER_PORT='80', SERVER_PROTOCOL='HTTP/1.1', HTTP_HOST=host, REMOTE_ADDR='127.0.0.1',
    )  # fmt: skip
    environ['wsgi.input'] = io.BytesIO()
    if getattr(django, 'SECURE_SSL_REDIRECT', False):
        environ.update({'HTTPS': 'on', 'SERVER_PORT': '443', 'wsgi.url_scheme': 'https'})
    return environ


def warm_request(app, settings, django):
    """One GET through the whole application; the answer is thrown away."""
    environ = warm_environ(settings, django, settings['warm'])
    started = []

    def start_response(status, headers, exc_info=None):
        started.append(status)
        return lambda data: None

    result = app(environ, start_response)
    try:
        for _ in result:
            pass
    finally:
        getattr(result, 'close', lambda: None)()
    if not started or started[-1][:1] == '5':
        log('runfcgi: the warming request {} was answered with {}'.format(settings['warm'], started))


def release_connections():
    """Closes what two processes must not share: Django's connections to databases and caches."""
    if django_settings() is None:
        return
    if 'django.db' in sys.modules:
        attempt('closing the database connections', sys.modules['django.db'].connections.close_all)
    if 'django.core.cache' in sys.modules:
        caches = sys.modules['django.core.cache'].caches
        attempt(
            'closing the caches', lambda: getattr(caches, 'close_all', sys.modules['django.core.cache'].close_caches)()
        )


HOLES = []
HOLES_LIMIT = 20000


def fill_holes():
    """Takes the free blocks between what has been loaded, so that what a worker makes lies together in pages of its
    own: in those holes it would copy a page for each few bytes. It costs less than 1 MB once and saves as much in
    each worker. Only CPython's small blocks (up to 512 bytes) lie so; there `id` is the address."""
    if sys.implementation.name != 'cpython':
        return
    empty = sys.getsizeof(b'')
    pool = 16000 if sys.version_info >= (3, 10) else 4000  # what a pool holds, nearly
    for size in range(48, 513, 16):
        blocks, address, run = [], 0, 0
        while run < pool // size - 1:
            if len(blocks) == HOLES_LIMIT:  # another allocator: no pools
                return
            blocks.append(bytes(size - empty))
            run = run + 1 if id(blocks[-1]) == address + size else 0
            address = id(blocks[-1])
        HOLES.append(blocks[: -run - 1])  # without the run of neighbours: it was a pool not in use


# A worker ------------------------------------------------------------------------------------------------------------


def run_worker(app, settings, slot_fds):
    """Serves until the front closes the slots. Never returns."""
    set_process_name('runfcgi-worker')
    ignore_signals()
    slots = [Slot(fd, app, settings) for fd in slot_fds]
    threads = [threading.Thread(target=slot.serve, daemon=True) for slot in slots[1:]]
    for thread in threads:
        thread.start()
    slots[0].serve()
    for thread in threads:
        thread.join()
    attempt('an exit function', atexit._run_exitfuncs)
    ERRORS.flush()
    os._exit(0)


def hold_lifeline(fd):
    """Ties this process to the pipe's other end: when that closes, the kernel ends us, whatever we are doing."""
    PRIVATE.add(fd)
    try:
        fcntl.fcntl(fd, F_SETOWN, os.getpid())
        fcntl.fcntl(fd, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | O_ASYNC)
    except OSError as error:
        log('runfcgi: no lifeline ({}): the worker ends only when its slot is closed'.format(error))
    if poll_once(fd, 0) & (select.POLLHUP | select.POLLERR):
        os._exit(0)


def poll_once(fd, milliseconds):
    """The events that are now on one descriptor."""
    poll = Poll()
    poll.register(fd, select.POLLIN)
    return sum(event for _, event in poll.poll(milliseconds))


def ignore_signals():
    """Handlers, not SIG_IGN: that the programs which the application starts would inherit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, do_nothing)


def do_nothing(_number, _stack):
    """A signal that the front deals with."""


def set_process_name(name):
    """The name that ps and top show."""
    try:
        comm = os.open('/proc/self/comm', os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    os.write(comm, name.encode())
    os.close(comm)


# The preloader -------------------------------------------------------------------------------------------------------


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
        self.threaded = False  # the application has started threads: they go on here, not in the workers
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
        threads = count_threads()
        self.threaded = threads > 1
        if not self.threaded:
            self.go_on_as_child()
        version = '{}.{}.{}'.format(*sys.version_info)
        seconds = '{:.3f}'.format(time.time() - began)
        ready = ('python', version, 'threads', str(threads), 'seconds', seconds, 'pid', str(self.pid))
        ready += ('errors', take_output(ERRORS))
        if sys.__stdout__.kind == OUTPUT:
            ready += ('output', take_output(sys.__stdout__))
        self.answer = frame(READY, encode_pairs(*ready))
        os.pwrite(self.lock, '{} ready'.format(self.pid).encode(), 0)  # from now on whoever gets no answer may do so
        self.set_signals()  # again: the application may have set its own while it was imported
        self.old_sigchld = signal.signal(signal.SIGCHLD, do_nothing)
        self.open_wake_pipe()
        while True:
            self.turn(self.patience())
            self.reap()
            forget_output()
            if self.may_leave():
                self.leave()

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
        try:
            os.ftruncate(self.lock, 0)
            os.pwrite(self.lock, str(self.pid).encode(), 0)
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
            self.leave()
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
        reseed()
        if self.threaded:
            release_connections()  # else nothing has run since warm_up, which did it
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
        directory, own = os.path.split(self.settings.get('lock', ''))
        try:
            with open(os.path.join(directory, 'good')) as file:
                return file.read() + '.lock' != own
        except OSError:
            return False

    def leave(self):
        """Takes the socket away while the lock is held, turns away who waits there, and exits."""
        if same_file(self.settings.get('lock'), self.lock):
            unlink(self.settings.get('socket'))
        try:
            while True:
                self.listener.accept()[0].close()
        except OSError:
            pass
        if same_file(self.settings.get('lock'), self.lock):
            unlink(self.settings.get('lock'))
            tidy(os.path.dirname(self.settings.get('lock')))
        ERRORS.flush()
        os._exit(0)


IMPORT_THRESHOLDS = (2000, 10, 10)
USUAL_THRESHOLDS = getattr(gc, 'get_threshold', tuple)()


def collect_seldom():
    """While importing: seldom enough to be fast, often enough to leave few holes between what stays."""
    if USUAL_THRESHOLDS:
        gc.set_threshold(*IMPORT_THRESHOLDS)


def collect_as_usual():
    """Undoes collect_seldom, unless the application has set its own thresholds."""
    if USUAL_THRESHOLDS and gc.get_threshold() == IMPORT_THRESHOLDS:
        gc.set_threshold(*USUAL_THRESHOLDS)


def close_all(fds):
    for fd in fds:
        os.close(fd)


def unlink(path):
    try:
        os.unlink(path)
    except (OSError, TypeError):
        pass


def same_file(path, fd):
    """Whether the path still names the file of the descriptor: else it belongs to somebody else now."""
    try:
        named, held = os.stat(path), os.fstat(fd)
    except (OSError, TypeError):
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def tidy(directory):
    """Removes what the last process of the site leaves in the runtime directory: copies of the executable and records
    that nobody holds a lock on, and then the directory itself."""
    try:
        names = os.listdir(directory)
        for name in names:
            if name.startswith(('exe-', 'front-')):
                unlink_unlocked(os.path.join(directory, name))
        if set(os.listdir(directory)) <= LEFT_TO_THE_LAST:
            for name in LEFT_TO_THE_LAST:
                unlink(os.path.join(directory, name))
            os.rmdir(directory)
    except OSError:
        pass


def unlink_unlocked(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        pass
    finally:
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


def count_threads():
    """All threads of this process, also those that no Python code started."""
    try:
        return len(os.listdir('/proc/self/task'))
    except OSError:
        return threading.active_count()


def reseed():
    """Two workers must not draw the same random numbers. From 3.7 on `random` itself sees to that."""
    if 'random' in sys.modules and not hasattr(os, 'register_at_fork'):
        sys.modules['random'].seed()
    if 'numpy.random' in sys.modules:
        attempt('seeding numpy', sys.modules['numpy.random'].seed)


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


def is_alive(pid, start):
    """Whether the process lives that had this pid and start time. A process that may not be looked at counts as alive."""
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


# Start ---------------------------------------------------------------------------------------------------------------


def main():
    """Takes the SETUP frame, prepares the process, and goes into the mode that it names. Never returns."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    setup_socket = unix_socket(fcntl.fcntl(0, F_DUPFD_CLOEXEC, 10))
    null = os.open('/dev/null', os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    settings, fds = receive_setup(setup_socket)
    sys.stdout = sys.__stdout__ = LogStream('<stdout>', OUTPUT if settings.get('outlog') == '1' else LOG)
    sys.stderr = sys.__stderr__ = ERRORS
    prepare(settings)
    if settings.get('mode') == 'preloader':
        detach()
        collect_seldom()
        Preloader(settings, setup_socket, fds[0], fds[1]).run()
    PRIVATE.add(setup_socket)
    PRIVATE.guard_forks()
    ignore_signals()
    hold_lifeline(fds[0])  # before the import, which may take for ever
    try:
        app = load_app(settings)
        warm_up(app, settings)
    except BaseException:
        text = describe_exception()
        log(text)
        unix_socket(fds[1]).sendall(frame(BOOT_FAILED, encode_tail(text, TEXT_LIMIT)))
        os._exit(1)
    run_worker(app, settings, fds[1:])


def receive_setup(sock):
    """The pairs and the descriptors of SETUP."""
    data, fds, need = b'', [], FRAME_HEADER.size
    while len(data) < need:
        more, new_fds = receive_with_fds(sock, need - len(data))
        if not more:
            os._exit(0)
        data += more
        fds += new_fds
        if len(data) == FRAME_HEADER.size:
            need += FRAME_HEADER.unpack(data)[2]
    return decode_pairs(data[FRAME_HEADER.size :]), fds


def prepare(settings):
    """What an application expects of the process it is imported into."""
    faulthandler.enable()
    if hasattr(faulthandler, 'register'):  # the front asks with it where a slow request is
        faulthandler.register(signal.SIGUSR2, all_threads=True)
    if not os.environ.get('HOME'):
        attempt('finding the home directory', set_home)
    app_path = settings['app_path']
    sys.path[:] = [app_path] + [path for path in sys.path if path not in ('', app_path)]
    sys.argv = ['runfcgi']
    if settings.get('pycache') == '1' and sys.version_info >= (3, 8) and not os.access(app_path, os.W_OK):
        sys.pycache_prefix = own_pycache() or sys.pycache_prefix


def set_home():
    import pwd

    os.environ['HOME'] = pwd.getpwuid(os.geteuid()).pw_dir


def own_pycache():
    """A directory for bytecode that is ours alone, or None."""
    shared = '/var/tmp/runfcgi-{}'.format(os.geteuid())
    for base in (os.path.expanduser('~/.cache/runfcgi'), shared):
        path = os.path.join(base, 'pycache')
        if not os.path.isabs(path):
            continue
        try:
            if base == shared:
                own_directory(base)
            os.makedirs(base, 0o700, exist_ok=True)
            own_directory(path)
            return path
        except OSError:
            continue
    return None


def own_directory(path):
    """Makes a directory, or checks that it is ours alone; OSError when it is not."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(errno.EPERM, 'not a directory of our own', path)


def detach():
    """Leaves the front's process tree: the process that the front started ends, its child goes on in a new session."""
    leads = os.getpid() == os.getpgrp()
    if not leads:
        os.setsid()
    if fork_in_time():
        os._exit(0)
    if leads:  # a group leader cannot make a session, but its child can
        os.setsid()


def fork_in_time():
    """fork, waiting a while for a process that another gives up where the account is at its limit."""
    end = time.monotonic() + FORK_WITHIN
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == '__runfcgi__':
    main()
