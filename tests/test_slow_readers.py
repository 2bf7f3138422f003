"""Who takes an answer slowly, or not at all, holds no worker: what he does not take waits on disk, within a budget."""

import os
import re
import resource
import shutil
import signal
import struct
import time

import pytest

from raw_peers import PROTOCOLS, connects, fcgi, on_disk, records, running
from webservers.processes import until

# `/large-N`: N bytes; `/known-N`: and says so first; `/file-N`: the last part of them is a file; `/lines-N`: and then
# lines, each when the one before has arrived.
APP = '''
import os, time


def body(count):
    for number in range(count // 65536):
        yield (b"%08d" % number) * 8192


def lines(count):
    yield from body(count)
    for number in range(3):
        yield b"line %d\\n" % number
        while not os.path.exists("read-%d" % number):
            time.sleep(0.01)


def application(environ, start_response):
    environ["wsgi.input"].read()
    name, _, count = environ["PATH_INFO"].strip("/").partition("-")
    known = [("Content-Length", count)] if name == "known" else []
    write = start_response("200 OK", [("Content-Type", "text/plain"), *known])
    if name in ("large", "known"):
        return body(int(count))
    if name == "lines":
        return lines(int(count))
    if name == "file":
        for piece in body(int(count)):
            write(piece)
        return environ["wsgi.file_wrapper"](open("file", "rb"))
    return [b"got 5"]
'''
MIB = 1 << 20
SIZE = 8 * MIB


def body(count):
    return b"".join(b"%08d" % number * 8192 for number in range(count // 65536))


def chunks(peer):
    """The pieces of the body of an AJP response."""
    with peer.makefile("rb") as stream:
        while header := stream.read(4):
            packet = stream.read(struct.unpack(">H", header[2:])[0])
            if packet[0] == 3:
                yield packet[3 : 3 + struct.unpack(">H", packet[1:3])[0]]
            if packet[0] == 5:
                return


def answer(peer, protocol="fcgi"):
    """The body of the response, which must be whole."""
    if protocol == "ajp":
        return b"".join(chunks(peer))
    if protocol == "scgi":
        with peer.makefile("rb") as stream:
            return stream.read().partition(b"\r\n\r\n")[2]
    came = list(records(peer))
    assert came[-1] == (3, 1, bytes(8)), "the end of the request comes last"
    return b"".join(content for kind, _, content in came if kind == 6).partition(b"\r\n\r\n")[2]


def asks(server, path, protocol="fcgi"):
    """Somebody asks, and does not read yet."""
    peer = server.connect()
    peer.sendall(PROTOCOLS[protocol](path=path))
    return peer


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["large", "known"])
def test_who_does_not_read_holds_no_worker(build, tmp_path, protocol, kind):
    """There is one worker, and six answers that nobody takes."""
    with running(build, tmp_path, protocol, "", app=APP) as server:
        before = server.memory()
        peers = [asks(server, f"/{kind}-{SIZE}", protocol) for _ in range(6)]
        for _ in range(5):
            server.ask()
        assert server.memory() < before + 6000, "kB for what nobody takes"
        for peer in peers:
            assert answer(peer, protocol) == body(SIZE)
            peer.close()
        until(lambda: on_disk(server) == 0, 5, "the space is free")


def test_who_leaves_frees_the_space_at_once(build, tmp_path):
    with running(build, tmp_path, "fcgi", "", app=APP) as server:
        descriptors = server.descriptors()
        peers = [asks(server, f"/large-{SIZE}") for _ in range(3)]
        until(lambda: on_disk(server) > 3 * SIZE - 2 * MIB, 20, "all of it is on disk")
        for peer in peers:
            peer.close()
        until(lambda: on_disk(server) == 0, 5, "the space is free")
        until(lambda: server.descriptors() <= descriptors, 5, "so are the descriptors")
        server.ask()
    assert server.log("access.log").splitlines().count("/large-8388608 5 200 X") == 3


def test_what_has_been_read_leaves_the_disk(build, tmp_path):
    with running(build, tmp_path, "scgi", "", app=APP) as server:
        with asks(server, f"/large-{SIZE}", "scgi") as peer:
            until(lambda: on_disk(server) > SIZE - MIB, 20, "all of it is on disk")
            read = 0
            while read < SIZE * 3 // 4:
                read += len(peer.recv(65536))
            until(lambda: on_disk(server) < SIZE // 4 + MIB, 5, "a quarter is left")


def test_who_reads_a_little_now_and_then_is_dropped(build, tmp_path):
    limits = "write_timeout = 1\nmin_rate = 1000000"
    with running(build, tmp_path, "scgi", limits, app=APP) as server, asks(server, f"/large-{SIZE}", "scgi") as peer:
        read = 0
        # The whole of it would take 38 s.
        while came := peer.recv(65536):
            read += len(came)
            time.sleep(0.3)
        assert read < SIZE and "its peer has stalled" in server.log()
        assert on_disk(server) == 0
        server.ask()


@pytest.mark.parametrize("how", ["no room in the budget", "no disk at all", "a limit on file sizes", "a full disk"])
def test_without_room_the_worker_waits_and_the_answer_is_whole(build, tmp_path, small_disk, how):
    limits = {"no room in the budget": 'spool = "2M"', "no disk at all": "spool = 0", "a full disk": "spool_free = 0"}
    options = {
        "a limit on file sizes": {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))},
        "a full disk": {"env": {**os.environ, "TMPDIR": str(small_disk(1))}},
    }
    with running(build, tmp_path, "fcgi", limits.get(how, ""), app=APP, **options.get(how, {})) as server:
        with asks(server, f"/large-{SIZE}") as peer:
            if how != "no disk at all":
                until(lambda: "RF0323 a worker waits for a slow reader" in server.log(), 20, "the log tells")
                assert 0 < on_disk(server) <= MIB + (64 << 10)
            assert answer(peer) == body(SIZE)
        server.ask()
        assert on_disk(server) == 0


