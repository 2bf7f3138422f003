"""Codes of messages: each is explained, documented, and caused by a test."""

import re
import subprocess

import pytest

from webservers.account import REPOSITORY


@pytest.fixture(scope="module")
def run(build):
    def run(*words):
        return subprocess.run([str(build), *words], capture_output=True, text=True, timeout=20)

    return run


@pytest.mark.parametrize("words", [("explain", "RF0103"), ("explain", "rf103"), ("explain", "0103"), ("help", "RF0103")])
def test_a_code_is_explained(run, words):
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("RF0103: a section or key is unknown\n")
    assert re.search(r"\ncause:\n  \S.*\n(  .*\n)*\nconsequence:\n(  .*\n)+\ncure:\n(  .*\n)+$", done.stdout), done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_an_unknown_code_names_its_neighbours(run):
    done = run("explain", "RF0106")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such code" in done.stderr
    assert "RF0105 (an option of the command line is wrong), RF0110" in done.stderr
    done = run("explain", "sunshine")
    assert done.returncode == 2 and "write one such as RF0103" in done.stderr


def test_each_code_is_listed_documented_and_caused_by_a_test(run):
    listed = re.findall(r"^  (RF\d{4})  \S", run("explain").stdout, re.MULTILINE)
    assert len(listed) > 90 and listed == sorted(set(listed))
    reference = run("explain", "--markdown").stdout
    assert re.findall(r"^### (RF\d{4}): ", reference, re.MULTILINE) == listed
    assert (REPOSITORY / "deploy" / "codes.md").read_text() == reference
    paths = [path for path in (REPOSITORY / "tests").rglob("*") if path.suffix in (".py", ".rs", ".txt")]
    tests = [path for path in paths if ".venv" not in path.parts and path.name != "test_codes.py"]
    texts = [path.read_text() for path in tests]
    texts += [path.read_text().partition("#[cfg(test)]")[2] for path in (REPOSITORY / "src").rglob("*.rs")]
    named = set(re.findall(r"RF\d{4}", "".join(texts)))
    assert sorted(set(listed) - named) == [], "no test causes these"
    assert sorted(named - set(listed)) == [], "tests name codes that there are not"
