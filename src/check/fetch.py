"""Sends one HTTP request for `check --url` where there is no curl, and prints the response as `curl --include` does.

Called with method, URL, seconds and header lines; the body is on standard input.
"""

import http.client
import sys
import urllib.parse

LIMIT = 65536  # bytes of a body that are printed


def main(method, url, seconds, *lines):
    body = sys.stdin.buffer.read()
    parts = urllib.parse.urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == 'https' else http.client.HTTPConnection
    connection = make(parts.hostname, parts.port, timeout=int(seconds))
    headers = dict(line.split(': ', 1) for line in lines)
    path = parts.path + ('?' + parts.query if parts.query else '')
    try:
        connection.request(method, path, body or None, headers)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server may have answered before it read everything
    response = connection.getresponse()
    head = ['HTTP/1.1 {} {}'.format(response.status, response.reason)]
    head += ['{}: {}'.format(*field) for field in response.getheaders()]
    sys.stdout.buffer.write('\r\n'.join(head + ['', '']).encode('latin-1', 'replace') + response.read(LIMIT))


try:
    main(*sys.argv[1:])
except Exception as error:
    sys.exit('{}: {}'.format(type(error).__name__, error))
