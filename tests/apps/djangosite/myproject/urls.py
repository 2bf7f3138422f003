"""Addresses of the site that the tests serve."""

from django.contrib import admin
from django.urls import path, re_path

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("admin/", admin.site.urls),
    path("version/", views.version),
    path("upload/", views.upload),
    path("stream/<int:size>/", views.stream),
    path("file/<int:size>/", views.file),
    path("redirect/", views.to_target),
    path("target/", views.target, name="target"),
    path("error/", views.error),
    path("slow/", views.slow),
    path("drip/", views.drip),
    path("cookies/", views.cookies),
    path("method/", views.method),
    re_path(r"^echo/(?P<rest>.*)$", views.echo, name="echo"),
]
