"""Tests of src/workers/bridge/opened.py on every interpreter found (see bridge.py)."""

import contextlib
import os
import re
import signal
import struct
import textwrap
import unittest

from bridge import HELLO_APP, Answer, Preloader, Worker, each_python, is_gone, read_frame, request, wait_for

OPEN_APP = """
import logging, multiprocessing, os, select, signal, socket, sqlite3, subprocess, sys, tempfile, time
MARK = os.environ['MARK']
LISTENER = socket.socket()
LISTENER.bind(('127.0.0.1', 0))
LISTENER.listen(5)
FORK = multiprocessing.get_context('fork')
class Client:
    def __init__(self):
        self.pool = [socket.create_connection(LISTENER.getsockname())]
"""

SOCKETS_AND_FILES = {
    'CLIENT = Client()': r'a connection to 127\.0\.0\.1:\d+ \(app\.CLIENT\)',
    'A, B = socket.socketpair()': r'a pair of sockets \(app\.A\); a pair of sockets \(app\.B\)',
    'DATABASE = sqlite3.connect(MARK + "/db"); DATABASE.execute("CREATE TABLE a (b)")':
        r'the database {mark}/db \(app\.DATABASE\)',
    'EMPTY = sqlite3.connect(MARK + "/empty")': r'the file {mark}/empty \(app\.EMPTY\)',
    'BOTH = open(MARK + "/both", "w+")': r'the file {mark}/both \(app\.BOTH\)',
    'EPOLL = select.epoll()': r'epoll, or the like \(eventpoll\) \(app\.EPOLL\)',
}  # fmt: skip
PROCESSES_AND_PIPES = {
    'PROGRAM = subprocess.Popen(["sleep", "60"])': r'the process \d+ \(sleep\) \(app\.PROGRAM\)',
    'CHILD = FORK.Process(target=time.sleep, args=(60,)); CHILD.start()':
        r'the process \d+ \(runfcgi-preload\) \(app\.CHILD\)',
    'READER, WRITER = os.pipe()': r'a pipe',
}  # fmt: skip

HARMLESS = """
LOG = logging.FileHandler(MARK + '/site.log')
AGAIN = open(MARK + '/again.log', 'a+')
FRESH = open(MARK + '/fresh.log', 'w')
TEMPORARY = tempfile.TemporaryFile()
CHANCE, NULL, CODE = open('/dev/urandom', 'rb'), open('/dev/null', 'r+b', 0), open(__file__)
MEMORY = sqlite3.connect(':memory:')
DIRECTORY = os.open('/', os.O_RDONLY)
DATAGRAMS = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ENDED = subprocess.Popen(['echo', '1.0'], stdout=subprocess.PIPE)
VERSION = ENDED.stdout.read()
CLIENT = Client()
CLIENT.pool.pop().close()
"""

class OpenedTest(unittest.TestCase):
    def opened(self, python, code, **settings):
        preloader = Preloader(self, python, OPEN_APP + code + '\n' + HELLO_APP, **settings)
        kind, told = preloader.hello()
        self.assertEqual(kind, b'r', told)
        return preloader, told['open']

    @each_python
    def test_what_is_open_is_told(self, python):
        for group in (SOCKETS_AND_FILES, PROCESSES_AND_PIPES):
            with self.subTest(group):
                preloader, told = self.opened(python, '\n'.join(group))
                mark = re.escape(preloader.folder)
                self.assertRegex(told, '^' + '; '.join(group.values()).replace('{mark}', mark) + '$')
                preloader.setup.close()
                wait_for(lambda: is_gone(preloader.pid), 'the preloader to leave')

    @each_python
    def test_what_is_harmless_is_not(self, python):
        self.assertEqual(self.opened(python, HARMLESS)[1], '')

    @each_python
    def test_much_is_told_in_short(self, python):
        told = self.opened(python, 'ALL = [open(MARK + "/%d" % n, "w+") for n in range(30)]')[1]
        self.assertEqual(told.count('the file '), 8)
        self.assertTrue(told.endswith('; and 22 more'), told)

    @each_python
    def test_what_warming_opens_is_told(self, python):
        code = 'KEPT = []\n' + HELLO_APP + '\ninner = app\n'
        code += 'def warmed(*args):\n    KEPT.append(Client())\n    return inner(*args)\n'
        told = self.opened(python, code, warm='/', wsgi='app:warmed')[1]
        self.assertRegex(told, r'^a connection to 127.0.0.1:\d+ \(app\.KEPT\)$')

    @each_python
    def test_what_the_import_starts_ends_with_the_preloader(self, python):
        code = """
        shell = subprocess.Popen('sleep 60 & echo $! > $MARK/program; wait', shell=True)
        deaf = FORK.Process(target=lambda: (signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep(60)))
        deaf.start()
        daemon = subprocess.Popen(['sleep', '60'], start_new_session=True)
        while not (os.path.exists(MARK + '/program') and os.path.getsize(MARK + '/program')):
            time.sleep(0.01)
        with open(MARK + '/pids', 'w') as file:
            file.write('%d %d %d ' % (daemon.pid, shell.pid, deaf.pid) + open(MARK + '/program').read())
        """
        preloader, _ = self.opened(python, textwrap.dedent(code))
        with open(preloader.folder + '/pids') as file:
            daemon, *pids = [int(pid) for pid in file.read().split()]
        self.addCleanup(os.kill, daemon, signal.SIGKILL)
        self.assertEqual(preloader.setup.recv(1), b'', 'it leaves: workers must not share them')
        wait_for(lambda: all(is_gone(pid) for pid in pids), 'the processes to end')
        self.assertFalse(is_gone(daemon), 'it means to stay')

    @each_python
    def test_what_the_import_of_a_worker_starts_ends_with_it(self, python):
        code = """
        shell = subprocess.Popen('sleep 60 & echo $! > $MARK/program; wait', shell=True)
        while not (os.path.exists(MARK + '/program') and os.path.getsize(MARK + '/program')):
            time.sleep(0.01)
        with open(MARK + '/pids', 'w') as file:
            file.write('%d ' % shell.pid + open(MARK + '/program').read())
        """
        worker = Worker(self, python, OPEN_APP + textwrap.dedent(code) + HELLO_APP).started()
        with open(worker.folder + '/pids') as file:
            pids = [int(pid) for pid in file.read().split()]
        self.assertEqual([pid for pid in pids if is_gone(pid)], [])
        self.assertEqual(worker.ask().body, b'hello')
        worker.cut()
        wait_for(lambda: all(is_gone(pid) for pid in pids), 'the processes to end')

    @each_python
    def test_what_a_failing_import_starts_ends(self, python):
        code = "with open(MARK + '/pid', 'w') as file:\n    file.write('%d' % subprocess.Popen(['sleep', '60']).pid)\n"
        worker = Worker(self, python, OPEN_APP + code + '1/0\n')
        worker.process.wait(20)
        with open(worker.folder + '/pid') as file:
            self.assertTrue(is_gone(int(file.read())))

    @each_python
    def test_a_child_that_has_ended_is_not_waited_for(self, python):
        code = 'CHILD = FORK.Process(target=time.sleep, args=(0,))\nCHILD.start()\ntime.sleep(0.5)'
        preloader, told = self.opened(python, code)
        self.assertEqual(told, '')
        (_, payload), (slot,), _, stderr = preloader.fork()
        read_frame(slot)
        slot.close()
        with contextlib.suppress(OSError):
            self.assertEqual(os.read(stderr, 1000), b'')
        wait_for(lambda: is_gone(struct.unpack('>I', payload)[0]), 'the worker to end')


if __name__ == '__main__':
    unittest.main()
