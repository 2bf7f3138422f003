"""Caddy, from deploy/caddy/."""

import pytest

from webservers.recipe import METHODS, Site, recipe, write
from webservers.scenes import SCENES, run


@pytest.fixture(scope="module", params=METHODS)
def site(request, model, build):
    with Site(model, build) as site:
        site.runfcgi(f"socket={site.sock}", f"method={request.param}")
        text = recipe(
            "caddy/Caddyfile",
            ("example.com", f"http://127.0.0.1:{site.port}"),
            ("/home/user/public_html", site.account.public),
            ("/home/user/mysite.sock", site.sock),
        )
        main = write(site.server / "Caddyfile", "{\n\tadmin off\n}\n" + text)
        site.start(["/usr/bin/caddy", "run", "--adapter", "caddyfile", "--config", main], ready=site.port)
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_caddy(site, scene):
    run(site, scene)
