"""The plain form tries new code with a worker of its own. Whatever becomes of that worker and of its preloader: code that
works goes live, and code that does not leaves the old one serving."""

import contextlib
import fcntl
import os
import signal
import time

import pytest

from plain_site import ask, kill
from webservers.account import give
from webservers.processes import until

# It waits until the test lets it go on.
SLOW = """\
import os, time
VERSION = "1"
MARKS = os.environ["MARKS"]
with open(os.path.join(MARKS, "importing"), "a") as file:
    file.write("here")
while not os.path.exists(os.path.join(MARKS, "go")):
    time.sleep(0.02)
"""
BROKEN = SLOW + 'raise RuntimeError("broken on purpose")\n'


def upload(site, text):
    site.account.put(site.account.project / "myproject" / "version.py", text)
    site.account.touch()


def let_go(site):
    (site.marks / "go").touch()


def next_preloader(site, *before):
    """One that forks on demand, and is none of those `before`."""

    def find():
        texts = [lock.read_text().split() for lock in site.account.runtime.glob("*.lock")]
        ready = [int(words[0]) for words in texts if words[1:2] == ["ready"]]
        return [pid for pid in ready if pid not in before and site.owns(pid)]

    return until(find, 20, "there is another preloader")[0]


def good(site):
    """The version that processes are spawned with while a newer one does not work."""
    return (site.account.runtime / "good").read_text()


@contextlib.contextmanager
def held_turn(site):
    """No front goes live meanwhile, for some seconds."""
    path = site.account.runtime / "turn"
    with open(path, "a") as file:
        give(path)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def assert_refused(site, front):
    until(lambda: "broken on purpose" in site.log(), 20, "it is known that the new code is broken")
    assert "new code goes live" not in site.log()
    assert ask(front, "/version").text == "0"


def test_a_preloader_that_dies_during_the_trial_does_not_make_it_succeed(make_plain, manage):
    site = make_plain(server="preload = false")
    front = manage(site).spawn()
    assert ask(front, "/version").text == "0"
    old, worked = next_preloader(site), good(site)
    upload(site, BROKEN)
    site.mark("importing")
    new = next_preloader(site, old)
    kill(new)
    next_preloader(site, old, new)
    ask(front, "/version")
    let_go(site)
    assert_refused(site, front)
    assert good(site) == worked


def test_a_trial_that_no_preloader_has_begun_is_begun_again(make_plain, manage):
    site = make_plain(server="preload = false")
    front = manage(site).spawn()
    assert ask(front, "/version").text == "0"
    old = next_preloader(site)
    let_go(site)
    with held_turn(site):
        upload(site, BROKEN)
        new = next_preloader(site, old)
        kill(new, signal.SIGSTOP)
    time.sleep(0.5)  # the front has its turn now, and asks for a worker
    kill(new)
    assert_refused(site, front)


def test_a_preloader_that_dies_before_the_trial_is_not_the_fault_of_the_code(make_plain, manage):
    site = make_plain(server="preload = false")
    front = manage(site).spawn()
    assert ask(front, "/version").text == "0"
    old = next_preloader(site)
    with held_turn(site):
        site.account.code(1)
        site.account.touch()
        kill(next_preloader(site, old))
    until(lambda: ask(front, "/version").text == "1", 20, "the new code is live")


@pytest.fixture
def in_line(make_plain, manage):
    """`in_line(code)`: a site that serves 0, and two fronts that try this code, which waits until the test lets it go on.
    There is no room for a second trial beside the first: the second front waits in line."""

    def begin(code):
        site = make_plain(server="preload = false\nmaxchildren = 1")
        manager = manage(site)
        fronts = [manager.spawn() for _ in range(2)]
        for front in fronts:
            assert ask(front, "/version").text == "0"
        upload(site, code)
        site.mark("importing")
        # The turn of the first one ends before its import.
        until(lambda: site.status()["workers"]["waiting"] == 1, 20, "the second one waits in line")
        return site, fronts

    return begin


def test_who_waits_in_line_for_a_trial_hears_how_it_went(in_line):
    site, fronts = in_line(BROKEN)
    let_go(site)
    until(lambda: site.status()["workers"]["waiting"] == 0, 20, "it has its turn")
    for front in fronts:
        assert_refused(site, front)


def test_who_waits_in_line_for_a_trial_gets_the_worker_of_the_one_that_is_live(in_line):
    site, fronts = in_line(SLOW)
    let_go(site)
    for front in fronts:
        until(lambda: ask(front, "/version").text == "1", 20, "the new code is live")
    assert site.mark("importing") == "here", "one import is enough"
