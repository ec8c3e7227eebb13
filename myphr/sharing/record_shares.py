"""Shares of the record, the owner's side: who may open what, giving it, taking it back, keeping it up to date.

Keys: docs/formats/compartment.md. In every change the vault comes first, then the rows in one transaction: killed in
between, nobody is let in who should not be, and doing it again completes it. Called by the pages and at sign-in.
"""

import contextlib
import dataclasses
import datetime as dt
import logging
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import ColumnElement, delete, func, insert, update
from sqlmodel import Session, col, or_, select

from myphr.audit.trail import SYSTEM, Actor, record
from myphr.crypto.abe.multi_authority import encapsulate, policy_of
from myphr.crypto.statements import DestroyOrder
from myphr.database import new_id, now
from myphr.errors import EnvelopeError, FormRefused, NotFound, PortalError
from myphr.people import authorities, identities
from myphr.people.identities import AWAY, Person, VerifiedPerson
from myphr.people.keyholder import Block, Speaker
from myphr.people.models import Account, Authority, Identity
from myphr.records import opening, summaries
from myphr.records.models import Item, Study
from myphr.sharing import compartments, consents, policies, rewrapping, withdrawal
from myphr.sharing.compartments import Kind, Parts
from myphr.sharing.policies import Audience
from myphr.sharing.record_models import (
    Compartment,
    CompartmentKey,
    CompartmentReader,
    EmergencyOpening,
    ItemWrap,
    RewrapTask,
)

if TYPE_CHECKING:
    from myphr.people.accounts import Login

__all__ = ["Audience", "Preview", "Scope", "ShareView", "WithdrawalReport", "catch_up", "list_mine", "one", "preview",
           "reasons", "remove_person", "share", "title_of", "withdraw"]  # fmt: skip

log = logging.getLogger(__name__)
_SAME_OPENING = dt.timedelta(minutes=2)  # between the keyholder's clock and ours
THINGS_MAX = 200  # of one collection
_KINDS = {"imaging": "All imaging", "documents": "All documents", "all": "The whole record"}


@dataclasses.dataclass(frozen=True)
class Scope:
    """What is shared. Of `everything`, `id` is a kind: imaging, documents or all; what comes later belongs to it. Of a
    `collection` it names the studies and files the owner chose; what comes later to such a study belongs to it."""

    kind: Literal["item", "study", "everything", "collection"]
    id: str

    @classmethod
    def of(cls, things: Iterable[str]) -> "Scope":
        """What these name, each as `item:<id>` or `study:<id>`; one alone is itself. Raises FormRefused."""
        chosen = sorted(set(things))
        if not 1 <= len(chosen) <= THINGS_MAX:
            raise FormRefused("things", reason=f"choose at least one study or file, and at most {THINGS_MAX}")
        named = [_thing(one) for one in chosen]
        return named[0] if len(named) == 1 else cls("collection", " ".join(chosen))

    def things(self) -> list["Scope"]:
        """The studies and files of a collection."""
        return [_thing(one) for one in self.id.split(" ")]


def _thing(name: str) -> Scope:
    """Raises FormRefused."""
    kind, _, id_ = name.partition(":")
    if kind not in ("item", "study") or not re.fullmatch("[0-9a-f-]{36}", id_):
        raise FormRefused("things", reason="choose studies and files of your record")
    return Scope("item" if kind == "item" else "study", id_)


@dataclasses.dataclass(frozen=True)
class Preview:
    """Who could open it today; `words` say to the owner who they are."""

    words: str
    people: list[Person]
    count: int


@dataclasses.dataclass(frozen=True)
class OpeningView:
    """Somebody opened an emergency share."""

    who: str
    reason: str
    opened_at: dt.datetime
    until: dt.datetime


@dataclasses.dataclass(frozen=True)
class ShareView:
    """One share. `done` of `total` files have got new keys while it is `changing`."""

    id: str
    title: str
    words: str
    people: list[Person]
    since: dt.datetime
    state: Literal["active", "changing", "withdrawn"]
    done: int
    total: int
    emergency: bool
    openings: list[OpeningView]
    by_kind: bool = False  # of `delegations`


