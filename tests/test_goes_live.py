"""What the owner changes is what visitors get: every key of mysite.toml, and all that may be wrong with it.

For a process that was spawned with a listening socket (prefork) and for a server of its own (threaded). The same under
mod_fcgid: webservers/test_goes_live.py.
"""

import pytest

from golive import KINDS
from golive_cases import CASES, Results

PAIRS = [(kind, name) for kind in ("prefork", "threaded") for name, tried in CASES.items() if kind in tried.kinds]


@pytest.fixture(scope="module")
def results(request, build, model):
    """`results(kind)`: of all cases of that kind that pytest is about to run."""
    chosen = [item.callspec.params for item in request.session.items if item.path == request.path]
    known = {}

    def of(kind):
        if not KINDS[kind].program:
            pytest.skip("not installed")
        if kind not in known:
            known[kind] = Results(kind, [c["name"] for c in chosen if c["kind"] == kind], build, model)
        return known[kind]

    return of


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind, name", PAIRS, ids=[f"{kind}: {name}" for kind, name in PAIRS])
def test_goes_live(results, kind, name):
    results(kind).check(name)
