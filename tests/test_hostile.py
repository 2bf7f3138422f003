"""Peers that send rubbish, half a request or nothing cost their own connection and nothing else, on every protocol."""

import random
import resource
import select
import socket
import struct
import threading
import time

import pytest

from raw_peers import APP, PROTOCOLS, fcgi, head, records, running
from webservers.fastcgi import record
from webservers.processes import until

IDLE, HOSTILE = 1000, 200


@pytest.fixture(params=PROTOCOLS)
def server(request, build, tmp_path):
    with running(build, tmp_path, request.param, "read_timeout = 2") as server:
        yield server


def hostile(good, number):
    """What the hostile peer of this number sends."""
    chance = random.Random(number)
    kind = number % 4
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 3000))
    if kind == 1:
        return good[: chance.randrange(1, len(good))]
    if kind == 2:
        broken = bytearray(good)
        broken[chance.randrange(len(broken))] ^= chance.randrange(1, 256)
        return bytes(broken)
    return b""


def test_hostile_and_idle_peers_cost_their_own_connection(server):
    before = server.descriptors()
    idle = [server.connect() for _ in range(IDLE)]
    peers = []
    for number in range(HOSTILE):
        peer = server.connect()
        peer.setblocking(False)
        try:
            peer.sendall(hostile(server.good, number))
            if number % 8 == 1:
                peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was closed for what it had sent: so be it
        peers.append(peer)
        if number % 10 == 0:
            server.ask()
    for _ in range(20):
        server.ask()
    assert server.memory() < 40_000, "kB with all those peers"
    # Only those stay that were answered: some are whole in spite of all.
    until(lambda: server.descriptors() <= before + HOSTILE // 2, 20, "after read_timeout, the others are given up")
    server.ask()
    for peer in idle + peers:
        peer.close()
    until(lambda: server.descriptors() <= before + 10, 20, "all descriptors are free again")
    server.ask()


def test_many_good_requests_beside_peers_that_do_not_read(server):
    """A peer that takes no answer holds up nobody else."""
    stalled = [server.connect() for _ in range(20)]
    for peer in stalled:
        peer.sendall(server.good)
    for _ in range(50):
        server.ask()
    for peer in stalled:
        peer.close()


# What costs the peer little to send and is answered: protocol, bytes.
FLOODS = {
    "management-records": ("fcgi", lambda: record(20, b"", 0) * 100_000),
    "cpings": ("ajp", lambda: b"\x12\x34\0\1\x0a" * 100_000),
    "requests": ("fcgi", lambda: b"".join(fcgi(number, "/", keep=1) for number in range(1, 60_000))),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_who_only_sends_is_not_read_and_then_dropped(build, tmp_path, kind):
    protocol, data = FLOODS[kind]
    data = memoryview(data())
    with running(build, tmp_path, protocol, "write_timeout = 1") as server:
        # The requests fill the queue: then others get what needs no worker.
        ask = (lambda: server.ask(fcgi(1, "/ping"), b"pong")) if kind == "requests" else server.ask
        before, descriptors, at = server.memory(), server.descriptors(), 0
        with server.connect() as peer:
            peer.setblocking(False)
            began, dropped = time.monotonic(), False
            while not dropped:
                try:
                    at = (at + peer.send(data[at : at + 65536])) % len(data)
                except BlockingIOError:
                    select.select([], [peer], [], 0.05)
                except OSError:
                    dropped = True
                ask()
                assert server.memory() < before + 8000, "kB for a peer that takes nothing"
                assert time.monotonic() < began + 6, "still connected long after write_timeout"
        assert "its peer has stalled" in server.log()
        server.ask()
        until(lambda: server.descriptors() <= descriptors, 20, "its descriptor is free again")


# Cherokee, where there is no body: the header of a record that it has not filled in, and the end of STDIN once more.
AFTERTHOUGHT = bytes(8) + record(5, b"")


@pytest.mark.parametrize("when", ["at once", "while it is answered", "after the answer"])
def test_what_follows_a_whole_request_costs_it_nothing(build, tmp_path, when):
    with running(build, tmp_path, "fcgi", "") as server:
        descriptors = server.descriptors()
        with server.connect() as peer:
            peer.sendall(fcgi(1, "/slow" if when == "while it is answered" else "/"))
            if when == "while it is answered":
                time.sleep(0.2)
            came = records(peer)
            if when == "after the answer":
                assert any(kind == 3 for kind, _, _ in came)
            peer.sendall(AFTERTHOUGHT)
            if when != "after the answer":
                assert b"got 5" in b"".join(content for kind, _, content in came if kind == 6)
                assert "version" not in server.log()
            assert peer.recv(1) == b"", "its end is an end, not an error"
            began = time.monotonic()
            with pytest.raises(BrokenPipeError):
                while time.monotonic() < began + 9:
                    peer.sendall(AFTERTHOUGHT)
                    time.sleep(0.1)
            assert 3 < time.monotonic() - began < 8, "and then it is closed, also on a peer that goes on"
        until(lambda: server.descriptors() <= descriptors, 20, "its descriptor is free again")
        assert "stalled" not in server.log()


def test_who_sends_many_requests_has_one_share_of_the_queue(build, tmp_path):
    """Forty connections with 128 requests each, whose answers nobody takes: a visitor of his own is served in his turn."""
    many = b"".join(fcgi(number, "/slow", keep=1) for number in range(1, 129))
    with running(build, tmp_path, "fcgi", "", app=APP.replace("sleep(0.5)", "sleep(0.02)")) as server:
        peers = [server.connect() for _ in range(40)]
        for peer in peers:
            peer.sendall(many)
        until(lambda: "the queue is full" in server.log(), 20, "it is full")
        for _ in range(5):
            server.ask()
        for peer in peers:
            peer.close()


def test_what_was_sent_while_no_answers_were_taken_is_not_lost(build, tmp_path):
    count = 8000
    with running(build, tmp_path, "fcgi", "write_timeout = 5") as server, server.connect() as peer:
        data = b"".join(fcgi(number, "/ping", keep=1) + record(20, b"", 0) for number in range(1, count + 1))
        sender = threading.Thread(target=peer.sendall, args=(data,), daemon=True)
        sender.start()
        sender.join(0.3)
        assert sender.is_alive(), "the server took all of it, so this shows nothing"
        ended, unknown = [], 0
        for kind, number, _ in records(peer):
            ended += [number] if kind == 3 else []
            unknown += kind == 11
            if len(ended) == unknown == count:
                break
        assert ended == list(range(1, count + 1))
        sender.join()


def test_half_requests_of_one_connection_are_bounded(build, tmp_path):
    limits = "read_timeout = 2\nmax_connections = 200"
    with running(build, tmp_path, "fcgi", limits) as server:
        before, descriptors = server.memory(), server.descriptors()
        with server.connect() as first, server.connect() as second, server.connect() as third:
            half = [head(number) + record(5, b"he", number) for number in range(1, 301)]
            first.sendall(b"".join(half))
            came = records(first)
            refused = [next(came) for _ in range(300 - 128)]
            assert refused == [(3, number, b"\0\0\0\0\x02\0\0\0") for number in range(129, 301)], "FCGI_OVERLOADED"
            server.ask()
            # As many as there may be connections are all that there may be.
            second.sendall(b"".join(half[:128]))
            came = records(second)
            turned_away = set()
            while len(turned_away) < 128 - (200 - 128):
                kind, number, content = next(came)
                if kind == 6 and content.startswith(b"Status: 503"):
                    turned_away.add(number)
            assert turned_away == set(range(73, 129))
            # Params that have no end; the answers are taken.
            threading.Thread(target=lambda: list(records(third)), daemon=True).start()
            for number in range(1, 129):
                third.sendall(head(number)[:16] + record(4, bytes(60_000), number) * 4)
            assert server.memory() < before + 8000, "kB for half requests"
            assert server.log().count("are in progress ([limits] max_connections)") == 1, server.log()
            until(lambda: server.descriptors() <= descriptors, 5, "they are given up after read_timeout")
        server.ask()


def half_requests(kind):
    """A request that stops within its variables, or within its body."""
    long = struct.pack(">BL", 6, 240_000 | 1 << 31) + b"HTTP_X" + bytes(240_000)
    variables = b"".join(record(4, long[at : at + 60_000]) for at in range(0, len(long), 60_000))
    if kind == "variables":
        return record(1, b"\0\1\1\0\0\0\0\0") + variables
    return head(1, "/", 100_000) + record(5, bytes(60_000))


@pytest.mark.parametrize("kind", ["variables", "bodies"])
def test_half_requests_of_all_connections_have_a_budget_and_their_memory_goes_back(build, tmp_path, kind):
    with running(build, tmp_path, "fcgi", 'memory = "16M"') as server:
        before, descriptors = server.memory(), server.descriptors()
        data, peers = half_requests(kind), []
        for number in range(400):
            peers.append(server.connect())
            try:
                peers[-1].sendall(data)
            except OSError:
                pass  # others have less, so it is closed
            if number % 20 == 0:
                server.ask()
        server.ask()
        assert server.memory() < before + 22_000, "kB for half requests"
        assert "RF0335" in server.log()
        for peer in peers:
            peer.close()
        until(lambda: server.descriptors() <= descriptors, 20, "all are gone")
        until(lambda: server.memory() < before + 3000, 10, "their memory is free")
        server.ask()


@pytest.mark.parametrize("what", [*PROTOCOLS, "a body"])
def test_a_byte_now_and_then_holds_no_connection_for_ever(build, tmp_path, what):
    protocol = "fcgi" if what == "a body" else what
    with running(build, tmp_path, protocol, "read_timeout = 1\nmin_rate = 1000") as server:
        whole = head(1, "/", 1000) + record(5, bytes(1000)) if what == "a body" else server.good
        at = len(head(1, "/", 1000)) + 10 if what == "a body" else 10
        descriptors = server.descriptors()
        with server.connect() as peer:
            peer.sendall(whole[:at])
            with pytest.raises(OSError):
                for byte in whole[at : at + 100]:
                    peer.sendall(bytes([byte]))
                    time.sleep(0.15)
            came = peer.recv(65536) if what == "a body" else b""
        assert what != "a body" or b"Status: 408" in came and "less than 1000 bytes/s" in server.log()
        until(lambda: server.descriptors() <= descriptors, 10, "its descriptor is free again")
        server.ask()


def test_a_half_request_beside_good_ones_ends_alone(build, tmp_path):
    with running(build, tmp_path, "fcgi", "read_timeout = 1") as server, server.connect() as peer:
        peer.sendall(head(1) + record(5, b"he", 1))
        began, came, page = time.monotonic(), records(peer), b""
        for number in range(2, 100):
            peer.sendall(fcgi(number, keep=1))
            ended = set()
            while number not in ended:
                kind, of, content = next(came)
                ended |= {of} if kind == 3 else set()
                page += content if of == 1 and kind == 6 else b""
            if page:
                break
            assert time.monotonic() < began + 5
            time.sleep(0.1)
        assert page.startswith(b"Status: 408") and time.monotonic() > began + 1
        peer.sendall(fcgi(200, keep=1))
        assert any(kind == 3 and of == 200 for kind, of, _ in came)


@pytest.mark.parametrize("megabytes", [1, 4])
def test_an_upload_above_the_limit_of_file_sizes_is_refused(build, tmp_path, megabytes):
    """Of the executable no copy can be made either, with the smaller one."""
    limit = megabytes << 20
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    with running(build, tmp_path, "fcgi", "", **limited) as server:
        with server.connect() as peer:
            sender = threading.Thread(target=peer.sendall, args=(fcgi(1, "/", bytes(8 << 20)),), daemon=True)
            sender.start()
            answer = b"".join(content for kind, _, content in records(peer) if kind == 6)
            sender.join()
        assert answer.startswith(b"Status: 413 "), answer[:200]
        assert "RLIMIT_FSIZE" in server.log() and "RF0306 incident" in server.log(), server.log()
        assert server.process.poll() is None
        server.ask(fcgi(1, "/", bytes(limit // 2)), b"got %d" % (limit // 2))


def test_the_access_log_tells_what_came_and_what_broke_off(build, tmp_path):
    with running(build, tmp_path, "fcgi", "read_timeout = 2") as server:
        lines = ["/ 5 200 -"]

        def logged(line):
            # A line is written once the answer is out, so it may come a moment after it.
            lines.append(line)
            until(lambda: server.log("access.log").splitlines() == lines, 5, f"{line} is logged")

        for path in ("/large", "/parts"):
            with server.connect() as peer:
                peer.sendall(fcgi(1, path, bytes(100_000)))
                # Who leaves before the end has broken off.
                assert (3, 1, bytes(8)) in records(peer)
            logged(f"{path} 100000 200 -")
        with server.connect() as peer:
            peer.sendall(head(1, "/abort") + record(5, b"he") + record(2, b""))
            assert (3, 1, bytes(8)) in records(peer)
        logged("/abort 2 - X")
        with server.connect() as peer:
            peer.sendall(fcgi(1, "/cut"))
            assert not any(kind == 3 for kind, _, _ in records(peer)), "an answer that is cut looks complete"
        logged("/cut 5 200 X")
