"""Who takes part: how each contender is laid out, started and told to take new code.

Knows command lines and files; knows nothing of measuring or of web server configuration.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import procs

HERE = Path(__file__).resolve().parent
# What the slices are measured with, and what some of them bring for themselves.
APPS = {"hello": "hello", "django": "page"}
MODULES = {**APPS, "bodies": "bodies", "waits": "waits", "large": "large"}
STOP_SECONDS = 3

FLUP_FCGI = """#!{python} -B
import sys
sys.path.insert(0, {directory!r})
from {module} import application
from flup.server.fcgi{fork} import WSGIServer
WSGIServer(application{options}).run()
"""
WSGIREF_CGI = """#!{python} -B
import os, sys
sys.path.insert(0, {directory!r})
os.chdir({directory!r})
from wsgiref.handlers import CGIHandler
from {module} import application
CGIHandler().run(application)
"""
WSGI_SCRIPT = """import sys
sys.path.insert(0, {directory!r})
from {module} import application
"""
MYSITE_TOML = """[app]
path = "{directory}"
wsgi = "{module}:application"
python = "{python}"

[env]
HOME = "{directory}"

[server]
runtime_dir = "{directory}/runtime"
"""


class Site:
    """One contender serving one app: a directory of its own with a fresh copy of the app."""

    def __init__(self, contender, app, front, workers, directory, user):
        self.contender = contender
        self.app = app
        self.front = front
        self.workers = workers
        self.module = MODULES[app]
        self.user = user
        self.directory = Path(directory) / f"{contender.name}-{app}-{front}"
        self.socket = self.directory / "site.sock"
        self.program = self.directory / "mysite.fcgi"
        self.port = None
        self.web_log = None
        self.processes = []
        self.environ = {"PATH": "/usr/bin:/bin", "HOME": "/"}
        self.lay()
        words = {**vars(self), "venv": contender.needs.venv, "python": contender.needs.python, "user": user.pw_name}
        self.nginx, self.apache_modules, self.apache = (
            text and text.format(**words) for text in (contender.nginx, contender.apache_modules, contender.apache)
        )

    def lay(self):
        shutil.copytree(HERE / "apps", self.directory, ignore=shutil.ignore_patterns("__pycache__"))
        self.release(1)
        (self.directory / "imports").write_text("")
        needs = self.contender.needs
        subprocess.run([needs.python, "-m", "compileall", "-q", str(self.directory)], check=True, timeout=60)
        self.contender.lay(self)
        if os.geteuid() == 0:
            for path in [self.directory, *self.directory.rglob("*")]:
                os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def release(self, number):
        (self.directory / "release").write_text(f"{number}\n")

    def imports(self):
        """How often the app was imported so far."""
        return (self.directory / "imports").stat().st_size

    def log(self):
        """The end of what it and its web server wrote to standard error and the error log."""
        paths = [self.directory / "log", self.web_log]
        texts = [procs.read(path).decode(errors="replace")[-1000:].strip() for path in paths if path]
        return " | ".join(text for text in texts if text) or "its log is empty"

    def start(self):
        """Starts the contender on its socket; under mod_fcgid the web server does it."""
        if self.front == "nginx":
            self.processes = self.contender.start(self)

    def stop(self):
        """TERM, a little patience, then KILL; also for what it daemonized."""
        for process in self.processes:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(process.poll() is None for process in self.processes):
            time.sleep(0.005)
        procs.kill(procs.members(self.directory))
        for process in self.processes:
            process.wait()
        self.processes = []
        self.socket.unlink(missing_ok=True)

    def restart(self):
        """Tells the contender, in its own way, that there is new code."""
        self.contender.restart(self)

    def spawn(self, command, stdin=subprocess.DEVNULL, stdout=None, **environ):
        """Starts `command` as a web server would: its user, its directory, an environment of PATH and HOME alone."""
        identity = {}
        if os.geteuid() == 0:
            identity = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        with open(self.directory / "log", "ab") as log:
            return subprocess.Popen(
                [str(word) for word in command], stdin=stdin, stdout=stdout or log, stderr=log,
                cwd=self.directory, env={**self.environ, **environ}, **identity,
            )


class Contender:
    """What the kinds have in common. `fronts` and `apps` say where it can take part; `by_name_only`: not unless named;
    `cores`: with no more processes than there are CPUs."""

    fronts = ("nginx", "fcgid")
    apps = tuple(MODULES)
    by_name_only = False
    cores = False
    nginx = "fastcgi_pass unix:{socket};"
    # What Apache is told about it; without: to run the program, by mod_fcgid or as CGI.
    apache_modules = apache = ""

    def __init__(self, name, needs):
        self.name = name
        self.needs = needs

    def processes(self, workers):
        return min(workers, os.cpu_count()) if self.cores else workers

    def restart(self, site):
        if site.front == "nginx":
            site.stop()
            site.start()
        else:
            os.utime(site.program)


class Flup(Contender):
    """flup 1.0.3, threaded or preforked: what Django's own runfcgi ran on."""

    def __init__(self, name, needs, method):
        super().__init__(name, needs)
        self.method = method
        if method == "prefork":
            self.fronts = ("nginx",)

    def lay(self, site):
        options = ""
        if site.front == "nginx":
            options = f", bindAddress={str(site.socket)!r}, minSpare=1, maxSpare={site.workers}"
            if self.method == "prefork":
                options += f", maxChildren={site.workers}"
        fork = "_fork" if self.method == "prefork" else ""
        text = FLUP_FCGI.format(
            python=self.needs.python, directory=str(site.directory), module=site.module, fork=fork, options=options,
        )
        executable(site.program, text.encode())

    def start(self, site):
        return [site.spawn([site.program])]


