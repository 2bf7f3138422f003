"""A good request pays nothing for the report of failures: with the real frameworks, none of that code runs in it."""

import ast
import sys
import unittest

from bridge import Worker

REPORTS = tuple('<runfcgi>/{}.py'.format(name) for name in ('failures', 'frameworks', 'hints'))
DJANGO = """
    import django
    from django.conf import settings
    settings.configure(ALLOWED_HOSTS=['*'], ROOT_URLCONF='app', SECRET_KEY='x', LOGGING_CONFIG=None)
    django.setup()
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    def good(request):
        return HttpResponse('good')

    def bad(request):
        raise ValueError('bad')

    urlpatterns = [path('good', good), path('bad', bad)]
    site = get_wsgi_application()
"""
FLASK = """
    from flask import Flask
    site = Flask('site')

    @site.route('/good')
    def good():
        return 'good'

    @site.route('/bad')
    def bad():
        raise ValueError('bad')
"""
CHERRYPY = """
    import cherrypy

    class Site:
        @cherrypy.expose
        def good(self):
            return 'good'

        @cherrypy.expose
        def bad(self):
            raise ValueError('bad')

    cherrypy.config.update({'environment': 'embedded'})
    site = cherrypy.tree.mount(Site(), '')
"""
PYRAMID = """
    from pyramid.config import Configurator
    from pyramid.response import Response

    def good(request):
        return Response('good')

    def bad(request):
        raise ValueError('bad')

    def sorry(error, request):
        return Response('sorry', status=500)

    with Configurator() as config:
        for view in (good, bad):
            config.add_route(view.__name__, '/' + view.__name__)
            config.add_view(view, route_name=view.__name__)
        config.add_exception_view(sorry, context=ValueError)
        site = config.make_wsgi_app()
"""
FRAMEWORKS = {'Django': DJANGO, 'Flask': FLASK, 'CherryPy': CHERRYPY, 'Pyramid': PYRAMID}
# `/watch` is the last request that nobody watches, and `/seen` ends it.
WATCHED = """
    import sys

    RUNS, MODULES = [], set()

    def watch(frame, event, argument):
        if event == 'call':
            RUNS.append((frame.f_code.co_filename, frame.f_code.co_name))

    def app(environ, start_response):
        if environ['PATH_INFO'] not in ('/watch', '/seen'):
            return site(environ, start_response)
        sys.setprofile(None)
        seen = repr((RUNS, sorted(set(sys.modules) - MODULES)))
        start_response('200 OK', [])
        if environ['PATH_INFO'] == '/watch':
            RUNS.clear()
            MODULES.update(sys.modules)
            sys.setprofile(watch)
        return [seen.encode()]
"""
STATE = """
    import logging, sys
    from django.core import signals

    def state():
        found = {name: str(getattr(signals, name).receivers) for name in vars(signals) if name.startswith(('req', 'got', 'set'))}
        for name in [None, *logging.root.manager.loggerDict]:
            logger = logging.getLogger(name)
            found[logger.name] = str([logger.level, logger.propagate, logger.handlers, logger.filters])
        found['MIDDLEWARE'] = str([settings.MIDDLEWARE, site._middleware_chain])
        found['modules'] = str(sorted(sys.modules))
        found['hooks'] = str([sys.excepthook, sys.displayhook, sys.gettrace(), sys.meta_path])
        return found

    def watch(frame, event, argument):
        if (frame.f_code.co_filename, frame.f_code.co_name) == ('<runfcgi>/frameworks.py', 'connect'):
            STATES.append(state())

    STATES = []
    sys.setprofile(watch)

    def app(environ, start_response):
        before, after = STATES[0], STATES[-1]
        start_response('200 OK', [])
        return [repr(sorted(name for name in after if after[name] != before.get(name))).encode()]
"""


class GoodRequestTest(unittest.TestCase):
    def watch(self, worker, path):
        """What runs while the worker answers: (file, function) of each call, and the modules that are imported."""
        worker.ask(PATH_INFO='/watch')
        answer = worker.ask(PATH_INFO=path)
        runs, imported = ast.literal_eval(worker.ask(PATH_INFO='/seen').body.decode())
        return answer, runs, imported

    def test_no_code_of_the_report_runs_in_a_good_request(self):
        for name, framework in FRAMEWORKS.items():
            with self.subTest(name):
                worker = Worker(self, sys.executable, framework + WATCHED).started()
                worker.ask(PATH_INFO='/good')  # the first is free to import what the framework puts off
                answer, runs, imported = self.watch(worker, '/good')
                self.assertEqual((answer.status, answer.body), ('200 OK', b'good'))
                self.assertIn((worker.folder + '/app.py', 'good'), runs)
                self.assertIn(('<runfcgi>/request.py', 'start_response'), runs)
                self.assertEqual([run for run in runs if run[0] in REPORTS], [])
                self.assertEqual(imported, [])

                answer, runs, _ = self.watch(worker, '/bad')
                self.assertEqual(answer.told(b'C').get('summary'), 'ValueError: bad')
                self.assertTrue([run for run in runs if run[0] in REPORTS], 'this watch sees the report of a failure')

    def test_nothing_is_imported_or_changed_but_who_is_told_of_failures(self):
        worker = Worker(self, sys.executable, DJANGO + STATE).started()
        changed = ast.literal_eval(worker.ask().body.decode())
        self.assertEqual(changed, ['django.security.DisallowedHost', 'got_request_exception'])
