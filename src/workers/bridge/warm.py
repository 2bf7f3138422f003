"""Warming: loads, before the fork, what workers would otherwise each load on their first request, so that they share
it. Has no side effects, except for a request that the owner has configured."""

import gc
import io
import sys

from .app import django_settings
from .opened import release_connections
from .output import attempt, log
from .request import base_environ


def warm_up(app, settings):
    """Loads what the first request would load. A URLconf that can't be imported is an error of the site: no request
    could be served."""
    django = django_settings()
    if django is None:
        warm_app(app, settings, None)
    else:
        prefix = Prefix(django, settings.get('script_name'))
        attempt('loading the translations', warm_translations)
        prefix.warm_urls()
        attempt('loading the template engines', warm_templates)
        attempt('warming the middleware', lambda: warm_middleware(django))
        warm_app(app, settings, django)
        prefix.forget()
    release_connections()


def share_memory():
    """Prepares what is loaded for being shared with workers. What is made afterwards is not."""
    gc.collect()
    if hasattr(gc, 'freeze'):
        gc.freeze()  # these objects stay for good, and a collection in a fork would copy their pages
    fill_holes()


def warm_app(app, settings, django):
    if settings.get('warm'):
        attempt('the warming request', lambda: warm_request(app, settings, django))


class Prefix:
    """The script prefix during warming. Django puts it before a relative STATIC_URL and MEDIA_URL when they are first
    read, and caches the result. We know it only if it is configured; if not, what was cached without it is dropped."""

    def __init__(self, django, known):
        from django.urls import set_script_prefix

        self.django = django
        self.relative = [] if known else [name for name in ('STATIC_URL', 'MEDIA_URL') if self.is_relative(name)]
        self.before, self.modules = self.made(), set(sys.modules)
        self.is_in_urls = False
        if known:
            set_script_prefix(known)

    def is_relative(self, name):
        url = getattr(self.django._wrapped, name, None)
        return bool(url) and not str(url).startswith(('/', 'http://', 'https://'))

    def made(self):
        return {name for name in self.relative if name in self.django.__dict__}

    def warm_urls(self):
        warm_urls()
        self.is_in_urls = bool(self.made() - self.before)

    def forget(self):
        """Drops the cached URLs. A URLconf that has read them is imported again by the first request."""
        for name in self.made() - self.before:
            del self.django.__dict__[name]
            attempt('forgetting the storages', forget_storages)
        if self.is_in_urls:
            from django.urls import clear_url_caches

            for name in set(sys.modules) - self.modules:
                if hasattr(sys.modules[name], 'urlpatterns'):
                    del sys.modules[name]
            clear_url_caches()


def forget_storages():
    """Drops the storages, which have cached their URL; each worker makes its own."""
    from django.utils.functional import empty

    files, static = sys.modules.get('django.core.files.storage'), sys.modules.get('django.contrib.staticfiles.storage')
    if files is not None:
        getattr(getattr(files, 'storages', None), '_storages', {}).clear()
        files.default_storage._wrapped = empty
    if static is not None:
        static.staticfiles_storage._wrapped = empty


def warm_translations():
    from django.conf import settings
    from django.utils import translation

    translation.activate(settings.LANGUAGE_CODE)
    translation.gettext('')


def warm_urls():
    from django.conf import settings
    from django.urls import get_resolver

    def populate(resolver):
        for pattern in resolver.url_patterns:
            if hasattr(pattern, 'url_patterns'):
                populate(pattern)

    if getattr(settings, 'ROOT_URLCONF', None):
        resolver = get_resolver()
        populate(resolver)
        resolver._populate()


def warm_templates():
    from django.template import engines
    from django.utils.formats import get_format

    for backend in engines.all():
        engine = getattr(backend, 'engine', None)  # only Django's own have these cached properties
        getattr(engine, 'template_loaders', None)
        getattr(engine, 'template_context_processors', None)
    get_format('DATE_FORMAT')


# Django's own middleware that keeps nothing and uses neither database nor cache for a visitor without cookies.
SESSIONS = 'django.contrib.sessions.middleware.SessionMiddleware'
QUIET_MIDDLEWARE = {SESSIONS}.union(
    'django.' + name
    for name in (
        'middleware.security.SecurityMiddleware',
        'middleware.locale.LocaleMiddleware',
        'middleware.common.CommonMiddleware',
        'middleware.csrf.CsrfViewMiddleware',
        'middleware.clickjacking.XFrameOptionsMiddleware',
        'middleware.http.ConditionalGetMiddleware',
        'middleware.gzip.GZipMiddleware',
        'contrib.auth.middleware.AuthenticationMiddleware',
        'contrib.messages.middleware.MessageMiddleware',
    )
)
WARM_TEMPLATE = (
    '{% block a %}{% for n in rows %}{% if forloop.first %}{{ n|default:"-" }}{% else %}<p class="{% cycle 1 2 %}" '
    'title="{{ n.x|escape }}">{{ n|capfirst|upper }}{% endif %}{% empty %}-{% endfor %}{% endblock %}'
    '{% with m=rows.0 %}{{ m|date }}{{ rows|length }}{{ rows|join:" " }}{% endwith %}{% url "runfcgi" 1 %}'
    '{% if rows|length > 2 and request.path %}{{ request.path|lower }}{% endif %}'
)
WARM_ROUNDS = 10  # CPython 3.11 and later specialize bytecode after some eight calls


