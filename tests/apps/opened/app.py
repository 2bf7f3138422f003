"""A WSGI app that answers with what the module OPENED fetches for the query, by what it has opened when imported."""

import importlib
import os

with open(os.path.join(os.environ["MARKS"], "imports"), "a") as imports:
    imports.write("%d\n" % os.getpid())
IMPORTER = os.getpid()
opened = importlib.import_module("opened_" + os.environ["OPENED"])


def application(environ, start_response):
    text = str(opened.fetch(environ["QUERY_STRING"]))
    pids = [("X-Pid", str(os.getpid())), ("X-Importer", str(IMPORTER))]
    start_response("200 OK", [("Content-Type", "text/plain")] + pids)
    return [text.encode()]
