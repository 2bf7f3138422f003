"""Processes that never let the site down: killed, hung, refused or grown in every way, with the next request answered.

Most of it plays mod_fcgid (webservers/manager.py), so that each process can be killed at any moment and the protocol be
looked at; the rest stands behind a real Apache. RUNFCGI_CHAOS_SECONDS makes the random kills last longer than 12 s.
"""

import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from webservers import fastcgi, processes
from webservers.account import USER, give
from webservers.apache import Apache
from webservers.fastcgi import request
from webservers.load import Load
from webservers.manager import Manager
from webservers.processes import comm, until

CHAOS_SECONDS = float(os.environ.get("RUNFCGI_CHAOS_SECONDS", "12"))
RUN_AS = {"uid": USER.pw_uid, "gid": USER.pw_gid} if os.getuid() == 0 else {}

CONFIG = """\
[app]
path = "{{project}}"
wsgi = "faults:app"
python = "/usr/bin/python3"
[server]
runtime_dir = "{{runtime}}"
{server}
[limits]
{limits}
[restart]
{restart}
[log]
file = "{log}"
{logging}
[env]
MARKS = "{marks}"
{env}
"""


class Plain:
    """An account whose site is tests/apps/plain/faults.py: what a test wants of it, and what can be seen of it."""

    def __init__(self, account, server="", limits="", logging="", env="", restart=""):
        self.account = account
        self.marks = account.base / "marks"
        self.marks.mkdir(exist_ok=True)
        give(self.marks)
        self.logged = account.home / "site.log"
        text = CONFIG.format(
            server=server, limits=limits, logging=logging, env=env, restart=restart, marks=self.marks, log=self.logged
        )
        account.configure(text)

    def log(self):
        return self.logged.read_text(errors="replace") if self.logged.exists() else ""

    def status(self):
        """What `status` tells."""
        owner = os.stat(self.account.executable).st_uid
        user = {"user": owner, "group": owner, "extra_groups": []} if RUN_AS else {}
        command = [str(self.account.executable), "status", "--json"]
        return json.loads(subprocess.run(command, cwd="/", capture_output=True, check=True, timeout=20, **user).stdout)

    def imports(self):
        """The processes that imported the app, in turn."""
        path = self.marks / "imports"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def mark(self, name):
        """What the app has noted under this name."""
        path = self.marks / name
        return until(lambda: path.exists() and path.read_text(), 15, f"the app notes {name}")

    def pids(self, name):
        """Living processes of the site by their short name."""
        return [pid for pid in all_named(name) if self.owns(pid)]

    def owns(self, pid):
        try:
            return os.readlink(f"/proc/{pid}/cwd").startswith(str(self.account.base)) and state(pid) not in "ZX"
        except OSError:
            return False

    def preloaders(self):
        """Those that are not a worker in its first moments."""
        found = self.pids("runfcgi-preload")
        return [pid for pid in found if parent(pid) not in found]

    def workers(self):
        return self.pids("runfcgi-worker")

    def fronts(self):
        return self.pids("mysite.fcgi")

    def gone(self):
        return not processes.touching(self.account.base)

    def zombies(self):
        """Dead children that nobody has collected within two seconds, of any process of the site."""
        deadline = time.monotonic() + 2
        while True:
            ours = set(self.fronts() + self.preloaders() + self.workers())
            dead = [pid for pid in all_processes() if state(pid) == "Z" and parent(pid) in ours]
            if not dead or time.monotonic() > deadline:
                return dead
            time.sleep(0.05)


def all_processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def all_named(name):
    return [pid for pid in all_processes() if comm(pid) == name]


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["X", "0"]


def state(pid):
    return stat(pid)[0]


def parent(pid):
    return int(stat(pid)[1])


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@pytest.fixture
def make_plain(make_site):
    """`make_plain(server=…, limits=…)`: a site of faults.py, with settings of its own."""
    return lambda **settings: Plain(make_site(), **settings)


