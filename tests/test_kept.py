"""Kept workers: an idle worker of one front serves the next request of another, also when its front has left."""

import os
import signal
import threading

import pytest

from cgi_requests import cgi, pid_of, together
from plain_site import ask, kill
from webservers.fastcgi import request
from webservers.processes import until


FORMS = pytest.mark.parametrize("form", ["", "preload = false"], ids=["preloaded", "plain"])


@FORMS
def test_one_worker_answers_one_cgi_request_after_the_other(by_cgi, form):
    site = by_cgi(server=form)
    pids = {pid_of(cgi(site)) for _ in range(5)}
    assert len(pids) == 1 and site.workers() == [*pids]
    assert len(site.imports()) == 1


def test_a_worker_of_an_app_with_threads_is_kept_too(by_cgi):
    site = by_cgi(env='IMPORT_THREAD = "1"')
    pids = {pid_of(cgi(site)) for _ in range(5)}
    assert len(pids) == 1 and site.workers() == [*pids]
    assert site.imports()[1:] == [*pids], "the first import only showed that there are threads"
    assert site.log().count("importing the app started 2 threads") == 1, site.log()


def test_a_kept_worker_carries_nothing_over(by_cgi):
    site = by_cgi()
    first = pid_of(cgi(site, body=b"a body that nobody reads" * 10_000))
    _, said, errors = cgi(site, "/talk")
    assert said == "said" and errors.count("said to stderr") == 1, errors
    status, text, errors = cgi(site, "/upload", b"hello")
    assert (status, text.split()[1]) == (200, "5") and "said" not in errors, errors
    assert pid_of(cgi(site)) == first


def test_a_worker_that_still_closes_its_response_is_kept(by_cgi):
    """As Django's does: it tells the world that the request is over when the visitor has it all."""
    site = by_cgi()
    first = pid_of(cgi(site, "/closing"))
    assert (site.marks / "closed").exists()
    assert pid_of(cgi(site)) == first


def test_a_kept_worker_is_worn_by_all_its_fronts_together(by_cgi):
    site = by_cgi(server="maxrequests = 3")
    pids = [pid_of(cgi(site)) for _ in range(7)]
    assert len(set(pids[:3])) == len(set(pids[3:6])) == 1 and len(set(pids)) == 3, pids


def test_a_kept_worker_grows_old(by_cgi):
    site = by_cgi(server="max_lifetime = 2")
    first = pid_of(cgi(site))
    until(lambda: pid_of(cgi(site)) != first, 15, "it is too old")


def test_kept_workers_end_when_nobody_needs_so_many(by_cgi):
    site = by_cgi(server="idle_timeout = 2", env='EXIT_MARK = "left"')
    assert {status for status, _, _ in together(site, 4, "/version?seconds=1")} == {200}
    assert len(site.workers()) == 4
    until(lambda: len(site.workers()) == 1, 20, "one is kept")
    assert (site.marks / "left").exists(), "their exit functions ran"
    assert not site.zombies()
    assert pid_of(cgi(site)) in site.workers()


def test_status_shows_the_workers_that_are_kept(by_cgi):
    site = by_cgi()
    worker = pid_of(cgi(site))
    said = until(lambda: shown(site, kept=1), 10, "it is shown")
    assert said["workers"] == {"serving": 0, "kept": 1, "waiting": 0, "most": None, "why": ""}
    [kept] = said["preloaders"][0]["kept_workers"]
    assert kept["pid"] == worker and kept["served"] == 1 and kept["usage"]["memory_bytes"] > 1 << 20
    kill(worker)
    until(lambda: shown(site, kept=0), 10, "it is shown no more")


def shown(site, **workers):
    """What `status` tells, if it tells this of the site's workers."""
    said = site.status()
    return workers.items() <= said["workers"].items() and said


def test_a_touch_ends_kept_workers(by_cgi):
    site = by_cgi()
    assert cgi(site, "/version")[1] == "0"
    old = site.workers()
    site.account.code(1)
    site.account.touch()
    assert cgi(site, "/version")[1] == "1"
    until(lambda: not set(old) & set(site.workers()), 10, "the old worker has gone")
    assert cgi(site, "/version")[1] == "1" and len(site.imports()) == 2


