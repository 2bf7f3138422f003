"""Tests of exceptions that the application lets out, or catches itself, on every interpreter found (see bridge.py)."""

import unittest

from bridge import Worker, each_python


class CaughtTest(unittest.TestCase):
    @each_python
    def test_what_escapes_is_told_with_its_place(self, python):
        app = """
        import json
        def app(environ, start_response):
            return json.loads('{')
        """
        answer = Worker(self, python, app).started().ask()
        error = answer.told(b'X')
        self.assertEqual(answer.order, 'XE')
        self.assertTrue(error['kind'].endswith('Error'), error)
        self.assertTrue(error['summary'].startswith(error['kind'] + ': Expecting'), error)
        self.assertEqual(error['place'], 'app.py:4 in app')
        self.assertIn('Traceback', error['traceback'])
        self.assertNotIn('<runfcgi>', error['traceback'])

    @each_python
    def test_an_exception_that_cannot_be_shown(self, python):
        app = """
        class Odd(Exception):
            def __str__(self):
                raise ValueError('not even that')
        class Nul(Exception):
            pass
        def app(environ, start_response):
            raise Odd() if environ['PATH_INFO'] == '/odd' else Nul('a\\0b\\nc' + 'x' * 100000)
        """
        worker = Worker(self, python, app).started()
        self.assertEqual(worker.ask(PATH_INFO='/odd').told(b'X')['kind'], 'Odd')
        error = worker.ask(PATH_INFO='/').told(b'X')
        self.assertEqual(error['summary'], 'Nul: ab')
        self.assertLess(len(error['traceback']), 70000)

    @each_python
    def test_exc_info_is_told_before_the_head(self, python):
        app = """
        import sys
        def app(environ, start_response):
            try:
                {}['apple']
            except KeyError:
                start_response('500 Oh no', [], sys.exc_info())
            return [b'caught']
        """
        answer = Worker(self, python, app).started().ask()
        self.assertEqual((answer.order, answer.status), ('CHDE', '500 Oh no'))
        error = answer.told(b'C')
        self.assertEqual((error['summary'], error['place']), ("KeyError: 'apple'", 'app.py:5 in app'))

    @each_python
    def test_an_exception_in_the_middle_of_a_response(self, python):
        app = """
        def app(environ, start_response):
            start_response('200 OK', [])
            yield b'one'
            raise ValueError('no second')
        """
        answer = Worker(self, python, app).started().ask()
        self.assertEqual(answer.order, 'HDXE')
        self.assertEqual(answer.told(b'X')['summary'], 'ValueError: no second')
        self.assertTrue(answer.truncated)

    @each_python
    def test_packages_beside_the_code_are_not_the_owners(self, python):
        app = """
        import os, sys
        here = os.path.dirname(__file__)
        os.mkdir(os.path.join(here, 'fruit-1.0.dist-info'))
        with open(os.path.join(here, 'fruit-1.0.dist-info', 'RECORD'), 'w') as record:
            record.write('fruit.py,,')
        with open(os.path.join(here, 'fruit.py'), 'w') as fruit:
            fruit.write('def weigh(prices): return prices["apple"]')
        import fruit
        def app(environ, start_response):
            fruit.weigh({})
        """
        answer = Worker(self, python, app).started().ask()
        self.assertEqual(answer.told(b'X')['place'], 'app.py:11 in app')

    @each_python
    def test_nothing_is_imported_for_it(self, python):
        app = """
        import sys
        def app(environ, start_response):
            start_response('200 OK', [])
            names = ('django', 'flask', 'blinker', 'logging')
            return [' '.join(name for name in names if name in sys.modules).encode()]
        """
        self.assertEqual(Worker(self, python, app).started().ask().body, b'')

    @each_python
    def test_signals_of_frameworks(self, python):
        """Played: what Django and Flask call, in the way they call it."""
        app = """
        import logging, sys, types
        class Signal:
            def connect(self, receiver, weak=True, dispatch_uid=None):
                assert weak is False
                self.receiver = receiver
        django, flask = types.ModuleType('django.core.signals'), types.ModuleType('flask.signals')
        django.got_request_exception, flask.got_request_exception = Signal(), Signal()
        sys.modules.update({'django.core.signals': django, 'flask.signals': flask})
        def app(environ, start_response):
            try:
                {}['apple']
            except KeyError as error:
                if environ['PATH_INFO'] == '/django':
                    django.got_request_exception.receiver(signal=django, sender=None, request=None)
                if environ['PATH_INFO'] == '/flask':
                    flask.got_request_exception.receiver(app, exception=error)
            if environ['PATH_INFO'] == '/host':
                text = "Invalid HTTP_HOST header: 'a.example'. You may need to add 'a.example' to ALLOWED_HOSTS."
                logging.getLogger('django.security.DisallowedHost').error(text)
            start_response('400 Bad Request', [])
            return []
        """
        worker = Worker(self, python, app, settings='shop.settings', wsgi='app:app').started()
        for path in ('/django', '/flask'):
            answer = worker.ask(PATH_INFO=path)
            self.assertEqual(answer.order, 'CHE')
            self.assertEqual(answer.told(b'C')['place'], 'app.py:12 in app')
        answer = worker.ask(PATH_INFO='/host')
        host = answer.told(b'C')
        self.assertEqual(host['kind'], 'DisallowedHost')
        self.assertEqual(host['summary'], 'the host a.example is not in ALLOWED_HOSTS of shop.settings')
        # Its handler of last resort says what it says without us.
        self.assertIn('Invalid HTTP_HOST header', answer.log)

    @each_python
    def test_a_traceback_that_is_logged_is_told_with_a_500(self, python):
        """What frameworks do that catch everything and have no signal: Bottle, Falcon, and code with `logging`."""
        app = """
        import logging, sys, traceback
        def app(environ, start_response):
            path = environ['PATH_INFO']
            try:
                {}[path]
            except KeyError:
                if path == '/logging':
                    logging.getLogger('shop').exception('it failed')
                elif path == '/errors':
                    environ['wsgi.errors'].write(traceback.format_exc())
                elif path != '/silent':
                    traceback.print_exc()
            if path == '/twice':
                start_response('500 Oh no', [], (ValueError, ValueError('told'), None))
            else:
                start_response('200 OK' if path == '/fine' else '503 Later', [])
            return []
        """
        worker = Worker(self, python, app).started()
        for path in ('/logging', '/errors', '/print'):
            answer = worker.ask(PATH_INFO=path)
            error = answer.told(b'C')
            self.assertEqual((error['summary'], error['place']), ("KeyError: '{}'".format(path), 'app.py:6 in app'))
            self.assertIn('Traceback', error['traceback'])
            self.assertIn('Traceback', answer.log)
        for path in ('/fine', '/silent'):
            self.assertNotIn('C', worker.ask(PATH_INFO=path).order)
        answer = worker.ask(PATH_INFO='/twice')
        self.assertEqual((answer.order.count('C'), answer.told(b'C')['summary']), (1, 'ValueError: told'))

    @each_python
    def test_a_500_comes_after_what_was_written_of_it(self, python):
        app = """
        import traceback
        def app(environ, start_response):
            try:
                {}['apple']
            except KeyError:
                environ['wsgi.errors'].write(traceback.format_exc().rstrip())
            start_response(environ['PATH_INFO'][1:], [])
            return iter([b'sorry', b'for that'])
        """
        worker = Worker(self, python, app).started()
        for status, order in (('500 Oh no', 'LLCHDDE'), ('200 OK', 'LHDDLE')):
            answer = worker.ask(PATH_INFO='/' + status)
            self.assertEqual((answer.order, answer.log.splitlines()[-1]), (order, "KeyError: 'apple'"))


if __name__ == '__main__':
    unittest.main()
