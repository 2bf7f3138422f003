"""The picture of a run: what a Django page costs with each contender, as SVG. Records in, text out."""

from html import escape

from report import Report, number

APP, CONNECTIONS = "django", 8
NAMES = {"nginx": "nginx", "fcgid": "Apache", "cgi": "CGI"}
# Head, which measurement, its figure, digits. (Seconds for 1,000 pages are milliseconds a page.)
COLUMNS = [
    ("requests/s (more is better)", {"metric": "throughput", "connections": CONNECTIONS}, "rps", 0),
    ("99 of 100 within ms (less)", {"metric": "throughput", "connections": CONNECTIONS}, "p99", 0),
    ("CPU ms a page (less)", {"metric": "throughput", "connections": CONNECTIONS}, "cpu_per_1000", 2),
    ("memory MB, 8 workers (less)", {"metric": "memory"}, "pss_mb", 0),
]
LEFT, WIDTH, GAP, ROW, TOP = 160, 190, 20, 20, 86
STYLE = (
    "text{font:12px sans-serif;fill:#222}.head{font-weight:bold}.note{font-size:11px;fill:#555}"
    ".bar{fill:#b8c0cc}.ours{fill:#2f6fb5}.range{stroke:#222;stroke-width:1}"
)


def draw(records, notes):
    """One row for each contender and front, one column for each figure: the median of the rounds, and a line from the
    smallest to the largest. The ground is white, so that it can be read on a dark page, too."""
    report = Report([record for record in records if record.get("contender") != "loop"], "")
    rows = [
        (front, name)
        for front in report.known("front", app=APP) for name in report.known("contender", app=APP, front=front)
    ]
    columns = [column for column in COLUMNS if report.known(column[2], app=APP, **column[1])]
    width, height = LEFT + len(columns) * (WIDTH + GAP), TOP + ROW * len(rows) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>',
        text(10, 20, f"A Django page, {CONNECTIONS} visitors at a time", "head"),
        *(text(10, 38 + 16 * line, note, "note") for line, note in enumerate(notes)),
    ]
    for place, (head, about, key, digits) in enumerate(columns):
        left = LEFT + place * (WIDTH + GAP)
        parts.append(text(left, TOP - 8, head, "head"))
        found = {row: figures(report, key, about, *row) for row in rows}
        most = max((max(values) for values in found.values() if values), default=1) or 1
        for line, row in enumerate(rows):
            parts += bar(left, TOP + ROW * line, found[row], (WIDTH - 45) / most, digits, row[1].startswith("runfcgi"))
    for line, (front, name) in enumerate(rows):
        parts.append(text(10, TOP + ROW * line + 13, f"{NAMES.get(front, front)}, {name}"))
    return "\n".join([*parts, "</svg>", ""])


def figures(report, key, about, front, name):
    """Smallest, median and largest; empty if it was not measured. Of the memory: with the most workers."""
    about = dict(about, app=APP, front=front, contender=name)
    if about["metric"] == "memory" and (workers := report.known("workers", **about)):
        about["workers"] = max(workers)
    values = report.values(key, **about).values()
    return (min(values), report.median(key, **about), max(values)) if values else ()


def bar(left, top, values, scale, digits, ours):
    if not values:
        return [text(left, top + 13, "not measured", "note")]
    least, middle, most = values
    kind = "bar ours" if ours else "bar"
    shapes = [f'<rect class="{kind}" x="{left}" y="{top + 3}" width="{middle * scale:.1f}" height="{ROW - 7}"/>']
    if most > least:
        ends = f'x1="{left + least * scale:.1f}" x2="{left + most * scale:.1f}"'
        shapes.append(f'<line class="range" {ends} y1="{top + 9.5}" y2="{top + 9.5}"/>')
    return [*shapes, text(left + round(max(most, middle) * scale) + 4, top + 13, number(middle, digits))]


def text(left, top, words, kind="name"):
    return f'<text class="{kind}" x="{left}" y="{top}">{escape(words)}</text>'
