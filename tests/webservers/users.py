"""Other users than the web server's: an owner, what belongs to it, and suexec that runs a site as it."""

import os
import subprocess

import pytest

SUEXEC = "/usr/lib/apache2/suexec-custom"
SUEXEC_LOG = "/var/log/apache2/suexec.log"
SUEXEC_SITE = """\
<IfDefine !SUEXEC_LOADED>
    LoadModule suexec_module /usr/lib/apache2/modules/mod_suexec.so
    Define SUEXEC_LOADED
</IfDefine>
SuexecUserGroup {user} {user}
Suexec On
FcgidMaxRequestLen 16777216
FcgidInitialEnv NOT_ON_THE_LIST 1
FcgidInitialEnv TZ Europe/Paris
"""
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can make a user and run programs as another one")


def take(path, user, group=None):
    """Gives a file or tree to a user."""
    subprocess.run(["chown", "-hR", f"{user.pw_uid}:{user.pw_gid if group is None else group}", str(path)], check=True)


def as_user(user):
    """Options of subprocess that run a program as this user."""
    return dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
