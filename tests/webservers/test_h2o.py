"""h2o, from deploy/h2o/: connecting to a server that runs, and starting it."""

import pytest

from webservers.recipe import METHODS, Site, recipe, write
from webservers.scenes import SCENES, run


@pytest.fixture(scope="module", params=[(name, m) for name in ("connect", "spawn") for m in METHODS], ids="-".join)
def site(request, model, build):
    name, method = request.param
    with Site(model, build, config=f'method = "{method}"\n') as site:
        replacements = [
            ("example.com", "127.0.0.1"),
            ("port: 80\n", f"host: 127.0.0.1\n      port: {site.port}\n"),
            ("/home/user/public_html", site.account.public),
        ]
        if name == "connect":
            site.runfcgi(f"socket={site.sock}", f"method={method}")
            replacements.append(("/home/user/mysite.sock", site.sock))
        text = f"num-threads: 2\npid-file: {site.server}/h2o.pid\n" + recipe(f"h2o/{name}.conf", *replacements)
        site.start(["/usr/bin/h2o", "-m", "worker", "-c", write(site.server / "h2o.conf", text)], ready=site.port)
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_h2o(site, scene):
    run(site, scene)
