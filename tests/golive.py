"""Sites whose owners change them while visitors ask: how they are started and asked, and how a change is made.

Three kinds: under Apache's mod_fcgid, spawned with a listening socket, and as a server of its own. Knows no test.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field

from webservers import fastcgi, processes
from webservers.account import APPS, TEMPLATES, USER, give, new_directory
from webservers.apache import FCGID_ONLY, Apache
from webservers.client import Client
from webservers.processes import until
from webservers.together import Together

# Seconds after a change within which everybody gets the new value.
WITHIN = 5
# Seconds after its mending within which a site that has never worked is up.
UP_WITHIN = 6
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
AS_USER = {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
CLEAN = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
# What tells a person's words from what suexec would let through.
SHELL = {**CLEAN, "HOME": "/"}


@dataclass
class Answer:
    """What one request gave. `status` 0: no answer came, and `text` says why."""

    begin: float
    end: float
    status: int
    text: str
    value: str = ""

    @property
    def told(self):
        assert self.status == 200, f"{self.status}: {self.text[:500]}"
        return json.loads(self.text)


@dataclass
class Look:
    """A request, and what its answer says: `value(answer)`. `variables` are told by who spawned us, not by visitors."""

    value: callable
    path: str = "/told"
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    variables: dict = field(default_factory=dict)


def look(*names, **request):
    """What the app tells under these names."""

    def value(answer):
        if answer.status != 200:
            return f"{answer.status}: {shortened(answer.text)}"
        return " ".join(str(answer.told[name]) for name in names)

    return Look(value, **request)


def shortened(text):
    """A page without its tags."""
    return " ".join(re.sub(r"<style.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL).split())[:200]


# --- sites ---------------------------------------------------------------------------------------------------------


class Site:
    """A site below `home`: the executable in home/www/site, its app in home/app. Below it, how each kind differs."""

    several_fronts = False
    base = {}
    prefix = "/mysite.fcgi"

    def __init__(self, lab, name):
        self.lab = lab
        # No other site may have a path that begins like this one: its processes are known by that.
        self.home = lab.directory / f"{name}.site"
        self.directory = self.home / "www" / "site"
        self.executable = self.directory / "mysite.fcgi"
        self.config = self.directory / "mysite.toml"
        self.project = self.home / "app"
        self.logged = self.home / "site.log"
        self.socket = self.home / "sock"
        self.errors = self.home / "stderr"
        self.reported = []  # to the web server, with an answer
        self.process = None
        shutil.copytree(APPS / "golive", self.project, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(self.project, self.home / "app2")
        (self.home / "app2" / "a.py").write_text((self.project / "b.py").read_text())
        self.directory.mkdir(parents=True)
        # Not copied by this process: what other threads start would have it open for a moment, and it be busy.
        subprocess.run(["cp", lab.build, self.executable], check=True)
        self.executable.chmod(0o755)
        shutil.copy(TEMPLATES / "site.htaccess", self.directory / ".htaccess")
        give(self.home)

    def text(self, *changes):
        """The text of mysite.toml: what all have in common, changed. A value that is None is left out."""
        whole = {
            "app": {"path": str(self.project), "wsgi": "a:app", "python": PYTHON},
            "server": {"runtime_dir": str(self.home / "run")},
            "log": {"file": str(self.logged)},
            "env": {"V": "1"},
        }
        for change in (self.base, *changes):
            for section, keys in change.items():
                whole.setdefault(section, {}).update(copy.deepcopy(keys))
        lines = []
        for section, keys in whole.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None]
        text = "\n".join(lines) + "\n"
        for name, value in (("home", self.home), ("lab", self.lab.directory), ("prefix", self.prefix)):
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def configure(self, *changes):
        self.config.write_text(self.text(*changes))

    def said(self):
        """All that the owner can read."""
        texts = [path.read_text(errors="replace") for path in (self.logged, self.errors) if path.exists()]
        return "\n".join([*texts, *self.reported])

    def pids(self, name):
        """Its processes of this short name."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if processes.comm(pid) == name and os.readlink(f"/proc/{pid}/cwd").startswith(str(self.home)):
                    found.append(int(pid))
            except OSError:
                continue
        return found

    def command(self, *words, **options):
        """A command that the owner gives."""
        options = {"cwd": "/", "env": SHELL, **AS_USER, **options}
        command = [str(self.executable), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=40, **options).stdout

    def start(self, executable=None, **options):
        """Starts it, by this path of the executable."""
        raise NotImplementedError

    def ask(self, request=None, timeout=25, **more):
        """One request, as a `Look` has it or as is said here."""
        request = request or Look(None, **more)
        answer = Answer(time.monotonic(), 0, 0, "")
        try:
            answer.status, answer.text = self._ask(request, timeout)
        except OSError as error:
            answer.text = repr(error)
        answer.end = time.monotonic()
        return answer

    def _ask(self, request, timeout):
        variables = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in request.headers.items()}
        more = {**variables, **request.variables}.items()
        method = "POST" if request.body else "GET"
        path = str(self.socket)
        reply = fastcgi.request(path, request.path, timeout, method=method, body=request.body, more=more)
        self.reported.append(reply.errors)
        return reply.status, reply.failure or reply.text

    def stop(self):
        """Ends it, and whatever it has left."""
        if self.process:
            code = self.process.poll()
            self.process.terminate()
            try:
                self.process.wait(10)
            finally:
                processes.end(processes.touching(self.home))
            assert code is None, f"the process has ended with {code}"

    def remove(self):
        shutil.rmtree(self.home, ignore_errors=True)


