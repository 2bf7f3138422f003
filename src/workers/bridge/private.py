"""Descriptors that no child of the application may inherit."""

import os
import signal

from . import PACKAGE
from .output import LOCAL, Descriptors


class Private:
    """The sockets and descriptors that each forked child closes at once.

    A child of the application (a daemon started at import, a multiprocessing pool) that kept the listener would make
    every later connect hang; one that kept a slot would hide that its worker has died.
    """

    def __init__(self):
        self.held = []

    def add(self, item):
        """Adds a socket object or a descriptor, and returns it."""
        self.held.append(item)
        return item

    def discard(self, item):
        """Closes one and forgets it."""
        if item in self.held:
            self.held.remove(item)
        self._close(item)

    def begin_child(self):
        """Runs first thing in each forked child."""
        held, self.held = self.held, []
        for item in held:
            self._close(item)
        LOCAL.sink = Descriptors()
        obey_term()

    def guard_forks(self):
        """From here on, every child that Python code forks closes them, and obeys TERM."""
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(before=hold_term, after_in_parent=release_term, after_in_child=self.begin_child)
            return
        real_fork = os.fork

        def fork():
            hold_term()
            try:
                pid = real_fork()
                if pid == 0:
                    self.begin_child()
                return pid
            finally:
                release_term()

        os.fork = fork

    @staticmethod
    def _close(item):
        try:
            os.close(item) if isinstance(item, int) else item.close()
        except OSError:
            pass


def hold_term():
    """Before a fork: delays an early TERM until the child can obey it."""
    LOCAL.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def release_term():
    signal.pthread_sigmask(signal.SIG_SETMASK, getattr(LOCAL, 'mask', ()))


def obey_term():
    """In a forked child: removes our handler, which ignores TERM."""
    if str(getattr(signal.getsignal(signal.SIGTERM), '__module__', None)).startswith(PACKAGE):
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except ValueError:  # not allowed in this thread
            pass
    release_term()


PRIVATE = Private()
