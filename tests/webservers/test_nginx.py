"""nginx, from deploy/nginx/, over FastCGI with kept connections and over SCGI."""

import shutil

import pytest

from webservers.apache import free_port
from webservers.recipe import METHODS, Site, recipe, write
from webservers.scenes import SCENES, run

RECIPES = {
    "fastcgi": "socket={sock}",
    "scgi": "protocol=scgi host=127.0.0.1 port={backend}",
}

MAIN = """\
daemon off;
worker_processes 2;
pid {server}/nginx.pid;
error_log stderr error;
events {{ worker_connections 256; }}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    client_body_temp_path {server}/body;
    proxy_temp_path {server}/proxy;
    fastcgi_temp_path {server}/fastcgi;
    scgi_temp_path {server}/scgi;
    uwsgi_temp_path {server}/uwsgi;
    include {server}/site.conf;
}}
"""


def nginx(site, text):
    """Starts an nginx with this configuration of a site."""
    for name in ("fastcgi_params", "scgi_params"):
        shutil.copy(f"/etc/nginx/{name}", site.server)
    write(site.server / "site.conf", text)
    main = write(site.server / "nginx.conf", MAIN.format(server=site.server))
    return site.start(["/usr/sbin/nginx", "-e", "stderr", "-p", site.server, "-c", main], ready=site.port)


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
