"""Hints: why the application cannot be imported, and what to do about it, in one line.

Runs only after a failure, so it may be slow: it searches the directories around a missing file and the metadata of the
installed packages (`packages`). Imports nothing of the application's.
"""

import os
import re
import sys
import traceback

from .app import NoApplication
from .output import describe_exception, encode_tail
from .packages import describe_misfit, find_module_elsewhere, find_package, modules_installed_in, pip_install

LINE_LIMIT = 1000  # characters of a hint
CAUSES_LIMIT = 8  # exceptions in a chain that are examined
NAMES_LIMIT = 500  # entries of a directory that are examined


def describe_failure(settings):
    """The exception being handled: one line with cause and cure, then the traceback."""
    return '{}\n{}'.format(hint(sys.exc_info()[1], settings), describe_exception().rstrip())


def encode_failure(text, limit):
    """Encodes such a text in at most `limit` bytes: the first line, and the end of the traceback."""
    line, _, rest = text.partition('\n')
    line = line.encode('utf-8', 'backslashreplace') + b'\n'
    return line + encode_tail(rest, limit - len(line))


def hint(error, settings):
    """One line for an exception: the cause, and the cure if one is known. Never raises."""
    try:
        explained = filter(None, (explain(cause, settings) for cause in causes(error)))
        text = next(explained, None) or summarise(error, settings)
    except Exception:
        text = type(error).__name__
    return ' '.join(text.split())[:LINE_LIMIT]


def causes(error):
    """The exception, followed by the chain of its causes and contexts."""
    found = []
    while error is not None and error not in found and len(found) < CAUSES_LIMIT:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def summarise(error, settings):
    """Python's own line for an exception, and where in the application it was raised."""
    message = traceback.format_exception_only(type(error), error)
    place = find_place(error, settings)
    return message[-1].strip() + (' ({})'.format(place) if place else '')


def explain(error, settings):
    """Cause and cure of an exception that is recognised, or None."""
    text = str(error)
    if isinstance(error, NoApplication):
        return text
    if isinstance(error, ImportError):
        known = explain_import(error, text, settings)
    elif isinstance(error, AttributeError):
        known = explain_attribute(error, text, settings)
    elif isinstance(error, SyntaxError):
        known = describe_misfit(files_of(error)) or explain_syntax(error, settings)
    elif isinstance(error, KeyError) and raised_in(error) in (os.__file__, '<frozen os>'):
        known = '{} is no variable of the environment{}: the web server passes none, so give it below [env]'.format(
            text, describe_place(error, settings)
        )
    else:
        known = None
    if known is None:
        known = find_cure(error, settings)
        known = known and '{}: {}'.format(summarise(error, settings), known)
    if known is None and not isinstance(error, (OSError, KeyError)):
        known = describe_misfit(files_of(error))
    return known


def find_cure(error, settings):
    """What helps against an exception at any time, without its message, or None."""
    text = str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return cure_missing(error, error.name, settings)
    if isinstance(error, (MemoryError, OSError, RuntimeError)):
        cure = cure_system(error, text)
        if cure:
            return cure
    if type(error).__name__ == 'TemplateDoesNotExist':
        tried = [origin for one in [error] + list(error.chain or ()) for origin, _ in one.tried]
        place = 'at {}'.format(tried[0]) if tried else 'in any directory of TEMPLATES'
        return 'it is not {}; upload it, then touch mysite.fcgi'.format(place)
    return next((cure for message, cure in KNOWN_ERRORS if message in text), None)


KNOWN_ERRORS = (
    ('SECRET_KEY setting must not be empty', 'set SECRET_KEY; if it comes from a variable, give that below [env]'),
    (
        'SQLite 3',
        'the SQLite of this system is too old for this Django: install pysqlite3-binary and put it in place of sqlite3 '
        'in settings.py',
    ),
    (
        'Error loading MySQLdb',
        'install mysqlclient, or pymysql and call pymysql.install_as_MySQLdb() in settings.py',
    ),
    ('Error loading psycopg', 'install psycopg2-binary with the pip of this Python'),
    ('no such table', 'its migrations have not run: manage.py migrate'),
    ('unable to open database file', 'its directory must be there, and the user that the site runs as must write it'),
    ('readonly database', 'the user that the site runs as must write the file and its directory'),
)


# Where an exception comes from ---------------------------------------------------------------------------------------


def frames(error):
    return traceback.extract_tb(error.__traceback__)


def raised_in(error):
    found = frames(error)
    return found[-1].filename if found else None


def files_of(error):
    """The files in the traceback of an exception, innermost first, without those of importlib."""
    files = [error.filename] if isinstance(error, SyntaxError) else []
    files += [frame.filename for frame in reversed(frames(error))]
    importing = os.path.join(os.path.dirname(os.__file__), 'importlib', '')
    return [path for path in files if isinstance(path, str) and not path.startswith(('<', importing))]


