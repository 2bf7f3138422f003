"""Tests of src/workers/bridge/kept.py, and of how the preloader uses it, on every interpreter found (see bridge.py)."""

import os
import signal
import socket
import struct
import time
import unittest

from bridge import HELLO_APP, TIMEOUT, Answer, Preloader, each_python, frame, is_gone, read_frame, request, wait_for

APP = 'import os\n' + HELLO_APP.replace("b'hello'", "b'%d' % os.getpid()")


class KeptTest(unittest.TestCase):
    def start(self, python):
        preloader = Preloader(self, python, APP)
        self.assertEqual(preloader.hello()[0], b'r')
        return preloader

    def worker(self, preloader, sock=None):
        """A new worker that has answered a request: its pid, lifeline, stderr and slot."""
        (kind, payload), (slot,), lifeline, stderr = preloader.fork(sock, shape='1')
        self.assertEqual(kind, b'k')
        pid = struct.unpack('>I', payload)[0]
        self.assertEqual(read_frame(slot)[0], b'W')
        self.assertEqual(self.ask(slot), pid)
        return pid, lifeline, stderr, slot

    def ask(self, slot):
        slot.sendall(request())
        return int(Answer(slot).body)

    def taken(self, preloader, sock=None):
        """The answer to FORK, which must be a kept worker: its facts and its slot."""
        kind, payload = preloader.fork(sock, shape='1')[0]
        self.assertEqual(kind, b'g')
        items = iter(payload.decode().split('\0'))
        lifeline, stderr, slot = preloader.given
        preloader.cuts += [lifeline, stderr]
        slot = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, slot)
        slot.settimeout(TIMEOUT)
        self.addCleanup(slot.close)
        return dict(zip(items, items)), lifeline, stderr, slot

    @each_python
    def test_a_worker_goes_from_front_to_front(self, python):
        preloader = self.start(python)
        pid, lifeline, stderr, slot = self.worker(preloader)
        other = preloader.connect()
        preloader.hello(other)
        preloader.keep(pid, lifeline, stderr, slot, served=7, old_in=60000)
        facts, lifeline, stderr, slot = self.taken(preloader, other)
        self.assertEqual((facts['pid'], facts['served']), (str(pid), '7'))
        self.assertLessEqual(int(facts['old_in']), 60000)
        self.assertEqual(self.ask(slot), pid)
        # Nobody else holds its descriptors: it ends with its slot, another one with its lifeline.
        second = self.worker(preloader)
        slot.close()
        wait_for(lambda: is_gone(pid), 'the worker to end')
        preloader.cuts.remove(second[1])
        os.close(second[1])
        wait_for(lambda: is_gone(second[0]), 'the other one to be killed')

    @each_python
    def test_only_what_fits_is_given_and_what_died_is_not(self, python):
        preloader = self.start(python)
        pid, lifeline, stderr, slot = self.worker(preloader)
        preloader.keep(pid, lifeline, stderr, slot, shape='1 outlog')
        second = self.worker(preloader)
        self.assertNotEqual(second[0], pid)
        preloader.keep(*second)
        os.kill(second[0], signal.SIGKILL)
        wait_for(lambda: is_gone(second[0]), 'it to be gone')
        kind, payload, kept, _ = read_frame(preloader.setup)
        self.assertEqual((kind, kept, struct.unpack('>I', payload[:4])), (b'q', 1, second[:1]))
        self.assertIn(b'was killed (SIGKILL)', payload)
        self.assertNotEqual(self.worker(preloader)[0], second[0])

    @each_python
    def test_an_idle_front_is_asked_before_a_worker_is_forked(self, python):
        preloader = self.start(python)
        pid, lifeline, stderr, slot = self.worker(preloader)
        other = preloader.connect()
        preloader.hello(other)
        # A front that does not answer does not keep the other one waiting for long.
        begin = time.monotonic()
        self.assertNotEqual(self.worker(preloader, other)[0], pid)
        self.assertLess(time.monotonic() - begin, TIMEOUT / 2)
        self.assertEqual(read_frame(preloader.setup)[0], b'l')
        preloader.keep(pid, lifeline, stderr, slot)
        self.assertEqual(self.taken(preloader, other)[0]['pid'], str(pid))

    @each_python
    def test_a_front_that_does_not_need_what_it_waits_for_keeps_nobody_waiting(self, python):
        preloader = Preloader(self, python, APP, maxchildren='1')
        preloader.hello()
        worker = self.worker(preloader)
        for _ in range(2):  # many visitors at a time
            self.assertEqual(preloader.fork(shape='1\x001')[0][0], b'w')  # one of it serves already
        other = preloader.connect()
        preloader.hello(other)
        self.assertEqual(preloader.fork(other, shape='1')[0][0], b'w')
        self.assertEqual(read_frame(preloader.setup)[0], b'l')
        preloader.setup.sendall(frame(b'y'))
        # Now they have gone.
        self.assertEqual(read_frame(preloader.setup)[0], b'l')
        preloader.keep(*worker)
        kind, _, _, fds = read_frame(other)
        preloader.cuts += fds
        self.assertEqual(kind, b'g')

    @each_python
    def test_one_that_nobody_can_use_makes_room(self, python):
        preloader = Preloader(self, python, APP, maxchildren='1')
        preloader.hello()
        pid, lifeline, stderr, slot = self.worker(preloader)
        preloader.keep(pid, lifeline, stderr, slot, shape='1 outlog')
        self.assertEqual(preloader.fork(shape='1')[0][0], b'w')
        self.assertEqual(read_frame(preloader.setup)[0], b'k')
        wait_for(lambda: is_gone(pid), 'it to end')

    @each_python
    def test_too_many_and_too_old_ones_end(self, python):
        preloader = self.start(python)
        workers = [self.worker(preloader) for _ in range(3)]
        preloader.keep(*workers[0], idle_timeout=0)
        preloader.keep(*workers[1], idle_timeout=0)
        wait_for(lambda: is_gone(workers[0][0]), 'the one that was used longest ago to end')
        self.assertFalse(is_gone(workers[1][0]))
        preloader.keep(*workers[2], old_in=0)
        wait_for(lambda: is_gone(workers[2][0]), 'the one that is too old to end')
        preloader.setup.close()
        wait_for(lambda: is_gone(preloader.pid) and is_gone(workers[1][0]), 'all to leave')


if __name__ == '__main__':
    unittest.main()
