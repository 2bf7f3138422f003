"""mod_fastcgi, Cherokee and OpenLiteSpeed, which are not in Debian: emulated servers that read the files in deploy/.

They pass the same scenes as the real ones; what is peculiar to the way that each starts programs comes after that.
"""

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from webservers.apache import Apache, free_port
from webservers.emulated.cherokee import Cherokee
from webservers.emulated.front import Front
from webservers.emulated.mod_fastcgi import ModFastcgi, accepted_by_apache, second_way
from webservers.emulated.openlitespeed import OpenLiteSpeed, closed
from webservers.processes import until
from webservers.recipe import METHODS, Site, connects, recipe
from webservers.scenes import SCENES, run

PORT = "127.0.0.1:3033"
MODULES = ["mpm_event", "authn_core", "authz_core", "rewrite"]


def mod_fastcgi(site, how, backend):
    places = [("/home/user/public_html", site.account.public), ("example.com", "127.0.0.1"), ("/home/user/mysite.sock", site.sock)]
    text = recipe("apache/mod_fastcgi.conf", *places)
    if how == "dynamic":
        text = second_way(text).replace("/var/lib/apache2/fastcgi", str(site.server / "fastcgi"))
    if how == "host":
        text = instead(text, "FastCgiExternalServer .* -socket", "FastCgiExternalServer .* -host").replace(PORT, f"127.0.0.1:{backend}")
    accepted_by_apache(site, text, MODULES)
    site.traits.add("no-chunked")
    return ModFastcgi(site, text)


def cherokee(site, how, backend):
    places = [("/home/user/public_html", site.account.public), ("example.com", "127.0.0.1"), ("/home/user/mysite.sock", site.sock)]
    text = recipe("cherokee/mysite.conf", *places)
    if how == "host":
        text = instead(text, "source!1!(?:type = interpreter|host = /|interpreter|timeout|env)", "source!1!(?:type = host|host = 127)")
        text = text.replace(PORT, f"127.0.0.1:{backend}")
    site.traits.add("no-chunked")
    return Cherokee(site, text)


def openlitespeed(site, how, backend):
    places = [("/home/user/public_html", site.account.public), ("UDS://tmp/lshttpd/mysite.sock", f"UDS:/{site.sock}")]
    text = recipe("openlitespeed/vhconf.conf", *places)
    if how == "host":
        text = instead(text, "address +UDS|path|autoStart +1", "address +127|autoStart +0").replace(PORT, f"127.0.0.1:{backend}")
    site.traits.add("refuses-proxy")
    return OpenLiteSpeed(site, text)


SERVERS = {
    (mod_fastcgi, "socket"): "socket={sock}",
    (mod_fastcgi, "host"): "host=127.0.0.1 port={backend}",
    (mod_fastcgi, "dynamic"): None,
    (cherokee, "interpreter"): None,
    (cherokee, "host"): "host=127.0.0.1 port={backend}",
    (openlitespeed, "spawned"): None,
    (openlitespeed, "host"): "host=127.0.0.1 port={backend}",
}
# Nothing of the site outlives the server that has started it.
CONFIG = 'method = "{}"\nlinger = 0\n[log]\nfile = "../../server/site.log"\n'


def instead(text, off, on):
    """The file's other way: lines that begin with `off` become comments, and comments that begin with `on` lines."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        plain = line.strip().lstrip("# ")
        comment = plain != line.strip()
        if re.match(on if comment else off, plain):
            lines[number] = plain if comment else "# " + plain
    changed = "\n".join(lines) + "\n"
    assert re.search(f"^(?:{on})", changed, re.MULTILINE), f"no line {on} in {text}"
    return changed


@contextmanager
def emulated(model, build, server, how, method):
    """(site, web): a site and the server that it is behind; at the end, nothing has gone wrong unseen by visitors."""
    with Site(model, build, config=CONFIG.format(method)) as site:
        backend = free_port()
        if SERVERS[server, how]:
            site.runfcgi(*SERVERS[server, how].format(sock=site.sock, backend=backend).split(), f"method={method}")
        web = server(site, how, backend)
        with Front(site.port, web) as front:
            yield site, web
            assert not front.failures, front.failures


@pytest.fixture(
    scope="module",
    # Over TCP one of the two is enough.
    params=[(server, how, method) for server, how in SERVERS for method in METHODS if how != "host" or method == "threaded"],
    ids=lambda param: f"{param[0].__name__}-{param[1]}-{param[2]}",
)
def site(request, model, build):
    with emulated(model, build, *request.param) as (site, _):
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_emulated(site, scene):
    run(site, scene)


@pytest.mark.parametrize("method", METHODS)
def test_mod_fastcgi_ends_one_process_of_two(model, build, method):
    """The process manager tells one to leave, and starts another in its place. Nobody notices."""
    with emulated(model, build, mod_fastcgi, "dynamic", method) as (site, web):
        assert site.client.get("/version/").status == 200
        assert len(web.programs) == 2
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(lambda: site.client.get("/version/").status) for _ in range(100)]
            old = web.programs[0]
            old.send_signal(signal.SIGTERM)
            web.spawn(old.args[0])
            assert {answer.result() for answer in answers} == {200}
        # Another status than 0 would keep mod_fastcgi from starting it again for ten minutes.
        assert old.wait(10) == 0


# What the document has for httpd.conf, with an `Alias` for media, and a rule that looks for files.
OF_THE_DOCUMENT = """\
FastCGIExternalServer {public}/mysite.fcgi {where}
<VirtualHost 127.0.0.1>
    ServerName 127.0.0.1
    DocumentRoot {public}
    Alias /media {media}
    RewriteEngine On
    RewriteRule ^/(media.*)$ /$1 [QSA,L,PT]
    RewriteCond %{{REQUEST_FILENAME}} !-f
    RewriteRule ^/(.*)$ /mysite.fcgi/$1 [QSA,L]
