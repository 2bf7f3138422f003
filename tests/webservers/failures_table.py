"""The failures that owners meet: how a site comes to each, what is told of it and to whom, and how it is mended.

A change of files (`spoil`) is a function of the site that returns how to undo it, as an upload of the right file does. It
changes the size of a module, so that no stale bytecode can hide it.
"""

import os
import shutil
from dataclasses import dataclass

from webservers.account import APPS

RIGHT = (APPS / "failing" / "app.py").read_text()
PLAIN = {"app": {"wsgi": "app:app"}}
DJANGO = {"app": {"wsgi": None, "settings": "shop.settings", "python": "{lab}/venvs/django/bin/python"}}
FLASK = {"app": {"wsgi": "app:app", "python": "{lab}/venvs/django/bin/python"}}
SETTINGS, URLS, TOML, APP = "app/shop/settings.py", "app/shop/urls.py", "www/site/mysite.toml", "app/app.py"
SECRET = "hunter2-is-secret"


@dataclass
class Row:
    """`told`: the code, and what the first line of the event says of cause and cure. `found`: what `check` says before.
    `touch`: code was imported that is wrong, so it takes a touch too."""

    name: str
    base: dict
    spoil: callable
    told: list
    found: list
    path: str = "/"
    status: int = 500
    touch: bool = False
    body: bytes = b""
    # Nothing of mysite.toml can be used, so there is no desk before it is mended.
    no_desk: bool = False
    # `check` only warns.
    passes: bool = False


# --- how a site is broken ------------------------------------------------------------------------------------------


def write(path, text):
    def spoil(site):
        target = site.home / path
        before = target.read_bytes() if target.exists() else None
        site.put(target, text if isinstance(text, bytes) else text.encode())
        return lambda: target.unlink() if before is None else site.put(target, before)

    return spoil


def edit(path, before, after):
    def spoil(site):
        text = (site.home / path).read_text()
        assert before in text, f"{before!r} is not in {path}"
        return write(path, text.replace(before, after))(site)

    return spoil


def code(text):
    return write(APP, text)


def mode(path, bits):
    def spoil(site):
        before = (site.home / path).stat().st_mode & 0o7777
        (site.home / path).chmod(bits)
        return lambda: (site.home / path).chmod(before)

    return spoil


def move(path, to):
    def spoil(site):
        (site.home / path).rename(site.home / to)
        return lambda: (site.home / to).rename(site.home / path)

    return spoil


def both(*spoils):
    def spoil(site):
        undo = [one(site) for one in spoils]
        return lambda: [one() for one in reversed(undo)]

    return spoil


def toml(before, after):
    return edit(TOML, before, after)


def limits(line):
    return toml("[env]", f"[limits]\n{line}\n[env]")


def python(text, bits=0o755):
    """An interpreter of the owner's that is this text."""
    return both(write("python3", text), mode("python3", bits), toml('python = "', 'python = "../../python3"\n# "'))


def belongs_to_root(*paths):
    """As an upload by another user leaves it."""

    def spoil(site):
        before = [(site.home / path, (site.home / path).stat()) for path in paths]
        for path, _ in before:
            os.chown(path, 0, 0)
        return lambda: [os.chown(path, stat.st_uid, stat.st_gid) for path, stat in before]

    return spoil


def old_database(site):
    """One in which no migration has run."""
    return both(move("db/db.sqlite3", "db/right"), write("db/db.sqlite3", ""))(site)


def broken_environment(site):
    """A virtualenv whose Python the host has removed."""
    venv = site.home / "app" / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("home = /usr/local/gone/bin\n")
    (venv / "bin" / "python3").symlink_to("/usr/local/gone/bin/python3")
    undo = toml('python = "', '# "')(site)
    return lambda: (undo(), shutil.rmtree(venv))


def package(name, source, **files):
    """A package beside the code, as `pip install --target` leaves it, and an app that imports it."""
    info = f"app/{name}-1.0.dist-info"
    record = f"{name}.py,,\n{name}-1.0.dist-info/RECORD,,\n"
    metadata = {"METADATA": f"Name: {name}\nVersion: 1.0\n", "RECORD": record}
    metadata = {file: metadata.get(file, "") + files.get(file, "") for file in {*metadata, *files}}
    written = [write(f"{info}/{file}", text) for file, text in metadata.items()]
    return both(*written, write(f"app/{name}.py", source), code(f"import {name}\n" + RIGHT))


