"""Web servers that run from the very files in deploy/, with the site's places put in for the examples. Knows no scene."""

import os
import re
import shutil
import signal
import socket
import subprocess

from . import processes
from .account import REPOSITORY, USER, Account, give
from .apache import free_port
from .client import Client
from .processes import until

DEPLOY = REPOSITORY / "deploy"
METHODS = ["threaded", "prefork"]
CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

NGINX = """\
daemon off;
worker_processes 2;
pid {server}/nginx.pid;
error_log stderr error;
events {{ worker_connections 256; }}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    client_body_temp_path {server}/body;
    proxy_temp_path {server}/proxy;
    fastcgi_temp_path {server}/fastcgi;
    scgi_temp_path {server}/scgi;
    uwsgi_temp_path {server}/uwsgi;
    include {server}/site.conf;
}}
"""

LIGHTTPD = """\
server.document-root = "/var/empty"
server.bind = "127.0.0.1"
server.port = {port}
server.upload-dirs = ( "{server}" )
server.errorlog = "{server}/lighttpd.log"
mimetype.assign = ( ".css" => "text/css", ".txt" => "text/plain", ".ico" => "image/x-icon" )
include "{server}/site.conf"
"""

# What Debian's Apache has loaded before any a2enmod; alias and mime are among it.
APACHE_MODULES = "mpm_event authn_core authz_core authz_host alias dir mime env setenvif filter"

APACHE = """\
ServerName 127.0.0.1
ServerRoot {server}
DefaultRuntimeDir {server}
PidFile {server}/httpd.pid
ErrorLog {server}/apache.log
LogLevel warn
Listen 127.0.0.1:{port}
{modules}
TypesConfig /etc/mime.types
StartServers 1
ServerLimit 2
ThreadsPerChild 25
MaxRequestWorkers 50
<IfModule cgid_module>
    ScriptSock {server}/cgid.sock
</IfModule>
<IfModule fcgid_module>
    FcgidIPCDir {server}/fcgid
    FcgidProcessTableFile {server}/fcgid.shm
    # As an ordinary user mod_fcgid does not start while there is a suexec.
    Suexec Off
</IfModule>
<Directory />
    Require all denied
    AllowOverride None
</Directory>
Include {server}/site.conf
"""


def recipe(name, *replacements):
    """The text of a file in deploy/; each `(example, value)` must stand in it, outside of comments too."""
    text = (DEPLOY / name).read_text()
    for example, value in replacements:
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        assert example in code, f"deploy/{name} does not say {example!r}"
        text = text.replace(example, str(value))
    assert "example" not in "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")), text
    return text


class Site:
    """An account with files that the web server serves by itself, and the programs that a test starts for it."""

    def __init__(self, model, build, config="", htaccess=None):
        self.traits = set()
        self.paths = {}
        self.live_within = 4
        self.account = Account(model, build)
        self.base = self.account.base
        self.sock = self.base / "mysite.sock"
        self.port = free_port()
        self.log = self.base / "programs.log"
        self.server = self.base / "server"
        self.programs = []
        if htaccess is None:
            (self.account.site / ".htaccess").unlink()
        media = self.account.public / "media"
        media.mkdir()
        (media / "hello.txt").write_text("hello from the web server\n")
        (media / "favicon.ico").write_bytes(b"\0\0\1\0 an icon")
        self.server.mkdir()
        self.log.touch()
        give(self.base)
        self.account.configure(
            '[app]\npath = "{project}"\nsettings = "myproject.settings"\n[server]\nruntime_dir = "{runtime}"\n' + config
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            left = self.stop()
        finally:
            print("--- what the programs said, the end of it ---", *self.said().splitlines()[-80:], sep="\n")
            self.account.remove()
        if kind is None:
            assert not left, f"still there at the end: {left}"

    def said(self):
        logs = [self.log, *sorted(self.server.glob("*.log"))]
        return "".join(path.read_text(errors="replace") for path in logs if path.exists())

    def runfcgi(self, *options, ready=None, umask=0o022, **how):
        """`mysite.fcgi runfcgi …` in the foreground, ready when it listens."""
        words = [str(self.account.executable), "runfcgi", "daemonize=false", *options]
        return self.start(words, ready or options, umask=umask, **how)

    def start(self, command, ready, user=USER, umask=0o022, **how):
        """Starts a program of the site; waits until the socket or port that `ready` names takes connections."""
        account = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[]) if os.getuid() == 0 else {}
        account.update(how)
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.base,
                env={**CLEAN, "HOME": str(self.account.home), "TMPDIR": str(self.server)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=umask,
                start_new_session=True,
                **account,
            )
        self.programs.append(process)

        def listens():
            assert process.poll() is None, f"{command[0]} ended: {process.returncode}\n{self.said()}"
            return connects(ready)

        until(listens, 20, f"{command[0]} listens")
        return process

    def stop(self):
        """Ends what was started, the web server first; returns the processes that did not leave."""
        for process in reversed(self.programs):
            end(process)
        self.programs.clear()
        try:
            until(lambda: not processes.touching(self.base), 8, "the site's processes have left")
        except AssertionError:
            left = processes.touching(self.base)
            processes.end(left)
            return left
        return {}

    @property
    def client(self):
        return Client(self.port, timeout=40)


def nginx(site, text):
    """Starts an nginx with this configuration of a site."""
    for name in ("fastcgi_params", "scgi_params"):
        shutil.copy(f"/etc/nginx/{name}", site.server)
    write(site.server / "site.conf", text)
    main = write(site.server / "nginx.conf", NGINX.format(server=site.server))
    return site.start(["/usr/sbin/nginx", "-e", "stderr", "-p", site.server, "-c", main], ready=site.port)


def lighttpd(site, text):
    """Starts a lighttpd with this configuration of a site."""
    write(site.server / "site.conf", text)
    main = write(site.server / "lighttpd.conf", LIGHTTPD.format(server=site.server, port=site.port))
    return site.start(["/usr/sbin/lighttpd", "-D", "-f", main], ready=site.port)


def apache(site, name, *replacements):
    """Starts an Apache with this recipe and the modules that it names."""
    named = re.search(r"a2enmod ([a-z_ ]+)", (DEPLOY / name).read_text())[1]
    names = f"{APACHE_MODULES} {named}".split()
    modules = "".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n" for m in names)
    places = [("*:80", f"127.0.0.1:{site.port}"), ("example.com", "127.0.0.1")]
    write(site.server / "site.conf", recipe(name, *places, ("/home/user/public_html", site.account.public), *replacements))
    main = write(site.server / "apache.conf", APACHE.format(server=site.server, port=site.port, modules=modules))
    return site.start(["/usr/sbin/apache2", "-d", site.server, "-f", main, "-D", "FOREGROUND"], ready=site.port)


def end(process, seconds=15):
    """Asks a program to leave, as an init script does."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connects(ready):
    """`ready` is a port, the path of a unix socket, or options of runfcgi."""
    if isinstance(ready, (tuple, list)):
        options = dict(word.split("=", 1) for word in ready if "=" in word)
        ready = options["socket"] if "socket" in options else int(options["port"])
    unix = not isinstance(ready, int)
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as probe:
        return probe.connect_ex(str(ready) if unix else ("127.0.0.1", ready)) == 0


def write(path, text):
    path.write_text(text)
    give(path)
    return path
