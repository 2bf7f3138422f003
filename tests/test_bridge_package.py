"""Tests of src/workers/bridge/ as a package: its names, its imports, and what the application sees of it."""

import ast
import glob
import os
import subprocess
import sys
import unittest

from bridge import HELLO_APP, RICH_APP, WORKER, Worker, each_python

BRIDGE = os.path.join(WORKER, 'bridge')

SEEING_APP = """
import sys, traceback
OURS = sorted(name for name in sys.modules if 'runfcgi' in name or 'bridge' in name)

def app(environ, start_response):
    files = [name for name in OURS if getattr(sys.modules[name], '__file__', None)]
    finders = [finder for finder in sys.meta_path if type(finder).__module__.startswith('__runfcgi__')]
    start_response('200 OK', [])
    stack = ''.join(traceback.format_stack())
    return [repr((OURS, files, finders)).encode(), b'\\0', stack.encode()]
"""


def parse_modules():
    """The syntax tree of each module."""
    found = {}
    for path in glob.glob(os.path.join(BRIDGE, '*.py')):
        with open(path, encoding='utf-8') as file:
            found[os.path.basename(path)[:-3]] = ast.parse(file.read(), path)
    return found


MODULES = parse_modules()  # once: CPython 3.11 fails where two threads parse at a time


def defined(tree):
    """The names that a module makes, beside those that it imports."""
    names = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    return names | {leaf.id for node in assigned for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}


def imported(tree):
    """(module, name) of each import from the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from ((node.module or '__init__', alias.name) for alias in node.names)


class PackageTest(unittest.TestCase):
    def test_no_name_is_undefined_or_unused(self):
        command = [sys.executable, '-m', 'pyflakes', BRIDGE, os.path.join(WORKER, 'loader.py')]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual((done.returncode, done.stdout.decode()), (0, ''))

    def test_what_is_imported_is_there(self):
        trees = MODULES
        for module, tree in trees.items():
            for source, name in imported(tree):
                there = name in defined(trees[source]) or source == '__init__' and name in trees
                self.assertTrue(there, '{}.py imports {} from {}.py'.format(module, name, source))

    def test_imports_point_down(self):
        trees = MODULES
        below = {
            module: {name if source == '__init__' and name in trees else source for source, name in imported(tree)}
            for module, tree in trees.items()
        }
        while below:
            bottom = {module for module, others in below.items() if not others & set(below)}
            self.assertTrue(bottom, 'these import each other in a circle: {}'.format(below))
            below = {module: others for module, others in below.items() if module not in bottom}

    @each_python
    def test_what_the_application_sees(self, python):
        seen, _, stack = Worker(self, python, SEEING_APP).started().ask().body.decode().partition('\0')
        ours = sorted({'__runfcgi__'} | {'__runfcgi__.' + name for name in MODULES})
        ours = [name for name in ours if name not in ('__runfcgi__.__init__', '__runfcgi__.importer')]
        self.assertEqual(seen, repr((ours, [], [])))
        self.assertRegex(stack, r'File "<runfcgi>/request.py", line \d+, in serve_one\n +result = app\(environ, ')

    @each_python
    def test_our_lines_are_shown_below_those_of_the_application(self, python):
        error = Worker(self, python, RICH_APP).started().ask(PATH_INFO='/twice').error
        self.assertRegex(error, r'^Traceback [^\n]+\n  File "[^\n]+/app.py", line \d+, in app\n')
        ours = r'  File "<runfcgi>/request.py", line \d+, in start_response\n    raise AssertionError\('
        self.assertRegex(error, ours)

    @each_python
    def test_nothing_of_ours_can_be_imported_by_a_common_name(self, python):
        names = sorted(set(MODULES) - {'app'}) + ['bridge', 'runfcgi']  # `app` is the application
        app = 'from importlib.util import find_spec\nFOUND = [name for name in {!r} if find_spec(name)]\n'.format(names)
        app += HELLO_APP.replace("b'hello'", 'repr(FOUND).encode()')
        self.assertEqual(Worker(self, python, app).started().ask().body, b'[]')


if __name__ == '__main__':
    unittest.main()
