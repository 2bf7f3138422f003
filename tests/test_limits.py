"""More than there is room for: visitors beyond the queue, processes and memory beyond what the account may have."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from plain_site import RUN_AS, all_named, all_processes, ask, kill, parent
from webservers.fastcgi import request
from webservers.processes import touching, until
from webservers.recipe import connects

# --- too much at once ----------------------------------------------------------------------------------------------


# Collects orphans at once, as an init does; that of a container may take seconds, and until then they count.
INIT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
while True:
    pid, status = os.wait()
    if pid == child:
        os._exit(os.waitstatus_to_exitcode(status) & 255)
"""


def external(site, *words, init=False, **options):
    """`mysite.fcgi` as a person starts it for an external web server, on a socket of its own."""
    user = {"user": RUN_AS["uid"], "group": RUN_AS["gid"], "extra_groups": [], **options} if RUN_AS else options
    path = str(site.account.base / "home" / "external.sock")
    command = [str(site.account.executable), "runfcgi", "daemonize=false", f"socket={path}", *words]
    if init:
        command = [sys.executable, "-c", INIT, *command]
    errors = open(site.account.base / "external.log", "ab")
    process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stderr=errors, **user)
    until(lambda: connects(path) or process.poll() is not None, 10, "it listens")
    return process, path


def finish(site, process):
    process.terminate()
    assert process.wait(8) == 0
    until(site.gone, 8, f"all have left: {touching(site.account.base)}")


