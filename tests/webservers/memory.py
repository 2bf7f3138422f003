"""A control group that limits memory, as a host's does for an account. For root, where such a group can be made."""

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# The directory of such groups, and the files of limit and kills, in version 2 and in version 1.
VERSIONS = [
    (ROOT, "memory.max", "memory.events"),
    (ROOT / "memory", "memory.limit_in_bytes", "memory.oom_control"),
]


class Group:
    def __init__(self, directory, limit_file, kills_file):
        self.directory, self.limit_file, self.kills_file = directory, limit_file, kills_file

    def wrap(self):
        """A command that runs another one in the group."""
        return ["sh", "-c", f'echo $$ > {self.directory}/cgroup.procs && exec "$@"', "sh"]

    def kills(self):
        """How many processes the kernel has killed for want of memory."""
        for line in (self.directory / self.kills_file).read_text().splitlines():
            name, number = line.split()
            if name == "oom_kill":
                return int(number)
        return 0


@contextlib.contextmanager
def limited(megabytes):
    """`with limited(300) as group:`; None where no such group can be made."""
    for root, limit_file, kills_file in VERSIONS:
        directory = root / f"runfcgi-{os.getpid()}-{megabytes}"
        try:
            directory.mkdir()
        except OSError:
            continue
        if not (directory / limit_file).exists():  # no control group, or without this controller
            directory.rmdir()
            continue
        (directory / limit_file).write_text(str(megabytes << 20))
        try:
            yield Group(directory, limit_file, kills_file)
        finally:
            remove(directory)
        return
    yield None


def remove(directory):
    """Removes a group when its processes have been collected, which the init of a container may do late."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            return directory.rmdir()
        time.sleep(0.05)
    directory.rmdir()
