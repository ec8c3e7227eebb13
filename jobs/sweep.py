"""The recurring round: whatever ran out, got lost or was forgotten. Each part stands alone: one that fails is logged
and does not keep the others from their turn. Safe to run twice."""

import logging
from collections.abc import Callable

from jobs.portal import portal
from myphr.audit import trail
from myphr.ingest import drop_offs
from myphr.ingest.fhir import fetches
from myphr.ingest.pacs import fetches as pacs_fetches
from myphr.ingest.reading import work as reading
from myphr.machines import reaper, templates
from myphr.people import login_sessions
from myphr.portal import Portal
from myphr.records import deletions, exports, removal
from myphr.sharing import app_keys, closing, forgetting, mails, rewrapping, shares, viewing
from myphr.viewers import outcomes

log = logging.getLogger(__name__)



def sweep() -> None:
    """Everything, every 15 seconds."""
    run(portal())


def run(parts: Portal) -> None:
    _alone("machines", reaper.sweep, parts)
    _alone("shares", shares.sweep, parts)
    _alone("drop-offs", drop_offs.sweep, parts)
    _alone("app keys", app_keys.sweep, parts)
    _alone("fetches from hospitals", fetches.sweep, parts)
    _alone("fetches from PACS", pacs_fetches.sweep, parts)
    _alone("mails", mails.sweep, parts)
    _alone("emergencies", viewing.end_emergencies, parts)
    _alone("shares of the record", rewrapping.enqueue_stuck, parts)
    _alone("exports", exports.sweep, parts)
    _alone("viewers", _viewers, parts)
    _alone("deletions", lambda parts: deletions.sweep(parts, (forgetting.forget_items,)), parts)
    _alone("accounts that close", closing.sweep, parts)
    _alone("readings", reading.sweep, parts)
    if _due(parts, "templates", 60):
        _alone("names of templates", templates.note_installed, parts)
    if _due(parts, "outcomes", 3600):
        _alone("answers about viewers", outcomes.count, parts)
    if _due(parts, "audit", 60):
        _alone("audit", _anchor, parts)
    if _due(parts, "login-sessions", 300):
        _alone("login sessions", lambda parts: login_sessions.sweep(parts.database), parts)
    if _due(parts, "uploads", 60):
        _alone("uploads", _uploads, parts)
    if _due(parts, "store", 3600):
        _alone("removed items", _removed, parts)
        _alone("store", lambda parts: removal.sweep_orphans(parts.database, parts.store), parts)


def _viewers(parts: Portal) -> None:
    from myphr import still_opens

    if still_opens.is_turn(parts):
        parts.queue.enqueue("jobs.machines.try_a_viewer", seconds_max=still_opens.TRY_SECONDS_MAX)


def _due(parts: Portal, name: str, seconds: int) -> bool:
    """True once in so many seconds, over all workers."""
    return bool(parts.redis.set(f"myphr:swept:{name}", 1, nx=True, ex=seconds))


def _alone(name: str, work: Callable[[Portal], object], parts: Portal) -> None:
    try:
        work(parts)
    except Exception as error:  # the class only: a message may hold a path
        log.error("sweep of %s: %s", name, type(error).__name__)


def _anchor(parts: Portal) -> None:
    """Keep the newest hash of the audit trail outside the database, so that a cut tail shows."""
    trail.anchor(parts.database, parts.settings.home / "audit-head")


def _uploads(parts: Portal) -> None:
    from myphr.ingest import uploads

    uploads.sweep(parts)


def _removed(parts: Portal) -> None:
    removal.erase_removed(parts.database, parts.store, forget=(forgetting.forget_items,))
