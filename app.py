"""WSGI entry: `gunicorn app:app`."""

import resource

from myphr.portal import Portal
from myphr.settings import load
from myphr.web.application import create_app

# A request of many small files holds a handle for each until all are durable, and a service starts with 1,024.
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

app = create_app(Portal(load()))