def view(line):
    """An app one page of which does this."""
    return code(VIEW.format(line))


VIEW = """\
import os, resource, signal, sys, time


def app(environ, start_response):
    if environ["PATH_INFO"] != "/page":
        start_response("200 OK", [])
        return [b"right"]
    {}
"""
def log_in_a_missing_directory(site):
    """Mended by making the directory."""
    edit(TOML, "/site.log", "/logs/site.log")(site)
    return lambda: site.put(site.home / "logs" / "README", b"what the site says")


# What says of itself that it is Python 3.4.
OLD = '#!/bin/sh\np=$2; shift 2; exec /usr/bin/python3 -c "import sys; sys.version_info = (3, 4, 2)\n$p" "$@"\n'

# --- the failures --------------------------------------------------------------------------------------------------

NO_APP = "RF0309"
PLACE = "shop/urls.py:"

ROWS = [
    # mysite.toml
    Row("a quote is missing", PLAIN, toml('wsgi = "app:app"', 'wsgi = "app:app'), [NO_APP, "RF0102", "mysite.toml:3", "strings in double quotes"], ["RF0102", "mysite.toml:3"]),
    Row("a key is misspelt", PLAIN, limits("request_timout = 5"), [NO_APP, "RF0103", "did you mean request_timeout?"], ["RF0103", "did you mean request_timeout?"]),
    Row("a section is misspelt", PLAIN, toml("[env]", "[envv]"), [NO_APP, "RF0103", "did you mean [env]?"], ["RF0103", "did you mean [env]?"]),
    Row("a value of the wrong type", PLAIN, limits('queue = "many"'), [NO_APP, "RF0104", "mysite.toml:", "queue"], ["RF0104", "queue"]),
    Row("a section is missing", PLAIN, toml("[app]\n", ""), [NO_APP, "RF0103", "put a line [app] above it"], ["RF0103", "put a line [app] above it"]),
    Row("no app is named", PLAIN, toml('wsgi = "app:app"', ""), [NO_APP, "RF0110", "settings = "], ["RF0110"]),
    Row("a variable that cannot be", PLAIN, toml("[env]", '[env]\n"MY-KEY" = "x"'), [NO_APP, "RF0112", "MY-KEY"], ["RF0112", "MY-KEY"]),
    Row("mysite.toml is missing", PLAIN, move(TOML, "www/mysite"), [NO_APP, "RF0100", "mysite.toml"], ["RF0100", "there is no mysite.toml in"], no_desk=True),
    Row("mysite.toml is writable by others", PLAIN, mode(TOML, 0o666), [NO_APP, "RF0101", "chmod go-w"], ["RF0101", "chmod go-w"], no_desk=True),
    Row("mysite.toml cannot be read", PLAIN, mode(TOML, 0), [NO_APP, "RF0101", "chmod u+r"], ["RF0101", "chmod u+r"], no_desk=True),
    Row("the path is a level too short", PLAIN, toml('/app"', '/ap"'), [NO_APP, "RF0111", "/ap"], ["RF0111", "/ap"]),
    Row("the settings module is misspelt", DJANGO, toml('"shop.settings"', '"shop.setings"'), [NO_APP, "no module named 'shop.setings'", 'write settings = "shop.settings" below [app]'], ["RF0201", 'write settings = "shop.settings" below [app]']),
    Row("the module of wsgi is misspelt", PLAIN, toml('"app:app"', '"ap:app"'), [NO_APP, "no module named 'ap'", 'write wsgi = "app:app" below [app]'], ["RF0201", 'write wsgi = "app:app" below [app]']),
    Row("the module of wsgi is misspelt, Python not named", {"app": {"wsgi": "app:app", "python": None}}, toml('"app:app"', '"ap:app"'), [NO_APP, "no python found that can import ap: there is app in ", 'write wsgi = "app:app" below [app]'], ["RF0200", 'write wsgi = "app:app" below [app]']),
    Row("wsgi names a file", PLAIN, toml('"app:app"', '"app.py:app"'), [NO_APP, "no module named 'app.py' ([app] wsgi)", 'write wsgi = "app:app" below [app]'], ["RF0201", 'write wsgi = "app:app" below [app]']),
    Row("wsgi names nothing", PLAIN, toml('"app:app"', '"app:application"'), [NO_APP, "the module 'app' has no 'application'", 'write wsgi = "app:app" below [app]'], ["RF0201", 'write wsgi = "app:app"']),
    Row("wsgi is not callable", PLAIN, both(code("NAME = 'x'\n" + RIGHT), toml('"app:app"', '"app:NAME"')), [NO_APP, "is not callable: it is a <class 'str'>"], ["RF0201", "is not callable"]),
    Row("an ASGI app", PLAIN, code("async def app(scope, receive, send):\n    pass\n"), [NO_APP, "is an ASGI application", "wrap this one"], ["RF0201", "is an ASGI application"]),
    # Python
    Row("Python is not there", PLAIN, toml('python = "', 'python = "../../gone/python3"\n# "'), [NO_APP, "gone/python3", "No such file"], ["RF0200", "gone/python3"]),
    Row("Python is not executable", PLAIN, python("#!/bin/sh\n", 0o644), [NO_APP, "python3 cannot be executed: Permission denied"], ["RF0200", "Permission denied"]),
    Row("Python is no program", PLAIN, python("<html>404</html>\n"), [NO_APP, "python3 cannot be executed: Exec format error"], ["RF0200", "Exec format error"]),
    Row("Python is too old", PLAIN, python(OLD), [NO_APP, "version 3.4.2 is too old, 3.6 is the oldest that works: set [app] python"], ["RF0200", "version 3.4.2 is too old"]),
    Row("the virtualenv is broken", DJANGO, broken_environment, [NO_APP, "no python found that can import django"], ["RF0200", "no python found that can import django", "venv/bin/python3"]),
    # The import
    Row("a syntax error in settings.py", DJANGO, edit(SETTINGS, "DATABASES = {", "DATABASES = {{"), [NO_APP, "SyntaxError", "shop/settings.py:", "Python here is 3."], ["RF0201", "SyntaxError", "shop/settings.py:"]),
    Row("a syntax error in the URLs", DJANGO, edit(URLS, "urlpatterns = [", "urlpatterns = [["), [NO_APP, "SyntaxError", PLACE], ["RF0201", "SyntaxError", PLACE]),
    Row("a syntax error in wsgi.py", DJANGO, edit("app/shop/wsgi.py", "application =", "application ="*2 + ")"), [NO_APP, "SyntaxError", "shop/wsgi.py:"], ["RF0201", "SyntaxError", "shop/wsgi.py:"]),
    Row("a text in the encoding of Windows", PLAIN, code("NAME = 'Größe'\n".encode("latin-1") + RIGHT.encode()), [NO_APP, "SyntaxError", "(app.py:1)", "save the file as UTF-8"], ["RF0201", "save the file as UTF-8"]),
    Row("an app of the settings is misspelt", DJANGO, edit(SETTINGS, 'contrib.sessions"', 'contrib.sesions"'), [NO_APP, "no module named 'django.contrib.sesions'", "there is sessions/ beside it"], ["RF0201", "there is sessions/ beside it"]),
    Row("the URLs name no view", DJANGO, edit(URLS, "VIEWS = [price,", "VIEWS = [prices,"), [NO_APP, "NameError", PLACE], ["RF0201", "NameError"]),
    Row("ROOT_URLCONF is misspelt", DJANGO, edit(SETTINGS, '"shop.urls"', '"shop.url"'), [NO_APP, "no module named 'shop.url'", "there is urls.py beside it"], ["RF0201", "there is urls.py beside it"]),
    Row("a driver of the database is missing", DJANGO, edit(SETTINGS, "backends.sqlite3", "backends.mysql"), [NO_APP, "Error loading MySQLdb", "install mysqlclient"], ["RF0201", "install mysqlclient"]),
    Row("a package is missing", PLAIN, code("import rest_framework\n" + RIGHT), [NO_APP, "no module named 'rest_framework' (app.py:1)", "pip install djangorestframework"], ["RF0201", "pip install djangorestframework"]),
    Row("a package for a newer Python", PLAIN, package("future", "match = {\n", METADATA="Requires-Python: >=3.99\n"), [NO_APP, "future 1.0 needs Python 3.99 or later, this is 3.", "set [app] python"], ["RF0201", "future 1.0 needs Python 3.99 or later"]),
    Row("a wheel for another Python", PLAIN, package("fastmod", "import _nothing\n", WHEEL="Tag: cp27-cp27mu-linux_x86_64\n"), [NO_APP, "fastmod 1.0 was built for cp27, this is cp3"], ["RF0201", "fastmod 1.0 was built for cp27"]),
    Row("a module that hides another", PLAIN, both(write("app/json.py", "x = 1\n"), code("import json\nVALUE = json.dumps({})\n" + RIGHT)), [NO_APP, "app/json.py hides the module 'json'", "give the file another name"], ["RF0201", "hides the module 'json'"]),
    Row("a variable is not given", PLAIN, code('import os\nKEY = os.environ["SHOP_KEY"]\n' + RIGHT), [NO_APP, "'SHOP_KEY' is no variable of the environment", "give it below [env]"], ["RF0201", "give it below [env]"]),
    Row("the code cannot be read", PLAIN, mode(APP, 0), [NO_APP, "PermissionError", "must be allowed that"], ["RF0201", "must be allowed that"]),
    Row("the import leaves", PLAIN, code("import sys\nsys.exit('no licence')\n"), [NO_APP, "SystemExit: no licence"], ["RF0201", "SystemExit: no licence"]),
    Row("the import ends the process", PLAIN, code("import os\nprint('last words', flush=True)\nos._exit(7)\n"), [NO_APP, "exited with status 7: last words"], ["RF0201", "last words"]),
    Row("the import crashes", PLAIN, code("import ctypes\nctypes.string_at(0)\n"), [NO_APP, "SIGSEGV"], ["RF0201", "Segmentation fault"]),
    Row("the import does not end", PLAIN, both(code("import time\ntime.sleep(3600)\n"), limits("start_timeout = 1")), [NO_APP, "it took longer than 1 s ([limits] start_timeout)", "app.py", "line 2"], ["RF0202", "start_timeout"]),
    Row("the import tells a secret", PLAIN, code(f"import os\nos.environ['X'] = '{SECRET}'\nraise RuntimeError('cannot log in')\n"), [NO_APP, "RuntimeError: cannot log in (app.py:3)"], ["RF0201", "cannot log in"]),
    # Django at work
    Row("a view raises", DJANGO, edit(URLS, 'PRICES = {', 'PRICES = {} # {'), ["RF0320", "KeyError: 'apple'", PLACE], ["RF0251", "KeyError: 'apple'"], path="/price/", touch=True),
    Row("a table is missing", DJANGO, old_database, ["RF0320", "no such table: django_session", "manage.py migrate", PLACE], ["RF0273", "manage.py migrate"], path="/count/"),
    Row("the database is read-only", DJANGO, belongs_to_root("db", "db/db.sqlite3"), ["RF0320", "attempt to write a readonly database", "must write the file and its directory"], ["RF0272", "may not write"], path="/basket/"),
    Row("the directory of the database is missing", DJANGO, move("db", "database"), ["RF0320", "unable to open database file", "its directory must be there"], ["RF0272", "is not there"], path="/count/"),
    Row("SECRET_KEY is empty", DJANGO, edit(SETTINGS, 'SECRET_KEY = "', 'SECRET_KEY = "" # "'), ["RF0320", "The SECRET_KEY setting must not be empty", "set SECRET_KEY"], ["RF0209", "set SECRET_KEY"], path="/basket/", touch=True),
    Row("ALLOWED_HOSTS is empty", DJANGO, edit(SETTINGS, "ALLOWED_HOSTS = [", "ALLOWED_HOSTS = [] # ["), ["RF0322", "the host 127.0.0.1 is not in ALLOWED_HOSTS of shop.settings", "add it there, then touch mysite.fcgi"], ["RF0204", "ALLOWED_HOSTS"], status=400, touch=True),
    Row("a template is missing", DJANGO, move("app/templates/page.html", "page.html"), ["RF0320", "TemplateDoesNotExist: page.html", "it is not at ", "app/templates/page.html; upload it, then touch mysite.fcgi"], ["RF0251", "TemplateDoesNotExist"], path="/page/", touch=True),
    # Other applications at work
    Row("a view of Flask raises", FLASK, code("from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.route('/')\ndef shop():\n    return {}['apple']\n"), ["RF0320", "KeyError: 'apple'", "app.py:8 in shop"], ["RF0251", "KeyError: 'apple'"], touch=True),
    Row("an exception escapes", PLAIN, view("raise ValueError('what')"), ["RF0315", "ValueError: what", "app.py:8 in app"], ["RF0251", "ValueError: what"], touch=True, path="/page"),
    Row("a 500 without a reason", PLAIN, view("start_response('500 Oh', []); return [b'oh']"), ["RF0321", "the app answered 500 Oh and reported no exception", "look for what the application itself has logged"], ["RF0251", "500 in"], touch=True, path="/page"),
    Row("a package is missing in a view", PLAIN, view("import rest_framework"), ["RF0315", "No module named 'rest_framework'", "app.py:8 in app", "pip install djangorestframework"], ["RF0251", "pip install djangorestframework"], touch=True, path="/page"),
    Row("a view may not write", PLAIN, both(view("open('/etc/runfcgi-test', 'w')")), ["RF0315", "PermissionError", "must be allowed that"], ["RF0251", "PermissionError"], touch=True, path="/page"),
    Row("memory is used up", PLAIN, view("resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)); bytearray(1 << 30)"), ["RF0315", "MemoryError", "256 MB, RLIMIT_AS", "ask the host for more"], ["RF0251", "MemoryError"], touch=True, path="/page"),
    Row("a worker leaves", PLAIN, view("os._exit(3)"), ["RF0314", "exited with status 3", "look for os._exit"], ["RF0251", "500 in"], touch=True, path="/page"),
    Row("a worker crashes", PLAIN, view("os.kill(os.getpid(), signal.SIGSEGV)"), ["RF0314", "SIGSEGV", "compiled modules"], ["RF0251", "500 in"], touch=True, path="/page"),
    Row("a request takes too long", {**PLAIN, "limits": {"request_timeout": 3}}, view("time.sleep(3600)"), ["RF0312", "it ran for 3 s ([limits] request_timeout)", "raise [limits] request_timeout"], ["RF0251", "504 in"], status=504, touch=True, path="/page"),
    Row("a header that is none", PLAIN, view("start_response('200 OK', [('X-A', 'a\\nb')]); return [b'']"), ["RF0315", "a header contains a control character: ['a", "app.py:8 in app"], ["RF0251", "control character"], touch=True, path="/page"),
    Row("a status that is none", PLAIN, view("start_response('OK', []); return [b'']"), ["RF0315", "status 'OK' is not three digits, a space and a reason", "app.py:8 in app"], ["RF0251", "'OK'"], touch=True, path="/page"),
    Row("a body of text", PLAIN, view("start_response('200 OK', []); return ['text']"), ["RF0315", "str", "bytes"], ["RF0251", "bytes"], touch=True, path="/page"),
    Row("no response", PLAIN, view("return [b'']"), ["RF0315", "the application did not call start_response before its response body"], ["RF0251", "did not call start_response"], touch=True, path="/page"),
    Row("an upload above the limit", PLAIN, limits("max_body = 1000"), ["RF0305", "[limits] max_body (1000 bytes)"], ["RF0305", "max_body"], status=413, body=b"x" * 2000, passes=True),
]  # fmt: skip

# What costs no visitor a number. `told`: the code and the event in the web server's log. `found`: the desk tells it, too.
QUIET = [
    Row("the log cannot be written", PLAIN, log_in_a_missing_directory, ["RF0601", "logs/site.log", "its events are lost"], ["RF0260", "logs/site.log cannot be written"], status=200, passes=True),
    Row("the runtime directory cannot be used", PLAIN, toml('/run"', '/app/app.py"'), ["RF0604", "app.py: not a directory of ours", "name a local one of your own in [server] runtime_dir"], ["RF0604", "not a directory of ours"], status=200, passes=True),
    Row("the handler is misspelt", PLAIN, edit("www/site/.htaccess", "SetHandler fcgid-script", "SetHandler fcgid-scirpt"), [], ["RF0225", "Apache has no handler fcgid-scirpt", "did you mean fcgid-script?"], status=200),
]  # fmt: skip
