"""MoinMoin as a WSGI application."""

import os

from moin.app import create_app

here = os.path.dirname(os.path.abspath(__file__))
application = create_app(os.path.join(here, 'instance', 'wikiconfig.py'))
