"""Words on the command line: heeded when the owner gives them, refused when the web server's user does."""

import os
import pwd
import shutil
import socket
import subprocess
import sys

import pytest

from webservers.account import USER, new_directory
from webservers.apache import CGI_ONLY, Apache
from webservers.processes import end, touching, until
from webservers.users import AS_ROOT, SUEXEC_SITE, as_user, take

CLEAN = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
BY_SUEXEC = "not taken from suexec"
# Runs `suexec OWNER OWNER mysite.fcgi WORD...` as its child, as a child whose parent has gone, or as one whose parent
# has become a process of the owner's by suexec itself.
CALLER = """
import os, socket, sys, time
how, suexec, user, uid, *words = sys.argv[1:]
program = [suexec, user, user, "mysite.fcgi"]
if how == "child":
    os.execv(suexec, program + words)
def whose(pid):
    with open("/proc/%d/status" % pid) as file:
        return file.read().split("Uid:")[1].split()[1]
caller = os.getpid()
if os.fork() == 0:
    while os.getppid() == caller if how == "orphan" else whose(caller) != uid:
        time.sleep(0.01)
    os.execv(suexec, program + words)
if how == "orphan":
    os._exit(0)
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
os.dup2(server.fileno(), 0)
os.execv(suexec, program)
"""
# Runs a program as one user, as the child of a process of another one.
CHILD = """
import os, sys, time
parent, uid, *command = sys.argv[1:]
caller = os.getpid()
child = os.fork()
if child == 0:
    os.setuid(int(uid))
    while os.stat("/proc/%d" % caller).st_uid != int(parent):
        time.sleep(0.01)
    os.execv(command[0], command)
os.setresuid(int(parent), int(parent), int(parent))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# Calls for an interpreter over a socket that `maker` has made.
LAUNCHER = """
import os, socket, sys
how, maker, uid, program, *address = sys.argv[1:]
os.seteuid(int(maker))
if how == "pair":
    ours, theirs = socket.socketpair()
else:
    theirs = socket.socket(socket.AF_UNIX)
    theirs.connect(address[0])
os.seteuid(0)
order = b"python\\0/TRAP/x.sh\\0".replace(b"/TRAP", sys.stdin.buffer.read())
if how == "pair":
    ours.sendall(b"%08x" % len(order) + order)
