"""Each system call that can fail, fails: one at a time, in the front, the preloader or a worker. Afterwards the next
request is answered, nothing is left over, and the log names the cause of what a visitor saw.

strace makes them fail (see injected.py). RUNFCGI_INJECT_SECONDS makes whole lives of sites last longer than 4 s; with
RUNFCGI_INJECT=all each call of CALLS fails at each of its first twenty times, which takes half an hour. What is drawn by chance is the same each time; RUNFCGI_INJECT_SEED draws something else.
"""

import os
import random
import time

import pytest

import injected
from webservers import fastcgi
from webservers.processes import until

SECONDS = float(os.environ.get("RUNFCGI_INJECT_SECONDS", "4"))
ALL = os.environ.get("RUNFCGI_INJECT") == "all"
SEED = int(os.environ.get("RUNFCGI_INJECT_SEED", "1"))
pytestmark = [
    pytest.mark.skipif(not injected.is_possible(), reason="strace is not installed, or may not trace"),
    pytest.mark.timeout(0 if ALL else 150 + 2 * SECONDS),
]


@pytest.fixture
def site(make_site):
    site = injected.Site(make_site())
    yield site
    site.detach()
    if site.process and site.process.poll() is None:
        site.stop()
    print("--- the site's log, its end ---", *site.log().splitlines()[-20:], sep="\n")
    injected.processes.end(injected.processes.touching(site.account.base))
    site.found.unlink(missing_ok=True)


@pytest.fixture
def up(site):
    """A site that serves."""
    site.put(1)
    site.fresh = 1
    site.spawn()
    assert site.ask() == (200, "1")
    return site


# --- what once went wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call, error", [("socketpair", "EMFILE"), ("socket", "ENFILE"), ("socket", "ENOBUFS")])
def test_a_shortage_when_the_app_is_to_be_imported_passes(site, call, error):
    site.trace("front", f"-e trace={call} -e inject={call}:error={error}:when=1..2")
    site.spawn()
    assert site.ask() == (200, "0")
    assert site.injected() == 2
    assert f"RF0402 the preloader cannot be started: {os.strerror(getattr(injected.errno, error))}" in site.log()


def test_a_connection_that_cannot_be_watched_is_watched_later(up):
    up.attach(up.process.pid, "-e trace=epoll_ctl -e inject=epoll_ctl:error=ENOMEM:when=1..2")
    assert up.ask("/upload", method="POST", body=bytes(1 << 20))[0] == 200
    assert up.injected()


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOBUFS"])
def test_who_has_just_connected_is_not_closed_for_nobody(up, error):
    """The system refuses before it looks whether anybody waits."""
    up.attach(up.process.pid, f"-e trace=accept4 -e inject=accept4:error={error}:when=2")
    with fastcgi.connect(str(up.path)) as visitor:
        until(up.injected, 10, "the next one would be refused")
        visitor.sendall(fastcgi.encode("/version"))
        fastcgi.read(visitor, reply := fastcgi.Reply(0))
    assert reply.status == 200, reply
    assert f"RF0333 accepting pauses: {os.strerror(getattr(injected.errno, error))}" in up.log()


@pytest.mark.parametrize("role, call", [("front", "recvmsg"), ("worker", "sendto")])
def test_the_log_says_why_a_worker_cannot_be_used(up, role, call):
    pid = up.process.pid if role == "front" else up.pids("runfcgi-worker")[0]
    up.attach(pid, f"-e trace={call} -e inject={call}:error=ENOBUFS:when=1")
    assert up.ask("/talk")[0] == 500
    up.detach()
    assert "No buffer space available" in up.log()
    assert up.ask() == (200, "1")


def test_a_worker_that_cannot_be_started_is_started_later(up):
    up.attach(up.process.pid, "-e trace=socketpair -e inject=socketpair:error=EPERM:when=1")
    up.end_workers()
    assert up.ask() == (200, "1")
    assert "RF0401 a worker cannot be started: Operation not permitted" in up.log()


def test_what_a_preloader_cannot_remove_the_next_one_removes(up):
    (preloader,) = up.pids("runfcgi-preload")
    up.attach(preloader, "-e trace=unlink -e inject=unlink:error=EROFS:when=1")
    assert up.stop() == 0
    until(lambda: injected.state(preloader) in "ZX", 10, "it has ended")
    up.detach()
    assert up.injected()
    up.put(2)
    up.spawn()
    assert up.ask() == (200, "2")
    assert up.stop() == 0
    assert up.remains() == []


def test_a_preloader_that_cannot_go_on_cleans_up(up):
    up.configure("linger = 30")
    until(lambda: up.ask()[0] == 200 and "restart: " in up.log(), 10, "it lingers from now on")
    (preloader,) = up.pids("runfcgi-preload")
    up.attach(preloader, "-e trace=poll -e inject=poll:error=ENOMEM")
    assert up.stop() == 0
    until(lambda: injected.state(preloader) in "ZX", 10, "it has ended")
    assert up.remains() == []