def warm_middleware(django):
    """Serves a small page through those of the site's middleware that have no side effects. That specializes bytecode
    and fills caches once, in memory that the workers share."""
    import logging

    from django.core.handlers.base import BaseHandler
    from django.core.handlers.wsgi import WSGIRequest
    from django.db.transaction import non_atomic_requests
    from django.http import HttpResponse
    from django.template import Engine, RequestContext
    from django.urls import re_path, set_urlconf

    engine = Engine(context_processors=['django.template.context_processors.request'])

    def page(request, number):
        template = engine.from_string(WARM_TEMPLATE)
        return HttpResponse(template.render(RequestContext(request, {'rows': [number, 'a', None]})))

    for alias in django.DATABASES:
        page = non_atomic_requests(using=alias)(page)
    urlconf = (re_path('^runfcgi/([0-9]+)/$', page, name='runfcgi'),)
    middleware = django.MIDDLEWARE
    handler = BaseHandler()
    # Django must not report a failure here, say by mail to the administrators.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        django.MIDDLEWARE = quiet_middleware(django)
        handler.load_middleware()
        for _ in range(WARM_ROUNDS if warm_host(django) else 0):
            request = WSGIRequest(warm_environ({}, django, '/runfcgi/1/'))
            request.urlconf = urlconf
            response = handler.get_response(request)
            b''.join(response)
            if response.status_code != 200:
                break
    finally:
        django.MIDDLEWARE = middleware
        logging.disable(disabled)
        set_urlconf(None)


def quiet_middleware(django):
    """The quiet ones of the site's middleware; contrib ones only if the session and message stores are Django's own."""
    stores = (getattr(django, 'SESSION_ENGINE', ''), getattr(django, 'MESSAGE_STORAGE', ''))
    quiet = [name for name in django.MIDDLEWARE if name in QUIET_MIDDLEWARE]
    if SESSIONS in quiet and all(store.startswith('django.') for store in stores):
        return quiet
    return [name for name in quiet if not name.startswith('django.contrib.')]


def warm_host(django):
    """A host name that the site accepts; None if there is none."""
    from django.http.request import validate_host

    allowed = django.ALLOWED_HOSTS or (['localhost'] if django.DEBUG else [])
    for pattern in allowed:
        host = 'localhost' if pattern == '*' else pattern.lstrip('.')
        if validate_host(host, allowed):
            return host
    return None


def warm_environ(settings, django, uri):
    """The environ of a GET by a visitor without cookies, to a host that Django accepts."""
    host = django and warm_host(django) or 'localhost'
    path, _, query = uri.partition('?')
    environ = base_environ(settings)
    environ.update(
        REQUEST_METHOD='GET', SCRIPT_NAME='', PATH_INFO=path, QUERY_STRING=query, REQUEST_URI=uri,
        SERVER_NAME=host, SERVER_PORT='80', SERVER_PROTOCOL='HTTP/1.1', HTTP_HOST=host, REMOTE_ADDR='127.0.0.1',
    )  # fmt: skip
    environ['wsgi.input'] = io.BytesIO()
    if getattr(django, 'SECURE_SSL_REDIRECT', False):
        environ.update({'HTTPS': 'on', 'SERVER_PORT': '443', 'wsgi.url_scheme': 'https'})
    return environ


def warm_request(app, settings, django):
    """One GET through the whole application; the response is thrown away."""
    environ = warm_environ(settings, django, settings['warm'])
    started = []

    def start_response(status, headers, exc_info=None):
        started.append(status)
        return lambda data: None

    result = app(environ, start_response)
    try:
        for _ in result:
            pass
    finally:
        getattr(result, 'close', lambda: None)()
    if not started or started[-1][:1] == '5':
        log('runfcgi: the warming request {} got the response {}'.format(settings['warm'], started))


IMPORT_THRESHOLDS = (2000, 10, 10)
USUAL_THRESHOLDS = getattr(gc, 'get_threshold', tuple)()


def collect_seldom():
    """For the import: rarely enough to be fast, often enough to leave few holes between what stays."""
    if USUAL_THRESHOLDS:
        gc.set_threshold(*IMPORT_THRESHOLDS)


def collect_as_usual():
    """Undoes collect_seldom, unless the application has set its own thresholds."""
    if USUAL_THRESHOLDS and gc.get_threshold() == IMPORT_THRESHOLDS:
        gc.set_threshold(*USUAL_THRESHOLDS)


HOLES = []
HOLES_LIMIT = 20000


def fill_holes():
    """Takes the free blocks between what has been loaded, so that a worker's new objects share pages of their own:
    in those holes, each would copy a page for a few bytes. It costs less than 1 MB once and saves as much in each
    worker. Only CPython's small blocks (up to 512 bytes) are allocated so; there `id` is the address."""
    if sys.implementation.name != 'cpython':
        return
    empty = sys.getsizeof(b'')
    pool = 16000 if sys.version_info >= (3, 10) else 4000  # what a pool holds, nearly
    for size in range(48, 513, 16):
        blocks, address, run = [], 0, 0
        while run < pool // size - 1:
            if len(blocks) == HOLES_LIMIT:  # another allocator: no pools
                return
            blocks.append(bytes(size - empty))
            run = run + 1 if id(blocks[-1]) == address + size else 0
            address = id(blocks[-1])
        HOLES.append(blocks[: -run - 1])  # without the run of neighbours, which was an unused pool
