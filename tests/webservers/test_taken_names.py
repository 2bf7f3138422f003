"""The name of the runtime directory is no secret, so another user can take it first: that is told, and the next place is used.

The last place is the account's home, unless visitors can get there."""

import os
import signal

import pytest

from own_server import Site
from webservers.processes import end
from webservers.users import AS_ROOT, as_user, take

pytestmark = AS_ROOT
BASES = ("/dev/shm", "/tmp", "/var/tmp")


@pytest.fixture
def site(build, tmp_path_factory, owner):
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        site.config.write_text(site.config.read_text().replace('runtime_dir = "run"\n', ""))
        (site.directory / "home").mkdir()
        (site.directory / "www").mkdir()
        for name in ("mysite.fcgi", "mysite.toml", "app.py"):
            (site.directory / name).rename(site.directory / "www" / name)
        take(site.directory, owner)
        yield site
        end(site.alive())
        site.gone()


def test_a_name_that_is_taken(site, owner):
    home, www, log = site.directory / "home", site.directory / "www", site.directory / "www" / "err.log"
    words = ["socket=../my.sock", "pidfile=../my.pid", "errlog=err.log"]
    told = "RF0607 another user has taken the name of the runtime directory: "

    def run(where=home):
        """Starts a server and asks it. Returns its runtime directory, and what it and its log say."""
        log.unlink(missing_ok=True)
        done = site.run(*words, cwd=www, env={**os.environ, "HOME": str(where)}, **as_user(owner))
        assert done.returncode == 0 and site.ask(), done
        directory = os.path.dirname(os.readlink(f"/proc/{site.pid()}/exe"))
        os.kill(site.pid(), signal.SIGTERM)
        site.gone()
        return directory, done.stderr + log.read_text()

    directory, said = run()
    name = os.path.basename(directory)
    places = [f"{base}/{name}" for base in BASES]
    assert directory == places[0] and "RF0607" not in said
    taken = []
    try:
        for place, after in zip(places, [*places[1:], f"{home}/.cache/runfcgi/{name}"]):
            os.mkdir(place, 0o755)
            taken.append(place)
            directory, said = run()
            names = "; ".join(f"{place}: not a directory of ours" for place in taken)
            assert directory == after and said.count(told) == 1 and f"{told}{names}; {after} is used" in said, said
        assert "RF0604 no runtime directory; " in run(www)[1]
        assert not [found for found in www.rglob("*") if "runfcgi" in found.name], "nothing where visitors get at it"
    finally:
        for place in taken:
            os.rmdir(place)
