"""`init`: what it finds, asks and writes; and that the site is served with it, under a real Apache."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from webservers.account import REPOSITORY, TEMPLATES, USER, give
from webservers.apache import Apache

BLOCK = (TEMPLATES / "site.htaccess").read_text()
AS_USER = dict(user=USER.pw_uid, group=USER.pw_gid, extra_groups=[]) if os.getuid() == 0 else {}
APP = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]
"""


class Bare:
    """An account with a project and the executable, and nothing else of ours yet."""

    def __init__(self, make_site, directory=""):
        self.account = make_site(directory=directory)
        self.htaccess = self.account.site / ".htaccess"
        self.settings = self.account.config
        self.htaccess.unlink()
        self.settings.unlink()

    def init(self, *words, here=None):
        """Without a terminal."""
        command = [self.account.executable, "init", *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=here or "/", env={}, **AS_USER)
        return done.returncode, done.stdout + done.stderr

    def at_a_terminal(self, *answers, words=()):
        """(status, what the terminal shows): each answer is typed when a question stands there. None: Ctrl-D."""
        master, slave = pty.openpty()
        command = [self.account.executable, "init", *words]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd="/", env={}, **AS_USER)
        os.close(slave)
        shown, end, answers = b"", time.monotonic() + 30, list(answers)
        try:
            asked = 0
            while time.monotonic() < end:
                if not select.select([master], [], [], 0.1)[0]:
                    continue
                try:
                    piece = os.read(master, 4096)
                except OSError:
                    break
                shown += piece
                if answers and shown.endswith((b"] ", b": ")) and len(shown) > asked:
                    answer = answers.pop(0)
                    os.write(master, b"\x04" if answer is None else answer.encode() + b"\n")
                    asked = len(shown)
            return process.wait(10), shown.decode()
        finally:
            process.kill()
            process.wait()
            os.close(master)

    def left(self):
        """Names in the site's directory that were not there before."""
        return sorted({path.name for path in self.account.site.iterdir()} - {"static", "mysite.fcgi"})


@pytest.mark.parametrize("directory", ["", "shop"])
def test_the_site_is_served(make_site, directory):
    bare = Bare(make_site, directory)
    status, said = bare.init("--yes")
    assert status == 0, said
    up = "../../" if directory else "../"
    text = bare.settings.read_text()
    for line in (f'path = "{up}myproject"', 'settings = "myproject.settings"', f'python = "{up}venv/bin/python3"'):
        assert line in text.splitlines(), text
    assert bare.htaccess.read_text() == BLOCK
    prefix = f"/{directory}" if directory else ""
    assert f"https://www.example.com{prefix}/" in said and str(bare.account.site / "static") in said
    with Apache(bare.account) as apache:
        told = apache.client.get(f"{prefix}/echo/x/").json
        assert told["environ"]["SCRIPT_NAME"] == prefix and told["path_info"] == "/echo/x/"
        assert apache.client.get(f"{prefix}/static/admin/css/base.css").status == 200
        assert apache.client.get(f"{prefix}/mysite.toml").status == 404
    for path in (bare.settings, bare.htaccess):
        assert path.stat().st_uid == USER.pw_uid and path.stat().st_mode & 0o777 == 0o644


def test_a_second_time_changes_nothing(make_site):
    bare = Bare(make_site)
    assert bare.init("--yes")[0] == 0
    before = bare.settings.read_text(), bare.htaccess.read_text()
    status, said = bare.init("--yes")
    assert status == 0 and "nothing is written" in said
    assert (bare.settings.read_text(), bare.htaccess.read_text()) == before
    assert bare.left() == [".htaccess", "mysite.toml"]


def test_lines_of_the_owner_stay(make_site):
    bare = Bare(make_site)
    own = "Redirect 410 /gone\n# BEGIN runfcgi\nOptions +ExecCGI\nAddHandler fcgid-script .fcgi\n# END runfcgi\nAddType text/x-own .own\n"
    bare.account.put(bare.htaccess, own)
    (bare.account.site / "a.own").write_text("own")
    status, said = bare.init("--yes")
    assert status == 0 and "AddHandler fcgid-script .fcgi" in said, said
    before, inside, after = own.partition("# BEGIN")[0], BLOCK.replace("# Options +ExecCGI", "Options +ExecCGI"), own.rpartition("runfcgi\n")[2]
    assert bare.htaccess.read_text() == before + inside + after
    assert (bare.account.site / ".htaccess.bak").read_text() == own
    with Apache(bare.account) as apache:
        assert apache.client.get("/version/").text == "0"
        assert apache.client.get("/gone").status == 410
        assert apache.client.get("/a.own").headers["Content-Type"] == "text/x-own"
        assert apache.client.get("/.htaccess.bak").status in (403, 404)


