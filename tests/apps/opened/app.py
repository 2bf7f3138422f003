"""A WSGI app that answers with what the module OPENED fetches for the query, by what it has opened when imported."""

import importlib
import os

with open(os.path.join(os.environ["MARKS"], "imports"), "a") as imports:
    imports.write("%d\n" % os.getpid())
opened = importlib.import_module("opened_" + os.environ["OPENED"])


def application(environ, start_response):
    text = str(opened.fetch(environ["QUERY_STRING"]))
    with open("/proc/{}/comm".format(os.getppid())) as file:
        parent = file.read().strip()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Pid", str(os.getpid())), ("X-Parent", parent)])
    return [text.encode()]
