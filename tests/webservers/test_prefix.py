"""Under a prefix: relative STATIC_URL and MEDIA_URL, also where urls.py reads them while it is imported."""

import json

import pytest

from webservers.apache import Apache

URLS = """\
import json
from django.conf import settings
from django.http import HttpResponse
from django.templatetags.static import static
from django.urls import path

AT_IMPORT = settings.MEDIA_URL

def told(request):
    urls = AT_IMPORT, settings.MEDIA_URL, settings.STATIC_URL, static("a.css")
    return HttpResponse(json.dumps(urls))

urlpatterns = [path("told/", told)]
"""
SETTINGS = """\
from myproject.settings import *
ROOT_URLCONF = "prefixed"
STATIC_URL, MEDIA_URL = "static/", "media/"
"""


@pytest.mark.parametrize("more", ["", 'warm = "/told/"', "preload = false", '[app]\nscript_name = "/shop"'])
@pytest.mark.parametrize("directory", ["", "shop"])
def test_relative_urls_begin_with_the_prefix(make_site, directory, more):
    if "script_name" in more and not directory:
        pytest.skip("a prefix is not forced at the root")
    account = make_site(directory=directory)
    account.put(account.project / "prefixed.py", URLS)
    account.put(account.project / "prefixed_settings.py", SETTINGS)
    app, server = ("", more) if "[app]" not in more else (more.removeprefix("[app]\n"), "")
    account.configure(
        f'[app]\npath = "{{project}}"\nsettings = "prefixed_settings"\n{app}\n'
        f'[server]\nruntime_dir = "{{runtime}}"\n{server}\n'
    )
    prefix = f"/{directory}/" if directory else "/"
    with Apache(account) as apache:
        for _ in range(2):
            told = apache.client.get(f"{prefix}told/")
            assert told.status == 200, told.body
            urls = json.loads(told.body)
            assert urls == [f"{prefix}media/", f"{prefix}media/", f"{prefix}static/", f"{prefix}static/a.css"]
