"""What must work behind every web server, the same list for each. Knows no web server; `site.traits` names what differs.

Traits: `no-chunked` (the server refuses a chunked upload), `host-without-port` (Debian's nginx hides the port of the Host
header), `no-length-of-head` (the server drops Content-Length of an answer to HEAD), `no-patch` (the server knows the
methods of old only), `refuses-proxy` (a request with a `Proxy` header gets a 400).
"""

import base64
import hashlib
import json
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from .load import Load
from .processes import until

SCENES = []
PATTERN = bytes(range(256)) * 256


def scene(function):
    SCENES.append(function)
    return function


def run(site, scene):
    """One scene, and then a plain page: whatever came before, the site goes on."""
    scene(site)
    assert site.client.get("/target/").status == 200


# --- pages and addresses -------------------------------------------------------------------------------------------


@scene
def get(site):
    page = site.client.get("/")
    assert page.status == 200 and "<h1>It works.</h1>" in page.text and "href='/target/'" in page.text
    assert "csrfmiddlewaretoken" in site.client.get("/admin/login/").text


@scene
def query(site):
    told = site.client.get("/echo/?a=%C3%A9&b=x+y&b2=%26").json
    assert told["get"] == {"a": "é", "b": "x y", "b2": "&"}
    assert told["environ"]["QUERY_STRING"] == "a=%C3%A9&b=x+y&b2=%26"


@scene
def redirects(site):
    """No name of a script, no port or path of a socket in what the visitor is told."""
    client = site.client
    assert client.get("/redirect/").headers["Location"] == "/target/"
    slash = client.get("/version")
    assert slash.status == 301 and slash.headers["Location"] == "/version/"
    told = client.get("/echo/x/").json
    assert told["environ"]["SCRIPT_NAME"] == "" and told["url"] == "/target/"
    port = "" if "host-without-port" in site.traits else f":{site.port}"
    assert told["absolute"] == f"http://127.0.0.1{port}/echo/x/"


@scene
def paths(site):
    expected = {
        "/echo/": "/echo/",
        "/echo/a%20b/": "/echo/a b/",
        "/echo/%C3%A9t%C3%A9": "/echo/été",
        "/echo/%E6%97%A5%E6%9C%AC/": "/echo/日本/",
        "/echo/a//b": "/echo/a/b",
        "//echo/x": "/echo/x",
        "/echo/a%2Fb": "/echo/a/b",
        "/echo/a+b&c=d;e": "/echo/a+b&c=d;e",
        "/echo/100%25": "/echo/100%",
        "/echo/a%252Fb": "/echo/a%2Fb",
        "/echo/x?q=%C3%A9&r=1": "/echo/x",
        "/echo/mysite.fcgi/x": "/echo/mysite.fcgi/x",
        **site.paths,
    }
    seen = {}
    for sent in expected:
        reply = site.client.get(sent)
        told = reply.json if reply.status == 200 else None
        seen[sent] = told["path_info"] if told else reply.status
        if told:
            assert told["environ"]["SCRIPT_NAME"] == "" and told["url"] == "/target/", (sent, told)
    assert seen == expected, {sent: seen[sent] for sent in seen if seen[sent] != expected[sent]}


@scene
def headers(site):
    ask = b"GET /echo/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%sAccept-Language: de\r\n\r\n"
    evil = b"Proxy: http://evil/\r\n"
    if "refuses-proxy" in site.traits:
        assert raw(site, ask % evil).split(b" ")[1] == b"400"
        evil = b""
    reply = raw(site, ask % (b"X-Two: one\r\nX-Two: two\r\nUser-Agent: \xc3\xa9\r\n" + evil))
    assert b" 200 " in reply.split(b"\r\n")[0], reply[:300]
    told = json.loads(reply[reply.index(b"{") : reply.rindex(b"}") + 1])["environ"]
    sent = {"HTTP_HOST": "127.0.0.1", "HTTP_X_TWO": "one, two", "HTTP_USER_AGENT": "\xc3\xa9", "HTTP_ACCEPT_LANGUAGE": "de"}
    assert {name: told.get(name) for name in sent} == sent, told
    assert not {"HTTP_PROXY", "http_proxy"} & set(told)
    client = site.client
    told = client.get("/echo/", X_Long="v" * 3000, Accept_Language="de").json["environ"]
    assert told["HTTP_X_LONG"] == "v" * 3000 and told["HTTP_ACCEPT_LANGUAGE"] == "de"
    assert told["REQUEST_METHOD"] == "GET" and told["SERVER_PROTOCOL"].startswith("HTTP/")
    assert told["REMOTE_ADDR"] == "127.0.0.1"


@scene
def authorization(site):
    value = "Basic " + base64.b64encode(b"user:secret").decode()
    told = site.client.get("/echo/", Authorization=value).json["environ"]
    assert told["HTTP_AUTHORIZATION"] == value
    assert "REMOTE_USER" not in told, "nobody has checked that password"
    assert "HTTP_AUTHORIZATION" not in site.client.get("/echo/").json["environ"]


@scene
def cookies(site):
    client = site.client
    first = client.get("/cookies/")
    assert first.json == {} and len(first.headers.get_all("Set-Cookie")) == 2
    assert client.get("/cookies/").json == {"one": "1", "two": "2"}


@scene
def methods(site):
    for method in {"PUT", "DELETE", "PATCH", "OPTIONS"} - ({"PATCH"} if "no-patch" in site.traits else set()):
        reply = site.client.request(method, "/method/", b"x" if method in ("PUT", "PATCH") else None)
        assert reply.status == 200 and reply.text == method


