"""One bound for the whole site: whoever is one too many waits in line, first come first served, over all its fronts."""

import random
import signal
import threading
import time
from collections import Counter
from functools import partial

import pytest

from cgi_requests import cgi
from plain_site import ask, kill
from webservers.fastcgi import request
from webservers.processes import until
from webservers.together import Together


class Crowd(Together):
    """Visitors of several fronts, each with one request after the other, and the most workers that were seen."""

    def __init__(self, site, visit, count):
        super().__init__([*[partial(self._come, at) for at in range(count)], self._look])
        self.site, self.visit, self.replies, self.most = site, visit, [], 0

    def _come(self, at):
        while not self.over.is_set():
            self.replies.append(self.visit(at))

    def _look(self):
        while not self.over.is_set():
            self.most = max(self.most, len(self.site.workers()))
            time.sleep(0.05)


FORMS = pytest.mark.parametrize("form", ["", "preload = false\n"], ids=["preloaded", "plain"])


@FORMS
def test_maxchildren_bounds_all_cgi_requests_together(by_cgi, form):
    site = by_cgi(server=form + "maxchildren = 2")
    cgi(site)
    with Crowd(site, lambda _: cgi(site, "/version?seconds=0.1")[0], 6) as crowd:
        until(lambda: len(crowd.replies) >= 30, 60, "each has come several times")
    assert set(crowd.replies) == {200}
    assert crowd.most == 2


@FORMS
def test_maxchildren_bounds_all_fronts_together(make_plain, manage, form):
    site = make_plain(server=form + "maxchildren = 2")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(6)]
    with Crowd(site, lambda at: request(fronts[at].socket, "/version?seconds=0.1").status, 6) as crowd:
        until(lambda: len(crowd.replies) >= 60, 60, "each has come several times")
    assert set(crowd.replies) == {200}
    assert crowd.most == 2


def test_nobody_is_overtaken_for_long(make_plain, manage):
    site = make_plain(server="maxchildren = 1")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(4)]
    seen = Counter()

    def visit(at):
        reply = ask(fronts[at], "/version?seconds=0.1")
        seen[at] += 1
        return reply.status

    with Crowd(site, visit, 4) as crowd:
        until(lambda: len(crowd.replies) >= 40, 60, "each has come several times")
    assert min(seen.values()) >= 7, seen


def test_status_shows_the_bound_and_who_waits(make_plain, manage):
    site = make_plain(server="maxchildren = 2")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(3)]
    bound = {"most": 2, "why": "[server] maxchildren", "kept": 0}
    with Crowd(site, lambda at: request(fronts[at].socket, "/sleep?mark=busy&seconds=40").status, 3) as crowd:
        until(lambda: site.status()["workers"] == {**bound, "serving": 2, "waiting": 1}, 20, "one waits in line")
        crowd.over.set()

        def all_have_an_answer():
            for worker in site.workers():  # nobody needs to wait for its sleep to end
                kill(worker)
            return len(crowd.replies) == 3

        until(all_have_an_answer, 20, "all have an answer")
    until(lambda: site.status()["workers"]["waiting"] == 0, 10, "nobody waits")


def test_who_has_waited_in_line_is_served_once(make_plain, manage):
    site = make_plain(server="maxchildren = 1")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    thread = threading.Thread(target=request, args=(fronts[0].socket, "/sleep?mark=busy&seconds=2"))
    thread.start()
    site.mark("busy")
    assert ask(fronts[1], "/talk").text == "said"
    thread.join(20)
    # By now the worker has done all that it was sent before.
    assert ask(fronts[1], "/version").text == "0"
    until(lambda: "said to descriptor 1" in site.log(), 10, "it is logged")
    assert site.log().count("said to descriptor 1") == 1


def test_who_waits_in_vain_is_told_the_bound(make_plain, manage):
    site = make_plain(server="maxchildren = 1", limits="queue_timeout = 1")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    thread = threading.Thread(target=request, args=(fronts[0].socket, "/sleep?mark=busy&seconds=4"))
    thread.start()
    site.mark("busy")
    reply = request(fronts[1].socket, "/pid")
    assert reply.status == 503 and reply.seconds < 4
    assert "RF0319" in reply.errors and "the site may have 1 worker ([server] maxchildren)" in reply.errors, reply.errors
    thread.join(20)
    assert ask(fronts[1], "/pid").status == 200


@pytest.mark.parametrize("victim", ["preloaders", "workers", "fronts"])
def test_who_waits_in_line_loses_nothing_when_others_are_killed(make_plain, manage, victim):
    """Only the request of a worker or front that is killed may be lost."""
    site = make_plain(server="maxchildren = 2")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(6)]
    ask(fronts[0], "/pid")
    kills = 0
    with Crowd(site, lambda at: request(fronts[at].socket, "/version?seconds=0.05").status, 5) as crowd:
        for _ in range(8):
            time.sleep(0.4)
            # The sixth front has no visitors: only it may go.
            found = [fronts[5].pid] if victim == "fronts" else getattr(site, victim)()
            if found:
                kill(random.choice(found))
                kills += 1
            if victim == "fronts":
                manager.status_of(fronts[5])
                fronts[5] = manager.spawn()
                ask(fronts[5], "/pid")
        until(lambda: len(crowd.replies) >= 50, 60, "all have come")
    failed = [status for status in crowd.replies if status != 200]
    # A preloader that goes takes nothing along but workers that wait to be given.
    assert len(failed) <= (kills if victim == "workers" else 0), (kills, Counter(crowd.replies))
    for front in fronts:
        assert ask(front, "/pid").status == 200
