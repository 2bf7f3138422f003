"""A full file system where the processes of a site meet: the next place is taken, nothing hangs, the log has the cause.

With real file systems of memory that are full, each in a mount namespace of its own; so for root only.
"""

import glob
import json
import os
import subprocess

import pytest

import peers
from own_server import Site, in_background
from plain_site import ask, in_namespace, kill
from webservers.account import REPOSITORY, USER
from webservers.fastcgi import request
from webservers.processes import until

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")

CONFIG = """\
[app]
path = "{project}"
wsgi = "faults:app"
python = "/usr/bin/python3"
[log]
file = "%s"
[env]
MARKS = "%s"
"""
FILL = "head -c 1G /dev/zero > {0}/filler\n"
SHM = "mount -t tmpfs -o size=64m,mode=1777 none /dev/shm\n"


def inside(manager, script):
    """Runs this where the site's processes are; returns what it says."""
    return beside(manager.process.pid, script)


def beside(pid, script):
    command = ["nsenter", "-t", str(pid), "-m", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture
def site(make_plain):
    """One that names no runtime directory."""
    site = make_plain()
    site.account.configure(CONFIG % (site.logged, site.marks))
    return site


def places(directory):
    return glob.glob(f"{directory}/runfcgi-{USER.pw_uid}-*")


def test_a_place_that_is_full_is_passed_over(site, manage):
    before = set(places("/tmp"))
    manager = manage(site, wrap=in_namespace(SHM + FILL.format("/dev/shm")))
    for _ in range(2):
        ask(manager.spawn(), "/pid")
    assert len(site.imports()) == 1
    assert len(set(places("/tmp")) - before) == 1
    assert inside(manager, "ls -A /dev/shm").split() == ["filler"], "nothing is left where there is no room"
    assert "No space left" not in site.log()


def test_without_any_place_the_log_says_why_and_the_site_is_served(site, manage):
    base = site.account.base
    full = "mount -t tmpfs -o size=1m,mode=1777 none {0}\n" + FILL
    # What lies below /tmp and is needed stays there: the account, and perhaps these tests themselves.
    kept = [path.relative_to("/tmp") for path in (base, REPOSITORY) if path.is_relative_to("/tmp")]
    binds = [f"mkdir -p /mnt/{path}; mount --bind /tmp/{path} /mnt/{path}\n" for path in kept]
    places = full.format("/dev/shm") + full.format("/var/tmp") + full.format("/mnt")
    script = places + "".join(binds) + "mount --move /mnt /tmp"
    site.account.site.chmod(0o555)
    manager = manage(site, wrap=in_namespace(script))
    front = manager.spawn()
    ask(front, "/pid")
    for place in ("/dev/shm", "/tmp", "/var/tmp"):
        line = next(line for line in site.log().splitlines() if "RF0604 no runtime directory" in line)
        found = [part for part in line.split("; ") if part.startswith(f"{place}/runfcgi-{USER.pw_uid}-")]
        assert found and found[0].endswith(": No space left on device (os error 28)"), line
    reply = request(front.socket, "/upload", method="POST", body=bytes(3 << 20))
    assert reply.status == 503 and "RF0323" in reply.errors and "0 bytes are free on the disk" in reply.errors
    ask(front, "/pid")


def test_a_named_place_that_is_full_is_told_of(make_plain, manage):
    site = make_plain()
    runtime = site.account.runtime
    full = f"mkdir {runtime}; mount -t tmpfs -o size=64k,mode=0700,uid={USER.pw_uid},gid={USER.pw_gid} none {runtime}\n"
    manager = manage(site, wrap=in_namespace(full + FILL.format(runtime)))
    ask(manager.spawn(), "/pid")
    assert f"{runtime}: No space left on device" in site.log()


def test_a_place_that_fills_up_later(site, manage):
    manager = manage(site, wrap=in_namespace(SHM))
    fronts = [manager.spawn() for _ in range(2)]
    for front in fronts:
        ask(front, "/version")
    assert inside(manager, "ls /dev/shm").startswith(f"runfcgi-{USER.pw_uid}-")
    inside(manager, FILL.format("/dev/shm"))
    assert request(fronts[0].socket, "/nothing").status == 500
    until(lambda: "RF0606" in site.log(), 5, "the journal has no room")

    for pid in site.preloaders() + site.workers():
        kill(pid)
    for front in fronts:
        until(lambda: request(front.socket, "/version").status == 200, 8, "another preloader works")
    assert len(site.imports()) == 2

    site.account.code(1)
    site.account.touch()
    for front in fronts:
        until(lambda: ask(front, "/version").text == "1", 8, "new code goes live")
    site.account.code(2)
    site.account.put(site.account.config, site.account.config.read_text() + "[server]\nping = '/ping'\n")
    for front in fronts:
        until(lambda: ask(front, "/version").text == "2", 8, "new settings go live")
    assert ask(manager.spawn(), "/version").text == "2", "one that comes later finds a place"

    version = site.account.project / "myproject" / "version.py"
    site.account.put(version, "import os\nprint('why', flush=True)\nos._exit(7)\n")
    site.account.touch()
    until(lambda: "exited with status 7; what it wrote is lost: /dev/shm/" in site.log(), 8, "the log tells why")
    assert "No space left on device" in site.log()
    for front in fronts:
        assert ask(front, "/version").text == "2"
    inside(manager, "rm /dev/shm/filler")
    site.account.code(3)
    site.account.touch()
    for front in fronts:
        until(lambda: ask(front, "/version").text == "3", 8, "with room again")


def test_a_place_without_inodes_costs_the_preloader_alone(site, manage):
    shm = "mount -t tmpfs -o size=64m,nr_inodes=40,mode=1777 none /dev/shm\n"
    manager = manage(site, wrap=in_namespace(shm))
    front = manager.spawn()
    ask(front, "/version")
    inside(manager, "i=0; while touch /dev/shm/$i; do i=$((i+1)); done")
    site.account.code(1)
    site.account.touch()
    until(lambda: ask(front, "/version").text == "1", 8, "new code goes live")
    assert ask(manager.spawn(), "/version").text == "1"
    line = next(line for line in site.log().splitlines() if "RF0405 the preloader cannot be started" in line)
    assert f"/dev/shm/runfcgi-{USER.pw_uid}-" in line and "No space left on device" in line


def test_a_report_that_has_no_room_leaves_the_last_one_whole(build, tmp_path):
    with Site(tmp_path, build) as site:
        (run := tmp_path / "run").mkdir()
        mount = in_namespace(f"mount -t tmpfs -o size=64k,mode=0700 none {run}")
        site.daemon("socket=my.sock", "pidfile=my.pid", "errlog=err.log", "method=threaded", "maxchildren=20", prefix=mount)
        site.ask()

        def served():
            fronts = json.loads(beside(site.pid(), f"cd {tmp_path}; ./mysite.fcgi status --json"))["fronts"]
            return fronts and fronts[0]["counters"]["requests"]

        until(lambda: served() == 1, 20, "the first report is there")
        beside(site.pid(), FILL.format(run))
        # What they ask for is in the report, which becomes longer than what is allocated to its file.
        calls = [in_background(lambda: peers.fastcgi(site.socket, "/" + "x" * 300, "sleep=5")) for _ in range(20)]
        until(lambda: "RF0605 cannot write " in (tmp_path / "err.log").read_text(), 20, "the log tells")
        assert 1 <= served() <= 20, "the last one that had room"
        for call in calls:
            call.join(30)
            assert call.result.startswith("Status: 200"), call.result
        beside(site.pid(), f"rm {run}/filler")
        site.ask()
        until(lambda: served() == 22, 20, "the next report has room")
