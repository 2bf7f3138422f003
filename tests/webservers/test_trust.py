"""Who may make us run, read or write what: the rows of the table in `src/trust.rs` that no other test has."""

import os
import struct
import subprocess
import sys

import pytest

from own_server import Site
from webservers.account import USER, new_directory
from webservers.processes import end
from webservers.users import AS_ROOT, as_user, take

pytestmark = AS_ROOT

CLEAN = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
# What hosts do so that accounts do not see each other's processes.
HIDDEN = ["unshare", "--mount", "sh", "-c", 'mount --make-rprivate / && mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
# Runs a program as one user, whose parent is a process of another one.
CHILD = """
import os, sys
parent, uid, *command = sys.argv[1:]
ready, go = os.pipe()
child = os.fork()
for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # unlike suexec, a shell sets them
    os.environ.pop(name, None)
if child == 0:
    os.read(ready, 1)
    os.setgid(int(uid))
    os.setuid(int(uid))
    os.execv(command[0], command)
os.setresuid(int(parent), int(parent), int(parent))
os.write(go, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def site(build, tmp_path_factory, owner):
    """One that belongs to its owner, as files of an account do."""
    with Site(tmp_path_factory.mktemp("site"), build) as site:
        (site.directory / "run").mkdir(mode=0o700)
        take(site.directory, owner)
        yield site
        end(site.alive())
        site.gone()


@pytest.fixture
def shared():
    """A directory like /tmp."""
    directory = new_directory("runfcgi-shared-")
    directory.chmod(0o1777)
    yield directory
    subprocess.run(["rm", "-r", str(directory)], check=True)


def let_write(path, user, mode):
    """What `setfacl -m u:USER:rwx` does to a file of this mode. The group's bits become the mask."""
    entries = [(0x01, mode >> 6, -1), (0x02, 7, user.pw_uid), (0x04, mode >> 3 & 7, -1), (0x10, 7, -1), (0x20, mode & 7, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", acl)
    assert path.stat().st_mode & 0o777 == mode | 0o070


def test_where_processes_are_hidden_the_environment_decides(site, owner):
    """With hidepid=2 nobody sees whose process the caller is."""

    def version(environ, parent=USER, wrap=HIDDEN):
        command = [*wrap, sys.executable, "-c", CHILD, str(parent.pw_uid), str(owner.pw_uid), str(site.executable), "version"]
        return subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, timeout=20)

    seen = version({**CLEAN, "HOME": "/"}, wrap=[])
    assert seen.returncode == 2 and "RF0153" in seen.stderr, seen
    assert version({**CLEAN, "HOME": "/"}).stdout.startswith("runfcgi ")
    for parent in (USER, owner):
        refused = version(CLEAN, parent)
        assert refused.returncode == 2 and "RF0152" in refused.stderr, refused
    site.daemon("socket=my.sock", "pidfile=my.pid", prefix=[*HIDDEN, "setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"])
    assert site.ask() and site.ask()


def test_an_access_control_list_counts(site, owner):
    """Whom it lets write could change what we run, although owner and group are those of the account."""
    python = site.directory / "venv" / "python"
    python.parent.mkdir()
    python.symlink_to("/usr/bin/python3")
    text = site.config.read_text()
    site.config.write_text(text.replace("[server]", f'python = "{python}"\n[server]'))
    take(site.directory, owner)
    as_owner = as_user(owner)

    def refused(*words):
        done = site.run("socket=my.sock", *words, **as_owner)
        site.gone()
        return done.stderr

    os.chown(python.parent, owner.pw_uid, owner.pw_uid)
    python.parent.chmod(0o775)
    site.daemon("socket=my.sock", **as_owner)
    assert site.ask(), "the account's private group may write"
    end(site.alive())
    let_write(python.parent, USER, 0o755)
    assert f"others may write {python.parent} (mode 0775), and so could run code as us" in refused()
    os.removexattr(python.parent, "system.posix_acl_access")
    let_write(site.config, USER, 0o644)
    assert "RF0101" in refused() and "others may write the settings file (mode 0674)" in refused()
    os.removexattr(site.config, "system.posix_acl_access")
    site.config.chmod(0o644)
    run = site.directory / "run"
    run.mkdir(mode=0o700, exist_ok=True)  # the last process has removed it
    take(run, owner)
    let_write(run, USER, 0o700)
    done = site.run("socket=my.sock", "pidfile=my.pid", **as_owner)  # whose descriptor tells that this is the site's process
    assert site.ask() and "RF0604" in done.stderr and "/run: open to others (chmod 700 it)" in done.stderr, done


def test_a_link_to_a_directory_is_looked_at(site, owner, shared):
    """A stranger's leads nowhere, to no interpreter and to no log; the account's own does."""
    text = site.config.read_text()
    (site.directory / "bin").mkdir()
    (site.directory / "bin" / "python").symlink_to("/usr/bin/python3")
    (site.directory / "logs").mkdir()
    take(site.directory, owner)
    for name, to in (("bin", site.directory / "bin"), ("logs", site.directory / "logs")):
        (shared / name).symlink_to(to)
    site.config.write_text(text.replace("[server]", f'python = "{shared}/bin/python"\n[server]'))
    words = ["socket=my.sock", "pidfile=my.pid", f"errlog={shared}/logs/err.log"]
    for user in (USER, owner):
        for name in ("bin", "logs"):
            os.lchown(shared / name, user.pw_uid, user.pw_gid)
        if user is USER:
            whose = f"belongs to user {user.pw_uid}, but we run as user {owner.pw_uid}"
            done = site.run(*words, **as_user(owner))
            assert done.returncode == 1 and f"RF0243: errlog={shared}/logs/err.log: cannot be opened: {shared}/logs {whose}" in done.stderr, done
            done = site.run("socket=my.sock", **as_user(owner))
            assert done.returncode == 1 and f"RF0200 [app] python: {shared}/bin/python is not run: {shared}/bin {whose}" in done.stderr, done
            site.gone()
    site.daemon(*words, **as_user(owner))
    assert site.ask() and "imported the app" in (site.directory / "logs" / "err.log").read_text()
