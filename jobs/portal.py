"""The parts for one job: made anew in every job, since RQ runs each in its own forked process."""

from myphr import settings
from myphr.portal import Portal


def portal() -> Portal:
    return Portal(settings.load())
