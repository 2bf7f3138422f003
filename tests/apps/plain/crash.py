"""WSGI apps outside any framework: one that fails before its headers, one that leaves without a word."""

import os


def raises(environ, start_response):
    raise RuntimeError("raised before the headers")


def leaves(environ, start_response):
    os._exit(3)


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]
