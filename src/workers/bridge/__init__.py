"""The Python side of runfcgi: takes requests from the front, calls the WSGI application, sends the answers back.

Embedded in the executable, so nothing needs to be installed: `python -c LOADER` takes this package from descriptor 0 (a
unix stream socket), and `importer` imports it from memory. A SETUP frame follows, by which `start` knows what to do.
The frames are those of src/workers/wire.rs; the calling convention is PEP 3333.

Three modes. A `worker` imports the application and serves its slots, one request at a time on each. A `preloader`
imports it once and forks a worker whenever a front asks; it has no threads of its own. A `check` imports it and tells
what it has seen.

Modules import from each other by name, and never in a circle: start ▶ preloader, check ▶ worker, warm ▶ request,
opened ▶ processes, app, head ▶ private ▶ output ▶ wire.

Runs unchanged on CPython 3.6 to 3.14 and PyPy, with the standard library only. Must not know the web server's protocol.
"""

PACKAGE = __name__  # with it begin the names of all our modules