@dataclasses.dataclass(frozen=True)
class WithdrawalReport:
    """`milliseconds`: from the request until the access had ended and the keys were replaced. `items_left`: files whose
    keys the worker still wraps anew."""

    who: str
    ended_at: dt.datetime
    keys_replaced: int
    milliseconds: int
    sessions_ended: int
    items_left: int

    def sentence(self, zone: dt.tzinfo = dt.UTC) -> str:
        """With the time as the clock of this zone shows it; of keys only where some were replaced."""
        keys = summaries.count_words(self.keys_replaced, "key")
        stored = self.ended_at if self.ended_at.tzinfo else self.ended_at.replace(tzinfo=dt.UTC)
        at = f"{stored.astimezone(zone):%H:%M:%S}" + (" UTC" if zone is dt.UTC else "")
        told = f"access of {self.who} ended {at}"
        return f"{told}; {keys} replaced in {self.milliseconds:,} ms" if self.keys_replaced else told


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The owner's note of a share: see `Compartment.wrapped_plan`."""

    scope: Scope
    audience: Audience
    title: str
    words: str
    removed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"scope": dataclasses.asdict(self.scope), "audience": self.audience.to_plan(), "title": self.title,
                "words": self.words, "removed": list(self.removed)}  # fmt: skip

    @classmethod
    def from_json(cls, plan: dict[str, Any]) -> "_Plan":
        return cls(Scope(**plan["scope"]), Audience.from_plan(plan["audience"]), plan["title"], plan["words"],
                   tuple(plan["removed"]))  # fmt: skip


def title_of(parts: Parts, login: "Login", scope: Scope) -> str:
    """What would be shared, in words. Raises NotFound for what is not the owner's."""
    with parts.database.read() as db:
        return _title(db, login, scope)


# -- giving -------------------------------------------------------------------------------------------
def preview(parts: Parts, login: "Login", audience: Audience) -> Preview:
    """Who could open it today. Raises FormRefused for nobody, and for what one organisation alone could open."""
    policies.check_form(audience)
    with parts.database.read() as db:
        people = _people(db, identities.gid_of(login), audience)
        return Preview(_owners_words(audience, _words(db, audience, people)), people, len(people))


def share(parts: Parts, login: "Login", scope: Scope, audience: Audience) -> str:
    """Share with this audience; returns the id of the share. The same again is the same share.

    Raises FormRefused, NotFound for what is not the owner's, KeyholderUnavailable, CertificateMissing."""
    shown = preview(parts, login, audience)
    with parts.database.read() as db:
        title, words = _title(db, login, scope), _words(db, audience, shown.people)
    for row, plan in _mine(parts, login):
        if row.state == "active" and (plan.scope, plan.audience) == (scope, audience):
            return row.id
    people = [] if audience.preset == "emergency" else consents.verified(parts, shown.people)
    if audience.is_named and len(people) < shown.count:
        raise FormRefused("no keys", reason="everybody has to sign in once before you can share with them")
    if audience.preset == "care-team" and not people:
        raise FormRefused("no keys", reason="nobody of them has signed in yet")
    plan = _Plan(scope, audience, title, words)
    gid, compartment_id = identities.gid_of(login), new_id()
    made = _make_epoch(parts, login, compartment_id, 0, plan, people)
    with parts.database.read() as db:
        wraps = _wraps(db, login, compartment_id, 0, scope, made.ck)
    with parts.database.write() as db:
        db.add(Compartment(
            id=compartment_id, account_id=login.account.id, owner_gid=gid, kind=_kind(audience),
            preset=audience.preset, authority_gid=audience.authority_gid or None,
            registrar_gid=audience.registrar_gid or None,
            wrapped_plan=compartments.wrap_plan(login.ring(), compartment_id, plan.to_json()),
        ))  # fmt: skip
        db.flush()
        made.add(db)
        if wraps:
            db.execute(insert(ItemWrap), wraps)
        _note(db, "record-shared", login, share=compartment_id, preset=audience.preset, items=len(wraps),
              people=shown.count)  # fmt: skip
    return compartment_id


def _people(db: Session, owner_gid: str, audience: Audience, removed: Sequence[str] = ()) -> list[Person]:
    """Raises FormRefused for nobody."""
    if audience.is_named:
        try:
            found = [identities.active_person(db, gid) for gid in dict.fromkeys(audience.gids)]
        except NotFound:
            raise FormRefused("gid", reason="somebody of them has no account here, or it was stopped") from None
    else:
        found = consents.holders(db, audience)
    found = [person for person in found if person.gid != owner_gid and person.gid not in removed]
    if not found:
        raise FormRefused("nobody", reason="nobody but you could open this today")
    return found


