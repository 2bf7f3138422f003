"""Start: SETUP from the front, and the mode that it names."""

import fcntl
import os
import signal
import sys

from . import check
from .app import load_app, prepare
from .output import ERRORS, LogStream, attempt, describe_exception, encode_tail, log
from .preloader import Preloader
from .private import PRIVATE
from .processes import end_processes, find_descendants, guard_started, ignore_signals
from .warm import collect_seldom, warm_up
from .wire import (
    BOOT_FAILED,
    F_DUPFD_CLOEXEC,
    FRAME_HEADER,
    LOG,
    OUTPUT,
    TEXT_LIMIT,
    decode_pairs,
    frame,
    receive_with_fds,
    unix_socket,
)
from .worker import hold_lifeline, run_worker


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
    if settings.get('mode') == 'check':
        check.run(settings)
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
        attempt('ending what the import has started', lambda: end_processes(find_descendants([os.getpid()])))
        unix_socket(fds[1]).sendall(frame(BOOT_FAILED, encode_tail(text, TEXT_LIMIT)))
        os._exit(1)
    attempt('guarding what the import has started', guard_started)
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


def detach():
    """Leaves the session of the front. While the app is imported we stay its child, so that it learns how we end."""
    if os.getpid() != os.getpgrp():  # a group leader cannot, and need not
        os.setsid()
