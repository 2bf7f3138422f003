"""`mysite.fcgi runfcgi key=value …`: each example of Django's old document, and what belongs to a daemon."""

import fcntl
import os
import pty
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

import peers
from webservers.processes import describe, end, touching, until

REPOSITORY = Path(__file__).resolve().parent.parent
NOBODY, WWW_DATA = 65534, 33

APP = """\
import os, sys, time

def application(environ, start_response):
    query = environ["QUERY_STRING"]
    if query.startswith("sleep="):
        open(os.path.join(os.path.dirname(__file__), "started"), "a").close()
        time.sleep(float(query[6:]))
    if query == "print":
        print("printed by the app", flush=True)
    if query == "talk":
        print("by print\\nforged line")
        sys.stdout.write("by write")
        print("by stderr", file=sys.stderr)
        environ["wsgi.errors"].write("by errors\\n")
        os.write(1, b"by descriptor 1\\n")
        os.write(2, b"by descriptor 2\\n")
        os.system("echo by a program; echo its error >&2")
    said = {"pid": os.getpid(), "cwd": os.getcwd(), "threads": environ["wsgi.multithread"],
            "pythonpath": os.environ.get("PYTHONPATH"), "path": environ["PATH_INFO"],
            "leaked": [n for n in os.environ if n.startswith(("RUNFCGI", "LISTEN", "NOTIFY"))]}
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("%r\\n" % said).encode()]
"""


