"""What fails stands once in each log, whatever the web server: cause and cure in its first line, and one traceback."""

import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from golive import AS_USER
from webservers.account import Account, copy_distribution, give
from webservers.apache import Apache
from webservers.processes import until
from webservers.recipe import Site, lighttpd, nginx, recipe

CONFIG = """\
[app]
path = "{{project}}"
wsgi = "shop:app"
[server]
runtime_dir = "{{runtime}}"
[log]
file = "{file}"
[env]
DJANGO_SETTINGS_MODULE = "myproject.settings"
"""

SHOP = """\
import logging
import time
import traceback

import bottle
import falcon
import flask
from django.core.wsgi import get_wsgi_application
from django.urls import path

ASKED = ["nothing"]


def fail(*_arguments):
    return {}[ASKED[-1]]


class Resource:
    on_get = fail


def caught(tell):
    def app(environ, start_response):
        try:
            fail()
        except KeyError:
            tell(environ)
        start_response("500 Oh no", [("Content-Type", "text/plain")])
        return [b"sorry"]

    return app


def raised(environ, start_response):
    try:
        fail()
    except KeyError:
        logging.exception("it fails")
        raise


def slow(_environ, start_response):
    time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here"]


bottles = bottle.Bottle()
bottles.route("/bottle/")(fail)
falcons = falcon.App()
falcons.add_route("/falcon/", Resource())
flasks = flask.Flask(__name__)
flasks.route("/flask/")(fail)
urlpatterns = [path("django/", fail), path("logged/", fail)]
django = get_wsgi_application()
APPS = {
    "bottle": bottles,
    "falcon": falcons,
    "flask": flasks,
    "raised": raised,
    "slow": slow,
    "traced": caught(lambda _environ: traceback.print_exc()),
    "printed": caught(lambda _environ: print(traceback.format_exc())),
    "unfinished": caught(lambda environ: environ["wsgi.errors"].write(traceback.format_exc().rstrip())),
}


def app(environ, start_response):
    ASKED.append(environ["PATH_INFO"].split("/")[1])
    return APPS.get(ASKED[-1], django)(environ, start_response)
"""
# Django tells what it catches, as many owners set it up; but for one address.
SETTINGS = """
ROOT_URLCONF = "shop"
LOGGING = {
    "version": 1,
    "filters": {"told": {"()": "django.utils.log.CallbackFilter", "callback": lambda record: "/django/" not in str(record.args)}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["told"]}},
    "loggers": {"django": {"handlers": ["console"], "level": "ERROR"}},
}
"""
# The application itself tells of all but the first.
NAMES = ["django", "logged", "flask", "bottle", "falcon", "raised", "traced", "unfinished", "printed"]
TRACEBACK = "Traceback (most recent call last):"
SHOWN = "its traceback stands above: the app has logged it"


class Served:
    """A site behind a web server. `logs`: where what it says goes, by name."""

    def __init__(self, name, account, client, logs):
        self.name, self.account, self.client, self.paths = name, account, client, logs

    def logs(self, marks=None):
        """What they say since these marks."""
        texts = {name: path.read_bytes() if path.exists() else b"" for name, path in self.paths.items()}
        return {name: text[(marks or {}).get(name, 0) :].decode(errors="replace") for name, text in texts.items()}

    def marks(self):
        return {name: path.stat().st_size if path.exists() else 0 for name, path in self.paths.items()}

    def status(self):
        command = [self.account.executable, "status", "--json"]
        return json.loads(subprocess.run(command, cwd="/", stdout=subprocess.PIPE, timeout=20, **AS_USER).stdout)


def prepare(account, code=SHOP):
    file = account.base / "site.log"
    account.configure(CONFIG.format(file=file))
    for name in ("bottle", "falcon"):
        copy_distribution(name, account.project)
    account.put(account.project / "shop.py", code)
    settings = account.project / "myproject" / "settings.py"
    account.put(settings, settings.read_text() + SETTINGS)
    give(account.home)
    give(account.base)
    return file


@contextmanager
def mod_fcgid(model, build, code):
    account = Account(model, build)
    try:
        file = prepare(account, code)
        with Apache(account) as apache:
            yield Served("mod_fcgid", account, apache.client, {"web server": apache.errors, "file": file})
    finally:
        account.remove()


@contextmanager
def behind(start, model, build, code):
    with Site(model, build) as site:
        file = prepare(site.account, code)
        yield Served(start, site.account, site.client, {"file": file, **STARTS[start](site)})


def with_nginx(site):
    site.runfcgi(f"socket={site.sock}")
    error_log = site.server / "nginx-error.log"
    replacements = [
        ("/home/user/public_html", site.account.public),
        ("listen 80;", f"listen 127.0.0.1:{site.port};"),
        ("example.com", "127.0.0.1"),
        ("/home/user/mysite.sock", site.sock),
    ]
    nginx(site, f"error_log {error_log};\n" + recipe("nginx/fastcgi.conf", *replacements))
    return {"web server": error_log, "standard error": site.log}


