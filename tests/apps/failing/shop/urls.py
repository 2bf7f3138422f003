"""Addresses that fail in the ways that owners meet, when the site is broken."""

from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import path

PRICES = {"apple": "right"}


def front(request):
    return HttpResponse("right")


def price(request):
    return HttpResponse(PRICES["apple"])


def count(request):
    return HttpResponse("right" if Session.objects.count() >= 0 else "")


def basket(request):
    request.session["basket"] = ["apple"]
    return HttpResponse("right")


def page(request):
    return render(request, "page.html")


VIEWS = [price, count, basket, page]
urlpatterns = [path("", front)] + [path(view.__name__ + "/", view) for view in VIEWS]
