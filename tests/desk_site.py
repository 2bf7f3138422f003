"""A site with an owner's desk, as a web server that speaks SCGI sees it; and what its owner's browser does there."""

import html
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from webservers.processes import left_behind, until

SECRET = "a-long-random-secret"
DESK = "/-/desk"
APP = """
def application(environ, start_response):
    if environ["PATH_INFO"] == "/raise":
        raise ValueError("<what> was sent")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [("app " + environ["REQUEST_METHOD"] + " " + environ["PATH_INFO"]).encode()]
"""
SETTINGS = """
[app]
path = "."
wsgi = "desk_app:application"
python = "{python}"
[server]
protocol = "scgi"
runtime_dir = "run"
linger = 0
[log]
file = "site.log"
access = "access.log"
format = "%h %r %q %U %>s %{{Cookie}}i"
"""
OWNER = f"""
[owner]
path = "{DESK}"
secret = "{SECRET}"
"""


class DeskSite:
    """A site in a directory of its own, and its fronts."""

    def __init__(self, build, settings=SETTINGS + OWNER):
        self.dir = Path(tempfile.mkdtemp(prefix="runfcgi-desk-"))
        self.exe = self.dir / "mysite.fcgi"
        shutil.copy(build, self.exe)
        self.exe.chmod(0o755)
        (self.dir / "desk_app.py").write_text(APP)
        self.settings = self.dir / "mysite.toml"
        self.configure(settings)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.dir / "s"))
        self.listener.listen(64)
        self.fronts = []

    def configure(self, settings):
        new = self.dir / "new.toml"
        new.write_text(settings.format(python=sys.executable))
        new.chmod(0o600)
        new.replace(self.settings)

    def start(self):
        """One more front, as a web server spawns it."""
        with open(self.dir / "err.log", "ab") as errors:
            front = subprocess.Popen([self.exe], stdin=self.listener, stdout=errors, stderr=errors, cwd=self.dir)
        self.fronts.append(front)

    def log(self):
        texts = [self.dir / name for name in ("site.log", "err.log", "access.log")]
        return "".join(text.read_text() for text in texts if text.exists())

    def stop(self):
        """Ends the fronts, and waits until all processes of the site have left."""
        for front in self.fronts:
            front.terminate()
        for front in self.fronts:
            front.wait(20)
        until(lambda: left_behind(self.dir / "run") == [], 10, "all have left")

    def remove(self):
        self.stop()
        shutil.rmtree(self.dir)


class Reply:
    def __init__(self, raw):
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = [line.split(": ", 1) for line in lines]
        self.headers = {name: value for name, value in fields}
        self.status = int(self.headers["Status"].split()[0])
        self.body = body
        self.text = body.decode()

    @property
    def token(self):
        return re.search(r'name="token" value="([^"]*)"', self.text)[1]

    @property
    def words(self):
        """What can be read on the page, without its style."""
        shown = re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", self.text)
        return " ".join(html.unescape(shown).split())


class Browser:
    """Keeps the cookie and speaks to a site, `below` a path of its host. `variables` go with each request."""

    def __init__(self, site, below="", **variables):
        self.site = site
        self.below = below
        self.variables = {"REMOTE_ADDR": "203.0.113.7", "HTTPS": "on", **variables}
        self.cookie = ""

    def request(self, method, path, body=b"", **variables):
        environ = {"CONTENT_LENGTH": str(len(body)), "SCGI": "1", "REQUEST_METHOD": method}
        environ |= {"SCRIPT_NAME": self.below, "REQUEST_URI": self.below + path, "PATH_INFO": path, "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1"}
        if self.cookie:
            environ["HTTP_COOKIE"] = self.cookie
        environ |= self.variables | variables
        block = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in environ.items())
        raw = b""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(self.site.dir / "s"))
            client.sendall(b"%d:%b," % (len(block), block) + body)
            while piece := client.recv(65536):
                raw += piece
        reply = Reply(raw)
        if "Set-Cookie" in reply.headers:
            self.cookie = reply.headers["Set-Cookie"].split(";")[0]
        return reply

    def get(self, path=DESK, **variables):
        return self.request("GET", path, **variables)

    def post(self, path=DESK, fields=(), **variables):
        return self.request("POST", path, urlencode(fields).encode(), **variables)

    def open(self):
        """Gives the secret, and comes back with the page that the desk sends them to."""
        reply = self.post(fields={"secret": SECRET})
        assert reply.status == 303, reply.text
        return self.get(reply.headers["Location"])

    def do(self, rest, **fields):
        """Sends a form of the desk."""
        return self.post(DESK + rest, {"token": self.get().token, **fields})
