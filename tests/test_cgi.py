"""Plain CGI: each request is a process of its own, and the imported app stays for the next one."""

import os
import signal
import socket
import subprocess
import time

import pytest

APP = '''
import os
with open("imports", "a") as file:
    file.write("x")

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/large":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"%08d" % number * 8192 for number in range(128))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d bytes, release RELEASE, worker of %d" % (len(body), os.getppid())]
'''


class Site:
    def __init__(self, directory, build):
        self.directory = directory
        self.program = directory / "site.fcgi"
        self.program.write_bytes(build.read_bytes())
        self.program.chmod(0o755)
        (directory / "run").mkdir(mode=0o700)
        self.release(1)
        self.configure("")

    def release(self, number):
        (self.directory / "app.py").write_text(APP.replace("RELEASE", str(number)))

    def configure(self, more):
        settings = self.directory / "site.toml"
        settings.write_text(
            '[app]\npath = "."\nwsgi = "app:application"\npython = "/usr/bin/python3"\n'
            f'[server]\nruntime_dir = "run"\n{more}\n'
        )
        settings.chmod(0o644)

    def environ(self, body=b"", **variables):
        return {
            "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "POST", "SCRIPT_NAME": "/site.fcgi", "PATH_INFO": "/",
            "REQUEST_URI": "/", "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_LENGTH": str(len(body)),
            **variables,
        }  # fmt: skip

    def request(self, body=b"", **variables):
        environ = self.environ(body, **variables)
        done = subprocess.run([str(self.program)], input=body, env=environ, capture_output=True, timeout=20)
        assert done.returncode == 0, done.stderr
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        assert head.startswith(b"Status: 200 "), done.stdout
        return answer.decode()

    def imports(self):
        return (self.directory / "imports").stat().st_size

    def processes(self):
        """The Python processes of the site."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/cwd") == str(self.directory) and "python" in os.readlink(f"/proc/{pid}/exe"):
                    found.append(int(pid))
            except OSError:
                pass
        return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def site(tmp_path, build):
    site = Site(tmp_path, build)
    yield site
    for pid in site.processes():
        os.kill(pid, signal.SIGTERM)


def until(condition, what, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited too long until {what}"
        time.sleep(0.02)


def test_the_app_is_imported_once_for_all_requests(site):
    answers = {site.request(b"x" * 100_000).rpartition(" ")[2] for _ in range(4)}
    assert len(answers) == 1, "all workers come from one preloader"
    assert site.imports() == 1


def test_a_touch_puts_new_code_live_and_the_old_process_goes(site):
    assert "release 1" in site.request()
    old = site.processes()
    site.release(22)  # another size: Python's byte code knows whole seconds and sizes only
    os.utime(site.program)
    assert "release 22" in site.request()
    assert site.imports() == 2
    until(lambda: not set(old) & set(site.processes()), "the old preloader has gone")
    assert "release 22" in site.request() and site.imports() == 2


def test_broken_code_leaves_the_old_serving(site):
    assert "release 1" in site.request()
    (site.directory / "app.py").write_text("syntax error(")
    os.utime(site.program)
    assert "release 1" in site.request()


def test_in_the_plain_form_one_worker_imports_the_app_for_all_requests(site):
    site.configure("preload = false")
    assert ["5 bytes" in site.request(b"hello") for _ in range(3)] == [True] * 3
    assert site.imports() == 1


def test_without_a_process_that_stays_each_request_serves_itself(site):
    site.configure("preload = false\nlinger = 0")
    for count in (1, 2):
        assert "5 bytes" in site.request(b"hello")
        assert site.imports() == count
        until(lambda: not site.processes(), "nothing is left")
    until(lambda: not site.processes(), "nothing is left")


def test_the_preloader_stays_no_longer_than_it_may(site):
    site.configure("linger = 1")
    site.request()
    until(lambda: not site.processes(), "it has gone")
    assert not list(site.directory.glob("run/*"))


@pytest.mark.parametrize("through", ["pipe", "socket"])
def test_who_does_not_read_holds_no_worker(site, through):
    """The site has one worker."""
    site.configure("maxchildren = 1")
    ours, theirs = (os.pipe() if through == "pipe" else (end.detach() for end in socket.socketpair()))
    with open(ours, "rb") as reader:
        with open(theirs, "wb") as writer:
            environ = site.environ(PATH_INFO="/large", REQUEST_URI="/large")
            slow = subprocess.Popen([str(site.program)], stdin=subprocess.DEVNULL, stdout=writer, env=environ)
        first = os.read(ours, 20)
        assert first.startswith(b"Status: 200 "), first
        for _ in range(3):
            assert "release 1" in site.request()
        assert slow.poll() is None
        body = reader.read().partition(b"\r\n\r\n")[2]
        assert body == b"".join(b"%08d" % number * 8192 for number in range(128))
    assert slow.wait(10) == 0
