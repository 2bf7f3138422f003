"""The table of systems in the README: it names files and tests that are there, and leaves out none in deploy/. Links lead
somewhere in all documents."""

import re

from webservers.account import REPOSITORY

ROWS = re.findall(
    r"^\| (.+?) \| (.+?) \| (.+?) \|$",
    (REPOSITORY / "README.md").read_text().split("<!-- systems -->")[1].split("<!-- /systems -->")[0],
    re.MULTILINE,
)[1:]


def names(cell):
    """The paths in a cell; a name without a directory lies beside the one before it."""
    found = []
    for name in re.findall(r"`([^`]+)`", cell):
        if name.startswith("."):
            continue
        found.append(REPOSITORY / name if "/" in name else found[-1].with_name(name))
    return found


def test_each_row_names_files_and_a_test_that_reads_them():
    assert len(ROWS) > 20
    for system, files, tests in ROWS:
        texts = [path.read_text() for path in names(tests) if "--check" not in path.name]
        for file in names(files):
            assert file.is_file(), (system, file)
            assert not texts or any(file.stem in text or file.parent.name in text for text in texts), (system, file)


def test_no_recipe_is_left_out():
    named = {path for _, files, _ in ROWS for path in names(files)}
    there = {path for part in ("deploy", "htaccess-templates") for path in (REPOSITORY / part).rglob("*") if path.is_file()}
    assert {path for path in there - named if path.name not in ("README.md", "codes.md")} == set()


def test_the_tests_that_are_named_are_there():
    texts = [path.read_text() for part in ("src", "tests") for path in (REPOSITORY / part).rglob("*.[pr][ys]") if ".venv" not in path.parts]
    for page in (REPOSITORY / "README.md", REPOSITORY / "src" / "trust.rs"):
        names = set(re.findall(r"`(test_\w+)`", page.read_text()))
        assert len(names) > 10, page
        for name in names:
            assert any(f"def {name}(" in text for text in texts), (page, name)


def anchors(text):
    """The names that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_link_leads_somewhere():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "deploy").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!\w+:)([^)]+)\)", page.read_text())]
    assert len(links) > 50
    for page, link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists() and (not anchor or anchor in anchors(target.read_text())), (page, link)
