"""Waits, as for a database, and computes: `/WAIT/WORK` in microseconds of time and of CPU. `/mix` is quick, and slow
for each tenth request."""

import time

from stamp import release

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "3"), ("X-Release", release())]
QUICK, SLOW = (0, 300), (50_000, 5_000)
asked = 0


def application(environ, start_response):
    global asked
    asked += 1
    path = environ["PATH_INFO"]
    if path == "/mix":
        wait, work = QUICK if asked % 10 else SLOW
    else:
        wait, work = map(int, path[1:].split("/")) if path != "/" else (0, 0)
    if wait:
        time.sleep(wait / 1e6)
    end = time.thread_time() + work / 1e6
    while time.thread_time() < end:
        sum(range(100))
    start_response("200 OK", HEADERS[:])
    return [b"ok\n"]