def _words(db: Session, audience: Audience, people: Sequence[Person]) -> str:
    if audience.is_named:
        return ", ".join(person.name for person in people)
    names = {gid: row.name for gid in {one[0] for one in audience.held} if (row := db.get(Authority, gid))}
    if audience.preset == "emergency":
        return (f"emergency staff of {names.get(audience.authority_gid, '')} named by "
                f"{names.get(audience.registrar_gid, '')}, with a reason, for an hour")  # fmt: skip
    roles = " and ".join(authorities.attribute_words(name, value) for name, value in audience.attributes)
    return f"{roles} at {names.get(audience.authority_gid, '')}"


def _owners_words(audience: Audience, words: str) -> str:
    """`words` stand in what readers open too; this half is said to the owner alone."""
    return f"{words}, and only those you agree to" if audience.preset == "care-team" else words


def _title(db: Session, login: "Login", scope: Scope) -> str:
    """Raises NotFound for what is not there or not the owner's."""
    if scope.kind == "everything":
        if scope.id not in _KINDS:
            raise NotFound("no such kind")
        return _KINDS[scope.id]
    if scope.kind == "collection":
        titles = [_title(db, login, one) for one in scope.things()]
        return f"{titles[0]}, and {len(titles) - 1:,} more"
    row = db.get(Item, scope.id) if scope.kind == "item" else db.get(Study, scope.id)
    if row is None or row.account_id != login.account.id or row.deleted_at is not None:
        raise NotFound(scope.kind)
    if isinstance(row, Study):
        summary = opening.summary_of(login.ring(), row)
        date = summaries.date_of(str(summary.get("study_date") or ""))
        return f"{summaries.title(summary)}, {summaries.date_words(date)}"
    return str(opening.details_of(login.ring(), row).get("name") or "A file")


def _in_scope(login: "Login", scope: Scope) -> list[ColumnElement[bool]]:
    conditions = [col(Item.account_id) == login.account.id, col(Item.deleted_at).is_(None)]
    if scope.kind == "item":
        conditions.append(col(Item.id) == scope.id)
    elif scope.kind == "study":
        conditions.append(col(Item.study_id) == scope.id)
    elif scope.kind == "collection":
        things = scope.things()
        conditions.append(or_(col(Item.id).in_([one.id for one in things if one.kind == "item"]),
                              col(Item.study_id).in_([one.id for one in things if one.kind == "study"])))  # fmt: skip
    elif scope.id == "imaging":
        conditions.append(col(Item.study_id).is_not(None))
    elif scope.id == "documents":
        conditions.append(col(Item.study_id).is_(None))
    return conditions


def _wraps(
    db: Session, login: "Login", compartment_id: str, epoch: int, scope: Scope, ck: bytes
) -> list[dict[str, Any]]:
    """Rows for the files of the scope that have none yet. A file whose own key is damaged is left out."""
    ring = login.ring()
    have = select(ItemWrap.item_id).where(ItemWrap.compartment_id == compartment_id)
    found = []
    for item in db.exec(select(Item.id, Item.sealed_dek).where(*_in_scope(login, scope), col(Item.id).not_in(have))):
        try:
            dek = ring.open_dek(item)  # type: ignore[arg-type]  # a row of these two columns
        except EnvelopeError:
            log.warning("item %s is damaged and was not shared", item[0])
            continue
        wrapped = compartments.wrap_dek(ck, compartment_id, item[0], epoch, dek)
        found.append({"compartment_id": compartment_id, "item_id": item[0], "epoch": epoch, "wrapped_dek": wrapped})
    return found


# -- one epoch ----------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Made:
    ck: bytes = dataclasses.field(repr=False)
    key: CompartmentKey
    readers: list[CompartmentReader]

    def add(self, db: Session) -> None:
        db.add(self.key)
        for reader in self.readers:
            db.add(reader)


def _kind(audience: Audience) -> Kind:
    return "named" if audience.is_named else "policy"


