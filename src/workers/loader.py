# Reads the Python side of runfcgi from descriptor 0: its length in eight hexadecimal digits, then names and sources.
import os
import sys

if sys.version_info < (3, 6):
    raise SystemExit('version %d.%d.%d is too old, 3.6 is the oldest that works: set [app] python' % sys.version_info[:3])
size, package = int(os.read(0, 8), 16), b''
while len(package) < size:
    more = os.read(0, size - len(package))
    if not more:
        raise SystemExit
    package += more
package = dict(zip(*[iter(package.decode().split('\0'))] * 2))
scope = {'__name__': '__runfcgi__.importer'}
exec(compile(package['importer'], '<runfcgi>/importer.py', 'exec'), scope)
scope['run'](package)
