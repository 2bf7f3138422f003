"""Apache from the virtual hosts in deploy/apache/: its three proxies, mod_fcgid and CGI."""

import pytest

from webservers.apache import free_port
from webservers.recipe import METHODS, Site, apache
from webservers.scenes import SCENES, run

RECIPES = {
    "mod_proxy_fcgi": "socket={sock}",
    "mod_proxy_scgi": "protocol=scgi host=127.0.0.1 port={backend}",
    "mod_proxy_ajp": "protocol=ajp host=127.0.0.1 port={backend}",
    "mod_fcgid-vhost": None,
    "mod_cgi": None,
}


@pytest.fixture(scope="module", params=[(name, method) for name in RECIPES for method in METHODS], ids="-".join)
def site(request, model, build):
    name, method = request.param
    backend = free_port()
    config = f'method = "{method}"\n'
    if name == "mod_proxy_ajp":
        config += 'secret = "long-random-text"\n'
    if name == "mod_cgi":
        # The imported site outlives the processes of single pages.
        config += "linger = 2\n"
    with Site(model, build, config=config) as site:
        replacements = []
        if RECIPES[name]:
            site.runfcgi(*RECIPES[name].format(sock=site.sock, backend=backend).split(), f"method={method}")
            unix = name == "mod_proxy_fcgi"
            replacements.append(("/home/user/mysite.sock", site.sock) if unix else ("127.0.0.1:3033", f"127.0.0.1:{backend}"))
        if name != "mod_fcgid-vhost":
            site.traits.add("no-length-of-head")
        if name == "mod_proxy_scgi":
            site.traits.add("no-chunked")
        apache(site, f"apache/{name}.conf", *replacements)
        yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_apache(site, scene):
    run(site, scene)
