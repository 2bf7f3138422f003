"""What the app catches itself, under a real Apache with mod_fcgid: the visitor gets a number, and the owner one event with
this number, the reason, the place in the code and the traceback."""

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from webservers.account import APPS, copy_distribution, give
from webservers.apache import Apache
from webservers.processes import until

CONFIG = """\
[app]
path = "../myproject"
{app}
[server]
runtime_dir = "{{runtime}}"
{server}
[log]
access = "../access.log"
"""
DJANGO = 'settings = "myproject.settings"'
FAILING = '\nROOT_URLCONF = "myproject.failing"\n'
PLACE = "myproject/failing.py:{} in {}"


def line_of(text, file="djangosite/myproject/failing.py"):
    lines = (APPS / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@dataclass
class Case:
    """A failure: how the site comes to it, and what is told of it."""

    path: str
    summary: str
    place: str = ""
    hint: str = ""
    settings: str = ""
    status: int = 500
    traceback: bool = True
    host: str = "localhost"
    everywhere: bool = False


CASES = {
    "a view raises": Case(
        "/raises/", "KeyError: 'apple'", PLACE.format(line_of('prices["apple"]'), "raises")
    ),
    "a table is missing": Case(
        "/counts_users/", "OperationalError: no such table: auth_user",
        PLACE.format(line_of("User.objects.count"), "counts_users"), "manage.py migrate",
        settings='DATABASES["default"]["NAME"] = HOME / "db" / "empty.sqlite3"\n',
    ),
    "the database is read-only": Case(
        "/adds_a_user/", "OperationalError: attempt to write a readonly database",
        PLACE.format(line_of("User.objects.create"), "adds_a_user"), "must write the file and its directory",
        settings='DATABASES["default"].update(NAME=f"file:{HOME}/db/db.sqlite3?mode=ro", OPTIONS={"uri": True})\n',
    ),
    "SECRET_KEY is empty": Case(
        "/keeps_a_session/", "ImproperlyConfigured: The SECRET_KEY setting must not be empty.",
        "django/conf/__init__.py:", "set SECRET_KEY", settings='SECRET_KEY = ""\n', everywhere=True,
    ),
    "the host is not allowed": Case(
        "/fine/?a=1", "the host www.example.org is not in ALLOWED_HOSTS of myproject.settings", "",
        "add it there, then touch mysite.fcgi", status=400, traceback=False, host="www.example.org",
    ),
    "the app says no more than 500": Case(
        "/fails_in_silence/", "the app answered 500 Internal Server Error and reported no exception", traceback=False,
    ),
}  # fmt: skip


def configure(account, app=DJANGO, settings=FAILING, server=""):
    account.configure(CONFIG.format(app=app, server=server))
    path = account.project / "myproject" / "settings.py"
    account.put(path, path.read_text() + settings)


@contextmanager
def served(account):
    with Apache(account) as apache:
        yield apache


def number_of(response):
    number = response.headers.get("X-Incident")
    assert number and re.fullmatch("[0-9a-f]{8}", number), response.headers.items()
    return number


def events(apache, number):
    """The events of the error log with this number, each a list of its lines as they were told."""
    found, current = [], None
    for line in apache.log().splitlines():
        told = re.sub(r"^.*?(stderr: |\[\d+\] error: )", "", line)
        if f"incident {number}" in line:
            current = [told]
            found.append(current)
        elif current is not None and ("stderr: " in line or line.startswith("    ")):
            current.append(told)
        else:
            current = None
    return found


def access_log(account):
    path = account.home / "access.log"
    return path.read_text().splitlines() if path.exists() else []


def must_be_told_once(apache, response, case):
    number = number_of(response)
    told = until(lambda: events(apache, number), 5, f"incident {number} is in the error log")
    assert len(told) == 1, apache.log()
    first, rest = told[0][0], "\n".join(told[0][1:])
    where = case.path
    start = first.partition(f"incident {number}: GET {where}: {case.summary}")
    assert start[1], first
    assert case.place in first and case.hint in first, first
    shown = ("Traceback (most recent call last):" in rest, "its traceback stands above" in rest)
    assert any(shown) == case.traceback and not all(shown), rest
    assert "<runfcgi>" not in rest and "public_html/.." not in rest, rest
    ends = until(lambda: [line for line in access_log(apache.account) if line.endswith(f" {number}")], 5, "it is logged")
    assert len(ends) == 1 and f'"GET {case.path} HTTP/1.1" {case.status} ' in ends[0]


@pytest.mark.parametrize("name", CASES)
def test_what_django_catches_is_told(make_site, name):
    """With DEBUG on; with DEBUG off: test_forty.py."""
    case = CASES[name]
    account = make_site()
    configure(account, settings=FAILING + case.settings + "DEBUG = True\n")
    with served(account) as apache:
        response = apache.client.get(case.path, Host=case.host)
        assert response.status == case.status, response.text
        must_be_told_once(apache, response, case)
        if case.everywhere:
            return
        fine = apache.client.get("/fine/", Host="localhost")
        assert fine.status == 200 and "X-Incident" not in fine.headers
        until(lambda: access_log(account)[-1].endswith(" -"), 5, "the good page has no number")


@pytest.mark.parametrize("server", ["", "method = 'threaded'", "preload = false"], ids=["preload", "threaded", "plain"])
def test_it_is_told_in_each_form(make_site, server):
    account = make_site()
    configure(account, server=server)
    with served(account) as apache:
        must_be_told_once(apache, apache.client.get("/raises/"), CASES["a view raises"])


def test_what_breaks_off_a_response_is_told_as_one_event(make_site):
    account = make_site()
    configure(account)
    with served(account) as apache:
        try:
            apache.client.get("/raises_later/")
        except Exception:
            pass  # it is cut, and the visitor's side may say so
        until(lambda: "no second piece" in apache.log(), 5, "it is told")
        number = re.search("incident ([0-9a-f]{8})", apache.log())[1]
        told = events(apache, number)
        assert len(told) == 1 and "ValueError: no second piece" in told[0][0]
        line = until(lambda: access_log(account), 5, "it is logged")[-1]
        assert line.endswith(f" {number}")


FLASK = """\
from flask import Flask

app = Flask(__name__)


@app.route("/raises/")
def raises():
    return {}["apple"]
"""
PLAIN = """\
import sys


def app(environ, start_response):
    try:
        {}["apple"]
    except KeyError:
        start_response("500 Oh no", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"caught"]
"""
OTHERS = {
    "flask": (FLASK, Case("/raises/", "KeyError: 'apple'", "shop.py:8 in raises")),
    "exc_info": (PLAIN, Case("/", "KeyError: 'apple'", "shop.py:6 in app")),
    "escapes": ("def app(environ, start_response):\n    raise OSError('disk')\n", Case("/", "OSError: disk", "shop.py:2 in app")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_catch_is_told(make_site, name):
    code, case = OTHERS[name]
    account = make_site()
    configure(account, app='wsgi = "shop:app"')
    account.put(account.project / "shop.py", code)
    with served(account) as apache:
        response = apache.client.get(case.path)
        assert response.status == 500
        must_be_told_once(apache, response, case)


FRAMEWORKS = """\
import bottle
import cherrypy
import falcon
from pyramid.config import Configurator
from pyramid.response import Response


def fail(*_arguments):
    return {}["apple"]


class Resource:
    on_get = fail
    fail.exposed = True


def pyramid(*views):
    with Configurator() as config:
        config.add_route("fail", "/{name}/")
        config.add_view(fail, route_name="fail")
        for view in views:
            config.add_exception_view(view)
        return config.make_wsgi_app()


bottles = bottle.Bottle()
bottles.route("/bottle/")(fail)
cherries = Resource()
cherries.cherrypy = fail
falcons = falcon.App()
falcons.add_route("/falcon/", Resource())
cherrypy.config.update({"environment": "embedded"})  # which logs nothing
APPS = {
    "bottle": bottles,
    "cherrypy": cherrypy.Application(cherries),
    "falcon": falcons,
    "pyramid": pyramid(),
    "views": pyramid(lambda _error, _request: Response("sorry", status=500)),
}


def app(environ, start_response):
    return APPS[environ["PATH_INFO"].split("/")[1]](environ, start_response)
"""


def test_what_more_frameworks_catch_is_told(make_site):
    account = make_site()
    configure(account, app='wsgi = "shop:app"')
    for name in ("bottle", "CherryPy", "falcon", "pyramid"):
        copy_distribution(name, account.project)
    account.put(account.project / "shop.py", FRAMEWORKS)
    give(account.project)
    with served(account) as apache:
        for name in ("bottle", "cherrypy", "falcon", "pyramid", "views"):
            response = apache.client.get(f"/{name}/")
            assert response.status == 500, name
            must_be_told_once(apache, response, Case(f"/{name}/", "KeyError: 'apple'", "shop.py:9 in fail"))


def test_packages_beside_the_code_are_not_the_owners(make_site):
    """As `pip install --target myproject` leaves them."""
    account = make_site()
    configure(account, app='wsgi = "shop:app"')
    package = account.project / "fruit"
    package.mkdir()
    (package / "__init__.py").write_text("def weigh(prices):\n    return prices['apple']\n")
    info = account.project / "fruit-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("fruit/__init__.py,,\nfruit-1.0.dist-info/RECORD,,\n")
    account.put(account.project / "shop.py", "import fruit\ndef app(environ, start_response):\n    fruit.weigh({})\n")
    give(account.project)
    with served(account) as apache:
        must_be_told_once(apache, apache.client.get("/"), Case("/", "KeyError: 'apple'", ", at shop.py:3 in app"))


def test_a_flood_is_counted_and_not_repeated(make_site):
    account = make_site()
    configure(account)
    with served(account) as apache:
        numbers = {number_of(apache.client.get("/raises/")) for _ in range(60)}
        assert len(numbers) == 60
        told = re.findall(r"incident ([0-9a-f]{8}): GET /raises/: KeyError", apache.log())
        assert len(told) == 5 and len(set(told)) == 5 and set(told) <= numbers, told
        logged = until(lambda: len(access_log(account)) == 60 and access_log(account), 5, "all are in the access log")
        assert {line.rsplit(" ", 1)[1] for line in logged} == numbers
        more = r"\.\.\. 55 more of these in 1\d s, the last: incident ([0-9a-f]{8}): GET /raises/: KeyError: 'apple', at "
        last = until(lambda: re.search(more, apache.log()), 20, "the rest is counted")
        assert last[1] in numbers - set(told)
        # What has failed since is told one by one again.
        number = number_of(apache.client.get("/raises/"))
        assert len(until(lambda: events(apache, number), 5, "it is told")) == 1