</VirtualHost>
<Directory {home}>
    Require all granted
</Directory>
"""


@pytest.mark.parametrize("how", ["socket", "host"])
def test_the_document_s_own_virtual_host(model, build, how):
    with Site(model, build) as site:
        backend = free_port()
        site.runfcgi(*SERVERS[mod_fastcgi, how].format(sock=site.sock, backend=backend).split())
        # There need not be a file.
        site.account.executable.rename(site.account.home / "elsewhere")
        admin = site.account.public / "static" / "admin"
        where = f"-socket {site.sock}" if how == "socket" else f"-host 127.0.0.1:{backend}"
        text = OF_THE_DOCUMENT.format(public=site.account.public, where=where, media=admin, home=site.account.home)
        accepted_by_apache(site, text, [*MODULES, "alias"])
        with Front(site.port, ModFastcgi(site, text)):
            assert site.client.get("/media/css/base.css").headers["Content-Type"].startswith("text/css")
            told = site.client.get("/echo/a%20b/?q=1").json
            assert told["environ"]["SCRIPT_NAME"] == "" and told["path_info"] == "/echo/a b/"
            assert told["url"] == "/target/" and told["get"] == {"q": "1"}


@pytest.mark.parametrize("method", METHODS)
def test_cherokee_starts_its_interpreter_again(model, build, method):
    """Also where the one before has left its socket behind."""
    with emulated(model, build, cherokee, "interpreter", method) as (site, web):
        assert web.program is None
        assert site.client.get("/version/").text == "0"
        web.program.kill()
        web.program.wait(10)
        assert site.sock.exists() and not connects(site.sock)
        assert site.client.get("/version/").text == "0"
        web.program.terminate()
        assert web.program.wait(10) == 0
        assert not site.sock.exists()


@pytest.mark.parametrize("method", METHODS)
def test_openlitespeed_keeps_its_connections(model, build, method):
    """Many requests on each, and new code on the very same ones."""
    with emulated(model, build, openlitespeed, "spawned", method) as (site, web):
        worker = web.worker

        def visit(_):
            return [site.client.get("/version/").text for _ in range(40)]

        with ThreadPoolExecutor(5) as pool:
            assert {answer for answers in pool.map(visit, range(5)) for answer in answers} == {"0"}
        # A visitor may ask again a moment before the server has put the connection back.
        assert worker.opened <= 10
        kept = [connection for connection, _ in worker.idle]
        site.account.code(1)
        site.account.touch()
        until(lambda: site.client.get("/version/").text == "1", 6, "new code is live on a connection that stayed open")
        with ThreadPoolExecutor(5) as pool:
            assert {answer for answers in pool.map(visit, range(5)) for answer in answers} == {"1"}
        assert worker.opened <= 10 and worker.recovered == 0
        assert kept and not any(closed(connection) for connection in kept)
        assert os.getsid(worker.program.pid) == worker.program.pid


def test_openlitespeed_waits_for_a_slow_import(model, build):
    """Longer than the 3 s that it waits when the file says nothing."""
    with Site(model, build, config=CONFIG.format("prefork")) as site:
        wsgi = site.account.project / "myproject" / "wsgi.py"
        site.account.put(wsgi, "import time\n\ntime.sleep(4)\n" + wsgi.read_text())
        with Front(site.port, openlitespeed(site, "spawned", None)):
            assert site.client.get("/version/").status == 200


# The document's `.htaccess`, for mod_fcgid.
HTACCESS = """\
AddHandler fcgid-script .fcgi
RewriteEngine On
RewriteCond %{REQUEST_FILENAME} !-f
RewriteRule ^(.*)$ mysite.fcgi/$1 [QSA,L]
"""


def test_the_document_s_own_htaccess(make_site):
    """Under a real Apache. With `fastcgi-script` it is for mod_fastcgi, which starts the program as "dynamic" does."""
    account = make_site()
    account.put(account.site / ".htaccess", HTACCESS)
    with Apache(account) as apache:
        told = apache.client.get("/echo/a%20b/?q=1").json
        assert told["environ"]["SCRIPT_NAME"] == "" and told["path_info"] == "/echo/a b/"
        assert told["url"] == "/target/" and told["get"] == {"q": "1"}
        assert apache.client.get("/static/admin/css/base.css").headers["Content-Type"].startswith("text/css")
