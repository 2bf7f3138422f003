"""Tests of src/workers/bridge/preloader.py on every interpreter found (see bridge.py)."""

import os
import signal
import socket
import struct
import subprocess
import textwrap
import time
import unittest

from bridge import (
    HELLO_APP,
    RICH_APP,
    TIMEOUT,
    Answer,
    Preloader,
    each_python,
    is_gone,
    read_frame,
    request,
    start_ticks,
    wait_for,
)


class PreloaderTest(unittest.TestCase):
    @each_python
    def test_fork_serves(self, python):
        app = HELLO_APP.replace('hello', '%d').replace("b'%d'", "b'%d %d' % (os.getpid(), os.getppid())")
        app = 'import os\nopen(os.environ["MARK"] + "/imports", "a").write("x")\n' + app
        preloader = Preloader(self, python, app)
        self.assertEqual(preloader.process.wait(TIMEOUT), 0)
        kind, told = preloader.hello()
        self.assertEqual((kind, told['threads']), (b'r', '1'))
        other = preloader.connect()
        preloader.hello(other)
        slots = []
        for control in (None, other, None):
            (kind, payload), (slot,), _, _ = preloader.fork(control)
            self.assertEqual(kind, b'k')
            self.assertEqual(read_frame(slot)[:2], (b'W', payload))
            slot.sendall(request())
            pid = struct.unpack('>I', payload)[0]
            self.assertEqual(Answer(slot).body.decode(), '{} {}'.format(pid, preloader.pid))
            slots.append((pid, slot))
        with open('/proc/{}/comm'.format(preloader.pid)) as file:
            self.assertEqual(file.read(), 'runfcgi-preload\n')
        self.assertEqual(os.getsid(preloader.pid) == os.getsid(0), False)
        self.assertNotEqual(os.getsid(preloader.pid), preloader.pid)
        preloader.setup.close()
        other.close()
        wait_for(lambda: is_gone(preloader.pid), 'the preloader to leave')
        self.assertFalse(os.path.exists(preloader.path))
        self.assertFalse(os.path.exists(preloader.lock_path))
        for pid, slot in slots:
            slot.sendall(request())
            self.assertTrue(Answer(slot).body.startswith(str(pid).encode()))
            slot.close()
            wait_for(lambda: is_gone(pid), 'the worker to end')
        with open(os.path.join(preloader.folder, 'imports')) as file:
            self.assertEqual(file.read(), 'x')

    @each_python
    def test_workers_end_and_leave_no_zombie(self, python):
        preloader = Preloader(self, python, RICH_APP + '\nimport atexit\natexit.register(print, "good night")\n')
        preloader.hello()
        (_, payload), (slot,), _, stderr = preloader.fork()
        pid = struct.unpack('>I', payload)[0]
        slot.close()
        self.assertEqual(os.read(stderr, 100), b'good night\n')
        wait_for(lambda: not os.path.exists('/proc/{}'.format(pid)), 'the worker to be reaped')
        (_, payload), (slot,), lifeline, _ = preloader.fork()
        pid = struct.unpack('>I', payload)[0]
        read_frame(slot)
        os.close(lifeline)
        preloader.cuts.remove(lifeline)
        wait_for(lambda: not os.path.exists('/proc/{}'.format(pid)), 'the worker to be reaped')
        self.assert_exited(preloader, pid, b'was killed (SIGKILL)')
        (_, payload), (slot,), _, _ = preloader.fork()
        pid = struct.unpack('>I', payload)[0]
        read_frame(slot)
        os.kill(pid, signal.SIGSEGV)
        self.assertEqual(os.WTERMSIG(self.assert_exited(preloader, pid, b'was ended by SIGSEGV')), signal.SIGSEGV)

    def assert_exited(self, preloader, pid, words):
        kind, payload = read_frame(preloader.setup)[:2]
        self.assertEqual((kind, payload[:4]), (b'q', struct.pack('>I', pid)))
        self.assertIn(words, payload[8:])
        return struct.unpack('>I', payload[4:8])[0]

    @each_python
    def test_threads_of_a_worker(self, python):
        preloader = Preloader(self, python, HELLO_APP, threads='3')
        preloader.hello()
        _, slots, _, _ = preloader.fork(slots=3)
        for slot in slots:
            self.assertEqual(read_frame(slot)[0], b'W')
        for slot in reversed(slots):
            slot.sendall(request())
            self.assertEqual(Answer(slot).body, b'hello')

    @each_python
    def test_threads_of_the_app_are_told(self, python):
        app = 'import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n' + HELLO_APP
        self.assertEqual(Preloader(self, python, app).hello()[1]['threads'], '2')

    @each_python
    def test_failed(self, python):
        preloader = Preloader(self, python, 'import os\nraise ValueError("broken on purpose")\n')
        kind, text = preloader.hello()
        self.assertEqual(kind, b'b')
        self.assertIn('ValueError: broken on purpose', text)
        self.assertEqual(preloader.hello(preloader.connect())[1], text)
        self.assertIn('broken on purpose', preloader.log)
        self.assertFalse(preloader.can_lock())
        with open(os.path.join(preloader.folder, 'app.py'), 'a') as file:
            file.write('# mended\n')
        began = time.monotonic()
        self.assertEqual(preloader.setup.recv(1), b'')
        self.assertLess(time.monotonic() - began, 3)
        wait_for(preloader.can_lock, 'the lock to be free')
        self.assertFalse(os.path.exists(preloader.path))

    @each_python
    def test_refused(self, python):
        app = """
            import os, errno
            real_fork = os.fork
            def fork():
                if os.path.exists(os.environ["MARK"] + "/full"):
                    raise OSError(errno.EAGAIN, "no more processes")
                return real_fork()
            os.fork = fork
            """
        preloader = Preloader(self, python, textwrap.dedent(app) + HELLO_APP)
        preloader.hello()
        other = preloader.connect()
        preloader.hello(other)
        self.assertEqual(preloader.fork(other)[0][0], b'k')
        open(os.path.join(preloader.folder, 'full'), 'w').close()
        (kind, payload), (slot,), _, _ = preloader.fork()
        self.assertEqual(kind, b'n')
        self.assertIn(b'no more processes', payload)
        self.assertEqual(read_frame(other)[0], b'l')
        self.assertEqual(slot.recv(1), b'')

    @each_python
    def test_app_child_holds_nothing(self, python):
        app = """
        import os, subprocess, time
        sleeper = os.fork()
        if sleeper == 0:
            time.sleep(20)
            os._exit(0)
        program = subprocess.Popen(['sleep', '20'])
        with open(os.environ['MARK'] + '/new', 'w') as file:
            file.write('%d %d' % (sleeper, program.pid))
        os.rename(os.environ['MARK'] + '/new', os.environ['MARK'] + '/pids')
        time.sleep(20)
        """
        preloader = Preloader(self, python, textwrap.dedent(app) + HELLO_APP)
        path = os.path.join(preloader.folder, 'pids')
        wait_for(lambda: os.path.exists(path), 'the import to start its children')
        with open(path) as file:
            pids = [int(pid) for pid in file.read().split()]
        for pid in pids:
            self.addCleanup(os.kill, pid, signal.SIGKILL)
        self.assertFalse(preloader.can_lock())
        preloader.process.kill()
        preloader.process.wait(TIMEOUT)
        self.assertEqual(preloader.setup.recv(1), b'')
        for pid in pids:
            self.assertFalse(is_gone(pid))
        with self.assertRaises(ConnectionRefusedError):
            preloader.connect()
        self.assertTrue(preloader.can_lock())

    @each_python
    def test_what_must_not_be_shared_is_left_to_a_preloader_without_the_app(self, python):
        app = """
        import os, socket
        open(os.environ['MARK'] + '/imports', 'a').write('%d ' % os.getpid())
        KEPT = socket.socketpair()
        """
        first = Preloader(self, python, textwrap.dedent(app) + HELLO_APP)
        _, told = first.hello()
        self.assertIn('KEPT', told['open'])
        self.assertEqual(told['plain'], '')
        self.assertEqual(first.setup.recv(1), b'', 'it leaves')
        wait_for(first.can_lock, 'it to give the lock back')
        second = Preloader(self, python, textwrap.dedent(app) + HELLO_APP, open_file=os.path.join(first.runtime, 'open'))
        _, told = second.hello()
        self.assertIn('KEPT', told['open'])
        self.assertEqual(told['plain'], '1')
        (kind, payload), (slot,), _, _ = second.fork()
        self.assertEqual(kind, b'k')
        pid = struct.unpack('>I', payload)[0]
        self.assertEqual(read_frame(slot)[:2], (b'W', payload))
        slot.sendall(request())
        self.assertEqual(Answer(slot).body, b'hello')
        with open(os.path.join(second.folder, 'imports')) as file:
            self.assertEqual(file.read().split(), [str(pid)], 'only the worker imports the app')

    @each_python
    def test_an_import_in_a_worker_that_fails_is_told_to_its_front(self, python):
        preloader = Preloader(self, python, 'import os\nos._exit(0)\n', preload='0')
        preloader.hello()
        (_, payload), (slot,), _, _ = preloader.fork()
        self.assertEqual(slot.recv(1), b'')
        self.assertEqual(read_frame(preloader.setup)[:2], (b'q', payload + struct.pack('>I', 0)))
        preloader = Preloader(self, python, 'raise ValueError("why")\n', preload='0')
        preloader.hello()
        _, (slot,), _, _ = preloader.fork()
        kind, told, _, _ = read_frame(slot)
        self.assertEqual(kind, b'B')
        self.assertIn(b'ValueError: why', told)

    @each_python
    def test_term_and_other_signals(self, python):
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(preloader.pid, number)
        self.assertEqual(preloader.fork()[0][0], b'k')
        os.kill(preloader.pid, signal.SIGTERM)
        self.assertEqual(preloader.setup.recv(1), b'')
        wait_for(preloader.can_lock, 'the lock to be free')
        self.assertFalse(os.path.exists(preloader.path))

    @each_python
    def test_lingers_for_its_time(self, python):
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello(linger=1)
        began = time.monotonic()
        preloader.setup.close()
        time.sleep(0.3)
        other = preloader.connect()
        self.assertEqual(preloader.hello(other, linger=1)[0], b'r')
        self.assertEqual(preloader.fork(other)[0][0], b'k')
        other.close()
        wait_for(lambda: is_gone(preloader.pid), 'the preloader to leave')
        self.assertGreaterEqual(time.monotonic() - began, 1.3)

    @each_python
    def test_linger_ends_with_the_spawner(self, python):
        spawner = subprocess.Popen(['sleep', '30'])
        self.addCleanup(spawner.wait)
        self.addCleanup(spawner.kill)
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello(linger=60, spawner=spawner.pid, start=start_ticks(spawner.pid))
        preloader.setup.close()
        time.sleep(0.2)
        self.assertFalse(is_gone(preloader.pid))
        spawner.kill()
        wait_for(lambda: is_gone(preloader.pid), 'the preloader to leave')
        self.assertFalse(os.path.exists(preloader.path))

    @unittest.skipUnless(os.geteuid() == 0, 'only root can become another user')
    @each_python
    def test_another_user_is_turned_away(self, python):
        preloader = Preloader(self, python, HELLO_APP)
        preloader.hello()
        os.chmod(preloader.runtime, 0o755)
        os.chmod(preloader.path, 0o777)
        stranger = os.fork()
        if stranger == 0:
            code = 1
            try:
                os.setuid(65534)
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(TIMEOUT)
                sock.connect(preloader.path)
                code = 0 if sock.recv(1) == b'' else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(stranger, 0)[1], 0)
        self.assertIn('a process of user 65534 tried to connect', preloader.log)

    @each_python
    def test_app_may_fail_to_warm(self, python):
        app = (
            HELLO_APP
            + "\ninner = app\ndef app(environ, start_response):\n    if environ['PATH_INFO'] == '/warm':\n        raise SystemExit(1)\n    return inner(environ, start_response)\n"
        )
        preloader = Preloader(self, python, app, warm='/warm?now')
        self.assertEqual(preloader.hello()[0], b'r')
        self.assertIn('the warming request failed', preloader.log)

    @each_python
    def test_another_import_in_hand_is_left_on_term(self, python):
        app = "import os, time\nwith open(os.environ['MARK'] + '/pid', 'w') as file: file.write(str(os.getpid()))\ntime.sleep(20)\n"
        preloader = Preloader(self, python, app)
        path = os.path.join(preloader.folder, 'pid')
        wait_for(lambda: os.path.exists(path) and os.path.getsize(path), 'the import to begin')
        with open(path) as file:
            pid = int(file.read())
        os.kill(pid, signal.SIGTERM)
        self.assertEqual(preloader.setup.recv(1), b'')
        wait_for(preloader.can_lock, 'the lock to be free')


if __name__ == '__main__':
    unittest.main()
