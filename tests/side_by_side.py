"""What tests that run side by side, in several processes, owe each other."""

import fcntl
import os

import pytest

# Tests that measure how soon something happens, or count what comes and goes.
ALONE = (
    "restart_under_load",
    "test_touch_under_load",
    "test_new_code_that_is_broken_does_not_go_live",
    "test_more_is_not_planned_than_the_account_has_room_for",
    "test_limits_of_the_account",
    "test_eight_processes_take_a_fraction",
    "test_the_default_runtime_directory_is_left_empty",
    "test_a_broken_executable_changes_nothing",
)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Waits until nothing runs that must run alone, or, for such a test, until nothing runs at all."""
    kind = fcntl.LOCK_EX if any(name in item.name for name in ALONE) else fcntl.LOCK_SH
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    directory = item.config.cache.mkdir("side_by_side")
    with open(directory / "entry", "w") as entry, open(directory / "running", "w") as running:
        # Whoever waits to run alone holds the entry, and nobody overtakes it.
        fcntl.flock(entry, fcntl.LOCK_EX)
        fcntl.flock(running, kind)
        fcntl.flock(entry, fcntl.LOCK_UN)
        return (yield)
