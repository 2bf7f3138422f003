"""`check --url` against the real Apache that serves the site: what arrives of requests, and what visitors get."""

import hashlib
import hmac
import json
import os
import pwd
import re
import socket
import subprocess
import unittest

import pytest

from bridge import each_python
from webservers.account import REPOSITORY, USER, Account
from webservers.apache import CGI_ONLY, MODULES, Apache, free_port
from webservers.processes import until

FETCH = (REPOSITORY / "src" / "check" / "fetch.py").read_text()
TLS = """\
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
<IfModule !mod_socache_shmcb.c>
    SSLSessionCache none
</IfModule>
Listen 127.0.0.1:{tls}
<VirtualHost 127.0.0.1:{tls}>
    SSLEngine on
    SSLCertificateFile {certificate}
</VirtualHost>
Listen 127.0.0.1:{proxy}
<VirtualHost 127.0.0.1:{proxy}>
    SSLEngine on
    SSLCertificateFile {certificate}
    ProxyPass / http://127.0.0.1:{port}/
    ProxyPreserveHost On
</VirtualHost>
"""
# An https site where visitors expect it. At http there is: a redirect, the same site, a refusal.
USUAL_PORTS = """\
Listen 127.8.0.1:80
<VirtualHost 127.8.0.1:80>
    Redirect permanent / https://127.8.0.1/
</VirtualHost>
Listen 127.8.0.2:80
<VirtualHost 127.8.0.2:80>
</VirtualHost>
Listen 127.8.0.3:80
<VirtualHost 127.8.0.3:80>
    <Location />
        Require all denied
    </Location>
</VirtualHost>
Listen 127.8.0.1:443
Listen 127.8.0.2:443
Listen 127.8.0.3:443
<VirtualHost 127.8.0.1:443 127.8.0.2:443 127.8.0.3:443>
    SSLEngine on
    SSLCertificateFile {certificate}
</VirtualHost>
"""
ADDRESSES = ["127.8.0.1", "127.8.0.2", "127.8.0.3"]
# Where there is no curl, the site's Python sends the requests.
CLIENTS = {"curl": {}, "Python": {"PATH": "/nowhere"}}
# What a first attempt may look like: it serves the site, and much is missing.
POOR_HTACCESS = """\
AddHandler fcgid-script .fcgi
RewriteEngine On
RewriteRule ^a\\s - [R=404,L]
RewriteCond %{REQUEST_FILENAME} !-f
RewriteRule ^ mysite.fcgi [L]
"""
BROKEN_PAGES = """\
from django.urls import path
from django.views.generic import RedirectView

admin = ([path("login/", RedirectView.as_view(pattern_name="admin:login"), name="login")], "admin")
urlpatterns = [path("", lambda request: 1 / 0), path("admin/", (*admin, "admin"))]
"""


class Served:
    """A site, and the Apache that serves it over http, https, and https by way of a proxy that keeps it to itself."""

    def __init__(self, account, options=(), more=""):
        self.account = account
        self.apache = Apache(account, options=options)
        self.certificate = account.base / "certificate.pem"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
        make += ["-addext", "subjectAltName=" + ",".join(f"IP:{address}" for address in ("127.0.0.1", *ADDRESSES))]
        make += ["-keyout", self.certificate, "-out", account.base / "public.pem"]
        subprocess.run(make, check=True, capture_output=True)
        with open(self.certificate, "a") as file:
            file.write((account.base / "public.pem").read_text())
        ports = {"port": self.apache.port, "tls": free_port(), "proxy": free_port()}
        self.http = f"http://127.0.0.1:{ports['port']}/"
        self.https, self.proxied = (f"https://127.0.0.1:{ports[name]}/" for name in ("tls", "proxy"))
        text = (TLS + more).format(modules=MODULES, certificate=self.certificate, **ports)
        (self.apache.directory / "extra.conf").write_text(text)

    def __enter__(self):
        self.apache.__enter__()
        return self

    def __exit__(self, *error):
        try:
            self.apache.__exit__(*error)
        finally:
            self.account.remove()

    def check(self, url, *words, status=0, user=USER, **environment):
        """What `check --url` prints, or what its JSON says."""
        run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.account.home), **environment}
        command = [self.account.executable, "check", "--url", url, *words]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120, env=environment, **run_as)
        print(done.stdout, done.stderr)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert not (self.account.runtime / "echo").exists()
        return json.loads(done.stdout) if "--json" in words else done.stdout


