"""HAProxy, from deploy/haproxy/: one request at a time on a connection, and many."""

import pytest

from webservers.apache import free_port
from webservers.recipe import METHODS, Site, recipe, write
from webservers.scenes import SCENES, run

RECIPES = {"fcgi-app": "socket={sock}", "multiplexed": "host=127.0.0.1 port={backend}"}


@pytest.fixture(scope="module", params=[(name, method) for name in RECIPES for method in METHODS], ids="-".join)
def site(request, model, build):
    name, method = request.param
    backend, files = free_port(), free_port()
    with Site(model, build) as site:
        site.runfcgi(*RECIPES[name].format(sock=site.sock, backend=backend).split(), f"method={method}")
        public = ("/home/user/public_html", site.account.public)
        text = recipe("haproxy/files.conf", public, ("server.port = 8080", f"server.port = {files}"))
        types = f'mimetype.assign = ( ".css" => "text/css", ".txt" => "text/plain" )\nserver.errorlog = "{site.server}/files.log"\n'
        site.start(["/usr/sbin/lighttpd", "-D", "-f", write(site.server / "files.conf", text + types)], ready=files)
        text = recipe(
            f"haproxy/{name}.cfg",
            public,
            ("bind :80", f"bind 127.0.0.1:{site.port}"),
            ("127.0.0.1:8080", f"127.0.0.1:{files}"),
            ("/home/user/mysite.sock", site.sock) if name == "fcgi-app" else ("127.0.0.1:3033", f"127.0.0.1:{backend}"),
        )
        site.traits.add("no-chunked")
        main = write(site.server / "haproxy.cfg", "global\n    maxconn 500\n" + text)
        site.start(["/usr/sbin/haproxy", "-db", "-f", main], ready=site.port)
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_haproxy(site, scene):
    run(site, scene)
