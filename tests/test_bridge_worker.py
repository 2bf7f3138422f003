"""Tests of a worker, from its start to its end, on every interpreter found (see bridge.py)."""

import os
import shutil
import signal
import subprocess
import textwrap
import unittest

from bridge import HELLO_APP, PYTHONS, RICH_APP, TIMEOUT, Answer, Worker, each_python, read_frame, request, wait_for


class WorkerTest(unittest.TestCase):
    @each_python
    def test_hello(self, python):
        worker = Worker(self, python, HELLO_APP).started()
        self.assertEqual(worker.pid, worker.process.pid)
        for _ in range(2):
            answer = worker.ask()
            self.assertEqual((answer.order, answer.status, answer.body), ('HDE', '200 OK', b'hello'))
            self.assertEqual(answer.fields, {'Content-Type': 'text/plain', 'Content-Length': '5'})
        with open('/proc/{}/cmdline'.format(worker.pid)) as file:
            self.assertEqual(file.read().rstrip('\0'), 'runfcgi: worker of ' + worker.folder)
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)

    @each_python
    def test_threads(self, python):
        app = """
        import threading
        both = threading.Barrier(2)
        def app(environ, start_response):
            both.wait(5)
            print('log of', environ['QUERY_STRING'])
            start_response('200 OK', [])
            return [environ['QUERY_STRING'].encode()]
        """
        worker = Worker(self, python, app, slots=2).started()
        for name, slot in zip('ab', worker.slots):
            slot.sendall(request(QUERY_STRING=name))
        for name, slot in zip('ab', worker.slots):
            answer = Answer(slot)
            self.assertEqual((answer.body.decode(), answer.log), (name, 'log of {}\n'.format(name)))
        worker.slots[0].close()
        self.assertIsNone(worker.process.poll())
        worker.slots[1].close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)

    @each_python
    def test_boot_failed(self, python):
        worker = Worker(self, python, 'import absent_module\n')
        kind, text, _, _ = read_frame(worker.slot)
        self.assertEqual(kind, b'B')
        self.assertIn("No module named 'absent_module'", text.decode())
        self.assertEqual(worker.process.wait(TIMEOUT), 1)
        worker = Worker(self, python, HELLO_APP, wsgi='app:absent.name')
        self.assertIn(b'absent', read_frame(worker.slot)[1])

    @each_python
    def test_exit_functions_run(self, python):
        app = HELLO_APP + "\nimport atexit\natexit.register(print, 'good night')\n"
        worker = Worker(self, python, app).started()
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)
        self.assertIn('good night', worker.log)

    @each_python
    def test_lifeline_ends_a_stubborn_worker(self, python):
        app = """
        import signal
        def app(environ, start_response):
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            print('spinning')
            while True:
                pass
        """
        worker = Worker(self, python, app).started()
        worker.slot.sendall(request())
        self.assertEqual(read_frame(worker.slot)[1], b'spinning\n')
        worker.cut()
        self.assertEqual(worker.process.wait(TIMEOUT), -signal.SIGKILL)

    @each_python
    def test_lifeline_ends_an_endless_import(self, python):
        app = "import os, time\nopen(os.environ['MARK'] + '/begun', 'w').close()\ntime.sleep(60)\n"
        worker = Worker(self, python, app)
        wait_for(lambda: os.path.exists(worker.folder + '/begun'), 'the import to begin')
        worker.cut()
        self.assertEqual(worker.process.wait(TIMEOUT), -signal.SIGKILL)

    @each_python
    def test_child_of_a_request_does_not_hold_the_slot(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/forked')
        self.assertEqual((answer.order, answer.body), ('HDE', b'parent'))
        worker.process.kill()
        self.assertEqual(worker.slot.recv(1), b'')

    @each_python
    def test_child_of_the_import_does_not_hold_the_slot(self, python):
        app = '''
        import os, time
        if os.fork() == 0:
            os.setsid()  # it means to stay
            with open(os.environ['MARK'] + '/pid', 'w') as file:
                file.write(str(os.getpid()))
            time.sleep(60)
            os._exit(0)
        while not (os.path.exists(os.environ['MARK'] + '/pid') and os.path.getsize(os.environ['MARK'] + '/pid')):
            time.sleep(0.01)
        '''
        worker = Worker(self, python, textwrap.dedent(app) + HELLO_APP).started()
        with open(worker.folder + '/pid') as file:
            self.addCleanup(os.kill, int(file.read()), signal.SIGKILL)
        worker.process.kill()
        self.assertEqual(worker.slot.recv(1), b'')

    @each_python
    def test_stack_on_demand(self, python):
        app = HELLO_APP.replace('def app', 'import time\ndef app').replace(
            '    start', "    print('now')\n    time.sleep(0.5)\n    start"
        )
        worker = Worker(self, python, app).started()
        worker.slot.sendall(request())
        read_frame(worker.slot)
        os.kill(worker.pid, signal.SIGUSR2)
        self.assertEqual(Answer(worker.slot).body, b'hello')
        if 'pypy' not in python:
            self.assertIn('in app', worker.log)

    @each_python
    def test_garbage_is_collected_seldom_while_the_app_is_imported(self, python):
        app = 'import gc\nget = getattr(gc, "get_threshold", lambda: (2000, 10, 10))\nseen = get()\n' + HELLO_APP
        worker = Worker(self, python, app.replace("b'hello'", 'repr((seen, get())).encode()')).started()
        usual = subprocess.check_output([python, '-c', 'import gc; print(getattr(gc, "get_threshold", tuple)())'])
        usual = eval(usual) or (2000, 10, 10)
        self.assertEqual(eval(worker.ask().body), ((2000, 10, 10), usual))

    @each_python
    def test_bytecode_goes_elsewhere(self, python):
        """Only where the application's directory cannot be written, which root always can."""
        app = (
            "import os, sys\nbody = repr((sys.path[0], sys.argv, 'HOME' in os.environ, '' in sys.path)).encode()\n"
            + HELLO_APP
        )
        worker = Worker(self, python, app.replace("b'hello'", 'body'), pycache='1').started()
        expected = repr((worker.folder, ['runfcgi'], True, False))
        self.assertEqual(worker.ask().body.decode(), expected)

    @unittest.skipUnless(os.geteuid() == 0, 'only root can become another user')
    def test_bytecode_goes_to_an_own_directory(self):
        """An application that the user may not write to, and a home that does not exist."""
        base = '/var/tmp/runfcgi-65534'
        if not os.path.exists(base):
            self.addCleanup(shutil.rmtree, base, True)
        app = HELLO_APP.replace("b'hello'", 'repr(sys.pycache_prefix).encode()') + '\nimport sys\n'
        tested = 0
        for name, path in PYTHONS.items():
            if path.startswith('/usr/') and not name.partition('-')[2].startswith(('3.6.', '3.7.')):
                worker = Worker(self, path, app, pycache='1', readable=True, preexec_fn=become_nobody).started()
                self.assertEqual(worker.ask().body.decode(), repr(base + '/pycache'))
                self.assertEqual(os.stat(base + '/pycache').st_mode & 0o777, 0o700)
                tested += 1
        if not tested:
            self.skipTest('no python that another user may run')


def become_nobody():
    os.setgid(65534)
    os.setuid(65534)


if __name__ == '__main__':
    unittest.main()
