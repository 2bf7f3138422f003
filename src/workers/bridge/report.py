"""The report of the preloader for `status`: the workers of the site, and what bounds them.

It is TOML in the lock file, below the line that says who holds the lock. The other side is src/status/site_workers.rs.
"""

import os
import time

REPORT_EVERY = 1.0  # seconds between two reports at least
END = '# end\n'  # without it a report is not whole


class Report:
    """Written when it has changed, but not several times a second."""

    def __init__(self, lock, line):
        self.lock, self.line = lock, line
        self.text = ''
        self.next = 0.0
        self.due = False

    def update(self, pool):
        """Something may have changed."""
        now = time.monotonic()
        self.due = now < self.next
        if self.due:
            return
        text = describe(pool)
        if text == self.text:
            return
        self.text, self.next = text, now + REPORT_EVERY
        try:
            os.ftruncate(self.lock, os.pwrite(self.lock, (self.line + '\n' + text + END).encode(), 0))
        except OSError:
            pass  # no room: `status` shows what it showed before

    def deadline(self):
        """When to call `update`; None: not before something happens."""
        return self.next if self.due else None


def describe(pool):
    """What the pool looks like now."""
    serving, kept = pool.count_serving(), pool.kept.idle
    lines = ['serving = {}'.format(serving - len(kept)), 'waiting = {}'.format(pool.count_waiting())]
    bound = pool.room.bound(serving, pool.children)
    if bound:
        lines += ['most = {}'.format(bound[0]), 'why = "{}"'.format(bound[1])]
    for worker in kept:
        lines += ['[[kept]]', 'pid = {}'.format(worker.pid), 'served = {}'.format(int(worker.facts['served']))]
        lines.append('since = {}'.format(worker.kept_at))
    return '\n'.join(lines) + '\n'
