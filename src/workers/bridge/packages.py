"""Packages: what the installed ones say of themselves, in the `*.dist-info` beside them, and whether that fits this
Python. Reads files only after a failure, or for `check`."""

import functools
import os
import re
import sys
from importlib.machinery import EXTENSION_SUFFIXES

PACKAGES_LIMIT = 2000  # installed packages that are looked at
FILE_LIMIT = 1 << 16  # bytes of a file that are read
HERE = '{}.{}.{}'.format(*sys.version_info)
HERE_TAG = '{}{}{}'.format('pp' if sys.implementation.name == 'pypy' else 'cp', *sys.version_info[:2])

# Distributions that are called otherwise than their module. What is not known to be a package is never proposed: under
# the name of a module of the owner's own anybody may have published one.
DISTRIBUTIONS = {
    'MySQLdb': 'mysqlclient',
    'PIL': 'pillow',
    'allauth': 'django-allauth',
    'bs4': 'beautifulsoup4',
    'corsheaders': 'django-cors-headers',
    'crispy_forms': 'django-crispy-forms',
    'cv2': 'opencv-python-headless',
    'dateutil': 'python-dateutil',
    'debug_toolbar': 'django-debug-toolbar',
    'decouple': 'python-decouple',
    'django_extensions': 'django-extensions',
    'django_filters': 'django-filter',
    'dotenv': 'python-dotenv',
    'environ': 'django-environ',
    'flask_sqlalchemy': 'flask-sqlalchemy',
    'import_export': 'django-import-export',
    'jwt': 'pyjwt',
    'markdown': 'markdown',
    'psycopg2': 'psycopg2-binary',
    'psycopg': 'psycopg[binary]',
    'rest_framework': 'djangorestframework',
    'sklearn': 'scikit-learn',
    'storages': 'django-storages',
    'whitenoise': 'whitenoise',
    'yaml': 'pyyaml',
}
SAME_NAME = {
    'asgiref', 'bleach', 'boto3', 'celery', 'cryptography', 'django', 'feedparser', 'flask', 'gunicorn', 'httpx',
    'jinja2', 'lxml', 'mptt', 'numpy', 'openpyxl', 'pandas', 'pymemcache', 'pymysql', 'pytz', 'redis', 'reportlab',
    'requests', 'six', 'sqlalchemy', 'sqlparse', 'stripe', 'taggit', 'tzdata', 'wagtail', 'werkzeug',
}  # fmt: skip


class Package:
    """An installed package, by its `*.dist-info`."""

    def __init__(self, info):
        self.info = info
        self.folder = os.path.dirname(info)
        base = os.path.basename(info)[: -len('.dist-info')]
        self.name, _, self.version = base.partition('-')
        self.fields = {}
        for line in read(os.path.join(info, 'METADATA')).splitlines():
            if not line:
                break
            field, _, value = line.partition(': ')
            self.fields.setdefault(field, value.strip())
        self.name = self.fields.get('Name', self.name)
        self.version = self.fields.get('Version', self.version)

    def modules(self):
        """The names of its top modules."""
        names = set(read(os.path.join(self.info, 'top_level.txt')).split())
        for line in read(os.path.join(self.info, 'RECORD')).splitlines():
            top = line.partition(',')[0].partition('/')[0].partition('.')[0]
            names.add(top)
        return names | {self.name.lower().replace('-', '_')}

    def misfit(self):
        """Why it is not for this Python, or None."""
        wanted = self.fields.get('Requires-Python')
        if wanted and not allows(wanted, sys.version_info[:3]):
            return '{} {} needs Python {}, this is {}: set [app] python'.format(
                self.name, self.version, in_words(wanted), HERE
            )
        tags = re.findall(r'(?m)^Tag: *(\S+)', read(os.path.join(self.info, 'WHEEL')))
        if tags and not any(fits(tag) for tag in tags):
            return '{} {} was built for {}, this is {}: install it with the pip of {}'.format(
                self.name, self.version, *(tell_apart(tags[0]) + (sys.executable,))
            )
        return None


def installed():
    found = []
    for folder in sys.path:
        found += find_files(folder, '*.dist-info')
    return [Package(info) for info in found[:PACKAGES_LIMIT]]


@functools.lru_cache()
def modules_installed_in(folder):
    """The top modules of packages that were installed into this very directory (`pip install --target`)."""
    names = set()
    for info in find_files(folder, '*.dist-info'):
        names |= Package(info).modules()
    return names


def find_files(folder, pattern):
    import glob

    return sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))


def read(path):
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read(FILE_LIMIT)
    except OSError:
        return ''


def describe_misfit(files, module=None):
    """Why a package of those that these files, or this module, belong to is not for this Python; or None."""
    tops = {module.partition('.')[0]} if module else set()
    for path in files:
        for folder in sys.path:
            root = os.path.join(folder, '')
            if len(root) > 1 and path.startswith(root):
                tops.add(path[len(root) :].partition(os.sep)[0].partition('.')[0])
    for package in installed():
        misfit = package.misfit()
        if misfit and tops & package.modules():
            return misfit
    return module and describe_extension(module)


def describe_extension(module):
    """A compiled module that is there, but for another Python."""
    parent, _, last = module.rpartition('.')
    for folder in find_package(parent) if parent else sys.path:
        for path in find_files(folder, last + '.*.so'):
            ending = os.path.basename(path)[len(last) :]
            built = re.match(r'\.(cpython-|pypy)(\d+)', ending)
            if built and ending not in EXTENSION_SUFFIXES:
                return '{} was built for {}{}, this is {}{}: install it with the pip of {}'.format(
                    path, built.group(1)[0] + 'p', built.group(2), HERE_TAG,
                    ' on ' + sys.platform if 'darwin' in ending else '', sys.executable,
                )  # fmt: skip
    return None


