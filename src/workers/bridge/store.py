"""Keeps the bytecode of the last import in one file, the store.

A piece is used only while its source has the stamp (times, size, inode) that it had then. Python examines it as if it
came from a .pyc file of its own, which need not exist: a site's libraries may be where it cannot write."""

import binascii
import marshal
import os
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import cache_from_source

from .app import own_cache
from .files import unlink

STORE_LIMIT = 32 << 20  # bytes
STORES = 16  # sites in a cache directory: one that moves leaves its own behind
SETTLED = 2 * 10**9  # ns; a younger file may change again within the same tick of its clock
BAD_STORE = (OSError, ValueError, EOFError, TypeError)


def store_path(settings):
    """The site's store; None if no bytecode shall be written."""
    if settings.get('pycache') != '1' or sys.dont_write_bytecode:
        return None
    site = [settings.get(name) or '' for name in ('app_path', 'wsgi', 'settings')]
    key = os.fsencode('\0'.join(site + [sys.prefix, sys.implementation.cache_tag]))
    directory = own_cache('imports')
    return directory and os.path.join(directory, '{:08x}'.format(binascii.crc32(key)))


class Store:
    """The bytecode of the last import, in one file: the length of an index, the index, the contents of .pyc files. The
    index has, by the path of the .pyc file, the stamp of its source, where the contents begin and where they end."""

    def __init__(self, path):
        self.path = path
        self.stamps = {}  # of sources
        self.used = set()
        self.new, self.contents = {}, bytearray()  # one large block: it goes back to the system as a whole
        self.size = 0
        self.settled = int(time.time() * 10**9) - SETTLED
        try:
            self.index, self.data = load(path) if path else ({}, b'')
        except BAD_STORE:
            self.index, self.data = {}, b''

    def path_stats(self, pythons, loader, path):
        if type(loader) is not SourceFileLoader:
            return pythons(loader, path)
        status = os.stat(path)
        self.stamps[path] = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
        return {'mtime': status.st_mtime, 'size': status.st_size}

    def get_data(self, pythons, loader, path):
        if not self.is_bytecode(loader, path):
            return pythons(loader, path)
        stamp, start, end = self.index.get(path, (None, 0, 0))
        if stamp == self.stamps[loader.path]:
            self.used.add(path)
            self.size += end - start
            return bytes(self.data[start:end])
        data = pythons(loader, path)
        self.keep(loader, path, data)
        return data

    def set_data(self, pythons, loader, path, data, **named):
        if self.is_bytecode(loader, path):
            self.keep(loader, path, data)
        return pythons(loader, path, data, **named)

    def is_bytecode(self, loader, path):
        """Whether this is the bytecode of a source that was looked at just now."""
        if self.path is None or type(loader) is not SourceFileLoader or loader.path not in self.stamps:
            return False
        return path == cache_from_source(loader.path)

    def keep(self, loader, path, data):
        stamp = self.stamps[loader.path]
        by_hash = sys.version_info >= (3, 7) and data[4:8] != bytes(4)  # may be renewed while the source stays
        self.size += len(data)
        if not by_hash and max(stamp[:2]) < self.settled and self.size < STORE_LIMIT:
            self.used.discard(path)
            start = len(self.contents)
            self.contents += data
            self.new[path] = stamp, start, start + len(data)

    def save(self):
        """Replaces the file if there is something new. What this import did not use is left out."""
        if not self.new:
            return
        index, pieces, end = self.new, [self.contents], len(self.contents)
        for path in self.used:
            stamp, start, stop = self.index[path]
            index[path] = stamp, end, end + stop - start
            end += stop - start
            pieces.append(self.data[start:stop])
        head = marshal.dumps((end, index))
        temporary = '{}.{}'.format(self.path, os.getpid())
        try:
            with open(temporary, 'wb', opener=open_own) as file:
                file.write(len(head).to_bytes(8, 'little') + head)
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())  # a file that is half there after a power cut would be believed
            os.rename(temporary, self.path)
            tidy(os.path.dirname(self.path))
        except OSError:
            unlink(temporary)


def open_own(path, flags):
    return os.open(path, flags, 0o600)


def load(path):
    """The index and the contents. Raises one of BAD_STORE."""
    with open(path, 'rb') as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid() or status.st_mode & 0o022 or status.st_size > 2 * STORE_LIMIT:
            raise ValueError('not a store of our own')
        data = file.read()
    start = 8 + int.from_bytes(data[:8], 'little')
    size, index = marshal.loads(data[8:start])
    if len(data) != start + size:
        raise ValueError('incomplete')
    return index, memoryview(data)[start:]


def tidy(directory):
    """Removes all but the newest."""
    paths = [entry.path for entry in os.scandir(directory)]
    for path in sorted(paths, key=os.path.getmtime)[:-STORES]:
        unlink(path)
