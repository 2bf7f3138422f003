"""The Python side of runfcgi: takes requests from the front, calls the WSGI application, sends the responses back.

It is embedded in the executable, so nothing needs to be installed: `python -c LOADER` reads this package from
descriptor 0 (a unix stream socket), and `importer` imports it from memory. Then comes a SETUP frame that tells `start`
what to do. The frames are described in src/workers/wire.rs; the calling convention is PEP 3333.

Three modes. A `worker` imports the application and serves its slots, one request at a time on each. A `preloader`
imports it once and forks a worker whenever a front asks; it has no threads of its own. A `check` imports it and
reports what it found.

Modules import each other by name, never in a circle: start ▶ preloader, check ▶ site_pool, worker, warm ▶ control,
request, opened, hints ▶ kept, room, processes, packages, app, head ▶ private ▶ output ▶ wire.

Runs unchanged on CPython 3.6 to 3.14 and PyPy, with the standard library only. Knows nothing of the web server's
protocol.
"""

PACKAGE = __name__  # the prefix of all our modules' names
