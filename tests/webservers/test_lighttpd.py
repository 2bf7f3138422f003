"""lighttpd, from deploy/lighttpd/: FastCGI, SCGI and AJP to a server that runs, and programs that it starts itself."""

import pytest

from webservers.apache import free_port
from webservers.client import Client
from webservers.recipe import METHODS, Site, lighttpd, recipe
from webservers.scenes import SCENES, run

RECIPES = {
    "external": "socket={sock}",
    "bin-path": None,
    "scgi": "protocol=scgi host=127.0.0.1 port={backend}",
    "scgi-bin-path": None,
    "ajp13": "protocol=ajp socket={sock}",
}


@pytest.fixture(scope="module", params=[(name, method) for name in RECIPES for method in METHODS], ids="-".join)
def site(request, model, build):
    name, method = request.param
    backend = free_port()
    spawned = f'method = "{method}"\nprotocol = "{"scgi" if name.startswith("scgi") else "fcgi"}"\n'
    with Site(model, build, config=spawned + '[log]\nfile = "../../server/site.log"\n') as site:
        replacements = [("/home/user/public_html", site.account.public)]
        if RECIPES[name]:
            site.runfcgi(*RECIPES[name].format(sock=site.sock, backend=backend).split(), f"method={method}")
        if name == "scgi":
            replacements.append(('"port" => 3033', f'"port" => {backend}'))
        else:
            replacements.append(("/home/user/mysite.sock", site.sock))
        if name == "ajp13":
            site.traits.add("no-patch")
            # Over AJP lighttpd sends the path decoded; what still looks encoded in it could be Apache's.
            site.paths["/echo/a%252Fb"] = "/echo/a/b"
        lighttpd(site, recipe(f"lighttpd/{name}.conf", *replacements))
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_lighttpd(site, scene):
    run(site, scene)


def test_several_sites(model, build):
    with Site(model, build) as one, Site(model, build) as two:
        one.account.code(1)
        two.account.code(2)
        one.runfcgi(f"socket={one.sock}")
        two.runfcgi(f"socket={two.sock}")
        text = recipe(
            "lighttpd/several-sites.conf",
            ("www\\.example1\\.com", "localhost"),
            ("www\\.example2\\.com", "testserver"),
            ("/home/user/site1/public_html", one.account.public),
            ("/home/user/site2/public_html", two.account.public),
            ("/home/user/site1.sock", one.sock),
            ("/home/user/site2.sock", two.sock),
        )
        lighttpd(one, text)
        web = Client(one.port)
        assert web.get("/version/", Host="localhost").text == "1"
        assert web.get("/version/", Host="testserver").text == "2"
        assert web.get("/shop/version/", Host="testserver").text == "1"
        told = web.get("/shop/echo/a%20b/?q=1", Host="testserver").json
        assert told["environ"]["SCRIPT_NAME"] == "/shop" and told["path_info"] == "/echo/a b/"
        assert told["url"] == "/shop/target/" and told["get"] == {"q": "1"}
        assert web.get("/shop/version", Host="testserver").headers["Location"] == "/shop/version/"
        for host in ("localhost", "testserver"):
            assert web.get("/media/hello.txt", Host=host).status == 200
            assert web.get("/static/admin/css/base.css", Host=host).status == 200
        assert web.get("/version/", Host="elsewhere").status == 404