os.dup2(theirs.fileno(), 0)
os.setgid(int(uid))
os.setuid(int(uid))
os.execv(program, ["runfcgi-launch"])
"""


@pytest.fixture
def trap():
    """A directory open to all, with a program in it that leaves a mark."""
    directory = new_directory("runfcgi-trap-")
    directory.chmod(0o777)
    program = directory / "x.sh"
    program.write_text(f"#!/bin/sh\nid -u >{directory}/mark\n")
    program.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def left_in(trap):
    return sorted(path.name for path in trap.iterdir() if path.name not in ("x.sh", "said"))


@AS_ROOT
@pytest.mark.parametrize("how", ["child", "orphan", "adopted"])
def test_suexec_brings_no_words(owned, owner, suexec, trap, how):
    """The web server's user may have the site run as its owner, not what it likes."""
    orders = [
        ["internal-launch", "--python", f"{trap}/x.sh", "--"],
        ["runfcgi", f"socket={trap}/socket", "socket_mode=0666", f"errlog={trap}/log"],
        [f"socket={trap}/socket", "daemonize=false", f"pidfile={trap}/pid"],
        ["check", "--config", f"{trap}/x.toml"],
        ["version"],
    ]
    try:
        for words in orders:
            said = trap / "said"
            with said.open("w") as output:
                command = ["/usr/bin/python3", "-c", CALLER, how, suexec, owner.pw_name, str(owner.pw_uid), *words]
                where = dict(cwd=owned.site, env=CLEAN, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
                caller = subprocess.Popen(command, **where, **as_user(USER))
            try:
                until(lambda: BY_SUEXEC in said.read_text() or left_in(trap), 20, f"an answer to {words}")
                assert BY_SUEXEC in said.read_text() and not left_in(trap), (words, said.read_text(), left_in(trap))
            finally:
                caller.kill()
                caller.wait()
    finally:
        end(touching(owned.base))


@AS_ROOT
def test_a_server_that_suexec_started_with_words_says_so_to_visitors(owned, owner, trap):
    """FcgidWrapper may add words; under suexec they would be the web server's, so the page tells where they belong."""
    wrapper = f"FcgidWrapper '{owned.executable} errlog={trap}/log debug' .fcgi\n"
    with Apache(owned, SUEXEC_SITE.format(user=owner.pw_name) + wrapper, options=("-D", "SUEXEC")) as apache:
        assert apache.client.get("/version/").status == 500
        assert BY_SUEXEC in apache.log() and "mysite.toml" in apache.log()
    assert not left_in(trap)


@AS_ROOT
def test_another_user_gives_no_words(owned, owner, trap):
    """Whatever made the owner's process of it: a wrapper, or sudo without a session of its own."""
    for parent, taken in ((USER, False), (owner, True), (pwd.getpwuid(0), True)):
        command = [sys.executable, "-c", CHILD, str(parent.pw_uid), str(owner.pw_uid), str(owned.executable), "version"]
        environ = {**CLEAN, "HOME": "/"}
        done = subprocess.run(command, cwd=owned.site, env=environ, capture_output=True, text=True, timeout=20)
        assert done.stdout.startswith("runfcgi ") == taken, (parent, done)
        assert taken or done.returncode == 2 and f"user {USER.pw_uid}" in done.stderr, done


@AS_ROOT
def test_the_owner_gives_words(owned, owner):
    """From a shell of any kind. One that has cleared its environment to what suexec leaves is told what to do."""
    program = str(owned.executable)

    def version(*command, **options):
        done = subprocess.run(command, cwd=owned.site, capture_output=True, text=True, timeout=20, **options)
        return done.stdout if done.returncode == 0 else done.stderr

    assert "runfcgi 0" in version("su", "-s", "/bin/sh", owner.pw_name, "-c", f"{program} version")
    assert "runfcgi 0" in version(program, "version", env={}, **as_user(owner))
    assert "runfcgi 0" in version("/bin/sh", "-c", f"{program} version; exit", env=CLEAN, **as_user(owner))
    told = version(program, "version", env=CLEAN, **as_user(owner))
    assert BY_SUEXEC in told and "HOME=" in told
    assert "runfcgi 0" in version(program, "version", env={**CLEAN, "HOME": "/"}, **as_user(owner))


CRON = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/spool/cron
mount -t tmpfs tmpfs /etc/cron.d
mount --bind /dev/null /etc/crontab
install -d -m 1730 -g crontab /var/spool/cron/crontabs
install -m 600 -o {owner} -g crontab {crontab} /var/spool/cron/crontabs/{owner}
exec cron -f
"""


@AS_ROOT
def test_cron_gives_words(owned, owner):
    """The real one, with a spool of its own, at what it takes for the start of the machine."""
    crontab = owned.base / "crontab"
    crontab.write_text(f"@reboot {owned.executable} version >{owned.home}/said 2>&1\n")
    script = CRON.format(owner=owner.pw_name, crontab=crontab)
    cron = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stderr=subprocess.PIPE, text=True)
    said = owned.home / "said"
    try:
        until(lambda: cron.poll() is not None or said.exists() and said.read_text(), 20, "cron has run its job")
        assert cron.poll() is None, cron.communicate()
        assert said.read_text().startswith("runfcgi 0"), said.read_text()
    finally:
        cron.kill()
        cron.communicate()


def test_words_of_a_visitor_are_not_heeded(make_site, trap):
    """RFC 3875 section 4.4: a query without `=` becomes words of a CGI program."""
    account = make_site()
    with Apache(account, options=CGI_ONLY) as apache:
        for query in (f"internal-launch+--python+{trap}/x.sh+--", "version", "check", "runfcgi+--help"):
            assert apache.client.get(f"/version/?{query}").text == "0", query
    assert not left_in(trap)


@AS_ROOT
def test_only_our_own_socket_launches_an_interpreter(owned, owner, trap):
    """What to launch comes through a socket that a process of the same user has made, a pair with no name."""
    take(trap / "x.sh", owner)
    trap.chmod(0o755)
    take(trap, owner)

    def launch(how, maker, *address):
        command = [sys.executable, "-c", LAUNCHER, how, str(maker.pw_uid), str(owner.pw_uid), str(owned.executable), *address]
        return subprocess.run(command, input=str(trap).encode(), cwd=owned.site, capture_output=True, timeout=20)

    refused = launch("pair", USER)
    assert refused.returncode == 2 and b"of our own making" in refused.stderr and not left_in(trap), refused
    with socket.socket(socket.AF_UNIX) as server:
        os.setegid(owner.pw_gid)
        os.seteuid(owner.pw_uid)
        try:
            server.bind(f"{owned.runtime}/listens")
            server.listen()
        finally:
            os.seteuid(0)
            os.setegid(0)
        refused = launch("connection", owner, f"{owned.runtime}/listens")
        assert refused.returncode == 2 and b"of our own making" in refused.stderr and not left_in(trap), refused
    launched = launch("pair", owner)
    assert left_in(trap) == ["mark"], launched
    assert (trap / "mark").read_text().strip() == str(owner.pw_uid)
