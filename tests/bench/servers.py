"""The real web servers in front: one instance with a port for each site, all in one directory, on 127.0.0.1.

Knows configuration files; knows nothing of contenders beyond a site's directory, program and own lines.
"""

import os
import socket
import subprocess
import time

import procs

START_SECONDS = 10
STOP_SECONDS = 15

NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log error; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 10000000; keepalive_timeout 600;
  client_body_temp_path {directory}/body; fastcgi_temp_path {directory}/fastcgi;
  proxy_temp_path {directory}/proxy; scgi_temp_path {directory}/scgi; uwsgi_temp_path {directory}/uwsgi;
  fastcgi_read_timeout 60; client_max_body_size 64m;
  fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD $request_method;
  fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;
  fastcgi_param SCRIPT_NAME ""; fastcgi_param PATH_INFO $uri; fastcgi_param REQUEST_URI $request_uri;
  fastcgi_param SERVER_PROTOCOL $server_protocol; fastcgi_param GATEWAY_INTERFACE CGI/1.1;
  fastcgi_param REMOTE_ADDR $remote_addr; fastcgi_param REMOTE_PORT $remote_port;
  fastcgi_param SERVER_ADDR $server_addr; fastcgi_param SERVER_PORT $server_port; fastcgi_param SERVER_NAME $server_name;
{sites}
}}
"""
NGINX_SITE = "  server {{ listen 127.0.0.1:{port}; location / {{ {nginx} }} }}"

APACHE = """
ServerRoot {directory}
DefaultRuntimeDir {directory}
PidFile {directory}/apache.pid
ErrorLog {directory}/error.log
LogLevel error
ServerName 127.0.0.1
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
{user}
StartServers 1
ServerLimit 2
ThreadsPerChild 64
MaxRequestWorkers 128
Suexec Off
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
{programs}
{sites}
"""
# What runs the sites' programs.
FCGID = """
LoadModule fcgid_module {modules}/mod_fcgid.so
FcgidIPCDir {directory}/ipc
FcgidProcessTableFile {directory}/fcgid_shm
FcgidMaxProcessesPerClass {workers}
FcgidMinProcessesPerClass {workers}
FcgidMaxRequestLen 67108864
"""
CGID = """
LoadModule cgid_module {modules}/mod_cgid.so
ScriptSock {directory}/ipc/cgid
"""
APACHE_SITE = """
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
  {lines}
  <Directory {directory}>
    Require all granted
  </Directory>
</VirtualHost>
"""
APACHE_PROGRAM = """Alias / {program}/
  <Directory {directory}>
    Options +ExecCGI
    SetHandler {handler}
  </Directory>"""


class Nginx:
    """nginx, with each site's unix socket behind a port of its own."""

    def __init__(self, directory, sites, user):
        self.directory = directory
        blocks = "\n".join(NGINX_SITE.format(port=site.port, nginx=site.nginx) for site in sites)
        role = f"user {user.pw_name};" if os.geteuid() == 0 else ""
        conf = directory / "nginx.conf"
        conf.write_text(NGINX.format(directory=directory, user=role, sites=blocks))
        self.command = ["/usr/sbin/nginx", "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(conf)]


class Apache:
    """Apache, event MPM, with a port for each site: its program under mod_fcgid, or a module of its own."""

    programs, handler = FCGID, "fcgid-script"

    def __init__(self, directory, sites, user):
        self.directory = directory
        blocks = "\n".join(site.apache_modules for site in sites)
        for site in sites:
            lines = site.apache or APACHE_PROGRAM.format(
                program=site.program, directory=site.directory, handler=self.handler
            )
            blocks += APACHE_SITE.format(port=site.port, directory=site.directory, lines=lines)
        role = ""
        (directory / "ipc").mkdir(exist_ok=True)
        if os.geteuid() == 0:
            role = f"User {user.pw_name}\nGroup #{user.pw_gid}"
            os.chown(directory / "ipc", user.pw_uid, user.pw_gid)
        conf = directory / "apache.conf"
        workers = max(site.workers for site in sites)
        words = {"directory": directory, "modules": "/usr/lib/apache2/modules", "workers": workers}
        conf.write_text(APACHE.format(**words, programs=self.programs.format(**words), sites=blocks, user=role))
        self.command = ["/usr/sbin/apache2", "-f", str(conf), "-DFOREGROUND"]


class ApacheCgi(Apache):
    """The same with mod_cgid: a process for each request."""

    programs, handler = CGID, "cgi-script"


FRONTS = {"nginx": Nginx, "fcgid": Apache, "cgi": ApacheCgi}


class Stage:
    """A web server with its sites, running inside a `with`. `boot=False` leaves the sites to the caller; `wrap`: a command
    that runs the web server."""

    def __init__(self, directory, front, sites, boot=True, wrap=()):
        self.directory = directory / f"{front}-{time.monotonic_ns()}"
        self.directory.mkdir()
        self.sites = sites
        self.boot = boot
        for site, port in zip(sites, free_ports(len(sites))):
            site.port = port
            site.web_log = self.directory / "error.log"
        self.server = FRONTS[front](self.directory, sites, sites[0].user)
        self.server.command = [*wrap, *self.server.command]
        self.process = None

    def __enter__(self):
        try:
            with open(self.directory / "out", "wb") as out:
                self.process = subprocess.Popen(
                    self.server.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    env={"PATH": "/usr/bin:/bin"}, start_new_session=True,
                )
            for site in self.sites:
                if self.boot:
                    site.start()
                self.await_port(site.port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process:
            below = set(procs.below(self.process.pid))
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            procs.kill(below.intersection(procs.below(os.getpid())))
        for site in self.sites:
            site.stop()
        procs.reap()

    def await_port(self, port):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.005)
        logs = [path.read_text()[-2000:] for path in self.directory.glob("*") if path.name in ("out", "error.log")]
        raise SystemExit(f"the web server in {self.directory} did not start: {' '.join(logs)}")


def free_ports(count):
    """Ports that nobody listens on just now."""
    held = []
    for _ in range(count):
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        held.append(listening)
    ports = [listening.getsockname()[1] for listening in held]
    for listening in held:
        listening.close()
    return ports
