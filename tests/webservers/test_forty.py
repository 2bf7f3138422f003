"""Whatever fails, under a real Apache with mod_fcgid: the visitor gets a number and nothing else, the owner finds the reason
and the cure under this number in the web server's log and at the desk, `check` knows it, and once mended it is well again.
"""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import pytest

from golive import AS_USER, Fcgid, Lab
from webservers.account import APPS, give
from webservers.client import Client
from webservers.desk import SECRET as DESK_SECRET
from webservers.desk import Owner
from webservers.failures_table import NO_APP, QUIET, ROWS, SECRET
from webservers.processes import until

BY_NAME = {row.name: row for row in ROWS + QUIET}
AT_ONCE = 8
# Seconds after which what has been mended is live.
WITHIN = 20

class Failing(Fcgid):
    """A site with a desk, an app that answers "right" and a Django project."""

    base = {"owner": {"path": "/-/desk", "secret": DESK_SECRET}, "env": {"V": None}, "server": {"linger": 0}}

    def __init__(self, lab, row):
        super().__init__(lab, re.sub(r"\W+", "-", row.name))
        shutil.rmtree(self.project)
        shutil.copytree(APPS / "failing", self.project, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(lab.model.home / "db", self.home / "db")
        self.configure(row.base, {"server": {"runtime_dir": None}} if row.no_desk else {})
        give(self.home)
        self.client = Client(lab.apache.port)
        self.owner = Owner(lab.apache.port)
        self.owner.place = self.prefix + "/-/desk"

    def put(self, path, data):
        """An upload."""
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(data)
        give(fresh)
        give(path.parent)
        fresh.replace(path)

    def stop(self):
        """Whoever awaits their end has to look at all processes of the machine; what is left ends with the web server."""
        for pid in self.pids("mysite.fcgi"):
            os.kill(pid, 15)

    def visit(self, row):
        """A visitor asks."""
        if row.body:
            return self.client.post(self.prefix + row.path, row.body)
        return self.client.get(self.prefix + row.path)

    def check(self):
        """Exit status and output of `check`, which the owner runs."""
        env = {"PATH": "/usr/bin:/bin", "HOME": "/"}
        command = [self.executable, "check"]
        done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=60, **AS_USER)
        return done.returncode, done.stdout + done.stderr


def events(log, number):
    """What the web server's log says of an incident, each as its first line."""
    return [line for line in log.splitlines() if f"incident {number}" in line]


def problems(log, site):
    """What the site's processes have said by themselves: the web server tells of failed requests, once."""
    pids = "|".join(map(str, site.pids("mysite.fcgi")))
    return re.findall(rf"\[(?:{pids})\] (?:error|warning): RF(?!\d{{4}} incident).*", log) if pids else []


def must_say(text, words):
    for word in words:
        assert word in text, f"{word!r} is missing in:\n{text}"


def fails_and_is_mended(lab, row):
    site = Failing(lab, row)
    try:
        undo = row.spoil(site)
        response = site.visit(row)
        assert response.status == row.status, (response.status, response.body)
        if row in QUIET:
            must_be_seen_by_the_owner(site, row, response)
        else:
            number = must_be_told_once(site, row, response)
        before = site.check()
        must_say(before[1], row.found)
        assert before[0] == (0 if row.passes else 1), before
        undo()
        if row.touch:
            os.utime(site.executable)
        seen = []
        until(lambda: seen.append(site.visit(row).body) or seen[-1].strip() == b"right", WITHIN, seen)
        if row.no_desk:
            must_stand_at_the_desk(site, row, number)
        after = site.check()
        assert after[0] == 0, after
        for word in row.found:
            if word.startswith("RF"):
                assert word not in after[1], after
    finally:
        site.stop()
        if row.no_desk:
            until(lambda: not site.pids("mysite.fcgi"), 10, "its processes have left")
            for journal in map(Path, glob("/dev/shm/runfcgi-*/journal")):
                if journal.exists() and str(site.home) in journal.read_text():
                    shutil.rmtree(journal.parent, ignore_errors=True)


def must_be_told_once(site, row, response):
    """To the visitor by a number, and to the owner with this number in the log and at the desk; returns it."""
    number = response.headers["X-Incident"]
    assert number and re.fullmatch("[0-9a-f]{8}", number), response.headers.items()
    for secret in ("Traceback", str(site.home), SECRET, DESK_SECRET, "only for tests"):
        assert secret not in response.text, response.text
    told = until(lambda: events(site.lab.apache.log(), number), 5, "it is logged")
    assert len(told) == 1, told
    assert not problems(site.said(), site), problems(site.said(), site)
    must_say(told[0], row.told)
    assert f": {row.told[0]} incident {number}: " in told[0], told[0]
    assert "public_html/.." not in told[0] and DESK_SECRET not in told[0]
    if not row.no_desk:
        must_stand_at_the_desk(site, row, number)
    return number


def must_be_seen_by_the_owner(site, row, response):
    """In the log, once, and at the desk; without a process there is neither."""
    if not row.told:
        assert response.body.startswith(b"\x7fELF"), "Apache sends the program"
        return
    assert response.text == "right"
    told = problems(site.lab.apache.log(), site)
    assert len(told) == 1, told
    must_say(told[0], row.told)
    if "RF0604" in row.told:  # without this directory the desk can run no task
        must_say(site.owner.open().words(), ["There is no runtime directory", "set [server] runtime_dir to a local directory"])
    else:
        must_say(site.owner.open().do("check")[1], row.found[1:])


def must_stand_at_the_desk(site, row, number):
    page = site.owner.open().words(f"/failures?number={number}")
    must_say(page, [f"number {number}", *row.told[1:]])
    assert DESK_SECRET not in page and "only for tests" not in page
    if row.told[0] == NO_APP and not row.no_desk:
        now = site.owner.words()
        assert "The site does not work" in now or "The settings were refused" in now, now
        must_say(now, row.told[1:])
    assert row.no_desk or f"number {number}" in site.owner.words("/failures")


@pytest.fixture(scope="module")
def outcomes(request, build, model):
    """Of all rows that pytest is about to run."""
    chosen = [item.callspec.params["name"] for item in request.session.items if item.path == request.path]
    with Lab("mod_fcgid", build, model) as lab, ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(fails_and_is_mended, lab, BY_NAME[name]) for name in chosen}


@pytest.mark.parametrize("name", BY_NAME)
def test_it_is_told_and_mended(outcomes, name):
    outcomes[name].result()