def _make_epoch(
    parts: Parts, login: "Login", compartment_id: str, epoch: int, plan: _Plan, people: Sequence[VerifiedPerson]
) -> _Made:
    """The key of an epoch, with its half in the vault; nothing is written here. Again: another key, the same half."""
    speaker, keys, ring = identities.proof_for(login, parts), identities.keys_of(login), login.ring()
    rule = policies.rule_of(plan.audience, [person.gid for person in people])
    publics, tables = {speaker.gid: keys.authority_secret().public}, {}
    for gid in {one[0] for one in plan.audience.held}:
        publics[gid], tables[gid] = policies.authority(parts, gid)
    if epoch:
        parts.keyholder.vault_rule(speaker, compartment_id, rule)
    half = parts.keyholder.vault_create(speaker, compartment_id, epoch, rule)
    if plan.audience.is_named:
        secret = secrets.token_bytes(32)
        header = compartments.named_header(compartment_id, speaker.gid, epoch, [person.gid for person in people])
        sealed = [consents.seal_secret(secret, compartment_id, epoch, person) for person in people]
    else:
        policy = policies.policy_of(plan.audience, tables, compartment_id, speaker.gid, epoch)
        bound = compartments.binding(compartment_id, speaker.gid, epoch)
        secret, header = encapsulate(policy, publics, binding=bound)
        own = keys.authority_secret()
        sealed = [consents.seal_consent(own, compartment_id, epoch, person) for person in people]
    ck = compartments.key_of(secret, ring.open(half.sealed, context=half.context), header)
    signature = compartments.sign_header(
        keys.signing_key(), _kind(plan.audience), compartment_id, speaker.gid, epoch, header
    )
    row = CompartmentKey(
        compartment_id=compartment_id, epoch=epoch, header=header, signature=signature,
        wrapped_ck=compartments.wrap_ck(ring, compartment_id, epoch, ck),
        wrapped_words=compartments.wrap_words(ck, compartment_id, epoch, {"title": plan.title, "words": plan.words}),
    )  # fmt: skip
    readers = [CompartmentReader(compartment_id=compartment_id, epoch=epoch, gid=person.gid, sealed=one)
               for person, one in zip(people, sealed, strict=True)]  # fmt: skip
    return _Made(ck, row, readers)


def _roll(parts: Parts, login: "Login", row: Compartment, plan: _Plan) -> tuple[int, int]:
    """The next epoch, and the worker told to wrap the files' keys anew; (keys replaced, files left). Raises FormRefused
    when nobody is left, and what the keyholder raises."""
    with parts.database.read() as db:
        people: list[Person] = []
        if plan.audience.is_named:
            people = _shown(db, row, plan)  # whose accounts are still open
        elif plan.audience.preset == "care-team":
            people = _people(db, row.owner_gid, plan.audience, plan.removed)
        older = db.exec(select(CompartmentKey).where(CompartmentKey.compartment_id == row.id)).all()
    ring, epoch = login.ring(), row.epoch + 1
    verified = consents.verified(parts, people)
    if not verified and plan.audience.preset != "emergency":
        raise FormRefused("nobody", reason="nobody but you could open this today")
    made = _make_epoch(parts, login, row.id, epoch, plan, verified)
    cks = {key.epoch: compartments.unwrap_ck(ring, row.id, key.epoch, key.wrapped_ck) for key in older}
    order = DestroyOrder(row.owner_gid, row.id, epoch).sign(identities.keys_of(login).signing_key())
    task = RewrapTask(compartment_id=row.id, to_epoch=epoch, keys_for_worker=None, destroy_order=order)
    task.keys_for_worker = compartments.seal_keys(parts.keys.worker.public, task.id, cks | {epoch: made.ck})
    with parts.database.write() as db:
        moved = db.connection().execute(
            update(Compartment)
            .where(col(Compartment.id) == row.id, col(Compartment.epoch) == row.epoch,
                   col(Compartment.state) == "active")
            .values(epoch=epoch, stale=False)
        )  # fmt: skip
        if moved.rowcount != 1:
            return 0, 0  # withdrawn, or rolled by another browser of the owner
        made.add(db)
        task.total = db.exec(select(func.count()).select_from(ItemWrap).where(ItemWrap.compartment_id == row.id)).one()
        rewrapping.stop(db, row.id)
        db.add(task)
    rewrapping.enqueue(parts, task.id)
    return len(made.readers) + 1, task.total


