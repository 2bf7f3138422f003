"""What the bench needs from outside: found, or installed when asked to.

Knows packages and versions; knows nothing of contenders or measuring.
"""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"
# program or file that proves it -> Debian package that brings it
APT = {
    "/usr/bin/wrk": "wrk",
    "/usr/sbin/nginx": "nginx-light",
    "/usr/sbin/apache2": "apache2",
    "/usr/lib/apache2/modules/mod_fcgid.so": "libapache2-mod-fcgid",
    "/usr/lib/apache2/modules/mod_wsgi.so": "libapache2-mod-wsgi-py3",
    "/usr/lib/apache2/modules/mod_passenger.so": "libapache2-mod-passenger",
    "/usr/bin/gcc": "gcc",
    "/usr/include/fcgiapp.h": "libfcgi-dev",
    "/usr/include/python3*/Python.h": "python3-dev",
    "/usr/lib/python3*/ensurepip/__init__.py": "python3-venv",
}
PIP = ["Django==5.2.*", "flup==1.0.3", "uWSGI==2.0.31", "gunicorn==27.0.1"]
STEP_TIMEOUT = 900


class Needs:
    """Where the needed programs are, below one directory that outlives the run."""

    def __init__(self, directory):
        self.directory = Path(directory).resolve()
        self.venv = self.directory / "venv"
        self.python = self.venv / "bin" / "python"
        self.uwsgi = self.venv / "bin" / "uwsgi"
        self.floor = self.directory / "floor"
        self.slow_files = self.directory / "slow_files.so"

    def missing(self):
        """What is not there yet, one line each."""
        lines = [f"{path} (Debian package {name})" for path, name in missing_apt()]
        if not self.installed():
            lines.append(f"{self.venv} (a venv with {', '.join(PIP)})")
        if not self.floor.exists():
            lines.append(f"{self.floor} (built from apps/floor.c)")
        if not self.slow_files.exists():
            lines.append(f"{self.slow_files} (built from apps/slow_files.c)")
        return lines

    def installed(self):
        """The venv holds what is wanted today."""
        done = self.directory / "installed"
        return done.exists() and done.read_text().split("\n")[:-1] == PIP

    def install(self, say):
        """Installs what is missing and names each thing before it does."""
        packages = [name for _, name in missing_apt()]
        if packages:
            say(f"installing Debian packages: {' '.join(packages)}")
            environ = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
            call(["apt-get", "update", "-q"], environ)
            call(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], environ)
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.installed():
            say(f"building {self.venv} with {', '.join(PIP)} from PyPI")
            # A copy of the interpreter: PSS counts less of a file that processes of others have mapped, too.
            call([PYTHON, "-m", "venv", "--clear", "--copies", str(self.venv)])
            call([str(self.python), "-m", "pip", "install", "-q", *PIP])
            (self.directory / "installed").write_text("\n".join(PIP) + "\n")
        if not self.floor.exists():
            say(f"compiling {self.floor}")
            source = str(HERE / "apps/floor.c")
            call(["gcc", "-O2", "-Wall", "-static", "-o", str(self.floor), source, "-lfcgi"])
        if not self.slow_files.exists():
            say(f"compiling {self.slow_files}")
            source = str(HERE / "apps/slow_files.c")
            call(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(self.slow_files), source, "-ldl"])

    def versions(self):
        """Names and versions of what takes part, for the record."""
        code = (
            "import sys, importlib.metadata as m\n"
            "print('Python', sys.version.split()[0])\n"
            "for n in ('Django', 'flup', 'uWSGI', 'gunicorn'): print(n, m.version(n))\n"
        )
        lines = output([str(self.python), "-c", code]).splitlines()
        for name in ("nginx-light", "nginx", "apache2", "apache2-bin", *(n for n in APT.values() if "lib" in n), "wrk"):
            version = output(["dpkg-query", "-W", "-f", "${Version}", name])
            if version:
                lines.append(f"{name} {version}")
        return lines


def service_user():
    """Who runs servers and apps: the web server's user when we are root, else ourselves."""
    return pwd.getpwnam("www-data") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def unreachable(path, user):
    """The first directory on the way to `path` that `user` may not pass, or None."""
    if os.geteuid() != 0:
        return None
    for parent in reversed(Path(path).resolve().parents):
        info = parent.stat()
        mine = 0o100 if info.st_uid == user.pw_uid else 0o010 if info.st_gid == user.pw_gid else 0o001
        if not info.st_mode & mine:
            return parent
    return None


def missing_apt():
    root = Path("/")
    return [(path, name) for path, name in APT.items() if not any(root.glob(path.lstrip("/")))]


def call(command, environ=None):
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=STEP_TIMEOUT,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout[-3000:]}")


def output(command):
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()
