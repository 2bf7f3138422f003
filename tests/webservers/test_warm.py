"""What the preloader does before it forks: nothing that the site can see, and enough for its workers to be small."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from webservers import processes
from webservers.account import give
from webservers.apache import Apache
from webservers.load import Load
from webservers.processes import until

WATCHED_SETTINGS = """\
from myproject.settings import *

MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware", *MIDDLEWARE, "watch.Watch"]
CSRF_USE_SESSIONS = SESSION_SAVE_EVERY_REQUEST = True
DATABASES["default"]["ATOMIC_REQUESTS"] = True
TEMPLATES[0]["OPTIONS"]["context_processors"].append("watch.processor")
"""
WATCH = """\
from pathlib import Path

from django.core import signals
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.test.signals import setting_changed

SEEN = Path(__file__).parent.parent / "db" / "seen"


def note(what):
    with SEEN.open("a") as file:
        file.write(what + "\\n")


for name in ("request_started", "request_finished", "got_request_exception"):
    getattr(signals, name).connect(lambda name=name, **_: note(name), weak=False)
connection_created.connect(lambda **_: note("database"), weak=False)
setting_changed.connect(lambda **_: note("setting"), weak=False)


def processor(request):
    note("context processor")
    return {}


class Watch:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        note(request.path)
        return self.get_response(request)
"""
FLUP = """\
#!{python}
import os
import sys

sys.path.insert(0, "{project}")
os.environ["DJANGO_SETTINGS_MODULE"] = "myproject.settings"
from django.core.wsgi import get_wsgi_application
from flup.server.fcgi import WSGIServer

WSGIServer(get_wsgi_application()).run()
"""
PROCESSES = 8
SHARE = 1 / 3  # of flup's memory; 0.31 was measured


def test_a_site_sees_nothing_of_the_warming(site):
    (site.project / "watched_settings.py").write_text(WATCHED_SETTINGS)
    (site.project / "watch.py").write_text(WATCH)
    give(site.project)
    site.configure('[app]\npath = "{project}"\nsettings = "watched_settings"\n[server]\nruntime_dir = "{runtime}"\n')
    with Apache(site) as apache:
        assert apache.client.get("/version/").text == "0"
        seen = site.home / "db" / "seen"
        until(lambda: "request_finished" in seen.read_text(), 5, "the request is over")
        assert seen.read_text().splitlines() == ["request_started", "/version/", "database", "request_finished"]
        assert "warming" not in apache.log()


def test_eight_processes_take_a_fraction_of_what_flup_takes(site):
    """PSS of everything of the site, after eight visitors have read a page again and again."""
    site.configure(site.config.read_text() + 'warm = "/version/"\n')
    script = site.public / "flup.fcgi"
    script.write_text(FLUP.format(python=site.home / "venv" / "bin" / "python", project=site.project))
    script.chmod(0o755)
    give(script)
    with Apache(site) as apache:
        ours = memory(apache, "", lambda: processes.named(site.base, "mysite.fcgi"))
        assert len(processes.named(site.base, "runfcgi-worker")) == PROCESSES
        ours += sum(pss(pid) for name in ("runfcgi-preload", "runfcgi-worker")
                    for pid in processes.named(site.base, name))  # fmt: skip
        flup = memory(apache, "/flup.fcgi", lambda: running(site.base, script))
    print(f"runfcgi {ours:.1f} MB, flup {flup:.1f} MB: {ours / flup:.2f}")
    assert ours <= SHARE * flup


def memory(apache, prefix, find):
    """MB of the web server's children of a site, which all have served pages."""
    with ThreadPoolExecutor(PROCESSES) as visitors:
        paths = [f"{prefix}/slow/?seconds=3&mark=m{n}" for n in range(PROCESSES)]
        assert {reply.status for reply in visitors.map(apache.client.get, paths)} == {200}
    until(lambda: len(find()) >= PROCESSES, 5, f"{PROCESSES} processes")
    with Load(apache.port, prefix + "/version/", PROCESSES, pause=0) as load:
        until(lambda: len(load.answers) > 1000, 60, "the pages are read")
    assert not load.failures, load.failures[:3]
    return sum(pss(pid) for pid in find()) * PROCESSES / len(find())


def running(directory, script):
    """The processes that interpret a script."""
    return [pid for pid, line in processes.touching(directory).items() if f" {script} " in line]


def pss(pid):
    """The memory of a process in MB, where a page that several processes share counts as a part for each."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
