"""The app of tests/golive.py: says of itself, in each answer, all that a setting can change."""

import json
import os
import sys
import time
from urllib.parse import parse_qs

try:
    from flavour import FLAVOUR
except ImportError:
    FLAVOUR = "none"

time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))
IMPORTED_BY = os.getpid()
WARMED = []


def make(name):
    """A WSGI app of this name."""

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        query = {key: values[0] for key, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        if path.startswith("/raise"):
            raise RuntimeError("raised by the app")
        if path.startswith("/warm"):
            WARMED.append(path)
        if path.startswith("/upload"):
            environ["wsgi.input"].read()
        time.sleep(float(query.get("seconds", "0")))
        for _ in range(int(query.get("lines", "0"))):
            print(query["say"], file=sys.stderr, flush=True)
        data = json.dumps(tell(name, environ)).encode() + b"\n" * int(query.get("more", "0"))
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
        return [data]

    return app


def tell(name, environ):
    """What a visitor of the app `name` is told."""
    return {
        "app": name,
        "V": os.environ.get("V"),
        "settings": os.environ.get("DJANGO_SETTINGS_MODULE"),
        "directory": os.path.basename(os.getcwd()),
        "prefix": os.path.basename(sys.prefix),
        "flavour": FLAVOUR,
        "pid": os.getpid(),
        "imported by": "itself" if IMPORTED_BY == os.getpid() else "another",
        "threads": len(os.listdir("/proc/self/task")),
        "multithread": environ["wsgi.multithread"],
        "script_name": environ["SCRIPT_NAME"],
        "path_info": environ["PATH_INFO"],
        "remote_user": environ.get("REMOTE_USER"),
        "warmed": WARMED,
    }
