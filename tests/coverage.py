"""Sums up what `tests/run --coverage` has counted: a line for each file, and a list of the lines that no test reaches.

Only lines of code count: unit tests, which stand at the end of a file, do not.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(counts, missed):
    """Reads `counts`, which llvm-cov has written in the format of lcov, and writes `missed`."""
    rows, lists = [], []
    for path, lines in sorted(read(counts).items()):
        name = str(path.relative_to(ROOT))
        reached = sum(1 for hits in lines.values() if hits)
        rows.append((reached, len(lines), name))
        missing = [number for number, hits in sorted(lines.items()) if not hits]
        if missing:
            lists.append(f"{name}: {', '.join(ranges(missing))}\n")
    rows.append((sum(row[0] for row in rows), sum(row[1] for row in rows), "all"))
    for reached, lines, name in rows:
        print(f"{reached:6} of {lines:6}  {100 * reached / max(lines, 1):5.1f} %  {name}")
    Path(missed).write_text("".join(lists))
    return 0 if len(rows) > 1 else 1


def read(counts):
    """How often each line of code was reached, by file."""
    files, lines, last = {}, {}, 0
    for record in Path(counts).read_text().splitlines():
        kind, _, value = record.partition(":")
        if kind == "SF":
            path = Path(value)
            last = code(path)
            lines = files.setdefault(path, {}) if last else {}
        elif kind == "DA":
            number, hits = (int(field) for field in value.split(",")[:2])
            if number <= last:
                lines[number] = lines.get(number, 0) + hits
    return {path: lines for path, lines in files.items() if lines}


def code(path):
    """How many lines of a file are code; 0 for a file of tests, and for what is not ours."""
    if ROOT / "src" not in path.parents or path.name == "tests.rs":
        return 0
    before = path.read_text().split("\n#[cfg(test)]")[0]
    return before.count("\n") + 1


def ranges(numbers):
    """`3-5` and `9` for 3, 4, 5 and 9."""
    begin = end = numbers[0]
    for number in numbers[1:]:
        if number > end + 1:
            yield shown(begin, end)
            begin = number
        end = number
    yield shown(begin, end)


def shown(begin, end):
    return f"{begin}-{end}" if end > begin else str(begin)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
