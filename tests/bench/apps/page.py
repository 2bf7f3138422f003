"""A small Django page: the usual middleware, a URLconf, a template with a few loops, no database."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.template import loader
from django.urls import path
from stamp import HERE, release

RELEASE = release()
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
COLUMNS = ["title", "author", "year", "shelf"]
ROWS = [
    {"title": f"Volume <{n}>", "author": f"Author & Sons {n % 7}", "year": 1900 + n, "shelf": n % 5}
    for n in range(24)
]


def page(request):
    context = {"columns": COLUMNS, "rows": ROWS, "sections": ["home", "books", "people", "about"]}
    response = HttpResponse(loader.render_to_string("page.html", context, request))
    response["X-Release"] = RELEASE
    return response


urlpatterns = [path("", page, name="page"), path("books/<int:year>/", page, name="year")]

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.staticfiles"],
    MIDDLEWARE=MIDDLEWARE,
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for the bench",
    STATIC_URL="/static/",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [os.path.join(HERE, "templates")],
            "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
        }
    ],
)
application = get_wsgi_application()
