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
    def check(self, python, app, **settings):
        front = Front(self, python, app, 'check', **settings)
        self.assertEqual(front.process.wait(TIMEOUT), 0)
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
        self.assertRegex(log, r'^Traceback [^\n]+\n  File "[^<]+/importlib/__init__.py"')
        self.assertIn("No module named 'absent_module'", log.splitlines()[-1])
        self.assertNotIn('runfcgi', log)


if __name__ == '__main__':
    unittest.main()
