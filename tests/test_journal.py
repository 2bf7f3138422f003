"""The journal: what fails is kept for the owner's page, in one file for all processes of the site."""

import re
import stat
import time

import pytest

from webservers.fastcgi import request
from webservers.processes import until

HEADS = ["form", "time", "count", "incident", "code", "kind", "request", "summary", "place", "hint", "traceback"]


def journal(site):
    """The failures that are kept, as dicts, the oldest first."""
    path = site.account.runtime / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [dict(zip(HEADS, line.split("\t"))) for line in lines if line]


def incident(reply):
    return re.search(r"incident ([0-9a-f]{8})", reply.text)[1]


def test_the_failures_of_all_processes_are_kept_together(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    numbers = [incident(request(manager.spawn().socket, "/nowhere?token=secret")) for _ in range(2)]
    kept = journal(site)
    assert [entry["incident"] for entry in kept] == numbers
    assert {entry["request"] for entry in kept} == {"GET /mysite.fcgi/nowhere"}
    assert {entry["code"] for entry in kept} == {"RF0315"}
    assert all("KeyError: 'nowhere'" in entry["traceback"] for entry in kept)
    assert stat.S_IMODE((site.account.runtime / "journal").stat().st_mode) == 0o600


def test_what_helps_is_kept_apart_from_what_happened(make_plain, manage):
    site = make_plain()
    app = site.account.project / "faults.py"
    site.account.put(app, "import os\n\n\ndef app(*_):\n    os._exit(3)\n")
    front = manage(site).spawn()
    assert request(front.socket, "/").status == 500
    site.account.put(app, IMPORT)
    site.account.touch()
    until(lambda: len(journal(site)) == 2, 15, "the new code is refused")
    ended, refused = journal(site)
    assert "exited with status 3" in ended["summary"] and "os._exit" in ended["hint"] and "os._exit" not in ended["summary"]
    assert refused["summary"].endswith("(faults.py:1)") and "install" in refused["hint"], refused


DESK = {"path": "/-/desk", "secret": "a-long-random-secret"}
IMPORT = "import nowhere_to_be_found\n"


def break_code(site):
    site.account.put(site.account.project / "myproject" / "version.py", IMPORT)
    site.account.touch()


def break_settings(site):
    site.account.put(site.account.config, site.account.config.read_text() + "[appp]\n")


def break_executable(site):
    site.account.put(site.account.executable, "<html>404</html>\n")
    site.account.executable.chmod(0o755)


def overview(front):
    """The owner's page of one process."""
    said = request(front.socket, DESK["path"], method="POST", body=f"secret={DESK['secret']}".encode())
    cookie = re.search(r"Set-Cookie: ([^;]*)", said.head)[1]
    page = request(front.socket, DESK["path"], more={"HTTP_COOKIE": cookie}).text
    return " ".join(re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", page).split())


REFUSED = {
    "code": (break_code, "RF0503", "nowhere_to_be_found", "The newest code was refused; the old one serves"),
    "settings": (break_settings, "RF0501", "did you mean [app]?", "The settings were refused"),
    "executable": (break_executable, "RF0504", "keeping the old one", ""),
}


def desk(make_plain, **settings):
    owner = "[owner]\n" + "".join(f'{name} = "{value}"\n' for name, value in DESK.items())
    return make_plain(env=owner, **settings)


def refusals(site):
    """What is kept and logged of them."""
    kept = [entry["code"] for entry in journal(site) if entry["kind"] == "refused release"]
    assert re.findall(r"error: (RF\d+)", site.log()) == kept
    return kept


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("form", ["preload = true", "preload = false"], ids=["preloaded", "plain"])
def test_what_is_refused_is_told_once_for_all_processes(make_plain, manage, what, form):
    spoil, code, why, shown = REFUSED[what]
    site = desk(make_plain, server=form)
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(3)]
    assert [request(front.socket, "/version").status for front in fronts] == [200] * 3
    spoil(site)
    until(lambda: why in str(journal(site)), 15, "it is in the journal")
    for front in fronts:
        until(lambda: not shown or shown in (page := overview(front)) and why in page, 15, "each process shows it")
    time.sleep(2.5)  # each process looks once a second
    assert refusals(site) == [code]


@pytest.mark.parametrize("what", ["code", "settings"])
def test_a_process_that_starts_later_shows_it_and_does_not_tell_it_again(make_plain, manage, what):
    spoil, code, why, shown = REFUSED[what]
    site = desk(make_plain)
    manager = manage(site)
    assert request(manager.spawn().socket, "/version").status == 200
    spoil(site)
    until(lambda: why in str(journal(site)), 15, "it is in the journal")
    late = manager.spawn()
    assert request(late.socket, "/version").status == 200
    until(lambda: shown in (page := overview(late)) and why in page, 15, "it shows it")
    assert refusals(site) == [code]


def test_each_release_that_is_refused_is_told(make_plain, manage):
    site = desk(make_plain)
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    for count in (1, 2):
        assert [request(front.socket, "/version").status for front in fronts] == [200] * 2
        break_code(site)
        until(lambda: site.status()["counters"]["boot_failures"] == 2 * count, 15, "both know")
        assert refusals(site) == ["RF0503"] * count
    assert site.log().count("Traceback (most recent call last)") == 2
