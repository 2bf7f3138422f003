"""What is tried with sites whose settings change: each case has a site of its own. `CASES` are all, by name.

A case is a function of a site; those of one kind of site run side by side, `at_once` at a time (`Results`).
"""

import functools
import os
import re
import shutil
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import peers
from golive import KINDS, UP_WITHIN, WAYS, WITHIN, Lab, Late, Visitors, changes
from golive import in_time, look, overwrite, rename, shortened
from golive_places import PLACES
from golive_table import DJANGO, TABLE, who
from webservers import processes
from webservers.apache import free_port

# The keys that are changed in every way under every kind; the others in one way under each, so in all of them.
IN_EVERY_WAY = ("env.V", "app.wsgi")


@dataclass
class Case:
    """`run(site)`, under these kinds."""

    name: str
    run: callable
    kinds: tuple = tuple(KINDS)


CASES = {}


def case(name, function, kinds=tuple(KINDS)):
    CASES[name] = Case(name, function, kinds)


class Results:
    """Runs the cases of one kind that were asked for, and keeps what went wrong.

    A few that were late, and no more than that, are tried again when the machine has less to do.
    """

    AT_ONCE, FEW, FEW_AT_ONCE = 16, 12, 3

    def __init__(self, kind, names, build, model):
        self.wrong = {}
        self.notes = {}
        with Lab(kind, build, model) as lab:
            late = [name for name in self._run_all(lab, names, self.AT_ONCE) if name]
            if len(late) <= self.FEW:
                for name in late:
                    self.notes[name] += f", late at first: {self.wrong.pop(name)}\n"
                self._run_all(lab, late, self.FEW_AT_ONCE)

    def _run_all(self, lab, names, at_once):
        """Gives the names of those that were late."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda name: self._run(lab, CASES[name]), names))

    def _run(self, lab, tried):
        begin = time.monotonic()
        site = lab.site(re.sub(r"\W+", "-", tried.name))
        late = False
        try:
            try:
                tried.run(site)
            finally:
                site.stop()
        except Exception as error:
            late = isinstance(error, Late)
            where = traceback.extract_tb(error.__traceback__)
            lines = [f"{step.name}:{step.lineno}" for step in where]
            said = site.logged.read_text(errors="replace") if site.logged.exists() else site.said()
            logged = [line[:200] for line in said.splitlines()[-20:]]
            self.wrong[tried.name] = "\n".join(
                [f"{type(error).__name__}: {error}", " > ".join(lines), "--- the site's log, its end ---", *logged]
            )
        finally:
            site.remove()
            self.notes[tried.name] = self.notes.get(tried.name, "") + f"{time.monotonic() - begin:.1f} s"
        return tried.name if late else None

    def check(self, name):
        print(f"{name}: {self.notes[name]}")
        assert name not in self.wrong, self.wrong[name]


# --- each key ------------------------------------------------------------------------------------------------------


def key_changes(row, number, site):
    """Forwards and back, one change after the other."""
    kind = list(KINDS).index(next(name for name, cls in KINDS.items() if isinstance(site, cls) and type(site) is cls))
    ways = WAYS if row.key in IN_EVERY_WAY else [WAYS[(number + kind) % len(WAYS)]]
    site.configure(*row.settings(row.old))
    site.start()
    request = row.look or (who() if row.visitors else None)
    with Visitors(site, request or who(), row.visitors) as visitors:
        for way in ways:
            for old, new, value in ((*row.seen, row.new), (*row.seen[::-1], row.old)):
                act = functools.partial(way, site.config, site.text(*row.settings(value)))
                if row.look:
                    visitors.change(act, old, new)
                else:
                    changes(site, lambda: row.looks(site), act, old, new)
    if not row.look:
        failed = [f"{a.status}: {shortened(a.text)}" for a in visitors.answers if a.value != "app"]
        assert not failed, f"{len(failed)} failed: {failed[0]}"


for number, row in enumerate(TABLE):
    case(f"key {row.name}", functools.partial(key_changes, row, number), row.kinds)


def sockets(site):
    """A server of its own, whose sockets the file names."""
    port = free_port()
    places = [{"socket": "{home}/one.sock"}, {"socket": "{home}/two.sock"}, {"host": "127.0.0.1", "port": port}]
    site.socket = site.home / "one.sock"
    site.configure({"server": places[0]})
    site.start(words=[])

    def listens_at():
        found = []
        for address in (site.home / "one.sock", site.home / "two.sock", ("127.0.0.1", port)):
            try:
                assert peers.fastcgi(address, "/told").startswith("Status: 200")
                found.append(address)
            except OSError:
                pass
        return found[0] if len(found) == 1 else None

    addresses = [site.home / "one.sock", site.home / "two.sock", ("127.0.0.1", port)]
    for number, way in enumerate((*WAYS, rename)):
        old, new = number % 3, (number + 1) % 3
        changed = site.text({"server": places[new]})
        changes(site, listens_at, functools.partial(way, site.config, changed), addresses[old], addresses[new])


def how(site):
    """What a touch does to the process: `exit` lets the web server start another one."""
    site.configure({"app": {"wsgi": "edited:app"}})

    def goes_live(value, number):
        settings = {"app": {"wsgi": "edited:app"}, "restart": {"how": value}, "env": {"V": str(number)}}
        overwrite(site.config, site.text(settings))
        in_time(lambda: site.ask().told["V"] == str(number), WITHIN, f"{value} is live")
        fronts = site.pids("mysite.fcgi")
        (site.project / "edited.py").write_text(f'import told\n\napp = told.make("edited {number}")\n')
        os.utime(site.executable)
        in_time(lambda: site.ask().told["app"] == f"edited {number}", WITHIN, "new code is live")
        return set(fronts) & set(site.pids("mysite.fcgi"))

    for number, (value, stays) in enumerate((("replace", True), ("exit", False), ("replace", True)), 2):
        assert bool(goes_live(value, number)) == stays, f"{value}: {'no' if stays else 'a'} process stays"


def linger(site):
    """How long the imported app outlives its processes."""
    for number, (before, after) in enumerate(((60, 0), (0, 60))):
        site.configure({"server": {"linger": before}, "env": {"V": str(number)}})
        site.start()
        assert site.ask().told["V"] == str(number)
        overwrite(site.config, site.text({"server": {"linger": after}, "env": {"V": "new"}}))
        in_time(lambda: site.ask().told["V"] == "new", WITHIN, "the new one is live")
        # The preloader of the old code is dismissed.
        in_time(lambda: len(site.pids("runfcgi-preload")) == 1, WITHIN, "one preloader is left")
        site.process.terminate()
        assert site.process.wait(10) == 0
        site.process = None
        if after:
            time.sleep(1.5)
            assert site.pids("runfcgi-preload"), "it has left at once"
            processes.end(site.pids("runfcgi-preload"))
        in_time(lambda: not site.pids("runfcgi-preload"), 3, "it has left")


case("key server.socket, host, port", sockets, ("threaded",))
case("key restart.how", how, ("mod_fcgid",))
case("key server.linger", linger, ("prefork",))


# --- one after the other -------------------------------------------------------------------------------------------


def story(site):
    """Five steps of an owner."""
    site.configure()
    site.start()
    with Visitors(site, look("app", "V")) as visitors:
        visitors.change(lambda: rename(site.config, site.text({"env": {"V": "2"}})), "A 1", "A 2")
        second = {"env": {"V": "2"}, "app": {"wsgi": "b:app"}}
        visitors.change(lambda: rename(site.config, site.text(second)), "A 2", "B 2")
        rename(site.config, site.text(second, {"app": {"wsgi": "b:nope"}}))
        in_time(lambda: "nope" in site.said(), WITHIN, "the log says what is wrong")
        visitors.sees_only("B 2", 1)
        visitors.change(lambda: rename(site.config, site.text({"env": {"V": "2"}})), "B 2", "A 2")
        visitors.sees_only("A 2", 1)


case("story", story)


def several(way, site):
    """Within 3 s: the last one wins."""
    site.configure()
    site.start()

    def act():
        for number, app in enumerate("bab", 2):
            way(site.config, site.text({"app": {"wsgi": f"{app}:app"}, "env": {"V": str(number)}}))
            time.sleep(0.9 if number < 4 else 0)

    with Visitors(site, look("app", "V")) as visitors:
        visitors.change(act, "A 1", "B 2", "A 3", "B 4")
        visitors.sees_only("B 4", 2)


for way in (rename, overwrite):
    case(f"several changes by {way.__name__}", functools.partial(several, way))


def there_and_back(site):
    """A change that is taken back before it is live, or just then."""
    site.configure()
    site.start()
    with Visitors(site, look("V")) as visitors:
        for pause in (0.3, 1.2, 1.9):

            def act():
                overwrite(site.config, site.text({"env": {"V": "2"}}))
                time.sleep(pause)
                overwrite(site.config, site.text())

            visitors.all_see("1")
            at = len(visitors.answers)
            act()
            end = time.monotonic() + WITHIN
            in_time(lambda: time.monotonic() > end, WITHIN + 1, "it has come to rest")
            visitors.sees_only("1", 0.5)
            assert {answer.value for answer in visitors.answers[at:]} <= {"1", "2"}, visitors.last()


case("there and back", there_and_back)


def old_time(site):
    """An upload that keeps the file's time, of a file as long as the one before."""
    site.configure()
    site.start()
    before = os.stat(site.config)

    def act():
        overwrite(site.config, site.text({"env": {"V": "2"}}))
        os.utime(site.config, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert os.stat(site.config).st_size == before.st_size

    with Visitors(site, look("V")) as visitors:
        visitors.change(act, "1", "2")


case("time and size as before", old_time)


# --- what is wrong, and its mending --------------------------------------------------------------------------------


@dataclass
class Fault:
    """`settings`: what mysite.toml says then; `more`: what is appended; `make(site)` does more, `mend(site)` takes that
    back, else the file is made right. `named`: what the log says. `loads`: the file itself is right."""

    settings: dict = None
    more: str = ""
    make: callable = None
    mend: callable = None
    named: str = ""
    loads: bool = True

    def put(self, site, way, *changes):
        way(site.config, site.text(*changes, self.settings or {}) + self.more)
        if self.make:
            self.make(site)


def python(text):
    """An interpreter that does this in place of its work."""

    def make(site):
        site.home.joinpath("odd").write_text("#!/bin/sh\n" + text)
        site.home.joinpath("odd").chmod(0o755)

    return {"settings": {"app": {"python": "{home}/odd"}}, "make": make}


def module(name, text):
    """A module of the app that is so."""
    return lambda site: site.project.joinpath(name).write_text(text)


def has_mode(mode):
    return lambda site: site.config.chmod(mode)


def belongs_to(user):
    return lambda site: os.chown(site.config, user, -1)


APP = 'import told\n\napp = told.make("A")\n'
APART = {"app": {"path": "{home}/apart"}}
ROOT = os.getuid() == 0

FAULTS = {
    "a wrong attribute": Fault({"app": {"wsgi": "b:nope"}}, named="nope"),
    "no such module": Fault({"app": {"wsgi": "nowhere:app"}}, named="nowhere"),
    "a syntax error in the module": Fault(
        {"app": {"wsgi": "broken:app"}}, make=module("broken.py", "def broken(:\n"), named="SyntaxError"
    ),
    "a module that raises": Fault(
        {"app": {"wsgi": "raises:app"}}, make=module("raises.py", "raise OSError('not here')\n"), named="not here"
    ),
    "an import that takes too long": Fault(
        {"env": {"IMPORT_SECONDS": "4"}, "limits": {"start_timeout": 1}}, named="start_timeout"
    ),
    "no such settings module": Fault({"app": {**DJANGO["app"], "settings": "settings_three"}}, named="settings_three"),
    "no such python": Fault({"app": {"python": "/no/such/python"}}, named="/no/such/python"),
    "python is no program": Fault({"app": {"python": "/etc/hostname"}}, named="/etc/hostname"),
    "python ends at once": Fault(**python("echo lib.so is missing >&2; exit 127\n"), named="lib.so is missing"),
    "python is killed": Fault(**python("kill -9 $$\n"), named="was killed (SIGKILL)"),
    "a syntax error": Fault(more="[app\n", named="mysite.toml:", loads=False),
    "an unknown key": Fault({"app": {"setings": "x"}}, named="setings", loads=False),
    "a wrong value": Fault({"server": {"maxchildren": "many"}}, named="maxchildren", loads=False),
    "no app.path yet": Fault(
        APART, named="apart", loads=False, mend=lambda site: shutil.copytree(site.project, site.home / "apart")
    ),
    "others may write it": Fault(make=has_mode(0o664), named="0664", mend=has_mode(0o644), loads=False),
}
if ROOT:
    FAULTS["it is another's"] = Fault(make=belongs_to(54321), named="54321", mend=belongs_to(0), loads=False)


def broken(fault, site):
    """The old one goes on, and when it is mended, that goes live by itself; and so does the next change."""
    site.configure()
    site.start()
    second, third = {"env": {"V": "2"}}, {"env": {"V": "3"}}
    with Visitors(site, look("V")) as visitors:
        visitors.all_see("1")
        fault.put(site, overwrite, second)
        in_time(lambda: fault.named in site.said(), WITHIN + 1, f"the log says {fault.named!r}")
        visitors.sees_only("1", 2)
        mend = fault.mend or (lambda site: overwrite(site.config, site.text(second)))
        visitors.change(lambda: mend(site), "1", "2")
        visitors.change(lambda: rename(site.config, site.text(third)), "2", "3")


def never_worked(fault, wait, site):
    """Then it is mended, and is up soon, without a touch. Its visitors ask all the time."""
    site.config.write_text("")
    fault.put(site, lambda path, text: path.write_text(text))
    site.start()
    with Visitors(site, look("app", "V")) as visitors:
        in_time(lambda: len(visitors.answers) > 2, 20, "answers")
        if fault.named:
            in_time(lambda: fault.named in site.said(), WITHIN, f"the log says {fault.named!r}")
        time.sleep(wait)
        odd = [a for a in visitors.answers if a.status not in (500, 503) or "incident" not in a.text.lower()]
        assert not odd, f"not a page that says that it fails: {odd[0]}"
        mend = fault.mend or (lambda site: overwrite(site.config, site.text()))
        mend(site)
        moment = time.monotonic()
        visitors.all_see("A 1", UP_WITHIN + 4)
        first = next(answer for answer in visitors.answers if answer.value == "A 1")
        late = [answer for answer in visitors.answers if answer.begin > moment + UP_WITHIN and answer.value != "A 1"]
        if late or first.end > moment + UP_WITHIN:
            raise Late(f"up after {first.end - moment:.1f} s, then {late[:1]}")


NEVER = {
    **FAULTS,
    "no settings at all": Fault(
        make=lambda site: site.config.unlink(),
        mend=lambda site: site.config.write_text(site.text()),
        named="mysite.toml",
        loads=False,
    ),
    "a module that comes later": Fault(
        {"app": {"wsgi": "late:app"}}, named="late", mend=lambda site: module("late.py", APP)(site)
    ),
    "a module that is mended": Fault(
        {"app": {"wsgi": "late:app"}},
        named="SyntaxError",
        make=module("late.py", "def broken(:\n"),
        mend=lambda site: module("late.py", APP)(site),
    ),
    "a package that comes later": Fault(
        {"app": {"wsgi": "needs:app"}},
        named="later_package",
        make=module("needs.py", "import later_package\n" + APP),
        mend=lambda site: module("later_package.py", "")(site),
    ),
    "a python that comes later": Fault(
        {"app": {"python": "{home}/python"}},
        named="/python",
        mend=lambda site: (site.home / "python").symlink_to(shutil.which("python3", path="/usr/bin:/bin")),
    ),
}

for name, fault in FAULTS.items():
    case(f"broken: {name}", functools.partial(broken, fault))
for number, (name, fault) in enumerate(NEVER.items()):
    # A server of its own that cannot read its settings at the start says so and does not start.
    kinds = tuple(KINDS) if fault.loads else ("mod_fcgid", "prefork")
    # Some wait so long that pauses between tries have grown.
    case(f"never worked: {name}", functools.partial(never_worked, fault, 8 if number % 2 else 1), kinds)
for name, (function, *kinds) in PLACES.items():
    case(name, function, *kinds)
