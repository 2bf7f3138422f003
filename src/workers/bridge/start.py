"""Start: receives SETUP from the front and enters the mode that it names."""

import fcntl
import os
import signal
import sys

from . import check
from .app import prepare
from .output import ERRORS, LogStream
from .plain import import_and_serve
from .preloader import Preloader
from .private import PRIVATE
from .processes import set_command_line
from .warm import collect_seldom
from .wire import (
    F_DUPFD_CLOEXEC,
    FRAME_HEADER,
    LOG,
    OUTPUT,
    decode_pairs,
    receive_with_fds,
    unix_socket,
)
from .worker import hold_lifeline


def main():
    """Receives SETUP, prepares the process and enters its mode. Never returns."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    setup_socket = unix_socket(fcntl.fcntl(0, F_DUPFD_CLOEXEC, 10))
    null = os.open('/dev/null', os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    settings, fds = receive_setup(setup_socket)
    set_command_line(settings['mode'], settings)
    sys.stdout = sys.__stdout__ = LogStream('<stdout>', OUTPUT if settings.get('outlog') == '1' else LOG)
    sys.stderr = sys.__stderr__ = ERRORS
    prepare(settings)
    if settings.get('mode') == 'check':
        check.run(settings)
    if settings.get('mode') == 'preloader':
        detach()
        collect_seldom()
        Preloader(settings, setup_socket, fds[0], fds[1]).run()
    PRIVATE.add(setup_socket)
    PRIVATE.guard_forks()
    hold_lifeline(fds[0])  # before the import, which may hang
    import_and_serve(settings, fds[1:])


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


def detach():
    """Leaves the front's session. During the import we stay its child, so that it learns our exit status."""
    if os.getpid() != os.getpgrp():  # a group leader can't, and needn't
        os.setsid()
