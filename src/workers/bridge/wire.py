"""The private wire: frames, pairs, descriptors. The other side is src/workers/wire.rs."""

import array
import os
import select
import socket
import struct
from socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET

REQUEST, ABORT = ord('R'), ord('A')
STARTED, BOOT_FAILED = ord('W'), ord('B')
HEAD, DATA, FILE, LOG, OUTPUT, EXCEPTION, CAUGHT, END = (ord(c) for c in 'HDFLOXCE')
SETUP, HELLO, FORK, READY, FAILED, FORKED, REFUSED, RELEASE, EXITED = (ord(c) for c in 'Shfrbknlq')
KEEP, GIVEN, BUSY, WAITING, MAKE_ROOM, GONE = (ord(c) for c in 'pgywmx')
BODY_FD = TRUNCATED = URGENT = KEPT = 1

REQUEST_HEADER = struct.Struct('>BBHIQ')
RESPONSE_HEADER = struct.Struct('>BBHI')  # of HEAD and END: with the serial number of the request
FRAME_HEADER = struct.Struct('>BBxxI')
SO_PEERCRED = getattr(socket, 'SO_PEERCRED', 17)  # PyPy does not name all that Linux has
MSG_CMSG_CLOEXEC, O_ASYNC = 0x40000000, getattr(os, 'O_ASYNC', 0o20000)
F_SETOWN, F_SETSIG, F_DUPFD_CLOEXEC = 8, 10, 1030
RIGHTS_SPACE = CMSG_SPACE(253 * 4)  # 253: the most descriptors that Linux passes at once
ONE_RIGHT_SPACE = CMSG_SPACE(4)

RECEIVE_SIZE = 65536 + REQUEST_HEADER.size
JOIN_LIMIT = 65536  # up to here copying a body into one buffer is cheaper than a scattered send
DATA_LIMIT = 1 << 20  # longest payload of one DATA frame
HEAD_LIMIT = (1 << 20) - 64  # longest head: the front's limit for a frame, with room for an added Content-Length
LOG_LIMIT = 65536  # longest payload of one LOG or OUTPUT frame
TEXT_LIMIT = 8192  # longest text of FAILED and BOOT_FAILED; the end is kept

Socket, Poll = socket.socket, select.poll  # the originals: gevent, say, patches them during the import


def frame(kind, payload=b'', flags=0):
    """One whole frame."""
    return FRAME_HEADER.pack(kind, flags, len(payload)) + payload


def encode_pairs(*items):
    """Alternating names and values, each ended by NUL."""
    return ''.join(item + '\0' for item in items).encode('utf-8', 'surrogateescape')


def decode_pairs(payload):
    """The dict of NUL-ended names and values."""
    items = iter(payload.decode('utf-8', 'surrogateescape').split('\0'))
    return dict(zip(items, items))


def unix_socket(fd):
    """A socket object for a descriptor. Python 3.6 does not detect the type, so it is given."""
    sock = Socket(AF_UNIX, SOCK_STREAM, 0, fileno=fd)
    sock.setblocking(True)
    return sock


def receive_with_fds(sock, size):
    """At most `size` bytes and the descriptors that came with them, set close-on-exec."""
    data, control, _, _ = sock.recvmsg(size, RIGHTS_SPACE, MSG_CMSG_CLOEXEC)
    return data, unpack_fds(control)


def send_with_fds(sock, data, fds):
    """Sends a frame with descriptors attached to its first byte."""
    sent = sock.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, array.array('i', fds))])
    if sent < len(data):
        raise OSError('the frame was sent only in part')


def unpack_fds(control):
    """The descriptors in the ancillary data of recvmsg."""
    fds = array.array('i')
    for level, kind, data in control:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def poll_once(fd, milliseconds):
    """The events pending on one descriptor."""
    poll = Poll()
    poll.register(fd, select.POLLIN)
    return sum(event for _, event in poll.poll(milliseconds))
