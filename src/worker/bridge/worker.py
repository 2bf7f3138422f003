# A worker: serves its slots until the front closes them.


def run_worker(app, settings, slot_fds):
    """Serves until the front closes the slots. Never returns."""
    set_process_name('runfcgi-worker')
    ignore_signals()
    slots = [Slot(fd, app, settings) for fd in slot_fds]
    threads = [threading.Thread(target=slot.serve, daemon=True) for slot in slots[1:]]
    for thread in threads:
        thread.start()
    slots[0].serve()
    for thread in threads:
        thread.join()
    attempt('an exit function', atexit._run_exitfuncs)
    ERRORS.flush()
    os._exit(0)


def hold_lifeline(fd):
    """Ties this process to the pipe's other end: when that closes, the kernel ends us, whatever we are doing."""
    PRIVATE.add(fd)
    try:
        fcntl.fcntl(fd, F_SETOWN, os.getpid())
        fcntl.fcntl(fd, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | O_ASYNC)
    except OSError as error:
        log('runfcgi: no lifeline ({}): the worker ends only when its slot is closed'.format(error))
    if poll_once(fd, 0) & (select.POLLHUP | select.POLLERR):
        os._exit(0)


def poll_once(fd, milliseconds):
    """The events that are now on one descriptor."""
    poll = Poll()
    poll.register(fd, select.POLLIN)
    return sum(event for _, event in poll.poll(milliseconds))


def ignore_signals():
    """Handlers, not SIG_IGN: that the programs which the application starts would inherit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, do_nothing)


def do_nothing(_number, _stack):
    """A signal that the front deals with."""


def set_process_name(name):
    """The name that ps and top show."""
    try:
        comm = os.open('/proc/self/comm', os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    os.write(comm, name.encode())
    os.close(comm)
