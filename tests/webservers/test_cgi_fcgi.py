"""cgi-fcgi (a CGI program that speaks FastCGI) and spawn-fcgi (which hands over a listening socket)."""

import hashlib
import os
import subprocess

import pytest

from webservers.recipe import CLEAN, METHODS, Site, nginx, recipe
from webservers.scenes import SCENES, run


def ask(site, path="/version/", body=b"", method="GET", connect=None):
    """One request through cgi-fcgi, as a web server starts it for CGI; returns head and body."""
    environ = {
        **CLEAN,
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": method,
        "REQUEST_URI": path,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)) if body else "",
    }
    command = ["/usr/bin/cgi-fcgi", "-bind", "-connect", str(connect or site.sock)]
    done = subprocess.run(command, env=environ, input=body, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    return head.decode(), rest


@pytest.mark.parametrize("method", METHODS)
def test_cgi_fcgi(model, build, method):
    with Site(model, build) as site:
        site.runfcgi(f"socket={site.sock}", f"method={method}")
        head, body = ask(site)
        assert head.startswith("Status: 200") and body == b"0"
        assert b"<h1>It works.</h1>" in ask(site, "/")[1]
        sent = os.urandom(5 << 20)
        assert hashlib.sha256(sent).hexdigest().encode() in ask(site, "/upload/", sent, "POST")[1]
        assert len(ask(site, "/stream/5000000/")[1]) == len(ask(site, "/file/5000000/")[1]) == 5000000
        assert ask(site, "/error/")[0].startswith("Status: 500")
        assert "Location: /target/" in ask(site, "/redirect/")[0]
        assert ask(site, "/target/", method="HEAD")[1] == b""


def test_cgi_fcgi_over_tcp(model, build):
    with Site(model, build) as site:
        site.runfcgi("host=127.0.0.1", f"port={site.port}")
        assert ask(site, connect=f"127.0.0.1:{site.port}")[1] == b"0"


@pytest.fixture(scope="module", params=METHODS)
def spawned(request, model, build):
    """nginx in front of a process that spawn-fcgi has started with its socket as descriptor 0."""
    with Site(model, build, config=f'method = "{request.param}"\nlinger = 1\n[log]\nfile = "../../server/site.log"\n') as site:
        command = ["/usr/bin/spawn-fcgi", "-n", "-s", str(site.sock), "-M", "0660", "--", str(site.account.executable)]
        site.start(command, ready=site.sock)
        places = [
            ("/home/user/public_html", site.account.public),
            ("listen 80;", f"listen 127.0.0.1:{site.port};"),
            ("example.com", "127.0.0.1"),
            ("/home/user/mysite.sock", site.sock),
        ]
        nginx(site, recipe("nginx/fastcgi.conf", *places))
        # It was started, so it believes whoever talks to it; nginx passes names on that it has not checked.
        site.traits |= {"host-without-port"}
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_spawn_fcgi(spawned, scene):
    run(spawned, scene)
