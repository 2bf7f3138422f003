"""What the benchmark says of its figures: tables with what is noise, and the picture that the README shows."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from webservers.account import REPOSITORY

sys.path.append(str(Path(__file__).parent / "bench"))

import picture
from report import Report

SVG = "{http://www.w3.org/2000/svg}"


def page(contender, number, rps, cpu=1.0, front="nginx"):
    return {
        "metric": "throughput", "front": front, "app": "django", "contender": contender, "round": number,
        "connections": 8, "rps": rps, "cpu_per_1000": cpu, "p50": 1.0, "p99": 2.0, "failed": 0,
    }


def test_a_table_tells_how_far_the_rounds_lie_apart():
    records = [page("runfcgi", number, rps) for number, rps in enumerate([90.0, 100.0, 110.0])]
    text = Report(records, "runfcgi").markdown()
    assert "| runfcgi | 100 |" in text
    assert "requests/s 20% (at worst 20%)" in text and "Smaller differences are noise." in text


def test_one_round_tells_nothing_of_noise():
    assert "noise" not in Report([page("runfcgi", 0, 90.0)], "runfcgi").markdown()


def test_a_slice_has_a_row_for_each_variant_and_contender():
    records = [
        {"metric": "bodies", "front": "nginx", "app": "bodies", "contender": name, "variant": kind, "round": number,
         "mb_per_s": speed + number, "cpu_ms": 4.0}
        for name, speed in [("flup", 10), ("runfcgi", 200)] for kind in ("/upload", "/file") for number in range(3)
    ]
    text = Report(records, "flup").markdown()
    assert re.findall(r"^\| (/.+?) \| (\d+) \|", text, re.M) == [
        ("/upload, flup", "11"), ("/upload, runfcgi", "201"), ("/file, flup", "11"), ("/file, runfcgi", "201"),
    ]


def test_the_picture_shows_medians_and_what_was_not_measured():
    ours = {"metric": "memory", "front": "nginx", "app": "django", "contender": "runfcgi"}
    records = [page("runfcgi", number, rps) for number, rps in enumerate([150.0, 100.0, 90.0])]
    records = [page("flup", 0, 50.0), *records]
    records += [{**ours, "workers": workers, "pss_mb": size} for workers, size in [(1, 30.0), (8, 80.0)]]
    tree = ElementTree.fromstring(picture.draw(records, ["1 < 2"]))
    shapes = list(tree)
    assert shapes[1].tag == f"{SVG}rect" and shapes[1].get("fill") == "#fff"
    assert all(shapes[1].get(side) == tree.get(side) for side in ("width", "height"))
    bars = [(shape.get("class"), float(shape.get("width"))) for shape in tree.iter(f"{SVG}rect") if shape.get("class")]
    assert bars[0][0] == "bar" and bars[1][0] == "bar ours" and abs(bars[1][1] - 2 * bars[0][1]) < 0.2
    words = [element.text for element in tree.iter(f"{SVG}text")]
    assert {"1 < 2", "nginx, runfcgi", "100", "80", "not measured"} <= set(words) and "30" not in words

def test_the_readme_shows_a_picture_of_a_run():
    shown = re.findall(r"!\[[^]]+\]\((tests/bench/\S+\.svg)\)", (REPOSITORY / "README.md").read_text())
    assert len(shown) == 1
    words = [element.text for element in ElementTree.parse(REPOSITORY / shown[0]).iter(f"{SVG}text")]
    assert "nginx, runfcgi" in words and any("CPUs" in word for word in words)
