"""Views that show what arrived, and views that answer in every way a web server must be able to pass on."""

import hashlib
import os
import tempfile
import time

from django.conf import settings
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

from .version import VERSION

PATTERN = bytes(range(256)) * 256


def home(request):
    return HttpResponse("<h1>It works.</h1> <a href='%s'>target</a>" % reverse("target"))


@csrf_exempt
def echo(request, rest):
    """The CGI environment as the app sees it, and what Django made of it."""
    environ = {k: v for k, v in request.META.items() if isinstance(v, str) and k == k.upper()}
    return JsonResponse(
        {
            "environ": environ,
            "path": request.path,
            "path_info": request.path_info,
            "rest": rest,
            "get": request.GET.dict(),
            "url": reverse("target"),
            "absolute": request.build_absolute_uri(),
            "secure": request.is_secure(),
            "multiprocess": request.environ["wsgi.multiprocess"],
            "multithread": request.environ["wsgi.multithread"],
            "run_once": request.environ["wsgi.run_once"],
            "lang": os.environ.get("LANG"),
            "pid": os.getpid(),
        }
    )


def version(request):
    return HttpResponse(VERSION, content_type="text/plain")


@csrf_exempt
def upload(request):
    """Reads the body in pieces, as a large upload is read."""
    digest, length = hashlib.sha256(), 0
    while piece := request.read(65536):
        digest.update(piece)
        length += len(piece)
    return JsonResponse({"length": length, "sha256": digest.hexdigest()})


def _pieces(size):
    while size > 0:
        yield PATTERN[:size]
        size -= len(PATTERN)


def stream(request, size):
    return StreamingHttpResponse(_pieces(size), content_type="application/octet-stream")


def file(request, size):
    """FileResponse on a real file: goes through wsgi.file_wrapper."""
    content = tempfile.TemporaryFile()
    for piece in _pieces(size):
        content.write(piece)
    content.seek(0)
    return FileResponse(content, as_attachment=True, filename="größe.bin")


def to_target(request):
    return redirect("target")


def target(request):
    return HttpResponse("you are at %s" % request.path)


def error(request):
    raise RuntimeError("the error view was asked to fail")


def slow(request):
    """Says that it has begun, with its process id, then takes its time."""
    mark = settings.HOME / "db" / request.GET["mark"]
    mark.with_suffix(".new").write_text(str(os.getpid()))
    mark.with_suffix(".new").replace(mark)
    time.sleep(float(request.GET["seconds"]))
    return HttpResponse("done")


def drip(request):
    def drops():
        for i in range(3):
            yield b"drop %d\n" % i
            time.sleep(0.2)

    return StreamingHttpResponse(drops(), content_type="text/plain")


def cookies(request):
    response = JsonResponse(request.COOKIES)
    response.set_cookie("one", "1")
    response.set_cookie("two", "2", httponly=True)
    return response


@csrf_exempt
def method(request):
    response = HttpResponse(request.method, content_type="text/plain")
    response["X-Method"] = request.method
    return response
