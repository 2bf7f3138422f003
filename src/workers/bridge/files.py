"""Files of the runtime directory: what the last process of the site cleans up."""

import fcntl
import os


def unlink(path):
    """Whether it is gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except (OSError, TypeError):
        return False
    return True


def same_file(path, fd):
    """Whether the path still names the file that the descriptor has open. If not, it is another process's by now."""
    try:
        named, held = os.stat(path), os.fstat(fd)
    except (OSError, TypeError):
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def tidy(directory, swept, kept, aged):
    """Cleans up after the last process of the site: removes files that begin with one of `swept` and are not locked;
    if only files in `kept` and `aged` are left, removes the former, and the directory unless there are any of the latter."""
    try:
        names = os.listdir(directory)
        for name in names:
            if name.startswith(tuple(swept)):
                unlink_unlocked(os.path.join(directory, name))
        if set(os.listdir(directory)) <= set(kept + aged):
            for name in kept:
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