@pytest.fixture
def manage(request):
    """`manage(site)`: a running Manager; at the end it stops, and then nothing of the site may be left."""
    started = []

    def start(site, **options):
        manager = Manager(site.account, **{**RUN_AS, **options}).__enter__()
        started.append((site, manager))
        return manager

    yield start
    for site, manager in started:
        manager.stop()
        print("--- the site's log, its end ---", *site.log().splitlines()[-40:], sep="\n")
        try:
            until(site.gone, 5, "all processes have left")
            left = {}
        except AssertionError:
            left = processes.touching(site.account.base)
            processes.end(left)
        assert not left, f"still there after the web server has stopped: {left}"
        if site.account.runtime.exists():
            assert [path.name for path in site.account.runtime.iterdir()] == []


def ask(front, path, **options):
    """A request that must be answered well."""
    reply = request(front.socket, path, **options)
    assert reply.status == 200, (reply, front)
    return reply


# --- random kills ------------------------------------------------------------------------------------------------


class Visitors:
    """A visitor per place of a web server's process table: it asks, and has a killed front spawned anew."""

    def __init__(self, site, manager, count):
        self.site, self.manager = site, manager
        self.places = [manager.spawn() for _ in range(count)]
        self.replies = []  # (front's pid, reply)
        self.respawned = 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.visit, args=(n,), daemon=True) for n in range(count)]
        self.lock = threading.Lock()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads), "a visitor hangs"

    def visit(self, place):
        while not self.over.is_set():
            front = self.places[place]
            try:
                reply = request(front.socket, "/version?seconds=0.005", timeout=30)
                self.replies.append((front.pid, reply))
            except OSError:
                with self.lock:
                    self.places[place] = self.manager.spawn()
                    self.respawned += 1
            self.over.wait(0.005)


def test_random_kills_lose_only_what_was_killed(make_plain, manage):
    """Ten fronts. One import for each election, never two preloaders, no hang, nothing lost but what was killed."""
    site = make_plain(env='IMPORT_SECONDS = "0.1"')
    manager = manage(site)
    rng = random.Random(seed := random.randrange(1 << 32))
    print(f"seed {seed}")
    killed = Counter()
    when = {}  # pid: moment of its kill
    twice = []
    over = threading.Event()

    def look():
        suspects = set()
        while not over.is_set():
            found = site.preloaders()
            now = {pid for pid in found if len(found) > 1}
            # A worker whose preloader was just killed still has the name for a moment: seen twice, it is not that.
            if len(now & suspects) > 1:
                twice.append(now & suspects)
            suspects = now
            over.wait(0.03)

    watcher = threading.Thread(target=look, daemon=True)
    with Visitors(site, manager, 10) as visitors:
        until(lambda: len(visitors.replies) > 50, 20, "the site is warm")
        watcher.start()
        end = time.monotonic() + CHAOS_SECONDS
        while time.monotonic() < end:
            kind = rng.choices(("preloader", "worker", "front"), (5, 3, 2))[0]
            found = {"preloader": site.preloaders, "worker": site.workers, "front": site.fronts}[kind]()
            if found:
                pid = rng.choice(found)
                when[pid] = time.monotonic()
                kill(pid)
                killed[kind] += 1
            time.sleep(rng.uniform(0.02, 0.3))
        during = len(visitors.replies)
        until(lambda: len(visitors.replies) > during + 100, 30, "all goes on afterwards")
        over.set()
        watcher.join()
        latest = time.monotonic() - 0.5
    imports = site.imports()
    lost = [(pid, reply) for pid, reply in visitors.replies if reply.status != 200]
    unexplained = [
        (pid, reply)
        for pid, reply in lost
        if not (pid in when and reply.end >= when[pid])
        and not any(int(found) in when for found in re.findall(r"\(pid (\d+)\)", reply.errors))
    ]
    slowest = max(reply.seconds for _, reply in visitors.replies)
    print(
        f"{CHAOS_SECONDS:.0f} s: {len(visitors.replies)} requests, killed {dict(killed)}, {len(imports)} imports,"
        f" {len(lost)} lost in what was killed, slowest answer {slowest:.2f} s, {visitors.respawned} fronts spawned anew"
    )
    assert not twice, f"two preloaders at a time: {twice}"
    assert not unexplained, f"{len(unexplained)} lost: {unexplained[:5]}"
    assert len(imports) == len(set(imports)), "a process imported the app twice"
    assert len(imports) <= killed["preloader"] + 1, f"{len(imports)} imports for {killed['preloader']} killed preloaders"
    assert slowest < 10
    assert sum(reply.begin > latest for _, reply in visitors.replies) > 10
    assert not site.zombies()


