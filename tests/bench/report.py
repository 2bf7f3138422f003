"""Medians, ratios and the Markdown table. Records in, text out; knows nothing of how they were measured."""

import statistics

# The smaller measurements: their title, and of each column the head, the key and the digits.
SLICES = {
    "kept": ("processes that come and go", [
        ("first process, ms", "first_ms", 0), ("later ones, ms", "later_ms", 1), ("slowest, ms", "slowest_ms", 1),
        ("imports", "imports", 0), ("as many stay: PSS MB", "pss_mb", 0), ("processes", "processes", 0),
        ("of them workers", "kept_workers", 0),
    ]),
    "idle": ("8 busy connections beside idle ones", [
        ("idle ones held", "held", 0), ("requests/s", "rps", 0), ("p50 ms", "p50", 2), ("p99 ms", "p99", 2),
        ("app CPU s per 1,000", "cpu_per_1000", 3), ("PSS MB", "pss_mb", 0), ("failed", "failed", 0),
    ]),
    "far": ("cold start, each file operation so many us longer", [("first answer, s", "far_s", 2)]),
    "bodies": ("bodies of 10 MiB, one client", [("MiB/s", "mb_per_s", 0), ("app CPU ms each", "cpu_ms", 1)]),
    "limit": ("48 visitors of a page that takes 6 MB and 1 s, at a limit of memory", [
        ("requests", "requests", 0), ("failed", "failed", 0), ("processes killed", "killed", 0), ("p50 ms", "p50", 0),
        ("p99 ms", "p99", 0),
    ]),
    "waits": ("pages of so many us of waiting / of computing, 8 connections", [
        ("requests/s", "rps", 0), ("p50 ms", "p50", 2), ("p99 ms", "p99", 2),
        ("app CPU s per 1,000", "cpu_per_1000", 3), ("failed", "failed", 0),
    ]),
}


