"""Imports this package from memory: it is not on disk. The loader runs this file first, so it imports no other."""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

PACKAGE = __name__.partition('.')[0]


class Importer:
    """Finder and loader. `sources` maps module names, without the package's, to source text."""

    def __init__(self, sources):
        self.sources = sources

    def find_spec(self, name, path=None, target=None):
        package, _, module = name.partition('.')
        if package != PACKAGE or (module or '__init__') not in self.sources:
            return None
        return ModuleSpec(name, self, origin='<runfcgi>/{}.py'.format(module or '__init__'), is_package=not module)

    def create_module(self, spec):
        """The default module."""

    def exec_module(self, module):
        spec = module.__spec__
        exec(compile(self.get_source(spec.name), spec.origin, 'exec'), module.__dict__)

    def get_source(self, name):
        """Lets tracebacks show our lines."""
        return self.sources[name.partition('.')[2] or '__init__']


def run(sources):
    """Imports the package and starts it. Never returns."""
    importer = Importer(sources)
    sys.meta_path.insert(0, importer)
    start = import_module(PACKAGE + '.start')
    sys.meta_path.remove(importer)  # the application must not see it
    start.main()
