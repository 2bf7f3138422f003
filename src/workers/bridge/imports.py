"""Imports the application with few file operations: where the files are far away each takes a round trip, and Python's
own finders and loaders need six or more for a module. Here it is one, a look at the source.

Directories are listed once, and the lists are believed until the import is over or `importlib.invalidate_caches()` is
called. What is not in them is looked for again as Python does it. Bytecode comes from the store.

While the import lasts, some methods of Python's classes are ours. Nothing remains of that: modules, specs, loaders and
finders are Python's own."""

import contextlib
import os
import threading
from importlib.machinery import FileFinder, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location

from .output import attempt
from .store import Store, store_path


@contextlib.contextmanager
def few_operations(settings):
    """Within, imports take few file operations. What was new to the store is kept unless an exception ends it."""
    store, lookup = Store(attempt('finding the store', lambda: store_path(settings))), Lookup()
    methods = [(SourceFileLoader, name, getattr(store, name)) for name in ('path_stats', 'get_data', 'set_data')]
    if all(hasattr(FileFinder('/'), name) for name in ('_loaders', '_path_mtime', '_path_cache')):
        methods += [(FileFinder, 'find_spec', lookup.find_in_directory), (PathFinder, 'find_spec', lookup.find_on_path)]
    patches = [Patch(*method) for method in methods]
    try:
        yield
    finally:
        for patch in patches:
            patch.undo()
    attempt('keeping bytecode', store.save)


class Patch:
    """A method of Python's that is ours until undone. Ours gets Python's as its first argument."""

    def __init__(self, owner, name, ours):
        self.owner, self.name, self.is_on = owner, name, True
        self.before = owner.__dict__.get(name)
        pythons = self.before.__func__ if isinstance(self.before, classmethod) else getattr(owner, name)

        def method(*args, **named):
            return ours(pythons, *args, **named) if self.is_on else pythons(*args, **named)

        self.method = classmethod(method) if isinstance(self.before, classmethod) else method
        setattr(owner, name, self.method)

    def undo(self):
        self.is_on = False
        if self.owner.__dict__.get(self.name) is not self.method:
            return  # the application has put its own in front of ours
        if self.before is None:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


class Listing:
    """What a directory holds."""

    def __init__(self, path):
        self.mtime = os.stat(path).st_mtime  # first: an older one than the names' is only asked again
        with os.scandir(path) as entries:
            self.entries = {entry.name: entry for entry in entries}

    def has_file(self, name):
        entry = self.entries.get(name)
        return entry is not None and entry.is_file()


class Lookup:
    """Finds modules in listings."""

    def __init__(self):
        self.listings = {}  # of finders' directories
        self.ahead = {}  # of packages that have no finder yet
        self.thread = threading.local()

    def find_in_directory(self, pythons, finder, fullname, target=None):
        if type(finder) is FileFinder and not getattr(self.thread, 'disbelieves', False):
            try:
                spec = self.find(finder, fullname)
            except OSError:
                pass
            else:
                if spec is not Ellipsis:
                    return spec
        return pythons(finder, fullname, target)

    def find_on_path(self, pythons, cls, fullname, path=None, target=None):
        """A module that has appeared since, or a portion of a namespace, is in no listing."""
        spec = pythons(cls, fullname, path, target)
        if spec is None or spec.loader is None:
            self.thread.disbelieves = True
            try:
                spec = pythons(cls, fullname, path, target)
            finally:
                self.thread.disbelieves = False
        return spec

    def find(self, finder, fullname):
        """As FileFinder.find_spec does it. Ellipsis: a directory that is no package; Python must look."""
        listing, name = self.listing(finder), fullname.rpartition('.')[2]
        base = '{}/{}'.format(finder.path.rstrip('/'), name)
        entry = listing.entries.get(name)
        is_directory = entry is not None and entry.is_dir()
        places = [(listing, base, None)]
        if is_directory:
            if base not in self.ahead:
                self.ahead[base] = Listing(base)
            places.insert(0, (self.ahead[base], base + '/__init__', [base]))
        for listing, start, locations in places:
            for suffix, loader in finder._loaders:
                path = start + suffix
                if listing.has_file(path.rpartition('/')[2]):
                    return spec_from_file_location(
                        fullname, path, loader=loader(fullname, path), submodule_search_locations=locations
                    )
        return Ellipsis if is_directory else None

    def listing(self, finder):
        """The finder's own time tells whether it was told to forget, or has looked by itself."""
        path = finder.path
        listing = self.listings.get(path)
        if listing is None or listing.mtime != finder._path_mtime:
            listing = self.ahead.pop(path, None) or Listing(path)
            self.listings[path] = listing
            finder._path_mtime, finder._path_cache = listing.mtime, set(listing.entries)
        return listing
