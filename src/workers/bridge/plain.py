"""The plain form: a worker imports the application by itself."""

import os

from .app import load_app
from .frameworks import connect
from .hints import describe_failure, encode_failure
from .imports import few_operations
from .output import attempt
from .private import PRIVATE
from .processes import end_processes, find_descendants, guard_started, ignore_signals, set_command_line, set_process_name
from .warm import collect_as_usual, collect_seldom, share_memory, warm_up
from .wire import BOOT_FAILED, TEXT_LIMIT, frame, unix_socket
from .worker import run_worker


def import_and_serve(settings, slots):
    """Imports the application and serves, or tells the front why it can't. Never returns."""
    set_process_name('runfcgi-import')
    set_command_line('worker', settings)
    ignore_signals()
    collect_seldom()
    for fd in slots:
        PRIVATE.add(fd)  # what the import starts must not hide that this process has ended
    try:
        with few_operations(settings):
            app = load_app(settings)
            warm_up(app, settings)
            connect(settings)
        share_memory()
    except BaseException:
        text = describe_failure(settings)
        attempt('ending what the import started', lambda: end_processes(find_descendants([os.getpid()])))
        unix_socket(slots[0]).sendall(frame(BOOT_FAILED, encode_failure(text, TEXT_LIMIT)))
        os._exit(1)
    collect_as_usual()
    attempt('guarding what the import started', lambda: guard_started(settings))
    for fd in slots:
        PRIVATE.held.remove(fd)
    run_worker(app, settings, slots)
