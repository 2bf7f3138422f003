"""The units of deploy/systemd/, under a real systemd, with nginx before them."""

import os
import re
import shutil
import signal

import pytest

from webservers import systemd as systemds
from webservers.account import APPS, USER
from webservers.load import Load
from webservers.processes import touching, until
from webservers.recipe import Site, nginx, recipe, write
from webservers.systemd import Systemd

LACKING = systemds.why_not()
pytestmark = pytest.mark.skipif(bool(LACKING), reason=LACKING or "-")
SERVICE, SOCKET = "mysite.service", "mysite.socket"


@pytest.fixture
def site(model, build):
    with Site(model, build) as site, Systemd(site.base / "systemd") as systemd:
        site.systemd = systemd
        unit = [("/home/user/public_html/mysite.fcgi", site.account.executable)]
        unit += [("User=user", f"User={USER.pw_name}"), ("Group=user", f"Group={USER.pw_name}")]
        write(systemd.units / SERVICE, recipe(f"systemd/{SERVICE}", *unit))
        write(systemd.units / SOCKET, recipe(f"systemd/{SOCKET}"))
        # The account of a test lies below /tmp, which the service has for itself.
        venv = (site.account.home / "venv").resolve().parent
        drop_in(site, f"StandardError=append:{site.log}", f"BindPaths={site.base} {venv}")
        systemd.ctl("enable", SOCKET)
        systemd.ctl("start", SOCKET)
        places = [("/home/user/public_html", site.account.public), ("listen 80;", f"listen 127.0.0.1:{site.port};")]
        places += [("example.com", "127.0.0.1"), ("/home/user/mysite.sock", systemd.sockets / "mysite.sock")]
        nginx(site, recipe("nginx/fastcgi.conf", *places))
        yield site


def drop_in(site, *lines):
    """Adds to the service."""
    directory = site.systemd.units / f"{SERVICE}.d"
    directory.mkdir(exist_ok=True)
    write(directory / f"{len(list(directory.iterdir()))}.conf", "\n".join(["[Service]", *lines, ""]))
    site.systemd.ctl("daemon-reload")


def state(site):
    return site.systemd.show(SERVICE, "ActiveState"), site.systemd.show(SERVICE, "SubState")


def status_text(site):
    return site.systemd.show(SERVICE, "StatusText")


def front(site):
    """The main process, by its number out here."""
    names = {pid: open(f"/proc/{pid}/comm").read().strip() for pid in site.systemd.processes(SERVICE)}
    return next(pid for pid, name in names.items() if name == "mysite.fcgi")


def test_the_first_request_starts_it_and_stop_leaves_nothing(site):
    path = site.systemd.sockets / "mysite.sock"
    assert state(site) == ("inactive", "dead") and not site.systemd.processes(SERVICE)
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o660, USER.pw_uid)
    assert site.client.get("/version/").status == 200
    until(lambda: state(site) == ("active", "running"), 10, "it has said that it is ready")
    assert re.fullmatch(r"imported the app in [\d.]+ s with Python 3[.\d]+", status_text(site))
    assert all(os.stat(f"/proc/{pid}").st_uid == USER.pw_uid for pid in site.systemd.processes(SERVICE))
    site.systemd.ctl("stop", SERVICE)
    assert state(site) == ("inactive", "dead")
    assert not site.systemd.processes(SERVICE)
    assert site.systemd.show(SOCKET, "ActiveState") == "active"
    assert site.client.get("/version/").status == 200, "the socket has started it again"
    site.systemd.ctl("stop", SOCKET, SERVICE)
    assert not site.systemd.processes(SERVICE)
    assert site.client.get("/version/").status == 502


def test_start_waits_until_it_is_ready_or_has_failed(site):
    site.systemd.ctl("start", SERVICE)
    assert state(site) == ("active", "running")
    site.systemd.ctl("stop", SOCKET, SERVICE)
    good = site.account.config.read_text()
    site.account.put(site.account.config, "[app]\nwrong = 1\n")
    site.systemd.ctl("start", SERVICE, check=False)
    assert site.systemd.show(SERVICE, "ActiveState") in ("activating", "failed")
    assert site.systemd.show(SERVICE, "ExecMainStatus") == "2"
    site.account.put(site.account.config, good)
    until(lambda: state(site) == ("active", "running"), 10, "it is tried again")
    assert site.client.get("/version/").status == 200


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_new_code_without_a_lost_request(site, verb):
    with Load(site.port, "/version/", visitors=4) as load:
        until(lambda: len(load.answers) > 30, 30, "the site is warm")
        before = front(site)
        for version in (3, 4):
            site.account.code(version)
            site.systemd.ctl(verb, SERVICE)
            until(lambda: load.answers[-1].body == str(version), 20, f"version {version} is live")
            assert state(site) == ("active", "running")
    assert not load.failures, (len(load.failures), load.failures[:3])
    assert (front(site) == before) == (verb == "reload")
    assert site.systemd.show(SERVICE, "NRestarts") == "0"


def test_a_new_configuration_stays_the_same_service(site):
    """It executes itself: systemd sees a reload of the same main process."""
    with Load(site.port, "/version/", visitors=4) as load:
        until(lambda: len(load.answers) > 30, 30, "the site is warm")
        before = front(site)
        main = site.systemd.show(SERVICE, "MainPID")
        site.account.code(5)
        site.account.put(site.account.config, site.account.config.read_text() + "# changed\n")
        until(lambda: load.answers[-1].body == "5", 20, "version 5 is live")
        until(lambda: state(site) == ("active", "running"), 10, "the reload is over")
    assert not load.failures, (len(load.failures), load.failures[:3])
    assert front(site) == before and site.systemd.show(SERVICE, "MainPID") == main
    assert status_text(site).startswith("imported the app in ")


def test_status_tells_why_the_app_does_not_start(site):
    good, broken = (place / "myproject" / "urls.py" for place in (APPS / "djangosite", site.account.project))
    site.account.put(broken, "import absent_module\n")
    assert site.client.get("/version/").status in (500, 503)
    until(lambda: "absent_module" in status_text(site), 10, "systemctl status tells it")
    assert state(site) == ("active", "running"), "no crash loop"
    shutil.copy(good, broken)
    os.utime(site.account.executable)
    until(lambda: site.client.get("/version/").status == 200, 20, "mended")
    assert status_text(site).startswith("imported the app in ")


def test_it_is_started_again_when_it_was_killed(site):
    assert site.client.get("/version/").status == 200
    old = set(site.systemd.processes(SERVICE))
    os.kill(front(site), signal.SIGKILL)
    # Requests wait in systemd's socket meanwhile.
    assert site.client.get("/version/").status == 200
    until(lambda: state(site) == ("active", "running"), 10, "it runs again")
    assert site.systemd.show(SERVICE, "NRestarts") == "1"
    until(lambda: not old & set(touching(site.base)), 10, "nothing is left of what was killed")


def test_status_of_a_shell_sees_the_service(site):
    """Its /tmp is its own; where the processes meet is found all the same, without being named."""
    settings = site.account.config.read_text()
    site.account.put(site.account.config, settings.replace(f'runtime_dir = "{site.account.runtime}"\n', ""))
    assert site.client.get("/version/").status == 200
    assert os.stat(f"/proc/{front(site)}/root/tmp").st_ino != os.stat("/tmp").st_ino
    told = site.systemd.run(site.account.executable, "status", user=USER.pw_uid, group=USER.pw_gid)
    assert re.search(rf"\b{site.systemd.show(SERVICE, 'MainPID')}\b", told), told
    assert not site.account.runtime.exists()
