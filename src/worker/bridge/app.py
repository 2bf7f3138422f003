# Loading the application.


def load_app(settings):
    """Imports the WSGI callable that the configuration names, or else the one of the Django settings."""
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
        raise RuntimeError('no application is named: set `wsgi` ("module:callable") or the Django `settings` module')
    if not callable(app):
        raise TypeError('{} names no callable, but a {}'.format(settings.get('wsgi') or 'WSGI_APPLICATION', type(app)))
    return app


def load_django_app():
    """The callable that settings.WSGI_APPLICATION names, or Django's own."""
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    path = getattr(settings, 'WSGI_APPLICATION', None)
    if not path:
        return get_wsgi_application()
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


def django_settings():
    """Django's settings when the application uses them."""
    conf = sys.modules.get('django.conf')
    return conf.settings if conf is not None and conf.settings.configured else None


def attempt(what, action):
    """Does something that helps but must not fail."""
    try:
        return action()
    except BaseException:
        log('runfcgi: {} failed; the application is served all the same\n{}'.format(what, describe_exception()))
