"""A request and its response: WSGI (PEP 3333) on a slot's socket."""

import array
import io
import os
import select
import stat
import struct
from socket import MSG_DONTWAIT, SCM_RIGHTS, SOL_SOCKET

from .failures import describe_current_error, describe_error
from .head import encode_head
from .output import ERRORS, LOCAL, Descriptors, describe_exception, flush_sink, log
from .private import PRIVATE
from .wire import (
    ABORT,
    BODY_FD,
    CAUGHT,
    DATA,
    DATA_LIMIT,
    END,
    EXCEPTION,
    FILE,
    FRAME_HEADER,
    HEAD,
    JOIN_LIMIT,
    LOG,
    LOG_LIMIT,
    MSG_CMSG_CLOEXEC,
    ONE_RIGHT_SPACE,
    OUTPUT,
    RECEIVE_SIZE,
    REQUEST,
    REQUEST_HEADER,
    RESPONSE_HEADER,
    STARTED,
    Poll,
    frame,
    unix_socket,
    unpack_fds,
    TRUNCATED,
)


class FrontGone(Exception):
    """The front has closed the slot or is out of step: stop serving it."""


class FileWrapper:
    """wsgi.file_wrapper: a file as a response. A plain file is passed to the front as a descriptor."""

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
        """(descriptor, offset, length) if reading the descriptor gives what the file object would; else None."""
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


# Classes in these modules only forward calls to their `file`. (A GzipFile, say, does more, and has a fileno too.)
FILE_PROXIES = frozenset(
    ('tempfile', 'django.core.files.base', 'django.core.files.temp', 'django.core.files.uploadedfile')
    + ('django.db.models.fields.files',)
)


