# The Python side of runfcgi, read from descriptor 0: eight hexadecimal digits of length, then names and sources.
import os

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
