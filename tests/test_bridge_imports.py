"""Tests of src/workers/bridge/imports.py on every interpreter found (see bridge.py)."""

import glob
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
import zipfile

from bridge import HELLO_APP, HERE, PYTHONS, TIMEOUT, Preloader, Worker, each_python

PLAIN = """
import os, sys
folder = sys.argv[1]
sys.path[:] = [folder] + [path for path in sys.path if path not in ('', folder)]
import app
"""
KINDS = ('open', 'stat', 'list', 'read', 'link')
SETTLED = 2.2  # seconds; a younger file is not kept

with open(os.path.join(HERE, 'apps', 'bridge', 'zoo.py')) as file:
    ZOO = file.read()
ZOO_FILES = {
    'zoo/__init__.py': '"""The zoo."""\n',
    'zoo/plain.py': "times = globals().get('times', 0) + 1\n\n\ndef fail():\n    raise ValueError('told')  # here\n",
    'zoo/late.py': '',
    'zoo/data.txt': 'data',
    'zoo/sub/__init__.py': '',
    'zoo/sub/deep.py': '',
    'zoo/sub/broken.py': "import zoo.plain\n\nzoo.plain.fail()\n",
    'one/space/a.py': '',
    'two/space/b.py': '',
    'one/list.txt': '',
    'one/dotted.py/file': '',
    'two/dotted.py': '',
    'one/empty/file': '',
    'linked_to.py': '',
    'package/__init__.py': '',
    'package/inner.py': '',
    'elsewhere/editable/__init__.py': '',
    'packages/some.pth': 'three\n',
    'packages/three/through_pth.py': '',
    'bare.py': '',
}


def write(directory, files):
    for name, text in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as file:
            file.write(textwrap.dedent(text))


class Place:
    """A site and a home."""

    def __init__(self, python, files):
        self.python = python
        self.directory = tempfile.mkdtemp(prefix='bridge-place-')
        self.home, self.site = self.directory + '/home', self.directory + '/site'
        os.mkdir(self.home)
        write(self.site, files)
        self.environ = {'HOME': self.home, 'SITE': self.site, 'PYTHONDONTWRITEBYTECODE': ''}

    def start(self, test, kind=Worker):
        return kind(test, self.python, '', app_path=self.site, pycache='1', environ=self.environ)

    def answer(self, test):
        """What a new worker answers."""
        worker = self.start(test).started()
        try:
            answer = worker.ask()
            test.assertEqual(answer.status, '200 OK', answer.error or worker.log)
            return answer.body.decode()
        finally:
            worker.end()

    def plain(self, more=''):
        environ = dict({'PATH': '/usr/bin:/bin', 'LANG': 'C.UTF-8', 'PYTHONUTF8': '1', 'MARK': self.site}, **self.environ)
        command = [self.python, '-c', PLAIN + more, self.site]
        return subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()

    def stores(self):
        return glob.glob(self.home + '/.cache/runfcgi/imports/*')


def app_of(expression, imports=''):
    """An app that answers with a value that it has from the import."""
    return '{}\n{}\nvalue = str(({})).encode()\n'.format(HELLO_APP.replace("b'hello'", 'value'), imports, expression)


OPTIONAL = """
import os, sys
sys.path[1:1] = [os.environ['SITE'] + '/first', os.environ['SITE'] + '/second']
try:
    import thing
except ImportError:
    thing = None
"""
THING = app_of("thing and thing.x, getattr(thing, '__file__', '')[len(os.environ['SITE']):]", OPTIONAL)
THING_FILES = {'app.py': THING, 'first/other.py': '', 'second/thing.py': "x = 'old'\n"}
OLD = "('old', '/second/thing.py')"


class Settled(unittest.TestCase):
    """Has a place for each test and each Python, with files that are old enough for the store."""

    @classmethod
    def setUpClass(cls):
        cls.places = {}
        for name in unittest.TestLoader().getTestCaseNames(cls):
            for python in PYTHONS.values():
                place = Place(python, cls.files())
                cls.places[name, python] = place
                cls.addClassCleanup(shutil.rmtree, place.directory)
                cls.prepare(place)
        time.sleep(SETTLED)

    @classmethod
    def files(cls):
        return THING_FILES

    @classmethod
    def prepare(cls, place):
        """More than the files."""

    def place(self, python):
        return self.places[self._testMethodName, python]


class SameAnswersTest(Settled):
    @classmethod
    def files(cls):
        return dict(ZOO_FILES, **{'app.py': ZOO})

    @classmethod
    def prepare(cls, place):
        os.symlink('linked_to.py', place.site + '/linked.py')
        os.symlink('package', place.site + '/linked_package')
        with zipfile.ZipFile(place.site + '/zipped.zip', 'w') as file:
            file.writestr('zipped.py', 'x = 1\n')
        compiled = 'import py_compile, sys; py_compile.compile(sys.argv[1], cfile=sys.argv[1] + "c")'
        subprocess.run([place.python, '-c', compiled, place.site + '/bare.py'], check=True, timeout=60)
        os.unlink(place.site + '/bare.py')

    @each_python
    def test_what_is_imported_is_the_same(self, python):
        """As Python alone: modules, specs, loaders, tracebacks, resources. With the listings, then with the store too."""
        self.maxDiff = None
        place = self.place(python)
        expected = place.plain('print(app.tell_all())').strip()
        self.assertIn('ValueError: told', expected)
        self.assertEqual(place.answer(self), expected)
        self.assertEqual(len(place.stores()), 1)
        self.assertEqual(place.answer(self), expected)


