"""deploy/apps/: each application runs under Apache with the files that stand there, at the root and in a subdirectory.

deploy/moving.md: the old script runs, and after it what the page tells to put in its place."""

import base64
import configparser
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from webservers.account import REPOSITORY, give
from webservers.apache import MODULES, Apache
from webservers.processes import until

APPS = REPOSITORY / "deploy" / "apps"
AUTH = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in ("auth_basic", "authn_file", "authz_user"))
# As `htpasswd` writes it: the password is "secret".
PASSWORDS = "ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n"
ANN = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
PACKAGES = {
    "flask": ["flask>=3,<4"],
    "hgweb": ["mercurial>=7,<8"],
    "isso": ["isso>=0.14,<0.15"],
    "moin": ["moin==2.0.0b5"],
    "radicale": ["radicale>=3,<4"],
    "roundup": ["roundup>=2.6,<3"],
    "trac": ["Trac>=1.6,<2", "setuptools<81"],
}
DIRECTORIES = pytest.mark.parametrize("directory", ["", "shop"])


def packages(app):
    """A directory with its packages, as `pip install --target` makes it. It is kept for the next run."""
    kept = Path(sys.prefix) / "apps"
    kept.mkdir(exist_ok=True)
    made = kept / "_".join(PACKAGES[app])
    with open(kept / f"{app}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            half = kept / f"{app}.half"
            shutil.rmtree(half, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "pip", "-q", "install", "--target", half, *PACKAGES[app]], check=True)
            half.rename(made)
    return made


class Installed:
    """An account with an application laid out as deploy/apps/README.md says, and what else it takes."""

    def __init__(self, make_site, app, directory):
        self.account = make_site(directory=directory)
        self.prefix = f"/{directory}" if directory else ""
        settings = (APPS / app / "mysite.toml").read_text()
        name = settings.split('path = "../')[1].split('"')[0]
        self.directory = self.account.home / name
        shutil.copytree(packages(app), self.directory)
        for file in (APPS / app).iterdir():
            if file.suffix not in (".toml", ".htaccess"):
                (self.directory / file.name).write_text(self.at_home(file.read_text()))
        if directory:
            settings = settings.replace('"../', '"../../')
        self.account.put(self.account.config, self.at_home(settings))
        (self.account.home / "passwords").write_text(PASSWORDS)

    def at_home(self, text):
        return text.replace("/home/you", str(self.account.home))

    def add(self, file):
        """Adds lines to `.htaccess`, below those of the template."""
        path = self.account.site / ".htaccess"
        self.account.put(path, path.read_text() + self.at_home(file.read_text()))

    def run(self, *command, **options):
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.directory), "HGUSER": "ann", "HOME": str(self.account.base)}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, **options).stdout

    def serve(self):
        give(self.account.home)
        return Apache(self.account, AUTH)

    def get(self, apache, path, **headers):
        return apache.client.get(self.prefix + path, **headers)


@DIRECTORIES
def test_flask(make_site, directory):
    site = Installed(make_site, "flask", directory)
    with site.serve() as apache:
        assert site.get(apache, "/").text == f"Hello from {site.prefix}/"


@DIRECTORIES
def test_hgweb(make_site, directory):
    site = Installed(make_site, "hgweb", directory)
    hg = [sys.executable, site.directory / "bin" / "hg"]
    repository, clone = site.directory / "repos" / "one", site.account.base / "clone"
    site.run(*hg, "init", repository)
    (repository / "a").write_text("first\n")
    site.run(*hg, "commit", "-A", "-m", "the first change", cwd=repository)
    # hgweb wants TLS for a push; this Apache has none.
    with open(site.directory / "hgweb.config", "a") as config:
        config.write("push_ssl = false\n")
    with site.serve() as apache:
        page = site.get(apache, "/one/file/tip/a")
        assert page.status == 200 and "first" in page.text and f'href="{site.prefix}/one/' in page.text
        address = f"127.0.0.1:{apache.port}{site.prefix}/one"
        site.run(*hg, "clone", f"http://{address}", clone)
        (clone / "a").write_text("second\n")
        site.run(*hg, "commit", "-m", "the second change", cwd=clone)
        for lines in (None, APPS / "hgweb" / "push.htaccess"):
            if lines:
                site.add(lines)
            with pytest.raises(subprocess.CalledProcessError) as refused:
                site.run(*hg, "push", "--noninteractive", f"http://{address}", cwd=clone)
            assert "authoriz" in refused.value.stderr, refused.value.stderr
        site.run(*hg, "push", "--noninteractive", f"http://ann:secret@{address}", cwd=clone)
        assert "the second change" in site.get(apache, "/one/log").text


