"""`check`: imports the application as the preloader does, and tells what follows, in lines with a mark that tells them
from those of the application."""

import os
import sys
import threading
import time

from .app import django_settings, load_app
from .opened import describe_opened, list_descriptors
from .output import describe_exception
from .processes import end_processes, find_descendants
from .warm import warm_up


def run(settings):
    """Never returns."""
    try:
        check(settings)
    except BaseException:
        sys.stdout.write(describe_exception())
    try:
        end_processes(find_descendants([os.getpid()]))
        sys.stdout.flush()
    finally:
        os._exit(0)


def check(settings):
    began, before = time.time(), list_descriptors()
    app = load_app(settings)
    warm_up(app, settings)
    seconds = '{:.2f}'.format(time.time() - began)
    django = django_settings()
    if django is not None:
        say('django', sys.modules['django'].get_version())
        if django.DEBUG:
            say('debug')
        elif not django.ALLOWED_HOSTS:
            say('hosts')
    threads = sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())
    if threads:
        say('threads', ', '.join(threads))
    opened = describe_opened(before)
    if opened:
        say('open', opened)
    say('seconds', seconds)


def say(*words):
    sys.stdout.write('\nrunfcgi-check ' + ' '.join(words) + '\n')
