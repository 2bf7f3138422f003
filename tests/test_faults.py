"""Processes that never let the site down: killed, hung or grown in every way, with the next request answered.

They are those of mod_fcgid (webservers/manager.py), so that each can be killed at any moment and the protocol be looked
at. RUNFCGI_CHAOS_SECONDS makes the random kills last longer than 12 s.
"""

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from functools import partial

import pytest

from plain_site import ask, kill, state
from webservers import fastcgi
from webservers.fastcgi import request
from webservers.processes import until
from webservers.together import Together

CHAOS_SECONDS = float(os.environ.get("RUNFCGI_CHAOS_SECONDS", "12"))

# --- random kills ------------------------------------------------------------------------------------------------


class Visitors(Together):
    """A visitor per place of a web server's process table: it asks, and has a killed front spawned anew."""

    def __init__(self, site, manager, count):
        super().__init__([partial(self.visit, place) for place in range(count)])
        self.site, self.manager = site, manager
        self.places = [manager.spawn() for _ in range(count)]
        self.replies = []  # (front's pid, reply)
        self.respawned = 0
        self.lock = threading.Lock()

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
    assert "its worker was killed (SIGKILL): for want of memory, or by hand" in replies[0].errors
    assert ask(front, "/version").seconds < 2
    assert "RF0406" not in site.log(), "it is told once"
    kill(int(ask(front, "/pid").text))
    until(lambda: "RF0406 worker " in site.log(), 5, "the log tells how an idle worker has ended")
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
    assert "RF0407 slow" in site.log() and "/sleep" in site.log() and "in sleep" in site.log()
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


@pytest.mark.parametrize("what", ["the request fails", "the front is killed"])
def test_a_worker_that_closes_all_its_descriptors_ends(make_plain, manage, what):
    site = make_plain()
    manager = manage(site)
    front = manager.spawn()
    replies = []
    visitor = threading.Thread(target=lambda: replies.append(request(front.socket, "/deaf?seconds=60")))
    visitor.start()
    deaf = int(site.mark("deaf"))
    if what == "the front is killed":
        kill(front.pid)
    visitor.join(20)
    until(lambda: deaf not in site.workers(), 10, "it has ended")
    if what == "the request fails":
        assert [reply.status for reply in replies] == [500]
        assert ask(front, "/pid").status == 200


def test_an_app_that_writes_to_our_sockets_costs_its_request(make_plain, manage):
    site = make_plain()
    front = manage(site).spawn()
    first = ask(front, "/pid").text
    reply = request(front.socket, "/meddle")
    assert reply.status == 500 and "RF0314" in reply.errors, reply
    assert "error: RF0408 a worker sent " in site.log()
    assert "unless the log says why above it" in reply.errors
    assert ask(front, "/pid").text != first


def test_a_response_to_another_request_goes_to_nobody(make_plain, manage):
    site = make_plain()
    front = manage(site).spawn()
    ask(front, "/pid")
    reply = request(front.socket, "/forge")
    assert reply.status == 500 and "forged" not in reply.text, reply
    assert "RF0408 a worker sent a response to another request" in site.log()
    assert ask(front, "/pid").status == 200


def test_an_import_that_writes_to_our_sockets_harms_itself(make_plain, manage):
    site = make_plain()
    app = site.account.project / "faults.py"
    good = app.read_text()
    site.account.put(app, good + "meddle({}, lambda *_: None, {})\n")
    front = manage(site).spawn()
    assert request(front.socket, "/pid").status in (200, 500)
    assert "error: RF0408 the preloader sent " in site.log()
    site.account.put(app, good)
    site.account.code(1)
    site.account.touch()
    until(lambda: request(front.socket, "/version").text == "1", 20, "the next import is sound")


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
    assert ("RF0409 the preloader does not answer" in site.log()) == (who == "a new front")
    assert ("RF0403 a worker has not started" in site.log()) == (who != "a new front")
    assert len(site.imports()) == 2
