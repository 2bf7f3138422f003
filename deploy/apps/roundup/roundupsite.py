"""A Roundup tracker as a WSGI application."""

import os

from roundup.cgi.wsgi_handler import RequestDispatcher

here = os.path.dirname(os.path.abspath(__file__))
application = RequestDispatcher(os.path.join(here, 'tracker'))
