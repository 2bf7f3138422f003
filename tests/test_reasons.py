"""Why the app cannot be imported: told at the first time, whatever ended the process that was to import it."""

import os
import subprocess
import threading

import pytest

from plain_site import Plain, all_processes, ask, kill, parent
from webservers import processes
from webservers.apache import CGI_ONLY, Apache
from webservers.fastcgi import request
from webservers.processes import until

CONFIG = """\
[app]
path = "{project}"
wsgi = "faults:app"
python = "{python}"
[server]
runtime_dir = "{runtime}"
{server}
[log]
file = "{log}"
[env]
MARKS = "{marks}"
"""
MARK = 'import os, sys\nopen(os.environ["MARKS"] + "/imports", "a").write("%d\\n" % os.getpid())\n'


ENDLESS = "import time\ndef wait():\n    while True: time.sleep(1)\nwait()\n"


def script(text):
    """An interpreter that is a shell script."""
    return lambda account: program(account, f'#!/bin/sh\necho x >> "$MARKS/imports"\n{text}\n')


def program(account, text, mode=0o755):
    path = account.home / "python3"
    path.write_text(text)
    path.chmod(mode)
    return path


def without_library(account):
    """A program that wants a library that is not there."""
    source = account.base / "a.c"
    source.write_text("int gone(void); int main(void) { return gone(); }\n")
    (account.base / "gone.c").write_text("int gone(void) { return 0; }\n")
    library, path = account.base / "libgone.so", account.home / "python3"
    subprocess.run(["gcc", "-shared", "-o", library, account.base / "gone.c"], check=True)
    subprocess.run(["gcc", "-o", path, source, library], check=True)
    library.unlink()
    return path


# Each with the interpreter, and what must be told.
INTERPRETERS = {
    "not executable": (
        lambda account: program(account, "#!/bin/sh\n", 0o644),
        ["home/python3 cannot be executed: Permission denied"],
    ),
    "not there": (lambda account: account.home / "gone/python3", ["gone/python3", "No such file or directory"]),
    "no program": (lambda account: program(account, "host\n"), ["home/python3 cannot be executed: Exec format error"]),
    "its interpreter is not there": (lambda account: program(account, "#!/gone/sh\n"), ["home/python3 cannot be executed: No such"]),
    "ends at once": (script("exit 0"), ["exited with status 0"]),
    "fails": (script("echo first; echo that is why >&2; exit 3"), ["exited with status 3", "that is why"]),
    "killed by a signal": (script("echo before; kill -SEGV $$"), ["SIGSEGV", "before"]),
    "no library": (without_library, ["exited with status 127", "error while loading shared libraries"]),
}
IMPORTS = {
    "os._exit": (MARK + "print('last words')\nsys.stdout.flush()\nos._exit(7)\n", ["exited with status 7", "last words"]),
    "os._exit(0)": (MARK + "os._exit(0)\n", ["exited with status 0"]),
    "sys.exit": (MARK + "sys.exit('no licence')\n", ["SystemExit: no licence"]),
    "segfault": (MARK + "import ctypes\nctypes.string_at(0)\n", ["SIGSEGV", "Segmentation fault", "version.py"]),
    "abort": (MARK + "os.write(2, b'from C')\nos.abort()\n", ["SIGABRT", "from C"]),
}
FORMS = {"preload": "", "plain": "preload = false", "threaded": "method = 'threaded'"}
BOTH = ["preload", "plain"]


class Broken(Plain):
    """A site whose Python or code is broken."""

    def __init__(self, account, server="", python=None, code=None):
        super().__init__(account)
        python = python(account) if python else "/usr/bin/python3"
        account.put(
            account.config,
            CONFIG.format(
                project=account.project, runtime=account.runtime, python=python, server=server, log=self.logged,
                marks=self.marks,
            ),
        )  # fmt: skip
        if code:
            account.put(account.project / "myproject" / "version.py", code)
        os.chmod(self.marks, 0o777)

    def tries(self):
        path = self.marks / "imports"
        return len(path.read_text().split()) if path.exists() else 0