def test_settings_that_are_there_stay(make_site):
    bare = Bare(make_site)
    above = bare.account.home / "mysite.toml"
    above.write_text('[app]\nwsgi = "other:app"\n')
    give(above)
    status, said = bare.init("--yes")
    assert status == 0 and f"keep     {above}" in said
    assert bare.left() == [".htaccess"] and "other:app" in above.read_text()


def test_settings_in_another_place(make_site):
    bare = Bare(make_site)
    status, said = bare.init("--yes", "--config", "../mysite.toml", here=bare.account.site)
    above = bare.account.home / "mysite.toml"
    assert status == 0 and 'path = "myproject"' in above.read_text() and 'python = "venv/bin/python3"' in above.read_text(), said
    assert bare.left() == [".htaccess"]
    with Apache(bare.account) as apache:
        assert apache.client.get("/version/").text == "0"


@pytest.mark.parametrize(
    "text, line",
    [
        ("AddHandler fcgid-script .fcgi\nRewriteEngine On\nRewriteRule ^(.*)$ mysite.fcgi/$1 [QSA,L]\n", 3),
        ("# BEGIN runfcgi\n", 1),
        (BLOCK + BLOCK, len(BLOCK.splitlines()) + 1),
    ],
)
def test_what_is_not_understood_is_left_alone(make_site, text, line):
    bare = Bare(make_site)
    bare.account.put(bare.htaccess, text)
    status, said = bare.init("--yes")
    assert status != 0 and f"RF0804 {bare.htaccess}:{line}: " in said
    assert bare.left() == [".htaccess"] and bare.htaccess.read_text() == text


def test_a_file_that_cannot_be_read(make_site):
    bare = Bare(make_site)
    bare.htaccess.mkdir()
    status, said = bare.init("--yes")
    assert status != 0 and f"RF0803 {bare.htaccess}: cannot be read" in said and bare.left() == [".htaccess"]


def test_nobody_to_ask(make_site):
    bare = Bare(make_site)
    status, said = bare.init()
    assert status != 0 and "RF0800" in said and "nothing was written" in said and "init --yes" in said
    assert str(bare.htaccess) in said and bare.left() == []


@pytest.mark.parametrize("answer, writes", [("", True), ("y", True), ("n", False), (None, False)])
def test_somebody_is_asked(make_site, answer, writes):
    bare = Bare(make_site)
    status, shown = bare.at_a_terminal(answer)
    assert "Write this? [Y/n]" in shown and (status == 0) == writes, shown
    assert bare.left() == ([".htaccess", "mysite.toml"] if writes else [])


def test_one_of_several_projects_is_chosen(make_site):
    bare = Bare(make_site)
    shutil.copytree(bare.account.project, bare.account.home / "another")
    give(bare.account.home / "another")
    status, said = bare.init("--yes")
    assert status != 0 and "RF0802" in said and "more than one project" in said and "--project" in said and bare.left() == []
    status, shown = bare.at_a_terminal("2", "y")
    assert status == 0 and "1  " in shown and 'path = "../myproject"' in bare.settings.read_text(), shown
    bare.settings.unlink()
    assert bare.init("--yes", f"--project={bare.account.home / 'another'}")[0] == 0
    assert 'path = "../another"' in bare.settings.read_text()


def test_a_project_elsewhere_is_asked_for(make_site):
    bare = Bare(make_site)
    elsewhere = bare.account.home / "code" / "deep" / "myproject"
    elsewhere.parent.mkdir(parents=True)
    bare.account.project.rename(elsewhere)
    status, said = bare.init("--yes")
    assert status != 0 and "RF0801" in said and "no manage.py" in said and bare.left() == []
    status, shown = bare.at_a_terminal(str(elsewhere), "")
    assert status == 0 and 'path = "../code/deep/myproject"' in bare.settings.read_text(), shown


