"""A WSGI app that answers every address with what it is below the site."""


def app(environ, start_response):
    answer = environ["PATH_INFO"].encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Answered-By", "the site")])
    return [answer]
