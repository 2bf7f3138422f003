"""A server of its own, as a person starts it: `mysite.fcgi runfcgi key=value …` in a directory with its settings."""

import shutil
import socket
import subprocess
import threading

import peers
from webservers.processes import end, touching, until

APP = """\
import os, sys, time

def application(environ, start_response):
    query = environ["QUERY_STRING"]
    if query.startswith("sleep="):
        open(os.path.join(os.path.dirname(__file__), "started"), "a").close()
        time.sleep(float(query[6:]))
    if query == "print":
        print("printed by the app", flush=True)
    if query == "talk":
        print("by print\\nforged line")
        sys.stdout.write("by write")
        print("by stderr", file=sys.stderr)
        environ["wsgi.errors"].write("by errors\\n")
        os.write(1, b"by descriptor 1\\n")
        os.write(2, b"by descriptor 2\\n")
        os.system("echo by a program; echo its error >&2")
    said = {"pid": os.getpid(), "cwd": os.getcwd(), "threads": environ["wsgi.multithread"],
            "pythonpath": os.environ.get("PYTHONPATH"), "path": environ["PATH_INFO"],
            "leaked": [n for n in os.environ if n.startswith(("RUNFCGI", "LISTEN", "NOTIFY"))]}
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("%r\\n" % said).encode()]
"""


class Site:
    """A directory with mysite.fcgi, its settings and an app; ends whatever was started in it."""

    def __init__(self, directory, build):
        for above in (directory, *directory.parents):
            if above == directory or above.name.startswith(("pytest-", "popen-")):  # the test runner's, closed to others
                above.chmod(0o755)
        self.directory = directory
        self.executable = directory / "mysite.fcgi"
        self.config = directory / "mysite.toml"
        self.socket = directory / "my.sock"
        shutil.copy(build, self.executable)
        (directory / "app.py").write_text(APP)
        self.config.write_text('[app]\nwsgi = "app:application"\n[server]\nruntime_dir = "run"\n')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.alive())

    def run(self, *words, prefix=(), **options):
        """Runs `./mysite.fcgi runfcgi words` to the end of the process that a shell sees."""
        command = [*prefix, "./mysite.fcgi", "runfcgi", *words]
        options = {"cwd": self.directory, "stdin": subprocess.DEVNULL, "timeout": 40, **options}
        return subprocess.run(command, capture_output=True, text=True, **options)

    def daemon(self, *words, **options):
        """The same; it has to succeed and to be silent."""
        done = self.run(*words, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done

    def foreground(self, *words, **options):
        """The same in the foreground; returns at once."""
        options = {"cwd": self.directory, "stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen(["./mysite.fcgi", "runfcgi", "daemonize=false", *words], **options)

    def ask(self, query="", address=None):
        answer = peers.fastcgi(address or self.socket, "/page", query)
        assert answer.startswith("Status: 200"), answer
        return eval(answer.split("\r\n\r\n", 1)[1])

    def pid(self, name="my.pid"):
        return int((self.directory / name).read_text())

    def alive(self):
        return touching(self.directory)

    def gone(self):
        until(lambda: not self.alive(), 15, f"nothing of ours lives: {self.alive()}")

    def fronts(self):
        return [pid for pid, what in self.alive().items() if what.startswith("mysite.fcgi")]


def free_port(family=socket.AF_INET):
    with socket.socket(family) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(path):
    """Whether somebody accepts there."""
    try:
        peers.connect(path).close()
        return True
    except OSError:
        return False


def in_background(function):
    """Calls it in a thread; `.join()`, then `.result`."""

    class Call(threading.Thread):
        def run(self):
            try:
                self.result = function()
            except Exception as error:
                self.result = error

    call = Call(daemon=True)
    call.start()
    return call
