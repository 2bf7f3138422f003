"""nginx, from deploy/nginx/, over FastCGI with kept connections and over SCGI."""

import pytest

from webservers.apache import free_port
from webservers.recipe import METHODS, Site, nginx, recipe
from webservers.scenes import SCENES, run

RECIPES = {
    "fastcgi": "socket={sock}",
    "scgi": "protocol=scgi host=127.0.0.1 port={backend}",
}


@pytest.fixture(scope="module", params=[(name, method) for name in RECIPES for method in METHODS], ids="-".join)
def site(request, model, build):
    name, method = request.param
    backend = free_port()
    with Site(model, build) as site:
        options = RECIPES[name].format(sock=site.sock, backend=backend).split()
        site.runfcgi(*options, f"method={method}")
        replacements = [
            ("/home/user/public_html", site.account.public),
            ("listen 80;", f"listen 127.0.0.1:{site.port};"),
            ("example.com", "127.0.0.1"),
            ("/home/user/mysite.sock", site.sock) if name == "fastcgi" else ("127.0.0.1:3033", f"127.0.0.1:{backend}"),
        ]
        site.traits.add("host-without-port")
        nginx(site, recipe(f"nginx/{name}.conf", *replacements))
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_nginx(site, scene):
    run(site, scene)
