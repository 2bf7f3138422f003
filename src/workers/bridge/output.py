"""Output of the application, and the log of the bridge itself."""

import io
import os
import sys
import threading
import traceback

from .wire import LOG, OUTPUT

TAIL_LIMIT = 8192  # longest unfinished line, in characters, that is held back


class Descriptors:
    """The sink outside a request: descriptors 1 and 2, whole lines at a time."""

    def __init__(self):
        self.tails = {LOG: '', OUTPUT: ''}  # unfinished lines

    def emit(self, kind, data):
        """Writes it all; a log that is gone is no reason to fail."""
        try:
            while data:
                data = data[os.write(DESCRIPTOR[kind], data) :]
        except OSError:
            pass

    def note(self, error):
        """Outside a request there is no response to report it with."""


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
        if 'Traceback (most recent call last)' in text:
            sink.note(sys.exc_info()[1])
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
        """Stays open: it belongs to the process, not to the caller."""

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
    """Where this thread's text goes now."""
    sink = getattr(LOCAL, 'sink', None)
    if sink is None:
        sink = LOCAL.sink = Descriptors()
    return sink


def flush_sink(sink, kind):
    """Emits an unfinished line."""
    text, sink.tails[kind] = sink.tails[kind], ''
    if text:
        sink.emit(kind, text.encode('utf-8', 'backslashreplace'))


def encode_tail(text, limit):
    """The last `limit` bytes of a text: the end of a traceback says most."""
    data = text.encode('utf-8', 'backslashreplace')
    return data if len(data) <= limit else b'...' + data[3 - limit :]


def log(text):
    """One message of the bridge, to the log of the current request or of the process."""
    ERRORS.write(text if text.endswith('\n') else text + '\n')


def describe_exception():
    """The traceback of the current exception, without our own frames above the application's."""
    return format_exception(*sys.exc_info())


def format_exception(kind, error, trace):
    """The same of any exception."""
    try:
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith('<runfcgi>/'):
            trace = trace.tb_next
        return ''.join(traceback.format_exception(kind, error, trace))
    except Exception:
        return 'error: {} (its traceback cannot be shown)\n'.format(kind.__name__)
    finally:
        del error, trace


def attempt(what, action):
    """Does something that is nice to have; logs a failure."""
    try:
        return action()
    except BaseException:
        log('runfcgi: {} failed; the application is served all the same\n{}'.format(what, describe_exception()))


LOCAL = threading.local()
ERRORS = LogStream('<stderr>', LOG)