def must_tell(text, words):
    for word in words:
        assert word in text, f"{word!r} is missing in:\n{text}"


@pytest.mark.parametrize("form", BOTH)
@pytest.mark.parametrize("kind", INTERPRETERS)
def test_an_interpreter_that_does_not_run_is_told_of(make_site, manage, kind, form):
    python, words = INTERPRETERS[kind]
    site = Broken(make_site(), FORMS[form], python=python)
    front = manage(site).spawn()
    reply = request(front.socket, "/version")
    assert reply.status == 500 and reply.seconds < 10, reply
    must_tell(reply.errors, words)
    must_tell(site.log(), words)
    assert site.tries() <= 1
    until(lambda: not [pid for pid in all_processes() if parent(pid) == front.pid], 5, "what was tried has ended")


@pytest.mark.parametrize("form", BOTH)
@pytest.mark.parametrize("kind", IMPORTS)
def test_an_import_that_ends_the_process_is_told_of(make_site, manage, kind, form):
    code, words = IMPORTS[kind]
    site = Broken(make_site(), FORMS[form], code=code)
    reply = request(manage(site).spawn().socket, "/version")
    assert reply.status == 500 and reply.seconds < 10, reply
    must_tell(reply.errors, words)
    must_tell(site.log(), words)
    assert site.tries() == 1


def test_fronts_that_wait_for_the_same_import_are_told_all_together(make_site, manage):
    site = Broken(make_site(), code=MARK + "import time\ntime.sleep(1)\nprint('why')\nsys.stdout.flush()\nos._exit(7)\n")
    manager = manage(site)
    replies = []
    visits = [
        threading.Thread(target=lambda: replies.append(request(manager.spawn().socket, "/version"))) for _ in range(4)
    ]
    for visit in visits:
        visit.start()
    for visit in visits:
        visit.join(20)
    assert len(replies) == 4
    for reply in replies:
        must_tell(reply.errors, ["exited with status 7", "why"])
    assert site.tries() == 1
    site.account.code(5)
    front = manager.spawn()
    until(lambda: request(front.socket, "/version").text == "5", 12, "the mended app serves by itself")


def test_a_front_that_finds_no_python_tells_the_others(make_site, manage):
    site = Broken(make_site(), python=lambda account: program(account, "host\n"))
    manager = manage(site)
    tries = set()
    for _ in range(2):
        front = manager.spawn()
        must_tell(request(front.socket, "/version").errors, ["cannot be executed: Exec format error"])
        until(lambda: not [pid for pid in all_processes() if parent(pid) == front.pid], 5, "what was tried has ended")
        tries |= {(path.name, path.stat().st_mtime_ns) for path in site.account.runtime.glob("*.lock")}
    assert len(tries) == 1, "the second did not try"


def test_an_import_that_is_killed_from_outside_is_tried_again(make_plain, manage):
    site = make_plain(env='IMPORT_SECONDS = "0.7"')
    front = manage(site).spawn()
    replies = []
    visit = threading.Thread(target=lambda: replies.append(request(front.socket, "/version")))
    visit.start()
    for tries in (1, 2):
        until(lambda: len(site.imports()) == tries, 10, "the app is being imported")
        kill(site.imports()[-1])
        until(lambda: site.log().count("was killed (SIGKILL)") == tries, 5, "the log tells")
    visit.join(20)
    assert replies[0].status == 200 and len(site.imports()) == 3
    assert "RF0404" in site.log() and "starting another one" in site.log()


@pytest.mark.parametrize("form", BOTH)
def test_the_first_line_has_the_cause_and_the_cure(make_site, manage, form):
    site = Broken(make_site(), FORMS[form], code="import rest_framework\n")
    front = manage(site).spawn()
    reply = request(front.socket, "/version")
    want = "the app cannot be imported: no module named 'rest_framework' (myproject/version.py:1): "
    want += "/usr/bin/python3 -m pip install djangorestframework\nTraceback (most recent call last):\n"
    must_tell(reply.errors, [want])
    must_tell(site.log(), [" incident ", ": " + want.replace("\n", "\n    ")])
    assert site.log().count("Traceback (most recent call last):") == 1, "it is told once"
    until(lambda: want.splitlines()[0] in str(site.status()), 5, "status tells it too")


