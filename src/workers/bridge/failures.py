"""Describes an exception for the front: its kind, summary, place in the owner's code, hint and traceback.

Runs only after a failure."""

import os
import sys
import traceback

from .hints import causes, find_cure, is_own
from .output import encode_tail, format_exception
from .wire import LOG_LIMIT, encode_pairs

PACKAGES = ('/site-packages/', '/dist-packages/')
SUMMARY_LIMIT = 500  # characters
SETTINGS = {'app_path': os.sep}  # replaced by `frameworks.connect`


def describe_error(error):
    """The payload of EXCEPTION and CAUGHT for this exception."""
    kind = type(error)
    try:
        text = ''.join(traceback.format_exception_only(kind, error))
        lines = [line.strip() for line in text.splitlines() if line[:1].strip()]
        summary = lines[0] if lines else kind.__name__
        module = kind.__module__ + '.'
        summary = summary[len(module) :] if summary.startswith(module) else summary
    except Exception:
        summary = kind.__name__
    try:
        place = find_frame(error)
    except Exception:
        place = ''
    try:
        hint = next(filter(None, (find_cure(cause, SETTINGS) for cause in causes(error))), '')
    except Exception:
        hint = ''
    return encode_error(kind.__name__, summary, place, hint, format_exception(kind, error, error.__traceback__))


def describe_current_error():
    """The payload for the exception that is being handled."""
    return describe_error(sys.exc_info()[1])


def encode_error(kind, summary, place='', hint='', trace=''):
    """The payload of EXCEPTION and CAUGHT from its parts."""
    short = [text.replace('\0', '')[:SUMMARY_LIMIT] for text in (kind, summary, place, hint)]
    pairs = [item for pair in zip(('kind', 'summary', 'place', 'hint'), short) for item in pair]
    trace = encode_tail(trace.replace('\0', ''), LOG_LIMIT)
    return encode_pairs(*pairs) + b'traceback\0' + trace + b'\0'


def find_frame(error):
    """The innermost frame in the owner's code, or the innermost of all: `shop/views.py:12 in basket`."""
    found = ''
    for cause in causes(error):
        own = ''
        for path, line, name in frames(cause.__traceback__):
            text = '{}:{} in {}'.format(shorten(path), line, name)
            if cause is error:
                found = text
            if is_own(path, SETTINGS):
                own = text
        if own:
            return own
    return found


def frames(trace):
    """File, line and function of each frame, innermost last, without the frames of the bridge."""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith('<runfcgi>/'):
            yield code.co_filename, trace.tb_lineno, code.co_name
        trace = trace.tb_next


def shorten(path):
    """A path relative to the application, or to the directory that its package is installed in."""
    for name in PACKAGES:
        path = path.rpartition(name)[2]
    root = os.path.join(SETTINGS['app_path'], '')
    return path[len(root) :] if len(root) > 1 and path.startswith(root) else path