@pytest.fixture(scope="module")
def served(build, model):
    """A site that works, for tests that change nothing."""
    with Served(Account(model, build, directory="shop")) as served:
        yield served


def test_a_good_site(served):
    url = f"{served.http}shop"
    said = served.check(url)
    for text in (
        f"{url}/: requests reach this program (process ",
        ", mod_fcgid, Apache/2.4",
        f"{url}/a%20b/%C3%A9;c?d=%20e: its path and query arrive as sent",
        f"{url}/: the Authorization header arrives",
        f"{url}/: uploads arrive: up to 1 KiB by mod_fcgid, up to 16 MiB by CGI",
        f"{url}: redirects to the address with a slash",
        f"{url}/: a visitor gets 200",
        f"{url}/admin/login/: a visitor gets 200",
        f"{url}/static/admin/css/base.css: the file is there",
        f"{url}/: visitors cannot read mysite.toml, .htaccess, mysite.fcgi",
    ):
        assert text in said, text
    assert "RF09" not in said
    assert "FastCGI, GET /" not in said, "the web server is asked instead of rehearsed"


def test_a_stranger_gets_no_echo(served):
    get = lambda value: served.apache.client.get("/shop/", X_Runfcgi_Echo=value)
    usual = get("1.x").body
    key, file = os.urandom(32), served.account.runtime / "echo"
    sign = lambda text: hmac.new(key, b"runfcgi echo\0" + text.encode(), hashlib.sha256).hexdigest()
    asked = f"7.{sign('ask 7')}"
    assert get(asked).body == usual, "there is no key"
    file.write_bytes(key)
    try:
        told = get(asked).body.decode()
        signature, _, facts = told.partition("\n")
        assert signature == sign(f"tell 7 {facts}")
        assert "role mod_fcgid\n" in facts and "script_name /shop\n" in facts and str(served.account.base) not in facts
        for wrong in ("", "7", "7.", asked[:-1], f"8.{sign('ask 7')}", f"7.{sign('tell 7 ' + facts)}", "x" * 5000):
            assert get(wrong).body == usual, wrong
        old = file.stat().st_mtime - 601
        os.utime(file, (old, old))
        assert get(asked).body == usual, "the key has expired"
    finally:
        file.unlink()


def test_https_without_curl(served):
    url = f"{served.https}shop/"
    said = served.check(url, PATH="/nowhere", SSL_CERT_FILE=str(served.account.base / "public.pem"))
    for text in ("requests reach this program", "the Authorization header arrives", "a visitor gets 200"):
        assert f"{url}: {text}" in said
    assert "up to 16 MiB by CGI" in said and "RF09" not in said


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_that_nobody_trusts(served, client):
    url = f"{served.https}shop/"
    said = served.check(url, status=1, **CLIENTS[client])
    curl, python = r"curl: \(60\) SSL certificate problem", "SSLCertVerificationError: .*certificate verify failed"
    why = {"curl": curl, "Python": python}[client]
    assert re.search(f"error   RF0901 {url}: {why}: self-signed certificate", said)


@pytest.fixture
def usual(build, model):
    """A site at the usual ports of addresses of its own."""
    for address in ADDRESSES:
        for port in (80, 443):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError as error:
                    pytest.skip(f"{address}:{port} cannot be had: {error}")
    account = Account(model, build, directory="shop")
    settings = account.project / "myproject" / "settings.py"
    account.put(settings, settings.read_text() + f"ALLOWED_HOSTS += {ADDRESSES}\n")
    with Served(account, more=USUAL_PORTS) as served:
        yield served


