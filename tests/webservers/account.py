"""A hosting account on disk: public_html, a Django project, a virtual environment. Knows no web server."""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
APPS = REPOSITORY / "tests" / "apps"
TEMPLATES = REPOSITORY / "htaccess-templates"
ADMIN = ("admin", "a password of the tests")
# As root the site runs as the user that Debian made for web servers, as any other user it runs as that user.
USER = pwd.getpwnam("www-data") if os.getuid() == 0 else pwd.getpwuid(os.getuid())

CONFIG = """\
[app]
path = "{project}"
settings = "myproject.settings"
[server]
runtime_dir = "{runtime}"
"""


class Account:
    """One account, made from a `Model`. Everything in it belongs to the user that the site runs as."""

    def __init__(self, model, binary, htaccess="site", directory=""):
        self.base = new_directory("runfcgi-test-")
        self.home = self.base / "home"
        self.public = self.home / "public_html"
        self.site = self.public / directory
        self.project = self.home / "myproject"
        self.runtime = self.base / "run"
        self.executable = self.site / "mysite.fcgi"
        self.config = self.site / "mysite.toml"
        shutil.copytree(model.home, self.home, ignore=shutil.ignore_patterns("venv", "__pycache__"))
        (self.home / "venv").symlink_to(model.home / "venv")
        self.site.mkdir(parents=True, exist_ok=True)
        if directory:
            shutil.move(self.public / "static", self.site / "static")
        shutil.copy(binary, self.executable)
        self.executable.chmod(0o755)
        self.htaccess(htaccess)
        self.config.write_text(CONFIG.format(project=self.project, runtime=self.runtime))
        give(self.base)

    def htaccess(self, template, into=None):
        """Installs one of htaccess-templates/."""
        target = (into or self.site) / ".htaccess"
        shutil.copy(TEMPLATES / f"{template}.htaccess", target)
        give(target)

    def configure(self, text):
        """Writes mysite.toml; `{project}` and `{runtime}` stand for these directories."""
        self.put(self.config, text.format(project=self.project, runtime=self.runtime))

    def put(self, path, text):
        """Writes a file as an upload under another name and a rename do: never half of it."""
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(text)
        give(fresh)
        fresh.replace(path)

    def code(self, version):
        """Changes the site's code. Each version has another length, so no stale bytecode can hide a change."""
        self.put(self.project / "myproject" / "version.py", f'VERSION = "{version}"\n' + "#" * int(version) + "\n")

    def touch(self):
        """What the owner does to put new code live."""
        os.utime(self.executable)

    def remove(self):
        shutil.rmtree(self.base, ignore_errors=True)


class Model:
    """What all accounts of a test run have in common, made once: environment, project, database, static files.

    It stays ours (root's), so that sites of any user may run what is in it."""

    def __init__(self):
        self.home = new_directory("runfcgi-model-")
        self.python = self.home / "venv" / "bin" / "python"
        system = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
        run(system, "-m", "venv", "--without-pip", self.home / "venv")
        packages = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        # Copied, not installed again, and not linked: the checkout may lie where the site's user cannot read.
        names = ("django", "asgiref", "sqlparse", "flup")
        for name in (*names, "flask", "werkzeug", "jinja2", "markupsafe", "itsdangerous", "click", "blinker"):
            origin = Path(importlib.util.find_spec(name).origin).parent
            shutil.copytree(origin, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(APPS / "djangosite", self.home / "myproject", ignore=shutil.ignore_patterns("__pycache__"))
        for file in (APPS / "plain").glob("*.py"):
            shutil.copy(file, self.home / "myproject")
        (self.home / "db").mkdir()
        (self.home / "public_html").mkdir()
        self.manage("migrate", "--verbosity=0")
        self.manage("collectstatic", "--no-input", "--verbosity=0")
        user = {"DJANGO_SUPERUSER_USERNAME": ADMIN[0], "DJANGO_SUPERUSER_PASSWORD": ADMIN[1]}
        self.manage("createsuperuser", "--no-input", "--email=a@example.com", env={**os.environ, **user})

    def manage(self, *arguments, env=None):
        """Leaves Django's bytecode in the environment, which the sites cannot write: each start would compile it again."""
        env = {**(env or os.environ)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        return run(self.python, self.home / "myproject" / "manage.py", *arguments, env=env)

    def remove(self):
        shutil.rmtree(self.home, ignore_errors=True)


def copy_distribution(name, directory):
    """Copies an installed package and what it requires, as `pip install --target` would install them."""
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        target = directory / file
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(distribution.locate_file(file), target)
    for requirement in distribution.requires or []:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # this Python does without it
            if "extra ==" not in requirement:
                copy_distribution(re.match(r"[\w.-]+", requirement)[0], directory)


def new_directory(prefix):
    """A fresh directory that the web server's user can pass through."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    path.chmod(0o755)
    return path


def give(path):
    """Hands a file or tree over to the user that the site runs as."""
    if os.getuid() != 0:
        return
    os.lchown(path, USER.pw_uid, USER.pw_gid)
    if path.is_dir() and not path.is_symlink():
        for directory, directories, files in os.walk(path):
            for name in directories + files:
                os.lchown(os.path.join(directory, name), USER.pw_uid, USER.pw_gid)


def run(*command, env=None):
    """Runs a command to its end and returns its output; a failure shows all it said."""
    done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