def with_lighttpd(name):
    def start(site):
        logs = {"web server": site.server / "lighttpd.log"}
        if name == "external":
            site.runfcgi(f"socket={site.sock}")
            logs["standard error"] = site.log
        places = [("/home/user/public_html", site.account.public), ("/home/user/mysite.sock", site.sock)]
        lighttpd(site, recipe(f"lighttpd/{name}.conf", *places))
        return logs

    return start


STARTS = {
    "nginx": with_nginx,
    "lighttpd": with_lighttpd("external"),
    "lighttpd-bin-path": with_lighttpd("bin-path"),
}
SERVERS = {"mod_fcgid": mod_fcgid, **{name: partial(behind, name) for name in STARTS}}


@pytest.fixture(scope="module", params=SERVERS)
def site(request, model, build):
    with SERVERS[request.param](model, build, SHOP) as site:
        yield site


# What the logs put around a line of an event, or of what the app writes.
AROUND = [
    r"^\[.*mod_fcgid: stderr: ",
    r'^.* FastCGI sent in stderr: "',
    r'" while reading .*$',
    r"^.*FastCGI-stderr:",
    r"^\S+Z \[\d+\] (error: |app: GET \S+: )",
]


def lines_of(log):
    """What was said, without the log's own words."""
    return [re.sub("|".join(AROUND), "", line).strip() for line in log.splitlines()]


def must_stand_once(log, number, cause, exception):
    """An event: one first line with its number and the cause, and one traceback, which ends with the exception. Returns
    whether the traceback is above."""
    lines = lines_of(log)
    first = [line for line in lines if number in line]
    assert len(first) == 1 and cause in first[0], log
    assert [line.endswith(TRACEBACK) for line in lines].count(True) == 1, log
    assert lines.count(exception) == 1, log
    assert "<runfcgi>" not in log
    return lines.index(exception) < lines.index(first[0])


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_stands_once(site, name):
    before = site.marks()
    response = site.client.get(f"/{name}/")
    assert response.status == 500
    number, exception = response.headers["X-Incident"], f"KeyError: '{name}'"

    def told():
        logs = site.logs(before).values()
        last = exception if name == "django" else SHOWN
        return all(number in log and last in lines_of(log) for log in logs) and logs

    for log in until(told, 10, "each log has it"):
        is_above = must_stand_once(log, number, f"GET /{name}/: {exception}, at shop.py:", exception)
        assert is_above == (name != "django") == (SHOWN in log), log
    kept = [line for line in (site.account.runtime / "journal").read_text().splitlines() if number in line]
    assert len(kept) == 1 and TRACEBACK in kept[0] and f"\\n{exception}" in kept[0], "the owner's page has it whole"


BROKEN = "import nowhere_to_be_found\n" + SHOP
CAUSE = "no module named 'nowhere_to_be_found' (shop.py:1): if it is your own, it must be in "
EXCEPTION = "ModuleNotFoundError: No module named 'nowhere_to_be_found'"


@pytest.mark.parametrize("server", SERVERS)
def test_a_broken_import_stands_once(server, model, build):
    """Whether it is told when the server starts, or when somebody asks."""
    with SERVERS[server](model, build, BROKEN) as site:
        if server != "mod_fcgid":
            until(lambda: "RF0201 the app cannot be imported: " + CAUSE in site.logs()["file"], 20, "it is told at the start")
        numbers = [site.client.get("/").headers["X-Incident"] for _ in range(2)]
        told = lambda: all(number in log for number in numbers for log in site.logs().values())
        until(told, 10, "each log has both requests")
        for log in site.logs().values():
            for number in numbers:
                must_stand_once(log, number, "GET /: the app cannot be imported: " + CAUSE, EXCEPTION)


def test_a_refused_release_stands_once(site):
    asked = ["/slow/"] * (2 if site.name == "mod_fcgid" else 1)

    def fronts():
        with ThreadPoolExecutor(len(asked)) as pool:
            assert [answer.text for answer in pool.map(site.client.get, asked)] == ["here"] * len(asked)
        count = len(site.status()["fronts"])
        return count >= len(asked) and count

    count = until(fronts, 60, "mod_fcgid starts more than one")
    before = site.marks()
    site.account.put(site.account.project / "shop.py", BROKEN)
    site.account.touch()
    until(lambda: site.status()["counters"]["boot_failures"] == count, 20, "each of them knows")
    assert site.client.get("/slow/").text == "here", "the old code serves"
    time.sleep(1.5)  # what another process has to say
    for name, log in site.logs(before).items():
        if name == "web server" and site.name != "mod_fcgid":
            assert "nowhere_to_be_found" not in log, "it belongs to no request"
        else:
            must_stand_once(log, "RF0503", "the old code goes on serving: " + CAUSE, EXCEPTION)
            assert "RF0201" not in log