@DIRECTORIES
def test_radicale(make_site, directory):
    site = Installed(make_site, "radicale", directory)
    event = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//x//x//EN\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20260101T000000Z\r\n"
    event += "DTSTART:20260101T000000Z\r\nSUMMARY:a meeting\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    with site.serve() as apache:
        assert site.get(apache, "/ann/").status == 401
        assert apache.client.request("MKCALENDAR", site.prefix + "/ann/work/", headers=ANN).status == 201
        put = apache.client.request("PUT", site.prefix + "/ann/work/1.ics", event.encode(), {**ANN, "Content_Type": "text/calendar"})
        assert put.status == 201, put.text
        assert "SUMMARY:a meeting" in site.get(apache, "/ann/work/1.ics", **ANN).text
        found = apache.client.request("PROPFIND", site.prefix + "/ann/work/", headers={**ANN, "Depth": "1"})
        assert found.status == 207 and f"{site.prefix}/ann/work/1.ics" in found.text


@DIRECTORIES
def test_trac(make_site, directory):
    site = Installed(make_site, "trac", directory)
    site.run(sys.executable, site.directory / "bin" / "trac-admin", site.directory / "env", "initenv", "a project", "sqlite:db/trac.db")
    site.add(APPS / "trac" / "login.htaccess")
    with site.serve() as apache:
        page = site.get(apache, "/wiki")
        assert page.status == 200 and "Welcome to Trac" in page.text and f'href="{site.prefix}/login"' in page.text
        for path, asks in (("/login", True), ("/login?referer=x", True), ("/login-help", False), ("/wiki?next=/login", False)):
            assert (site.get(apache, path).status == 401) == asks, path
        assert site.get(apache, "/login", **ANN).status in (302, 303)
        assert "logged in as" in site.get(apache, "/wiki").text


@DIRECTORIES
def test_isso(make_site, directory):
    site = Installed(make_site, "isso", directory)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:  # the site with the pages, which is down
        pages = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
    config = site.directory / "isso.cfg"
    config.write_text(config.read_text().replace("https://www.example.com", pages))
    salt = re.search("salt = (.+)", config.read_text())[1].encode()
    comment = json.dumps({"text": "well said", "author": "Ann", "title": "the page"}).encode()
    with site.serve() as apache:
        headers = {"Content-Type": "application/json", "Origin": pages}
        posted = apache.client.request("POST", site.prefix + "/new?uri=%2Fa%2F", comment, headers)
        assert posted.status == 201 and posted.headers["Access-Control-Allow-Origin"] == pages, posted.text
        assert "well said" in site.get(apache, "/?uri=%2Fa%2F").text
        assert b"well said" in (site.directory / "comments.db").read_bytes()
        assert posted.json["hash"] == hashlib.pbkdf2_hmac("sha1", b"127.0.0.0", salt, 1000, 6).hex()
        assert site.get(apache, "/js/embed.min.js").status == 200