class Spawned(Site):
    """Started by spawn-fcgi with its socket as descriptor 0, as lighttpd starts it too. Prefork."""

    program = shutil.which("spawn-fcgi", path="/usr/bin:/usr/sbin")
    environment = CLEAN

    def start(self, executable=None, **options):
        self.socket.unlink(missing_ok=True)
        self._start([self.program, "-n", "-s", self.socket, "--", executable or self.executable], **options)

    def _start(self, command, env=None):
        options = {"cwd": self.home, "env": {**self.environment, **(env or {})}, **AS_USER}
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, **options
            )
        until(self.listens, 20, "it listens")

    def listens(self):
        assert self.process.poll() is None, f"it has ended: {self.said()}"
        try:
            fastcgi.connect(str(self.socket)).close()
            return True
        except OSError:
            return False


class Own(Spawned):
    """A server of its own, threaded."""

    base = {"server": {"method": "threaded"}}
    program = "the executable itself"
    environment = SHELL

    def start(self, executable=None, words=None, **options):
        words = [f"socket={self.socket}"] if words is None else words
        self._start([executable or self.executable, "runfcgi", "daemonize=false", *words], **options)


class Fcgid(Site):
    """Under a real Apache with mod_fcgid, which all sites of a lab share."""

    several_fronts = True

    @property
    def prefix(self):
        return "/" + str(self.directory.relative_to(self.lab.directory))

    def start(self, executable=None, **options):
        """Apache starts it when it is asked for."""

    def said(self):
        return super().said() + "\n" + self.lab.apache.log()

    def _ask(self, request, timeout):
        client = Client(self.lab.apache.port, timeout)
        method = "POST" if request.body else "GET"
        reply = client.request(method, self.prefix + request.path, request.body or None, request.headers)
        return reply.status, reply.body.decode(errors="replace")

    def stop(self):
        for pid in self.pids("mysite.fcgi"):
            os.kill(pid, 15)
        until(lambda: not self.pids("mysite.fcgi"), 8, "the processes have left")
        processes.end(processes.touching(self.home))


KINDS = {"mod_fcgid": Fcgid, "prefork": Spawned, "threaded": Own}


class Lab:
    """Where sites of one kind live, with what they have in common."""

    def __init__(self, kind, build, model):
        self.kind, self.build, self.model = KINDS[kind], build, model
        self.directory = new_directory("runfcgi-live-")
        self.apache = None
        for name in ("one", "two"):
            venv = self.directory / "venvs" / name
            subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(venv)], check=True)
            packages = next(venv.glob("lib/python3*/site-packages"))
            (packages / "flavour.py").write_text(f'FLAVOUR = "of {name}"\n')
        (self.directory / "venvs" / "django").symlink_to(model.home / "venv")

    def __enter__(self):
        if self.kind is Fcgid:
            # `Apache` wants an account; of one it needs no more than this.
            self.base = self.public = self.directory
            self.apache = Apache(self, "FcgidMaxRequestLen 16777216\nMaxRequestWorkers 200\nServerLimit 8\n", FCGID_ONLY)
            self.apache.__enter__()
        return self

    def __exit__(self, *error):
        try:
            if self.apache:
                self.apache.__exit__(*error)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def site(self, name):
        return self.kind(self, name)


# --- how a file is changed -----------------------------------------------------------------------------------------


def rename(path, text):
    """What a careful program does."""
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(path)


