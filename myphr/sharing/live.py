"""Who may see a live screen now, who is seeing it, and how a right taken back closes it at once.

`web` and `shares` call `revoke` and `presence`; the screen gateway asks `right` before it lets anybody in and again
every so often, and writes the presence that `presence` reads. The database is the truth about rights; Redis only
carries the news. Knows no sockets.
"""

import dataclasses
import datetime as dt
import json
import time

import redis
from sqlmodel import Session

from myphr.database import Database
from myphr.errors import NotFound, SessionOver, ShareClosed
from myphr.machines.models import Machine, VmSession
from myphr.people.models import Account, LoginSession
from myphr.sharing.models import Share, ShareVisit
from myphr.sharing.states import OPEN

REVOKED_CHANNEL = "myphr:revoked"
PRESENCE_SECONDS = 30  # a watcher whose gateway has not said so for this long is gone (gateway killed)
_WITH_A_SCREEN = ("opening", "live")  # states of a VM session in which its machine's screen may be seen


@dataclasses.dataclass(frozen=True)
class Watcher:
    """One screen that is open now. `since` is aware, UTC."""

    grant: str
    access: str
    since: dt.datetime


@dataclasses.dataclass(frozen=True)
class Right:
    """What the database grants at this moment. `ends_at` is when it ends by itself, None if nothing says so."""

    account_id: str
    vmid: int
    node: str
    access: str
    ends_at: dt.datetime | None


# -- rights ---------------------------------------------------------------------------------------
def right(database: Database, *, vm_session_id: str, grant: str, visit: str | None, now: dt.datetime) -> Right:
    """The right of `grant` ("owner:<login session id>" or "share:<share id>") to this VM session's screen.

    Raises SessionOver when the VM session has no screen (any more), ShareClosed when the share or the login session
    gives no right (any more), NotFound when it never was about this VM session."""
    with database.read() as db:
        vm_session = db.get(VmSession, vm_session_id)
        if vm_session is None:
            raise NotFound("no such VM session")
        kind, _, grant_id = grant.partition(":")
        if kind == "owner":
            access, until = _owner(db, vm_session, grant_id, now)
        elif kind == "share":
            access, until = _share(db, vm_session, grant_id, visit, now)
        else:
            raise NotFound("no such kind of grant")
        # Asked last, so that a stranger learns nothing about the state of a session that is not theirs.
        if vm_session.state not in _WITH_A_SCREEN or vm_session.ended_at is not None:
            raise SessionOver("no screen in this state")
        machine = db.get(Machine, vm_session.machine_id) if vm_session.machine_id else None
        if machine is None or machine.state != "claimed":
            raise SessionOver("no machine")
        if vm_session.ends_at is not None and vm_session.ends_at <= now:
            raise SessionOver("hard limit reached")
        ends = [moment for moment in (until, vm_session.ends_at) if moment is not None]
        return Right(vm_session.account_id, machine.vmid, machine.node, access, min(ends, default=None))


def _owner(
    db: Session, vm_session: VmSession, login_session_id: str, now: dt.datetime
) -> tuple[str, dt.datetime | None]:
    login = db.get(LoginSession, login_session_id)
    if login is None or login.account_id != vm_session.account_id:
        raise NotFound("not this owner's")
    account = db.get(Account, login.account_id)
    if login.revoked_at is not None or login.expires_at <= now or account is None or account.closed_at is not None:
        raise ShareClosed("signed out")
    return "control", login.expires_at


def _share(
    db: Session, vm_session: VmSession, share_id: str, visit_id: str | None, now: dt.datetime
) -> tuple[str, dt.datetime]:
    share = db.get(Share, share_id)
    visit = db.get(ShareVisit, visit_id) if visit_id else None
    if share is None or visit is None or visit.share_id != share.id or share.vm_session_id != vm_session.id:
        raise NotFound("not this share's")
    if share.closed_at is not None or share.expires_at <= now or share.state not in OPEN:
        raise ShareClosed("withdrawn or expired")
    if share.access not in ("view", "control"):
        raise ShareClosed("unknown kind of access")  # fail closed on what this version does not know
    return share.access, share.expires_at


# -- news -----------------------------------------------------------------------------------------
def revoke(connection: redis.Redis, grant: str) -> None:
    """Closes every open screen of `grant`, now. Call after the database says so. Losing the news (Redis away) is
    harmless: the gateways notice and ask the database."""
    connection.publish(REVOKED_CHANNEL, grant)


def end_screens(connection: redis.Redis, vm_session_id: str) -> None:
    """Closes every open screen of a VM session that has just ended."""
    connection.publish(REVOKED_CHANNEL, f"vm:{vm_session_id}")


# -- presence -------------------------------------------------------------------------------------
def presence_key(vm_session_id: str) -> str:
    return f"myphr:presence:{vm_session_id}"


def input_key(vm_session_id: str) -> str:
    return f"myphr:input:{vm_session_id}"


def presence_value(grant: str, access: str, since: float, seen: float) -> str:
    """One field of the presence hash, as the gateway writes it. Times are unix seconds."""
    return json.dumps({"grant": grant, "access": access, "since": int(since), "seen": int(seen)})


def presence(connection: redis.Redis, vm_session_id: str) -> list[Watcher]:
    """Who is watching now, first come first. Raises redis.RedisError when Redis is away: say so, not "nobody"."""
    oldest = time.time() - PRESENCE_SECONDS
    watchers = []
    fields: dict[bytes, bytes] = connection.hgetall(presence_key(vm_session_id))  # type: ignore[assignment]
    for text in fields.values():
        value = json.loads(text)
        if value["seen"] >= oldest:
            since = dt.datetime.fromtimestamp(value["since"], dt.UTC)
            watchers.append(Watcher(value["grant"], value["access"], since))
    return sorted(watchers, key=lambda watcher: (watcher.since, watcher.grant))
