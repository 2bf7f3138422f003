"""Several servers of one site, from deploy/scale-out/: one dies, or is taken out, and comes back while visitors ask."""

import os
import signal
import socket
import threading
import time

import pytest

from webservers.apache import free_port
from webservers.load import Load
from webservers.processes import until
from webservers.recipe import Site, apache, end, nginx, recipe, write


NAMES = ["nginx", "haproxy", "apache"]


class Balanced:
    """A web server of one of these kinds, before two servers of the site on ports of their own."""

    def __init__(self, name, site):
        self.name, self.site = name, site
        self.ports = one, two = [free_port(), free_port()]
        self.admin = site.server / "admin.sock"
        self.options = [f"protocol={'ajp' if name == 'apache' else 'fcgi'}", "host=127.0.0.1", "ping=/ping"]
        self.first, self.second = self.runs(one), self.runs(two)
        public = ("/home/user/public_html", site.account.public)
        self.servers = [("192.0.2.11:3033", f"127.0.0.1:{one}"), ("192.0.2.12:3033", f"127.0.0.1:{two}")]
        if name == "nginx":
            places = [("listen 80;", f"listen 127.0.0.1:{site.port};"), ("example.com", "127.0.0.1")]
            self.web = nginx(site, recipe("scale-out/nginx.conf", public, *self.servers, *places))
        elif name == "haproxy":
            text = recipe("scale-out/haproxy.cfg", public, *self.servers, ("bind :80", f"bind 127.0.0.1:{site.port}"))
            text = f"global\n    stats socket {self.admin} level admin\n" + text
            self.web = site.start(["/usr/sbin/haproxy", "-db", "-f", write(site.server / "haproxy.cfg", text)], ready=site.port)
        else:
            self.web = apache(site, "scale-out/apache.conf", *self.servers)
        until(lambda: site.client.get("/version/").status == 200, 10, "the balancer has found its servers")

    def runs(self, port):
        return self.site.runfcgi(*self.options, f"port={port}")

    def take_out(self, out):
        """Does what the recipe says for the first server: it gets no new requests; or puts it back."""
        conf = self.site.server / "site.conf"
        text, address = conf.read_text() if conf.exists() else "", self.servers[0][1]
        if self.name == "haproxy":
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(self.admin))
                peer.sendall(f"set server mysite/one state {'drain' if out else 'ready'}\n".encode())
                assert peer.recv(1000).strip() == b""
            return
        if self.name == "nginx":
            change = (f"server {address} ", f"server {address} down "), signal.SIGHUP
        else:
            change = (f"ajp://{address} ", f"ajp://{address} status=+N "), signal.SIGUSR1
        (plain, marked), number = change
        write(conf, text.replace(plain, marked) if out else text.replace(marked, plain))
        self.web.send_signal(number)


@pytest.fixture(params=NAMES)
def balanced(request, model, build):
    with Site(model, build, config='secret = "long-random-text"\n' if request.param == "apache" else "") as site:
        yield Balanced(request.param, site)


def comes_back(balanced, load, version):
    """The first server starts again, with other code, so that its answers tell it from the other one."""
    balanced.site.account.code(version)
    balanced.first = balanced.runs(balanced.ports[0])
    until(lambda: load.answers[-1].body == str(version), 20, "the one that came back serves")


def test_one_is_killed_and_comes_back(balanced):
    """What it had in hand is asked of the other one; after that nobody notices."""
    with Load(balanced.site.port, "/version/", visitors=6) as load:
        until(lambda: len(load.answers) > 100, 30, "both are warm")
        os.kill(balanced.first.pid, signal.SIGKILL)
        killed = time.monotonic()
        balanced.first.wait()
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 200 and time.monotonic() > killed + 3, 30, "the other one serves")
        comes_back(balanced, load, 7)
    late = [answer for answer in load.failures if answer.begin > killed + 0.5]
    print(f"{balanced.name}: {len(load.failures)} of {len(load.answers)} failed, {len(late)} of them late")
    assert not late, late[:3]
    assert len(load.failures) <= 6, "at most what the killed one had in hand"


def test_one_is_drained_and_put_back(balanced):
    """Its requests in hand are finished, and nobody notices anything."""
    site = balanced.site
    slow = []

    def ask(number):
        slow.append(site.client.get(f"/slow/?mark=slow{number}&seconds=2").status)

    with Load(site.port, "/version/", visitors=4, keep_alive=False) as load:
        until(lambda: len(load.answers) > 50, 30, "both are warm")
        asking = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in asking:
            thread.start()
        until(lambda: all((site.account.home / "db" / f"slow{n}").exists() for n in range(4)), 20, "slow pages are in hand")
        balanced.take_out(True)
        end(balanced.first)
        for thread in asking:
            thread.join()
        assert slow == [200] * 4
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 100, 20, "the other one serves")
        site.account.code(9)
        balanced.first = balanced.runs(balanced.ports[0])
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 50, 20, "it gets nothing yet")
        assert not [answer for answer in load.answers if answer.body == "9"]
        balanced.take_out(False)
        until(lambda: load.answers[-1].body == "9", 20, "it serves again")
    assert not load.failures, (len(load.failures), load.failures[:3])


def test_one_of_two_leaves_and_comes_back(balanced):
    web = balanced.site.client
    assert web.get("/ping").text == "pong\n"
    with Load(balanced.site.port, "/version/", visitors=4) as load:
        until(lambda: len(load.answers) > 50, 20, "both are warm")
        end(balanced.first)
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 100, 20, "the other one serves")
        comes_back(balanced, load, 7)
    assert not load.failures, (len(load.failures), load.failures[:3])
    with Load(balanced.site.port, "/version/", visitors=4) as load:
        until(lambda: any(a.body == "7" for a in load.answers), 20, "they serve")
        end(balanced.second)
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 50, 20, "the one that came back serves")
    assert not load.failures, (len(load.failures), load.failures[:3])
