"""Fixtures of tests with more than one user."""

import fcntl
import os
import pwd
import subprocess
import uuid

import pytest

from webservers.account import USER, Account, run
from webservers.users import SUEXEC, SUEXEC_LOG, take


@pytest.fixture
def owner():
    """A system user made for one test."""
    name = f"runfcgi-{uuid.uuid4().hex[:8]}"
    subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)
        subprocess.run(["groupdel", name], check=False, capture_output=True)


@pytest.fixture
def suexec():
    """The suexec that these tests set up, as the one that Apache runs, whichever the system has chosen.

    The machine has one, so tests that run side by side have it in turn.
    """
    assert os.path.exists(SUEXEC), "apache2-suexec-custom is not installed"
    lock = open(SUEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # It does nothing without its log; the directory comes with the package apache2, which these tests do without.
    os.makedirs(os.path.dirname(SUEXEC_LOG), exist_ok=True)
    said = run("update-alternatives", "--query", "suexec")
    before = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    run("update-alternatives", "--quiet", "--set", "suexec", SUEXEC)
    yield SUEXEC
    back = ["--auto", "suexec"] if before["Status"] == "auto" else ["--set", "suexec", before["Value"]]
    run("update-alternatives", "--quiet", *back)
    lock.close()


@pytest.fixture
def owned(model, build, owner, suexec):
    """An account under its owner's user, in the place that suexec is told of."""
    allowed = f"/etc/apache2/suexec/{USER.pw_name}"
    with open(allowed) as file:
        before = file.read()
    account = Account(model, build)
    try:
        # Its first line is the document root, below which programs may lie; its second line is for home directories.
        with open(allowed, "w") as file:
            file.write(f"{account.base}\npublic_html\n")
        for path in (account.home, account.base):
            path.chmod(0o755)
        # As /home is: whoever owns a directory above could put another interpreter in.
        os.chown(account.base, 0, 0)
        take(account.home, owner)
        account.runtime.mkdir(exist_ok=True)
        account.runtime.chmod(0o700)
        take(account.runtime, owner)
        yield account
    finally:
        with open(allowed, "w") as file:
            file.write(before)
        account.remove()
