"""What is open after the import. Forked workers would share it, so it is closed where possible, else reported."""

import fcntl
import gc
import os
import select
import socket
import stat
import sys
import time
from socket import AF_UNIX, SOCK_STREAM, SOL_SOCKET

from . import PACKAGE
from .app import django_settings
from .head import CONTROL
from .output import attempt
from .processes import has_no_children, list_children, list_processes
from .wire import F_DUPFD_CLOEXEC, Socket, poll_once


def release_connections():
    """Closes connections that two processes must not share, the way their frameworks document it."""
    if 'django.db' in sys.modules and django_settings() is not None:
        attempt('closing the database connections', close_databases)
    if 'django.core.cache' in sys.modules and django_settings() is not None:
        caches = sys.modules['django.core.cache'].caches
        attempt(
            'closing the caches', lambda: getattr(caches, 'close_all', sys.modules['django.core.cache'].close_caches)()
        )
    if 'sqlalchemy.engine.base' in sys.modules:
        attempt('disposing of the SQLAlchemy engines', dispose_engines)
    if 'multiprocessing.process' in sys.modules:  # a worker could not join them: they are not its children
        attempt('collecting ended processes', sys.modules['multiprocessing.process'].active_children)


def close_databases():
    connections = sys.modules['django.db'].connections
    connections.close_all()
    if sys.modules['django'].VERSION >= (5, 1):  # here close() may only return a connection to its pool
        for connection in connections.all(initialized_only=True):
            getattr(connection, 'close_pool', lambda: None)()


def dispose_engines():
    """Disposes of all SQLAlchemy engines, except those whose only connection may hold an in-memory database."""
    engine_class = sys.modules['sqlalchemy.engine.base'].Engine
    for engine in gc.get_objects():
        if not issubclass(type(engine), engine_class) or getattr(engine.dialect, 'is_async', False):
            continue
        if type(engine.pool).__name__ not in ('StaticPool', 'SingletonThreadPool'):
            engine.dispose()


# Descriptors ---------------------------------------------------------------------------------------------------------

SO_TYPE, SO_ACCEPTCONN, SO_DOMAIN = 3, 30, 39
NETWORKS = (socket.AF_INET, socket.AF_INET6)
SHARED_INODES = ('eventpoll', 'eventfd', 'inotify', 'timerfd', 'signalfd', 'fanotify', 'io_uring')
MEMORY_DEVICES = 1  # major number of null, zero, random, urandom …
SQLITE_MAGIC = b'SQLite format 3\0'


def list_descriptors():
    """All open descriptors: {fd: (device, inode)}."""
    try:
        numbers = [int(name) for name in os.listdir('/proc/self/fd')]
    except OSError:
        numbers = range(min(os.sysconf('SC_OPEN_MAX'), 65536))
    found = {}
    for fd in numbers:
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        found[fd] = status.st_dev, status.st_ino
    return found


def describe_descriptor(fd):
    """Describes a descriptor that two processes must not share; None if they may."""
    status = os.fstat(fd)
    try:
        name = os.readlink('/proc/self/fd/{}'.format(fd))
    except OSError:
        name = ''
    if name.startswith('anon_inode:'):
        return 'epoll, or the like (' + name[11:].strip('[]') + ')' if any(w in name for w in SHARED_INODES) else None
    if stat.S_ISSOCK(status.st_mode):
        return describe_socket(fd)
    if stat.S_ISREG(status.st_mode):
        return describe_file(fd, status, name)
    if stat.S_ISFIFO(status.st_mode):
        return 'a pipe' if has_other_end(fd) else None
    if stat.S_ISCHR(status.st_mode):
        return None if os.major(status.st_rdev) == MEMORY_DEVICES else 'the device ' + name
    return None if stat.S_IFMT(status.st_mode) or name else 'epoll, or the like'


def describe_socket(fd):
    """A connection. Not a listening socket, nor one that gets no answers, like syslog's."""
    sock = Socket(AF_UNIX, SOCK_STREAM, 0, fileno=fcntl.fcntl(fd, F_DUPFD_CLOEXEC, 0))
    try:
        family, kind, listens = (sock.getsockopt(SOL_SOCKET, what) for what in (SO_DOMAIN, SO_TYPE, SO_ACCEPTCONN))
        sock = Socket(family, kind, 0, fileno=sock.detach())
        peer = sock.getpeername()
        mute = family == AF_UNIX and kind == socket.SOCK_DGRAM and peer and not sock.getsockname()
        if listens or mute or not has_other_end(fd):
            return None
    except OSError:
        return None  # not connected
    finally:
        sock.close()
    if family in NETWORKS:
        return 'a connection to ' + ('[{}]:{}' if ':' in peer[0] else '{}:{}').format(*peer[:2])
    if isinstance(peer, bytes):
        peer = os.fsdecode(peer).replace('\0', '@')
    return 'a connection to {}'.format(peer) if peer else 'a pair of sockets'


