"""Shares of a live screen: one link for one caregiver, with a passcode told separately.

The link's secret stands in the fragment only, so no server log and no mail scanner that merely follows links sends
it; opening takes a POST. Stored are hashes and MACs. Called by web and jobs; `live` carries the news to the screens.
"""

import dataclasses
import datetime as dt
import hashlib
import hmac
import logging
import re
import secrets
from typing import TYPE_CHECKING

import redis
from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from myphr.audit.trail import SYSTEM, Actor, record
from myphr.database import new_id, now
from myphr.errors import FormRefused, NotFound, PasscodeRefused, SessionOver, ShareClosed
from myphr.machines import vm_sessions
from myphr.machines.models import VmSession
from myphr.machines.parts import Parts
from myphr.machines.states import StateConflict
from myphr.people.models import Account
from myphr.records import summaries
from myphr.sharing import live, mails, viewing
from myphr.sharing.models import Mail, Share, ShareVisit
from myphr.sharing.states import OPEN, SHARE, move

if TYPE_CHECKING:
    from myphr.people.accounts import Login

ACCESSES = ("view", "control")
PASSCODE_DIGITS = 6
ATTEMPTS_MAX = 5
SECONDS_MIN = 60
OPEN_SHARES_MAX = 20  # of one VM session
VISITS_MAX = 50  # of one share: a link that was passed on does not grow the table without bound
DEVICE_CHARACTERS_MAX = 80
_COOKIE = re.compile(r"([0-9a-f-]{36})\.([A-Za-z0-9_-]{43})")
_PASSCODE = re.compile(r"\d{6,8}", re.ASCII)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ShareView:
    """One line of "Who has access". `mail` is waiting, sending, sent or failed; `watching` who sees it now."""

    share: Share
    visits: list[ShareVisit]
    watching: list[live.Watcher]
    mail: str | None

    @property
    def is_open(self) -> bool:
        return self.share.state in OPEN


def grant_of(share_id: str) -> str:
    return f"share:{share_id}"


# -- giving -------------------------------------------------------------------------------------------
def create(
    parts: Parts, login: "Login", vm_session_id: str, email: str, access: str, seconds: int, with_passcode: bool = True
) -> tuple[Share, str, str | None]:
    """Share the screen of one of the owner's VM sessions. Returns the share, its link and its passcode (or None):
    both are told once and stored nowhere in clear. The mail with the link is on its way when this returns.

    Raises NotFound, SessionOver, FormRefused."""
    vm_session = vm_sessions.own(parts, login.account.id, vm_session_id)
    if vm_session.state not in ("opening", "live"):
        raise SessionOver("nothing to share")
    if access not in ACCESSES:
        raise FormRefused("access", reason="choose looking or controlling")
    if not SECONDS_MIN <= seconds <= parts.settings.share_seconds_max:
        raise FormRefused("seconds", reason="choose how long from the list")
    if viewing.owner_shown(parts.database, vm_session_id) is not None:
        raise FormRefused("of somebody else", reason="only the person whose files these are can share them")
    email = mails.checked_address(email)
    secret = secrets.token_urlsafe(32)
    passcode = f"{secrets.randbelow(10**PASSCODE_DIGITS):0{PASSCODE_DIGITS}}" if with_passcode else None
    created_at = now()
    expires_at = created_at + dt.timedelta(seconds=seconds)
    if vm_session.ends_at is not None:
        expires_at = min(expires_at, vm_session.ends_at)
    share = Share(
        id=new_id(), account_id=vm_session.account_id, vm_session_id=vm_session_id, email=email, access=access,
        state=SHARE.first, secret_sha256=_sha256(secret), attempts_left=ATTEMPTS_MAX, expires_at=expires_at,
    )  # fmt: skip
    share.passcode_mac = _passcode_mac(parts, share.id, passcode) if passcode else None
    link = f"{parts.settings.public_url.rstrip('/')}/s/{share.id}#{secret}"
    with parts.database.write() as db:
        open_shares = db.exec(
            select(Share.id).where(Share.vm_session_id == vm_session_id, col(Share.state).in_(OPEN))
        ).all()
        if len(open_shares) >= OPEN_SHARES_MAX:
            raise FormRefused("too many shares", reason=f"stop one of the {OPEN_SHARES_MAX} running shares first")
        db.add(share)
        db.flush()
        values = {
            "from_name": login.account.name, "access": access, "link": link,
            "long": _how_long(round((expires_at - created_at).total_seconds())),
            "expires_at": f"{summaries.date_words(expires_at)}, {expires_at:%H:%M} UTC", "passcode": bool(passcode),
        }  # fmt: skip
        mail = mails.add(db, parts, "share-invitation", email, values, share_id=share.id)
        record(
            db, "share-created", account_id=share.account_id, actor=Actor("patient", share.account_id), share=share.id,
            vm_session=vm_session_id, access=access, passcode=passcode is not None, seconds=seconds,
        )  # fmt: skip
    mails.enqueue(parts, mail.id)
    return share, link, passcode


