"""The smaller measurements: bodies, idle connections, pages that wait, processes that come and go, a limit of memory, files
that are far away. Each yields plain records, as those of `measure` do.
"""

import statistics
import time

import load
import procs
from measure import first_answer, slice_of, turns
from servers import Stage
from webservers.memory import limited

BUSY = 8
IDLE = (0, 1000)
LIMITS = (300, 512)  # MB of memory
CROWD, MOST_PROCESSES, CROWD_SECONDS = 48, 100, 20
# Microseconds of waiting and of computing.
PAGES = ("/0/1000", "/500/300", "/3000/300", "/50000/0", "/mix")
# Microseconds that each file operation takes longer.
FAR = (0, 500, 2000)
SETTLED_SECONDS = 2.2  # runfcgi keeps no bytecode of files that are younger


def bodies(bench, app, front):
    """Uploads and downloads of 10 MiB, one client."""
    yield from turns(bench, app, front, load.TRANSFERS, transfer_of)


def transfer_of(bench, _contender, site, kind):
    before = procs.cpu_of(site.directory)
    times = load.transfer(site.port, kind, bench.seconds)
    spent = procs.cpu_between(before, procs.cpu_of(site.directory))
    yield {
        "variant": kind, "mb_per_s": load.MIB * len(times) / sum(times),
        "cpu_ms": sum(spent.values()) * 1000 / len(times),
    }


def waits(bench, app, front):
    """Pages that wait or compute, with 8 connections."""
    yield from turns(bench, app, front, PAGES, wait_of)


def wait_of(bench, contender, site, path):
    for record in slice_of(bench, contender, site, BUSY, path):
        yield {"variant": path, **record}


def idle(bench, app, front):
    """8 busy connections, without and with 1,000 that a web server keeps open to the contender and does not use."""
    yield from turns(bench, app, front, IDLE, idle_of, which=lambda c: c.nginx.startswith("fastcgi_pass"))


def idle_of(bench, contender, site, count):
    with load.Idle(site.socket, count) as crowd:
        for record in slice_of(bench, contender, site, BUSY):
            sizes, _ = procs.pss(site.directory)
            yield {"variant": count, "held": crowd.open(), "pss_mb": sum(sizes.values()), **record}


def kept(bench, app, front):
    """Processes that a web server starts and ends."""
    for number in range(bench.rounds):
        for contender in bench.who(app, front):
            if not contender.apache:
                yield from bench.attempt(kept_of, contender, app, front, number)


def kept_of(bench, contender, app, front, number):
    """Starts processes as mod_fcgid does (listener as fd 0, named PPID.N, the program's directory), each when the one
    before has answered and ended; times are from spawn to the last byte. Then as many stay, with a visitor each."""
    site = bench.site(contender, app, front, 1)
    try:
        times = []
        for process in range(bench.workers + 1):
            times.append(first_answer(site, process))
            site.processes[0].terminate()
            site.processes.pop().wait(10)
        for process in range(bench.workers):
            first_answer(site, bench.workers + 1 + process)
        sizes, counts = procs.pss(site.directory)
    finally:
        site.stop()
    yield {
        "round": number, "first_ms": times[0] * 1000, "later_ms": statistics.median(times[1:]) * 1000,
        "slowest_ms": max(times[1:]) * 1000, "imports": site.imports(), "pss_mb": sum(sizes.values()),
        "kept_workers": counts.get("worker"), "processes": sum(counts.values()),
    }


def limit(bench, app, front):
    """48 visitors at a time of a page that takes 6 MB and a second, in a control group that limits memory. The web server
    may start 100 processes, as Apache does by default."""
    for number in range(bench.rounds):
        for megabytes in LIMITS:
            for contender in bench.who(app, front):
                if not contender.apache:
                    yield from bench.attempt(limit_of, contender, app, front, megabytes, number)


def limit_of(bench, contender, app, front, megabytes, number):
    site = bench.site(contender, app, front, MOST_PROCESSES)
    with limited(megabytes) as group:
        if group is None:
            raise RuntimeError("no control group can be made here")
        with Stage(bench.directory, front, [site], wrap=group.wrap()):
            load.until_answered(site.port, time.perf_counter())
            result = load.wrk(site.port, CROWD, CROWD_SECONDS)
        yield {"round": number, "variant": f"{megabytes} MB", "killed": group.kills(), **result}


def far(bench, app, front):
    """A cold start of a site that ran before, where file operations are round trips to a file server."""
    for number in range(bench.rounds):
        for delay in FAR:
            for contender in bench.who(app, front):
                yield from bench.attempt(far_of, contender, app, front, number, delay)


def far_of(bench, contender, app, front, number, delay):
    """From the start, with nothing running, to the first answer. Home, site and packages are far away."""
    site = bench.site(contender, app, front, 1)
    time.sleep(SETTLED_SECONDS)
    with Stage(bench.directory, front, [site], boot=False):
        site.start()
        load.until_answered(site.port, time.perf_counter())
        site.stop()
        if delay:
            needs = contender.needs
            paths = f"{site.directory}:{needs.venv}"
            site.environ.update(LD_PRELOAD=str(needs.slow_files), SLOW_PATHS=paths, SLOW_MICROSECONDS=str(delay))
        began = time.perf_counter()
        site.start()
        yield {"round": number, "variant": delay, "far_s": load.until_answered(site.port, began)}