class Site:
    """A directory with mysite.fcgi, its settings and an app; ends whatever was started in it."""

    def __init__(self, directory, build):
        self.directory = directory
        self.executable = directory / "mysite.fcgi"
        self.config = directory / "mysite.toml"
        self.socket = directory / "my.sock"
        shutil.copy(build, self.executable)
        (directory / "app.py").write_text(APP)
        self.config.write_text('[app]\nwsgi = "app:application"\n[server]\nruntime_dir = "run"\n')

    def run(self, *words, prefix=(), **options):
        """Runs `./mysite.fcgi runfcgi words` to the end of the process that a shell sees."""
        command = [*prefix, "./mysite.fcgi", "runfcgi", *words]
        options = {"cwd": self.directory, "stdin": subprocess.DEVNULL, "timeout": 40, **options}
        return subprocess.run(command, capture_output=True, text=True, **options)

    def daemon(self, *words, **options):
        """The same; it has to succeed and to be silent."""
        done = self.run(*words, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def foreground(self, *words, **options):
        """The same in the foreground; returns when it listens."""
        options = {"cwd": self.directory, "stdin": subprocess.DEVNULL, **options}
        process = subprocess.Popen(["./mysite.fcgi", "runfcgi", "daemonize=false", *words], **options)
        return process

    def ask(self, query="", address=None):
        answer = peers.fastcgi(address or self.socket, "/page", query)
        assert answer.startswith("Status: 200"), answer
        return eval(answer.split("\r\n\r\n", 1)[1])

    def pid(self, name="my.pid"):
        return int((self.directory / name).read_text())

    def alive(self):
        return touching(self.directory)

    def gone(self):
        until(lambda: not self.alive(), 15, f"nothing of ours lives: {self.alive()}")

    def fronts(self):
        return [pid for pid, what in self.alive().items() if what.startswith("mysite.fcgi")]


@pytest.fixture
def site(build, tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    for above in (directory, *list(directory.parents)[:2]):
        above.chmod(0o755)
    site = Site(directory, build)
    yield site
    end(site.alive())


def free_port(family=socket.AF_INET):
    with socket.socket(family) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(path):
    """Whether somebody accepts there."""
    try:
        peers.connect(path).close()
        return True
    except OSError:
        return False


def in_background(function):
    """Calls it in a thread; `.join()`, then `.result`."""

    class Call(threading.Thread):
        def run(self):
            try:
                self.result = function()
            except Exception as error:
                self.result = error

    call = Call(daemon=True)
    call.start()
    return call


# --- the examples of the document ---


def test_a_threaded_server_at_a_port(site):
    port = free_port()
    site.daemon("method=threaded", "host=127.0.0.1", f"port={port}")
    address = ("127.0.0.1", port)
    slow = in_background(lambda: site.ask("sleep=1", address))
    until((site.directory / "started").exists, 10, "the slow request runs")
    quick = site.ask("", address)
    slow.join()
    assert quick["threads"] and slow.result["pid"] == quick["pid"], "another thread of the same process"
    (front,) = site.fronts()
    os.kill(front, signal.SIGTERM)
    site.gone()


def test_a_preforked_server_at_a_socket_and_kill(site):
    site.daemon("method=prefork", f"socket={site.socket}", "pidfile=django.pid")
    pid = site.pid("django.pid")
    assert (site.directory / "django.pid").read_text() == f"{pid}\n"
    assert stat.S_IMODE((site.directory / "django.pid").stat().st_mode) == 0o644
    assert stat.S_IMODE(site.socket.stat().st_mode) == 0o755, "umask 022"
    said = site.ask()
    assert not said["threads"] and said["cwd"] == str(site.directory) and said["leaked"] == []
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert session not in (pid, os.getsid(0)), "a session of its own, that it does not lead"
    assert terminal == 0
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    subprocess.run(f"kill `cat {site.directory}/django.pid`", shell=True, check=True)
    site.gone()
    assert not site.socket.exists() and not (site.directory / "django.pid").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, to be two users")
@pytest.mark.parametrize("umask, welcome", [("0002", True), (None, False)])
def test_the_web_server_as_another_user_of_the_group(site, umask, welcome):
    os.chown(site.directory, NOBODY, WWW_DATA)
    words = [f"socket={site.socket}", "pidfile=my.pid"] + ([f"umask={umask}"] if umask else [])
    site.daemon(*words, prefix=["setpriv", f"--reuid={NOBODY}", f"--regid={WWW_DATA}", "--clear-groups", "env", "HOME=/"])
    client = ["setpriv", f"--reuid={WWW_DATA}", f"--regid={WWW_DATA}", "--clear-groups", "/usr/bin/python3", "-c"]
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(site.socket)!r})"
    done = subprocess.run([*client, code], capture_output=True, text=True)
    assert (done.returncode == 0) == welcome, done.stderr
    assert welcome or "PermissionError" in done.stderr
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_in_the_foreground_with_maxrequests(site):
    process = site.foreground(f"socket={site.socket}", "maxrequests=1")
    until(lambda: listening(site.socket), 10, "it listens")
    assert process.pid in site.fronts()
    assert len({site.ask()["pid"] for _ in range(3)}) == 3, "a worker serves one request"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    site.gone()


def test_scgi(site):
    site.daemon("protocol=scgi", f"socket={site.socket}", "pidfile=my.pid")
    assert peers.scgi(site.socket, "/x").startswith("Status: 200 OK\r\n")
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_scgi_alone_lacks_a_place_to_listen(site):
    done = site.run("protocol=scgi")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "add socket=PATH, or host=ADDRESS and port=NUMBER" in done.stderr


def test_scgi_alone_serves_the_socket_on_descriptor_0(site):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(site.socket))
        server.listen()
        command = ["./mysite.fcgi", "runfcgi", "protocol=scgi"]
        process = subprocess.Popen(command, cwd=site.directory, stdin=server)
    assert peers.scgi(site.socket, "/x").startswith("Status: 200 OK\r\n")
    process.terminate()
    assert process.wait(10) == 0


def test_wrong_words_from_a_web_server_are_told_in_an_answer(site):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(site.socket))
        server.listen()
        command = ["./mysite.fcgi", "runfcgi", "methd=fork"]
        process = subprocess.Popen(command, cwd=site.directory, stdin=server, stderr=subprocess.PIPE, text=True)
    assert peers.fastcgi(site.socket).startswith("Status: 500")
    process.terminate()
    assert "did you mean method?" in process.communicate(timeout=10)[1]
    assert process.returncode == 0