# --- starts --------------------------------------------------------------------------------------------------------


def test_cold_apache_and_eight_first_requests_import_once(make_plain):
    site = make_plain(env='IMPORT_SECONDS = "0.3"')
    with Apache(site.account) as apache:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(apache.client.get("/version?seconds=0.2"))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [a.status for a in answers] == [200] * 8
        assert len(site.imports()) == 1
        print(f"eight first answers within {max(a.seconds for a in answers):.2f} s")


def test_processes_after_the_first_find_the_preloader(make_plain, manage):
    site = make_plain(env='IMPORT_SECONDS = "0.5"')
    manager = manage(site)
    ask(manager.spawn(), "/pid")
    times = []
    for _ in range(9):
        begin = time.monotonic()
        front = manager.spawn()
        ask(front, "/pid")
        times.append(time.monotonic() - begin)
    times.sort()
    print(f"first answer of the n-th process: median {times[4] * 1000:.0f} ms, from {times[0]:.3f} to {times[-1]:.3f} s")
    assert len(site.imports()) == 1
    assert times[4] < 0.45, "as if each had imported the app"


def test_without_a_preloader_each_worker_imports(make_plain, manage):
    site = make_plain(server="preload = false")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    pids = {int(ask(front, "/pid").text) for front in fronts}
    assert set(site.imports()) == pids and len(pids) == 2
    assert not site.preloaders()


def test_an_app_with_threads_is_not_forked(make_plain, manage):
    site = make_plain(env='IMPORT_THREAD = "1"')
    front = manage(site).spawn()
    pid = int(ask(front, "/pid").text)
    assert pid in site.imports(), "the worker imported the app by itself"
    assert "threads" in site.log()
    assert int(ask(front, "/pid").text) == pid


def test_an_import_error_is_a_page_and_its_reason_goes_both_ways(make_plain, manage):
    site = make_plain()
    site.account.put(site.account.project / "myproject" / "version.py", "import nowhere_to_be_found\n")
    front = manage(site).spawn()
    for _ in range(2):
        reply = request(front.socket, "/version")
        assert reply.status in (500, 503) and "<html" in reply.text.lower()
        assert "nowhere_to_be_found" not in reply.text
        assert "nowhere_to_be_found" in reply.errors and "nowhere_to_be_found" in site.log()
    assert all(len(line) < 1000 for line in reply.errors.splitlines())
    site.account.code(1)
    until(lambda: request(front.socket, "/version").text == "1", 8, "the mended app serves by itself")


def test_an_app_that_ends_its_process_at_import_is_told_of(make_plain, manage):
    site = make_plain()
    text = 'import os\nopen(os.environ["MARKS"] + "/imports", "a").write("%d\\n" % os.getpid())\nos.abort()\n'
    site.account.put(site.account.project / "myproject" / "version.py", text)
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    begin = time.monotonic()
    for front in fronts:
        reply = request(front.socket, "/version")
        assert reply.status in (500, 503) and "import" in reply.errors
    assert time.monotonic() - begin < 10
    assert len(site.imports()) <= 20, "it is not tried for ever"
    site.account.code(1)
    for front in fronts:
        until(lambda: request(front.socket, "/version").text == "1", 12, "the mended app serves by itself")


# --- workers that die, hang and grow -------------------------------------------------------------------------------


def test_a_killed_worker_costs_its_request(make_plain, manage):
    site = make_plain()
    front = manage(site).spawn()
    replies = []
    visitor = threading.Thread(target=lambda: replies.append(request(front.socket, "/sleep?seconds=20&mark=begun")))
    visitor.start()
    kill(int(site.mark("begun")))
    visitor.join(10)
    assert replies[0].status == 500
    incident = re.search(r"incident\W+(?:id\W+)?([0-9a-f]{6,})", re.sub("<[^>]*>", " ", replies[0].text), re.I)
    assert incident and incident[1] in replies[0].errors and incident[1] in site.log()
    assert ask(front, "/version").seconds < 2
    assert len(site.imports()) == 1


