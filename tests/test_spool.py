"""Large bodies wait on disk, and all that waits there stays within a budget and leaves some of the disk free."""

import json
import os
import select
import subprocess

from raw_peers import fcgi, head, on_disk, records, running
from webservers.fastcgi import record
from webservers.processes import until

MIB = 1 << 20


def answer(peer):
    return b"".join(content for kind, _, content in records(peer) if kind == 6)


def begins(server, length, sent):
    """Somebody who sends so much of a body of this length, and then waits."""
    peer = server.connect()
    pieces = [record(5, bytes(32768)) for _ in range(sent // 32768)]
    peer.sendall(head(1, "/", length, keep=0) + b"".join(pieces))
    return peer


def answered(peers):
    return select.select(peers, [], [], 0)[0]


def test_bodies_stay_within_the_budget(build, tmp_path):
    with running(build, tmp_path, "fcgi", 'spool = "5M"') as server:
        descriptors = server.descriptors()
        peers = [begins(server, 3 * MIB, 2 * MIB) for _ in range(5)]
        until(lambda: len(answered(peers)) == 3, 20, "two have room, three have not")
        assert 4 * MIB <= on_disk(server) <= 5 * MIB + (64 << 10)
        for peer in answered(peers):
            assert answer(peer).startswith(b"Status: 503 ")
        assert server.log().count("RF0323 incident") == 3, server.log()
        # What never fits is told so, also when it is others who have taken the room.
        with begins(server, 6 * MIB, 2 * MIB) as peer:
            assert answer(peer).startswith(b"Status: 413 ")
        assert "RF0305 incident" in server.log() and "longer than [limits] spool (5242880 bytes)" in server.log()
        server.ask()
        for peer in peers:
            peer.close()
        until(lambda: on_disk(server) == 0, 5, "the space is free")
        until(lambda: server.descriptors() <= descriptors, 5, "so are the descriptors")
        server.ask(fcgi(1, "/", bytes(3 * MIB)), b"got %d" % (3 * MIB))


def test_some_of_the_disk_stays_free(build, tmp_path, small_disk):
    disk = small_disk(10)
    with running(build, tmp_path, "fcgi", "", env={**os.environ, "TMPDIR": str(disk)}) as server:
        with begins(server, 20 * MIB, 20 * MIB) as peer:
            said = answer(peer)
        assert said.startswith(b"Status: 503 ")
        assert "RF0323 incident" in server.log() and "([limits] spool_free)" in server.log(), server.log()
        server.ask(fcgi(1, "/", bytes(7 * MIB)), b"got %d" % (7 * MIB))
        # Where there is no room from the beginning, another place is taken.
        until(lambda: os.statvfs(disk).f_bavail == os.statvfs(disk).f_blocks, 5, "the worker has closed the body")
        (disk / "filler").write_bytes(bytes(9 * MIB + (512 << 10)))
        server.ask(fcgi(1, "/", bytes(7 * MIB)), b"got %d" % (7 * MIB))


def test_a_disk_that_is_full_costs_the_upload_alone(build, tmp_path, small_disk):
    environ = {**os.environ, "TMPDIR": str(small_disk(4))}
    with running(build, tmp_path, "fcgi", "spool_free = 0", env=environ) as server:
        with begins(server, 20 * MIB, 20 * MIB) as peer:
            assert answer(peer).startswith(b"Status: 503 ")
        assert "RF0307 incident" in server.log() and "No space left on device" in server.log(), server.log()
        server.ask(fcgi(1, "/", bytes(3 * MIB)), b"got %d" % (3 * MIB))


def test_status_tells_how_much_is_there(build, tmp_path):
    with running(build, tmp_path, "fcgi", "") as server:

        def told():
            command = [str(build), "runfcgi", "status", "--json", "--config", str(tmp_path / "site.toml")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            return [front["spooled_bytes"] for front in json.loads(done.stdout)["fronts"]]

        with begins(server, 3 * MIB, 2 * MIB):
            until(lambda: told() == [2 * MIB], 20, "it is told")
        until(lambda: told() == [0], 20, "nothing is left")
