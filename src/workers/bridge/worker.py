"""A worker: serves its slots until the front closes them."""

import atexit
import fcntl
import os
import select
import signal
import threading

from .output import ERRORS, attempt, log
from .private import PRIVATE
from .processes import ignore_signals, set_command_line, set_process_name
from .request import Slot
from .wire import F_SETOWN, F_SETSIG, O_ASYNC, poll_once


def run_worker(app, settings, slot_fds):
    """Serves until the front closes the slots. Never returns."""
    set_process_name('runfcgi-worker')
    set_command_line('worker', settings)
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
    """Ties this process to the pipe's other end: when that closes, the kernel kills us, whatever we are doing."""
    PRIVATE.add(fd)
    try:
        fcntl.fcntl(fd, F_SETOWN, os.getpid())
        fcntl.fcntl(fd, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | O_ASYNC)
    except OSError as error:
        log('runfcgi: no lifeline ({}): the worker ends only when its slot is closed'.format(error))
    if poll_once(fd, 0) & (select.POLLHUP | select.POLLERR):
        os._exit(0)
