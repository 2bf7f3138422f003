"""Loading the application."""

import errno
import faulthandler
import importlib
import os
import signal
import stat
import sys

from .output import attempt

CO_COROUTINE, CO_ASYNC_GENERATOR = 0x80, 0x200  # of code objects


class NoApplication(Exception):
    """What the configuration names is not a WSGI application; the text says why and what to do."""


def prepare(settings):
    """Sets up the process as an application expects it."""
    faulthandler.enable()
    if hasattr(faulthandler, 'register'):  # the front's way to ask where a slow request is
        faulthandler.register(signal.SIGUSR2, all_threads=True)
    if not os.environ.get('HOME'):
        attempt('finding the home directory', set_home)
    app_path = settings['app_path']
    sys.path[:] = [app_path] + [path for path in sys.path if path not in ('', app_path)]
    sys.argv = ['runfcgi']
    if settings.get('pycache') == '1' and sys.version_info >= (3, 8) and not os.access(app_path, os.W_OK):
        sys.pycache_prefix = own_cache('pycache') or sys.pycache_prefix


def set_home():
    import pwd

    os.environ['HOME'] = pwd.getpwuid(os.geteuid()).pw_dir


def own_cache(name):
    """A directory for bytecode that only we can write to, or None."""
    shared = '/var/tmp/runfcgi-{}'.format(os.geteuid())
    for base in (os.path.expanduser('~/.cache/runfcgi'), shared):
        path = os.path.join(base, name)
        if not os.path.isabs(path):
            continue
        try:
            if base == shared:
                own_directory(base)
            os.makedirs(base, 0o700, exist_ok=True)
            own_directory(path)
            return path
        except OSError:
            continue
    return None


def own_directory(path):
    """Makes a directory, or checks that only we can write to it; OSError if not."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(errno.EPERM, 'not a directory of our own', path)


def load_app(settings):
    """Imports the WSGI callable that the configuration names, or the one of the Django settings."""
    if settings.get('settings'):
        os.environ['DJANGO_SETTINGS_MODULE'] = settings['settings']
    if settings.get('wsgi'):
        module, _, path = settings['wsgi'].partition(':')
        app = importlib.import_module(module)
        for name in (path or 'application').split('.'):
            app = getattr(app, name)
    elif settings.get('settings'):
        app = load_django_app()
    else:
        raise NoApplication('no application is named: set wsgi ("module:callable") or settings below [app]')
    named = '[app] wsgi = "{}"'.format(settings['wsgi']) if settings.get('wsgi') else 'WSGI_APPLICATION in settings.py'
    if is_asgi(app):
        said = '{} is an ASGI application; runfcgi serves WSGI: name the WSGI callable'.format(named)
        if '.asgi' in named:
            raise NoApplication('{}, "{}"'.format(said, settings['wsgi'].replace('.asgi', '.wsgi')))
        raise NoApplication(said + ', or wrap this one (a2wsgi.ASGIMiddleware does)')
    if not callable(app):
        raise NoApplication('{} is not callable: it is a {}'.format(named, type(app)))
    return app


def is_asgi(app):
    """Whether calling it returns a coroutine, which no WSGI application does."""
    codes = [getattr(call, '__code__', None) for call in (app, getattr(type(app), '__call__', None))]
    return any(getattr(code, 'co_flags', 0) & (CO_COROUTINE | CO_ASYNC_GENERATOR) for code in codes)


def load_django_app():
    """The callable that settings.WSGI_APPLICATION names, else Django's own."""
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    path = getattr(settings, 'WSGI_APPLICATION', None)
    if not path:
        return get_wsgi_application()
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


def django_settings():
    """Django's settings, if the application uses them."""
    conf = sys.modules.get('django.conf')
    return conf.settings if conf is not None and conf.settings.configured else None
