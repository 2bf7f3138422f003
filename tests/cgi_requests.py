"""Requests by CGI to the sites of plain_site.py: each runs the executable, as a web server does."""

import subprocess
import threading

from plain_site import RUN_AS


def cgi(site, path="/pid", body=b""):
    """One request by CGI: status, text and what went to standard error."""
    path, _, query = path.partition("?")
    environ = {
        "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": path, "REQUEST_URI": path,
        "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_LENGTH": str(len(body)),
    }  # fmt: skip
    user = {"user": RUN_AS["uid"], "group": RUN_AS["gid"], "extra_groups": []} if RUN_AS else {}
    command = [str(site.account.executable)]
    done = subprocess.run(command, input=body, env=environ, capture_output=True, timeout=30, cwd="/", **user)
    head, _, text = done.stdout.decode().partition("\r\n\r\n")
    assert head.startswith("Status: "), done
    return int(head[8:11]), text, done.stderr.decode()


def pid_of(reply):
    status, text, errors = reply
    assert status == 200, errors
    return int(text)


def together(site, count, path):
    """So many requests by CGI at a time: their replies."""
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(cgi(site, path))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert len(replies) == count
    return replies
