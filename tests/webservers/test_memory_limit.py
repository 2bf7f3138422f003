"""An account whose memory is limited: more visitors than there is room for wait, and nobody fails."""

import os
import statistics

import pytest

from .apache import FCGID_ONLY, Apache
from .load import Load
from .memory import limited
from .processes import until

APP = '''
import time

# In the plain form, each worker has its own.
HELD = bytearray(b"x") * (20 << 20)

def app(environ, start_response):
    page = bytearray(b"x") * (6 << 20)
    time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [bytes(page[:10])]
'''
SETTINGS = """
[app]
path = "{project}"
wsgi = "large:app"
python = "/usr/bin/python3"
[server]
runtime_dir = "{runtime}"
"""
VISITORS, SECONDS = 48, 10
MANY = "ThreadLimit 64\nThreadsPerChild 64\nServerLimit 1\nMaxRequestWorkers 64\nFcgidMaxProcesses 200\nFcgidMaxProcessesPerClass 100\nFcgidSpawnScoreUpLimit 1000\n"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a control group")
@pytest.mark.parametrize(
    "megabytes, server, seconds",
    [(300, "", 12), (512, "", 12), (300, "preload = false", 25)],
    ids=["300", "512", "300, plain"],
)
def test_at_a_memory_limit_visitors_wait_and_nobody_fails(site, megabytes, server, seconds):
    site.put(site.project / "large.py", APP)
    site.configure(SETTINGS + server)
    with limited(megabytes) as group:
        if group is None:
            pytest.skip("no control group can be made here")
        with Apache(site, MANY, FCGID_ONLY, wrap=group.wrap()) as apache:
            until(lambda: apache.client.get("/").status == 200, 20, "it serves")
            with Load(apache.port, "/", VISITORS, pause=0, keep_alive=False) as load:
                until(lambda: load.answers and load.answers[-1].end - load.answers[0].begin > SECONDS, 90, "the time is over")
            times = sorted(answer.end - answer.begin for answer in load.answers)
            told = f"{len(times)} answers, {len(load.failures)} failed, {group.kills()} killed"
            print(f"{megabytes} MB: {told}; median {statistics.median(times):.1f} s, slowest {times[-1]:.1f} s")
            assert not load.failures, (told, load.failures[:3])
            assert group.kills() == 0, told
            assert times[-1] < seconds, told
