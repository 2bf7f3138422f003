"""`check` on a real Django site: what is wrong with it is told, with the cure, and what is good is not."""

import json
import os
import shutil
import subprocess

import pytest

from webservers.account import USER, give
from webservers.fastcgi import request
from webservers.processes import touching

NOTED = """\
[app]
path = "{project}"
settings = "myproject.settings"
[server]
runtime_dir = "{runtime}"
"""


def check(site, *words, status=0, executable=None):
    """What `check` prints for the owner of the site, who has a shell."""
    user = {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    done = subprocess.run(
        [executable or site.executable, "check", *words], cwd="/", capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": str(site.home), "TERM": "dumb"}, **user,
    )  # fmt: skip
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def settings(before, after):
    return lambda site: edit(site.project / "myproject" / "settings.py", before, after)


def syntax_error(site):
    (site.project / "myproject" / "urls.py").write_text("urlpatterns = [\n")


def unwritable_database(site):
    for path in (site.home / "db", site.home / "db" / "db.sqlite3"):
        os.chown(path, 0, 0)


def without_database(site):
    (site.home / "db" / "db.sqlite3").unlink()


def fewer_migrations(site):
    import sqlite3

    with sqlite3.connect(site.home / "db" / "db.sqlite3") as database:
        database.execute("DELETE FROM django_migrations WHERE app = 'admin'")


def no_static_files(site):
    shutil.rmtree(site.site / "static")


def misspelt_handler(site):
    edit(site.site / ".htaccess", "SetHandler fcgid-script", "SetHandler fcgi-script")


def raising_check(site):
    with open(site.project / "myproject" / "views.py", "a") as views:
        views.write("\n\nfrom django.core import checks\n\n\n@checks.register\ndef broken(app_configs, **_):\n    return 1 / 0\n")


def unwritable_log(site):
    (site.home / "logs").mkdir(mode=0o755)
    site.configure(NOTED + f'[log]\nfile = "{site.home}/logs/site.log"\n')


def files_below_the_document_root(site):
    (site.site / "logs").mkdir()
    give(site.site / "logs")
    logs = f'[log]\nfile = "{site.site}/mysite.log"\naccess = "{site.site}/logs/a b.log"\n'
    site.configure(NOTED + f'pidfile = "{site.site}/my.pid"\n{logs}')


def parents_settings(site):
    below = site.site / "shop"
    below.mkdir()
    shutil.copy(site.executable, below / "mysite.fcgi")
    shutil.copy(site.site / ".htaccess", below / ".htaccess")
    give(below)
    return below / "mysite.fcgi"


def space(site):
    below = site.site / "my shop"
    below.mkdir()
    for name in ("mysite.fcgi", "mysite.toml", ".htaccess"):
        shutil.copy(site.site / name, below / name)
    give(below)
    return below / "mysite.fcgi"


# Others are caused, and mended, in webservers/test_forty.py.
ERRORS = {
    "error of a check": (
        settings('"django.contrib.messages.middleware.MessageMiddleware",', ""),
        ["RF0270", "admin.E409", "MessageMiddleware"],
    ),
    "no database": (without_database, ["RF0273", "the database is not there yet", "manage.py migrate"]),
    "pending migrations": (fewer_migrations, ["RF0273", "3 migrations are not applied to default: admin.0001_initial", "manage.py migrate"]),
    "misspelt handler": (misspelt_handler, ["RF0225", "Apache has no handler fcgi-script", "did you mean fcgid-script?"]),
    "space": (space, ["RF0217", "there is a space in this path"]),
}  # fmt: skip
WARNINGS = {
    "a check that fails": (raising_check, ["RF0275", "ask checks: ZeroDivisionError: division by zero (myproject/views.py:"]),
    "no static files": (no_static_files, ["RF0274", " static files are not in ", "collectstatic"]),
    "no STATIC_ROOT": (settings("STATIC_ROOT =", "STATICROOT ="), ["RF0274", "settings.STATIC_ROOT is not set"]),
    "unwritable log": (unwritable_log, ["RF0260", "logs/site.log cannot be written: Permission denied"]),
    "files below the document root": (
        files_below_the_document_root,
        [f"RF0262 {name}: " for name in ("log.file", "log.access", "server.pidfile")]
        + [f"https://www.example.com/{path}" for path in ("mysite.log", "logs/a%20b.log", "my.pid")],
    ),
    "settings of another site": (parents_settings, ["RF0162", "so both run the same app", "shop/mysite.toml"]),
}


def test_a_good_site(site):
    said = check(site)
    assert "0 errors, 1 warning: the site can be served" in said
    assert "warning RF0271" in said and "security.W004" in said, "what check --deploy has to say"
    assert "Django 5.2" in said and "hands requests to cgi-script, else to fastcgi-script" in said


REHEARSED = [
    ("FastCGI, GET /:", "200"),
    ("FastCGI, a page that does not exist:", "404"),
    ("FastCGI, GET /admin/login/:", "200"),
    ("FastCGI, POST:", "40"),
    ("FastCGI, an upload of 1 MB:", "40"),
    ("FastCGI, GET / with Authorization:", "200"),
    ("FastCGI, GET / after a request that was aborted:", "200"),
    ("FastCGI, a restart:", "new code went live in"),
    ("FastCGI, at the end:", "left with status 0"),
    ("CGI, GET /:", "200"),
]


def test_it_plays_the_web_server(site):
    said = check(site)
    for place, what in REHEARSED:
        assert f"ok      {place} {what}" in said


def test_what_fails_when_visitors_come(site):
    edit(site.project / "myproject" / "urls.py", "urlpatterns = [", 'urlpatterns = [path("", lambda request: 1 / 0),')
    said = check(site, status=1)
    assert "error   RF0251 FastCGI, GET /: answered with an error: 500 in " in said
    assert "error   RF0251 CGI, GET /: answered with an error: 500" in said
    assert "ok      FastCGI, a page that does not exist: 404" in said
    assert "the site can be served, but pages of it fail" in said


def test_an_import_that_needs_the_shells_environment(site):
    settings("DEBUG = False", 'DEBUG = False\n__import__("os").environ["TERM"]')(site)
    said = check(site, status=1)
    assert "error   RF0201 FastCGI, GET /: answered with an error: 500 in " in said and "KeyError: 'TERM'" in said
    assert "the site cannot be served as it is" in said


def test_the_live_site_is_not_disturbed(site, manage):
    class Live:
        account = site
        log = staticmethod(lambda: "")
        gone = staticmethod(lambda: not touching(site.base))

    front = manage(Live).spawn()
    assert request(front.socket, "/version/").status == 200
    before = sorted(site.runtime.iterdir())
    assert "a restart: new code went live" in check(site)
    assert sorted(site.runtime.iterdir()) == before
    assert "restart" not in request(front.socket, "/version/").errors


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_told(site, name):
    spoil, words = ERRORS[name]
    said = check(site, status=1, executable=spoil(site))
    for word in words:
        assert word in said
    assert "the site cannot be served as it is" in said
    assert "\nerror " in "\n" + said and "pip install" not in said


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_is_told(site, name):
    spoil, words = WARNINGS[name]
    said = check(site, executable=spoil(site))
    for word in words:
        assert word in said
    assert "0 errors, " in said and "the site can be served, but see the warnings" in said


def test_it_speaks_to_programs(site):
    told = json.loads(check(site, "--json"))
    assert (told["errors"], told["warnings"]) == (0, 1)
    assert ["RF0271"] == [finding["code"] for finding in told["findings"] if finding["level"] == "warning"]
    syntax_error(site)
    told = json.loads(check(site, "--json", status=1))
    assert told["errors"] == 1
    [error] = [finding for finding in told["findings"] if finding["level"] == "error"]
    assert error["code"] == "RF0201" and error["what"].startswith("the app cannot be imported: SyntaxError: ")


def test_help_and_wrong_words(site):
    assert "plays the web server" not in check(site, "--help") and "starts this program as mod_fcgid does" in check(site, "--help")
    help = subprocess.run([site.executable, "help", "check"], capture_output=True, text=True, check=True).stdout
    assert help == check(site, "--help")
    wrong = subprocess.run([site.executable, "check", "--jason"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "known are: --json, --config FILE" in wrong.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="it takes root")
def test_root_checks_as_the_owner(site):
    done = subprocess.run([site.executable, "check"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0 and "0 errors, 1 warning" in done.stdout, done.stdout
    unwritable_database(site)
    done = subprocess.run([site.executable, "check"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 1 and f"user {USER.pw_uid} may not write" in done.stdout, done.stdout
    assert "RF0212" not in done.stdout and "chown 0 " not in done.stdout


def test_it_changes_nothing(site):
    def everything():
        found = {}
        for folder, _, names in os.walk(site.base):
            found.update({os.path.join(folder, name): os.stat(os.path.join(folder, name)).st_mtime_ns for name in names})
        return found

    before = everything()
    check(site)
    assert everything() == before


def test_a_full_temporary_directory(site):
    full = site.base / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "tmpfs", full], check=True)
    try:
        site.configure(NOTED + f'[env]\nTMPDIR = "{full}"\n')
        assert f"RF0261 {full}: only 64 KB" in check(site)
    finally:
        subprocess.run(["umount", full], check=True)