def test_a_process_does_without_its_name(site):
    """It is for people. The first two writes of each process are its name and its command line."""
    site.trace("python", "-f -e trace=write -e inject=write:error=EACCES:when=1..2")
    site.spawn()
    assert site.ask() == (200, "0")
    assert site.pids("runfcgi-worker") == site.pids("runfcgi-preload") == []


def test_slow_files_hold_nobody_up_for_long(up):
    """As on a network: each look at a file takes 20 ms."""
    up.attach(up.process.pid, "-e trace=statx,newfstatat -e inject=statx,newfstatat:delay_enter=20000")
    for path, options in injected.REQUESTS:
        assert up.ask(path, **options)[0] == 200
    up.put(2)
    until(lambda: up.ask() == (200, "2"), 20, "new code goes live")


# --- each call in turn -------------------------------------------------------------------------------------------

SERVING = {
    "front": (
        "openat:EMFILE,ENOSPC,EACCES,ESTALE pwrite64:ENOSPC,EDQUOT,EFBIG,EIO,EINTR write:EPIPE,EINTR "
        "accept4:EMFILE,ENFILE,ENOBUFS,ENOMEM,ECONNABORTED,EINTR sendmsg:ENOBUFS,EPIPE,ENOMEM,EINTR "
        "recvmsg:ENOBUFS,EINTR epoll_ctl:ENOMEM epoll_wait:EINTR statx:EIO,ESTALE,ENOENT read:EIO,EINTR "
        "lseek:EINVAL fstatfs:EIO"
    ),
    "preloader": (
        "recvmsg:ENOMEM,EINTR poll:EINTR wait4:ECHILD sendto:ENOBUFS clone:EAGAIN,ENOMEM read:EIO openat:EMFILE "
        "pwrite64:EDQUOT ftruncate:EROFS"
    ),
    "worker": "sendto:ENOBUFS,EINTR recvmsg:ENOBUFS,ENOMEM,EINTR poll:EINTR read:EIO,EINTR newfstatat:EIO lseek:EINVAL write:ENOSPC",
}


@pytest.mark.parametrize("role", SERVING)
def test_a_call_that_fails_while_requests_are_served(up, role):
    """Each pair once, at a time that is drawn."""
    rng = random.Random(SEED)
    wrong, missed = [], []
    for call, _, errors in (words.partition(":") for words in SERVING[role].split()):
        for error in errors.split(","):
            for ordinal in range(1, 21) if ALL else [rng.choice((1, 1, 1, 2, 3))]:
                did, found = injected.serve(up, role, call, error, ordinal)
                if not did and ordinal > 1 and not ALL:
                    did, found = injected.serve(up, role, call, error, 1)
                missed += [] if did else [(call, error, ordinal)]
                wrong += [(call, error, ordinal, found)] if found else []
                if not did:
                    break
    print("never called:", *missed)
    assert not wrong, wrong
    assert up.stop() == 0
    assert up.remains() == []


LIVES = {
    "front": (
        "openat:EMFILE,EACCES socketpair:EMFILE pipe2:EMFILE socket:EMFILE,ENOBUFS clone:EAGAIN,ENOMEM linkat:EPERM,ENOSPC "
        "rename:ENOSPC,EROFS ftruncate:EIO,EROFS mkdir:ENOSPC,EROFS bind:ENOSPC,EADDRINUSE listen:ENOBUFS "
        "connect:EACCES,ENOMEM flock:EINTR,ENOLCK fcntl:EINTR newfstatat:EIO,ESTALE,ENOENT execve:EACCES,ENOMEM "
        "unlink:EROFS,ESTALE getdents64:EIO memfd_create:ENOSYS statx:EIO,ESTALE,ENOENT"
    ),
    "python": (
        "clone:EAGAIN,ENOMEM pipe2:EMFILE ftruncate:EIO,EROFS pwrite64:ENOSPC,EDQUOT,EIO rename:ENOSPC,EROFS "
        "mkdir:EROFS,ENOSPC flock:EINTR,ENOLCK accept4:EMFILE,ENFILE,ECONNABORTED waitid:EINTR wait4:EINTR unlink:EROFS "
        "openat:EMFILE,ENOENT"
    ),
}


def test_lives_with_a_call_that_fails(site):
    """From a start to a stop, with a touch or another executable: as many as there is time for."""
    rng = random.Random(SEED)
    pairs = [
        (role, call, error)
        for role, words in LIVES.items()
        for call, _, errors in (word.partition(":") for word in words.split())
        for error in errors.split(",")
    ]
    rng.shuffle(pairs)
    end = time.monotonic() + SECONDS
    wrong, lives = [], 0
    for role, call, error in pairs:
        for ordinal in range(1, 21) if ALL else [rng.randint(1, 6)]:
            if not ALL and time.monotonic() > end:
                break
            did, found = injected.live(site, role, call, error, ordinal, rng.choice(("touch", "exec")))
            lives += 1
            wrong += [(role, call, error, ordinal, found)] if found else []
            if not did:
                break
    print(lives, "lives")
    assert not wrong, wrong