@pytest.mark.parametrize("client", CLIENTS)
def test_visitors_who_come_by_http(usual, client):
    trust = {"SSL_CERT_FILE": str(usual.account.base / "public.pem"), **CLIENTS[client]}
    redirected, answered, refused = ADDRESSES
    said = usual.check(f"https://{redirected}/shop/", **trust)
    assert f"ok      https://{redirected}/shop/: requests reach this program" in said
    assert f"ok      http://{redirected}/shop/: redirects to https://{redirected}/shop/\n" in said
    said = usual.check(f"https://{answered}/shop/", **trust)
    assert f"warning RF0905 http://{answered}/shop/: http is answered without a redirect to https\n" in said
    said = usual.check(f"https://{refused}/shop/", **trust)
    assert f"ok      http://{refused}/shop/: is refused without https\n" in said and "RF09" not in said


def test_django_redirects_to_https(usual):
    """What the message about a missing redirect advises."""
    address = ADDRESSES[1]
    settings = usual.account.project / "myproject" / "settings.py"
    usual.account.put(settings, settings.read_text() + "SECURE_SSL_REDIRECT = True\n")
    usual.account.touch()
    url = f"https://{address}/shop/"
    trust = {"SSL_CERT_FILE": str(usual.account.base / "public.pem")}
    line = f"ok      http://{address}/shop/: redirects to {url}\n"
    until(lambda: line in usual.check(url, **trust), 60, "the new setting is live")


@pytest.mark.skipif(os.getuid() != 0, reason="it takes root to be another user")
def test_another_user_learns_nothing(served):
    url = f"{served.http}shop/"
    served.apache.client.get("/shop/")
    said = served.check(url, user=pwd.getpwnam("nobody"), status=1)
    text = "whether it reaches this program cannot be told: processes of this site run as user"
    assert f"warning RF0902 {url}: {text} {USER.pw_uid}\n        run check as that user\n" in said
    assert "mod_fcgid, Apache" not in said and f"{url}: a visitor gets 200" in said


def test_plain_cgi(model, build):
    account = Account(model, build)
    with Served(account, CGI_ONLY) as served:
        said = served.check(served.http)
    assert ", CGI, Apache/" in said and f"{served.http}: the Authorization header arrives" in said
    assert f"{served.http}: uploads arrive: up to 16 MiB by CGI" in said and "RF09" not in said


def test_what_hides_https(served):
    url = f"{served.proxied}shop/"
    told = served.check(url, "--json", SSL_CERT_FILE=str(served.account.base / "public.pem"))
    [warning] = [finding for finding in told["findings"] if finding["code"] == "RF0904"]
    assert (warning["level"], warning["place"]) == ("warning", url)
    assert warning["what"] == "requests come over https, but arrive as if they came over http"


def test_wrong_addresses(served):
    said = served.check(served.http, status=1)
    assert f"error   RF0902 {served.http}: 404 comes from Apache/" in said
    assert "visitors cannot read" not in said, "nobody has asked at the right address"
    for url, text in (("example.org", "neither with https://"), ("https://me:secret@example.org/", "user name or password")):
        done = subprocess.run([served.account.executable, "check", "--url", url], capture_output=True, text=True)
        assert done.returncode == 2 and text in done.stderr and "--url https://www.example.org/" in done.stderr


