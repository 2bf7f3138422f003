"""Starting the program the way a web server starts it. Knows no server."""

import os
import socket
import subprocess
from pathlib import Path

from ..account import USER

AS_USER = dict(user=USER.pw_uid, group=USER.pw_gid, extra_groups=[]) if os.getuid() == 0 else {}


def spawn(site, words, environ, directory, listener=subprocess.DEVNULL, output=None, session=False):
    """`listener` becomes descriptor 0, `output` descriptor 1; what it says on descriptor 2 goes to the site's log."""
    with open(site.log, "ab") as log:
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=directory,
            env=environ,
            stdin=listener,
            stdout=output or log,
            stderr=log,
            start_new_session=session,
            **AS_USER,
        )
    site.programs.append(process)
    return process


def listen(path, backlog=100):
    """A socket that the server holds open for the programs that it starts."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    Path(path).chmod(0o666)
    listener.listen(backlog)
    return listener


def address(text):
    """`host:port`, or the path of a unix socket."""
    if text.startswith("/"):
        return text
    host, port = text.rsplit(":", 1)
    return host, int(port)