# -- taking back --------------------------------------------------------------------------------------
def withdraw(parts: Parts, login: "Login", share_id: str) -> WithdrawalReport:
    """Nobody but the owner opens it any more, for good: the vault's halves are destroyed first, and that moment counts.
    Safe to repeat. Raises NotFound, KeyholderUnavailable; nothing was changed then."""
    started = time.monotonic()
    row, _ = _own(parts, login, share_id)
    halves, ended_at = 0, row.withdrawn_at or now()
    if row.state == "active":
        with contextlib.suppress(NotFound):  # the vault never had it, or it went with an earlier identity: no half left
            halves = parts.keyholder.vault_destroy(identities.proof_for(login, parts), share_id)
        ended_at = now()
        with parts.database.write() as db:
            forget(db, share_id, ended_at)
            _note(db, "record-share-withdrawn", login, share=share_id)
    ended = withdrawal.end_sessions(parts, [share_id], None)
    return WithdrawalReport("everybody", ended_at, halves, _ms(started), ended, 0)


def destroy_halves(parts: Parts, login: "Login", speaker: Speaker) -> int:
    """The vault's halves of all that this owner shares, for good: the account closes. Safe to repeat."""
    with parts.database.read() as db:
        ids = db.exec(select(Compartment.id).where(Compartment.account_id == login.account.id,
                                                   Compartment.kind != "labels")).all()  # fmt: skip
    halves = 0
    for share_id in ids:
        with contextlib.suppress(NotFound):  # withdrawn before, or of an earlier identity: no half left
            halves += parts.keyholder.vault_destroy(speaker, share_id)
    return halves


def forget(db: Session, share_id: str, at: dt.datetime) -> None:
    """Rows of a share whose halves are gone: what is left tells that it was, and opens nothing."""
    db.execute(update(Compartment).where(col(Compartment.id) == share_id)
               .values(state="withdrawn", stale=False, withdrawn_at=at))  # fmt: skip
    rewrapping.stop(db, share_id)
    db.execute(delete(ItemWrap).where(col(ItemWrap.compartment_id) == share_id))
    db.execute(delete(CompartmentReader).where(col(CompartmentReader.compartment_id) == share_id))
    db.execute(delete(CompartmentKey).where(col(CompartmentKey.compartment_id) == share_id))


def remove_person(parts: Parts, login: "Login", share_id: str, gid: str) -> WithdrawalReport:
    """This person no longer opens it; the others do. The vault's block comes first, and that moment counts. With the
    keyholder away between block and new keys, those follow at the next sign-in. Safe to repeat. Raises NotFound,
    KeyholderUnavailable; nothing was changed then."""
    started = time.monotonic()
    row, plan = _own(parts, login, share_id)
    with parts.database.read() as db:
        name = _name(db, gid)
        left = [person for person in _shown(db, row, plan) if person.gid != gid]
        words = _words(db, plan.audience, left) if plan.audience.is_named else plan.words
    if row.state != "active" or gid == row.owner_gid:
        raise NotFound("no such person")
    if not left and plan.audience.is_named:
        return dataclasses.replace(withdraw(parts, login, share_id), who=name)
    parts.keyholder.vault_block(identities.proof_for(login, parts), Block(gid=gid), share_id)
    ended_at = now()
    audience = dataclasses.replace(plan.audience, gids=tuple(one for one in plan.audience.gids if one != gid))
    removed = tuple(dict.fromkeys((*plan.removed, gid)))
    plan = dataclasses.replace(plan, audience=audience, words=words, removed=removed)
    with parts.database.write() as db:
        db.execute(
            update(Compartment)
            .where(col(Compartment.id) == share_id)
            .values(stale=True, wrapped_plan=compartments.wrap_plan(login.ring(), share_id, plan.to_json()))
        )
        db.execute(delete(CompartmentReader).where(col(CompartmentReader.compartment_id) == share_id,
                                                   col(CompartmentReader.gid) == gid))  # fmt: skip
        _note(db, "record-share-person-removed", login, share=share_id, person=gid)
    ended = withdrawal.end_sessions(parts, [share_id], gid)
    keys = items_left = 0
    try:
        keys, items_left = _roll(parts, login, row, plan)
    except (*AWAY, FormRefused) as error:  # nobody left today, or later: the block holds meanwhile
        log.warning("share %s rolls later: %s", share_id, error.code)
    return WithdrawalReport(name, ended_at, keys, _ms(started), ended, items_left)


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


# -- keeping up ---------------------------------------------------------------------------------------
def catch_up(parts: Parts, login: "Login") -> None:
    """At the owner's unlock: consent for who has the role now, keys rolled where somebody or an attribute went, new
    files of the scope, old halves destroyed. What cannot be done now is done next time. Safe to run twice."""
    for row, plan in _mine(parts, login):
        if row.state != "active":
            continue
        try:
            _catch_up(parts, login, row, plan)
        except AWAY as error:
            log.warning("shares stay as they were: %s", error.code)
            return
        except PortalError as error:
            log.warning("share %s stays as it was: %s", row.id, error.code)


