"""Tests of src/workers/bridge/hints.py and packages.py on every interpreter found (see bridge.py): the first line that
is told of an import that failed has the cause and the cure."""

import re
import unittest

from bridge import HELLO_APP, TIMEOUT, Front, Preloader, Worker, each_python, read_frame

FASTMOD = """\
Metadata-Version: 2.1
Name: fastmod
Version: 1.2
"""
WANTING = """\
Metadata-Version: 2.1
Name: Wanting
Version: 5.2.19
Requires-Python: >=3.99
"""


class HintsTest(unittest.TestCase):
    def hint(self, python, app='', preexec_fn=None, **settings):
        """What `check` is told, without the mark."""
        front = Front(self, python, app, 'check', preexec_fn=preexec_fn, start_timeout='30', **settings)
        self.assertEqual(front.process.wait(TIMEOUT), 0)
        found = re.findall(r'(?m)^runfcgi-check failed (.+)$', front.log)
        self.assertEqual(len(found), 1, front.log)
        return found[0].replace(front.folder, 'HERE')

    @each_python
    def test_a_misspelt_module(self, python):
        files = {'mysite/__init__.py': '', 'mysite/settings.py': '', 'mysite/views.py': ''}
        for wsgi, app, want in (
            (
                'mysite.setings:app', '',
                "no module named 'mysite.setings' ([app] wsgi): there is settings.py beside it: write wsgi = "
                '"mysite.settings:app" below [app]',
            ),
            (
                'mysit.wsgi:app', '',
                "no module named 'mysit' ([app] wsgi): there is mysite/ in HERE: write wsgi = \"mysite.wsgi:app\" below "
                '[app]',
            ),
            ('app:app', 'import mysite.vews', "no module named 'mysite.vews' (app.py:1): there is views.py beside it"),
            ('app:app', 'import settings', "no module named 'settings' (app.py:1): in HERE, what is in mysite/ is called 'mysite.settings'"),
            ('mysite.wsgi:app', '', "no module named 'mysite.wsgi' ([app] wsgi): there is no such file in HERE/mysite"),
        ):  # fmt: skip
            hint = self.hint(python, app, files=files, wsgi=wsgi)
            self.assertTrue(hint.startswith(want), hint)
            self.assertNotIn('pip install', hint)

    @each_python
    def test_a_module_in_another_directory(self, python):
        hint = self.hint(python, files={'src/mysite/wsgi.py': ''}, wsgi='mysite.wsgi:app')
        self.assertIn('it is in HERE/src: write path = "HERE/src" below [app]', hint)
        hint = self.hint(python, wsgi='yourproject.wsgi:app')
        self.assertIn('path below [app] must be the directory that holds it, and is HERE', hint)

    @each_python
    def test_a_missing_package(self, python):
        # Under a name that is not known anybody may have published something.
        hint = self.hint(python, 'import own_helpers')
        self.assertTrue(hint.startswith("no module named 'own_helpers' (app.py:1): if it is your own, "), hint)
        self.assertNotIn('pip install', hint)
        self.assertIn('-m pip install djangorestframework', self.hint(python, 'import rest_framework'))
        hint = self.hint(python, 'import own_helpers', files={'requirements.txt': 'Own.Helpers>=1 # comment\n'})
        self.assertRegex(hint, r'HERE/requirements.txt names it: \S+ -m pip install -r HERE/requirements.txt$')
        info = {'METADATA': WANTING.replace('3.99', '3.6') + 'Requires-Dist: helper (>=1)\n', 'RECORD': 'wanting.py,,\n'}
        files = {'wanting-5.2.19.dist-info/' + name: text for name, text in info.items()}
        hint = self.hint(python, 'import wanting', files=dict(files, **{'wanting.py': 'import helper'}))
        self.assertRegex(hint, r'Wanting needs it: \S+ -m pip install helper$')

    @each_python
    def test_a_file_in_the_place_of_another(self, python):
        want = "HERE/colorsys.py hides the module 'colorsys' that others import: give the file another name"
        for code in ('import colorsys; colorsys.rgb_to_hls(0, 0, 0)', 'from colorsys import rgb_to_hls'):
            if 'import rgb' not in code or '3.6' not in python:  # that says not from where
                self.assertEqual(self.hint(python, code, files={'colorsys.py': ''}), want)

    @each_python
    def test_a_package_for_another_python(self, python):
        info = {'wanting-5.2.19.dist-info/METADATA': WANTING, 'wanting-5.2.19.dist-info/RECORD': 'wanting/__init__.py,,\n'}
        for code in ('match = = 1', 'import zoneinfos', 'from os import nothing', 'raise TypeError'):
            hint = self.hint(python, 'import wanting', files=dict(info, **{'wanting/__init__.py': code}))
            self.assertRegex(
                hint, r'Wanting 5\.2\.19 needs Python 3\.99 or later, this is 3\.\d+\.\d+: set \[app\] python$'
            )
        # It does not matter to an error elsewhere.
        hint = self.hint(python, '1/0', files=dict(info, **{'wanting/__init__.py': ''}))
        self.assertEqual(hint, 'ZeroDivisionError: division by zero (app.py:1)')

    @each_python
    def test_a_wheel_for_another_python(self, python):
        for tag, want in (
            ('cp299-cp299-manylinux_2_17_x86_64', r'fastmod 1\.2 was built for cp299, this is [cp]p3\d+: install it '),
            ('py3-none-macosx_11_0_arm64', r'fastmod 1\.2 was built for macosx_11_0_arm64, this is Linux on \w+: '),
        ):
            files = {
                'fastmod-1.2.dist-info/METADATA': FASTMOD,
                'fastmod-1.2.dist-info/WHEEL': 'Wheel-Version: 1.0\nTag: {}\n'.format(tag),
                'fastmod/__init__.py': 'from fastmod import _speed\n',
            }
            self.assertRegex(self.hint(python, 'import fastmod', files=files), want)
        files = {'fastmod/__init__.py': 'import fastmod._speed\n', 'fastmod/_speed.cpython-299-x86_64-linux-gnu.so': ''}
        hint = self.hint(python, 'import fastmod', files=files)
        self.assertRegex(hint, r'_speed.cpython-299-x86_64-linux-gnu.so was built for cp299, this is [cp]p3\d+: ')

    @each_python
    def test_a_callable_that_is_not_there(self, python):
        hint = self.hint(python, HELLO_APP, wsgi='app:application')
        want = "the module 'app' has no 'application' ([app] wsgi): it has 'app': write wsgi = \"app:app\" below [app]"
        self.assertEqual(hint, want)
        hint = self.hint(python, 'app = 3')
        self.assertEqual(hint, '[app] wsgi = "app:app" is not callable: it is a <class \'int\'>')

    @each_python
    def test_an_asgi_application(self, python):
        class_app = 'class App:\n    async def __call__(self, scope, receive, send): pass\napp = App()\n'
        for code in ('async def app(scope, receive, send): pass', class_app):
            hint = self.hint(python, code)
            self.assertRegex(hint, r'^\[app\] wsgi = "app:app" is an ASGI application; runfcgi serves WSGI: name the WSGI')
        hint = self.hint(python, files={'mysite/asgi.py': class_app}, wsgi='mysite.asgi:app')
        self.assertRegex(hint, r': name the WSGI callable, "mysite.wsgi:app"$')

    @each_python
    def test_what_the_owner_wrote(self, python):
        hint = self.hint(python, 'x = (\n')
        self.assertRegex(hint, r'^SyntaxError: .+ \(app.py:\d+\); Python here is 3\.\d+\.\d+$')
        hint = self.hint(python, 'import os\nos.environ["TOKEN"]')
        self.assertRegex(hint, r"^'TOKEN' is no variable of the environment \(app.py:2\): .+ below \[env\]$")
        hint = self.hint(python, 'def f(): raise ValueError("two\\nlines")\nf()')
        self.assertEqual(hint, 'ValueError: two lines (app.py:1)')
        if '3.6' not in python:  # that says not from where
            hint = self.hint(python, 'from other import helpr', files={'other.py': 'helper = 1'})
            self.assertRegex(hint, r"cannot import name 'helpr' from 'other'.* [Dd]id you mean:? 'helper'\?")
        hostile = 'class E(Exception):\n    def __str__(self): raise ValueError\nraise E\n'
        self.assertEqual(self.hint(python, hostile), 'E')
        # The exception that led to the last one tells more.
        hint = self.hint(python, 'try:\n    import rest_framework\nexcept ImportError as e:\n    raise RuntimeError("x") from e')
        self.assertIn('-m pip install djangorestframework', hint)

    @each_python
    def test_limits_of_the_account(self, python):
        hint = self.hint(python, 'raise RuntimeError("can\'t start new thread")')
        self.assertIn('the limit of processes of this account is reached', hint)
        hint = self.hint(python, 'raise MemoryError')
        self.assertIn('the memory that a process of this account may have is used up', hint)
        for name in ('RLIMIT_AS', 'RLIMIT_DATA'):
            # This interpreter may have more than 1 GB of addresses from the start.
            app = 'import resource; resource.setrlimit(resource.{}, (1 << 33, 1 << 33)); bytearray(1 << 34)'
            hint = self.hint(python, app.format(name))
            self.assertIn('is used up (8192 MB, {}): ask the host for more'.format(name), hint)
        hint = self.hint(python, 'raise OSError(28, "No space left on device")')
        self.assertIn('is full: delete what is not needed', hint)

    @each_python
    def test_the_front_is_told(self, python):
        want = "no module named 'rest_framework' (app.py:1): "
        preloader = Preloader(self, python, 'import rest_framework')
        kind, text = preloader.hello()
        self.assertEqual(kind, b'b')
        self.assertTrue(text.startswith(want), text)
        self.assertIn('\nTraceback (most recent call last):\n', text)
        worker = Worker(self, python, 'import rest_framework')
        kind, text = read_frame(worker.slot)[:2]
        self.assertTrue(text.startswith(want.encode()), text)
        long = 'def f(n): return f(n - 1) if n else yaml\n{}\nf(300)'.format('#' * 100)
        kind, text = Preloader(self, python, long).hello()
        self.assertTrue(text.startswith("NameError: name 'yaml' is not defined"), text)
        self.assertLessEqual(len(text.encode()), 8192)


if __name__ == '__main__':
    unittest.main()