def find_package(name):
    """The directories of a package, which may have failed to be imported."""
    module = sys.modules.get(name)
    if module is not None:
        return list(getattr(module, '__path__', ()))
    paths = [os.path.join(folder, *name.split('.')) for folder in sys.path]
    return [path for path in paths if os.path.isdir(path)]


# What a package is made for ------------------------------------------------------------------------------------------


def numbers(text):
    return tuple(int(part) for part in re.findall(r'\d+', text))


def allows(wanted, version):
    """Whether `>=3.8,<4` allows a version. What is not understood does."""
    for clause in wanted.split(','):
        match = re.match(r'\s*(>=|<=|==|!=|~=|<|>)\s*([\d.]+)(\.\*)?', clause)
        if not match:
            continue
        sign, bound = match.group(1), numbers(match.group(2))
        cut = version[: len(bound)] if match.group(3) or sign in ('==', '!=') else version
        bound_full = bound + (0,) * (3 - len(bound))
        good = {
            '>=': version >= bound_full,
            '>': version > bound_full,
            '<=': version <= bound_full,
            '<': version < bound_full,
            '==': cut == bound,
            '!=': cut != bound,
            '~=': version >= bound_full and version[: len(bound) - 1] == bound[:-1],
        }[sign]
        if not good:
            return False
    return True


def in_words(wanted):
    """`3.10 or later` of `>=3.10`."""
    least = re.fullmatch(r'\s*>=\s*([\d.]+)\s*', wanted)
    return least.group(1) + ' or later' if least else wanted


def fits(tag):
    """Whether a wheel with such a tag (`cp311-cp311-manylinux_2_17_x86_64`) is for this Python on this system."""
    pythons, _, rest = tag.partition('-')
    abi, _, platform = rest.partition('-')
    return any(fits_python(python, abi) for python in pythons.split('.')) and any(
        fits_platform(one) for one in platform.split('.')
    )


def fits_python(python, abi):
    match = re.match(r'(py|cp|pp)(\d)(\d*)$', python)
    if not match:
        return True
    kind, major, minor = match.group(1), int(match.group(2)), int(match.group(3) or 0)
    if major != sys.version_info[0]:
        return False
    if kind == 'py':
        return minor <= sys.version_info[1]
    if kind != HERE_TAG[:2]:
        return False
    return minor == sys.version_info[1] or 'abi3' in abi.split('.') and minor <= sys.version_info[1]


def fits_platform(platform):
    if platform == 'any':
        return True
    machine = os.uname().machine
    return platform.startswith(('linux', 'manylinux', 'musllinux')) and platform.endswith((machine, '_' + machine))


def tell_apart(tag):
    """What a tag is for and what we are, as far as they differ."""
    python, _, rest = tag.partition('-')
    platform = rest.partition('-')[2]
    if any(fits_python(one, rest.partition('-')[0]) for one in python.split('.')):
        return platform, 'Linux on ' + os.uname().machine
    return python, HERE_TAG


# Where a missing one may be ------------------------------------------------------------------------------------------


def find_module_elsewhere(top, app_path):
    """A module that is installed, but for another Python."""
    parents = [sys.prefix, os.path.expanduser('~/.local')]
    for folder in (app_path, os.path.dirname(app_path)):
        parents += [os.path.join(folder, name) for name in ('venv', '.venv', 'env', '.env')]
    for parent in parents:
        for folder in find_files(parent, os.path.join('lib', 'python3.*', '*-packages')):
            there = os.path.join(folder, top)
            if folder in sys.path or not (os.path.isdir(there) or os.path.isfile(there + '.py')):
                continue
            version = os.path.basename(os.path.dirname(folder)).replace('python3', '3')
            python = os.path.join(parent, 'bin', 'python3')
            if version == '{}.{}'.format(*sys.version_info) and os.path.exists(python):
                return 'it is in {}: write python = "{}" below [app]'.format(folder, python)
            return 'it is installed for Python {} ({}), this is {}: install it with the pip of {}'.format(
                version, folder, HERE, sys.executable
            )
    return None


def pip_install(top, files, app_path):
    """How to install a package that is missing; None when nothing tells that it is a package at all."""
    pip = '{} -m pip install '.format(sys.executable)
    name = DISTRIBUTIONS.get(top) or (top if top in SAME_NAME else None)
    for folder in (app_path, os.path.dirname(app_path)):
        path = os.path.join(folder, 'requirements.txt')
        wanted = {normal(line) for line in read(path).splitlines()}
        if normal(name or top) in wanted:
            return '{} names it: {}-r {}'.format(path, pip, path)
    if name:
        return pip + name
    for package in installed():
        wanted = (line for line in read(os.path.join(package.info, 'METADATA')).splitlines())
        wanted = {normal(line[len('Requires-Dist: ') :]) for line in wanted if line.startswith('Requires-Dist: ')}
        if normal(top) in wanted and any(path.startswith(package.folder + os.sep) for path in files[:1]):
            return '{} needs it: {}{}'.format(package.name, pip, normal(top))
    return None


def normal(requirement):
    """The name in a requirement, as package indexes compare names."""
    name = re.match(r'\s*([A-Za-z0-9._-]*)', requirement).group(1)
    return re.sub(r'[-_.]+', '-', name).lower()
