"""What an app has open when it is imported is not shared by workers: each answer belongs to its request.

With real services (services.py) and the modules of apps/opened/, each of which opens something at its import.
"""

import concurrent.futures
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import peers
from services import Echo, Memcached, Postgres
from webservers.account import new_directory
from webservers.fastcgi import request
from webservers.manager import Manager
from webservers.processes import end, named, touching, until
from webservers.recipe import connects

APPS = Path(__file__).resolve().parent / "apps" / "opened"
REQUESTS, AT_A_TIME = 400, 20
LEFT_OPEN = "importing the app left open what workers must not share"

CONFIG = """\
[app]
path = "code"
wsgi = "app:application"
python = "{python}"
[server]
runtime_dir = "run"
maxchildren = {workers}
minspare = {workers}
maxspare = {workers}
{server}
[log]
file = "site.log"
[env]
OPENED = "{opened}"
SERVICE = "{service}"
MARKS = "{directory}"
"""


class Site:
    """A server of its own, with workers that are all there from the start."""

    def __init__(self, build, opened, service="", server="", workers=4):
        self.directory = self.base = new_directory("runfcgi-opened-")
        self.executable = self.directory / "mysite.fcgi"
        shutil.copy(build, self.executable)
        shutil.copytree(APPS, self.directory / "code", ignore=shutil.ignore_patterns("__pycache__"))
        self.socket = self.directory / "my.sock"
        text = CONFIG.format(
            python=sys.executable, opened=opened, service=service, server=server, workers=workers,
            directory=self.directory,
        )  # fmt: skip
        (self.directory / "mysite.toml").write_text(text)
        self.process = None

    def start(self):
        command = ["./mysite.fcgi", "runfcgi", "daemonize=false", f"socket={self.socket}"]
        self.process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL)
        until(lambda: connects(self.socket), 15, "the site listens")
        return self

    def stop(self):
        """Ends it as its owner does; all that is its own has to go."""
        self.process.terminate()
        assert self.process.wait(20) == 0
        until(lambda: not touching(self.directory), 10, f"nothing is left of it: {touching(self.directory)}")

    def remove(self):
        print("--- the site's log ---", self.log(), sep="\n")
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        end(touching(self.directory))
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        path = self.directory / "site.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def ask(self, query):
        """(body, pid of the worker, whether that process has imported the app)"""
        head, _, body = peers.fastcgi(self.socket, "/", query).partition("\r\n\r\n")
        fields = dict(re.findall(r"^(\S+): (.*?)\r?$", head, re.M))
        assert fields.get("Status", "200").startswith("200"), (head, body)
        return body, int(fields["X-Pid"]), fields["X-Pid"] == fields["X-Importer"]

    def ask_many(self, queries):
        with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as visitors:
            return list(visitors.map(self.ask, queries))

    def workers(self):
        return named(self.directory, "runfcgi-worker")

    def ready(self, count):
        until(lambda: len(self.workers()) >= count, 40, f"{count} workers are there")

    def check(self):
        return subprocess.run(
            ["./mysite.fcgi", "check"], cwd=self.directory, capture_output=True, text=True, timeout=60
        ).stdout


@pytest.fixture
def make(build):
    """`make(opened, service=…)`: a running site."""
    made = []

    def make(opened, service="", **options):
        made.append(Site(build, opened, service, **options))
        return made[-1].start()

    yield make
    for site in made:
        site.remove()


@pytest.fixture(scope="module")
def postgres():
    if not Postgres.programs:
        pytest.skip("PostgreSQL is not installed")
    with Postgres() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def memcached():
    if not Memcached.program:
        pytest.skip("memcached is not installed")
    with Memcached() as memcached:
        yield memcached


