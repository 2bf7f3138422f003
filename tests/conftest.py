"""Fixtures of all Python tests: the release binary, hosting accounts, a running Apache, or what plays mod_fcgid."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from plain_site import RUN_AS, Plain, kill
from webservers import processes
from webservers.account import REPOSITORY, Account, Model
from webservers.apache import FCGID_ONLY, Apache
from webservers.manager import Manager


pytest_plugins = ["side_by_side"]


@pytest.fixture(scope="session")
def build():
    """The release executable, as a plain `cargo build --release` makes it; RUNFCGI_TEST_BINARY names another one.

    RUSTFLAGS in the environment would undo the static linking of .cargo/config.toml, so it is not passed on.
    """
    if "RUNFCGI_TEST_BINARY" in os.environ:
        return Path(os.environ["RUNFCGI_TEST_BINARY"])
    env = {k: v for k, v in os.environ.items() if k not in ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS")}
    command = ["cargo", "build", "--release", "--bin", "runfcgi", "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Path(next(m["executable"] for m in messages if m.get("executable")))


@pytest.fixture(scope="session")
def model():
    """What all hosting accounts have in common."""
    model = Model()
    yield model
    model.remove()


@pytest.fixture
def make_site(build, model):
    """`make_site(htaccess=…, directory=…)`: hosting accounts that are removed after the test."""
    accounts = []

    def make(**options):
        accounts.append(Account(model, build, **options))
        return accounts[-1]

    yield make
    for account in accounts:
        account.remove()


@pytest.fixture
def site(make_site):
    """A hosting account of its own for a test that changes it."""
    return make_site()


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(megabytes)`: the path of a file system of this size."""
    mounted = []

    def mount(megabytes):
        if os.getuid():
            pytest.skip("mounts need root")
        path = tmp_path / f"disk-{len(mounted)}"
        path.mkdir()
        size = f"size={megabytes}m,mode=1777"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(path)], check=True)
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def make_plain(make_site):
    """`make_plain(server=…, limits=…)`: a site of faults.py, with settings of its own."""
    return lambda **settings: Plain(make_site(), **settings)


@pytest.fixture
def manage():
    """`manage(site)`: a running Manager; at the end it stops, and then nothing of the site may be left."""
    started = []

    def start(site, **options):
        manager = Manager(site.account, **{**RUN_AS, **options}).__enter__()
        started.append((site, manager))
        return manager

    yield start
    for site, manager in started:
        manager.stop()
        print("--- the site's log, its end ---", *site.log().splitlines()[-40:], sep="\n")
        try:
            processes.until(site.gone, 5, "all processes have left")
            left = {}
        except AssertionError:
            left = processes.touching(site.account.base)
            processes.end(left)
        assert not left, f"still there after the web server has stopped: {left}"
        assert processes.left_behind(site.account.runtime) == []


@pytest.fixture
def by_cgi(make_plain):
    """`by_cgi(**settings)`: a site that is served by CGI; at the end its preloader is told to leave."""
    made = []

    def make(**settings):
        made.append(make_plain(**settings))
        return made[-1]

    yield make
    for site in made:
        print("--- the site's log, its end ---", *site.log().splitlines()[-20:], sep="\n")
        for preloader in site.preloaders():
            kill(preloader, signal.SIGTERM)
        processes.until(site.gone, 10, "all have left")


@pytest.fixture
def apache(site):
    """An Apache of its own for a test that changes the site."""
    with Apache(site) as apache:
        yield apache


@pytest.fixture(scope="module")
def web(build, model):
    """A client of a site that all tests of a module share: for tests that change nothing."""
    account = Account(model, build)
    try:
        with Apache(account, "FcgidMaxRequestLen 16777216\nAllowEncodedSlashes NoDecode\n", FCGID_ONLY) as apache:
            yield apache.client
    finally:
        account.remove()