def test_a_worker_that_blocks_all_signals_dies_with_its_front(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    front = manager.spawn()
    visitor = threading.Thread(target=lambda: request(front.socket, "/spin?mark=spins"), daemon=True)
    visitor.start()
    worker = int(site.mark("spins"))
    kill(front.pid)
    until(lambda: state(worker) in "ZX", 2, "the worker has died with its front")
    visitor.join(5)
    assert not visitor.is_alive()
    ask(manager.spawn(), "/version")


def test_request_timeout_ends_the_worker_and_tells_where_it_was(make_plain, manage):
    site = make_plain(limits="request_timeout = 1")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    ask(fronts[1], "/pid")
    replies = []
    visitor = threading.Thread(target=lambda: replies.append(request(fronts[0].socket, "/sleep?seconds=60&mark=begun")))
    visitor.start()
    worker = int(site.mark("begun"))
    while visitor.is_alive():
        ask(fronts[1], "/pid")
    assert replies[0].status == 504 and replies[0].seconds < 4
    until(lambda: "faults.py" in site.log() and "in sleep" in site.log(), 5, "the stack is in the log")
    until(lambda: state(worker) in "ZX", 5, "the worker was ended")
    ask(fronts[0], "/pid")
    assert_failed_once(site, "/sleep?")


def test_request_timeout_ends_a_worker_that_spins(make_plain, manage):
    site = make_plain(limits="request_timeout = 1")
    front = manage(site).spawn()
    reply = request(front.socket, "/spin?mark=spins")
    assert reply.status == 504
    worker = int(site.mark("spins"))
    until(lambda: state(worker) in "ZX", 5, "the worker was ended")
    ask(front, "/pid")
    assert_failed_once(site, "/spin?")


def assert_failed_once(site, path):
    """A request that ran too long: one line in the log, counted once, and the reason is what `status` tells."""
    lines = [line for line in site.log().splitlines() if "incident" in line]
    assert len(lines) == 1 and path in lines[0] and "request_timeout" in lines[0], lines

    def failed():
        return [front for front in site.status()["fronts"] if front["counters"]["failed"]]

    (front,) = until(failed, 12, "the front has written how it does")
    assert front["counters"]["failed"] == 1 and front["counters"]["timed_out"] == 1, front["counters"]
    assert "request_timeout" in front["last_failure"]["text"]


def test_slow_log_shows_the_stack_without_disturbing(make_plain, manage):
    site = make_plain(logging="slow_log = 0.5")
    front = manage(site).spawn()
    reply = ask(front, "/sleep?seconds=2.5&mark=begun")
    assert reply.text == "done"
    assert "slow" in site.log() and "/sleep" in site.log() and "in sleep" in site.log()
    assert ask(front, "/pid").text == site.mark("begun"), "the same worker goes on"
    assert site.log().count("its stack follows") == 1


@pytest.mark.parametrize("kind", ["abort", "close"])
def test_a_visitor_who_leaves_frees_the_worker(make_plain, manage, kind):
    site = make_plain()
    front = manage(site).spawn()
    ask(front, "/pid")
    with fastcgi.connect(front.socket) as sock:
        sock.sendall(fastcgi.encode("/generator?mark=closed"))
        assert sock.recv(100)
        time.sleep(0.3)
        if kind == "abort":
            sock.sendall(fastcgi.record(fastcgi.ABORT, b""))
            reply = fastcgi.Reply(time.monotonic())
            fastcgi.read(sock, reply)
            assert reply.ended
    worker = site.mark("closed")
    assert ask(front, "/pid").text == worker, "the same worker goes on"


def test_an_answer_is_not_lost_when_its_visitor_left_the_queue(make_plain, manage):
    """mod_fcgid sends the next request while the last visitor's still runs: it waits, and is served."""
    site = make_plain()
    front = manage(site).spawn()
    ask(front, "/pid")
    with fastcgi.connect(front.socket) as sock:
        sock.sendall(fastcgi.encode("/sleep?seconds=2&mark=begun"))
        site.mark("begun")
    assert ask(front, "/pid").text == site.mark("begun")


@pytest.mark.parametrize(
    "server", ["maxrequests = 5", "max_lifetime = 1", 'max_memory = "60M"'], ids=["requests", "lifetime", "memory"]
)
def test_recycling_loses_nothing(make_plain, manage, server):
    site = make_plain(server=server)
    manager = manage(site)
    path = "/grow?megabytes=8" if "memory" in server else "/pid"
    with Visitors(site, manager, 3) as visitors:
        front = manager.spawn()
        end = time.monotonic() + 2.5
        pids = []
        while time.monotonic() < end:
            pids.append(ask(front, path).text)
            time.sleep(0.02)
    assert len(set(pids)) >= 2, "the worker was replaced"
    if "maxrequests" in server:
        assert max(Counter(pids).values()) <= 5
    assert not [r for _, r in visitors.replies if r.status != 200]
    assert len(site.imports()) == 1
    until(lambda: len(site.workers()) <= 4, 8, "old workers have left")
    assert not site.zombies()


def test_what_the_app_says_is_attributed(make_plain, manage):
    site = make_plain()
    front = manage(site).spawn()
    reply = ask(front, "/talk")
    for said in ("said by print", "said to stderr", "said to wsgi.errors", "said by logging"):
        assert said in reply.errors, said
        until(lambda: said in site.log(), 5, f"{said!r} is in the log")
    until(lambda: "said to descriptor 1" in site.log(), 5, "what went to the descriptor is in the log")
    assert reply.text == "said"


@pytest.mark.parametrize("who", ["a front with a worker less", "a new front"])
def test_a_preloader_that_stands_still_is_replaced(make_plain, manage, who):
    site = make_plain(limits="start_timeout = 2")
    manager = manage(site)
    front = manager.spawn()
    worker = int(ask(front, "/pid").text)
    (preloader,) = site.preloaders()
    kill(preloader, signal.SIGSTOP)
    assert ask(front, "/pid").seconds < 1, "who has a worker goes on"
    if who == "a new front":
        front = manager.spawn()
    else:
        kill(worker)
        until(lambda: state(worker) in "ZX", 2, "the worker is gone")
        time.sleep(0.2)  # its front knows
    reply = ask(front, "/pid")
    print(f"{who}: answered after {reply.seconds:.1f} s")
    assert reply.seconds < 6
    until(lambda: state(preloader) in "ZX", 5, "the one that stood still is gone")
    assert len(site.imports()) == 2


# --- too much at once ----------------------------------------------------------------------------------------------


def external(site, *words, **options):
    """`mysite.fcgi` as a person starts it for an external web server, on a socket of its own."""
    user = {"user": RUN_AS["uid"], "group": RUN_AS["gid"], "extra_groups": [], **options} if RUN_AS else options
    path = str(site.account.base / "home" / "external.sock")
    command = [str(site.account.executable), "runfcgi", "daemonize=false", f"socket={path}", *words]
    errors = open(site.account.base / "external.log", "ab")
    process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stderr=errors, **user)
    until(lambda: os.path.exists(path) or process.poll() is not None, 10, "it listens")
    return process, path


