"""The end: a process that is told to leave does it in time and with its request answered, and nothing is left over."""

import signal
import threading
import time

import pytest

from plain_site import ask, kill, state
from webservers import processes
from webservers.apache import Apache
from webservers.fastcgi import request
from webservers.load import Load
from webservers.processes import comm, until


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
        assert processes.left_behind(site.account.runtime) == []