def _how_long(seconds: int) -> str:
    """In the largest unit that fits without a rest: a mail knows no reader's clock, and "UTC" says little to many."""
    for unit, name in ((86_400, "day"), (3600, "hour")):
        if seconds >= unit and seconds % unit == 0:
            return summaries.count_words(seconds // unit, name)
    return summaries.count_words(max(1, round(seconds / 60)), "minute")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _passcode_mac(parts: Parts, share_id: str, passcode: str) -> str:
    """Keyed with the portal's own key: six digits are guessed at once from a plain hash."""
    text = f"myphr/passcode/1|{share_id}|{passcode}".encode()
    return hmac.new(parts.keys.passcode_key, text, hashlib.sha256).hexdigest()


# -- opening ------------------------------------------------------------------------------------------
def landing(parts: Parts, share_id: str) -> bool:
    """For the page behind the link: does it ask for a passcode? Changes nothing, tells nothing else, and answers True
    for a share that never was."""
    with parts.database.read() as db:
        share = db.get(Share, share_id)
    return share is None or share.passcode_mac is not None


def open_link(parts: Parts, share_id: str, secret: str, passcode: str | None = None, device: str = "") -> str:
    """Let this browser in; returns the value of its visit cookie. Works again and again inside the share's time.

    Raises NotFound (wrong link), ShareClosed, PasscodeRefused. Five wrong passcodes lock the share and tell the
    patient."""
    with parts.database.read() as db:
        share = db.get(Share, share_id)
    wanted = share.secret_sha256 if share else "0" * 64
    if not hmac.compare_digest(_sha256(secret), wanted) or share is None:
        raise NotFound("no such link")
    _check_open(parts, share)
    if share.passcode_mac is not None:
        _check_passcode(parts, share, passcode or "")
    token = secrets.token_urlsafe(32)
    visit = ShareVisit(id=new_id(), share_id=share.id, token_sha256=_sha256(token), device=_plain_device(device))
    for _ in range(5):
        try:
            with parts.database.write() as db:
                fresh = db.get(Share, share.id)
                assert fresh is not None
                if fresh.state not in OPEN:
                    raise ShareClosed(f"share is {fresh.state}")
                if len(db.exec(select(ShareVisit.id).where(ShareVisit.share_id == share.id)).all()) >= VISITS_MAX:
                    raise ShareClosed("opened too often")
                move(
                    db, fresh, "open", attempts_left=ATTEMPTS_MAX, first_opened_at=fresh.first_opened_at or now()
                )  # fmt: skip
                db.add(visit)
                db.flush()
                record(
                    db, "share-opened", account_id=share.account_id, actor=Actor("caregiver", share.id), share=share.id,
                    vm_session=share.vm_session_id, visit=visit.id,
                )  # fmt: skip
            return f"{visit.id}.{token}"
        except StateConflict:
            continue  # another browser opened it in the same moment, or it was withdrawn: look again
    raise ShareClosed("does not hold still")


def _plain_device(device: str) -> str:
    return "".join(c for c in device if c.isprintable())[:DEVICE_CHARACTERS_MAX]


def _check_open(parts: Parts, share: Share) -> VmSession:
    """Raises ShareClosed."""
    with parts.database.read() as db:
        vm_session = db.get(VmSession, share.vm_session_id)
    if share.state not in OPEN or share.expires_at <= now():
        raise ShareClosed(f"share is {share.state}")
    if vm_session is None or vm_session.state not in ("opening", "live"):
        raise ShareClosed("its VM session is over")
    return vm_session


def _check_passcode(parts: Parts, share: Share, passcode: str) -> None:
    if not _PASSCODE.fullmatch(passcode):
        # Not a guess: somebody pressed the button too early, or typed a letter.
        raise PasscodeRefused("not a passcode", remaining_attempts=share.attempts_left)
    # The try is taken before it is judged, so that many guesses at once are still five.
    with parts.database.write() as db:
        taken = db.connection().execute(
            update(Share)
            .where(col(Share.id) == share.id, col(Share.attempts_left) > 0, col(Share.state).in_(OPEN))
            .values(attempts_left=Share.attempts_left - 1)
        )
        if taken.rowcount != 1:
            raise ShareClosed("locked")
        fresh = db.get(Share, share.id)
        assert fresh is not None and fresh.passcode_mac is not None
        db.refresh(fresh)
        left = fresh.attempts_left
        right = hmac.compare_digest(_passcode_mac(parts, share.id, passcode), fresh.passcode_mac)
        mail = None
        if not right:
            record(
                db, "share-passcode-refused", account_id=share.account_id, actor=Actor("caregiver", share.id),
                share=share.id, vm_session=share.vm_session_id, attempts_left=left,
            )  # fmt: skip
            if left == 0:
                mail = _lock(db, parts, fresh)
    if right:
        return
    if left > 0:
        raise PasscodeRefused("wrong passcode", remaining_attempts=left)
    _announce(parts, share.id)
    if mail is not None:
        mails.enqueue(parts, mail.id)
    raise ShareClosed("locked")


def _lock(db: Session, parts: Parts, share: Share) -> Mail | None:
    move(db, share, "lock", closed_at=now())
    record(
        db, "share-locked", account_id=share.account_id, actor=SYSTEM, share=share.id, vm_session=share.vm_session_id
    )
    patient = db.get(Account, share.account_id)
    if patient is None:
        return None
    values = {"name": patient.name, "portal": parts.settings.public_url.rstrip("/") + "/"}
    return mails.add(db, parts, "share-locked", patient.email, values, share_id=share.id)


def resolve_visit(parts: Parts, cookie: str) -> tuple[Share, ShareVisit]:
    """The share that this browser may see now. Raises NotFound for a cookie of nobody, ShareClosed."""
    matched = _COOKIE.fullmatch(cookie or "")
    if matched is None:
        raise NotFound("no visit")
    visit_id, token = matched.groups()
    with parts.database.read() as db:
        visit = db.get(ShareVisit, visit_id)
        share = db.get(Share, visit.share_id) if visit else None
    if visit is None or share is None or not hmac.compare_digest(_sha256(token), visit.token_sha256):
        raise NotFound("no visit")
    _check_open(parts, share)
    return share, visit


def leave(parts: Parts, visit: ShareVisit) -> None:
    """Stop watching: this browser's cookie is worth nothing any more. The link stays what it was. Safe to repeat."""
    with parts.database.write() as db:
        db.connection().execute(delete(ShareVisit).where(col(ShareVisit.id) == visit.id))


# -- taking back --------------------------------------------------------------------------------------
def withdraw(parts: Parts, login: "Login", share_id: str) -> None:
    """Stop sharing: the screen closes at once. Safe to repeat. Raises NotFound."""
    share = _own(parts, login.account.id, share_id)
    if share.state not in OPEN:
        return
    _close(parts, share, "withdraw", Actor("patient", share.account_id))


def change_access(parts: Parts, login: "Login", share_id: str, access: str) -> None:
    """From looking to controlling or back, while it runs: its screens reconnect with the new right.

    Raises NotFound, FormRefused, ShareClosed."""
    share = _own(parts, login.account.id, share_id)
    if access not in ACCESSES:
        raise FormRefused("access", reason="choose looking or controlling")
    with parts.database.write() as db:
        changed = db.connection().execute(
            update(Share)
            .where(col(Share.id) == share_id, col(Share.state).in_(OPEN))
            .values(access=access, changed_at=now())
        )
        if changed.rowcount != 1:
            raise ShareClosed(f"share is {share.state}")
    if share.access != access:
        _announce(parts, share_id)


def close_for_vm_session(parts: Parts, vm_session_id: str) -> None:
    """All shares of a VM session that is over. Safe to repeat."""
    with parts.database.read() as db:
        found = db.exec(select(Share).where(Share.vm_session_id == vm_session_id, col(Share.state).in_(OPEN))).all()
    for share in found:
        _close(parts, share, "end", SYSTEM)


def sweep(parts: Parts) -> None:
    """Close what has expired or whose VM session is over. Safe to run twice."""
    with parts.database.read() as db:
        expired = db.exec(select(Share).where(col(Share.state).in_(OPEN), Share.expires_at <= now())).all()
        over = db.exec(
            select(Share)
            .join(VmSession, col(VmSession.id) == col(Share.vm_session_id))
            .where(col(Share.state).in_(OPEN), col(VmSession.state).in_(("ending", "ended", "failed")))
        ).all()
    for share in expired:
        _close(parts, share, "expire", SYSTEM)
    for share in over:
        _close(parts, share, "end", SYSTEM)


_EVENTS = {"withdraw": "share-withdrawn", "expire": "share-expired", "end": "share-ended"}


def _close(parts: Parts, share: Share, event: str, actor: Actor) -> None:
    for _ in range(5):
        try:
            with parts.database.write() as db:
                fresh = db.get(Share, share.id)
                if fresh is None or fresh.state not in OPEN:
                    return
                move(db, fresh, event, closed_at=now())
                record(
                    db, _EVENTS[event], account_id=share.account_id, actor=actor, share=share.id,
                    vm_session=share.vm_session_id,
                )  # fmt: skip
            _announce(parts, share.id)
            return
        except StateConflict:
            continue  # opened in the same moment
    raise StateConflict(f"share {share.id} does not hold still")


def _announce(parts: Parts, share_id: str) -> None:
    """After the database says so. News that is lost is harmless: gateways notice and ask."""
    try:
        live.revoke(parts.redis, grant_of(share_id))
    except redis.exceptions.RedisError:
        log.warning("share %s: the news of its end is late", share_id)


# -- looking ------------------------------------------------------------------------------------------
def _own(parts: Parts, account_id: str, share_id: str) -> Share:
    with parts.database.read() as db:
        share = db.get(Share, share_id)
    if share is None or share.account_id != account_id:
        raise NotFound(f"share {share_id}")
    return share


def list_for(parts: Parts, login: "Login", vm_session_id: str) -> list[ShareView]:
    """Who has, or had, access to this VM session: open shares first, newest first. Raises NotFound."""
    vm_sessions.own(parts, login.account.id, vm_session_id)
    with parts.database.read() as db:
        shares = db.exec(select(Share).where(Share.vm_session_id == vm_session_id)).all()
        ids = [share.id for share in shares]
        visits = db.exec(select(ShareVisit).where(col(ShareVisit.share_id).in_(ids))).all()
        sent = db.exec(select(Mail).where(col(Mail.share_id).in_(ids), Mail.template == "share-invitation")).all()
    try:
        watching = live.presence(parts.redis, vm_session_id)
    except redis.exceptions.RedisError:
        watching = []
    views = [
        ShareView(
            share,
            sorted((v for v in visits if v.share_id == share.id), key=lambda v: v.created_at),
            [w for w in watching if w.grant == grant_of(share.id)],
            next((mail.state for mail in sent if mail.share_id == share.id), None),
        )
        for share in shares
    ]
    return sorted(views, key=lambda view: (not view.is_open, -view.share.created_at.timestamp()))
