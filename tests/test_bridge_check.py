"""Tests of src/workers/bridge/check.py on every interpreter found (see bridge.py)."""

import unittest

from bridge import HELLO_APP, TIMEOUT, Front, each_python

NOISY_APP = """
import socket, threading
print('noise', end='')
threading.Thread(target=threading.Event().wait, name='ticker', daemon=True).start()
A, B = socket.socketpair()
"""


class CheckTest(unittest.TestCase):
    def check(self, python, app, status=0, start_timeout='30', **settings):
        front = Front(self, python, app, 'check', start_timeout=start_timeout, **settings)
        self.assertEqual(front.process.wait(TIMEOUT), status)
        return front.log

    @each_python
    def test_what_the_import_does_is_told(self, python):
        log = self.check(python, NOISY_APP + HELLO_APP)
        for line in ('noise', 'runfcgi-check threads ticker'):
            self.assertIn(line, log.splitlines())
        self.assertIn('runfcgi-check open a pair of sockets (app.A); a pair of sockets (app.B)\n', log)
        self.assertRegex(log, r'\nrunfcgi-check seconds \d+\.\d\d\n$')
        self.assertRegex(self.check(python, HELLO_APP, warm='/'), r'^\nrunfcgi-check seconds \d+\.\d\d\n$')

    @each_python
    def test_an_error_is_shown_without_our_frames(self, python):
        log = self.check(python, 'import absent_module\n')
        told, trace = log.strip().split('\n', 1)
        self.assertIn("runfcgi-check failed no module named 'absent_module' (app.py:1)", told)
        self.assertRegex(trace, r'^Traceback [^\n]+\n  File "[^<]+/importlib/__init__.py"')
        self.assertIn("No module named 'absent_module'", log.splitlines()[-1])
        self.assertNotIn('runfcgi', trace)

    @each_python
    def test_an_endless_import_ends_with_its_stack(self, python):
        log = self.check(python, 'import time\n\ntime.sleep(60)\n', status=1, start_timeout='1')
        self.assertRegex(log, r'^Timeout \(')
        self.assertRegex(log, r'File "[^"]*app.py", line 3 in <module>')


if __name__ == '__main__':
    unittest.main()
