"""Real services that a site under test connects to: PostgreSQL, memcached, an HTTP server. Each lives in a directory of
its own and ends with its `with`."""

import glob
import http.server
import os
import shutil
import subprocess
import threading
import urllib.parse

from webservers.account import USER, give, new_directory
from webservers.apache import free_port
from webservers.processes import until
from webservers.recipe import connects

RUN_AS = {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}


class Service:
    """A program of its own directory, run as the user that sites run as."""

    process = None

    def __enter__(self):
        self.directory = new_directory("runfcgi-service-")
        give(self.directory)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, *command):
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=60, **RUN_AS)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def spawn(self, *command):
        log = open(self.directory / "log", "wb")
        with log:
            self.process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log, **RUN_AS)

    def log(self):
        return (self.directory / "log").read_text(errors="replace")


class Postgres(Service):
    """A cluster: without TLS on the unix socket, with it on 127.0.0.1."""

    programs = max(glob.glob("/usr/lib/postgresql/*/bin"), default="", key=lambda path: float(path.split("/")[4]))

    def start(self):
        data, certificate, key = (str(self.directory / name) for name in ("data", "server.crt", "server.key"))
        self.run(f"{self.programs}/initdb", "-D", data, "-U", "site", "-A", "trust", "-N", "-E", "UTF8")
        self.run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
            "-out", certificate, "-keyout", key,
        )  # fmt: skip
        self.port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.directory, "fsync": "off",
            "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key, "shared_buffers": "16MB",
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.spawn(f"{self.programs}/postgres", "-D", data, *options)
        until(lambda: "ready to accept" in self.log() or self.process.poll(), 30, "PostgreSQL listens")
        assert self.process.poll() is None, self.log()

    def dsn(self, tls):
        where = ("127.0.0.1", "require") if tls else (self.directory, "disable")
        return "host={} sslmode={} port={} user=site dbname=postgres".format(*where, self.port)


class Memcached(Service):
    """memcached on a unix socket."""

    program = shutil.which("memcached")

    def start(self):
        self.socket = self.directory / "memcached.sock"
        self.spawn(self.program, "-s", str(self.socket), "-m", "16")
        until(lambda: connects(self.socket), 20, "memcached listens")


class Echo:
    """An HTTP server that keeps connections open and answers with the query."""

    def __enter__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = urllib.parse.urlsplit(self.path).query.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
