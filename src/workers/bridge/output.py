"""What the application prints: where its text goes, and the log of the bridge itself."""

import io
import os
import sys
import threading
import traceback

from .wire import LOG, OUTPUT

TAIL_LIMIT = 8192  # longest text, in characters, that is kept until its line ends


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
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith('<runfcgi>/'):
            trace = trace.tb_next
        return ''.join(traceback.format_exception(kind, error, trace))
    except Exception:
        return 'error: {} (its traceback cannot be shown)\n'.format(kind.__name__)
    finally:
        del error, trace


def attempt(what, action):
    """Does something that helps but must not fail."""
    try:
        return action()
    except BaseException:
        log('runfcgi: {} failed; the application is served all the same\n{}'.format(what, describe_exception()))


LOCAL = threading.local()
ERRORS = LogStream('<stderr>', LOG)
