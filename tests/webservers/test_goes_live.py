"""What the owner changes is what visitors get, under a real Apache with mod_fcgid: the cases of golive_cases.py."""

import pytest

from golive_cases import CASES, Results

NAMES = [name for name, tried in CASES.items() if "mod_fcgid" in tried.kinds]


@pytest.fixture(scope="module")
def results(request, build, model):
    """Of all cases that pytest is about to run."""
    items = [item for item in request.session.items if item.path == request.path]
    return Results("mod_fcgid", [item.callspec.params["name"] for item in items], build, model)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_goes_live(results, name):
    results.check(name)
