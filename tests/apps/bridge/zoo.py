"""Imports what can be imported in many ways and tells what came of it. SITE names the directory with all of it."""

import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import site
import sys
import traceback
from importlib.machinery import FileFinder, PathFinder, SourceFileLoader

SITE = os.environ['SITE']
SEEN = {}


class Editable:
    """As an editable installation does it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'editable':
            return importlib.util.spec_from_file_location(name, SITE + '/elsewhere/editable/__init__.py')
        return None


def tell(module):
    spec, loader = module.__spec__, module.__loader__
    names = ('__file__', '__cached__', '__package__', '__doc__', '__path__')
    facts = {name: repr(getattr(module, name, None)) for name in names}
    facts.update({name: repr(getattr(spec, name)) for name in ('name', 'origin', 'cached', 'has_location', 'parent')})
    facts['locations'] = repr(spec.submodule_search_locations)
    facts['loader'] = '{} {} {}'.format(type(loader).__name__, type(spec.loader).__name__, loader is spec.loader)
    if isinstance(loader, SourceFileLoader):
        facts['attributes'] = repr(sorted(vars(loader).items()))
    return {name: fact.split(' at 0x')[0] for name, fact in facts.items()}


def tell_all():
    """Of the modules of the site, and some of Python's; of the machinery."""
    told = {name: tell(module) for name, module in sorted(sys.modules.items()) if is_ours(name, module)}
    told['seen'] = SEEN
    finders = {path: finder for path, finder in sys.path_importer_cache.items() if path.startswith(SITE)}
    told['finders'] = {path: type(finder).__name__ for path, finder in finders.items()}
    told['vars'] = {path: sorted(vars(finder)) for path, finder in finders.items() if type(finder) is FileFinder}
    told['meta_path'] = [getattr(finder, '__name__', type(finder).__name__) for finder in sys.meta_path]
    told['path_hooks'] = [hook.__name__ for hook in sys.path_hooks]
    told['methods'] = [
        method.__code__.co_filename
        for method in (FileFinder.find_spec, PathFinder.find_spec, SourceFileLoader.path_stats, SourceFileLoader.get_data)
    ]
    told['own'] = sorted(vars(SourceFileLoader))
    told['later'] = [importlib.util.find_spec(name) is not None for name in ('zoo.late', 'space.a', 'nothing', 'dotted')]
    return json.dumps(told, sort_keys=True, indent=1)


def is_ours(name, module):
    path = getattr(module, '__file__', None) or ''.join(getattr(module, '__path__', []))
    return path.startswith(SITE) or name in ('email', 'email.mime.text', 'xml.dom.minidom')


sys.path[1:1] = [SITE + '/one', SITE + '/two/', SITE + '/zipped.zip', SITE + '/not there', SITE + '/one/list.txt']
sys.meta_path.append(Editable)
site.addsitedir(SITE + '/packages')

import bare, dotted, editable, email.mime.text, linked, linked_package.inner, space.a, space.b  # noqa
import through_pth, xml.dom.minidom, zipped, zoo, zoo.plain, zoo.sub.deep  # noqa

for name in ('zoo.nothing', 'nothing', 'zoo.plain.nothing', 'zoo.sub.broken', 'empty', 'empty.nothing'):
    try:
        importlib.import_module(name)
        SEEN[name] = 'imported'
    except Exception:
        SEEN[name] = traceback.format_exc().rpartition('importlib')[2].split('\n', 1)[1]
importlib.reload(zoo.plain)
SEEN['times'] = zoo.plain.times
SEEN['source'] = inspect.getsource(zoo.plain.fail)
SEEN['data'] = pkgutil.get_data('zoo', 'data.txt').decode()
SEEN['modules'] = sorted(info.name for info in pkgutil.walk_packages(zoo.__path__, 'zoo.'))
SEEN['code'] = zoo.plain.__loader__.get_code('zoo.plain').co_filename
if sys.version_info >= (3, 7):
    import importlib.resources

    SEEN['resource'] = importlib.resources.read_text('zoo', 'data.txt') if sys.version_info < (3, 11) else (
        importlib.resources.files('zoo').joinpath('data.txt').read_text()
    )  # fmt: skip
try:
    zoo.plain.fail()
except ValueError:
    SEEN['traceback'] = traceback.format_exc()


def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [tell_all().encode()]
