# Packs a project into a zip archive, which the owner's desk unpacks. Needs Python 3.6 or newer and only its standard
# library. Arguments: the archive, the project, and paths to leave out. Prints what it leaves out, and why.
import os
import shutil
import stat
import sys
import time
import zipfile

FIRST_YEAR = (1980, 1, 1, 0, 0, 0)  # of the format
SQLITE_MAGIC = b'SQLite format 3\0'


def main(archive, project, *others):
    parent = os.path.dirname(project)
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as file:
        for directory, directories, names in os.walk(project):
            for name in sorted(directories + names):
                path = os.path.join(directory, name)
                why = 'not part of the project' if path in others else reason(path)
                if why:
                    directories[:] = [other for other in directories if other != name]
                    if name != '__pycache__':
                        print('left out %s: %s' % (os.path.relpath(path, parent), why))
                else:
                    add(file, path, os.path.relpath(path, parent))
        print('packed   %d files and directories' % len(file.namelist()))


def reason(path):
    """Why this file or directory does not go to the host; None: it does."""
    name, mode = os.path.basename(path), os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        if os.path.exists(os.path.join(path, 'pyvenv.cfg')):
            return 'a virtual environment: the host makes its own'
        if os.path.exists(os.path.join(path, os.path.basename(sys.argv[1]))):
            return 'an upload made before'
        if name.startswith('.') or name in ('__pycache__', 'node_modules'):
            return 'not needed to run the project'
    elif not stat.S_ISREG(mode):
        return 'neither a file nor a directory'
    elif name == '.env' or name.startswith('.env.'):
        return "secrets of this computer: write the host's below [env] in the settings"
    elif is_database(path):
        return 'a database: the site keeps its own'
    return None


def is_database(path):
    """Whether this is an SQLite database, or one of the files that SQLite puts beside it."""
    for suffix in ('-wal', '-shm', '-journal'):
        if path.endswith(suffix):
            path = path[: -len(suffix)]
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def add(file, path, name):
    """Adds a file or directory, with the permissions that a host wants."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        name += '/'
    member = zipfile.ZipInfo(name, max(FIRST_YEAR, time.localtime(status.st_mtime)[:6]))
    member.compress_type = zipfile.ZIP_DEFLATED
    if name.endswith('/'):
        member.external_attr = (stat.S_IFDIR | 0o755) << 16
        file.writestr(member, b'')
        return
    mode = 0o755 if status.st_mode & 0o100 else 0o644
    member.external_attr = (stat.S_IFREG | mode) << 16
    with open(path, 'rb') as source, file.open(member, 'w') as target:
        shutil.copyfileobj(source, target)


main(*sys.argv[1:])
