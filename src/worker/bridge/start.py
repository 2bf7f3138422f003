# Start: SETUP from the front, and the mode that it names.


def main():
    """Takes the SETUP frame, prepares the process, and goes into the mode that it names. Never returns."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    setup_socket = unix_socket(fcntl.fcntl(0, F_DUPFD_CLOEXEC, 10))
    null = os.open('/dev/null', os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    settings, fds = receive_setup(setup_socket)
    sys.stdout = sys.__stdout__ = LogStream('<stdout>', OUTPUT if settings.get('outlog') == '1' else LOG)
    sys.stderr = sys.__stderr__ = ERRORS
    prepare(settings)
    if settings.get('mode') == 'preloader':
        detach()
        collect_seldom()
        Preloader(settings, setup_socket, fds[0], fds[1]).run()
    PRIVATE.add(setup_socket)
    PRIVATE.guard_forks()
    ignore_signals()
    hold_lifeline(fds[0])  # before the import, which may take for ever
    try:
        app = load_app(settings)
        warm_up(app, settings)
    except BaseException:
        text = describe_exception()
        log(text)
        attempt('ending what the import has started', lambda: end_processes(find_descendants([os.getpid()])))
        unix_socket(fds[1]).sendall(frame(BOOT_FAILED, encode_tail(text, TEXT_LIMIT)))
        os._exit(1)
    attempt('guarding what the import has started', guard_started)
    run_worker(app, settings, fds[1:])


def receive_setup(sock):
    """The pairs and the descriptors of SETUP."""
    data, fds, need = b'', [], FRAME_HEADER.size
    while len(data) < need:
        more, new_fds = receive_with_fds(sock, need - len(data))
        if not more:
            os._exit(0)
        data += more
        fds += new_fds
        if len(data) == FRAME_HEADER.size:
            need += FRAME_HEADER.unpack(data)[2]
    return decode_pairs(data[FRAME_HEADER.size :]), fds


def prepare(settings):
    """What an application expects of the process it is imported into."""
    faulthandler.enable()
    if hasattr(faulthandler, 'register'):  # the front asks with it where a slow request is
        faulthandler.register(signal.SIGUSR2, all_threads=True)
    if not os.environ.get('HOME'):
        attempt('finding the home directory', set_home)
    app_path = settings['app_path']
    sys.path[:] = [app_path] + [path for path in sys.path if path not in ('', app_path)]
    sys.argv = ['runfcgi']
    if settings.get('pycache') == '1' and sys.version_info >= (3, 8) and not os.access(app_path, os.W_OK):
        sys.pycache_prefix = own_pycache() or sys.pycache_prefix


def set_home():
    import pwd

    os.environ['HOME'] = pwd.getpwuid(os.geteuid()).pw_dir


def own_pycache():
    """A directory for bytecode that is ours alone, or None."""
    shared = '/var/tmp/runfcgi-{}'.format(os.geteuid())
    for base in (os.path.expanduser('~/.cache/runfcgi'), shared):
        path = os.path.join(base, 'pycache')
        if not os.path.isabs(path):
            continue
        try:
            if base == shared:
                own_directory(base)
            os.makedirs(base, 0o700, exist_ok=True)
            own_directory(path)
            return path
        except OSError:
            continue
    return None


def own_directory(path):
    """Makes a directory, or checks that it is ours alone; OSError when it is not."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(errno.EPERM, 'not a directory of our own', path)


def detach():
    """Leaves the session of the front. While the app is imported we stay its child, so that it learns how we end."""
    if os.getpid() != os.getpgrp():  # a group leader cannot, and need not
        os.setsid()


if __name__ == '__runfcgi__':
    main()
