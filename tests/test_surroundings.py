"""Odd surroundings: /proc is empty or hides others, nothing can be written or executed, files are slow, processes stand still.

What mounts is in a mount namespace of its own; so for root only.
"""

import os
import re
import signal
import threading

import pytest

from plain_site import ask, in_namespace, kill, state
from webservers.account import USER
from webservers.fastcgi import request
from webservers.processes import until

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")
PROC = {"no /proc": "mount -t tmpfs none /proc", "hidepid=2": "mount -t proc -o hidepid=2 none /proc"}


def goes_on(site, manager, front):
    """What a site has to do wherever it is."""
    ask(front, "/pid")
    assert ask(front, "/upload", method="POST", body=bytes(3 << 20)).text.startswith("0 ")
    for pid in site.workers():
        kill(pid)
    until(lambda: request(front.socket, "/pid").status == 200, 20, "another worker serves")
    site.account.code(1)
    site.account.touch()
    until(lambda: ask(front, "/version").text == "1", 20, "new code goes live")
    assert ask(manager.spawn(), "/version").text == "1"


@needs_root
@pytest.mark.parametrize("proc, server", [("no /proc", ""), ("no /proc", "preload = false"), ("hidepid=2", "")])
def test_a_site_that_sees_no_other_process(make_plain, manage, proc, server):
    site = make_plain(server=server)
    manager = manage(site, wrap=in_namespace(PROC[proc]))
    goes_on(site, manager, manager.spawn())
    assert server or len(site.imports()) == 2, "the fronts share them"


@needs_root
def test_a_runtime_directory_that_forbids_execution(make_plain, manage):
    site = make_plain()
    runtime = site.account.runtime
    own = f"mode=0700,uid={USER.pw_uid},gid={USER.pw_gid}"
    manager = manage(site, wrap=in_namespace(f"mkdir {runtime}; mount -t tmpfs -o noexec,{own} none {runtime}"))
    front = manager.spawn()
    goes_on(site, manager, front)
    assert os.readlink(f"/proc/{front.pid}/exe").startswith("/memfd:"), "an upload in place harms nobody"
    before = ask(front, "/pid").text
    with site.account.executable.open("ab") as executable:
        executable.write(b"another one")
    until(lambda: ask(front, "/pid").text != before, 20, "the new executable serves")
    assert os.readlink(f"/proc/{front.pid}/exe").startswith("/memfd:")


@needs_root
def test_where_nothing_can_be_written_pages_are_served_and_uploads_are_told(make_plain, manage):
    site = make_plain()
    base, home = site.account.base, site.account.home
    site.account.runtime.mkdir()
    os.chown(site.account.runtime, USER.pw_uid, USER.pw_gid)
    site.account.runtime.chmod(0o700)
    read_only = "mount -t tmpfs -o ro none {0}\n".format
    script = "".join(f"mount --bind {path} {path}; mount -o remount,bind,ro {path}\n" for path in (home, site.account.runtime))
    script += read_only("/dev/shm") + read_only("/var/tmp")
    script += f"mount -t tmpfs none /mnt; mkdir -p /mnt/{base.name}; mount --rbind {base} /mnt/{base.name}\n"
    script += "mount -o remount,ro /mnt; mount --move /mnt /tmp"
    manager = manage(site, wrap=in_namespace(script))
    front = manager.spawn()
    ask(front, "/pid")
    reply = request(front.socket, "/upload", method="POST", body=bytes(3 << 20))
    assert reply.status == 503 and "Read-only file system" in reply.errors, reply
    for pid in site.workers():
        kill(pid)
    until(lambda: request(front.socket, "/pid").status == 200, 20, "another worker serves")
    told = manager.log()
    assert re.search(r"RF0601 log file .*site\.log: Read-only file system", told), told
    assert re.search(r"RF0604 no runtime directory.*Read-only file system", told), told


@pytest.mark.parametrize("who", ["front", "preloader", "worker"])
def test_a_process_that_stands_still_for_a_while_is_waited_for(make_plain, manage, who):
    site = make_plain()
    manager = manage(site)
    front = manager.spawn()
    worker = int(ask(front, "/pid").text)
    (preloader,) = site.preloaders()
    pid = {"front": front.pid, "preloader": preloader, "worker": worker}[who]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state(pid) == "T", 5, "it stands still")
    if who == "preloader":
        kill(worker)
        until(lambda: state(worker) in "ZX", 5, "a new one is needed")
    replies = []
    visitor = threading.Thread(target=lambda: replies.append(request(front.socket, "/pid")))
    visitor.start()
    visitor.join(0.5)
    assert visitor.is_alive()
    os.kill(pid, signal.SIGCONT)
    visitor.join(20)
    assert replies and replies[0].status == 200, replies
    assert site.preloaders() == [preloader] and site.fronts() == [front.pid]
    assert (replies[0].text == str(worker)) == (who != "preloader")


def test_a_worker_that_stands_still_is_replaced(make_plain, manage):
    site = make_plain(limits="request_timeout = 1")
    front = manage(site).spawn()
    worker = int(ask(front, "/pid").text)
    os.kill(worker, signal.SIGSTOP)
    assert request(front.socket, "/pid").status == 504
    assert ask(front, "/pid").text != str(worker)
    until(lambda: state(worker) in "ZX", 5, "it was ended")