def find_place(error, settings):
    """The innermost line in the owner's code, relative to the application: `views.py:12`. None if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return None  # the message has the place
    for frame in reversed(frames(error)):
        if is_own(frame.filename, settings):
            return '{}:{}'.format(os.path.relpath(frame.filename, settings['app_path']), frame.lineno)
    return None


def describe_place(error, settings):
    place = find_place(error, settings)
    return ' ({})'.format(place) if place else ''


def is_own(path, settings):
    """Whether a file is the owner's: below the application's directory, and not of an installed package."""
    root = os.path.join(settings['app_path'], '')
    inside = path[len(root) :].split(os.sep)
    top = inside[0].partition('.')[0]
    return path.startswith(root) and 'site-packages' not in inside and top not in modules_installed_in(root[:-1])


# Modules -------------------------------------------------------------------------------------------------------------


def explain_import(error, text, settings):
    if isinstance(error, ModuleNotFoundError) and error.name:
        return explain_missing(error, error.name, settings)
    match = re.match(r"cannot import name '(\w+)' from (?:partially initialized module )?'([\w.]+)'", text)
    if not match:
        return describe_misfit(files_of(error)) or explain_library(text)
    name, module = match.groups()
    return (
        explain_shadowing(module, settings)
        or describe_misfit(files_of(error), module + '.' + name)
        or suggest_name(summarise(error, settings), name, vars(sys.modules[module]) if module in sys.modules else ())
    )


def explain_missing(error, name, settings):
    setting = find_setting_for(name, settings)
    where = ' ([app] {})'.format(setting) if setting else describe_place(error, settings)
    return "no module named '{}'{}: {}".format(name, where, cure_missing(error, name, settings))


def cure_missing(error, name, settings):
    """A module that was not found: misspelt, in another directory, shadowed, or of a package that is not installed."""
    setting = find_setting_for(name, settings)
    if setting:
        written = settings[setting].partition(':')[0]
        dotted = re.sub(r'\.py$', '', written).replace('/', '.')
        if dotted != written:
            right = settings[setting].replace(written, dotted, 1)
            return 'a module is named without .py and with dots: write {} = "{}" below [app]'.format(setting, right)
    parent, _, last = name.rpartition('.')
    if parent:
        module = sys.modules.get(parent)
        if module is not None and not hasattr(module, '__path__'):
            hidden = explain_shadowing(parent, settings)
            return hidden or "'{}' is the file {}, no package".format(parent, module.__file__)
        folders = find_package(parent)
    else:
        by_owner = setting or all(is_own(path, settings) for path in files_of(error)[:1])
        folders = [settings['app_path']] if by_owner else []
    close = find_close_file(last, folders)
    if close:
        suggestion = (parent + '.' if parent else '') + re.sub(r'\.py$|/$', '', close)
        cure = 'there is {} beside it'.format(close) if parent else 'there is {} in {}'.format(close, folders[0])
        if setting:
            cure += ': write {} = "{}" below [app]'.format(setting, settings[setting].replace(name, suggestion, 1))
        return cure
    top = name.partition('.')[0]
    misfit = describe_misfit(files_of(error), name)
    if misfit:
        return misfit
    if parent and folders:
        if setting or is_own(os.path.join(folders[0], last), settings):
            return 'there is no such file in {}'.format(', '.join(folders))
        return 'is {} of the version that the app wants?'.format(top)
    found_in = find_below(top, settings['app_path'])
    if found_in and os.path.exists(os.path.join(found_in, '__init__.py')):
        inside = os.path.basename(found_in)
        return "in {}, what is in {}/ is called '{}.{}'".format(os.path.dirname(found_in), inside, inside, name)
    if found_in:
        return 'it is in {}: write path = "{}" below [app]'.format(found_in, found_in)
    elsewhere = find_module_elsewhere(top, settings['app_path'])
    if elsewhere:
        return elsewhere
    if setting:
        return 'path below [app] must be the directory that holds it, and is {}'.format(settings['app_path'])
    install = pip_install(top, files_of(error), settings['app_path'])
    return install or 'if it is your own, it must be in {}; if it is a package, install it with the pip of {}'.format(
        settings['app_path'], sys.executable
    )


def find_setting_for(name, settings):
    """The setting that names this module or a submodule of it, or None."""
    for setting in ('settings', 'wsgi'):
        module = (settings.get(setting) or '').partition(':')[0]
        if module == name or module.startswith(name + '.'):
            return setting
    return None


def explain_shadowing(module, settings):
    """A file of the owner that shadows an installed or standard module of the same name."""
    path = getattr(sys.modules.get(module), '__file__', None) or ''
    if '.' in module or not is_own(path, settings):
        return None
    library = os.path.join(os.path.dirname(os.__file__), module)
    if not (module in getattr(sys, 'stdlib_module_names', ()) or os.path.exists(library + '.py') or os.path.isdir(library)):
        others = [os.path.join(folder, module) for folder in sys.path if folder.endswith('-packages')]
        if not any(os.path.isdir(other) or os.path.exists(other + '.py') for other in others):
            return None
    return "{} hides the module '{}' that others import: give the file another name".format(path, module)


def find_close_file(name, folders):
    """A module or package with a similar name in one of these directories: `views.py` or `shop/`; or None."""
    import difflib

    for folder in folders:
        known = {}
        for entry in list_directory(folder):
            stem, ending = os.path.splitext(entry)
            path = os.path.join(folder, entry)
            if ending == '.py' or not ending and os.path.isdir(path) and holds_python(path):
                known[stem.lower()] = entry + ('' if ending else '/')
        close = difflib.get_close_matches(name.lower(), known, 1, 0.75)
        if close:
            return known[close[0]]
    return None


def find_below(top, app_path):
    """The directory above or directly below the application's that contains this module, or None."""
    folders = [os.path.dirname(app_path)] + [os.path.join(app_path, entry) for entry in list_directory(app_path)]
    for folder in folders:
        path = os.path.join(folder, top)
        if os.path.isfile(path + '.py') or os.path.isdir(path) and holds_python(path):
            return folder
    return None