def finish(site, process):
    process.terminate()
    assert process.wait(8) == 0
    until(site.gone, 8, f"all have left: {processes.touching(site.account.base)}")


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


# --- the end -------------------------------------------------------------------------------------------------------


def test_the_preloader_lingers_for_the_next_visitor(make_plain, manage):
    site = make_plain(env='IMPORT_SECONDS = "0.5"', server="linger = 60")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    for front in fronts:
        ask(front, "/pid")
    for front in fronts:
        kill(front.pid, signal.SIGTERM)
    until(lambda: all(manager.status_of(front) == 0 for front in fronts), 8, "the fronts have left with 0")
    time.sleep(1)
    assert len(site.preloaders()) == 1
    begin = time.monotonic()
    ask(manager.spawn(), "/pid")
    print(f"first answer after all fronts had gone: {time.monotonic() - begin:.3f} s")
    assert time.monotonic() - begin < 0.45
    assert len(site.imports()) == 1


def test_linger_0_never_outlives(make_plain, manage):
    site = make_plain(server="linger = 0")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    for front in fronts:
        ask(front, "/pid")
    kill(fronts[0].pid)
    time.sleep(0.5)
    assert len(site.preloaders()) == 1, "one front is still there"
    kill(fronts[1].pid)
    until(lambda: not site.preloaders(), 2, "the preloader has left")
    ask(manager.spawn(), "/pid")


def test_lingering_ends_with_who_spawned(make_plain, manage):
    site = make_plain(server="linger = 600")
    manager = manage(site)
    front = manager.spawn()
    ask(front, "/pid")
    manager.kill()
    kill(front.pid, signal.SIGTERM)
    until(site.gone, 5, "the preloader has left with the web server")


