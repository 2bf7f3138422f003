"""`runfcgi` as a daemon: how a start that fails is told, pidfile, logs, restart and signals; and in the foreground."""

import fcntl
import os
import pty
import re
import resource
import signal
import socket
import stat
import subprocess

import pytest

import peers
from own_server import APP, Site, in_background, listening
from webservers.processes import until


@pytest.fixture
def site(build, tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        yield site


def test_a_start_that_fails_is_told_to_the_shell(site):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = site.run("host=127.0.0.1", f"port={port}", "pidfile=my.pid")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"RF0240: 127.0.0.1:{port} is in use" in done.stderr
    assert not (site.directory / "my.pid").exists() and site.alive() == {}
    for words, text in [
        ("errlog=missing/e.log", "RF0243: errlog="),
        ("outlog=missing/o.log", "RF0243: outlog="),
        ("workdir=missing", "RF0243: workdir="),
        ("pidfile=missing/p", "RF0242: pidfile="),
        ("pidfile=app.py", "something else"),
    ]:
        done = site.run(f"socket={site.socket}", *words.split())
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and text in done.stderr, done.stderr
    assert site.alive() == {} and "application" in (site.directory / "app.py").read_text()


def test_a_python_that_is_not_there_is_told_to_the_shell(site):
    site.config.write_text('[app]\nwsgi = "app:application"\npython = "/nowhere/python3"\n')
    done = site.run("socket=my.sock")
    assert done.returncode == 1 and "RF0200 [app] python: /nowhere/python3" in done.stderr and done.stderr.count("\n") == 1
    site.gone()
    until(lambda: not site.socket.exists(), 10, "its socket is gone, too")


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
    assert modes == [0o600, 0o640, 0o750]
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


def test_a_secret_that_everybody_sees_is_told_of(site):
    """On the command line; in the settings file nobody sees it."""
    words = ["protocol=ajp", "socket=ajp.sock", "protocol=fcgi", "socket=my.sock", "pidfile=my.pid", "errlog=err.log"]
    told = "RF0132 all users of this machine can see the command line"

    def shown():
        return [pid for pid in site.alive() if b"long-random" in open(f"/proc/{pid}/cmdline", "rb").read()]

    done = site.run(*words, "secret=long-random")
    assert done.returncode == 0 and done.stderr.startswith("runfcgi: RF0132 option secret: all users of this machine"), done
    before = site.ask()["pid"]
    assert shown()
    site.config.write_text(site.config.read_text() + 'secret = "long-random"\n')
    until(lambda: site.ask()["pid"] != before, 20, "the restart")
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()
    log = site.directory / "err.log"
    assert log.read_text().count(told) == 1
    site.daemon(*words)
    assert site.ask() and not shown()
    os.kill(site.pid(), signal.SIGTERM)
    site.gone()
    assert log.read_text().count(told) == 1


def test_logs_of_a_daemon_are_rotated(site):
    """As [log] max_size says, with their modes; also when somebody else moves them."""
    site.config.write_text(site.config.read_text() + '[log]\nmax_size = "4K"\n')
    site.daemon("socket=my.sock", "pidfile=my.pid", "outlog=out.log", "errlog=err.log", "umask=027")
    for name in ("out.log", "err.log"):
        until(lambda: site.ask("talk") and (site.directory / f"{name}.1").exists(), 20, f"{name} is rotated")
        for path in (site.directory / name, site.directory / f"{name}.1"):
            assert path.stat().st_size <= 4096 and stat.S_IMODE(path.stat().st_mode) == 0o600, path
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
        assert 5000 < len(still) < len(kept)
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
    refused = "RF0505 restart: the new image cannot be executed, the old one goes on: "
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


def test_an_import_that_fails_for_a_moment_costs_no_worker_for_ever(site):
    """As when the database is down just then."""
    app = APP.replace("time.sleep(float(query[6:]))", "[time.sleep(0.02) for _ in iter(lambda: os.path.exists(GO), True)]")
    here = 'import os\nGO, DOWN = [os.path.join(os.path.dirname(__file__), name) for name in ("go", "down")]\n'
    (site.directory / "app.py").write_text(here + 'assert not os.path.exists(DOWN), "the database is down"\n' + app)
    site.config.write_text('[app]\nwsgi = "app:application"\n[server]\nruntime_dir = "run"\npreload = false\n')
    site.daemon("socket=my.sock", "errlog=e.log")
    first = site.ask()["pid"]
    busy = in_background(lambda: site.ask("sleep=until"))
    until((site.directory / "started").exists, 20, "the worker is busy")
    (site.directory / "down").touch()
    waits = in_background(site.ask)
    until(lambda: "the database is down" in (site.directory / "e.log").read_text(), 20, "another one cannot start")
    (site.directory / "down").unlink()
    assert site.ask()["pid"] != first
    waits.join(20)
    assert waits.result["pid"] != first
    (site.directory / "go").touch()
    busy.join(20)
    assert busy.result["pid"] == first