def test_the_restart_script(site):
    script = (REPOSITORY / "deploy" / "restart.sh").read_text()
    script, count = re.subn('(?m)^PROJDIR=.*$', f'PROJDIR="{site.directory}"', script)
    assert count == 1
    file = site.directory / "restart.sh"
    file.write_text(script)
    file.chmod(0o755)
    address, pidfile = site.directory / "mysite.sock", "mysite.pid"

    def restart():
        done = subprocess.run([file], cwd="/", capture_output=True, text=True, env={"SECRET": "x", **os.environ})
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return site.pid(pidfile)

    first = restart()
    assert site.ask("", address)["pythonpath"] == "../python:.."
    assert b"SECRET" not in Path(f"/proc/{first}/environ").read_bytes()
    slow = in_background(lambda: site.ask("sleep=2", address))
    until((site.directory / "started").exists, 10, "the slow request runs")
    second = restart()
    assert second != first and slow.is_alive()
    assert site.ask("", address)["path"] == "/page", "the new one serves while the old one finishes"
    slow.join()
    assert slow.result["path"] == "/page"
    until(lambda: site.fronts() == [second], 10, "the old one has gone")
    assert address.is_socket() and site.pid(pidfile) == second, "and has left what is the new one's"
    os.kill(second, signal.SIGTERM)
    site.gone()


def test_help_lists_all_options(site):
    done = site.run("help")
    assert done.returncode == 0 and done.stderr == ""
    options = "protocol host port socket method maxrequests maxspare minspare maxchildren daemonize pidfile workdir debug"
    for option in (options + " outlog errlog umask").split():
        assert re.search(rf"(?m)^  {option} ", done.stdout), option


@pytest.mark.parametrize("words, text", [
    ("maxrequest=5", "did you mean maxrequests?"),
    ("wibble=1", "unknown option"),
    ("port=99999 host=127.0.0.1", "port"),
    ("port=x host=127.0.0.1", "port"),
    ("host=127.0.0.1", "port"),
    ("host=example.com port=1", "no IP address"),
    ("socket=s maxspare=1 minspare=2", "minspare"),
    ("socket=s umask=0888", "umask"),
    ("socket=s daemonize=perhaps", "daemonize"),
    ("socket=s method=turbo", "method"),
    ("socket=s protocol=http", "protocol"),
    ("socket=s maxrequests=-1", "maxrequests"),
    ("socket", "socket"),
    ("", "add socket=PATH"),
])  # fmt: skip
def test_wrong_words_are_one_line(site, words, text):
    done = site.run(*words.split())
    assert done.returncode == 2, done
    assert text in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert site.alive() == {}


def test_debug_false_is_false_and_said_once(site):
    done = site.run("debug=false", f"socket={site.socket}", "pidfile=my.pid")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "debug=false turns it off" in done.stderr
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


# --- daemon and pidfile ---


def test_a_start_that_fails_is_told_to_the_shell(site):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = site.run("host=127.0.0.1", f"port={port}", "pidfile=my.pid")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"127.0.0.1:{port} is in use" in done.stderr
    assert not (site.directory / "my.pid").exists() and site.alive() == {}
    for words, text in [
        ("errlog=missing/e.log", "errlog="),
        ("outlog=missing/o.log", "outlog="),
        ("workdir=missing", "workdir="),
        ("pidfile=missing/p", "pidfile="),
        ("pidfile=app.py", "something else"),
    ]:
        done = site.run(f"socket={site.socket}", *words.split())
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and text in done.stderr, done.stderr
    assert site.alive() == {} and "application" in (site.directory / "app.py").read_text()