class Response:
    """The response to one request: start_response, write, and the rules of PEP 3333 about them."""

    __slots__ = ('slot', 'is_head', 'head', 'code', 'length', 'left', 'bodyless', 'sent', 'pending', 'cut', 'aborted')

    def __init__(self, slot, is_head):
        self.slot = slot
        self.is_head = is_head
        self.head = None  # payload of HEAD, once start_response was called
        self.sent = False  # whether the head has gone out
        self.pending = b''  # a whole response, to be sent together with END
        self.cut = False  # whether bytes beyond Content-Length were dropped
        self.aborted = False  # whether the visitor left before the end

    def start_response(self, status, headers, exc_info=None):
        """As in PEP 3333."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
                self.slot.caught(describe_error(exc_info[1]))
            finally:
                exc_info = None
        elif self.head is not None:
            raise AssertionError('start_response was called a second time without exc_info')
        self.head, code, self.length = encode_head(status, headers)
        self.code = code
        self.left = self.length
        if code >= 500:
            self.slot.end_log()  # so the log has what the application wrote first, and then the failure
            self.slot.report_noted()
        self.bodyless = self.is_head or code == 304 or code == 204 or code < 200
        return self.write

    def write(self, data):
        """The callable that start_response returns."""
        self.emit(data)

    def require_start(self):
        if self.head is None:
            raise AssertionError('the application did not call start_response before its response body')

    def fit(self, data):
        """The part of a piece of the body that may be sent."""
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

    def refuse_short(self, size):
        """Raises if a body of `size` bytes, still unsent, is shorter than its Content-Length."""
        if self.left is not None and size < self.left and not self.bodyless:
            text = 'the response has {} bytes, but its Content-Length says {}'
            raise ValueError(text.format(size, self.length))

    def is_met(self):
        """Whether the body is complete: nothing more that the app yields would be sent."""
        return self.head is not None and (self.left == 0 or self.bodyless)

    def head_frame(self, known_length=None):
        """The HEAD frame, with a Content-Length if the app gave none and it is known and allowed."""
        head = self.head
        if known_length is not None and self.length is None and (not self.bodyless or self.is_head and known_length):
            if self.code >= 200 and self.code != 204 and self.code != 304:
                head += b'Content-Length\0%d\0' % known_length
        return RESPONSE_HEADER.pack(HEAD, 0, self.slot.serial, len(head)) + head

    def emit(self, data, known_length=None):
        """Sends a piece of the body now, after the head if that is unsent."""
        if not isinstance(data, bytes):
            raise TypeError('the response body must be bytes, not ' + type(data).__name__)
        self.require_start()
        if not data:
            return
        before = b''
        if not self.sent:
            if known_length is not None:
                self.refuse_short(known_length)
            before = self.head_frame(known_length)
        data = self.fit(data)
        self.sent = True
        if before or data:
            self.slot.transmit(before, data)

    def take_list(self, result):
        """A list or tuple: everything is there, so it is sent in one piece with END."""
        for data in result:
            if not isinstance(data, bytes):
                raise TypeError('the response body must be bytes, not ' + type(data).__name__)
        body = result[0] if len(result) == 1 else b''.join(result)
        self.require_start()
        if self.sent:  # by write()
            self.emit(body)
            return
        self.refuse_short(len(body))
        before = self.head_frame(len(body))
        body = self.fit(body)
        self.sent = True
        size = len(body)
        if size <= JOIN_LIMIT:
            self.pending = before + FRAME_HEADER.pack(DATA, 0, size) + body if size else before
        else:
            self.slot.transmit(before, body)

    def take_file(self, wrapper):
        """A plain file: passes its descriptor to the front. False if it has to be read here."""
        extent = wrapper.extent()
        if extent is None or self.sent:
            return False
        fd, offset, length = extent
        self.require_start()
        self.refuse_short(length)
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
        """Anything else: sends each piece before asking for the next, and stops when the body is complete."""
        if self.sent and self.is_met():  # by write()
            return
        try:
            single = len(result) == 1
        except Exception:
            single = False
        pieces = 0
        for data in result:
            self.emit(data, len(data) if single else None)
            if self.is_met():
                break
            if not data:
                continue
            pieces += 1
            if pieces > 2 and self.slot.aborted():
                self.aborted = True
                return
        if not self.sent:
            self.require_start()
            self.refuse_short(0)
            self.pending = self.head_frame(0)
            self.sent = True

    def end(self, failure):
        """Sends the rest of the response, and END."""
        slot = self.slot
        last = slot.end_frame()
        if failure is not None:
            slot.end_log()
            slot.send(frame(EXCEPTION, failure) + slot.end_frame(self.sent))
            return
        if self.aborted:
            last = slot.end_frame(True)
        elif self.left and not self.bodyless:
            log('runfcgi: the response is {} bytes shorter than its Content-Length'.format(self.left))
            last = slot.end_frame(True)
        if slot.tails[LOG] or slot.tails[OUTPUT]:
            slot.end_log()
        slot.send(self.pending + last)


class Slot:
    """One socket to the front, served by one thread, one request at a time."""

    def __init__(self, fd, app, settings):
        self.sock = PRIVATE.add(unix_socket(fd))
        self.app = app
        self.rest = b''  # received, not yet used
        self.serial = 0  # of the request
        self.tails = {LOG: '', OUTPUT: ''}  # unfinished lines
        self.gone = False  # the front closed it, or a frame was sent only in part
        self.noted = None  # the last exception that the application has caught in this request; REPORTED if told
        self.idle_sink = Descriptors()
        self.base = base_environ(settings)
        # Wait in poll, not in recvmsg: the front's reading of our response would wake the latter for nothing.
        waiting = Poll()
        waiting.register(self.sock, select.POLLIN)
        self.poll = waiting.poll

    def serve(self):
        """Serves requests until the front closes the socket."""
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
        """Waits for a request and serves it. False at the end of the stream."""
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
            failure = describe_current_error()
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
        self.noted = None
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
                kind, flags, serial, env_size, body_size = REQUEST_HEADER.unpack_from(data)
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
        self.serial = serial
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

    def end_frame(self, truncated=False):
        return RESPONSE_HEADER.pack(END, TRUNCATED if truncated else 0, self.serial, 0)

    def aborted(self):
        """Whether the front has sent ABORT: the visitor is gone."""
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
        """Sends it all. Anything that stops it half-way ends the slot: the stream is out of step then."""
        if self.gone:
            raise FrontGone('the slot has ended')
        try:
            self.sock.sendall(data)
        except BaseException:
            self.gone = True
            raise

    def send_fd(self, data, fd):
        """Sends a frame with a descriptor attached to its first byte."""
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
        """Sends several buffers without joining them."""
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
        """Sends text of the application; once the front is gone, writes it to the descriptor. Printing never fails."""
        pieces = [data[start : start + LOG_LIMIT] for start in range(0, len(data), LOG_LIMIT)]
        if not all(self.tell(frame(kind, piece)) for piece in pieces):
            self.idle_sink.emit(kind, data)

    def caught(self, payload):
        """Tells the front of an exception for which the application answers itself."""
        self.noted = REPORTED
        self.tell(frame(CAUGHT, payload))

    def tell(self, data):
        """Sends a frame in the middle of a response, if that is possible. Returns whether it was."""
        try:
            self.send(data)
            return True
        except (FrontGone, OSError) as error:
            if not isinstance(error, (FrontGone, ConnectionError)):
                self.idle_sink.emit(LOG, 'runfcgi: cannot send to the front: {}\n'.format(error).encode())
        return False

    def note(self, error):
        """Keeps an exception that the application has caught: it is reported if the response is a 5xx."""
        if error is not None and self.noted is not REPORTED:
            self.noted = error

    def report_noted(self):
        """Reports the exception behind a 5xx, unless one has been reported."""
        if self.noted is not None and self.noted is not REPORTED:
            self.caught(describe_error(self.noted))

    def end_log(self):
        """Emits the unfinished last lines of the request."""
        for kind, tail in self.tails.items():
            if tail:
                self.tails[kind] += '\n'
                flush_sink(self, kind)


REPORTED = object()
HTTPS_ON = ('on', 'ON', '1')


def base_environ(settings):
    """What every request's environ has besides what the web server sent."""
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