@pytest.fixture(scope="module")
def services(postgres, memcached, tmp_path_factory):
    """By name of a module: what it connects to, and what the log says of it; nothing, when workers may be forked."""
    with Echo() as echo:
        database = tmp_path_factory.mktemp("sqlite") / "notes.sqlite3"
        tls = f"a connection to 127.0.0.1:{postgres.port} (opened_postgres.CONNECTION)"
        yield {
            "postgres": (postgres.dsn(False), f"a connection to {postgres.directory}/.s.PGSQL.{postgres.port} "
                         "(opened_postgres.CONNECTION)"),
            "postgres, TLS": (postgres.dsn(True), tls),
            "alchemy": (postgres.dsn(True), None),
            "django": (postgres.dsn(True), None),
            "sqlite": (database, f"the database {database} (opened_sqlite.CONNECTION)"),
            "memcached": (memcached.socket, f"a connection to {memcached.socket} (opened_memcached.CLIENT)"),
            "session": (echo.url, f"a connection to {echo.url[7:-1]} (opened_session.SESSION)"),
            "process": ("", "(opened_process.CHILD); "),
        }  # fmt: skip


KINDS = ["postgres", "postgres, TLS", "alchemy", "django", "sqlite", "memcached", "session", "process"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_belongs_to_its_request(make, services, kind):
    service, words = services[kind]
    site = make(kind.partition(",")[0], service)
    site.ready(4)
    answers = site.ask_many(f"n{number}" for number in range(REQUESTS))
    assert [body for body, _, _ in answers] == [f"n{number}" for number in range(REQUESTS)]
    by_itself = {by_itself for _, _, by_itself in answers}
    if words is None:
        assert by_itself == {False}, "workers are forked from what was imported"
        assert LEFT_OPEN not in site.log()
    else:
        assert by_itself == {True}, "each worker has imported the app by itself"
        line = [line for line in site.log().splitlines() if LEFT_OPEN in line]
        assert len(line) == 1 and words in line[0], "said once, and what it is"
        assert "with the first request" in line[0], "and what to do"
    site.stop()


def test_processes_spawned_later_know_it(build, memcached):
    """Those of mod_fcgid: it is said once for all, and only the first imports the app to find out."""
    site = Site(build, "memcached", memcached.socket, workers=1)
    try:
        with Manager(site) as manager:
            for number in range(3):
                front = manager.spawn()
                assert request(front.socket, f"/?n{number}").text == f"n{number}"
            assert site.log().count(LEFT_OPEN) == 1
            assert len((site.directory / "imports").read_text().split()) == 2, "one worker serves all of them"
            os.utime(site.executable)
            until(lambda: site.log().count("new code goes live") == 3, 20, "the new code is served")
            assert request(manager.spawn().socket, "/?n4").text == "n4"
            assert site.log().count(LEFT_OPEN) == 2, "new code is looked at anew"
        until(lambda: not touching(site.directory), 10, "nothing is left of it")
        assert not (site.directory / "run").exists() or os.listdir(site.directory / "run") == []
    finally:
        site.remove()


def test_threads_of_a_scheduler_lead_to_the_plain_form_as_before(make):
    site = make("scheduler")
    site.ready(4)
    answers = site.ask_many(f"n{number}" for number in range(REQUESTS))
    assert [body for body, _, _ in answers] == [f"n{number}" for number in range(REQUESTS)]
    assert all(by_itself for _, _, by_itself in answers)
    assert re.search(r"importing the app started \d threads", site.log())
    site.stop()


def test_what_is_harmless_is_shared(make):
    """Logs, files that are only read, devices of the system, memory, sockets that listen or that nobody answers to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        directory = new_directory("runfcgi-syslog-")
        syslog.bind(str(directory / "syslog.sock"))
        threading.Thread(target=lambda: [None for _ in iter(lambda: syslog.recv(1000), b"the end")]).start()
        site = make("harmless", directory / "syslog.sock")
        site.ready(4)
        answers = site.ask_many(f"n{number}" for number in range(40))
        assert [body for body, _, _ in answers] == [f"n{number}" for number in range(40)]
        assert not any(by_itself for _, _, by_itself in answers)
        assert LEFT_OPEN not in site.log()
        assert (site.directory / "shop.log").read_text().count("said in a request") == 40
        syslog.sendto(b"the end", syslog.getsockname())
        shutil.rmtree(directory)
    site.stop()


def test_what_the_warming_request_opens_is_not_shared(make, memcached):
    site = make("by_warming", memcached.socket, server='warm = "/?warm"')
    site.ready(4)
    answers = site.ask_many(f"n{number}" for number in range(REQUESTS))
    assert [body for body, _, _ in answers] == [f"n{number}" for number in range(REQUESTS)]
    assert all(by_itself for _, _, by_itself in answers)
    assert f"{LEFT_OPEN}: a connection to {memcached.socket} (opened_by_warming.KEPT)" in site.log()
    site.stop()


def test_processes_started_at_import_end_with_who_started_them(make):
    site = make("process")
    site.ready(4)
    started = [line.split() for line in (site.directory / "children").read_text().splitlines()]
    assert len(started) == 5, "one of the preloader, one of each worker"
    pid, preloader = started[0]
    assert int(preloader) not in site.workers()
    until(lambda: not Path(f"/proc/{pid}").exists(), 10, "the process that the preloader had started ends with it")
    assert all(Path(f"/proc/{pid}").exists() for pid, _ in started[1:])
    worker = site.ask("one")[1]
    os.kill(worker, signal.SIGKILL)
    (child,) = (pid for pid, parent in started if int(parent) == worker)
    until(lambda: not Path(f"/proc/{child}").exists(), 10, "the process that a worker had started ends with it")
    site.stop()


def test_a_worker_says_nothing_of_children_that_it_never_had(make):
    site = make("ended", server="maxrequests = 1")
    site.ready(4)
    workers = {site.ask(f"n{number}")[1] for number in range(8)}
    assert len(workers) > 4
    site.stop()
    assert "can only join a child process" not in site.log()
    assert "Traceback" not in site.log()
    assert LEFT_OPEN not in site.log()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "django"])
def test_check_says_it_too(build, services, kind):
    service, words = services[kind]
    site = Site(build, kind.partition(",")[0], service)
    try:
        said = site.check()
        assert "imported in" in said
        assert ("RF0207" in said) == (words is not None)
        assert (words or "") in said
        config = site.directory / "mysite.toml"
        config.write_text(config.read_text().replace("[server]", "[server]\npreload = false"))
        assert "RF0207" not in site.check()
    finally:
        site.remove()


def test_check_says_what_the_warming_request_opens(build, memcached):
    site = Site(build, "by_warming", memcached.socket, server='warm = "/?warm"')
    try:
        said = site.check()
        assert "RF0207" in said and f": a connection to {memcached.socket} (opened_by_warming.KEPT);" in said
    finally:
        site.remove()


# --- processes that a view starts, and chance ---


def test_processes_of_a_view_can_be_ended(make):
    site = make("views")
    site.ready(4)
    assert [site.ask("terminate")[0] for _ in range(60)] == ["True"] * 60
    assert [site.ask("pool")[0] for _ in range(60)] == ["6"] * 60
    assert site.ask("own")[0] == "7", "a handler of the app's own"
    site.stop()


def test_generators_made_at_import_draw_other_numbers_in_each_worker(make):
    site = make("views")
    site.ready(4)
    answers = site.ask_many(["drawn"] * 8)
    workers = {pid: body.split() for body, pid, _ in reversed(answers)}
    assert len(workers) == 4
    assert not any(by_itself for _, _, by_itself in answers)
    for name, numbers in zip(("random.Random()", "numpy.random.default_rng()", "uuid.uuid1()"), zip(*workers.values())):
        assert len(set(numbers)) == 4, f"{name} repeats in other workers"
    site.stop()
