"""A real systemd as process 1 of namespaces of its own, with no units but those that a test gives it. Knows no site."""

import os
import shutil
import subprocess
from pathlib import Path

from .processes import until

STOCK = Path("/lib/systemd/system")
PROGRAM = Path("/lib/systemd/systemd")
# What units with default dependencies want; without their .wants directories they start nothing else.
TARGETS = "basic sysinit sockets shutdown timers paths slices multi-user network local-fs swap umount".split()
NAMESPACES = ["--pid", "--mount", "--cgroup", "--ipc", "--uts"]

BOOT = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/mysite
mount --bind {base}/sockets /run/mysite
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind {base}/console /dev/console
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test SYSTEMD_UNIT_PATH={base}/units \\
    {program} --system --unit=basic.target --log-target=console --show-status=no
"""


def why_not():
    """What this machine lacks for it; empty when it has all."""
    if os.getuid() != 0:
        return "only root can make the namespaces for a systemd"
    for program in (PROGRAM, shutil.which("systemctl"), shutil.which("nsenter")):
        if not program or not Path(program).exists():
            return "systemd is not installed"
    if not control_groups():
        return "no control groups of version 2 are mounted"
    attempt = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "mount", "--make-rprivate", "/"]
    done = subprocess.run(attempt, capture_output=True)
    return "" if done.returncode == 0 else "the kernel or a container forbids namespaces"


def control_groups():
    """Where the hierarchy of version 2 is, if we may make groups in it."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(path)
    return None


class Systemd:
    """`with Systemd(base) as systemd:` boots it; /run/mysite in there is `systemd.sockets` out here."""

    def __init__(self, base):
        self.base = base
        self.units, self.sockets, self.console = base / "units", base / "sockets", base / "console"
        self.group = control_groups() / f"runfcgi-test-{os.getpid()}-{base.name}"

    def __enter__(self):
        for directory in (self.base, self.units, self.sockets):
            directory.mkdir(exist_ok=True)
        self.console.touch()
        for target in TARGETS:
            (self.units / f"{target}.target").symlink_to(STOCK / f"{target}.target")
        self.group.mkdir()
        enter = f'echo $$ > {self.group}/cgroup.procs; exec unshare {" ".join(NAMESPACES)} --kill-child "$@"'
        boot = BOOT.format(base=self.base, program=PROGRAM)
        command = ["/bin/sh", "-c", enter, "sh", "--fork", "--mount-proc", "/bin/sh", "-c", boot]
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            until(lambda: self.ctl("is-system-running", check=False) == "running", 20, "systemd runs")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        until(lambda: not self.processes(), 10, "all that systemd has started has ended")
        for directory, _, _ in os.walk(self.group, topdown=False):
            os.rmdir(directory)
        print("--- what systemd said, the end of it ---", *self.console.read_text().splitlines()[-40:], sep="\n")

    def run(self, *command, user=0, group=0, check=True):
        """What a command says that a user of that machine runs in a shell."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            assert self.process.poll() is None, self.console.read_text()
            return ""
        enter = ["nsenter", "--target", children[0], "--pid", "--mount", "--cgroup", f"--setuid={user}", f"--setgid={group}"]
        command = [*enter, "--", *(str(word) for word in command)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0 or not check, (command, done.stdout, done.stderr, self.console.read_text()[-2000:])
        return done.stdout.strip()

    def ctl(self, *words, check=True):
        """What `systemctl words` says."""
        return self.run("systemctl", "--no-pager", *words, check=check)

    def show(self, unit, name):
        """A property of a unit."""
        return self.ctl("show", "--value", "--property", name, unit)

    def processes(self, unit=""):
        """The processes of a unit, or of all, by the numbers that they have out here."""
        found = []
        for directory, _, _ in os.walk(self.group):
            if unit in directory:
                found += [int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()]
        return found
