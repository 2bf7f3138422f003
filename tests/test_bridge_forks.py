"""Tests of what processes that a view starts take over from their worker, on every interpreter found (see
bridge.py)."""

import unittest

from bridge import Answer, Preloader, Worker, each_python, read_frame, request

VIEWS_APP = """
import multiprocessing, os, signal, time
FORK = multiprocessing.get_context('fork')

def terminate():
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(20)
    return child.exitcode

def pool():
    with FORK.Pool(2) as workers:
        return sum(workers.map(abs, [-1, -2]))

def plain():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(1)
    os.kill(child, signal.SIGTERM)
    return os.waitpid(child, 0)[1]

def own():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.2)
    child.terminate()
    child.join(20)
    return child.exitcode

def blocked():
    return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])

def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [str(globals()[environ['PATH_INFO'][1:]]()).encode()]
"""


class ForkTest(unittest.TestCase):
    """Processes that a view starts, and what they take over from a worker."""

    def check(self, ask):
        for _ in range(15):
            self.assertEqual(ask('/terminate'), b'-15')
            self.assertEqual(ask('/plain'), b'15')
        for _ in range(5):
            self.assertEqual(ask('/pool'), b'3')
        self.assertEqual(ask('/blocked'), b'False')
        self.assertEqual(ask('/own'), b'7')

    @each_python
    def test_children_of_a_forked_worker_end_with_term(self, python):
        preloader = Preloader(self, python, VIEWS_APP)
        preloader.hello()
        _, (slot,), _, _ = preloader.fork()
        read_frame(slot)

        def ask(path):
            slot.sendall(request(PATH_INFO=path))
            return Answer(slot).body

        self.check(ask)

    @each_python
    def test_children_of_a_worker_end_with_term(self, python):
        worker = Worker(self, python, VIEWS_APP).started()
        self.check(lambda path: worker.ask(PATH_INFO=path).body)


if __name__ == '__main__':
    unittest.main()