@pytest.mark.parametrize("server", ["", "preload = false"], ids=["preload", "plain"])
def test_an_endless_import_tells_where_it_is(make_plain, manage, server):
    site = make_plain(server=server, limits="start_timeout = 1")
    site.account.put(site.account.project / "myproject" / "version.py", ENDLESS)
    reply = request(manage(site).spawn().socket, "/version")
    assert reply.status == 500 and reply.seconds < 10, reply
    place = f'it took longer than 1 s ([limits] start_timeout); it was at "{site.account.project}/myproject/version.py", '
    must_tell(reply.errors, [f"the app cannot be imported: {place}line 3 in wait\n", "most recent call first", "line 4 in <mod"])
    must_tell(site.log(), [place])


def test_a_request_that_waits_for_the_import_is_told_so(make_plain, manage):
    site = make_plain(limits="queue_timeout = 1", env='IMPORT_SECONDS = "3"')
    front = manage(site).spawn()
    reply = request(front.socket, "/version")
    assert reply.status == 503, reply
    must_tell(reply.errors, ["RF0319", "no worker was free for 1 s: the app is still being imported"])
    until(lambda: request(front.socket, "/version").status == 200, 10, "the import ends")


@pytest.mark.parametrize("server", ["", "preload = false"], ids=["preload", "plain"])
def test_new_code_that_ends_its_process_does_not_go_live(make_plain, manage, server):
    site = make_plain(server=server)
    front = manage(site).spawn()
    assert ask(front, "/version").text == "0"
    version = site.account.project / "myproject" / "version.py"
    site.account.put(version, MARK + "print('no licence')\nsys.stdout.flush()\nos._exit(9)\n")
    site.account.touch()
    until(lambda: "exited with status 9: no licence" in site.log(), 8, "the log tells why")
    assert len(site.imports()) == 2
    if not server:
        for _ in range(3):
            assert ask(front, "/version").text == "0"
    site.account.code(3)
    site.account.touch()
    until(lambda: request(front.socket, "/version").text == "3", 8, "the mended app is live")


@pytest.mark.parametrize("form", ["preload", "threaded"])
def test_behind_apache(make_site, form):
    site = Broken(make_site(), FORMS[form], python=INTERPRETERS["fails"][0])
    with Apache(site.account) as apache:
        assert apache.client.get("/").status == 500
        must_tell(apache.log(), ["exited with status 3", "that is why"])
        must_tell(site.log(), ["exited with status 3", "that is why"])
    assert site.tries() == 1


@pytest.mark.parametrize("form", BOTH)
def test_behind_apache_as_cgi(make_site, form):
    site = Broken(make_site(), FORMS[form], code=IMPORTS["segfault"][0])
    with Apache(site.account, options=CGI_ONLY) as apache:
        assert apache.client.get("/").status == 500
        must_tell(apache.log(), IMPORTS["segfault"][1])
    assert site.tries() == 1


@pytest.mark.parametrize("form", ["plain", "threaded"])
def test_as_a_server_of_its_own(make_site, form):
    site = Broken(make_site(), FORMS[form], code=IMPORTS["abort"][0])
    address = site.account.base / "s"
    command = [site.account.executable, "runfcgi", "daemonize=false", f"socket={address}"]
    with open(site.account.base / "errors", "w+") as errors:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
        try:
            until(address.exists, 10, "it listens")
            must_tell(request(str(address), "/version").errors, IMPORTS["abort"][1])
            errors.seek(0)
            must_tell(errors.read(), IMPORTS["abort"][1])
        finally:
            server.terminate()
            server.wait(10)
            until(lambda: not processes.touching(site.account.base), 5, "all have left")
    assert site.tries() == 1
