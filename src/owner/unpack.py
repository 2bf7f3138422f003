# Unpacks a zip archive into the project's directory. Needs Python 3.6 or newer and only its standard library.
# Arguments: the archive, the directory, and relative paths. The project in the archive is the directory with one of
# them.
import os
import shutil
import stat
import sys
import tempfile
import time
import zipfile

MAX_FILES = 50000
MAX_BYTES = 1 << 30  # of all files, unpacked
CHUNK = 1 << 20
SQLITE_MAGIC = b'SQLite format 3\0'


def main(archive, target, project_files):
    with zipfile.ZipFile(archive) as file:
        members = check_members(file.infolist())
        top = find_project([name for name, _ in members], project_files)
        parent = os.path.dirname(target)
        fresh = tempfile.mkdtemp(prefix='.unpacking-', dir=parent)
        try:
            count = 0
            for name, member in members:
                if name.startswith(top) and name != top:
                    extract(file, member, os.path.join(fresh, name[len(top) :]))
                    count += 1
            print('%d files and directories were unpacked' % count, flush=True)
            put_in_place(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def check_members(members):
    """Returns (clean name, member) pairs without the clutter of macOS; exits if the archive is too large or unsafe."""
    if len(members) > MAX_FILES:
        sys.exit('the archive has more than %d files' % MAX_FILES)
    if sum(member.file_size for member in members) > MAX_BYTES:
        sys.exit('the archive unpacks to more than %d MB' % (MAX_BYTES >> 20))
    found = []
    for member in members:
        name = member.filename.replace('\\', '/')
        parts = name.rstrip('/').split('/')
        kind = stat.S_IFMT(member.external_attr >> 16)
        if parts[0] == '__MACOSX' or parts[-1] == '.DS_Store':
            continue
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            sys.exit('%r is neither a file nor a directory (a link?): nothing was unpacked' % name)
        if '' in parts or '.' in parts or '..' in parts or ':' in parts[0] or '\0' in name:
            sys.exit('%r would be written elsewhere: nothing was unpacked' % name)
        if member.flag_bits & 1:
            sys.exit('the archive is encrypted')
        found.append((name, member))
    names = [name.rstrip('/') for name, _ in found]
    if len(names) != len(set(names)):
        sys.exit('the archive has the same name twice: nothing was unpacked')
    return found


def find_project(names, project_files):
    """Returns the prefix of the project's files in the archive: '' or a top-level directory with a slash."""
    names = set(names)
    tops = [''] + sorted({name.split('/')[0] + '/' for name in names if '/' in name})
    found = [top for top in tops if any(top + path in names for path in project_files)]
    if not found:
        sys.exit('the archive does not hold the project: there is neither %s in it' % ' nor '.join(project_files))
    return found[0]


def extract(file, member, path):
    """Writes one member to a new file or directory."""
    if member.filename.endswith(('/', '\\')):
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    left = member.file_size
    with file.open(member) as source, open(path, 'xb') as target:
        while True:
            chunk = source.read(CHUNK)
            left -= len(chunk)
            if left < 0:
                sys.exit('%r is larger than the archive says: nothing was unpacked' % member.filename)
            if not chunk:
                break
            target.write(chunk)
    executable = member.external_attr >> 16 & 0o100
    os.chmod(path, 0o755 if executable else 0o644)


def put_in_place(fresh, target):
    """Moves what is in `fresh` into `target`, and what that replaces into a backup directory."""
    os.makedirs(target, exist_ok=True)
    old = '%s.old-%s' % (target, time.strftime('%Y%m%d-%H%M%S'))
    os.mkdir(old, 0o700)
    for name in sorted(os.listdir(fresh)):
        replace(os.path.join(target, name), os.path.join(fresh, name), os.path.join(old, name))
    if os.listdir(old):
        print('what was replaced is kept in %s' % old)
    else:
        os.rmdir(old)


def replace(current, new, old):
    """Replaces a file, or a directory with all that is in it but databases. Any of the three may be missing."""
    if is_directory(current) and (is_directory(new) or not os.path.lexists(new)):
        names = os.listdir(current) + (os.listdir(new) if is_directory(new) else [])
        for name in sorted(set(names)):
            replace(os.path.join(current, name), os.path.join(new, name), os.path.join(old, name))
        return
    if is_database(current):
        print('%s is a database: the site keeps its own' % current)
        current = old
    elif os.path.lexists(current):
        move(current, old)
    if os.path.lexists(new):
        move(new, current)


def move(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(source, target)


def is_directory(path):
    return os.path.isdir(path) and not os.path.islink(path)


def is_database(path):
    """Whether this is an SQLite database, or one of the files that SQLite puts beside it."""
    for suffix in ('-wal', '-shm', '-journal'):
        if path.endswith(suffix):
            path = path[: -len(suffix)]
    if not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


main(sys.argv[1], sys.argv[2], sys.argv[3:])
