"""Who runs what: the site under its owner by suexec, and a web server that shares a group with the site."""

import os
import subprocess

from webservers.account import USER, Account
from webservers.apache import Apache
from webservers.processes import named, until
from webservers.recipe import Site, nginx, recipe
from webservers.users import AS_ROOT, SUEXEC_LOG, SUEXEC_SITE, as_user, take


@AS_ROOT
def test_a_web_server_of_the_same_group_and_umask_0002(model, build, owner):
    """As the document says: two users, one group, umask 0002. Without the umask the web server stays outside."""
    with Site(model, build) as site:
        take(site.base, owner, USER.pw_gid)
        take(site.server, USER)
        as_owner = dict(user=owner, group=USER.pw_gid)
        closed = site.base / "closed.sock"
        site.start([site.account.executable, "runfcgi", "daemonize=false", f"socket={closed}", "umask=0022"], closed, **as_owner)
        site.start([site.account.executable, "runfcgi", "daemonize=false", f"socket={site.sock}", "umask=0002"], site.sock, **as_owner)
        assert site.sock.stat().st_mode & 0o777 == 0o775 and site.sock.stat().st_uid == owner.pw_uid
        assert site.sock.stat().st_gid == USER.pw_gid and closed.stat().st_mode & 0o777 == 0o755
        places = [
            ("/home/user/public_html", site.account.public),
            ("listen 80;", f"listen 127.0.0.1:{site.port};"),
            ("example.com", "127.0.0.1"),
        ]
        text = recipe("nginx/fastcgi.conf", *places, ("/home/user/mysite.sock", site.sock))
        web = nginx(site, text)
        told = site.client.get("/echo/x/")
        assert told.status == 200
        assert os.stat(f"/proc/{told.json['pid']}").st_uid == owner.pw_uid
        web.terminate()
        web.wait(10)
        nginx(site, text.replace(str(site.sock), str(closed)))
        assert site.client.get("/echo/x/").status == 502


@AS_ROOT
def test_without_suexec_the_files_may_belong_to_their_owner(model, build, owner):
    """Apache runs the site as its own user, and who uploads by FTP can give no file away."""
    account = Account(model, build)
    account.configure('[app]\npath = "{project}"\nsettings = "myproject.settings"\n')
    text = account.config.read_text()

    def ask_as_owner(command):
        command = [account.executable, command]
        return subprocess.run(command, cwd=account.site, capture_output=True, text=True, **as_user(owner))

    try:
        os.chown(account.base, 0, 0)
        take(account.home, owner)
        with Apache(account) as apache:
            told = apache.client.get("/echo/x/")
            assert told.status == 200, (told.status, apache.log())
            assert os.stat(f"/proc/{told.json['pid']}").st_uid == USER.pw_uid
            account.code(1)
            take(account.project, owner)
            account.config.write_text(text + "# changed\n")
            until(lambda: apache.client.get("/version/").text == "1", 5, "the changed configuration is live")
            account.code(2)
            take(account.project, owner)
            with open(account.executable, "ab") as executable:
                executable.write(b"\0")
            until(lambda: apache.client.get("/version/").text == "2", 5, "the executable uploaded anew is live")
            checked = ask_as_owner("check")
            assert checked.returncode == 0 and "the site can be served" in checked.stdout, checked.stdout
            status = ask_as_owner("status")
            assert f"belongs to user {USER.pw_uid}" in status.stdout and status.returncode == 1, status
            os.chown(account.config, 1, 1)
            account.config.write_text(text + "# changed again\n")
            reason = f"belongs to user 1, but we run as user {USER.pw_uid}, and the executable belongs to user {owner.pw_uid}"
            until(lambda: reason in apache.log(), 5, "a third user's file is refused")
            assert apache.client.get("/version/").text == "2"
    finally:
        account.remove()


@AS_ROOT
def test_mod_fcgid_with_suexec(owned, owner):
    """The site under its owner's user, with the environment that suexec leaves."""
    with Apache(owned, SUEXEC_SITE.format(user=owner.pw_name), options=("-D", "SUEXEC")) as apache:
        told = apache.client.get("/echo/x/")
        assert told.status == 200, (told.status, apache.log())
        environ = told.json
        assert environ["environ"]["SCRIPT_NAME"] == "" and environ["path_info"] == "/echo/x/"
        assert os.stat(f"/proc/{environ['pid']}").st_uid == owner.pw_uid
        (front,) = named(str(owned.base), "mysite.fcgi")
        with open(f"/proc/{front}/environ", "rb") as file:
            left = file.read()
        assert b"NOT_ON_THE_LIST" not in left and b"TZ=" in left, "suexec leaves the variables of its list only"
        assert apache.client.post("/upload/", bytes(5 << 20)).json["length"] == 5 << 20
        owned.code(1)
        take(owned.project, owner)
        owned.touch()
        until(lambda: apache.client.get("/version/").text == "1", 5, "new code is live")


def spoil_mode(which, mode):
    return lambda account, owner: which(account).chmod(mode)


def spoil_owner(which, **to):
    return lambda account, owner: os.chown(which(account), to.get("user", owner.pw_uid), to.get("group", owner.pw_gid))


def executable(account):
    return account.executable


def directory(account):
    return account.site


# What is done to a good account; what suexec says; what `check` says of it, and the command that mends it.
REFUSED = {
    "a file that the group may write": (spoil_mode(executable, 0o775), "file is writable by others", "RF0211", "chmod 755"),
    "a file that all may write": (spoil_mode(executable, 0o757), "file is writable by others", "RF0211", "chmod 755"),
    "a directory that the group may write": (spoil_mode(directory, 0o775), "directory is writable by others", "RF0211", "chmod 755"),
    "a set-user-id file": (spoil_mode(executable, 0o4755), "file is either setuid or setgid", "RF0215", "chmod 755"),
    "another's file": (spoil_owner(executable, user=USER.pw_uid), "mismatch with directory", "RF0212", "chown"),
    "another's directory": (spoil_owner(directory, user=USER.pw_uid), "mismatch with directory", "RF0212", "chown"),
    "another group's file": (spoil_owner(executable, group=USER.pw_gid), "mismatch with directory", "RF0216", "chgrp"),
}


@AS_ROOT
def test_what_suexec_refuses_check_tells_before(owned, owner):
    def checked():
        command = [owned.executable, "check"]
        return subprocess.run(command, cwd=owned.site, capture_output=True, text=True, **as_user(owner)).stdout

    def said(since):
        with open(SUEXEC_LOG, errors="replace") as log:
            log.seek(since)
            return log.read()

    assert "RF021" not in checked()
    patient = "FcgidSpawnScoreUpLimit 1000\nFcgidTerminationScore 0\n"
    with Apache(owned, SUEXEC_SITE.format(user=owner.pw_name) + patient, options=("-D", "SUEXEC")) as apache:
        for what, (spoil, reason, code, remedy) in REFUSED.items():
            spoil(owned, owner)
            told = checked()
            assert code in told and remedy in told, (what, told)
            since = os.path.getsize(SUEXEC_LOG)
            reply = apache.client.get("/version/")
            assert reply.status in (500, 503), (what, reply.status)
            assert reason in said(since), (what, said(since))
            for path in (owned.executable, owned.site):
                os.chown(path, owner.pw_uid, owner.pw_gid)
                path.chmod(0o755)
        assert apache.client.get("/version/").text == "0"