def test_a_python_that_is_not_there_is_told_to_the_shell(site):
    site.config.write_text('[app]\nwsgi = "app:application"\npython = "/nowhere/python3"\n')
    done = site.run("socket=my.sock")
    assert done.returncode == 1 and "/nowhere/python3" in done.stderr and done.stderr.count("\n") == 1
    site.gone()
    assert not site.socket.exists()


def test_a_pidfile_belongs_to_one_live_server(site):
    site.daemon("socket=my.sock", "pidfile=my.pid")
    pid = site.pid()
    done = site.run("socket=other.sock", "pidfile=my.pid")
    assert done.returncode == 1 and f"already runs, as process {pid}" in done.stderr and done.stderr.count("\n") == 1
    assert site.ask() and site.pid() == pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in site.alive(), 10, "it is dead")
    assert site.socket.exists() and (site.directory / "my.pid").exists()
    site.daemon("socket=my.sock", "pidfile=my.pid")
    assert site.pid() != pid and site.ask()
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_kill_and_start_again_at_once(site):
    for _ in range(3):
        site.daemon("socket=my.sock", "pidfile=my.pid")
        assert site.ask()
        os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_logs_are_appended_to_and_umask_and_workdir_hold(site):
    (site.directory / "err.log").write_text("before\n")
    words = ["errlog=err.log", "outlog=out.log", "umask=027", "pidfile=my.pid", f"workdir={site.directory}"]
    done = site.run("socket=my.sock", *words)
    assert done.returncode == 0
    site.ask("print")
    out, log = site.directory / "out.log", site.directory / "err.log"
    until(lambda: "GET /page?print: printed by the app" in out.read_text(), 10, "what the app prints is in its log")
    assert log.read_text().startswith("before\n") and "imported the app" in log.read_text()
    modes = [stat.S_IMODE((site.directory / name).stat().st_mode) for name in ("out.log", "my.pid", "my.sock")]
    assert modes == [0o640, 0o640, 0o750]
    assert os.readlink(f"/proc/{site.pid()}/cwd") == str(site.directory)
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


SAID = {
    "out.log": ["by print", "forged line", "by write", "by descriptor 1", "by a program"],
    "err.log": ["by stderr", "by errors", "by descriptor 2", "its error"],
}


def said(site, name):
    """(time, what) of each line of a log; every line is an event of its own."""
    lines = (site.directory / name).read_text().splitlines()
    events = [re.fullmatch(r"(\S+Z) \[(\d+)\] (\w+): (.*)", line) for line in lines]
    assert all(events), lines
    return [event[4] for event in events if event[3] == "app"]


