"""Room: whether the site may have one more worker: by `maxchildren`, and by the memory that the account may use.

A worker is taken to need what the largest one of the site has been seen to take; those that are smaller yet may grow.
"""

import time

FIRST_SIZE = 12 << 20  # bytes that a worker is taken to need before one was measured
LEAST_SIZE = 2 << 20
IMPORT_SIZE = 48 << 20  # the same where workers import the application
IMPORTS_FOR = 10.0  # seconds for which that counts: a worker that still imports is small
ROOM_FOR_GROWTH = 1.1  # what was not seen of the largest worker
KEPT_FREE = 32  # a part of the limit that is left to the fronts and to the web server: 1/32
MEASURE_AFTER = 0.3  # seconds after which a worker is measured again
MEASURED_AT_ONCE = 4  # workers measured before one decision
NO_LIMIT = 1 << 62  # bytes
LOWERED_FOR = 180.0  # seconds for which there may be no more workers than were left when one was killed


class Room:
    """The bounds of the site, and how large its workers are."""

    def __init__(self, settings):
        self.most = int(settings.get('maxchildren') or 0)
        groups = [line.split('\t') for line in settings.get('memory', '').split('\n')]
        self.groups = [MemoryGroup(*files) for files in groups if len(files) == 4]
        self.largest = 0
        self.sizes = {}  # pid: (bytes that it takes, when that was measured)
        self.lowered = (0, 0.0)  # at most so many workers, until then
        self.imports, self.began = False, None

    def expect_imports(self):
        """Each worker imports the application."""
        self.imports = True

    def refusal(self, workers, pids):
        """Why there can be no further worker now, in words; '' if there can."""
        if self.began is None:
            self.began = time.monotonic()
        most, why = self.bound(workers, pids) or (workers + 1, '')
        if most > workers:
            return ''
        return 'the site may have {} worker{} ({})'.format(most, '' if most == 1 else 's', why)

    def bound(self, workers, pids):
        """(how many workers there can be now, why not more). None: nothing bounds them. `workers`: how many serve or are
        idle. The first one is always allowed."""
        bounds = [(self.most, '[server] maxchildren')] if self.most else []
        if self.groups and pids:
            most, until = self.lowered
            if time.monotonic() < until:
                why = 'one more was killed for want of memory some minutes ago'
                bounds.append((max(0, workers + most - len(pids)), why))
            left, limit = min(group.left() for group in self.groups)
            if limit < NO_LIMIT:
                bounds.append(self.fit(left, limit, workers, pids))
        return min(bounds, default=None)

    def fit(self, left, limit, workers, pids):
        """How many workers fit into the memory of the account, and why not more."""
        self.measure(pids)
        size = self.expected_size()
        growth = sum(max(0, size - self.sizes.get(pid, (0, 0.0))[0]) for pid in pids)
        more = max(0, (left - limit // KEPT_FREE - growth) // size)
        text = 'the account may use {} MB of memory, {} MB are in use, and a worker of this site takes {} MB'
        return workers + more, text.format(limit >> 20, (limit - left) >> 20, size >> 20)

    def expected_size(self):
        """Bytes that a worker is taken to need."""
        if self.imports and time.monotonic() - self.began < IMPORTS_FOR:
            least = IMPORT_SIZE
        else:
            least = LEAST_SIZE if self.largest else FIRST_SIZE
        return max(least, int(self.largest * ROOM_FOR_GROWTH))

    def measure(self, pids):
        """Looks at the workers that were not looked at for longest."""
        now = time.monotonic()
        self.sizes = {pid: seen for pid, seen in self.sizes.items() if pid in pids}
        old = sorted((self.sizes.get(pid, (0, 0.0))[1], pid) for pid in pids)
        for at, pid in old[:MEASURED_AT_ONCE]:
            if now - at >= MEASURE_AFTER:
                private, peak = memory_of(pid)
                self.sizes[pid] = (private, now)
                self.largest = max(self.largest, peak)

    def killed(self, workers):
        """A worker was killed. Whether the kernel did it for want of memory: then so many are enough for some minutes."""
        if not any([group.has_killed() for group in self.groups]):
            return False
        self.lowered = (max(1, workers), time.monotonic() + LOWERED_FOR)
        return True


class MemoryGroup:
    """A control group with a limit of memory: the files of its limit, its usage, its statistics and its kills."""

    def __init__(self, limit, usage, statistics, kills):
        self.limit, self.usage, self.statistics, self.kills = limit, usage, statistics, kills
        self.seen_kills = self._count_kills()

    def left(self):
        """(bytes that are left, the limit in bytes); what the kernel can take from its cache of files is left."""
        limit, used = read_number(self.limit), read_number(self.usage)
        if limit is None or used is None:
            return NO_LIMIT, NO_LIMIT
        names = read_table(self.statistics)
        cache = names.get('total_inactive_file', names.get('inactive_file', 0))
        return limit - max(0, used - cache), limit

    def has_killed(self):
        """Whether it has killed since this was last asked."""
        before, self.seen_kills = self.seen_kills, self._count_kills()
        return self.seen_kills > before

    def _count_kills(self):
        return read_table(self.kills).get('oom_kill', 0)


def memory_of(pid):
    """(bytes that only this process has, the most that it has had so far)"""
    names = read_table('/proc/{}/smaps_rollup'.format(pid), ':')
    private = (names.get('Private_Dirty', 0) + names.get('Private_Clean', 0)) << 10
    names = read_table('/proc/{}/status'.format(pid), ':')
    return private, private + max(0, names.get('VmHWM', 0) - names.get('VmRSS', 0) << 10)


def read_number(path):
    """The number in a file; None if there is none."""
    try:
        with open(path, 'rb') as file:
            return int(file.read(64))
    except (OSError, ValueError):
        return None


def read_table(path, end=''):
    """The numbers in the lines of a file, by name. `end`: what ends a name."""
    try:
        with open(path, 'rb') as file:
            lines = file.read(1 << 16).decode('ascii', 'replace').splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {line[0].rstrip(end or None): int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}
