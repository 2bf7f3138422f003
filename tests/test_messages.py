"""What is wrong with settings, words and the place is said with its code."""

import os
import resource
import shutil
import subprocess

import pytest

from own_server import Site
from plain_site import RUN_AS, ask
from webservers.fastcgi import request
from webservers.processes import until

APP = '[app]\nwsgi = "app:application"\n'
SETTINGS = {
    "not private": (APP, "RF0101", "others may write the settings file"),
    "not TOML": ("[app\n", "RF0102", "mysite.toml:1:5"),
    "a bad value": (APP + "[limits]\nqueue = -1\n", "RF0104", "queue = -1"),
    "no app": ("[server]\nport = 1\n", "RF0110", "neither settings nor wsgi"),
    "no directory": (APP + 'path = "/nowhere"\n', "RF0111", "/nowhere does not exist"),
    "a bad variable": (APP + '[env]\n1X = "a"\n', "RF0112", "no name of an environment variable"),
    "AJP for everybody": (APP + '[server]\nprotocol = "ajp"\nhost = "0.0.0.0"\nport = 8009\n', "RF0115", "without a secret"),
}
WARNINGS = {
    "settings twice": (APP + 'settings = "a.b"\n[env]\nDJANGO_SETTINGS_MODULE = "c.d"\n', "RF0113"),
    "half a status page": (APP + '[status]\npath = "/-/status"\n', "RF0120"),
    "half a desk": (APP + '[owner]\npath = "/-/desk"\n', "RF0121"),
    "a secret for all to read": (APP + '[server]\nsecret = "long-random-text"\n', "RF0160"),
    "no Python": (APP + 'python = "/nowhere/python3"\n', "RF0200"),
    "an import without end": (APP + "[limits]\nstart_timeout = 1\n", "RF0202"),
}


@pytest.fixture
def site(build, tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        yield site


def check(site):
    """What `check` says."""
    done = subprocess.run(["./mysite.fcgi", "check"], cwd=site.directory, capture_output=True, text=True, timeout=40)
    assert done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_stop_the_site(site, case):
    text, code, words = SETTINGS[case]
    site.config.write_text(text)
    site.config.chmod(0o666 if case == "not private" else 0o644)
    done = site.run()
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"runfcgi: {code} ")]
    assert done.returncode == 2 and any(words in line for line in lines), done.stderr


@pytest.mark.parametrize("case", WARNINGS)
def test_what_check_warns_of(site, case):
    text, code = WARNINGS[case]
    if code == "RF0202":
        (site.directory / "app.py").write_text("import time\ntime.sleep(30)\n")
    site.config.write_text(text)
    site.config.chmod(0o644)
    assert f" {code} " in check(site), check(site)


@pytest.mark.parametrize("limit, code", [(resource.RLIMIT_NPROC, "RF0230"), (resource.RLIMIT_AS, "RF0231")])
def test_limits_of_the_account(make_plain, limit, code):
    most = 3 if code == "RF0230" else 250 << 20
    # Where other tests of this user leave no room for a process, the rehearsal need not wait long for one.
    command = [make_plain(limits="queue_timeout = 2").account.executable, "check"]
    as_owner = {"user": RUN_AS["uid"], "group": RUN_AS["gid"], "extra_groups": []} if RUN_AS else {}
    options = {"preexec_fn": lambda: resource.setrlimit(limit, (most, most)), **as_owner}
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=40, **options)
    assert f"warning {code} " in done.stdout, done.stdout


def test_htaccess_that_cannot_be_read(site):
    (site.directory / ".htaccess").mkdir()
    assert " RF0221 " in check(site)


def test_no_settings_and_wrong_words(site):
    done = subprocess.run(["./mysite.fcgi", "chekc"], cwd=site.directory, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("runfcgi: RF0150 chekc: unknown command; did you mean check?")
    done = subprocess.run(["runfcgi-launch"], executable=site.executable, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("runfcgi: RF0151 "), done.stderr
    site.config.unlink()
    assert "error   RF0100 settings: there is no mysite.toml" in check(site)


def test_an_interpreter_that_only_home_leads_to(site):
    home = site.directory
    python = home / "virtualenv" / "app" / "3" / "bin" / "python3"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", python.parent.parent], check=True)
    (home / "app").mkdir()
    (home / "app.py").rename(home / "app" / "app.py")
    site.config.write_text(APP + f'path = "{home}/app"\n')
    as_home = {"env": {**os.environ, "HOME": str(home)}}
    done = subprocess.run(["./mysite.fcgi", "check"], cwd=home, capture_output=True, text=True, timeout=40, **as_home)
    assert f"ok      python: {python} " in done.stdout, done.stdout
    assert "warning RF0206 python: it was found by way of HOME" in done.stdout, done.stdout
    site.config.write_text(APP + f'path = "{home}/app"\npython = "{python}"\n')
    assert "RF0206" not in check(site)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make another user's file")
def test_an_interpreter_that_others_can_write(site):
    venv = site.directory / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv.parent / "pyvenv.cfg").write_text("home = /usr/bin\n")
    shutil.copy(shutil.which("python3", path="/usr/bin"), venv / "python3")
    (venv / "python3").chmod(0o777)
    site.daemon("socket=my.sock", "errlog=err.log")
    site.ask()
    log = site.directory / "err.log"
    until(lambda: "RF0208 an interpreter is passed over" in log.read_text(), 10, "the log tells")


def test_a_large_response_head(make_plain, manage):
    site = make_plain()
    app = site.account.project / "faults.py"
    site.account.put(
        app,
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '2'), ('X-Long', 'x' * 9000)])\n"
        "    return [b'ok']\n",
    )
    assert request(manage(site).spawn().socket, "/").status == 200
    assert "warning: RF0334 GET " in site.log()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take the directory from the site's user")
def test_a_log_that_cannot_be_rotated(make_plain, manage):
    site = make_plain(logging="max_size = 4096")
    manager = manage(site)
    front = manager.spawn()
    ask(front, "/version")
    os.chown(site.account.home, 0, 0)
    site.account.home.chmod(0o755)
    for _ in range(4):
        assert request(front.socket, "/" + "x" * 900).status == 500
    until(lambda: "RF0602" in manager.log(), 5, "standard error tells it")
    assert f"log file {site.logged}: " in manager.log() and manager.log().count("RF0602") == 1
    assert site.logged.stat().st_size > 4096 and site.log().count("RF0315 ") == 4, "the events are in the file all the same"
