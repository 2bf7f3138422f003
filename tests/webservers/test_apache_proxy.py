"""Apache from the virtual hosts in deploy/apache/: its three proxies, mod_fcgid and CGI."""

import os
import re

import pytest

from webservers.apache import free_port
from webservers.recipe import DEPLOY, METHODS, Site, recipe, write
from webservers.scenes import SCENES, run

RECIPES = {
    "mod_proxy_fcgi": "socket={sock}",
    "mod_proxy_scgi": "protocol=scgi host=127.0.0.1 port={backend}",
    "mod_proxy_ajp": "protocol=ajp host=127.0.0.1 port={backend}",
    "mod_fcgid-vhost": None,
    "mod_cgi": None,
}

# What Debian's Apache has loaded before any a2enmod; alias and mime are among it.
BASE = "mpm_event authn_core authz_core authz_host alias dir mime env setenvif filter"

MAIN = """\
ServerName 127.0.0.1
ServerRoot {server}
DefaultRuntimeDir {server}
PidFile {server}/httpd.pid
ErrorLog {server}/apache.log
LogLevel warn
Listen 127.0.0.1:{port}
{modules}
TypesConfig /etc/mime.types
StartServers 1
ServerLimit 2
ThreadsPerChild 25
MaxRequestWorkers 50
<IfModule cgid_module>
    ScriptSock {server}/cgid.sock
</IfModule>
<IfModule fcgid_module>
    FcgidIPCDir {server}/fcgid
    FcgidProcessTableFile {server}/fcgid.shm
    # As an ordinary user mod_fcgid does not start while there is a suexec.
    Suexec Off
</IfModule>
<Directory />
    Require all denied
    AllowOverride None
</Directory>
Include {server}/site.conf
"""


def apache(site, name, *replacements):
    """Starts an Apache with this recipe and the modules that it names."""
    named = re.search(r"a2enmod ([a-z_ ]+)", (DEPLOY / name).read_text())[1]
    modules = "".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n" for m in (BASE + " " + named).split())
    places = [("*:80", f"127.0.0.1:{site.port}"), ("example.com", "127.0.0.1")]
    write(site.server / "site.conf", recipe(name, *places, ("/home/user/public_html", site.account.public), *replacements))
    main = write(site.server / "apache.conf", MAIN.format(server=site.server, port=site.port, modules=modules))
    return site.start(["/usr/sbin/apache2", "-d", site.server, "-f", main, "-D", "FOREGROUND"], ready=site.port)


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
