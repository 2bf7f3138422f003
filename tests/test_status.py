"""`status` and the status page: the real executable with an app that is slow, hangs or dies."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from webservers.processes import until

SECRET = "a-long-random-secret"
APP = """
import os, signal, time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(60)
    if path == "/die":
        os.kill(os.getpid(), signal.SIGKILL)
    if path == "/say":
        print("said", flush=True)
    if path == "/raise":
        raise ValueError("what the visitor sent")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("app " + path).encode()]
"""
SETTINGS = """
[app]
wsgi = "status_app:application"
python = "{python}"
[server]
protocol = "scgi"
runtime_dir = "run"
maxchildren = 3
[status]
path = "/-/status"
secret = "{secret}"
[log]
file = "site.log"
access = "access.log"
format = "%h %r %q %U %>s %{{Referer}}i %{{X-Runfcgi-Secret}}i"
"""


class Site:
    """A site in a directory of its own, and its fronts."""

    def __init__(self, build):
        self.dir = Path(tempfile.mkdtemp(prefix="runfcgi-status-"))
        self.exe = self.dir / "mysite.fcgi"
        shutil.copy(build, self.exe)
        self.exe.chmod(0o755)
        (self.dir / "status_app.py").write_text(APP)
        self.settings = self.dir / "mysite.toml"
        self.settings.write_text(SETTINGS.format(python=sys.executable, secret=SECRET))
        self.settings.chmod(0o600)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.dir / "s"))
        self.listener.listen(64)
        self.fronts = []
        self.waiting = []

    def start(self, *words):
        """A front, as a web server spawns it; with words: as a person starts it."""
        with open(self.dir / "err.log", "ab") as errors:
            stdin = subprocess.DEVNULL if words else self.listener
            front = subprocess.Popen([self.exe, *words], stdin=stdin, stdout=errors, stderr=errors, cwd=self.dir)
        self.fronts.append(front)
        return front

    def get(self, target, timeout=20, **variables):
        path, _, query = target.partition("?")
        environ = {"CONTENT_LENGTH": "0", "SCGI": "1", "REQUEST_METHOD": "GET", "REQUEST_URI": target, "PATH_INFO": path}
        environ |= {"SCRIPT_NAME": "", "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.1", **variables}
        block = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in environ.items())
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(str(self.dir / "s"))
            client.sendall(b"%d:%b," % (len(block), block))
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        head, _, body = answer.decode().partition("\r\n\r\n")
        return head, body

    def get_later(self, target):
        """A request whose answer nobody awaits."""
        thread = threading.Thread(target=lambda: self._ignoring(target), daemon=True)
        thread.start()
        self.waiting.append(thread)

    def _ignoring(self, target):
        try:
            self.get(target, timeout=60)
        except OSError:
            pass

    def status(self, *words, **options):
        return subprocess.run([self.exe, "status", *words], cwd="/", capture_output=True, text=True, timeout=20, **options)

    def json(self):
        return json.loads(self.status("--json").stdout)

    def workers(self):
        return [worker for front in self.json()["fronts"] for worker in front["workers"]]

    def busy(self):
        return [worker for worker in self.workers() if worker["state"] == "busy"]

    def remove(self):
        for front in self.fronts:
            front.kill()
            front.wait()
        self.listener.close()
        for thread in self.waiting:
            thread.join(10)
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture
def site(build):
    site = Site(build)
    yield site
    site.remove()


def test_a_slow_request_is_shown(site):
    front = site.start()
    assert site.get("/a")[1] == "app /a"
    site.get_later("/slow?token=not-for-everyone")
    until(site.busy, 10, "a busy worker in status --json")
    said = site.json()
    assert said["alive"] and said["state"] == "serving" and said["site"] == "mysite"
    assert [f["pid"] for f in said["fronts"]] == [front.pid]
    (worker,) = site.busy()
    assert worker["requests"][0]["what"] == "GET /slow"
    assert worker["usage"]["memory_bytes"] > 1 << 20 and worker["usage"]["threads"] >= 1
    assert said["counters"]["requests"] == 2 == sum(said["minutes"]["requests"])
    assert len(said["minutes"]["requests"]) == len(said["minutes"]["failed"]) == 60
    (preloader,) = said["preloaders"]
    assert preloader["current"] and preloader["usage"]["memory_bytes"] > 1 << 20
    assert "processes" in [limit["name"] for limit in said["limits"]]
    text = site.status()
    assert text.returncode == 0
    assert f"{front.pid}  front" in text.stdout and f"{worker['pid']}    worker     busy" in text.stdout
    assert "GET /slow\n" in text.stdout and "not-for-everyone" not in text.stdout
    assert max(len(line) for line in text.stdout.splitlines()) <= 80


def test_all_fronts_of_a_site_are_shown(site):
    fronts = [site.start() for _ in range(3)]
    site.get("/a")
    until(lambda: len(site.json()["fronts"]) == 3, 10, "three fronts")
    said = site.json()
    assert {f["pid"] for f in said["fronts"]} == {f.pid for f in fronts}
    assert len(said["preloaders"]) == 1
    assert site.get(f"/-/status?secret={SECRET}&format=text")[1].startswith("mysite: serving; 3 fronts, ")


def test_failures_are_told_without_what_the_visitor_sent(site):
    site.start()
    assert "500" in site.get("/raise")[0]
    assert "500" in site.get("/die")[0]
    until(lambda: site.json()["counters"]["worker_deaths"] == 1, 10, "a death")
    until(lambda: "SIGKILL" in site.json()["fronts"][0]["last_death"]["text"], 10, "its explanation")
    said = site.json()
    assert said["counters"]["failed"] == 2 and sum(said["minutes"]["failed"]) == 2
    failure = said["fronts"][0]["last_failure"]["text"]
    assert re.fullmatch(r"GET /die: its worker was killed \(SIGKILL\): .* \(incident [0-9a-f]{8}\)", failure)
    assert "visitor" not in site.status().stdout
    log = (site.dir / "site.log").read_text()
    assert failure[-9:-1] in log and "SIGKILL" in log


def test_a_hung_worker_and_a_stopped_front_do_not_stop_status(site):
    front = site.start()
    site.get_later("/slow")
    (worker,) = until(site.busy, 10, "a busy worker")
    os.kill(worker["pid"], signal.SIGSTOP)
    until(lambda: site.busy()[0]["usage"]["process_state"] == "T", 5, "the worker is stopped")
    front.send_signal(signal.SIGSTOP)
    try:
        until(lambda: site.json()["fronts"][0]["usage"]["process_state"] == "T", 5, "the front is stopped")
        text = site.status()
        assert text.returncode == 0 and "GET /slow" in text.stdout
    finally:
        front.send_signal(signal.SIGCONT)


def test_a_site_whose_settings_are_wrong_does_not_run(site):
    good = site.settings.read_text()
    site.settings.write_text("[app\n" + good)
    site.start()
    until(lambda: site.json()["state"] == "fault", 10, "the front has told")
    told = site.status()
    assert told.returncode == 1 and "fault" in told.stdout, told
    site.settings.write_text(good)
    until(lambda: site.json()["state"] == "serving", 10, "the site runs")
    assert site.status().returncode == 0


def test_what_is_dead_is_not_shown(site):
    front = site.start()
    site.get("/a")
    until(lambda: site.json()["alive"], 10, "the front is alive")
    front.kill()
    front.wait()
    text = site.status()
    assert text.returncode == 1 and "not running" in text.stdout and " front" not in text.stdout.split("\n\n")[-1]
    assert site.json()["fronts"] == [] and site.json()["state"] == "not running"
    assert "[status]" in text.stdout or "/-/status?secret=..." in text.stdout
    front = site.start()
    site.get("/b")
    until(lambda: [f["pid"] for f in site.json()["fronts"]] == [front.pid], 10, "only the new front")
    front.terminate()
    front.wait(10)
    assert not list(site.dir.glob("run/front-*"))


def test_counts_survive_a_restart(site):
    front = site.start()
    for _ in range(3):
        site.get("/a")
    with open(site.settings, "a") as settings:
        settings.write("# changed\n")
    until(lambda: (site.json()["counters"]["restarts"]) == 1, 20, "the new image")
    site.get("/a")
    until(lambda: site.json()["counters"]["requests"] == 4, 10, "all requests")
    said = site.json()
    assert said["fronts"][0]["pid"] == front.pid
    assert sum(said["minutes"]["requests"]) == 4


def test_a_server_started_by_hand_is_found_without_a_named_directory(site):
    text = site.settings.read_text().replace('runtime_dir = "run"\n', "")
    site.settings.write_text(text)
    front = site.start("runfcgi", f"socket={site.dir}/own", "daemonize=false")
    until(lambda: [f["pid"] for f in site.json()["fronts"]] == [front.pid], 10, "the front")
    assert site.json()["fronts"][0]["role"] == "external"
    front.terminate()
    front.wait(10)


def test_the_page_exists_only_for_who_knows_the_secret(site):
    site.start()
    for target, variables in [
        ("/-/status", {}),
        ("/-/status?secret=", {}),
        ("/-/status?secret=wrong", {}),
        (f"/-/status?secret={SECRET}x", {}),
        ("/-/status", {"HTTP_AUTHORIZATION": "Bearer wrong"}),
        (f"/-/status?secret={SECRET}", {"REQUEST_METHOD": "POST"}),
    ]:
        assert site.get(target, **variables)[1] == "app /-/status", target
    os.truncate(site.dir / "access.log", 0)
    for target, variables in [
        (f"/-/status?secret={SECRET}", {}),
        (f"/-/status?format=html&secret={SECRET}", {"HTTP_REFERER": f"https://a/-/status?secret={SECRET}"}),
        ("/-/status", {"HTTP_AUTHORIZATION": f"Bearer {SECRET}"}),
        ("/-/status", {"HTTP_X_RUNFCGI_SECRET": SECRET}),
    ]:
        head, body = site.get(target, **variables)
        assert "Status: 200" in head and "Cache-Control: no-store" in head
        assert body.startswith("<!DOCTYPE html>") and body.endswith("</html>\n") and "<svg" in body
        assert SECRET not in head + body
    lines = until(lambda: (site.dir / "access.log").read_text().splitlines(), 5, "access log")
    assert len(lines) == 4 and all("/-/status" in line for line in lines)
    for name in ["access.log", "err.log"]:
        assert SECRET not in (site.dir / name).read_text(), name
    for path in site.dir.glob("run/front-*"):
        assert SECRET not in path.read_text(), path
    head, body = site.get(f"/-/status?secret={SECRET}", REQUEST_METHOD="HEAD")
    assert "Status: 200" in head and body == ""


def test_the_secret_is_in_no_log(site):
    """Also where the page does not answer: a POST, another path, a link from the page, a page that asks for a login."""
    site.settings.write_text(site.settings.read_text().replace('"%h', '"%{Location}o %{User-Agent}i %h'))
    site.start()
    page = f"/-/status?secret={SECRET}&format=json"
    for target, variables in [
        (page, {"REQUEST_METHOD": "POST"}),
        (f"/say?a=1&secret={SECRET}&b=2", {"REQUEST_METHOD": "POST", "HTTP_X_RUNFCGI_SECRET": SECRET}),
        (f"/raise?secret={SECRET}", {}),
        (f"/say?next=/-/status%3fsecret%3D{SECRET}%26format", {}),
        ("/say", {"HTTP_REFERER": f"https://a{page}", "HTTP_USER_AGENT": f"x secret={SECRET}"}),
    ]:
        site.get(target, **variables)
    lines = until(lambda: len(lines := (site.dir / "access.log").read_text().splitlines()) == 5 and lines, 5, "access log")
    assert "POST /say?a=1&secret=***&b=2 HTTP/1.1 ?a=1&secret=***&b=2" in lines[1], lines
    assert "https://a/-/status?secret=***&format=json -" in lines[4], lines
    said = until(lambda: "said\n" in (text := (site.dir / "site.log").read_text()) and "RF03" in text and text, 5, "the log")
    assert "POST /say?a=1&secret=***&b=2: said\n" in said and "GET /raise?secret=***" in said
    for path in ["access.log", "site.log", "err.log", *site.dir.glob("run/front-*"), "run/journal"]:
        assert SECRET.encode() not in (site.dir / path).read_bytes(), path


def test_the_page_for_programs(site):
    front = site.start()
    site.get("/a")
    _, text = site.get(f"/-/status?secret={SECRET}&format=json")
    assert json.loads(text)["fronts"][0]["pid"] == front.pid
    assert json.loads(text)["counters"]["requests"] == 1, "the page itself is not counted"
    head, text = site.get(f"/-/status?secret={SECRET}&format=prometheus")
    assert "text/plain; version=0.0.4" in head
    sample = re.compile(r'(runfcgi_[a-z0-9_]+)\{([a-z_]+="[^"\\\n]*",?)*\} [0-9]+(\.[0-9]+)?')
    kinds, samples = {}, []
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, line
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = sample.fullmatch(line)
            assert match and match[1] in kinds, line
            assert kinds[match[1]] == ("counter" if match[1].endswith("_total") else "gauge"), line
            samples.append(line)
    assert len(samples) == len(set(samples)) > 20
    assert f'runfcgi_requests_total{{site="mysite",front="{front.pid}"}} 1' in samples
    assert 'runfcgi_up{site="mysite"} 1' in samples


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_another_users_processes_are_named(site):
    site.start()
    site.get("/a")
    site.settings.chmod(0o644)
    site.dir.chmod(0o755)
    text = site.status(user=65534, group=65534, extra_groups=[])
    assert text.returncode == 1
    words = " ".join(text.stdout.split())
    assert "/run belongs to user 0: that user's processes of this site cannot be seen" in words, text
    assert "/-/status?secret=..." in words
    assert SECRET not in text.stdout
