"""The limit: calls an app in a plain loop and prints requests, wall and CPU seconds. `loop.py MODULE SECONDS`,
in the app's directory."""

import importlib
import io
import sys
import time

ENVIRON = {
    "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", "REQUEST_URI": "/",
    "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "127.0.0.1", "HTTP_USER_AGENT": "loop", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr, "wsgi.multithread": False, "wsgi.multiprocess": True, "wsgi.run_once": False,
}


def call(application):
    answer = []
    environ = dict(ENVIRON)
    environ["wsgi.input"] = io.BytesIO()
    iterable = application(environ, lambda status, headers, exc_info=None: answer.append(status))
    length = sum(map(len, iterable))
    if hasattr(iterable, "close"):
        iterable.close()
    assert answer[0].startswith("200") and length
    return length


def main():
    sys.path.insert(0, ".")
    application = importlib.import_module(sys.argv[1]).application
    seconds = float(sys.argv[2])
    call(application)
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for _ in range(50):
            call(application)
        count += 50
    print(count, time.perf_counter() - began, time.process_time() - cpu)


main()
