"""WSGI entry: `gunicorn app:app`."""

from myphr.portal import Portal
from myphr.settings import load
from myphr.web.application import create_app

app = create_app(Portal(load()))
