"""The response head. Each new header name and status is checked once and remembered."""

import re

from .wire import HEAD_LIMIT

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
STATUS = re.compile(r'[1-5][0-9][0-9] ')
HOP_BY_HOP = frozenset(
    'connection keep-alive proxy-authenticate proxy-authorization te trailer trailers transfer-encoding upgrade'.split()
)
CONTROL = re.compile('[\\x00-\\x1f\\x7f]')
CONTROLS = bytes(range(1, 32)) + b'\x7f'  # NUL separates the fields, and is counted instead
PLAIN, LENGTH, DROPPED = 0, 1, 2
CACHE_LIMIT = 512

known_names = {}
known_statuses = {}


def check_name(name):
    """PLAIN, LENGTH or DROPPED. Remembered, so that a usual name costs one lookup."""
    if not isinstance(name, str):
        raise TypeError('header name {!r} is not a str'.format(name))
    if not TOKEN.match(name):
        raise ValueError('header name {!r} contains a character that is not allowed'.format(name))
    lower = name.lower()
    meaning = LENGTH if lower == 'content-length' else DROPPED if lower in HOP_BY_HOP else PLAIN
    if len(known_names) < CACHE_LIMIT:
        known_names[str(name)] = meaning
    return meaning


def check_status(status):
    """The code in a status line."""
    if not isinstance(status, str):
        raise TypeError('status {!r} is not a str'.format(status))
    if not STATUS.match(status):
        raise ValueError('status {!r} is not three digits, a space and a reason'.format(status))
    code = int(status[:3])
    if len(known_statuses) < CACHE_LIMIT:
        known_statuses[str(status)] = code
    return code


def check_length(value, before):
    """The number in a Content-Length header."""
    if not isinstance(value, str) or not value.strip().isdigit():
        raise ValueError('Content-Length {!r} is not a number'.format(value))
    length = int(value)
    if before is not None and before != length:
        raise ValueError('Content-Length is given twice: {} and {}'.format(before, length))
    return length


def encode_head(status, fields):
    """(payload of HEAD, status code, Content-Length) from the arguments of start_response."""
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
        raise ValueError('a header contains characters outside latin-1: {}'.format(error)) from None
    if head.count(0) != len(parts) - 1 or len(head.translate(None, CONTROLS)) != len(head):
        bad = [part for part in parts if CONTROL.search(part)]
        raise ValueError('the status or a header contains a control character: {!r}'.format(bad))
    if len(head) > HEAD_LIMIT:
        raise ValueError('the response head has {} bytes, more than {}'.format(len(head), HEAD_LIMIT))
    return head, code, length