def holds_python(folder):
    return any(entry.endswith('.py') for entry in list_directory(folder))


def list_directory(folder):
    try:
        return sorted(os.listdir(folder))[:NAMES_LIMIT]
    except OSError:
        return []


def explain_library(text):
    """A shared library that was built for another system."""
    wanted = re.search(r"version `(GLIBC(?:XX)?_[\d.]+)' not found \(required by ([^)]+)\)", text)
    if wanted:
        return '{} was built for a newer system ({}): install it on the host, with the pip of {}'.format(
            wanted.group(2), wanted.group(1), sys.executable
        )
    if 'invalid ELF header' in text or 'wrong ELF class' in text:
        return '{}: it was built for another system: install it on the host, with the pip of {}'.format(
            text, sys.executable
        )
    return None


# Attributes and syntax -----------------------------------------------------------------------------------------------


def explain_attribute(error, text, settings):
    """A WSGI callable that its module lacks, or a module that shadows another."""
    match = re.match(r"(?:partially initialized )?module '([\w.]+)' has no attribute '(\w+)'", text)
    if not match:
        return None
    module, name = match.groups()
    found = sys.modules.get(module)
    if not (raised_in(error) or '').startswith('<runfcgi>/') or found is None:
        return explain_shadowing(module, settings)
    by_django = not settings.get('wsgi')
    setting = 'WSGI_APPLICATION' if by_django else 'wsgi'
    message = "the module '{}' has no '{}' ({})".format(module, name, setting if by_django else '[app] wsgi')
    names = ('application', 'app', 'wsgi_app', 'wsgi', 'main')
    callables = [other for other in names if callable(getattr(found, other, None))]
    close = callables[0] if callables else find_close_name(name, vars(found))
    if not close:
        return '{}: name the WSGI callable'.format(message)
    suggestion = '{}{}{}'.format(module, '.' if by_django else ':', close)
    return '{}: it has \'{}\': write {} = "{}"{}'.format(
        message, close, setting, suggestion, ' in settings.py' if by_django else ' below [app]'
    )


def find_close_name(name, names):
    import difflib

    known = {other.lower(): other for other in names if not other.startswith('__')}
    close = difflib.get_close_matches(name.lower(), known, 1, 0.75)
    return known[close[0]] if close else None


def suggest_name(message, name, names):
    close = find_close_name(name, names)
    return "{}: did you mean '{}'?".format(message, close) if close and 'Did you mean' not in message else message


def explain_syntax(error, settings):
    path = error.filename or '?'
    if is_own(path, settings):
        path = os.path.relpath(path, settings['app_path'])
    text = '{}: {} ({}:{})'.format(type(error).__name__, error.msg, path, error.lineno)
    if 'utf-8' in text.lower():
        return text + ': save the file as UTF-8'
    return '{}; Python here is {}.{}.{}'.format(text, *sys.version_info)


# Limits of the account -----------------------------------------------------------------------------------------------


def cure_system(error, text):
    import errno

    code = getattr(error, 'errno', None)
    if isinstance(error, MemoryError) or code == errno.ENOMEM:
        limit = describe_limit(20, ' MB', 'RLIMIT_AS', 'RLIMIT_DATA')
        return 'the memory that a process of this account may have is used up{}: ask the host for more'.format(limit)
    if "can't start new thread" in text or code == errno.EAGAIN and isinstance(error, BlockingIOError):
        limit = describe_limit(0, '', 'RLIMIT_NPROC')
        return 'the limit of processes of this account is reached{}, and threads count: end other processes'.format(limit)
    if code == errno.EMFILE:
        return 'the limit of open files is reached' + describe_limit(0, '', 'RLIMIT_NOFILE')
    if code in (errno.ENOSPC, errno.EDQUOT):
        return 'the disk, or the quota of this account, is full: delete what is not needed'
    if code == errno.EROFS:
        return 'its file system is read-only'
    if code in (errno.EACCES, errno.EPERM):
        return 'the user that the site runs as ({}) must be allowed that'.format(os.geteuid())
    return None


def describe_limit(shift, unit, *names):
    """The least of these limits, in brackets; '' if there is none."""
    import resource

    limits = [(resource.getrlimit(getattr(resource, name))[0], name) for name in names]
    limits = [(soft, name) for soft, name in limits if soft != resource.RLIM_INFINITY]
    return ' ({}{}, {})'.format(min(limits)[0] >> shift, unit, min(limits)[1]) if limits else ''