class Uwsgi(Contender):
    """uWSGI's FastCGI socket: a master, the app loaded once, N workers."""

    fronts = ("nginx",)

    def __init__(self, name, needs, cores=False):
        super().__init__(name, needs)
        self.cores = cores

    def lay(self, site):
        (site.directory / "reload").touch()

    def start(self, site):
        command = [
            self.needs.uwsgi, "--fastcgi-socket", site.socket, "--master", "--processes", site.workers,
            "--virtualenv", self.needs.venv, "--chdir", site.directory, "--module", f"{site.module}:application",
            "--need-app", "--die-on-term", "--disable-logging", "--touch-reload", site.directory / "reload",
        ]
        return [site.spawn(command)]

    def restart(self, site):
        os.utime(site.directory / "reload")


class Gunicorn(Contender):
    """gunicorn's default worker, a process for each request at a time. It speaks HTTP."""

    fronts = ("nginx",)
    nginx = "proxy_pass http://unix:{socket}:; proxy_set_header Host $host;"

    def lay(self, site):
        pass

    def start(self, site):
        command = [
            self.needs.python, "-m", "gunicorn", "--workers", site.workers, "--bind", f"unix:{site.socket}",
            "--chdir", site.directory, "--log-level", "error", f"{site.module}:application",
        ]
        return [site.spawn(command)]

    def restart(self, site):
        site.processes[0].send_signal(signal.SIGHUP)


class ModWsgi(Contender):
    """Apache's mod_wsgi in daemon mode: processes of Apache's own."""

    fronts = ("fcgid",)
    apache_modules = "LoadModule wsgi_module /usr/lib/apache2/modules/mod_wsgi.so\nWSGISocketPrefix ipc/wsgi"
    apache = """WSGIDaemonProcess bench processes={workers} threads=1 python-home={venv} home={directory}
  WSGIScriptAlias / {program} process-group=bench application-group=%{{GLOBAL}}"""

    def lay(self, site):
        site.program = site.directory / "mysite.wsgi"
        site.program.write_text(WSGI_SCRIPT.format(directory=str(site.directory), module=site.module))


class Passenger(ModWsgi):
    """Phusion Passenger within Apache."""

    apache_modules = """LoadModule passenger_module /usr/lib/apache2/modules/mod_passenger.so
PassengerRoot /usr/lib/ruby/vendor_ruby/phusion_passenger/locations.ini
PassengerInstanceRegistryDir {directory}/passenger
PassengerDisableSecurityUpdateCheck On
PassengerDisableAnonymousTelemetry On
PassengerUserSwitching Off
PassengerDefaultUser {user}
PassengerMaxPoolSize {workers}"""
    apache = """DocumentRoot {directory}/public
  PassengerEnabled On
  PassengerAppRoot {directory}
  PassengerAppType wsgi
  PassengerStartupFile mysite.wsgi
  PassengerPython {python}
  PassengerMinInstances {workers}"""

    def lay(self, site):
        super().lay(site)
        for name in ("public", "tmp", "passenger"):
            (site.directory / name).mkdir()
        (site.directory / "tmp" / "restart.txt").touch()

    def restart(self, site):
        os.utime(site.directory / "tmp" / "restart.txt")