# --- bodies --------------------------------------------------------------------------------------------------------


@scene
def upload(site):
    for size in (0, 1, 8185, 65536, 5 << 20):
        body = os.urandom(size)
        reply = site.client.post("/upload/", body, Content_Type="application/octet-stream")
        assert reply.status == 200, (size, reply.status, reply.text)
        assert reply.json == {"length": size, "sha256": hashlib.sha256(body).hexdigest()}


@scene
def chunked_upload(site):
    pieces = [os.urandom(n) for n in (1, 1000, 70000, 40000)]
    try:
        reply = site.client.request("POST", "/upload/", iter(pieces), chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        assert "no-chunked" in site.traits
        return
    if "no-chunked" in site.traits:
        assert reply.status in (400, 411)
    else:
        assert reply.status == 200, (reply.status, reply.text)
        assert reply.json == {"length": 111001, "sha256": hashlib.sha256(b"".join(pieces)).hexdigest()}


@scene
def a_body_that_the_page_does_not_read(site):
    for _ in range(3):
        assert site.client.post("/version/", bytes(1 << 20)).status in (200, 403)


@scene
def download(site):
    for kind in ("stream", "file"):
        for size in (0, 1, 65536, 5 << 20):
            reply = site.client.get(f"/{kind}/{size}/")
            assert reply.status == 200
            assert reply.body == (PATTERN * (size // len(PATTERN) + 1))[:size], (kind, size, len(reply.body))
    assert "gr%C3%B6%C3%9Fe.bin" in reply.headers["Content-Disposition"]


@scene
def head(site):
    got, head = site.client.get("/target/"), site.client.request("HEAD", "/target/")
    assert head.status == 200 and head.body == b""
    if "no-length-of-head" not in site.traits:
        assert head.headers["Content-Length"] == str(len(got.body))
    assert site.client.request("HEAD", "/stream/100000/").status == 200
    assert site.client.request("HEAD", "/file/100000/").body == b""


@scene
def not_modified(site):
    first = site.client.get("/target/")
    again = site.client.get("/target/", If_None_Match=first.headers["ETag"])
    assert again.status == 304 and again.body == b""


@scene
def error_pages(site):
    reply = site.client.get("/error/")
    assert reply.status == 500 and "Traceback" not in reply.text and "asked to fail" not in reply.text
    assert site.client.get("/nothing/here/").status == 404


# --- what the web server does by itself ----------------------------------------------------------------------------


@scene
def files(site):
    """Django serves no files here: what comes, comes from the web server."""
    client = site.client
    css = client.get("/static/admin/css/base.css")
    assert css.status == 200 and css.headers["Content-Type"].startswith("text/css")
    assert client.get("/media/hello.txt").text == "hello from the web server\n"
    assert client.get("/favicon.ico").body == b"\0\0\1\0 an icon"
    assert not client.get("/mysite.fcgi").body.startswith(b"\x7fELF")
    for name in ("/mysite.toml", "/media/../mysite.toml", "/static/%2e%2e/mysite.toml"):
        reply = client.get(name)
        assert reply.status in (400, 403, 404) and b"settings" not in reply.body, (name, reply.status)


# --- visitors that leave, that come in crowds, and new code --------------------------------------------------------


@scene
def a_client_that_aborts(site):
    long = b"POST /upload/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(300000)
    for request, read in (
        (long, 0),
        (b"GET /stream/50000000/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 1000),
        (b"GET /file/50000000/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 1000),
        (b"GET /drip/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 0),
        (b"GET /echo/ HTTP/1.1\r\nHo", 0),
    ):
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", site.port), timeout=20) as visitor:
                visitor.sendall(request)
                if read:
                    visitor.recv(read)
                # Linger of no length: the close is a reset.
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(10):
        assert site.client.get("/version/").status == 200


@scene
def two_hundred_at_twenty(site):
    def one(number):
        reply = site.client.get(f"/echo/{number}/")
        return reply.status, reply.json["rest"] if reply.status == 200 else reply.text

    begin = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(one, range(200)))
    assert told == [(200, f"{number}/") for number in range(200)]
    assert time.monotonic() - begin < 30


@scene
def restart_under_load(site):
    """The file is touched: new code is live within 3 s and no request is lost, uploads neither."""
    versions = iter(range(int(site.client.get("/version/").text) + 1, 1000))
    body = os.urandom(100000)
    uploads, over = [], threading.Event()

    def uploading():
        while not over.is_set():
            reply = site.client.post("/upload/", body)
            uploads.append(reply.status == 200 and reply.json["length"] == len(body))

    visitor = threading.Thread(target=uploading)
    with Load(site.port, "/version/", visitors=4) as load:
        visitor.start()
        try:
            until(lambda: len(load.answers) > 20, 20, "the site is warm")
            for _ in range(2):
                version = next(versions)
                site.account.code(version)
                site.account.touch()
                begin = time.monotonic()
                until(lambda: load.answers[-1].body == str(version), 10, f"version {version} is live")
                assert time.monotonic() - begin < site.live_within
        finally:
            over.set()
            visitor.join(30)
    assert not load.failures, (len(load.failures), load.failures[:3])
    assert uploads and all(uploads)


def raw(site, request):
    """Sends bytes and reads to the end."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as visitor:
        visitor.sendall(request)
        answer = b""
        while piece := visitor.recv(65536):
            answer += piece
    return answer