class Report:
    """The records of a run, asked for by what they are about."""

    def __init__(self, records, base):
        self.records = records
        self.base = base

    def values(self, key, **about):
        """{round: value} of `key` over the records that match."""
        return {
            record.get("round", 0): record[key]
            for record in self.records
            if record.get(key) is not None and all(record.get(k) == v for k, v in about.items())
        }

    def median(self, key, **about):
        found = self.values(key, **about).values()
        return statistics.median(found) if found else None

    def spread(self, key, **about):
        """What lies between the rounds' smallest and largest figure, by their median; None with a single round."""
        found = self.values(key, **about).values()
        middle = statistics.median(found) if len(found) > 1 else 0
        return (max(found) - min(found)) / middle if middle else None

    def noise(self, columns, cells):
        """A line that says how far the rounds lie apart: `cells` are what the rows of a table are about."""
        parts = []
        for head, key in columns:
            spreads = [spread for cell in cells if (spread := self.spread(key, **cell)) is not None]
            if spreads:
                parts.append(f"{head} {statistics.median(spreads):.0%} (at worst {max(spreads):.0%})")
        text = f"From round to round the same figure differs by: {', '.join(parts)}. Smaller differences are noise."
        return [text, ""] if parts else []

    def ratio(self, key, base, **about):
        """Median over the rounds of what `contender` has for each 1 of `base` in the same round."""
        mine = self.values(key, **about)
        other = self.values(key, **dict(about, contender=base))
        pairs = [mine[n] / other[n] for n in mine if other.get(n)]
        return statistics.median(pairs) if pairs else None

    def known(self, key, **about):
        """Values of `key` in order of first appearance."""
        seen = [r[key] for r in self.records if key in r and all(r.get(k) == v for k, v in about.items())]
        return list(dict.fromkeys(value for value in seen if value is not None))

    def role(self, role, **about):
        """Median CPU seconds per 1,000 requests of one role (front, worker)."""
        found = [
            r["cpu_by_role"][role] for r in self.records
            if role in r.get("cpu_by_role", {}) and all(r.get(k) == v for k, v in about.items())
        ]
        return statistics.median(found) if found else None

    def markdown(self):
        lines = []
        for front in self.known("front"):
            for app in self.known("app", front=front):
                lines += self.throughput(front, app) + self.rest(front, app)
                for metric in SLICES:
                    lines += self.slice(metric, front, app)
        errors = [f"- {r['front']}, {r['app']}, {r['contender']}: {r['error']}" for r in self.records if "error" in r]
        if errors:
            lines += ["## Not measured", "", *errors, ""]
        return "\n".join(lines + self.aims())

    def throughput(self, front, app):
        about = {"metric": "throughput", "front": front, "app": app}
        counts = self.known("connections", **about)
        names = self.known("contender", **about)
        if not counts:
            return []
        base = self.base if self.base in names else names[0]
        loop = self.median("cpu_per_1000", contender="loop", **about)
        rows = []
        for name in names:
            each = [dict(about, contender=name, connections=count) for count in counts]
            middle = each[min(1, len(each) - 1)]
            speed = joined([self.median("rps", **one) for one in each], 0)
            if name == "loop":
                middle = dict(about, contender=name)
                speed = number(self.median("rps", **middle), 0)
            cpu = self.median("cpu_per_1000", **middle)
            cpu_text = number(cpu, 3)
            if self.role("worker", **middle) is not None:
                parts = [f"{role} {number(self.role(role, **middle), 3)}" for role in ("front", "worker")]
                cpu_text += f" ({', '.join(parts)})"
            rows.append([
                name,
                speed,
                joined([self.ratio("rps", base, **one) for one in each], 2),
                joined([self.median("p50", **one) for one in each], 2),
                joined([self.median("p99", **one) for one in each], 1),
                cpu_text,
                number(cpu / loop if cpu and loop else None, 2),
                joined([self.median("failed", **one) for one in each], 0),
            ])
        counts_text = "/".join(map(str, counts))
        middle = counts[min(1, len(counts) - 1)]
        return [
            f"## {front}, {app}: requests, at {counts_text} connections", "",
            *table(
                ["contender", "requests/s", f"ratio to {base}", "p50 ms", "p99 ms", f"app CPU s per 1,000 at {middle}",
                 "CPU ratio to loop", "failed"], rows,
            ), "",
            *self.noise(
                [("requests/s", "rps"), ("p50", "p50"), ("p99", "p99"), ("CPU", "cpu_per_1000")],
                [dict(about, contender=name, connections=count) for name in names for count in counts],
            ),
        ]

    def slice(self, metric, front, app):
        """One of the smaller measurements: medians, and how far the rounds lie apart."""
        title, columns = SLICES[metric]
        about = {"metric": metric, "front": front, "app": app}
        names, variants = self.known("contender", **about), self.known("variant", **about)
        cells = [dict(about, contender=name, variant=variant) for variant in variants or [None] for name in names]
        cells = [cell for cell in cells if any(self.values(key, **cell) for _, key, _ in columns)]
        if not cells:
            return []
        rows = [
            [f"{cell['variant']}, {cell['contender']}" if variants else cell["contender"],
             *(number(self.median(key, **cell), digits) for _, key, digits in columns)]
            for cell in cells
        ]
        table_of = table(["contender", *(head for head, _, _ in columns)], rows)
        noise = self.noise([(head, key) for head, key, digits in columns if digits], cells)
        return [f"## {front}, {app}: {title}", "", *table_of, "", *noise]

    def rest(self, front, app):
        """Memory, cold start, restart: whatever of them was measured."""
        about = {"front": front, "app": app}
        names = [n for n in self.known("contender", **about) if n != "loop"]
        if not any(self.known("contender", metric=metric, **about) for metric in ("memory", "cold", "restart")):
            return []
        workers = self.known("workers", metric="memory", **about)
        rows = []
        for name in names:
            mine = dict(about, contender=name)
            live = self.median("live_s", **mine)
            measured = self.median("answers", **mine) is not None
            rows.append([
                name,
                joined([self.median("pss_mb", workers=n, **mine) for n in workers], 1) or "-",
                number(self.median("first_s", **mine), 3),
                number(self.median("eight_s", **mine), 3),
                number(self.median("eight_imports", **mine), 0),
                joined([self.median("process_1_s", **mine), self.median("process_n_s", **mine)], 3),
                number(self.median("failed", metric="restart", **mine), 0),
                number(self.median("gap_s", **mine), 3) + f" ({number(self.median('gap_before_s', **mine), 3)})",
                "never" if measured and live is None else number(live, 2),
            ])
        return [
            f"## {front}, {app}: memory, start, restart under load", "",
            *table(
                ["contender", f"PSS MB, {'/'.join(map(str, workers)) or '-'} workers", "first 200 s",
                 "8 at once, all answered s", "imports", "process 1/n, first answer s", "restart: failed",
                 "longest gap s (before)", "new code live s"], rows,
            ), "",
        ]

    def aims(self):
        """What the project aims for, beside what this run measured; only where both sides were measured."""
        rows = []

        def aim(text, value, limit, most=True, digits=2):
            if value is not None:
                met = value <= limit if most else value >= limit
                rows.append([text, number(value, digits), f"{'<=' if most else '>='} {limit}", "yes" if met else "no"])

        ours = {"metric": "throughput", "contender": "runfcgi"}
        hello = dict(ours, front="nginx", app="hello", connections=8)
        aim("nginx, hello, 8 connections: requests/s to uwsgi", self.ratio("rps", "uwsgi", **hello), 0.85, False)
        front = self.role("front", **hello)
        aim("nginx, hello, 8 connections: front CPU us a request", front and front * 1000, 20, digits=1)
        page = dict(ours, front="nginx", app="django", connections=8)
        cpu = self.median("cpu_per_1000", **page)
        loop = self.median("cpu_per_1000", metric="throughput", contender="loop", front="nginx", app="django")
        aim("nginx, django, 8 connections: CPU to the bare loop", cpu / loop if cpu and loop else None, 1.05)
        flup = "flup-threaded"
        about = dict(ours, front="fcgid", app="hello", connections=8)
        aim("fcgid, hello, 8 connections: requests/s to flup", self.ratio("rps", flup, **about), 1.5, False)
        aim("fcgid, hello, 8 connections: CPU to flup", self.ratio("cpu_per_1000", flup, **about), 0.33)
        most = max(self.known("workers", metric="memory"), default=None)
        about = {"metric": "memory", "contender": "runfcgi", "front": "fcgid", "app": "django", "workers": most}
        aim(f"fcgid, django, {most} workers: PSS to flup", self.ratio("pss_mb", flup, **about), 0.3)
        about = {"metric": "cold", "contender": "runfcgi", "front": "fcgid", "app": "django"}
        spawn = self.median("process_n_s", **about)
        aim("fcgid, django: first answer of the n-th process, ms", spawn and spawn * 1000, 60, digits=0)
        aim("fcgid, django, 8 at once: imports", self.median("eight_imports", **about), 1, digits=0)
        for place in self.known("front"):
            about = {"metric": "restart", "contender": "runfcgi", "front": place, "app": "django"}
            aim(f"{place}, django, restart: failed", self.median("failed", **about), 0, digits=0)
            gap = self.median("gap_s", **about)
            aim(f"{place}, django, restart: longest gap, ms", gap and gap * 1000, 100, digits=0)
        return ["## Aims", "", *table(["aim", "measured", "limit", "met"], rows), ""] if rows else []


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def joined(values, digits):
    return "-" if all(value is None for value in values) else "/".join(number(value, digits) for value in values)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
