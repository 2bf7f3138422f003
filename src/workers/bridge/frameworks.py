"""Reports exceptions that a framework catches to the front, by way of the framework's own signals and logging.

Imports nothing and changes nothing for the application: only frameworks that it has imported are connected to. Those
that pass `exc_info` to start_response, as PEP 3333 recommends, need none of this (Bottle since 0.13), and neither do
those that log the traceback and answer with a 5xx (Falcon, older Bottle): `output` notes it. What an error handler of
the owner's own takes and does not log is reported by CherryPy and Pyramid only; the others tell nobody of it."""

import os
import re
import sys

from .failures import SETTINGS, describe_error, encode_error
from .output import LOCAL, attempt, current_sink

NOT_ALLOWED = re.compile("You may need to add u?'([^']*)' to ALLOWED_HOSTS")


def connect(settings):
    """Connects to the signals of the frameworks that the application has imported."""
    SETTINGS.update(settings)
    attempt('listening to Django', connect_django)
    attempt('listening to Flask', connect_flask)
    attempt('listening to CherryPy', connect_cherrypy)
    attempt('listening to Pyramid', connect_pyramid)


def connect_django():
    signals = sys.modules.get('django.core.signals')
    if signals is None:
        return
    signals.got_request_exception.connect(on_django, weak=False, dispatch_uid='runfcgi')
    # A filter sees every record without changing the handlers, of which there may be only the one of last resort.
    sys.modules['logging'].getLogger('django.security.DisallowedHost').addFilter(on_disallowed_host)


def connect_flask():
    signals = sys.modules.get('flask.signals')
    if signals is not None and getattr(signals, 'signals_available', True):
        signals.got_request_exception.connect(on_flask, weak=False)


def connect_cherrypy():
    request = sys.modules.get('cherrypy._cprequest')
    if request is not None:
        request.Request.hooks.attach('before_error_response', on_cherrypy)


def connect_pyramid():
    """A subscriber to its events would cost every request something. This method is used after exceptions only."""
    view = sys.modules.get('pyramid.view')
    if view is not None:
        mixin = view.ViewMethodsMixin
        mixin.invoke_exception_view = Watched(mixin.invoke_exception_view)


class Watched:
    """A method; looking it up notes the exception that is being handled. Tracebacks show no frame of ours."""

    def __init__(self, method):
        self.method = method

    def __get__(self, instance, owner=None):
        if instance is not None:
            note(sys.exc_info()[1])
        return self.method.__get__(instance, owner)


def on_django(**_named):
    report(sys.exc_info()[1])


def on_flask(_sender, exception=None, **_named):
    report(exception)


def on_cherrypy():
    note(sys.exc_info()[1])


def on_disallowed_host(record):
    """A logging filter that keeps every record."""
    try:
        text = record.getMessage()
        module = os.environ.get('DJANGO_SETTINGS_MODULE', 'the settings')
        host = NOT_ALLOWED.search(text)
        if host:
            text = 'the host {} is not in ALLOWED_HOSTS of {}'.format(host.group(1), module)
        send(encode_error('DisallowedHost' if host else 'InvalidHost', text))
    except Exception:
        pass
    return True


def report(error):
    """Reports an exception that was caught during a request to the front."""
    try:
        if error is not None:
            send(describe_error(error))
    except Exception:
        pass


def note(error):
    """Reports an exception if the response turns out to be a 5xx."""
    current_sink().note(error)


def send(payload):
    caught = getattr(getattr(LOCAL, 'sink', None), 'caught', None)
    if caught is not None:
        caught(payload)
