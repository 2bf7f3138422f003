"""Threads that go on until a test has seen enough."""

import threading


class Together:
    """`with Together(visits):` runs each of `visits` in a thread of its own. Each has to return when `over` is set."""

    def __init__(self, visits, patience=60):
        self.over = threading.Event()
        self._patience = patience
        self._threads = [threading.Thread(target=visit, daemon=True) for visit in visits]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self._threads:
            thread.join(self._patience)
        assert not any(thread.is_alive() for thread in self._threads), "a visitor hangs"
