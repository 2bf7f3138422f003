"""The executable is a link: where it stands, whose it is and where it leads now is what counts."""

import os
import shutil
import socket
import subprocess

import pytest

import peers
from webservers.account import USER
from webservers.fastcgi import request
from webservers.processes import until

APP = """\
def app(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]
"""
SETTINGS = '[app]\nwsgi = "app:app"\npython = "/usr/bin/python3"\n[server]\nruntime_dir = "run"\n'


class Linked:
    """`site/NAME` leads to `bin/one`; the settings stand beside the link."""

    def __init__(self, build, base, name="mysite.fcgi"):
        self.base, self.site, self.bin = base, base / "site", base / "bin"
        self.site.mkdir()
        self.bin.mkdir()
        shutil.copy(build, self.bin / "one")
        self.link = self.site / name
        self.link.symlink_to(self.bin / "one")
        self.settings = self.link.with_suffix(".toml")
        self.settings.write_text(SETTINGS)
        self.settings.chmod(0o644)
        (self.site / "app.py").write_text(APP)
        self.socket, self.errors = str(self.site / "s.sock"), base / "errors"
        self.front = None

    def start(self, **options):
        with socket.socket(socket.AF_UNIX) as listener, open(self.errors, "wb") as errors:
            listener.bind(self.socket)
            listener.listen()
            os.chmod(self.socket, 0o777)
            self.front = subprocess.Popen([self.link], stdin=listener, stderr=errors, cwd=self.site, **options)

    def runs(self):
        """The bytes of the executable that the front runs."""
        return os.stat(f"/proc/{self.front.pid}/exe").st_size


@pytest.fixture
def linked(build, tmp_path):
    made = []

    def make(*words):
        made.append(Linked(build, tmp_path, *words))
        return made[-1]

    yield make
    for site in made:
        if site.front:
            site.front.terminate()
            site.front.wait(10)


def test_a_link_that_is_led_to_another_executable_puts_that_live(linked):
    site = linked()
    site.start()
    assert peers.fastcgi(site.socket).startswith("Status: 200")
    one, two = site.bin / "one", site.bin / "two"
    assert site.runs() == one.stat().st_size
    two.write_bytes(one.read_bytes() + b"another one")
    two.chmod(0o755)
    new = site.site / "new"
    new.symlink_to(two)
    new.rename(site.link)
    until(lambda: site.runs() == two.stat().st_size, 15, "the other executable runs")
    assert peers.fastcgi(site.socket).startswith("Status: 200")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_the_settings_may_belong_to_whom_the_link_belongs(linked):
    site = linked()
    site.base.chmod(0o755)
    site.site.chmod(0o777)
    owner = 4321 if USER.pw_uid != 4321 else 4322
    for path in (site.link, site.settings):
        os.lchown(path, owner, owner)
    as_user = {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": []}
    for parent in (site.base, *site.base.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    site.start(**as_user)
    answer = peers.fastcgi(site.socket)
    assert answer.startswith("Status: 200"), (answer, site.errors.read_text())
    os.lchown(site.link, 0, 0)
    site.front.terminate()
    site.front.wait(10)
    os.unlink(site.socket)
    site.start(**as_user)
    refused = request(site.socket, "/")
    assert refused.status == 500, "nobody vouches for that user's settings"
    assert f"belongs to user {owner}" in refused.errors


def test_the_name_of_the_link_is_the_name_that_the_web_server_knows(linked):
    site = linked("site.cgi")
    site.start()
    rewritten = {"SCRIPT_NAME": "/site.cgi", "REQUEST_URI": "/page"}
    peer = peers.connect(site.socket)
    peers.begin_fastcgi(peer, "", **rewritten)
    assert peers.end_fastcgi(peer).endswith("\r\n\r\n|/page")


def test_a_link_is_found_by_the_path_that_the_shell_searches(linked):
    site = linked("mysite")
    environment = {"PATH": f"{site.site}:/usr/bin:/bin", "HOME": str(site.base)}
    command = ["sh", "-c", "mysite check"]
    done = subprocess.run(command, cwd=site.base, env=environment, capture_output=True, text=True, timeout=60)
    assert str(site.settings) in done.stdout, done.stdout + done.stderr