@pytest.mark.parametrize("more", ["", "preload=false", "method=threaded", "outlog only"])
def test_output_and_errors_have_logs_of_their_own(site, more):
    """Also through a restart, and what the app writes while it is imported."""
    app = site.directory / "app.py"
    app.write_text(APP + 'print("at import")\nprint("at import, an error", file=sys.stderr)\n')
    words = ["outlog=out.log"] if more == "outlog only" else ["outlog=out.log", "errlog=err.log", *more.split()]
    site.daemon("socket=my.sock", "pidfile=my.pid", *words)
    if "preload" in more:
        site.ask()  # or what is written at import could not be told from what the first request writes
    for turn in (1, 2):
        pid = site.ask("talk")["pid"]
        for name in [name for name in SAID if (site.directory / name).exists()]:
            wanted = sorted(SAID[name] * turn)

            def all_there():
                attributed = [line.partition(": ") for line in said(site, name)]
                return sorted(what for where, _, what in attributed if where == "GET /page?talk") == wanted

            until(all_there, 10, f"{name} has {wanted}")
            imports = [line for line in said(site, name) if line.endswith(("at import", "at import, an error"))]
            assert len(imports) == turn and ("error" in imports[0]) == (name == "err.log")
        site.config.write_text(site.config.read_text() + "# changed\n")
        until(lambda: site.ask()["pid"] != pid, 20, "the restart")
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_logs_of_a_daemon_are_rotated(site):
    """As [log] max_size says, with their modes; also when somebody else moves them."""
    site.config.write_text(site.config.read_text() + '[log]\nmax_size = "4K"\n')
    site.daemon("socket=my.sock", "pidfile=my.pid", "outlog=out.log", "errlog=err.log", "umask=027")
    for name in ("out.log", "err.log"):
        until(lambda: site.ask("talk") and (site.directory / f"{name}.1").exists(), 20, f"{name} is rotated")
        for path in (site.directory / name, site.directory / f"{name}.1"):
            assert path.stat().st_size <= 4096 and stat.S_IMODE(path.stat().st_mode) == 0o640, path
    (site.directory / "out.log").rename(site.directory / "moved")
    until(lambda: site.ask("talk") and (site.directory / "out.log").exists(), 10, "a new file is begun")
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_it_stays_one_daemon_through_a_restart(site):
    """A changed configuration: the process executes itself, as the same process, and is no further daemon."""
    site.daemon("socket=my.sock", "pidfile=my.pid", "errlog=err.log")
    pid, inode = site.pid(), site.socket.stat().st_ino
    before = site.ask()["pid"]
    for turn in range(2):
        site.config.write_text(site.config.read_text() + f"# {turn}\n")
        until(lambda: site.ask()["pid"] != before, 20, "the restart")
        before = site.ask()["pid"]
        assert site.fronts() == [pid] and site.pid() == pid and site.socket.stat().st_ino == inode
        done = site.run("socket=other.sock", "pidfile=my.pid")
        assert f"already runs, as process {pid}" in done.stderr, "the lock is still held"
    os.kill(pid, signal.SIGTERM)
    site.gone()
    assert not site.socket.exists() and not (site.directory / "my.pid").exists()


