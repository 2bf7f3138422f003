"""htaccess-templates/site.htaccess: whatever can run the site on a server runs it, and takes uploads of any size."""

import gzip
import hashlib
import os

import pytest

from webservers.apache import Apache
from webservers.processes import until

# What the server has, and what then runs a page and an upload that mod_fcgid would refuse.
SERVERS = {
    "mod_fcgid and mod_cgid": ((), "fcgid-script", "cgi-script"),
    "mod_fcgid and mod_cgi": (("PREFORK",), "fcgid-script", "cgi-script"),
    "mod_fcgid": (("NO_CGI",), "fcgid-script", None),
    "mod_cgid": (("NO_FCGID",), "cgi-script", "cgi-script"),
    "mod_cgi": (("NO_FCGID", "PREFORK"), "cgi-script", "cgi-script"),
}
DIRECTORIES = {"at the document root": "", "in a subdirectory": "shop"}
UPLOADS = {"127 KiB": 127 << 10, "129 KiB": 129 << 10, "20 MB": 20_000_000}


class Served:
    """A site under an Apache without some of its modules, which logs the handler of each request."""

    def __init__(self, make_site, modules=(), directory="", extra=""):
        self.account = make_site(directory=directory)
        self.prefix = f"/{directory}" if directory else ""
        options = [word for name in modules for word in ("-D", name)]
        self.apache = Apache(self.account, extra, options)
        self.handlers = self.apache.directory / "handlers.log"
        log = f'CustomLog {self.handlers} "%>R %{{BODY}}i"\n'
        (self.apache.directory / "extra.conf").write_text(extra + log)

    def __enter__(self):
        self.apache.__enter__()
        return self

    def __exit__(self, *error):
        self.apache.__exit__(*error)

    def get(self, path, **headers):
        return self.apache.client.get(self.prefix + path, **headers)

    def upload(self, body, chunked=False):
        """(response, handler)"""
        mark = os.urandom(8).hex()
        sent = (body[at : at + 50000] for at in range(0, len(body), 50000)) if chunked else body
        path = self.prefix + "/upload/"
        response = self.apache.client.request("POST", path, sent, {"BODY": mark}, chunked=chunked)
        return response, self.handler(mark)

    def handler(self, mark):
        def line():
            logged = self.handlers.read_text() if self.handlers.exists() else ""
            return next((line for line in logged.splitlines() if line.endswith(" " + mark)), None)

        until(line, 10, "the request is logged")
        return line().split()[0]


@pytest.mark.parametrize("directory", DIRECTORIES.values(), ids=DIRECTORIES)
@pytest.mark.parametrize("server", SERVERS)
def test_the_site_runs(make_site, server, directory):
    modules, handler, _ = SERVERS[server]
    with Served(make_site, modules, directory) as site:
        told = site.get("/echo/a%20b/?q=1", Authorization="Token t", BODY="page")
        assert site.handler("page") == handler
        told = told.json
        assert told["environ"]["SCRIPT_NAME"] == site.prefix and told["path_info"] == "/echo/a b/"
        assert told["get"] == {"q": "1"} and told["url"] == site.prefix + "/target/"
        assert told["environ"]["HTTP_AUTHORIZATION"] == "Token t"
        assert "csrfmiddlewaretoken" in site.get("/admin/login/").text
        assert site.get("/static/admin/css/base.css", BODY="file").headers["Content-Type"].startswith("text/css")
        assert site.handler("file") == "-"
        for private in ("/mysite.toml", "/.htaccess"):
            assert site.get(private).status in (403, 404) and "runtime_dir" not in site.get(private).text
        assert not site.get("/mysite.fcgi").body.startswith(b"\x7fELF")