def test_a_plain_wsgi_app(make_site):
    bare = Bare(make_site)
    shutil.rmtree(bare.account.project)
    bare.account.project.mkdir()
    (bare.account.project / "app.py").write_text(APP)
    give(bare.account.project)
    status, said = bare.init("--yes")
    assert status == 0 and 'wsgi = "app:app"' in bare.settings.read_text(), said
    with Apache(bare.account) as apache:
        assert apache.client.get("/hello").text == "/hello"


def test_a_project_below_the_document_root_is_closed(make_site):
    bare = Bare(make_site)
    inside = bare.account.site / "myproject"
    bare.account.project.rename(inside)
    (inside / "notes.txt").write_text("private")
    give(inside)
    status, said = bare.init("--yes")
    assert status == 0 and "keeps them out" in said
    with Apache(bare.account) as apache:
        assert apache.client.get("/version/").text == "0"
        assert apache.client.get("/myproject/notes.txt").status == 403


def test_printed_for_an_upload(make_site):
    """At home, where the executable and the project lie anywhere; the host has the layout of the README."""
    bare = Bare(make_site)
    status, printed = bare.init("--print", f"--project={bare.account.project}")
    assert status == 0 and bare.left() == []
    settings, htaccess = printed.split("--- mysite.toml\n")[1].split("\n--- .htaccess\n")
    bare.account.put(bare.settings, settings)
    bare.account.put(bare.htaccess, htaccess)
    assert htaccess == BLOCK
    with Apache(bare.account) as apache:
        assert apache.client.get("/version/").text == "0"
        assert apache.client.get("/static/admin/css/base.css").status == 200


def test_the_executable_may_have_another_name(make_site):
    bare = Bare(make_site)
    bare.account.executable = bare.account.executable.rename(bare.account.site / "runfcgi")
    status, said = bare.init("--yes")
    assert status != 0 and "RF0805" in said and "rename it" in said and not bare.htaccess.exists()
    bare.account.executable = bare.account.executable.rename(bare.account.site / "shop-2.fcgi")
    assert bare.init("--yes")[0] == 0
    assert (bare.account.site / "shop-2.toml").exists()
    with Apache(bare.account) as apache:
        assert apache.client.get("/version/").text == "0"
        assert apache.client.post("/upload/", bytes(200_000)).json["length"] == 200_000


def test_a_home_full_of_projects_is_not_listed_whole(build, tmp_path):
    home = tmp_path / "var" / "www" / "ann"
    for number in range(11):
        (home / f"project{number}").mkdir(parents=True)
        (home / f"project{number}" / "app.py").write_text(APP)
    (home / "public_html").mkdir()
    executable = shutil.copy(build, home / "public_html" / "mysite.fcgi")
    done = subprocess.run([executable, "init", "--yes"], stdin=subprocess.DEVNULL, capture_output=True, text=True, env={})
    assert done.returncode == 2 and done.stderr.count("WSGI") == 8 and "; and 3 more;" in done.stderr


HOSTS = re.findall(
    r'^\| (.+?) \| `~/(.+?)` \| `~/(.+?)` \| `"(.+?)"` \|$', (REPOSITORY / "deploy" / "hosts" / "README.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("host, root, project, path", HOSTS, ids=[host for host, *_ in HOSTS])
def test_where_things_are_with_a_host(build, tmp_path, host, root, project, path):
    home = tmp_path / "var" / "www" / "ann"  # other tests have projects beside tmp_path
    (home / root).mkdir(parents=True)
    (home / project).mkdir(parents=True)
    (home / project / "app.py").write_text(APP)
    executable = home / root / "mysite.fcgi"
    shutil.copy(build, executable)
    words = ["--yes", "--project", home / project] if "ISPConfig" in host else ["--yes"]
    done = subprocess.run([executable, "init", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    assert f'path = "{path}"' in (home / root / "mysite.toml").read_text()
    page = REPOSITORY / "deploy" / "hosts" / re.search(r"\((.+)\)", host)[1]
    assert f'path = "{path}"' in page.read_text() and "## Ask the host" in page.read_text()