def test_a_restart_with_more_connections_than_can_be_handed_over(site):
    """Their numbers stand in one variable of the environment, and Linux bounds its size."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, max(16384, limits[1])))
    site.config.write_text(site.config.read_text() + "[limits]\nmax_connections = 8000\n")
    kept = []
    try:
        site.daemon("socket=my.sock", "pidfile=my.pid")
        pid, before = site.pid(), site.ask()["pid"]
        for _ in range(7600):
            peer = socket.socket(socket.AF_UNIX)
            kept.append(peer)
            peer.connect(str(site.socket))
        with site.executable.open("ab") as executable:
            executable.write(b"another one")
        until(lambda: site.ask()["pid"] != before, 20, "the restart")
        assert site.fronts() == [pid]
        still = []
        for peer in kept:
            peer.settimeout(0)
            try:
                assert peer.recv(1) == b""
            except BlockingIOError:
                still.append(peer)
        assert 6000 < len(still) < len(kept)
        still[0].settimeout(10)
        peers.begin_fastcgi(still[0], "/page")
        assert peers.end_fastcgi(still[0]).startswith("Status: 200")
    finally:
        for peer in kept:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_restart_without_an_executable_goes_on_in_the_old_one(site):
    good = site.config.read_text()
    site.config.write_text("[app\n" + good)
    errors = site.directory / "err.log"
    with socket.socket(socket.AF_UNIX) as listener, open(errors, "wb") as log:
        listener.bind(str(site.socket))
        listener.listen()
        front = subprocess.Popen(["./mysite.fcgi"], stdin=listener, stderr=log, cwd=site.directory)
    assert peers.fastcgi(site.socket).startswith("Status: 500")
    site.executable.unlink()
    # Only a new image opens a socket with another backlog.
    site.config.write_text(good.replace("[server]", "[server]\nbacklog = 512"))
    front.send_signal(signal.SIGHUP)
    until(lambda: peers.fastcgi(site.socket).startswith("Status: 200"), 20, "the mended settings are live")
    refused = "restart: the new image cannot be executed, the old one goes on: "
    until(lambda: refused in errors.read_text(), 20, "the new image is refused")
    assert peers.fastcgi(site.socket).startswith("Status: 200")
    assert front.poll() is None
    front.terminate()
    assert front.wait(10) == 0


def test_many_signals_do_not_end_it(site):
    """Also not in the moment in which it executes itself."""
    site.daemon("socket=my.sock", "pidfile=my.pid")
    pid, before = site.pid(), site.ask()["pid"]
    site.config.write_text(site.config.read_text() + "# changed\n")

    def hammered():
        for _ in range(50):
            os.kill(pid, signal.SIGUSR1)
        return site.ask()["pid"] != before

    until(hammered, 20, "the restart")
    assert site.fronts() == [pid] and site.ask()
    os.kill(pid, signal.SIGTERM)
    site.gone()


def test_a_second_kill_changes_nothing(site):
    site.daemon("socket=my.sock", "pidfile=my.pid")
    pid = site.pid()
    slow = in_background(lambda: site.ask("sleep=3"))
    until((site.directory / "started").exists, 10, "the slow request runs")
    os.kill(pid, signal.SIGTERM)
    until(lambda: not listening(site.socket), 5, "nobody listens any more")
    os.kill(pid, signal.SIGTERM)
    slow.join()
    assert slow.result["path"] == "/page", "what was in hand is finished"
    site.gone()


@pytest.mark.parametrize("more", ["", "preload=false", "method=threaded"])
def test_control_c_finishes_what_is_in_hand(site, more):
    leader, follower = pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, 0x540E, 0)  # TIOCSCTTY

    words = [f"socket={site.socket}", "pidfile=my.pid", *more.split()]
    process = site.foreground(*words, stdin=follower, preexec_fn=own_terminal)
    os.close(follower)
    until(lambda: listening(site.socket), 10, "it listens")
    assert site.pid() == process.pid, "a pidfile in the foreground, too"
    slow = in_background(lambda: site.ask("sleep=1"))
    until((site.directory / "started").exists, 10, "the slow request runs")
    os.write(leader, b"\x03")
    slow.join()
    assert isinstance(slow.result, dict), slow.result
    assert process.wait(10) == 0
    os.close(leader)
    site.gone()
    assert not site.socket.exists() and not (site.directory / "my.pid").exists()


# --- sockets ---


def test_only_a_dead_socket_is_replaced(site):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(site.socket))
        other.listen()
        done = site.run("socket=my.sock")
        assert done.returncode == 1 and "in use" in done.stderr and done.stderr.count("\n") == 1
        assert site.socket.is_socket()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        site.socket.unlink()
        other.bind(str(site.socket))
        assert site.run("socket=my.sock").returncode == 1 and site.socket.is_socket(), "another kind of socket"
    site.socket.unlink()
    site.socket.write_text("precious")
    done = site.run("socket=my.sock")
    assert done.returncode == 1 and "something else than a socket" in done.stderr
    assert site.socket.read_text() == "precious"
    site.socket.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(site.socket))
    site.daemon("socket=my.sock", "socket_mode=0660", "pidfile=my.pid")
    assert stat.S_IMODE(site.socket.stat().st_mode) == 0o660
    assert site.ask()
    done = site.run("socket=" + "x" * 120)
    assert done.returncode == 1 and "too long" in done.stderr
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_of_two_that_start_at_once_one_serves(site):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(site.socket))
    for turn in range(4):
        calls = [in_background(lambda: site.run("socket=my.sock")) for _ in range(3)]
        for call in calls:
            call.join()
        assert sorted(call.result.returncode for call in calls) == [0, 1, 1]
        assert site.ask()
        (front,) = site.fronts()
        os.kill(front, signal.SIGKILL if turn % 2 else signal.SIGTERM)
        until(lambda: not site.fronts(), 10, "it has gone")


def test_when_one_place_is_taken_nothing_is_left_of_the_others(site):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = site.run("socket=my.sock", "host=127.0.0.1", f"port={other.getsockname()[1]}")
    assert done.returncode == 1 and not site.socket.exists() and site.alive() == {}


def test_several_places_and_protocols(site):
    tcp, six = free_port(), free_port(socket.AF_INET6)
    words = ["socket=my.sock", "protocol=scgi", "socket=scgi.sock", "host=::1", f"port={six}"]
    site.daemon("protocol=fcgi", *words, "protocol=ajp", "host=localhost", f"port={tcp}", "pidfile=my.pid")
    assert site.ask()
    assert peers.scgi(site.directory / "scgi.sock").startswith("Status: 200")
    assert peers.scgi(("::1", six)).startswith("Status: 200")
    assert peers.ajp_ping(("127.0.0.1", tcp)) == b"AB\0\1\x09"
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()
    assert not site.socket.exists() and not (site.directory / "scgi.sock").exists()


def test_beyond_the_machine_is_said_once(site):
    port = free_port()
    done = site.run("host=0.0.0.0", f"port={port}", "pidfile=my.pid", "errlog=err.log")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "beyond this machine" in done.stderr
    before = site.ask("", ("127.0.0.1", port))["pid"]
    site.config.write_text(site.config.read_text() + "# changed\n")
    until(lambda: site.ask("", ("127.0.0.1", port))["pid"] != before, 20, "the restart")
    assert "beyond" not in (site.directory / "err.log").read_text()
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


@pytest.mark.parametrize("list, welcome", [("127.0.0.1", True), ("10.9.8.7, 127.0.0.1", True), ("10.9.8.7", False)])
def test_fcgi_web_server_addrs(site, list, welcome):
    port = free_port()
    words = ["host=127.0.0.1", f"port={port}", "socket=my.sock", "pidfile=my.pid"]
    site.daemon(*words, env={**os.environ, "FCGI_WEB_SERVER_ADDRS": list})
    assert site.ask(), "a unix socket is not concerned"
    with peers.connect(("127.0.0.1", port)) as peer:
        try:
            peers.begin_fastcgi(peer)
            answer = peers.read(peer)
        except ConnectionError:
            answer = b""
    assert (b"Status: 200" in answer) == welcome and bool(answer) == welcome
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()


def test_a_bad_address_of_a_web_server_is_refused(site):
    done = site.run("socket=my.sock", env={**os.environ, "FCGI_WEB_SERVER_ADDRS": "127.0.0.1,example.com"})
    assert done.returncode == 2 and "example.com" in done.stderr and done.stderr.count("\n") == 1


# --- FCGI_FORCE_CGI ---


def test_force_cgi_answers_one_request_and_leaves_the_socket(site):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(site.socket))
        server.listen()
        env = {**os.environ, **peers.environment("/forced"), "FCGI_FORCE_CGI": "Y"}
        done = subprocess.run([site.executable], stdin=server, env=env, capture_output=True, text=True, timeout=40)
        assert done.returncode == 0 and done.stdout.startswith("Status: 200 OK\n") and "'/forced'" in done.stdout
        env = {**os.environ, "FCGI_FORCE_CGI": "Y"}
        done = subprocess.run([site.executable], stdin=server, env=env, capture_output=True, text=True, timeout=40)
        assert done.returncode == 2 and "REQUEST_METHOD" in done.stderr and done.stderr.count("\n") == 1
    done = site.run(env=env)
    assert done.returncode == 2 and "CGI request" in done.stderr
    site.daemon("socket=other.sock", "pidfile=my.pid", env=env)
    assert site.ask("", site.directory / "other.sock"), "a socket that is named counts"
    os.kill(site.pid(), signal.SIGTERM)


# --- systemd ---


class Manager:
    """What systemd does: opens sockets, passes them from descriptor 3 up, and is notified."""

    def __init__(self, site, sockets, names):
        self.site = site
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.settimeout(15)
        self.notified.bind(f"\0runfcgi-test-{os.getpid()}-{id(self)}")
        name = "@" + self.notified.getsockname()[1:].decode()
        env = {**os.environ, "NOTIFY_SOCKET": name, "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(names)}
        moves = " ".join(f"{3 + at}<&{s.fileno()}" for at, s in enumerate(sockets))
        command = ["/bin/bash", "-c", f'export LISTEN_PID=$$; exec ./mysite.fcgi runfcgi "$@" {moves}', "bash"]
        self.command, self.env, self.fds = command, env, [s.fileno() for s in sockets]

    def start(self, *words):
        options = {"cwd": self.site.directory, "env": self.env, "pass_fds": self.fds, "stdin": subprocess.DEVNULL}
        self.process = subprocess.Popen([*self.command, *words], **options)

    def hears(self):
        """What it is told, but for the words on how the service does."""
        while True:
            told = [line for line in self.notified.recv(1000).decode().split("\n") if not line.startswith("STATUS=")]
            if told:
                return "\n".join(told)


def test_sockets_and_notifications_of_systemd(site):
    one, two = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    two.bind(str(site.socket))
    two.listen()
    # Above those numbers to which the shell moves them.
    one, two = (socket.socket(fileno=fcntl.fcntl(s.detach(), fcntl.F_DUPFD, 50)) for s in (one, two))
    manager = Manager(site, [one, two], ["mysite.socket", "scgi"])
    manager.start("daemonize=false")
    assert manager.hears() == "READY=1"
    address = one.getsockname()
    before = site.ask("", address)
    assert before["leaked"] == []
    assert peers.scgi(site.socket).startswith("Status: 200")
    site.config.write_text(site.config.read_text() + "# changed\n")
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.hears())
    assert manager.hears() == "READY=1"
    assert site.ask("", address)["pid"] != before["pid"]
    assert peers.scgi(site.socket).startswith("Status: 200"), "the protocol is remembered"
    manager.process.terminate()
    assert manager.hears() == "STOPPING=1"
    assert manager.process.wait(10) == 0
    assert listening(site.socket) and listening(address), "systemd's sockets stay as they are"
    one.close()
    two.close()


def test_what_systemd_cannot_mean(site):
    stream = socket.create_server(("127.0.0.1", 0))
    stream = socket.socket(fileno=fcntl.fcntl(stream.detach(), fcntl.F_DUPFD, 50))
    manager = Manager(site, [stream], ["x"])
    manager.start("daemonize=true")
    assert manager.process.wait(10) == 2
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram = socket.socket(fileno=fcntl.fcntl(datagram.detach(), fcntl.F_DUPFD, 50))
    manager = Manager(site, [datagram], ["x"])
    manager.start()
    assert manager.process.wait(10) == 2
    assert site.run(env={**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1"}).returncode == 2, "meant for another"
    stream.close()
    datagram.close()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd is not installed")
def test_systemd_s_own_activation(site):
    command = ["systemd-socket-activate", "-l", str(site.socket), "--fdname=scgi", "./mysite.fcgi", "runfcgi"]
    process = subprocess.Popen(command, cwd=site.directory, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(site.socket.is_socket, 10, "the socket is there")
    assert peers.scgi(site.socket).startswith("Status: 200")
    process.terminate()
    assert process.wait(10) == 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_units_are_well_formed(site):
    units = REPOSITORY / "deploy" / "systemd"
    for unit in units.iterdir():
        text = unit.read_text().replace("/home/user/public_html/mysite.fcgi", str(site.executable))
        (site.directory / unit.name).write_text(text.replace("=user\n", "=www-data\n"))
    command = ["systemd-analyze", "verify", "--man=no", "./mysite.service", "./mysite.socket"]
    done = subprocess.run(command, cwd=site.directory, capture_output=True, text=True)
    assert done.returncode == 0 and "mysite" not in done.stderr, done.stderr
