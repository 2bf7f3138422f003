"""`check`: imports the application as the preloader does, and prints what it finds, one finding a line with a prefix."""

import faulthandler
import os
import sys
import threading
import time

from .app import django_settings, load_app
from .audit import audit
from .hints import describe_failure
from .opened import describe_opened, list_descriptors
from .processes import end_processes, find_descendants
from .warm import warm_up

LINE_END = '\x1f'  # stands for a newline within a finding


def run(settings):
    """Checks the application and ends the process."""
    try:
        check(settings)
    except BaseException:
        faulthandler.cancel_dump_traceback_later()
        line, _, trace = describe_failure(settings).partition('\n')
        report('failed', line)
        sys.stdout.write(trace)
    try:
        end_processes(find_descendants([os.getpid()]))
        sys.stdout.flush()
    finally:
        os._exit(0)


def check(settings):
    began, before = time.monotonic(), list_descriptors()
    # Prints where an endless import is, and ends the process.
    faulthandler.dump_traceback_later(int(settings['start_timeout']), exit=True, file=2)
    app = load_app(settings)
    warm_up(app, settings)
    faulthandler.cancel_dump_traceback_later()
    seconds = '{:.2f}'.format(time.monotonic() - began)
    django = django_settings()
    if django is not None:
        report('django', sys.modules['django'].get_version())
        if django.DEBUG:
            report('debug')
        elif not django.ALLOWED_HOSTS:
            report('hosts')
    threads = sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())
    if threads:
        report('threads', ', '.join(threads))
    opened = describe_opened(before)
    if opened:
        report('open', opened)
    report('seconds', seconds)
    if django is not None:
        for kind, text in audit(django, settings):
            report(kind, text)


def report(*words):
    line = ' '.join(words).replace('\n', LINE_END)
    sys.stdout.write('\nrunfcgi-check ' + line + '\n')