class GoesLiveTest(Settled):
    """What has changed since the store was written: the old value before, the new one after."""

    def change(self, python, before, after, action):
        place = self.place(python)
        self.assertEqual(place.answer(self), before)
        self.assertEqual(len(place.stores()), 1)
        self.assertEqual(place.answer(self), before)
        action(place.site)
        self.assertEqual(place.answer(self), after)

    @each_python
    def test_a_changed_module(self, python):
        def action(site):
            write(site, {'second/thing.py': "x = 'new'\n"})

        self.change(python, OLD, "('new', '/second/thing.py')", action)

    @each_python
    def test_a_module_replaced_by_one_of_the_same_size_and_time(self, python):
        def action(site):
            """Without its bytecode: Python would believe that."""
            times = os.stat(site + '/second/thing.py')
            write(site, {'second/upload': "x = 'new'\n"})
            os.utime(site + '/second/upload', ns=(times.st_atime_ns, times.st_mtime_ns))
            os.rename(site + '/second/upload', site + '/second/thing.py')
            shutil.rmtree(site + '/second/__pycache__')

        self.change(python, OLD, "('new', '/second/thing.py')", action)

    @each_python
    def test_a_module_that_vanishes_and_one_that_appears(self, python):
        def action(site):
            os.unlink(site + '/second/thing.py')

        self.change(python, OLD, "(None, '')", action)
        place = self.place(python)
        write(place.site, {'second/thing.py': "x = 'new'\n"})
        self.assertEqual(place.answer(self), "('new', '/second/thing.py')")

    @each_python
    def test_a_module_earlier_on_the_path(self, python):
        def action(site):
            write(site, {'first/thing.py': "x = 'new'\n"})

        self.change(python, OLD, "('new', '/first/thing.py')", action)

    @each_python
    def test_a_package_beside_the_module(self, python):
        def action(site):
            write(site, {'second/thing/__init__.py': "x = 'new'\n"})

        self.change(python, OLD, "('new', '/second/thing/__init__.py')", action)


class MadeByTheImportTest(unittest.TestCase):
    @each_python
    def test_files_made_by_the_import_are_found(self, python):
        """In directories that were listed before. One goes before a module of Python's, after a word to importlib."""
        app = """
            import importlib, os, sys, time, early

            def make(name, text):
                time.sleep(0.05)  # Python itself misses what is made within one tick of a directory's clock
                with open(os.path.dirname(__file__) + name, 'w') as file:
                    file.write(text)

            make('/made.py', 'x = 1')
            import made
            time.sleep(0.05)
            os.mkdir(os.path.dirname(__file__) + '/made_package')
            make('/made_package/__init__.py', 'x = 2')
            import made_package
            make('/made_package/inner.py', 'x = 3')
            import made_package.inner
            make('/json.py', 'x = 4')
            importlib.invalidate_caches()
            sys.modules.pop('json', None)
            import json
            """
        app = app_of('made.x, made_package.x, made_package.inner.x, json.x', textwrap.dedent(app))
        place = Place(python, {'early.py': '', 'app.py': app})
        self.addCleanup(shutil.rmtree, place.directory)
        self.assertEqual(place.answer(self), '(1, 2, 3, 4)')


class StoreTest(Settled):
    @each_python
    def test_a_store_that_is_not_whole_or_not_ours(self, python):
        place = self.place(python)
        self.assertEqual(place.answer(self), OLD)
        (path,) = place.stores()
        self.assertEqual((os.stat(path).st_mode & 0o777, os.stat(os.path.dirname(path)).st_mode & 0o777), (0o600, 0o700))
        with open(path, 'rb') as file:
            good = file.read()
        for bad in (b'', good[:-1], b'\0' * len(good)):
            with open(path, 'wb') as file:
                file.write(bad)
            self.assertEqual(place.answer(self), OLD)
            with open(path, 'rb') as file:
                self.assertEqual(len(file.read()), len(good))
        with open(path, 'wb') as file:
            file.write(good.replace(b'old', b'bad'))
        self.assertEqual(place.answer(self), OLD.replace('old', 'bad'))  # so that we know what comes from it
        os.chmod(path, 0o620)  # somebody else may have written it
        self.assertEqual(place.answer(self), OLD)

    @each_python
    def test_no_store_without_bytecode(self, python):
        place = self.place(python)
        place.environ['PYTHONDONTWRITEBYTECODE'] = '1'
        self.assertEqual(place.answer(self), OLD)
        self.assertEqual(os.listdir(place.home), [])

    @each_python
    def test_no_store_of_an_import_that_fails(self, python):
        place = self.place(python)
        write(place.site, {'app.py': THING + 'nothing\n'})
        self.assertEqual(place.start(self).process.wait(TIMEOUT), 1)
        self.assertEqual(place.stores(), [])

    @each_python
    def test_the_preloader_has_it_and_few_others_stay(self, python):
        place = self.place(python)
        directory = place.home + '/.cache/runfcgi/imports'
        write(directory, {'old{:02}'.format(number): '' for number in range(20)})
        for number in range(20):
            os.utime('{}/old{:02}'.format(directory, number), (number, number))
        preloader = place.start(self, Preloader)
        self.assertEqual(preloader.hello()[0], b'r')
        left = sorted(os.path.basename(path) for path in place.stores())
        self.assertEqual([name for name in left if 'old' in name], ['old{:02}'.format(n) for n in range(5, 20)])
        self.assertEqual(len(left), 16)


