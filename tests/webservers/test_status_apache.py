"""`status` and its page where mod_fcgid starts the fronts, each with one request at a time."""

import json
import os
import subprocess
import threading

from webservers.account import USER
from webservers.apache import Apache
from webservers.desk import SECRET, SETTINGS
from webservers.processes import until

STATUS = f"""
[status]
path = "/-/status"
secret = "{SECRET}"
"""


def status(site):
    """What the account's owner sees in a shell."""
    who = {"user": USER.pw_uid, "group": USER.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    command = [site.executable, "status", "--json"]
    return json.loads(subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=20, **who).stdout)


def test_all_fronts_of_the_site(site):
    site.configure(SETTINGS + STATUS)
    with Apache(site) as apache:
        visits = [threading.Thread(target=apache.client.get, args=("/",)) for _ in range(4)]
        for visit in visits:
            visit.start()
        for visit in visits:
            visit.join()
        said = until(lambda: (s := status(site))["counters"]["requests"] == 4 and s, 10, "four requests in status")
        assert said["state"] == "serving" and len(said["preloaders"]) == 1
        assert {front["role"] for front in said["fronts"]} == {"mod_fcgid"}
        assert all(front["max_workers"] == 1 for front in said["fronts"])
        assert apache.client.get("/-/status").status == 404
        assert apache.client.get("/-/status?secret=wrong").status == 404
        pids = {front["pid"] for front in said["fronts"]}
        page = apache.client.get("/-/status?format=json", **{"X-Runfcgi-Secret": SECRET})
        assert page.status == 200 and page.headers["Cache-Control"] == "no-store"
        assert pids <= {front["pid"] for front in page.json["fronts"]}
        page = apache.client.get(f"/-/status?secret={SECRET}")
        assert page.text.startswith("<!DOCTYPE html>") and SECRET not in page.text
        assert SECRET not in apache.log()
    assert not list(site.runtime.glob("front-*"))