@FORMS
@pytest.mark.parametrize("what", ["workers", "preloaders"])
def test_a_kept_worker_or_its_keeper_that_is_killed_costs_nobody_an_answer(by_cgi, what, form):
    site = by_cgi(server=form)
    for _ in range(3):
        pid_of(cgi(site))
        [victim] = getattr(site, what)()
        kill(victim)
        until(lambda: victim not in getattr(site, what)(), 5, "it is gone")
        if what == "preloaders":
            until(lambda: not site.workers(), 5, "its kept worker goes with it")
        pid_of(cgi(site))


def test_the_end_of_a_kept_worker_is_told_the_next_front_once(by_cgi):
    site = by_cgi()
    worker = pid_of(cgi(site))
    kill(worker)
    until(lambda: worker not in site.workers(), 5, "it is gone")
    errors = [cgi(site)[2] for _ in range(2)]
    assert "RF0406" in errors[0] and f"worker {worker} was killed (SIGKILL)" in errors[0], errors
    assert "RF0406" not in errors[1] and site.log().count("RF0406") == 1


@FORMS
def test_the_worker_of_a_front_that_leaves_serves_the_next_one(make_plain, manage, form):
    site = make_plain(server=form)
    manager = manage(site)
    front = manager.spawn()
    first = ask(front, "/pid").text
    kill(front.pid, signal.SIGTERM)
    until(lambda: manager.status_of(front) == 0, 8, "it has left")
    assert ask(manager.spawn(), "/pid").text == first


def test_a_front_that_is_killed_costs_its_own_worker_only(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    ask(fronts[0], "/pid")
    thread = threading.Thread(target=request, args=(fronts[0].socket, "/sleep?mark=busy&seconds=5"))
    thread.start()
    busy = int(site.mark("busy"))
    other = ask(fronts[1], "/pid").text
    assert int(other) != busy
    kill(fronts[0].pid)
    thread.join(20)
    until(lambda: site.workers() == [int(other)], 5, "its worker has gone with it")
    assert ask(fronts[1], "/pid").text == other


def test_eight_fronts_with_one_visitor_have_one_worker(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    fronts, pids = [], set()
    for _ in range(8):
        fronts.append(manager.spawn())
        pids.add(ask(fronts[-1], "/pid").text)
    pids |= {ask(front, "/pid").text for _ in range(2) for front in fronts}
    # On a busy machine a front may answer too late, and a new worker is forked.
    assert len(pids) <= 3 and len(site.workers()) <= 3


def test_an_idle_front_gives_its_worker_away_in_time_to_end(make_plain, manage):
    site = make_plain(server="idle_timeout = 1")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(3)]
    threads = [threading.Thread(target=request, args=(front.socket, "/version?seconds=1")) for front in fronts]
    for thread in threads:
        thread.start()
    until(lambda: len(site.workers()) == 3, 15, "each has one")
    for thread in threads:
        thread.join(20)
    until(lambda: len(site.workers()) == 1, 25, "one is kept for all of them")
    kept = site.workers()
    assert [int(ask(front, "/pid").text) for front in fronts] == kept * 3


def test_a_front_that_does_not_answer_keeps_nobody_waiting(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    first = ask(fronts[0], "/pid").text
    os.kill(fronts[0].pid, signal.SIGSTOP)
    try:
        assert ask(fronts[1], "/pid").text != first
    finally:
        os.kill(fronts[0].pid, signal.SIGCONT)
    assert ask(fronts[0], "/pid").status == 200


def test_new_code_goes_live_in_every_front_of_the_plain_form(make_plain, manage):
    """A front whose trial gets the worker of another front knows by that that the app can be imported."""
    site = make_plain(server="preload = false")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(3)]
    for version in range(3):
        until(lambda: [ask(f, "/version").text for f in fronts] == [str(version)] * 3, 15, f"all serve {version}")
        site.account.code(version + 1)
        site.account.touch()