def describe_file(fd, status, name):
    """A database, or a file open for both reading and writing. Not a log, nor memory that is shared on purpose."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    access = flags & os.O_ACCMODE
    if access != os.O_WRONLY and os.pread(fd, len(SQLITE_MAGIC), 0) == SQLITE_MAGIC:
        return ('the database ' + name).rstrip()
    shared = flags & os.O_APPEND or not status.st_nlink or name.startswith('/dev/shm/')
    return None if shared or access != os.O_RDWR else ('the file ' + name).rstrip()


def has_other_end(fd):
    """Whether this pipe or socket has unread data or a peer."""
    events = poll_once(fd, 0)
    return bool(events & select.POLLIN) or not events & (select.POLLHUP | select.POLLERR)


# The report ----------------------------------------------------------------------------------------------------------

REPORT_LIMIT = 8


def describe_opened(before):
    """Describes what workers must not share; empty if they may be forked. `before`: list_descriptors() before the
    import."""
    found = {}  # descriptor, or the negative pid of a process: description
    for pid, name in list_children().items():
        found[-pid] = 'the process {} ({})'.format(pid, name)
    for fd, identity in list_descriptors().items():
        if before.get(fd) == identity:
            continue
        try:
            words = describe_descriptor(fd)
        except OSError:
            continue
        if words:
            found[fd] = words
    if not found and not has_no_children() and not list_processes():
        found[0] = 'a process'  # without /proc we can't tell which
    owners = attempt('finding what opened it', lambda: find_owners(found)) if found else None
    lines = []
    for key, words in found.items():
        owner = (owners or {}).get(key)
        line = CONTROL.sub('?', words + (' ({})'.format(owner) if owner else ''))
        if line not in lines:
            lines.append(line)
    more = len(lines) - REPORT_LIMIT
    return '; '.join(lines[:REPORT_LIMIT]) + ('; and {} more'.format(more) if more > 0 else '')


def find_owners(found):
    """The variable, as `module.name`, through which each descriptor or process is reachable."""
    modules = {}
    for name, module in list(sys.modules.items()):
        if issubclass(type(module), type(sys)):
            names = object.__getattribute__(module, '__dict__')
            if not name.startswith(PACKAGE):
                modules[id(names)] = name, names
    if hasattr(gc, 'unfreeze'):
        gc.unfreeze()
    items, is_tracked = gc.get_objects(), getattr(gc, 'is_tracked', lambda item: True)
    for _, names in modules.values():  # get_objects() leaves out what the collector does not track
        items += [value for value in list(names.values()) if not is_tracked(value)]
    owners, end = {}, time.monotonic() + OWNERS_WITHIN
    for item in items:
        key = key_of(item, found)
        if key is None or rank(owners.get(key)) == OF_APP or time.monotonic() > end:
            continue
        owner = find_owner(item, modules, {id(items)})
        if rank(owner) > rank(owners.get(key)):
            owners[key] = owner
    return {key: '{}.{}'.format(*owner) for key, owner in owners.items()}


def key_of(item, found):
    """The key in `found` of what this object stands for; None if it is not there."""
    kind = type(item)
    if issubclass(kind, type):
        return None
    try:
        if hasattr(kind, 'fileno') and kind.__name__ != 'SpooledTemporaryFile':
            fd = item.fileno()
            return fd if type(fd) is int and fd in found else None
        if kind.__name__ in PROCESS_CLASSES:
            return -item.pid if -item.pid in found else None
        if 'sqlite3' in sys.modules and issubclass(kind, sys.modules['sqlite3'].Connection):
            path = sys.modules['sqlite3'].Connection.execute(item, 'PRAGMA database_list').fetchone()[2]
            return next(fd for fd, words in found.items() if path and words.endswith(' ' + path))
    except Exception:
        pass
    return None


def find_owner(item, modules, skipped):
    """(module, variable) nearest to the object, preferably the application's; None if it is not reachable."""
    level, seen, best = [item], {id(item)}, None
    for _ in range(OWNER_DEPTH):
        skipped.add(id(level))
        upper = []
        for holder in gc.get_referrers(*level):
            if id(holder) in modules:
                name, names = modules[id(holder)]
                ids = {id(other) for other in level}
                owner = name, next((key for key, value in list(names.items()) if id(value) in ids), '?')
                if rank(owner) > rank(best):
                    best = owner
            elif id(holder) not in seen and id(holder) not in skipped and type(holder) not in PASSED_BY:
                seen.add(id(holder))
                upper.append(holder)
        level = upper[:OWNER_WIDTH]
        if not level or rank(best) == OF_APP:
            break
    return best


PROCESS_CLASSES = ('Popen', 'Process', 'ForkProcess', 'SpawnProcess', 'ForkServerProcess')
PASSED_BY = (type(sys._getframe()), type(sys))
OWNER_DEPTH, OWNER_WIDTH = 12, 500
OWNERS_WITHIN = 2.0  # seconds
OF_APP = 3


def rank(owner):
    """OF_APP for the application's; 2 for a library's; 1 for the standard library's; 0 for none."""
    if owner is None:
        return 0
    path = getattr(sys.modules.get(owner[0]), '__file__', None) or ''
    if 'site-packages' in path or 'dist-packages' in path:
        return 2
    return 1 if path.startswith(os.path.dirname(os.__file__)) or not path else OF_APP
