"""Addresses that fail in the ways that owners meet, and one that does well."""

from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path


def fine(request):
    return HttpResponse("fine")


def raises(request):
    prices = {}
    return HttpResponse(prices["apple"])


def counts_users(request):
    return HttpResponse(User.objects.count())


def adds_a_user(request):
    User.objects.create(username="zoe")
    return HttpResponse("added")


def keeps_a_session(request):
    request.session["basket"] = ["apple"]
    return HttpResponse("kept")


def fails_in_silence(request):
    return HttpResponse("no luck", status=500)


def raises_later(request):
    def pieces():
        yield "one piece"
        raise ValueError("no second piece")

    from django.http import StreamingHttpResponse

    return StreamingHttpResponse(pieces())


VIEWS = [fine, raises, counts_users, adds_a_user, keeps_a_session, fails_in_silence, raises_later]
urlpatterns = [path(view.__name__ + "/", view) for view in VIEWS]
