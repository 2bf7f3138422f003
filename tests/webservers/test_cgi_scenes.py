"""The scenes by CGI: behind an Apache that starts the program for each request. (test_apache_fcgid.py has mod_fcgid.)"""

import shutil

import pytest

from webservers.apache import CGI_ONLY, Apache
from webservers.recipe import Site
from webservers.scenes import SCENES, run


@pytest.fixture(scope="module")
def site(model, build):
    with Site(model, build, htaccess="as it comes") as site:
        site.server.rmdir()
        shutil.copy(site.account.public / "media" / "favicon.ico", site.account.public)
        site.traits.add("no-length-of-head")  # Apache 2.4.59 and later take no Content-Length from a CGI program
        with Apache(site.account, "AllowEncodedSlashes NoDecode\n", CGI_ONLY) as apache:
            site.port = apache.port
            yield site


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_cgi(site, scene):
    run(site, scene)