def test_what_waits_on_disk_leaves_descriptors_to_others(build, tmp_path):
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))}
    with running(build, tmp_path, "fcgi", "", app=APP, **few) as server:
        before = server.descriptors()
        peers = [asks(server, f"/large-{MIB}") for _ in range(40)]
        told = r"RF0323 a worker waits for a slow reader: (\d+) files are open"
        files = int(until(lambda: re.search(told, server.log()), 20, "the log tells")[1])
        assert files < 40 and server.descriptors() <= before + 40 + files
        for peer in peers:
            assert answer(peer) == body(MIB)
            peer.close()
        server.ask()


def test_who_waits_gets_the_room_that_others_leave(build, tmp_path):
    """Of one worker and room for one answer: the second reader takes nothing, and the third gets his answer."""
    with running(build, tmp_path, "fcgi", 'spool = "2M"', app=APP) as server:
        first, second = (asks(server, f"/large-{MIB * 5 // 4}") for _ in range(2))
        until(lambda: "RF0323 a worker waits for a slow reader" in server.log(), 20, "the second one waits")
        third = asks(server, "/third")
        assert answer(first) == body(MIB * 5 // 4)
        assert answer(third) == b"got 5"
        assert answer(second) == body(MIB * 5 // 4)
        for peer in (first, second, third):
            peer.close()


def test_who_reads_nothing_holds_no_worker_that_others_want(build, tmp_path):
    """There is little room on disk. A connection has asked for much and reads nothing, and asks for more."""
    with running(build, tmp_path, "fcgi", 'spool = "2M"', app=APP) as server:
        with server.connect() as greedy:
            greedy.sendall(b"".join(fcgi(number, f"/large-{SIZE}", keep=1) for number in range(1, 21)))
            until(lambda: "RF0323 a worker waits for a slow reader" in server.log(), 20, "he holds the worker")
            for _ in range(3):
                server.ask()
            assert server.log().count("RF0323 incident") == 1 and "taken nothing for 5 s" in server.log(), server.log()


@pytest.mark.parametrize("size", [0, SIZE])
def test_a_stream_arrives_as_it_is_made(build, tmp_path, size):
    """Also after a part that had to wait on disk: each line arrives before the next one is made."""
    with running(build, tmp_path, "scgi", "", app=APP) as server, asks(server, f"/lines-{size}", "scgi") as peer:
        if size:
            until(lambda: on_disk(server) > 0, 20, "it waits")
        came = b""
        for number in range(3):
            while not came.endswith(b"line %d\n" % number):
                came += (more := peer.recv(MIB))
                assert more
            (tmp_path / f"read-{number}").touch()
        assert came.partition(b"\r\n\r\n")[2] == body(size) + b"line 0\nline 1\nline 2\n"
        assert peer.recv(1) == b""


def test_a_file_comes_after_what_waits(build, tmp_path):
    content = os.urandom(3 * MIB)
    (tmp_path / "file").write_bytes(content)
    with running(build, tmp_path, "fcgi", "", app=APP) as server:
        with asks(server, f"/file-{SIZE}") as peer:
            server.ask()
            assert answer(peer) == body(SIZE) + content


def test_a_large_answer_does_not_delay_a_small_one_on_the_same_connection(build, tmp_path):
    with running(build, tmp_path, "fcgi", "", app=APP) as server, server.connect() as peer:
        peer.sendall(fcgi(1, f"/large-{SIZE}", keep=1) + fcgi(2, f"/large-{MIB}", keep=1))
        until(lambda: on_disk(server) > SIZE, 20, "both wait")
        ended, sizes = [], {1: 0, 2: 0}
        for kind, number, content in records(peer):
            if kind == 3:
                ended.append(number)
            elif kind == 6:
                sizes[number] += len(content)
            if len(ended) == 2:
                break
        assert ended == [2, 1] and sizes[1] > SIZE and sizes[2] > MIB


def test_who_stops_the_server_waits_for_what_is_being_read(build, tmp_path):
    with running(build, tmp_path, "fcgi", "", app=APP) as server:
        with asks(server, f"/large-{SIZE}") as peer:
            until(lambda: on_disk(server) > SIZE - MIB, 20, "it waits")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: not connects(server.path), 5, "it takes no more")
            assert answer(peer) == body(SIZE)
        assert server.process.wait(10) == 0


def test_a_new_executable_waits_for_what_is_being_read(build, tmp_path):
    program = shutil.copy(build, tmp_path / "site.fcgi")
    with running(program, tmp_path, "fcgi", "", app=APP) as server:

        def image():
            return os.stat(f"/proc/{server.process.pid}/exe").st_ino

        def is_served():
            with server.connect() as peer:
                peer.settimeout(1)
                peer.sendall(server.good)
                try:
                    return peer.recv(1) != b""
                except TimeoutError:
                    return False

        before = image()
        with asks(server, f"/large-{SIZE}") as peer:
            until(lambda: on_disk(server) > SIZE - MIB, 20, "it waits")
            fresh = tmp_path / "fresh"
            fresh.write_bytes(program.read_bytes() + b"#2")
            fresh.chmod(0o755)
            fresh.rename(program)
            until(lambda: not is_served(), 20, "others wait for the new one")
            assert image() == before
            assert answer(peer) == body(SIZE)
        until(lambda: image() != before, 20, "the new one runs")
        server.ask()