@pytest.mark.parametrize("directory", DIRECTORIES.values(), ids=DIRECTORIES)
@pytest.mark.parametrize("server", [name for name, (_, _, large) in SERVERS.items() if large])
def test_uploads_of_any_size(make_site, server, directory):
    """Apache's mod_fcgid answers bodies above 128 KiB with a 500 by itself."""
    modules, handler, large = SERVERS[server]
    with Served(make_site, modules, directory) as site:
        bodies = [(name, os.urandom(size), False) for name, size in UPLOADS.items()]
        bodies += [("chunked " + name, body, True) for name, body, _ in bodies]
        for name, body, chunked in [*bodies, ("chunked 1 KiB", os.urandom(1024), True)]:
            response, ran = site.upload(body, chunked)
            assert response.status == 200, (name, response.status, response.text)
            assert response.json == {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}, name
            assert ran == large, name
        response, ran = site.upload(b"small")
        assert response.json["length"] == 5 and ran == handler


def test_an_upload_of_an_address_that_names_the_executable(make_site):
    body = os.urandom(200_000)
    with Served(make_site) as site:
        response = site.apache.client.post("/mysite.fcgi/upload/", body)
        assert response.status == 200 and response.json["length"] == len(body)


def test_the_template_under_mod_fastcgi(make_site):
    """mod_fcgid plays mod_fastcgi, which Debian does not have."""
    with Served(make_site) as site:
        template = site.account.site / ".htaccess"
        text = template.read_text().replace("mod_fcgid.c", "mod_absent.c")
        for name, real in (("<IfModule mod_fastcgi.c>", "<IfModule mod_fcgid.c>"), ("SetHandler fastcgi-script", "SetHandler fcgid-script")):
            assert text.count(name) == 1
            text = text.replace(name, real)
        site.account.put(template, text)
        told = site.get("/echo/a%20b/", Authorization="Token t", BODY="page").json
        assert site.handler("page") == "fcgid-script"
        assert told["environ"]["SCRIPT_NAME"] == "" and told["path_info"] == "/echo/a b/"
        assert told["environ"]["HTTP_AUTHORIZATION"] == "Token t"
        assert site.get("/static/admin/css/base.css").headers["Content-Type"].startswith("text/css")
        assert not site.get("/mysite.fcgi").body.startswith(b"\x7fELF")


@pytest.mark.parametrize("directory", DIRECTORIES.values(), ids=DIRECTORIES)
def test_a_server_that_can_run_nothing_says_so(make_site, directory):
    with Served(make_site, ("NO_FCGID", "NO_CGI"), directory) as site:
        for address in ("/", "/some/page/", "/mysite.fcgi", "/mysite.fcgi/x"):
            response = site.get(address)
            assert response.status == 503 and "Ask the host to enable FastCGI or CGI" in response.text, address
        assert site.get("/static/admin/css/base.css").status == 200
        assert site.get("/mysite.toml").status == 404


def test_a_server_without_mod_rewrite_says_so(make_site):
    with Served(make_site, ("NO_REWRITE",)) as site:
        for address in ("/", "/some/page/", "/mysite.toml", "/mysite.fcgi"):
            response = site.get(address)
            assert response.status in (404, 503) and "runtime_dir" not in response.text, address
        assert "does not have mod_rewrite" in site.get("/").text


@pytest.mark.parametrize("server", ["mod_fcgid and mod_cgid", "mod_cgi"])
def test_text_is_compressed(make_site, server):
    modules = SERVERS[server][0]
    with Served(make_site, modules) as site:
        for address in ("/admin/login/", "/static/admin/css/base.css"):
            plain, small = site.get(address), site.get(address, Accept_Encoding="gzip")
            assert "Content-Encoding" not in plain.headers
            assert small.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in small.headers["Vary"]
            assert len(gzip.decompress(small.body)) == len(plain.body)
        assert "Content-Encoding" not in site.get("/stream/2000/", Accept_Encoding="gzip").headers
    with Served(make_site, (*modules, "NO_DEFLATE")) as site:
        response = site.get("/admin/login/", Accept_Encoding="gzip")
        assert response.status == 200 and "Content-Encoding" not in response.headers