class OperationsTest(Settled):
    """How many file operations an import takes, of those that take a round trip to a file server."""

    @classmethod
    def setUpClass(cls):
        directory = tempfile.mkdtemp(prefix='bridge-slow-')
        cls.addClassCleanup(shutil.rmtree, directory)
        cls.counter = directory + '/slow_files.so'
        source = os.path.join(HERE, 'bench', 'apps', 'slow_files.c')
        subprocess.run(['gcc', '-O2', '-Wall', '-shared', '-fPIC', '-o', cls.counter, source, '-ldl'], check=True)
        super().setUpClass()

    @classmethod
    def files(cls):
        """100 modules in 20 packages, in another directory than the application."""
        names = ['p{}.m{}'.format(package, number) for package in range(20) for number in range(5)]
        imports = 'import os, sys\nsys.path.append(os.environ["SITE"] + "/libraries")\nimport {}\n'.format(', '.join(names))
        files = {'libraries/{}.py'.format(name.replace('.', '/')): 'x = 1' for name in names}
        files.update({'libraries/p{}/__init__.py'.format(package): 'x = 1' for package in range(20)})
        return dict(files, **{'app.py': app_of('1', imports)})

    @classmethod
    def prepare(cls, place):
        place.environ.update(SLOW_PATHS=place.site, SLOW_COUNTS=place.home + '/counts')

    def count(self, place, action):
        """The operations by kind."""
        action()
        with open(place.home + '/counts', 'r+b') as file:
            counts = dict(zip(KINDS, struct.unpack('5Q', file.read(40))))
            file.seek(0)
            file.write(bytes(40))
        return counts

    @each_python
    def test_an_import_takes_a_third_of_them(self, python):
        """First without the store, then with it."""
        place = self.place(python)
        place.plain()  # compiles
        place.environ['LD_PRELOAD'] = self.counter
        plain = self.count(place, place.plain)
        listed = self.count(place, lambda: place.answer(self))
        stored = self.count(place, lambda: place.answer(self))
        told = 'Python alone {}, without the store {}, with it {}'.format(plain, listed, stored)
        self.assertGreater(sum(plain.values()), 700, told)
        self.assertLess(sum(listed.values()), 0.65 * sum(plain.values()), told)
        self.assertLess(sum(stored.values()), 0.33 * sum(plain.values()), told)
        self.assertEqual((stored['open'], stored['read']), (0, 0), told)

    def test_a_site_of_django_with_its_admin_takes_a_third_of_them(self):
        """The README says so. Python alone loads the application and the URLs; ours warms more than that."""
        place = self.place(PYTHONS[min(PYTHONS)])
        place.python = sys.executable
        shutil.rmtree(place.site)
        shutil.copytree(os.path.join(HERE, 'apps', 'djangosite'), place.site)
        write(place.site, {'app.py': 'from myproject.wsgi import application as app\n'})
        urls = 'from django.urls import get_resolver; get_resolver()._populate()'
        place.environ.update(DJANGO_SETTINGS_MODULE='myproject.settings', SLOW_PATHS=place.site + ':' + sys.prefix)
        time.sleep(SETTLED)
        place.plain(urls)
        place.environ['LD_PRELOAD'] = self.counter
        plain = self.count(place, lambda: place.plain(urls))
        self.count(place, lambda: place.start(self).started().end())
        stored = self.count(place, lambda: place.start(self).started().end())
        told = 'Python alone {}, ours {}'.format(plain, stored)
        self.assertGreater(sum(plain.values()), 2000, told)
        self.assertLess(sum(stored.values()), 0.4 * sum(plain.values()), told)

    @each_python
    def test_bytecode_that_cannot_be_written_is_in_the_store(self, python):
        place = self.place(python)
        for package in range(20):
            write(place.site, {'libraries/p{}/__pycache__'.format(package): ''})
        place.environ['LD_PRELOAD'] = self.counter
        self.assertGreater(self.count(place, lambda: place.answer(self))['read'], 120)
        self.assertEqual(self.count(place, lambda: place.answer(self))['read'], 0)
