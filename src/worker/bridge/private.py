# Descriptors that no forked child may keep.


class Private:
    """The sockets and descriptors of this process that any child it forks must drop at once.

    A child of the application (a daemon started at import, a multiprocessing pool) that kept the listener would make
    every later connect hang; one that kept a slot would hide the end of its worker.
    """

    def __init__(self):
        self.held = []

    def add(self, item):
        """Holds a socket object or a descriptor."""
        self.held.append(item)
        return item

    def discard(self, item):
        """Closes one and forgets it."""
        if item in self.held:
            self.held.remove(item)
        self._close(item)

    def drop_in_child(self):
        """Runs in each forked child, before anything else of it."""
        held, self.held = self.held, []
        for item in held:
            self._close(item)
        LOCAL.sink = Descriptors()

    def guard_forks(self):
        """From here on every child that Python code forks drops them."""
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(after_in_child=self.drop_in_child)
            return
        real_fork = os.fork

        def fork():
            pid = real_fork()
            if pid == 0:
                self.drop_in_child()
            return pid

        os.fork = fork

    @staticmethod
    def _close(item):
        try:
            os.close(item) if isinstance(item, int) else item.close()
        except OSError:
            pass


PRIVATE = Private()
LOCAL = threading.local()
