"""The URLconf and the view of the small Django page."""

from django.contrib import admin
from django.http import HttpResponse
from django.template import loader
from django.urls import path
from page import RELEASE

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


urlpatterns = [
    path("", page, name="page"),
    path("books/<int:year>/", page, name="year"),
    path("admin/", admin.site.urls),
]
