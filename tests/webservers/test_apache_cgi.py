"""The same file under cgi-script, where the host runs nothing else."""

import hashlib
import os

import pytest

from webservers.account import Account
from webservers.apache import CGI_ONLY, Apache


@pytest.fixture(scope="module")
def web(build, model):
    account = Account(model, build)
    try:
        with Apache(account, options=CGI_ONLY) as apache:
            yield apache.client
    finally:
        account.remove()


def test_pages_and_static_files(web):
    assert "<h1>It works.</h1>" in web.get("/").text
    assert "csrfmiddlewaretoken" in web.get("/admin/login/").text
    assert web.get("/static/admin/css/base.css").headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize("sent, seen", [("/echo/%C3%A9/", "/echo/é/"), ("/echo/a%252Fb", "/echo/a%2Fb"), ("//echo/", "/echo/")])
def test_addresses(web, sent, seen):
    told = web.get(sent).json
    assert told["path_info"] == seen and told["environ"]["SCRIPT_NAME"] == "" and told["url"] == "/target/"


def test_a_query_string_is_not_an_argument(web):
    """A query without `=` arrives in argv (CVE-2012-1823)."""
    for query in ("help", "-h", "--version", "--config+/etc/passwd"):
        told = web.get("/echo/?" + query)
        assert told.status == 200 and told.json["environ"]["QUERY_STRING"] == query


def test_bodies(web):
    body = os.urandom(300000)
    assert web.post("/upload/", body).json == {"length": 300000, "sha256": hashlib.sha256(body).hexdigest()}
    assert web.get("/stream/200000/").body == web.get("/file/200000/").body
    assert web.request("HEAD", "/target/").body == b""


def test_authorization_redirects_and_errors(web):
    assert web.get("/echo/", Authorization="Token t").json["environ"]["HTTP_AUTHORIZATION"] == "Token t"
    assert web.get("/redirect/").headers["Location"] == "/target/"
    assert web.get("/error/").status == 500
    assert web.get("/mysite.toml").status == 404