def test_what_a_poor_htaccess_leaves_out(model, build):
    account = Account(model, build)
    with Served(account) as served:
        account.put(account.site / ".htaccess", POOR_HTACCESS)
        account.configure(account.config.read_text() + f'[log]\nfile = "{account.site}/site.log"\n')
        account.put(account.site / "site.log.1", "what happened yesterday\n")
        (account.site / "static" / "admin" / "css" / "base.css").unlink()
        said = served.check(served.http, status=1)
        for text in (
            f"error   RF0903 {served.http}a%20b/%C3%A9;c?d=%20e: it does not reach this program: 404",
            f"warning RF0907 {served.http}: the Authorization header does not arrive",
            f"warning RF0908 {served.http}: an upload of 200 KiB is refused: ",
            "uploads arrive: up to 100 KiB by mod_fcgid\n",
            f"error   RF0909 {served.http}mysite.toml: visitors can read {account.config}",
            f"error   RF0909 {served.http}site.log.1: visitors can read {account.site}/site.log.1",
            f"warning RF0910 {served.http}static/admin/css/base.css: {served.http}admin/login/ needs it, and a visitor gets 404",
        ):
            assert text in said, text
        account.put(account.site / ".htaccess", POOR_HTACCESS.replace("AddHandler", "#"))
        said = served.check(served.http, status=1)
        assert f"error   RF0902 {served.http}: the web server sends the executable instead of running it" in said


def test_pages_that_fail(model, build):
    account = Account(model, build)
    account.put(account.project / "myproject" / "urls.py", BROKEN_PAGES)
    with Served(account) as served:
        said = served.check(served.http, status=1)
    assert f"error   RF0906 {served.http}: a visitor gets 500" in said
    assert f"error   RF0905 {served.http}admin/login/: there are more than 8 redirects, the last one to {served.http}admin/" in said


class FetchTest(unittest.TestCase):
    """src/check/fetch.py on every interpreter found (see bridge.py)."""

    @pytest.fixture(autouse=True)
    def site(self, served):
        type(self).served = served  # each interpreter has a case of its own

    def fetch(self, python, method, url, *lines, body=b"", trust="public.pem"):
        environment = {"SSL_CERT_FILE": str(self.served.account.base / trust)}
        command = [python, "-I", "-c", FETCH, method, url, "60", *lines]
        return subprocess.run(command, input=body, capture_output=True, env=environment, timeout=70)

    @each_python
    def test_requests(self, python):
        for base in (f"{self.served.http}shop/", f"{self.served.https}shop/"):
            for method, path, size in (("GET", "echo/a%20b?c=%20d", 0), ("POST", "echo/", 1 << 20), ("GET", "stream/100000/", 0)):
                done = self.fetch(python, method, base + path, "X-One: 1: 2", body=bytes(size))
                self.assertEqual((done.returncode, done.stderr), (0, b""))
                head, _, body = done.stdout.partition(b"\r\n\r\n")
                self.assertRegex(head, rb"^HTTP/1.1 200 OK\r\n(.+\r\n)*Server: Apache/")
                if path.startswith("stream"):
                    self.assertEqual(body, bytes(range(256)) * 256, "the first 64 KiB")
                    continue
                said = json.loads(body)
                self.assertEqual(base.split("/")[0], said["absolute"].split("/")[0])
                self.assertEqual(said["environ"]["REQUEST_METHOD"], method)
                self.assertEqual(said["environ"]["REQUEST_URI"], f"/shop/{path}")
                self.assertEqual(said["environ"]["HTTP_X_ONE"], "1: 2")
                self.assertEqual(int(said["environ"].get("CONTENT_LENGTH") or 0), size)

    @each_python
    def test_without_an_answer_there_is_the_reason(self, python):
        nobody = f"http://127.0.0.1:{free_port()}/"
        other_name = self.served.https.replace("127.0.0.1", "localhost")
        for url, trust, reason in (
            (self.served.https, "nothing.pem", r"^\w+: .*certificate verify failed"),
            (other_name, "public.pem", r"^\w+: .*localhost"),
            (nobody, "public.pem", "^ConnectionRefusedError: "),
        ):
            done = self.fetch(python, "GET", url, trust=trust)
            self.assertEqual((done.returncode, done.stdout), (1, b""))
            self.assertRegex(done.stderr.decode(), reason)
            self.assertEqual(done.stderr.count(b"\n"), 1)