def _catch_up(parts: Parts, login: "Login", row: Compartment, plan: _Plan) -> None:
    speaker = identities.proof_for(login, parts)
    if row.owner_gid != speaker.gid:  # of an identity that was revoked: the vault withholds it for good
        with parts.database.write() as db:
            forget(db, row.id, now())
        return
    rewrapping.destroy_old(parts, speaker, row.id)
    if row.preset == "emergency":
        _missed_openings(parts, login, speaker, row)
    with parts.database.read() as db:
        key = db.get(CompartmentKey, (row.id, row.epoch))
        readers = set(db.exec(select(CompartmentReader.gid).where(CompartmentReader.compartment_id == row.id,
                                                                  CompartmentReader.epoch == row.epoch)))  # fmt: skip
        today: list[Person] = []
        with contextlib.suppress(FormRefused):
            today = _people(db, row.owner_gid, plan.audience, plan.removed)
    assert key is not None
    if _is_behind(parts, row, plan, key, readers, {person.gid for person in today}):
        _roll(parts, login, row, plan)
        with parts.database.read() as db:
            fresh, key = db.get(Compartment, row.id), db.get(CompartmentKey, (row.id, row.epoch + 1))
        if fresh is None or key is None:
            return
        row = fresh
    elif plan.audience.preset == "care-team":
        _consent(parts, login, row, [person for person in today if person.gid not in readers])
    ck = compartments.unwrap_ck(login.ring(), row.id, row.epoch, key.wrapped_ck)
    with parts.database.read() as db:
        wraps = _wraps(db, login, row.id, row.epoch, plan.scope, ck)
    if wraps:
        with parts.database.write() as db:
            fresh = db.get(Compartment, row.id, with_for_update=True)
            if fresh is None or (fresh.state, fresh.epoch) != ("active", row.epoch):
                return
            # Another browser of the owner may have been here since the files were read.
            have = set(db.exec(select(ItemWrap.item_id).where(ItemWrap.compartment_id == row.id)))
            if missing := [wrap for wrap in wraps if wrap["item_id"] not in have]:
                db.execute(insert(ItemWrap), missing)


def _missed_openings(parts: Parts, login: "Login", speaker: Speaker, row: Compartment) -> None:
    """What the keyholder recorded and a process killed in that moment did not: told now, without the reason."""
    with parts.database.read() as db:
        told = db.exec(select(EmergencyOpening).where(EmergencyOpening.compartment_id == row.id)).all()
    for one in parts.keyholder.vault_openings(speaker, row.id):
        opened_at = dt.datetime.fromtimestamp(one.opened_at, dt.UTC)
        if any(known.gid == one.member and abs(known.opened_at - opened_at) < _SAME_OPENING for known in told):
            continue
        missed = EmergencyOpening(
            compartment_id=row.id, gid=one.member, sealed_reason=b"", opened_at=opened_at,
            until=dt.datetime.fromtimestamp(one.until, dt.UTC),
        )  # fmt: skip
        told_instead = "what they wrote was lost"
        missed.sealed_reason = compartments.seal_reason(login.ring().public_key, missed.id, told_instead)
        with parts.database.write() as db:
            db.add(missed)
            record(db, "emergency-opened", account_id=row.account_id, actor=SYSTEM, share=row.id, opening=missed.id,
                   minutes=policies.WINDOW_MINUTES)  # fmt: skip


def _is_behind(
    parts: Parts, row: Compartment, plan: _Plan, key: CompartmentKey, readers: set[str], today: set[str]
) -> bool:
    if plan.audience.is_named:
        return row.stale
    if plan.audience.preset == "care-team" and not today:
        return False  # nobody to give a new key to; the vault's rule lets nobody in
    tables = {gid: policies.authority(parts, gid)[1] for gid in {one[0] for one in plan.audience.held}}
    return row.stale or bool(readers - today) or policies.is_behind(policy_of(key.header), tables)


