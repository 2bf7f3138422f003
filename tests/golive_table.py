"""The keys of mysite.toml whose effect somebody can see: two values of each, and what is to be seen of them.

A `Row` is looked at in the answers that all visitors get (`look`), or by the owner (`probe(site)`) while visitors ask.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import peers
from golive import Look, look, shortened
from webservers import fastcgi


@dataclass
class Row:
    """`key` has the value `old`, which shows as `seen[0]`, or `new`, which shows as `seen[1]`; None: it is not given.
    `also` stands in the file each time. `visitors`: how many ask beside the probe. `passing`: processes come and go, so
    the probe may give other values for a moment."""

    key: str
    old: object
    new: object
    seen: tuple
    look: Look = None
    probe: callable = None
    also: dict = field(default_factory=dict)
    kinds: tuple = ("mod_fcgid", "prefork", "threaded")
    visitors: int = 2
    passing: bool = False
    name: str = ""

    def __post_init__(self):
        self.name = self.name or self.key

    def settings(self, value):
        """What mysite.toml says with this value."""
        section, key = self.key.split(".")
        return self.also, {section: {key: value}}

    def looks(self, site):
        """What is to be seen now, as far as it can be told."""
        value = self.probe(site)
        return None if self.passing and value not in self.seen else value


# --- what an answer says -------------------------------------------------------------------------------------------


def who(**request):
    """Whether the app answers, or we by ourselves."""
    return Look(lambda answer: "app" if answer.text.startswith("{") else f"we {answer.status}", **request)


def status(*known, **request):
    """Of an answer with another status than these also what it says."""
    return Look(lambda a: str(a.status) if a.status in known else f"{a.status}: {shortened(a.text)}", **request)


def traceback(answer):
    return f"{answer.status} {'with' if 'raised by the app' in answer.text else 'without'}"


# --- what an owner sees --------------------------------------------------------------------------------------------

_numbers = iter(range(100000, 10**9))


def token():
    return f"t{next(_numbers)}t"


def file_with(site, text, seconds=1.5):
    """The log file, by name, that soon has this text."""
    end = time.monotonic() + seconds
    while True:
        for path in site.home.glob("*.log*"):
            if text in path.read_text(errors="replace"):
                return path.name
        if time.monotonic() > end:
            return None
        time.sleep(0.05)


def talk(site):
    said = token()
    site.ask(path=f"/told?lines=1&say={said}")
    return file_with(site, said)


def access(site):
    said = token()
    site.ask(path=f"/told/{said}")
    return file_with(site, said)


def access_format(site):
    said = token()
    site.ask(path=f"/told/{said}")
    if not file_with(site, said):
        return None
    lines = (site.home / "access.log").read_text().splitlines()
    return next(line.split()[-1] for line in reversed(lines) if said in line)


def slow(site):
    said = token()
    site.ask(path=f"/told/{said}?seconds=1.6")
    time.sleep(0.3)
    lines = site.logged.read_text(errors="replace").splitlines()
    return "logged" if any(said in line and "stack" in line for line in lines) else "not logged"


def rotated(site):
    """Whether a log of 12 KB is rotated."""
    older = site.home / "site.log.1"
    older.unlink(missing_ok=True)
    for _ in range(4):
        site.ask(path=f"/told?lines=30&say={'x' * 100}")
    time.sleep(0.2)
    return "rotated" if older.exists() else "grows"


def at_once(site, count, path):
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: site.ask(path=path), range(count)))


def most_workers(site):
    answers = at_once(site, 6, "/told?seconds=0.3")
    return str(len({answer.told["pid"] for answer in answers}))


def threads(site):
    return str(site.ask().told["threads"])


def workers(site):
    return str(len(site.pids("runfcgi-worker")))


def idle_workers(site):
    """Of those that a crowd has called for, some while later."""
    at_once(site, 4, "/told?seconds=0.3")
    time.sleep(2.3)
    return workers(site)


def queue(site):
    return "some wait" if all(a.status == 200 for a in at_once(site, 3, "/told?seconds=0.4")) else "none waits"


def patience(site):
    return "waits" if all(a.status == 200 for a in at_once(site, 2, "/told?seconds=2.4")) else "is sent away"


def worker_changes(site, pause=0.4):
    """Whether a worker serves again, a moment later: its successor has to start first. (Where there are several processes,
    each has its own.)"""
    first = site.ask().told["pid"]
    time.sleep(pause)
    again = any(site.ask().told["pid"] == first for _ in range(4))
    return "the same" if again else "another"


def worker_ages(site):
    return worker_changes(site, 2.3)


def connections(site):
    """Whether a visitor is served while two connections are open, each with the beginning of a body."""
    with fastcgi.connect(str(site.socket)) as one, fastcgi.connect(str(site.socket)) as other:
        for peer in (one, other):
            peer.sendall(fastcgi.encode("/upload", method="POST", body=b"x" * 1000)[:-500])
        time.sleep(0.2)
        return "served" if site.ask(timeout=1).status == 200 else "waits"


def half_request(site):
    """How long who has sent half a request is waited for."""
    with fastcgi.connect(str(site.socket), timeout=3.5) as peer:
        peer.sendall(fastcgi.encode("/told")[:40])
        try:
            return "not long" if peer.recv(1) == b"" else "an answer"
        except TimeoutError:
            return "long"


def slow_sender(site):
    """How long who sends a byte now and then is waited for."""
    with fastcgi.connect(str(site.socket), timeout=10) as peer:
        sent = fastcgi.encode("/told")
        peer.sendall(sent[:40])
        try:
            for byte in sent[40:60]:
                time.sleep(0.15)
                peer.sendall(bytes([byte]))
        except OSError:
            return "not long"
        return "long"


def slow_reader(site):
    """How long who does not take the answer is waited for."""
    with fastcgi.connect(str(site.socket), timeout=10) as peer:
        peer.sendall(fastcgi.encode("/told?more=8000000"))
        time.sleep(3.5)
        size = 0
        try:
            while data := peer.recv(1 << 20):
                size += len(data)
        except OSError:
            pass
        return "long" if size > 8000000 else "not long"


def socket_mode(site):
    return oct(os.stat(site.socket).st_mode & 0o777)


def pidfile(site):
    found = [name for name in ("one.pid", "two.pid") if (site.home / name).exists()]
    return found[0] if len(found) == 1 else None


def protocol(site):
    for name, ask in (("fcgi", peers.fastcgi), ("scgi", peers.scgi)):
        try:
            if ask(site.socket, "/told").startswith("Status: 200"):
                return name
        except (OSError, AssertionError):
            pass
    return None


def runtime(site):
    """Where the processes of the site tell of themselves, if `status` finds them."""
    found = [(path.stat().st_mtime, path.parent.name) for path in site.home.glob("run*/front-*")]
    return max(found)[1] if found and ": serving" in site.command("status") else None


def watched(site):
    """Whether a touch of a file puts new code live."""
    told = token()
    said = f'TOLD = "{told}"\n'
    # Python takes its own byte code for the file's as long as second and size are the same: each has a size of its own.
    (site.project / "edited.py").write_text("import told\n\n" + said + "app = told.make(TOLD)\n" + int(told[1:-1]) % 97 * "\n")
    (site.project / "VERSION").touch()
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        if site.ask().told["app"] in said:
            return "watched"
        time.sleep(0.1)
    return "not watched"


# --- the table -----------------------------------------------------------------------------------------------------

DJANGO = {"app": {"wsgi": None, "python": "{lab}/venvs/django/bin/python"}}
ONE = {"server": {"maxchildren": 1}}
SPAWNED = ("prefork",)
SECRETS = "the first long secret", "the second long secret"
STATUS = {"path": "/st", "secret": SECRETS[0]}


TABLE = [
    Row("env.V", "1", "2", ("1", "2"), look("V")),
    Row("app.wsgi", "a:app", "b:app", ("A", "B"), look("app")),
    Row("app.settings", "settings_one", "settings_two", ("one", "two"), look("app"), also=DJANGO),
    Row("app.path", "{home}/app", "{home}/app2", ("app A", "app2 B"), look("directory", "app")),
    Row("app.python", "{lab}/venvs/one/bin/python", "{lab}/venvs/two/bin/python",
        ("one of one", "two of two"), look("prefix", "flavour")),
    Row("app.script_name", "/one", "/two", ("/one", "/two"), look("script_name")),
    Row("server.ping", "{prefix}/ping", None, ("we 200", "app"), who(path="/ping")),
    Row("server.debug", False, True, ("500 without", "500 with"), Look(traceback, path="/raise")),
    Row("server.method", "prefork", "threaded", ("False", "True"), look("multithread"), kinds=("prefork", "threaded")),
    Row("server.preload", True, False, ("another", "itself"), look("imported by")),
    Row("server.warm", "/warm1", "/warm2", ("['/warm1']", "['/warm2']"), look("warmed")),
    Row("server.remote_user", False, True, ("None", "ann"), look("remote_user", variables={"REMOTE_USER": "ann"}),
        kinds=("threaded",)),
    Row("status.path", "/st", "/other", ("we 200", "app"), who(path="/st", headers={"X-Runfcgi-Secret": SECRETS[0]}),
        also={"status": STATUS}),
    Row("status.secret", *SECRETS, ("app", "we 200"), who(path="/st", headers={"X-Runfcgi-Secret": SECRETS[1]}),
        also={"status": STATUS}),
    Row("limits.max_body", 1000, 100000, ("413", "200"), status(413, 200, path="/upload", body=b"x" * 20000)),
    Row("limits.spool", 1000, "1G", ("413", "200"), status(413, 200, path="/upload", body=b"x" * 100000)),
    Row("limits.max_params", 4096, "64K", ("431", "200"),
        status(431, 200, headers={"X-One": "x" * 4000, "X-Two": "x" * 4000})),
    Row("limits.request_timeout", 1, 60, ("504", "200"), status(504, 200, path="/told?seconds=2.4"), visitors=1),
    Row("log.file", "{home}/one.log", "{home}/two.log", ("one.log", "two.log"), probe=talk),
    Row("log.access", "{home}/one.log", "{home}/two.log", ("one.log", "two.log"), probe=access),
    Row("log.format", "%r one", "%r two", ("one", "two"), probe=access_format,
        also={"log": {"access": "{home}/access.log"}}),
    Row("log.slow_log", 0.3, 0, ("logged", "not logged"), probe=slow),
    Row("log.max_size", 4096, "10M", ("rotated", "grows"), probe=rotated),
    Row("restart.watch", [], ["VERSION"], ("not watched", "watched"), probe=watched, visitors=1,
        also={"app": {"wsgi": "edited:app"}}),
    Row("server.threads", 1, 3, ("1", "3"), probe=threads, passing=True, kinds=("threaded",)),
    Row("server.maxchildren", 1, 3, ("1", "3"), probe=most_workers, kinds=SPAWNED, passing=True),
    Row("server.minspare", 1, 3, ("1", "3"), probe=workers, kinds=SPAWNED, visitors=0, passing=True),
    Row("server.maxspare", 1, 3, ("1", "3"), probe=idle_workers, kinds=SPAWNED, visitors=0, passing=True,
        also={"server": {"idle_timeout": 1}}),
    Row("server.idle_timeout", 1, 60, ("1", "4"), probe=idle_workers, kinds=SPAWNED, visitors=0, passing=True,
        also={"server": {"maxspare": 1}}),
    Row("server.maxrequests", 1, 0, ("another", "the same"), probe=worker_changes, visitors=0),
    Row("server.max_memory", "1M", 0, ("another", "the same"), probe=worker_changes, visitors=0),
    Row("server.max_lifetime", 1, 0, ("another", "the same"), probe=worker_ages, visitors=0),
    Row("limits.queue", 0, 100, ("none waits", "some wait"), probe=queue, kinds=SPAWNED, visitors=0, also=ONE),
    Row("limits.queue_timeout", 1, 60, ("is sent away", "waits"), probe=patience, kinds=SPAWNED, visitors=0, also=ONE),
    Row("limits.max_connections", 2, 100, ("waits", "served"), probe=connections, kinds=SPAWNED, visitors=0),
    Row("limits.read_timeout", 1, 60, ("not long", "long"), probe=half_request, kinds=SPAWNED),
    Row("limits.min_rate", 10000, 0, ("not long", "long"), probe=slow_sender, kinds=SPAWNED,
        also={"limits": {"read_timeout": 1}}),
    Row("limits.write_timeout", 1, 60, ("not long", "long"), probe=slow_reader, kinds=SPAWNED),
    Row("server.runtime_dir", "{home}/run1", "{home}/run2", ("run1", "run2"), probe=runtime),
    Row("server.protocol", "fcgi", "scgi", ("fcgi", "scgi"), probe=protocol, kinds=SPAWNED, visitors=0),
    Row("server.socket_mode", "0600", "0660", ("0o600", "0o660"), probe=socket_mode, kinds=("threaded",)),
    Row("server.pidfile", "{home}/one.pid", "{home}/two.pid", ("one.pid", "two.pid"), probe=pidfile,
        kinds=("threaded",)),
]  # fmt: skip