@DIRECTORIES
def test_roundup(make_site, directory):
    site = Installed(make_site, "roundup", directory)
    apache = site.serve()
    address = f"http://127.0.0.1:{apache.port}{site.prefix}/"
    commands = re.findall("`roundup-admin (.+?)`", (APPS / "roundup" / "mysite.toml").read_text().replace("\n# ", " "))
    for command in (*commands, "-i /home/you/roundup/tracker create issue title=squeaks"):
        words = site.at_home(command).replace("https://www.example.com/", address).split()
        site.run(sys.executable, site.directory / "bin" / "roundup-admin", *words)
    config = configparser.ConfigParser(interpolation=None)
    config.read(site.directory / "tracker" / "config.ini")
    assert config["mail"]["host"] == "localhost", "what is not set is not there, and no mail can be sent"
    give(site.directory)
    with apache:
        assert "squeaks" in site.get(apache, "/issue").text
        admin = {"Authorization": "Basic " + base64.b64encode(b"admin:your-password").decode()}
        for headers, greeting in (({}, False), (admin, True)):
            assert ("Hello, admin" in site.get(apache, "/user", **headers).text) == greeting


def test_moin(make_site):
    """In a subdirectory only: it takes long to make a wiki."""
    site = Installed(make_site, "moin", "shop")
    create, *fill = re.findall("`moin (.+?)`", (APPS / "moin" / "mysite.toml").read_text().replace("\n# ", " "))
    moin, words = [sys.executable, site.directory / "bin" / "moin"], site.at_home(create).split()
    site.run(*moin, *words)
    for command in fill:
        site.run(*moin, command, cwd=words[-1])
    with site.serve() as apache:
        page = site.get(apache, "/Home")
        assert page.status == 200 and "Welcome" in page.text and 'href="/shop/' in page.text


MOVING = (REPOSITORY / "deploy" / "moving.md").read_text()


def moved(section, account):
    """The section's blocks of code, as (language, text) pairs, with the home directory of the account."""
    text = MOVING.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    return [(language, block.replace("/home/you", str(account.home))) for language, block in blocks]


def put_program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    give(path)


def test_moving_from_flup(site, build):
    (_, script), (_, settings) = moved("flup, or Django's old runfcgi", site)
    put_program(site.executable, script)
    with Apache(site) as apache:
        assert apache.client.get("/mysite.fcgi/version/").text == "0"
        assert not apache.workers()
        site.put(site.config, settings)
        site.executable.write_bytes(build.read_bytes())
        assert apache.client.get("/mysite.fcgi/version/").text == "0"
        assert not apache.workers(), "mod_fcgid has not kept the old process"
        fresh = site.site / "mysite.new"
        shutil.copy(build, fresh)
        give(fresh)
        fresh.replace(site.executable)
        until(lambda: apache.client.get("/version/").text == "0" and apache.workers(), 15, "runfcgi serves it")


def test_moving_from_passenger(site):
    (_, script), (_, settings) = moved("Passenger", site)
    (_, (_, module), _) = moved("A CGI script with wsgiref", site)
    app = site.home / "myapp"
    app.mkdir()
    (app / "app.py").write_text(module)
    # As the last paragraph says: without the lines up to os.execl.
    (app / "passenger_wsgi.py").write_text("import sys\n" + script.partition("*sys.argv)\n")[2])
    give(app)
    site.put(site.config, settings)
    with Apache(site) as apache:
        assert apache.client.get("/").text == "hello"
        site.put(app / "app.py", module.replace("hello", "kept"))
        site.put(site.config, settings.replace('"app:', '"passenger_wsgi:'))
        until(lambda: apache.client.get("/").text == "kept", 15, "the file that was kept is served")


def test_moving_from_cgi(site):
    (_, script), (_, module), (_, settings) = moved("A CGI script with wsgiref", site)
    put_program(site.site / "app.cgi", script)
    app = site.home / "myapp"
    app.mkdir()
    (app / "app.py").write_text(module)
    give(app)
    site.put(site.config, settings)
    with Apache(site, "AddHandler cgi-script .cgi\n") as apache:
        assert apache.client.get("/app.cgi").text == "hello"
        assert not apache.workers()
        (site.site / "app.cgi").unlink()
        assert apache.client.get("/").text == "hello" and apache.workers()
