"""Files of the runtime directory: what the last process of the site takes along."""

import fcntl
import os

LEFT_TO_THE_LAST = {'good', 'open', 'python', 'reload', 'turn', 'want'}  # in the runtime directory, needed by nobody


def unlink(path):
    try:
        os.unlink(path)
    except (OSError, TypeError):
        pass


def same_file(path, fd):
    """Whether the path still names the file of the descriptor: else it belongs to somebody else now."""
    try:
        named, held = os.stat(path), os.fstat(fd)
    except (OSError, TypeError):
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def tidy(directory):
    """Removes what the last process of the site leaves in the runtime directory: copies of the executable and records
    that nobody holds a lock on, and then the directory itself."""
    try:
        names = os.listdir(directory)
        for name in names:
            if name.startswith(('exe-', 'front-')):
                unlink_unlocked(os.path.join(directory, name))
        if set(os.listdir(directory)) <= LEFT_TO_THE_LAST:
            for name in LEFT_TO_THE_LAST:
                unlink(os.path.join(directory, name))
            os.rmdir(directory)
    except OSError:
        pass


def unlink_unlocked(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        pass
    finally:
        os.close(fd)
