"""Starts: the app is imported once for all processes, or by each, and an import that fails is told of."""

import re
import threading
import time
from pathlib import Path

import pytest

from plain_site import ask
from webservers.account import REPOSITORY
from webservers.apache import Apache
from webservers.fastcgi import request
from webservers.processes import until


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


ADMIN = (REPOSITORY / "deploy" / "hosts" / "ADMIN.md").read_text()
CHILD = 'import subprocess\nVERSION = "0"\nsubprocess.Popen(["sleep", "600"])\n'


@pytest.mark.parametrize("version, roles", [("", ["preloader", "worker"]), (CHILD, ["guard", "worker"])], ids=["forked", "plain"])
def test_the_command_line_says_what_a_process_is(make_plain, manage, version, roles):
    site = make_plain()
    if version:
        site.account.put(site.account.project / "myproject" / "version.py", version)
    front = manage(site).spawn()
    ask(front, "/pid")
    assert command_line(front.pid) == str(site.account.executable)
    for role in roles:
        for pid in until(lambda: site.pids(f"runfcgi-{role}"[:15]), 5, f"there is a {role}"):
            assert command_line(pid) == f"runfcgi: {role} of {site.account.project}"
        assert f"| `runfcgi: {role} of /home/user/myproject` | `runfcgi-{role[:7]}` |" in ADMIN


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")




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


def test_in_the_plain_form_workers_import_the_app_and_the_preloader_does_not(make_plain, manage):
    site = make_plain(server="preload = false")
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    threads = [threading.Thread(target=ask, args=(front, "/version?seconds=2")) for front in fronts]
    for thread in threads:
        thread.start()
    until(lambda: len(site.workers()) == 2, 15, "each has one")
    assert sorted(site.imports()) == sorted(site.workers())
    assert len(site.preloaders()) == 1 and not set(site.preloaders()) & set(site.imports())
    for thread in threads:
        thread.join(20)


def test_an_import_is_timed_whatever_the_clock_does(make_plain, manage):
    site = make_plain()
    text = 'import time\ntime.time = lambda now=time.time: now() - 3600\nVERSION = "0"\n'
    site.account.put(site.account.project / "myproject" / "version.py", text)
    front = manage(site).spawn()
    ask(front, "/pid")
    assert re.search(r"imported the app in \d\.\d{3} s with Python", site.log()), site.log()


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
