"""Web servers before a site, and visitors who notice each failure and each gap: Apache with mod_fcgid, lighttpd with
`bin-path`, nginx with a server of its own behind it."""

import http.client
import os
import shutil
import subprocess
import time
from functools import partial

from plain_site import RUN_AS
from webservers.account import give
from webservers.apache import Apache, free_port
from webservers.load import visit
from webservers.processes import until
from webservers.together import Together

USER = {"user": RUN_AS["uid"], "group": RUN_AS["gid"], "extra_groups": []} if RUN_AS else {}

LIGHTTPD = """\
server.modules = ("mod_fastcgi")
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{public}"
server.errorlog = "{directory}/error.log"
server.breakagelog = "{directory}/breakage.log"
{user}
fastcgi.server = ("/" => (( "bin-path" => "{executable}", "socket" => "{sockets}/fcgi",
    "max-procs" => 2, "check-local" => "disable", "fix-root-scriptname" => "enable" )))
"""

NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include /etc/nginx/fastcgi_params;
    fastcgi_param SCRIPT_NAME "";
    fastcgi_param PATH_INFO $uri;
    upstream kept {{ server unix:{socket}; keepalive 8; }}
    server {{ listen 127.0.0.1:{unix}; location / {{ fastcgi_pass unix:{socket}; }} }}
    server {{ listen 127.0.0.1:{tcp}; location / {{ fastcgi_pass 127.0.0.1:{port}; }} }}
    server {{ listen 127.0.0.1:{keep}; location / {{ fastcgi_pass kept; fastcgi_keep_conn on; }} }}
}}
"""


class Lighttpd:
    """lighttpd that spawns the site by `bin-path`."""

    program = shutil.which("lighttpd", path="/usr/sbin:/usr/bin")

    def __init__(self, account):
        self.account = account
        self.directory = account.base / "server"
        self.port = free_port()

    def __enter__(self):
        sockets = self.directory / "sockets"
        sockets.mkdir(parents=True)
        give(self.directory)
        conf = self.directory / "lighttpd.conf"
        user = 'server.username = "www-data"\nserver.groupname = "www-data"' if os.getuid() == 0 else ""
        account = self.account
        conf.write_text(
            LIGHTTPD.format(
                port=self.port,
                public=account.public,
                directory=self.directory,
                user=user,
                executable=account.executable,
                sockets=sockets,
            )
        )
        self.process = subprocess.Popen(
            [self.program, "-D", "-f", str(conf)], env={"PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL
        )
        listens(self)
        return self

    def __exit__(self, *_):
        stop(self.process)
        print_log(self.directory / "error.log")


class Nginx:
    """nginx, and the site as one process that a person has started: on a unix socket, over TCP, and with connections
    that stay open and carry bodies."""

    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")

    def __init__(self, account):
        self.account = account
        self.directory = account.base / "server"
        self.port, self.tcp, self.keep = free_port(), free_port(), free_port()
        self.targets = [
            (self.port, "GET", "/version/"), (self.tcp, "GET", "/version/"), (self.keep, "POST", "/upload")
        ]

    def __enter__(self):
        self.directory.mkdir()
        give(self.directory)
        socket = self.account.home / "site.sock"
        port = free_port()
        words = ["daemonize=false", f"socket={socket}", "host=127.0.0.1", f"port={port}"]
        with open(self.directory / "site.err", "ab") as errors:
            self.site = subprocess.Popen(
                [str(self.account.executable), "runfcgi", *words], cwd="/", stdin=subprocess.DEVNULL, stderr=errors, **USER
            )
        conf = self.directory / "nginx.conf"
        conf.write_text(
            NGINX.format(
                user="user www-data;" if os.getuid() == 0 else "",
                directory=self.directory,
                socket=socket,
                port=port,
                unix=self.port,
                tcp=self.tcp,
                keep=self.keep,
            )
        )
        self.process = subprocess.Popen(
            [self.program, "-e", str(self.directory / "error.log"), "-c", str(conf)], stdin=subprocess.DEVNULL
        )
        listens(self)
        return self

    def __exit__(self, *_):
        stop(self.process)
        pid = self.site.pid
        assert self.site.poll() is None, f"the site's process {pid} has ended with {self.site.returncode}"
        self.site.terminate()
        assert self.site.wait(8) == 0, self.site.returncode
        print_log(self.directory / "error.log")


def listens(server):
    def answers():
        assert server.process.poll() is None, f"{server.program} did not start"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", "/version/")
            return connection.getresponse().status == 200
        except OSError:
            return False

    until(answers, 20, f"{server.program} serves the site")


def stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def print_log(path):
    if path.exists():
        print(f"--- {path.name}, its end ---", *path.read_text(errors="replace").splitlines()[-30:], sep="\n")


SERVERS = {"apache2": Apache, "lighttpd": Lighttpd, "nginx": Nginx}


class Visits(Together):
    """Visitors of all of a server's addresses who ask again and again and remember every answer."""

    BODY = bytes(range(256)) * 40

    def __init__(self, server):
        each = max(2, 4 // len(server.targets))
        super().__init__([partial(self._visit, *target) for target in server.targets for _ in range(each)])
        self.answers = []

    def __enter__(self):
        super().__enter__()
        until(lambda: len(self.answers) > 40, 20, "the load runs")
        return self

    def __exit__(self, *error):
        self.ended = time.monotonic()
        super().__exit__(*error)

    @property
    def failures(self):
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def versions(self):
        """The version that each answer begins with."""
        return [answer.body.split()[0] if answer.body else "" for answer in list(self.answers)]

    def gap(self, since):
        """The longest time in which nobody got an answer, while there was load: mod_fcgid has visitors who find every
        process busy wait for a second, and who still waits when the others have stopped asking makes no gap."""
        ends = [*sorted(answer.end for answer in self.answers if since < answer.end <= self.ended), self.ended]
        return max(after - before for before, after in zip(ends, ends[1:]))

    def first(self, version):
        """When the first answer of this version came."""
        return min(a.end for a, v in zip(self.answers, self.versions) if v == version)

    def wait_for(self, version, seconds=12):
        until(lambda: self.versions[-6:] == [version] * 6, seconds, f"version {version} is live")

    def _visit(self, port, method, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not self.over.is_set():
            self.answers.append(visit(connection, method, path, self.BODY if method == "POST" else None))
            self.over.wait(0.01)
        connection.close()