def _consent(parts: Parts, login: "Login", row: Compartment, people: Sequence[Person]) -> None:
    own = identities.keys_of(login).authority_secret()
    for person in consents.verified(parts, people):
        sealed = consents.seal_consent(own, row.id, row.epoch, person)
        with parts.database.write() as db:
            fresh = db.get(Compartment, row.id, with_for_update=True)
            known = db.get(CompartmentReader, (row.id, row.epoch, person.gid))
            if fresh is not None and fresh.state == "active" and fresh.epoch == row.epoch and known is None:
                db.add(CompartmentReader(compartment_id=row.id, epoch=row.epoch, gid=person.gid, sealed=sealed))


# -- looking ------------------------------------------------------------------------------------------
def list_mine(parts: Parts, login: "Login") -> list[ShareView]:
    """All shares of the record, the newest first, those that ended last."""
    with parts.database.read() as db:
        views = [_view(db, login, row, plan) for row, plan in _mine(parts, login)]
    return sorted(views, key=lambda view: view.state == "withdrawn")


def one(parts: Parts, login: "Login", share_id: str) -> ShareView:
    """Raises NotFound."""
    row, plan = _own(parts, login, share_id)
    with parts.database.read() as db:
        return _view(db, login, row, plan)


def reasons(parts: Parts, login: "Login") -> dict[str, str]:
    """What people wrote who opened this owner's record in an emergency, by the id of the opening."""
    query = (
        select(EmergencyOpening)
        .join(Compartment, col(Compartment.id) == col(EmergencyOpening.compartment_id))
        .where(Compartment.account_id == login.account.id)
    )
    with parts.database.read() as db:
        return {one.id: _reason(login, one) for one in db.exec(query)}


def _mine(parts: Parts, login: "Login") -> list[tuple[Compartment, _Plan]]:
    """A row whose plan this owner did not make is left out: it is nobody's share."""
    with parts.database.read() as db:
        rows = db.exec(
            select(Compartment)
            .where(Compartment.account_id == login.account.id, Compartment.kind != "labels")
            .order_by(col(Compartment.created_at).desc())
        ).all()
    found = []
    for row in rows:
        try:
            found.append((row, _Plan.from_json(compartments.unwrap_plan(login.ring(), row.id, row.wrapped_plan))))
        except EnvelopeError:
            log.error("share %s was changed in the database", row.id)
    return found


def _own(parts: Parts, login: "Login", share_id: str) -> tuple[Compartment, _Plan]:
    for row, plan in _mine(parts, login):
        if row.id == share_id:
            return row, plan
    raise NotFound("share")


def _view(db: Session, login: "Login", row: Compartment, plan: _Plan) -> ShareView:
    task = db.exec(select(RewrapTask).where(RewrapTask.compartment_id == row.id, RewrapTask.state == "waiting")).first()
    openings = db.exec(
        select(EmergencyOpening)
        .where(EmergencyOpening.compartment_id == row.id)
        .order_by(col(EmergencyOpening.opened_at).desc())
    ).all()
    state: Literal["active", "changing", "withdrawn"] = "active"
    if row.state != "active":
        state = "withdrawn"
    elif task is not None or row.stale:
        state = "changing"
    return ShareView(
        row.id, plan.title, _owners_words(plan.audience, plan.words), _shown(db, row, plan), row.created_at, state,
        task.done if task else 0, task.total if task else 0, row.preset == "emergency",
        [OpeningView(_name(db, one.gid), _reason(login, one), one.opened_at, one.until) for one in openings],
    )  # fmt: skip


def _shown(db: Session, row: Compartment, plan: _Plan) -> list[Person]:
    if row.state != "active":
        return []
    if plan.audience.preset == "emergency":
        return [one for one in consents.holders(db, plan.audience) if one.gid not in (row.owner_gid, *plan.removed)]
    gids = set(db.exec(select(CompartmentReader.gid).where(CompartmentReader.compartment_id == row.id)))
    people = []
    for gid in gids:
        with contextlib.suppress(NotFound):
            people.append(identities.active_person(db, gid))
    return sorted(people, key=lambda person: (person.name, person.gid))


def _reason(login: "Login", opened: EmergencyOpening) -> str:
    try:
        return compartments.open_reason(login.ring(), opened.id, opened.sealed_reason)
    except EnvelopeError:
        return "what was written is damaged"


def _name(db: Session, gid: str) -> str:
    identity = db.get(Identity, gid)
    account = db.get(Account, identity.account_id) if identity and identity.account_id else None
    return account.name if account else "somebody"


def _note(db: Session, event: str, login: "Login", **details: object) -> None:
    record(db, event, account_id=login.account.id, actor=Actor("patient", login.account.id), **details)