class Floor(Contender):
    """A C program on libfcgi: what is left when there is no Python."""

    fronts, apps = ("nginx", "fcgid", "cgi"), ("hello",)

    def lay(self, site):
        executable(site.program, self.needs.floor.read_bytes())

    def start(self, site):
        with listener(site, site.socket) as listening:
            return [site.spawn([site.program], stdin=listening) for _ in range(site.workers)]


class Wsgiref(Contender):
    """Python's own CGIHandler: what a CGI script is without us."""

    fronts = ("cgi",)

    def lay(self, site):
        text = WSGIREF_CGI.format(python=self.needs.python, directory=str(site.directory), module=site.module)
        executable(site.program, text.encode())


class Runfcgi(Contender):
    """Ours. Behind nginx a foreground process with a socket, under mod_fcgid and as CGI a copy named mysite.fcgi."""

    fronts = ("nginx", "fcgid", "cgi")

    def __init__(self, name, needs, binary, settings="", cores=False):
        super().__init__(name, needs)
        self.binary = Path(binary)
        self.settings = settings
        self.cores = cores
        self.by_name_only = bool(settings) or cores

    def lay(self, site):
        name = "runfcgi" if site.front == "nginx" else "mysite.fcgi"
        site.program = site.directory / name
        executable(site.program, self.binary.read_bytes())
        toml = MYSITE_TOML.format(directory=site.directory, module=site.module, python=self.needs.python)
        (site.directory / "mysite.toml").write_text(toml + self.settings)
        (site.directory / "runtime").mkdir(mode=0o700)

    def start(self, site):
        command = [
            site.program, "runfcgi", f"socket={site.socket}", "daemonize=false", "method=prefork",
            f"minspare={site.workers}", f"maxspare={site.workers}", f"maxchildren={site.workers}",
            f"config={site.directory / 'mysite.toml'}",
        ]
        return [site.spawn(command)]

    def restart(self, site):
        os.utime(site.program)


class Loop(Contender):
    """The limit: the app in a plain Python loop, no server at all; one for each CPU."""

    fronts = ()

    def lay(self, site):
        pass

    def run(self, site, seconds):
        """Requests, wall seconds and CPU seconds of one slice."""
        process = site.spawn([self.needs.python, "loop.py", site.module, seconds], stdout=subprocess.PIPE)
        out, _ = process.communicate(timeout=seconds + 30)
        count, wall, cpu = out.split()
        return int(count), float(wall), float(cpu)


def all_contenders(needs, binary, before=None):
    """Every contender in the order they take turns; runfcgi only if there is a binary; `before`: an older one."""
    found = [
        Flup("flup-threaded", needs, "threaded"),
        Flup("flup-prefork", needs, "prefork"),
        Uwsgi("uwsgi", needs),
        Uwsgi("uwsgi-cores", needs, cores=True),
        Gunicorn("gunicorn", needs),
        ModWsgi("mod-wsgi", needs),
        Passenger("passenger", needs),
        Floor("floor", needs),
        Wsgiref("wsgiref", needs),
        Loop("loop", needs),
    ]
    if binary:
        found.append(Runfcgi("runfcgi", needs, binary))
        found.append(Runfcgi("runfcgi-cores", needs, binary, cores=True))
        found.append(Runfcgi("runfcgi-warm", needs, binary, 'warm = "/"\n'))
    if before:
        found.append(Runfcgi("runfcgi-before", needs, before))
    return found


def executable(path, content):
    path.write_bytes(content)
    path.chmod(0o755)


def listener(site, path):
    """A listening unix socket that the site's user owns."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    if os.geteuid() == 0:
        os.chown(path, site.user.pw_uid, site.user.pw_gid)
    listening.listen(128)
    return listening