def test_beyond_the_queue_there_is_a_503_with_retry_after(make_plain):
    site = make_plain(limits="queue = 3\nqueue_timeout = 2", server="maxchildren = 2")
    process, path = external(site)
    try:
        assert request(path, "/pid").status == 200
        replies = []
        threads = [
            threading.Thread(target=lambda: replies.append(request(path, "/version?seconds=1"))) for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        seen = Counter(reply.status for reply in replies)
        assert set(seen) == {200, 503} and seen[200] >= 4, seen
        for reply in replies:
            assert reply.ended and not reply.failure
            if reply.status == 503:
                assert "\r\nretry-after:" in reply.head.lower() and reply.seconds < 4
        assert request(path, "/pid").status == 200
    finally:
        finish(site, process)


def test_a_pool_grows_and_shrinks(make_plain):
    site = make_plain(server="maxchildren = 6\nminspare = 1\nmaxspare = 1\nidle_timeout = 1")
    process, path = external(site)
    try:
        threads = [
            threading.Thread(target=request, args=(path, "/version?seconds=0.5")) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(site.workers()) == 6, 5, "it has grown")
        for thread in threads:
            thread.join()
        until(lambda: len(site.workers()) == 1, 8, "it has shrunk")
        assert request(path, "/pid").status == 200
        assert not site.zombies()
    finally:
        finish(site, process)


# --- limits of the account -----------------------------------------------------------------------------------------

LIMITED = 47_114  # a user that nobody else is: the kernel counts processes for each user


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user of its own")
def test_a_limit_of_processes_makes_visitors_wait_and_nothing_fail(make_plain, manage):
    """`ulimit -u 22`: eight fronts, the manager and the preloader leave room for a few workers only."""
    site = make_plain(server="minspare = 1")
    give_to_limited(site)
    # The manager has a thread per child, which count as well: 1 + 8 + 8 + 1 preloader, and room for 4 workers.
    manager = manage(site, uid=LIMITED, gid=LIMITED, limits={resource.RLIMIT_NPROC: 22})
    fronts = [manager.spawn() for _ in range(8)]
    replies = []

    def visit(front):
        for _ in range(4):
            replies.append(request(front.socket, "/version?seconds=0.2", timeout=15))

    threads = [threading.Thread(target=visit, args=(front,)) for front in fronts]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    site.account.touch()
    for thread in threads:
        thread.join(65)
    seen = Counter(reply.status for reply in replies)
    print(f"{dict(seen)}, slowest {max(r.seconds for r in replies):.1f} s, {len(site.workers())} workers")
    assert seen == {200: 32}, [r for r in replies if r.status != 200][:3]
    assert len(site.imports()) >= 1
    for front in fronts[1:]:
        kill(front.pid, signal.SIGTERM)
    ask(fronts[0], "/version")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user of its own")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_at_the_limit_of_processes_those_that_import_by_themselves_give_way_too(make_plain, manage, busy):
    """Nobody knows the others here, there is no preloader. Two workers have room; four fronts have visitors."""
    site = make_plain(server="preload = false", limits="queue_timeout = 20")
    give_to_limited(site)
    manager = manage(site, uid=LIMITED, gid=LIMITED)
    fronts = [manager.spawn() for _ in range(4)]
    workers = [int(ask(front, "/pid").text) for front in fronts]
    allow([front.pid for front in fronts], lasting_tasks_of(LIMITED) - 2)
    for worker in workers[2:]:
        kill(worker)
    until(lambda: set(site.workers()) == set(workers[:2]), 5, "there is no room for more")
    over = threading.Event()

    def visit(front):
        while not over.is_set():
            ask(front, "/version?seconds=0.3", timeout=30)

    threads = [threading.Thread(target=visit, args=(front,)) for front in fronts[: 2 * busy]]
    for thread in threads:
        thread.start()
    try:
        for front in fronts[2:]:
            reply = ask(front, "/pid", timeout=30)
            print(f"answered after {reply.seconds:.1f} s")
            assert reply.seconds < 12
    finally:
        over.set()
        for thread in threads:
            thread.join(40)
    assert site.log().count("cannot be started") <= 8, "the log is not flooded"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user of its own")
@pytest.mark.parametrize("server", ["", "preload = false"], ids=["preload", "plain"])
def test_whoever_waits_in_vain_at_a_limit_is_told_the_limit(make_plain, manage, server):
    site = make_plain(server=server, limits="queue_timeout = 1")
    give_to_limited(site)
    front = manage(site, uid=LIMITED, gid=LIMITED).spawn()
    worker = int(ask(front, "/pid").text)
    room = 1  # whatever goes meanwhile
    allow([front.pid, *site.preloaders()], room)
    kill(worker)
    until(lambda: f"worker {worker} was killed" in site.log(), 5, "the front knows")
    until(lambda: "RF0402" in site.log(), 5, "there is no room for another one")
    reply = request(front.socket, "/version")
    assert reply.status == 503, reply
    assert "RF0319" in reply.errors and f"the account may have {room} processes" in reply.errors, reply.errors


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user of its own")
@pytest.mark.parametrize("server", ["", "preload = false"], ids=["preload", "plain"])
def test_new_code_goes_live_where_old_and_new_have_no_room_beside_each_other(make_plain, manage, server):
    site = make_plain(server=server)
    give_to_limited(site)
    manager = manage(site, uid=LIMITED, gid=LIMITED)
    fronts = [manager.spawn() for _ in range(2)]
    for front in fronts:
        ask(front, "/version")
    allow([front.pid for front in fronts], lasting_tasks_of(LIMITED))
    site.account.code(1)
    site.account.touch()
    for front in fronts:
        # Orphans count until the init of a container has collected them.
        until(lambda: ask(front, "/version").text == "1", 25, "new code is live")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user of its own")
@pytest.mark.parametrize("server", ["", "preload = false\n"], ids=["preload", "plain"])
def test_at_the_limit_of_processes_some_serve_while_new_code_takes_their_place(make_plain, server):
    site = make_plain(server=server + "maxchildren = 3\nminspare = 3", env='IMPORT_SECONDS = "1.5"')
    give_to_limited(site)
    process, path = external(site, init=True, user=LIMITED, group=LIMITED)
    fewest = []
    try:
        assert request(path, "/version").text == "0"
        until(lambda: len(site.workers()) == 3, 8, "all workers are there")
        [front] = [pid for pid in all_named("mysite.fcgi") if parent(pid) == process.pid]
        subprocess.run(
            ["prlimit", f"--pid={front}", f"--nproc={lasting_tasks_of(LIMITED)}"],
            user=LIMITED, group=LIMITED, extra_groups=[], check=True,
        )
        site.account.code(1)
        site.account.touch()

        def is_live():
            fewest.append(len(site.workers()))
            return request(path, "/version").text == "1"

        until(is_live, 12, "new code is live")
        print(f"workers meanwhile: {Counter(fewest)}")
        assert min(fewest) > 0
    finally:
        finish(site, process)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user of its own")
@pytest.mark.parametrize(
    "server", ["maxchildren = 50", 'method = "threaded"\nthreads = 50'], ids=["processes", "threads"]
)
def test_more_is_not_planned_than_the_account_has_room_for(make_plain, server):
    site = make_plain(server=server)
    give_to_limited(site)
    until(lambda: tasks_of(LIMITED) == 0, 10, "nobody is left of an earlier test")
    most = 14
    process, path = external(
        site,
        user=LIMITED,
        group=LIMITED,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (most, most)),
    )
    try:
        assert request(path, "/pid").status == 200
        time.sleep(1.1)  # from now on what is in use is looked at again
        replies, used = [], []
        threads = [
            threading.Thread(target=lambda: replies.append(request(path, "/version?seconds=0.3"))) for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            used.append(tasks_of(LIMITED))
            time.sleep(0.02)
        assert Counter(reply.status for reply in replies) == {200: 30}
        print(f"at most {max(used)} of {most} processes and threads")
        # Four stay free but for the processes that pass by, as the preloader's do when it starts.
        assert 3 < max(used) <= most - 2
        log = site.log()
        assert log.count("RF0232 ") == log.count("= 50 is cut to") == 1 and log.count("RLIMIT_NPROC allows 14") == 1, log
        assert "refused" not in log and "cannot be started" not in log, log
        if "maxchildren" in server:
            (front,) = site.status()["fronts"]
            assert 1 < front["max_workers"] <= 9
    finally:
        finish(site, process)


def tasks_of(uid):
    """What the kernel counts for the user: threads."""
    count = 0
    for pid in all_processes():
        try:
            if os.stat(f"/proc/{pid}").st_uid == uid:
                count += len(os.listdir(f"/proc/{pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return count


def lasting_tasks_of(uid):
    """Those that are still there when what a start needed for a moment has gone."""
    counts = []
    while len(counts) < 10 or len(set(counts[-10:])) > 1:
        counts.append(tasks_of(uid))
        time.sleep(0.1)
    return counts[-1]


def allow(pids, tasks):
    """From now on these processes may start processes up to so many of their user."""
    for pid in pids:
        command = ["prlimit", f"--pid={pid}", f"--nproc={tasks}"]
        subprocess.run(command, user=LIMITED, group=LIMITED, extra_groups=[], check=True)  # its own user may lower it


def give_to_limited(site):
    for directory, directories, files in os.walk(site.account.base):
        for name in [directory, *(os.path.join(directory, n) for n in directories + files)]:
            os.lchown(name, LIMITED, LIMITED)


def test_the_front_lives_in_256_megabytes_of_addresses(make_plain, manage):
    site = make_plain()
    limit = 256 << 20
    manager = manage(site, limits={resource.RLIMIT_AS: limit})
    front = manager.spawn()
    body = os.urandom(3 << 20)
    for _ in range(3):
        reply = ask(front, "/upload", method="POST", body=body)
        assert reply.text.split()[1] == str(len(body))
    assert Path(f"/proc/{front.pid}/limits").read_text().split("Max address space")[1].split()[0] == str(limit)
    site.account.code(1)
    site.account.touch()
    until(lambda: ask(front, "/version").text == "1", 4, "it restarts in as little")
