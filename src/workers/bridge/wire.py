"""The private wire: frames, pairs, descriptors. The other side is src/workers/wire.rs."""

import array
import os
import select
import socket
import struct
from socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET

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
HEAD_LIMIT = (1 << 20) - 64  # longest head; the front takes no more in one piece, and a Content-Length may come to it
LOG_LIMIT = 65536  # longest payload of one LOG or OUTPUT frame
TEXT_LIMIT = 8192  # what FAILED and BOOT_FAILED tell, from the end

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


def poll_once(fd, milliseconds):
    """The events that are now on one descriptor."""
    poll = Poll()
    poll.register(fd, select.POLLIN)
    return sum(event for _, event in poll.poll(milliseconds))
