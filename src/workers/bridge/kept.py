"""Kept workers: idle ones that no front holds, until a front needs one.

Whoever holds a worker's descriptors can use it, and ends it by closing them. Of those kept, the one used last is given
first, so that the others can be ended.
"""

import select
import time

from .private import PRIVATE
from .wire import poll_once

EXIT_WITHIN = 3.0  # seconds that a worker's exit functions may take, as in the front


class KeptWorker:
    """What its last front said of it, and that front's descriptors: lifeline, outputs, slots."""

    def __init__(self, facts, fds):
        self.facts = facts
        self.pid, self.idle_timeout, self.spare = (int(facts[name]) for name in ('pid', 'idle_timeout', 'spare'))
        self.slots = fds[-int(facts['shape'].split()[0]) :]
        self.since = time.monotonic()
        self.kept_at = int(time.time() * 1000)  # milliseconds since 1970, for people
        self.old_at = self.since + int(facts['old_in']) / 1000 if facts.get('old_in') else None
        self.fds = [PRIVATE.add(fd) for fd in fds]  # no child of ours may inherit them
        self.is_ended = False  # by us

    def close(self, fds):
        for fd in fds:
            self.fds.remove(fd)
            PRIVATE.discard(fd)

    def expires(self, is_spare):
        """When it ends if nobody needs it; None: never."""
        idle = None if is_spare else self.since + self.idle_timeout
        return min((at for at in (idle, self.old_at) if at is not None), default=None)

    def update(self):
        """What the next front has to know of it."""
        if self.old_at is not None:
            self.facts['old_in'] = str(max(0, int((self.old_at - time.monotonic()) * 1000)))
        return self.facts


class KeptWorkers:
    """All of them, the one used last at the end."""

    def __init__(self, poll):
        self.poll = poll
        self.idle = []
        self.ending = []  # (when it is killed, worker)

    def keep(self, worker):
        self.idle.append(worker)
        for fd in worker.slots:
            self.poll.register(fd, select.POLLIN)

    def take(self, shape):
        """The one of this shape that was used last, or None."""
        for worker in [worker for worker in reversed(self.idle) if worker.facts['shape'] == shape]:
            if poll_once(worker.slots[0], 0):  # it has just died
                self.drop(worker)
                continue
            self._withdraw(worker)
            return worker
        return None

    def on_event(self, fd):
        """A worker that is idle and closes a slot, or speaks, is of no use."""
        for worker in list(self.idle):
            if fd in worker.slots:
                self.drop(worker)

    def reaped(self, pid):
        """The process is gone. Whether it was kept, and we have not ended it."""
        lost = False
        for worker in [worker for worker in self.idle + [worker for _, worker in self.ending] if worker.pid == pid]:
            lost = not worker.is_ended
            self._withdraw(worker)
            worker.close(list(worker.fds))
        self.ending = [entry for entry in self.ending if entry[1].pid != pid]
        return lost

    def end(self, worker):
        """Has it run its exit functions and exit: it does when its slots are closed."""
        worker.is_ended = True
        self.drop(worker)

    def drop(self, worker):
        """The same for one that seems to end by itself."""
        self._withdraw(worker)
        worker.close(worker.slots)
        self.ending.append((time.monotonic() + EXIT_WITHIN, worker))

    def end_all(self):
        for worker in list(self.idle):
            self.end(worker)

    def expire(self):
        """Ends those that nobody has needed for long, and kills those that do not exit: returns their pids."""
        now = time.monotonic()
        for worker, at in self._expiries():
            if at is not None and at <= now:
                self.end(worker)
        killed = [worker for at, worker in self.ending if at <= now]
        for worker in killed:
            worker.is_ended = True
            worker.close(list(worker.fds))
        self.ending = [entry for entry in self.ending if entry[0] > now]
        return [worker.pid for worker in killed]

    def deadline(self):
        """When `expire` has something to do; None: never."""
        times = [at for _, at in self._expiries()] + [at for at, _ in self.ending]
        return min((at for at in times if at is not None), default=None)

    def _expiries(self):
        spare = len(self.idle) - max([worker.spare for worker in self.idle], default=0)
        return [(worker, worker.expires(at >= spare)) for at, worker in enumerate(self.idle)]

    def _withdraw(self, worker):
        if worker in self.idle:
            self.idle.remove(worker)
            for fd in worker.slots:
                self.poll.unregister(fd)
