"""Mercurial's hgweb as a WSGI application."""

import os

from mercurial.hgweb import hgweb

here = os.path.dirname(os.path.abspath(__file__))
application = hgweb(os.path.join(here, 'hgweb.config').encode())
