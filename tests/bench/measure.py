"""The large measurements. Each takes its contenders in turn (A B C A B C ...) and yields plain records.

Knows how to measure; knows nothing of options, medians or tables.
"""

import contextlib
import os
import statistics
import subprocess
import time
from concurrent import futures
from http.client import HTTPException

import load
import procs
from contenders import Loop, Site, listener
from servers import Stage

WARM_SECONDS = 20
SETTLE_SECONDS = 1.5
RESTART_SECONDS = 6
CGI_SECONDS = 0.5
# Roles of what a web server starts.
PROGRAMS = ("app", "front")


class Bench:
    """What all measurements share: where, as whom, who, how much."""

    def __init__(self, directory, user, contenders, options, say):
        self.directory = directory
        self.user = user
        self.contenders = contenders
        self.workers = options.workers
        self.rounds = options.rounds
        self.seconds = options.seconds
        self.connections = options.connections
        self.say = say
        self.sites_made = 0

    def who(self, app, front):
        return [c for c in self.contenders if front in c.fronts and app in c.apps]

    def site(self, contender, app, front, workers):
        """A site in a new directory."""
        self.sites_made += 1
        directory = self.directory / str(self.sites_made)
        directory.mkdir()
        return Site(contender, app, front, contender.processes(workers), directory, self.user)

    def attempt(self, measure, contender, *args):
        """The records of one measurement of one contender; its failure is a record too, and the others go on."""
        try:
            for record in measure(self, contender, *args):
                self.say(f"  {contender.name}: {brief(record)}")
                yield {"contender": contender.name, **record}
        except (RuntimeError, OSError, ValueError, HTTPException, subprocess.SubprocessError) as error:
            self.say(f"  {contender.name}: FAILED: {error}")
            yield {"contender": contender.name, "error": f"{measure.__name__}: {error}"}

    def attempt_all(self, measure, contenders, *args):
        for contender in contenders:
            yield from self.attempt(measure, contender, *args)


def brief(record):
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())


def throughput(bench, app, front):
    """requests/s, latency and CPU per 1,000 requests."""
    loops = [c for c in bench.contenders if isinstance(c, Loop)]
    loop_sites = [bench.site(c, app, "none", 1) for c in loops for _ in range(os.cpu_count())]

    def each_round():
        return bench.attempt_all(loop_of, loops, loop_sites)

    yield from turns(bench, app, front, bench.connections, slice_of, each_round)


def turns(bench, app, front, variants, measure, each_round=tuple, which=bool):
    """Measures each variant of each contender; all are up and take turns, each round in another order: the first slice
    after a change of the load is slower."""
    sites = [bench.site(c, app, front, bench.workers) for c in bench.who(app, front) if which(c)]
    with Stage(bench.directory, front, sites) if sites else contextlib.nullcontext():
        for site in list(sites):
            for record in bench.attempt(warmed, site.contender, site):
                sites.remove(site)
                yield record
        for number in range(bench.rounds):
            first = number % max(len(sites), 1)
            for variant in variants:
                for site in sites[first:] + sites[:first]:
                    for record in bench.attempt(measure, site.contender, site, variant):
                        yield {"round": number, **record}
            for record in each_round():
                yield {"round": number, **record}


def warmed(bench, _contender, site):
    """Nothing to record but a failure."""
    warm(site, min(site.workers, max(bench.connections)))
    yield from ()


def loop_of(bench, contender, sites):
    """As many loops at once as there are CPUs: a request costs more CPU on a busy machine than on an idle one."""
    with futures.ThreadPoolExecutor(len(sites)) as pool:
        done = list(pool.map(lambda site: contender.run(site, bench.seconds), sites))
    requests = sum(count for count, _, _ in done)
    yield {
        "rps": sum(count / wall for count, wall, _ in done),
        "cpu_per_1000": sum(cpu for _, _, cpu in done) / requests * 1000,
    }


def slice_of(bench, _contender, site, count, path="/"):
    before = procs.cpu_of(site.directory)
    result = load.wrk(site.port, count, bench.seconds, path)
    spent = procs.cpu_between(before, procs.cpu_of(site.directory))
    thousands = max(result["requests"], 1) / 1000
    if site.front == "cgi":
        procs.await_end(site.directory, PROGRAMS)
        spent, thousands = cpu_as_cgi(site), 1
    result["cpu_per_1000"] = sum(spent.values()) / thousands
    result["cpu_by_role"] = {role: seconds / thousands for role, seconds in spent.items()}
    yield {"connections": count, **result}


def cpu_as_cgi(site):
    """CPU seconds by role of 1,000 requests, had from some: the program is started as a web server does, for mod_cgid
    does not wait for its children, so that their times are lost."""
    before, ended, count, began = procs.cpu_of(site.directory), 0.0, 0, time.perf_counter()
    while count < 3 or time.perf_counter() - began < CGI_SECONDS:
        process = site.spawn([site.program], stdout=subprocess.DEVNULL, **load.GET)
        _, process.returncode, used = os.wait4(process.pid, 0)
        ended += used.ru_utime + used.ru_stime
        count += 1
    spent = {"front": ended, **procs.cpu_between(before, procs.cpu_of(site.directory))}
    return {role: seconds * 1000 / count for role, seconds in spent.items()}


def memory(bench, app, front):
    """PSS of everything of a site, with 1 and with all workers, after they have worked."""
    for contender in bench.who(app, front):
        for workers in sorted({1, bench.workers}):
            yield from bench.attempt(memory_of, contender, app, front, workers)


