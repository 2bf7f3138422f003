"""`init --remote`: the upload that it makes at home, and the site that comes of it by the desk's tasks."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from webservers.account import USER, give
from webservers.apache import Apache
from webservers.desk import Owner
from webservers.processes import until

APP = """\
import six
from markupsafe import _speedups

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(six.__file__ + " " + _speedups.__file__).encode()]
"""
PROJECT = {
    "app.py": APP,
    "requirements.txt": 'markupsafe==2.1.5\nsix==1.17.0; python_version >= "3.9"\ntomli==2.0.1; python_version < "3.9"\n',
    "pages/index.html": "<p>",
    "pages/.env": "PASSWORD=of-home",
    "data/shop.db": "SQLite format 3\0",
    "data/shop.db-journal": "",
    "node_modules/big.js": "",
    "env/pyvenv.cfg": "",
    "__pycache__/app.pyc": "",
    ".git/HEAD": "",
}


class Home:
    """The owner's own computer, with the program and a project."""

    def __init__(self, build, directory):
        self.project = directory / "home" / "shop"
        for name, text in PROJECT.items():
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            (self.project / name).write_text(text)
        (self.project / "manage.sh").touch(0o755)
        (directory / "programs" / "of" / "mine").mkdir(parents=True)
        self.program = Path(shutil.copy(build, directory / "programs" / "of" / "mine"))

    def init(self, *words):
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(self.project.parent)}
        command = [self.program, "init", "--remote", *words]
        return subprocess.run(command, cwd=self.project, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.fixture(scope="module")
def home(build, tmp_path_factory):
    home = Home(build, tmp_path_factory.mktemp("remote"))
    done = home.init()
    assert done.returncode == 0, done.stdout + done.stderr
    home.said, home.upload = done.stdout, home.project / "upload"
    return home


def test_the_site_is_put_together_at_the_desk(home, make_site):
    host = make_site()
    for path in (host.public, host.project, host.home / "venv", host.home / "db"):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    shutil.copytree(home.upload, host.home, dirs_exist_ok=True)
    give(host.home)
    settings = host.config.read_text()
    with Apache(host) as apache:
        desk = Owner(apache.port)
        desk.place, desk.secret = (re.search(f'{key} = "(/-/.*|[0-9a-f]{{32}})"', settings)[1] for key in ("path", "secret"))
        assert f"https://www.example.com{desk.place}" in home.said and desk.secret not in home.said
        desk.open()
        verdict, output = desk.do("unpack")
        assert verdict == "done", output
        verdict, output = desk.do("install", 140)
        assert verdict == "done", output
        desk.begin("restart")
        page = until(lambda: apache.client.get("/").status == 200 and apache.client.get("/").text, 20, "the site serves")
    assert page.count(f"{host.home}/shop/venv/lib/") == 2 and ".so" in page
    assert os.stat(host.home / "shop" / "data").st_uid == USER.pw_uid


def test_what_is_in_the_upload(home):
    public = home.upload / "public_html"
    assert sorted(path.name for path in home.upload.iterdir()) == ["project.zip", "public_html", "wheels"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in public.iterdir()}
    assert modes == {"mysite.fcgi": 0o755, ".htaccess": 0o644, "mysite.toml": 0o600}
    with zipfile.ZipFile(home.upload / "project.zip") as file:
        packed = {member.filename: member.external_attr >> 16 & 0o777 for member in file.infolist()}
    files = {"shop/app.py": 0o644, "shop/requirements.txt": 0o644, "shop/pages/index.html": 0o644, "shop/manage.sh": 0o755}
    assert packed == {**files, "shop/pages/": 0o755, "shop/data/": 0o755}
    for path, why in {
        "pages/.env": "secrets of this computer",
        "data/shop.db": "a database: the site keeps its own",
        "data/shop.db-journal": "a database",
        "node_modules": "not needed",
        ".git": "not needed",
        "env": "a virtual environment",
        "upload": "not part of the project",
    }.items():
        assert f"left out shop/{path}: {why}" in home.said
    assert f"for Python {sys.version_info[0]}." in home.said and "on manylinux2014_" in home.said


def test_an_upload_that_exists(home):
    settings, archive = home.upload / "public_html" / "mysite.toml", home.upload / "project.zip"
    text = settings.read_text()
    archive.write_text("older")
    done = home.init()
    assert done.returncode == 2 and "RF0806 upload: it exists: nothing was written" in done.stderr and "--yes" in done.stderr
    assert archive.read_text() == "older"
    (home.project / "requirements.txt").unlink()
    done = home.init("--yes")
    assert done.returncode == 0 and "packages none: there is no requirements.txt" in done.stdout, done.stderr
    assert zipfile.is_zipfile(archive) and settings.read_text() == text


def test_packages_for_another_python(home):
    """pip itself would take the markers for its own Python."""
    requirements = home.project / "requirements.txt"
    requirements.write_text(PROJECT["requirements.txt"])
    done = home.init("other", "--python", "3.8", "--platform=manylinux2014_aarch64")
    assert done.returncode == 0, done.stderr
    assert "left out shop/upload: an upload made before" in done.stdout
    wheels = sorted(path.name.lower() for path in (home.project / "other" / "wheels").iterdir())
    assert [re.sub("-.*", "", name) for name in wheels] == ["markupsafe", "pip", "tomli"]
    assert "-cp38-cp38-" in wheels[0] and "aarch64" in wheels[0]
    requirements.write_text("markupsafe==2.1.0\n")
    done = home.init("none", "--python", "3.13")
    assert done.returncode == 2 and "requirements.txt: ERROR: No matching distribution found for markupsafe==2.1.0;" in done.stderr
    assert "RF0807" in done.stderr and "Could not find a version" in done.stdout