def test_term_finishes_the_request_and_leaves_with_0(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    front = manager.spawn()
    replies = []
    visitor = threading.Thread(target=lambda: replies.append(request(front.socket, "/sleep?seconds=3&mark=begun")))
    visitor.start()
    site.mark("begun")
    begin = time.monotonic()
    kill(front.pid, signal.SIGTERM)
    time.sleep(0.3)
    kill(front.pid, signal.SIGTERM)
    visitor.join(10)
    until(lambda: manager.status_of(front) is not None, 7, "it has left")
    assert time.monotonic() - begin < 7
    assert manager.status_of(front) == 0
    assert replies[0].status == 200 and replies[0].text == "done"


def test_term_leaves_in_time_with_a_request_that_does_not_end(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    front = manager.spawn()
    replies = []
    visitor = threading.Thread(target=lambda: replies.append(request(front.socket, "/spin?mark=spins")), daemon=True)
    visitor.start()
    worker = int(site.mark("spins"))
    kill(front.pid, signal.SIGTERM)
    until(lambda: manager.status_of(front) is not None, 7, "it has left within 7 s")
    assert manager.status_of(front) == 0
    until(lambda: state(worker) in "ZX", 2, "its worker too")


@pytest.mark.parametrize("how", ["stop", "graceful", "restart", "kill"])
def test_whatever_apache_does_nothing_is_left_over(make_plain, how):
    site = make_plain()
    with Apache(site.account) as apache:
        with Load(apache.port, "/version?seconds=0.02", visitors=4) as load:
            until(lambda: len(load.answers) > 40, 30, "several processes are at work")
        before = set(site.fronts())
        assert len(before) > 1
        if how == "graceful":
            apache.graceful()
        elif how == "restart":
            apache.process.send_signal(signal.SIGHUP)
        elif how == "kill":
            kill(apache.process.pid)
        if how in ("graceful", "restart"):
            until(lambda: not before & set(site.fronts()), 12, "the processes from before have left")
            until(lambda: apache.client.get("/version").status == 200, 10, "the site is back")
            assert len(site.preloaders()) == 1
        if how == "kill":
            apache.process.wait()
            for pid in processes.touching(site.account.base):  # Apache's children; ours must go by themselves
                if comm(pid) == "apache2":
                    kill(pid)
            until(lambda: not site.workers() or site.fronts(), 5, "no worker without a front")
            for pid in site.fronts():  # what the system's shutdown does: mod_fcgid has no other word for it
                kill(pid, signal.SIGTERM)
        assert not site.zombies()
        assert apache.stop() == {}
        assert not site.account.runtime.exists() or list(site.account.runtime.iterdir()) == []


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
    allow(fronts, tasks_of(LIMITED) - 2)
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
def test_new_code_goes_live_where_old_and_new_have_no_room_beside_each_other(make_plain, manage):
    site = make_plain(server="preload = false")
    give_to_limited(site)
    manager = manage(site, uid=LIMITED, gid=LIMITED)
    fronts = [manager.spawn() for _ in range(2)]
    for front in fronts:
        ask(front, "/version")
    allow(fronts, tasks_of(LIMITED))
    site.account.code(1)
    site.account.touch()
    for front in fronts:
        until(lambda: ask(front, "/version").text == "1", 8, "new code is live")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user of its own")
def test_at_the_limit_of_processes_some_serve_while_new_code_takes_their_place(make_plain):
    site = make_plain(server="preload = false\nmaxchildren = 3\nminspare = 3", env='IMPORT_SECONDS = "1.5"')
    give_to_limited(site)
    process, path = external(site, user=LIMITED, group=LIMITED)
    fewest = []
    try:
        assert request(path, "/version").text == "0"
        until(lambda: len(site.workers()) == 3, 8, "all workers are there")
        subprocess.run(
            ["prlimit", f"--pid={process.pid}", f"--nproc={tasks_of(LIMITED)}"],
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
        assert log.count("= 50 is cut to") == 1 and log.count("RLIMIT_NPROC allows 14") == 1, log
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


def allow(fronts, tasks):
    """From now on these may start processes up to so many of their user."""
    for front in fronts:
        command = ["prlimit", f"--pid={front.pid}", f"--nproc={tasks}"]
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
