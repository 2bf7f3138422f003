"""Several servers of one site, from deploy/scale-out/: one leaves and comes back while visitors ask."""

import pytest

from webservers.apache import free_port
from webservers.load import Load
from webservers.processes import until
from webservers.recipe import Site, end, recipe, write
from webservers.test_apache_proxy import apache
from webservers.test_nginx import nginx


def start(name, site, one, two):
    public = ("/home/user/public_html", site.account.public)
    servers = [("192.0.2.11:3033", f"127.0.0.1:{one}"), ("192.0.2.12:3033", f"127.0.0.1:{two}")]
    if name == "nginx":
        places = [("listen 80;", f"listen 127.0.0.1:{site.port};"), ("example.com", "127.0.0.1")]
        nginx(site, recipe("scale-out/nginx.conf", public, *servers, *places))
    elif name == "haproxy":
        text = recipe("scale-out/haproxy.cfg", public, *servers, ("bind :80", f"bind 127.0.0.1:{site.port}"))
        site.start(["/usr/sbin/haproxy", "-db", "-f", write(site.server / "haproxy.cfg", text)], ready=site.port)
    else:
        apache(site, "scale-out/apache.conf", *servers)


@pytest.mark.parametrize("name", ["nginx", "haproxy", "apache"])
def test_one_of_two_leaves_and_comes_back(name, model, build):
    one, two = free_port(), free_port()
    protocol = "ajp" if name == "apache" else "fcgi"
    options = [f"protocol={protocol}", "host=127.0.0.1", "ping=/ping"]
    with Site(model, build, config='secret = "long-random-text"\n' if name == "apache" else "") as site:
        first = site.runfcgi(*options, f"port={one}")
        second = site.runfcgi(*options, f"port={two}")
        start(name, site, one, two)
        web = site.client
        assert web.get("/ping").text == "pong\n"
        until(lambda: web.get("/version/").status == 200, 10, "the balancer has found its servers")
        with Load(site.port, "/version/", visitors=4) as load:
            until(lambda: len(load.answers) > 50, 20, "both are warm")
            end(first)
            count = len(load.answers)
            until(lambda: len(load.answers) > count + 100, 20, "the other one serves")
            # It comes back with other code, so that its answers tell it from the other one.
            site.account.code(7)
            site.runfcgi(*options, f"port={one}")
            until(lambda: load.answers[-1].body == "7", 20, "the one that came back serves")
        assert not load.failures, (len(load.failures), load.failures[:3])
        with Load(site.port, "/version/", visitors=4) as load:
            until(lambda: any(a.body == "7" for a in load.answers), 20, "they serve")
            end(second)
            count = len(load.answers)
            until(lambda: len(load.answers) > count + 50, 20, "the one that came back serves")
        assert not load.failures, (len(load.failures), load.failures[:3])
