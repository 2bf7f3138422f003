"""From an empty account to a site with a superuser, as the README tells it: with FTP and the owner's desk, in a real browser.

No command runs in the account but those that the desk starts."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from webservers.account import REPOSITORY, USER
from webservers.apache import CGI_ONLY, Apache
from webservers.chromium import PROGRAM, Chromium
from webservers.processes import until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="this release has no package of Chromium")
README = (REPOSITORY / "README.md").read_text()
SECTION = README.partition("## Start with FTP and the owner's desk")[2].partition("\n## ")[0]
SECRET, PASSWORD = "a long random text of your own", "correct horse battery"
PIECE = 32 << 10


def block(language, text=SECTION):
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def computer(build, tmp_path_factory):
    """The owner's own computer, where all that the README tells has been typed."""
    home = tmp_path_factory.mktemp("computer")
    (home / "public_html").mkdir()
    subprocess.run([sys.executable, "-m", "django", "startproject", "myproject"], cwd=home, check=True)
    with open(home / "myproject" / "myproject" / "settings.py", "a") as settings:
        settings.write(block("python", README).replace("www.example.com", "127.0.0.1"))
        settings.write("from markupsafe import _speedups  # the compiled part\n")
    (home / "myproject" / "requirements.txt").write_text("Django>=5.2,<5.3\nmarkupsafe\n")
    (home / "public_html" / "mysite.toml").write_text(block("toml"))
    typed = block("sh").replace("/where/you/put/runfcgi", str(build)).replace("/where/you/put", str(REPOSITORY))
    typed = typed.replace("python3", sys.executable).replace("3.11", "%d.%d" % sys.version_info[:2])
    subprocess.run(["sh", "-euc", typed], cwd=home, check=True)
    return home


@pytest.fixture
def host(make_site):
    """An account with nothing in it but an empty public_html."""
    account = make_site()
    for path in (account.public, account.project, account.home / "db"):
        shutil.rmtree(path)
    (account.home / "venv").unlink()
    make_directory(account.public)
    return account


def make_directory(path):
    path.mkdir()
    path.chmod(0o755)
    os.chown(path, USER.pw_uid, USER.pw_gid)


def upload(source, target, mode=0o644):
    """What an FTP server does with a file or a tree: it writes under another name, in pieces, and then renames."""
    if source.is_dir():
        make_directory(target)
        for path in source.iterdir():
            upload(path, target / path.name)
        return
    part = target.with_name(f".in.{target.name}")
    with open(source, "rb") as content, open(part, "wb", buffering=0) as file:
        os.fchown(file.fileno(), USER.pw_uid, USER.pw_gid)
        while piece := content.read(PIECE):
            file.write(piece)
    part.rename(target)
    target.chmod(mode)


class Visit:
    """The owner in a browser, before a site whose files are being uploaded."""

    def __init__(self, browser, apache, host, computer):
        self.browser, self.apache = browser, apache
        self.url = f"http://127.0.0.1:{apache.port}"
        for path in (computer / "public_html").iterdir():
            upload(path, host.public / path.name)
        (host.public / "mysite.fcgi").chmod(0o755)
        # All that the test adds: what this site leaves behind is removed with the account.
        with open(host.public / "mysite.toml", "a") as settings:
            settings.write(f'[server]\nruntime_dir = "{host.runtime}"\n')
        upload(computer / "project.zip", host.home / "project.zip")
        browser.like(1280, 900)
        browser.go(self.url + "/-/runfcgi")
        browser.fill(secret=SECRET)
        browser.click("Open")

    def press(self, label, seconds=60, **fields):
        """Presses a button of the page "Tasks", and awaits the end of the task. Returns what is shown of it."""
        self.browser.fill(**fields)
        self.browser.click(label)
        until(self.ended, seconds, f"{label} has ended")
        return self.browser.text(".last")

    def ended(self):
        """Whether the task has ended, without waiting until the page is loaded anew by itself."""
        self.browser.go(self.url + "/-/runfcgi/tasks")
        return self.browser.text(".last .tag") != "running"

    def log_in(self):
        """At Django's admin."""
        self.browser.go(self.url + "/admin/", self.url + "/admin/login/?next=/admin/")
        self.browser.fill(username="ann", password=PASSWORD)
        self.browser.click("Log in")
        sheets = "[...document.styleSheets].filter(sheet => sheet.cssRules.length).map(sheet => new URL(sheet.href).pathname)"
        assert "Site administration" in self.browser.text() and "ANN" in self.browser.text().upper()
        assert "/static/admin/css/base.css" in self.browser.evaluate(sheets)
        assert self.browser.evaluate("getComputedStyle(document.querySelector('#header')).backgroundColor") != "rgba(0, 0, 0, 0)"
        for text in (self.apache.log(), self.apache.account.runtime.joinpath("task.out").read_text()):
            assert PASSWORD not in text and SECRET not in text


def migrate_and_collect(owner):
    assert "Create model User" in owner.press("Show the plan")
    assert "Applying auth.0001_initial... OK" in owner.press("Apply these migrations")
    assert "static files copied" in owner.press("Collect")
    assert "Superuser created successfully" in owner.press("Create", username="ann", email="ann@example.org", password=PASSWORD)


def test_from_an_empty_account_to_a_superuser(host, computer):
    with Apache(host) as apache, Chromium() as browser:
        owner = Visit(browser, apache, host, computer)
        assert "The site does not work" in browser.text() and "myproject does not exist" in browser.text()
        assert "Unpack project.zip" in browser.text(), "the overview offers what helps"
        upload(computer / "wheels", host.home / "wheels")
        browser.go(owner.url + "/-/runfcgi/tasks")
        assert "were unpacked" in owner.press("Unpack")
        assert re.search("Successfully installed .*markupsafe", owner.press("Install", 120))
        migrate_and_collect(owner)
        browser.click("Restart")
        until(lambda: "serving" in browser.text(), 30, "the page shows that the site serves, and is loaded anew for that")
        owner.log_in()
        browser.go(owner.url + "/-/runfcgi/failures")
        assert "no module named django" in browser.text() and "Install packages" in browser.text(), "with what helped"


def test_as_plain_cgi(host, computer, model):
    (host.home / "venv").symlink_to(model.home / "venv")
    with Apache(host, options=CGI_ONLY) as apache, Chromium() as browser:
        owner = Visit(browser, apache, host, computer)
        browser.go(owner.url + "/-/runfcgi/tasks")
        assert "were unpacked" in owner.press("Unpack")
        migrate_and_collect(owner)
        owner.log_in()