def memory_of(bench, contender, app, front, workers):
    site = bench.site(contender, app, front, workers)
    with Stage(bench.directory, front, [site]):
        warm(site, workers)
        load.wrk(site.port, workers, bench.seconds)
        sizes, counts = procs.pss(site.directory)
    yield {"workers": workers, "pss_mb": sum(sizes.values()), "pss_by_role": sizes, "processes": counts}


def cold(bench, app, front):
    """The first answer with nothing running, 8 first requests at once, and the n-th process of a web server."""
    for number in range(bench.rounds):
        for contender in bench.who(app, front):
            spawned = front == "fcgid" and not contender.apache
            for measure in (cold_first, cold_eight, cold_nth)[: 3 if spawned else 2]:
                yield from bench.attempt(measure, contender, app, front, number)


def cold_first(bench, contender, app, front, number):
    site = bench.site(contender, app, front, bench.workers)
    with Stage(bench.directory, front, [site], boot=False):
        began = time.perf_counter()
        site.start()
        yield {"round": number, "first_s": load.until_answered(site.port, began)}


def cold_eight(bench, contender, app, front, number):
    site = bench.site(contender, app, front, bench.workers)
    with Stage(bench.directory, front, [site], boot=False):
        began = time.perf_counter()
        site.start()
        answers, refused = load.at_once(site.port, 8, began)
        imports = site.imports()
    slowest = None if None in answers else max(answers)
    yield {"round": number, "eight_s": slowest, "eight_refused": refused, "eight_imports": imports}


def cold_nth(bench, contender, app, front, number):
    """Spawns processes as mod_fcgid does (listener as fd 0, named PPID.N, the program's directory) one after the
    other, all of them staying; each time is from spawn to the last byte."""
    site = bench.site(contender, app, front, 1)
    times = []
    try:
        for process in range(bench.workers):
            times.append(first_answer(site, process))
    finally:
        site.stop()
    others = statistics.median(times[1:] or times)
    yield {"round": number, "process_1_s": times[0], "process_n_s": others, "process_imports": site.imports()}


def first_answer(site, number):
    """Seconds from the start of a process to its first whole answer."""
    path = site.directory / f"{os.getpid()}.{number}"
    with listener(site, path) as listening:
        began = time.perf_counter()
        site.processes.append(site.spawn([site.program], stdin=listening))
    if not load.fastcgi_get(path):
        raise RuntimeError(f"process {number + 1} gave no complete 200: {site.log()}")
    return time.perf_counter() - began


def restart(bench, app, front):
    """New code under load: failed requests, the longest gap between answers, when the new code is live."""
    for number in range(bench.rounds):
        for contender in bench.who(app, front):
            yield from bench.attempt(restart_of, contender, app, front, number)


def restart_of(bench, contender, app, front, number):
    site = bench.site(contender, app, front, bench.workers)
    with Stage(bench.directory, front, [site]):
        warm(site, bench.workers)
        with load.Crowd(site.port, 8) as crowd:
            time.sleep(SETTLE_SECONDS)
            site.release(2)
            began = time.perf_counter()
            site.restart()
            wait_for_new(crowd, began)
    yield {"round": number, **judge(crowd.answers, began, crowd.over)}


def wait_for_new(crowd, began):
    """Until the new code has been answering for a while, or for as long as we care."""
    seen, live = 0, None
    while time.perf_counter() - began < RESTART_SECONDS:
        fresh = crowd.answers[seen:]
        seen += len(fresh)
        if live is None and any(release == "2" for _, _, release in fresh):
            live = time.perf_counter()
        if live and time.perf_counter() - live > SETTLE_SECONDS:
            return
        time.sleep(0.02)


def judge(answers, began, over):
    """An answer that comes when the others have stopped asking, after a nap of mod_fcgid's, ends no gap."""
    answers = sorted(answers)
    good = [when for when, ok, _ in answers if ok and when <= over]
    before = [when for when in good if when < began]
    after = [when for when in good if when >= began]
    new = [when for when, ok, release in answers if ok and release == "2"]
    old = [when for when, ok, release in answers if ok and release == "1"]
    return {
        "failed": sum(not ok for _, ok, _ in answers),
        "gap_s": longest([*before[-1:], *after, over]),
        "gap_before_s": longest(before),
        "live_s": new[0] - began if new else None,
        "last_old_s": max(old[-1] - began, 0.0) if new else None,
        "answers": len(good),
    }


def longest(moments):
    return max((b - a for a, b in zip(moments, moments[1:])), default=None)


def warm(site, workers):
    """Load until the site answers and, under mod_fcgid, which spawns on demand, has all its processes answering:
    one that still imports, or is missing, shows as an answer after half a second or more."""
    if load.until_answered(site.port, time.perf_counter()) is None:
        raise RuntimeError(f"it never answered: {site.log()}")
    if site.front == "cgi":
        return
    deadline = time.monotonic() + WARM_SECONDS
    while time.monotonic() < deadline:
        all_up = site.front != "fcgid" or fronts(site) >= workers
        result = load.wrk(site.port, workers if all_up else 2 * workers, 1)
        if all_up and result["requests"] and result["p99"] < 500:
            return


def fronts(site):
    """Processes that the web server spawned for the site."""
    return sum(procs.role(pid) in PROGRAMS for pid in procs.members(site.directory))