def overwrite(path, text):
    """What most editors and FTP clients do."""
    with open(path, "r+b", buffering=0) as file:
        file.truncate(0)
        file.write(text.encode())


def slowly(path, text, pieces=6, seconds=1.5):
    """An upload over a slow line."""
    data = text.encode()
    step = -(-len(data) // pieces)
    with open(path, "r+b", buffering=0) as file:
        file.truncate(0)
        for at in range(0, len(data), step):
            time.sleep(seconds / pieces)
            file.write(data[at : at + step])


WAYS = [rename, overwrite, slowly]


# --- visitors, and what they must see ------------------------------------------------------------------------------


class Late(AssertionError):
    """Nothing wrong was seen, but what is right did not come in time."""


def in_time(condition, seconds, what):
    try:
        return until(condition, seconds, what)
    except AssertionError as error:
        raise Late(error) from None


class Visitors(Together):
    """Visitors who ask again and again, and remember what each answer said."""

    def __init__(self, site, request, count=2, pause=0.3):
        super().__init__([self._visit] * count, patience=65)
        self.site, self.request, self.pause = site, request, pause
        self.count = count
        self.answers = []
        self._outdated = {}

    def _visit(self):
        while not self.over.is_set():
            answer = self.site.ask(self.request)
            answer.value = self.request.value(answer)
            self.answers.append(answer)
            self.over.wait(self.pause)

    def all_see(self, value, seconds=20):
        """Waits until they do."""
        enough = 2 * self.count
        try:
            until(lambda: [a.value for a in self.answers[-enough:]] == [value] * enough, seconds, value)
        except AssertionError:
            raise Late(f"they do not get {value!r} but {self.last()}") from None

    def last(self):
        """What they saw at last, shortened."""
        seen = [answer.value for answer in self.answers[-300:]]
        runs = [value for n, value in enumerate(seen) if n == 0 or value != seen[n - 1]]
        return " → ".join(repr(run[:300]) for run in runs[-6:]) or "no answer"

    def sees_only(self, value, seconds):
        """For so long."""
        at = len(self.answers)
        until(lambda: len(self.answers) > at + 1, 25, "they ask")
        time.sleep(seconds)
        odd = [a.value for a in self.answers[at:] if self._is_odd(a, [value])]
        assert not odd, f"{odd[0]!r} in place of {value!r}"

    def _is_odd(self, answer, values):
        """Where there are several processes, some may for a while give what was before."""
        until_when = self._outdated.get(answer.value, 0) if self.site.several_fronts else 0
        return answer.value not in values and answer.begin > until_when

    def change(self, act, *values):
        """Does what turns the first of `values` into the last. Everybody sees the last one soon, and nothing but these,
        each after the one before; where there are several processes, each changes over at a time of its own."""
        self.all_see(values[0])
        at = len(self.answers)
        act()
        moment = time.monotonic()
        slowest = max(answer.end - answer.begin for answer in self.answers[-20:])
        self.all_see(values[-1], WITHIN + 1 + 3 * slowest)
        seen = self.answers[at:]
        odd = [answer.value for answer in seen if self._is_odd(answer, values)]
        assert not odd, f"{odd[0]!r} between {values}"
        self._outdated.update((value, moment + WITHIN) for value in values[:-1])
        if len(values) == 2:
            early = [answer.value for answer in seen if answer.end < moment and answer.value != values[0]]
            assert not early, f"{early[0]!r} before the change was made"
        late = [answer.value for answer in seen if answer.begin > moment + WITHIN and answer.value != values[-1]]
        if late:
            raise Late(f"still {late[0]!r} after {WITHIN} s")
        if not self.site.several_fronts:
            for before, after in zip(seen, seen[1:]):
                back = values.index(after.value) < values.index(before.value) and after.begin > before.end
                assert not back, f"{after.value!r} again after {before.value!r}"


def changes(site, probe, act, old, new):
    """The same for what no single answer says: `probe()` gives it, or None where it cannot be told."""
    in_time(lambda: probe() == old, 20, f"{old!r} before")
    act()
    moment = time.monotonic()
    seen = 0
    while seen < (4 if site.several_fronts else 2):
        begin = time.monotonic()
        value = probe()
        if value == new:
            seen += 1
            continue
        assert value in (old, None), f"{value!r} between {old!r} and {new!r}"
        if begin > moment + WITHIN:
            raise Late(f"{value!r} and not {new!r} after {WITHIN} s")
        assert not seen or site.several_fronts or value is None, f"{value!r} after {new!r}"
        seen = 0
        time.sleep(0.1)
