"""Shares of the record, the reader's side: what others share with who is signed in, and opening it.

Opening takes, every time, the vault's half from the keyholder, the owner's signature on the header, and the reader's
own keys; nothing of it is kept. What does not open is NotFound, whatever the reason. Called by the pages and by what
starts a reader's session.
"""

import dataclasses
import datetime as dt
import hashlib
import logging
from typing import TYPE_CHECKING, Any, cast

import redis
from sqlmodel import Session, col, select

from myphr.audit.trail import Actor, record
from myphr.crypto import envelope
from myphr.crypto.abe.multi_authority import AttributeKey, decapsulate, policy_of
from myphr.crypto.abe.policy import leaves_of
from myphr.database import new_id, now
from myphr.errors import (
    AbeError,
    AccessWithheld,
    CertificateRefused,
    EnvelopeError,
    FormRefused,
    IdentityRevoked,
    NotFound,
    PolicyError,
)
from myphr.people import authorities, identities
from myphr.people.identities import VerifiedPerson
from myphr.people.keyholder import Released, Speaker, unpack_keys
from myphr.people.models import Account, Authority
from myphr.records.models import Item
from myphr.records.opening import open_details
from myphr.sharing import compartments, delegated_to_me, mails, policies
from myphr.sharing.compartments import Kind, Parts
from myphr.sharing.delegated_to_me import Delegated
from myphr.sharing.record_models import Compartment, CompartmentKey, CompartmentReader, EmergencyOpening, ItemWrap

if TYPE_CHECKING:
    from myphr.people.accounts import Login

REASON_CHARACTERS_MAX = 1000
ROLLS_MEANWHILE_MAX = 3
CLOSED = (AbeError, AccessWithheld, CertificateRefused, EnvelopeError, IdentityRevoked, NotFound, PolicyError)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SharedView:
    """One line of "Shared with me". With `needs_reason` it is for emergencies, and its title is not told before."""

    id: str
    owner_name: str
    title: str
    words: str
    since: dt.datetime
    needs_reason: bool


@dataclasses.dataclass(frozen=True)
class SharedItem:
    item: Item
    dek: bytes = dataclasses.field(repr=False)
    details: dict[str, Any] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Opened:
    """`window_until`: when an emergency's hour ends. `compartment_id` is the share's own id, but for one by kind."""

    share_id: str
    compartment_id: str
    owner_gid: str
    owner_name: str
    title: str
    items: list[SharedItem]
    window_until: dt.datetime | None


@dataclasses.dataclass(frozen=True)
class OpenEpoch:
    epoch: int
    ck: bytes = dataclasses.field(repr=False)
    released: Released
    words: dict[str, str]


def list_shared(parts: Parts, login: "Login") -> list[SharedView]:
    """What others share with this person, the newest first; also what they could open in an emergency. Each is really
    opened for its title, so that what was taken back is gone. Raises KeyholderUnavailable, CertificateMissing."""
    gid = identities.gid_of(login)
    with parts.database.read() as db:
        rows = [(row, owner_name_of(db, row)) for row in mine_to_read(db, gid)]
        by_kind = [(one, owner_name_of(db, one.compartment)) for one in delegated_to_me.to_read(db, gid)]
    views = []
    for row, owner_name in rows:
        if row.preset == "emergency":
            with parts.database.read() as db:
                hospital = db.get(Authority, row.authority_gid)
            words = f"for emergency staff of {hospital.name}" if hospital else ""
            views.append(SharedView(row.id, owner_name, "In an emergency", words, row.created_at, True))
            continue
        try:
            told = open_epochs(parts, login, row, b"")[0].words
        except CLOSED:
            continue
        views.append(SharedView(row.id, owner_name, told["title"], told["words"], row.created_at, False))
    for one, owner_name in by_kind:
        try:
            title, words = delegated_to_me.words(parts, login, one)
        except CLOSED:
            continue
        views.append(SharedView(one.row.id, owner_name, title, words, one.row.created_at, False))
    return sorted(views, key=lambda view: view.since, reverse=True)


def open_shared(parts: Parts, login: "Login", share_id: str, reason: str = "") -> Opened:
    """The files of a share with their keys, for this request. Raises NotFound for who is not, or no longer, let in;
    ReasonRequired for an emergency share without an open window or a reason; KeyholderUnavailable. The owner is told of
    an emergency by mail at once."""
    reason = " ".join(reason.split())
    if len(reason) > REASON_CHARACTERS_MAX:
        raise FormRefused("reason", reason=f"write at most {REASON_CHARACTERS_MAX:,} letters")
    gid = identities.gid_of(login)
    with parts.database.read() as db:
        row = next((one for one in mine_to_read(db, gid) if one.id == share_id), None)
        by_kind = next((one for one in delegated_to_me.to_read(db, gid) if one.row.id == share_id), None)
        compartment = by_kind.compartment if by_kind else row
        if compartment is None:
            raise NotFound("share")
        owner_name = owner_name_of(db, compartment)
    if by_kind is not None:
        return _open_by_kind(parts, login, by_kind, owner_name)
    assert row is not None
    reason_sha256 = hashlib.sha256(reason.encode()).digest() if reason else b""
    for _ in range(ROLLS_MEANWHILE_MAX):
        try:
            epochs = open_epochs(parts, login, row, reason_sha256, reason)
        except CLOSED as error:
            log.info("share %s does not open: %s", share_id, error.code)
            raise NotFound("share") from None
        items, newest = items_of(parts, row, epochs)
        if newest <= row.epoch:
            break
        with parts.database.read() as db:  # rolled since: some files are under a key that this reader did not open yet
            row = db.get_one(Compartment, share_id)
    _note_opened(parts, login, row.account_id, share_id, len(items))
    until = epochs[0].released.window_until
    return Opened(share_id, row.id, row.owner_gid, owner_name, epochs[0].words["title"], items,
                  dt.datetime.fromtimestamp(until, dt.UTC) if until is not None else None)  # fmt: skip


def _open_by_kind(parts: Parts, login: "Login", found: Delegated, owner_name: str) -> Opened:
    try:
        title, files = delegated_to_me.open_files(parts, login, found)
    except CLOSED as error:
        log.info("delegation %s does not open: %s", found.row.id, error.code)
        raise NotFound("share") from None
    items = []
    for item, dek in files:
        try:
            items.append(SharedItem(item, dek, open_details(dek, item.id, item.sealed_details)))
        except EnvelopeError:
            log.error("item %s of delegation %s was changed", item.id, found.row.id)
    _note_opened(parts, login, found.compartment.account_id, found.row.id, len(items))
    return Opened(found.row.id, found.compartment.id, found.compartment.owner_gid, owner_name, title, items, None)


def _note_opened(parts: Parts, login: "Login", account_id: str, share_id: str, items: int) -> None:
    with parts.database.write() as db:
        record(db, "shared-record-opened", account_id=account_id, actor=Actor("caregiver", login.account.id),
               share=share_id, items=items)  # fmt: skip


# -- which --------------------------------------------------------------------------------------------
def mine_to_read(db: Session, gid: str) -> list[Compartment]:
    """By the portal's rows, for finding; what opens them is the keys."""
    sealed_to = select(CompartmentReader.compartment_id).where(CompartmentReader.gid == gid)
    active = (Compartment.state == "active", Compartment.owner_gid != gid)
    rows = list(db.exec(select(Compartment).where(*active, col(Compartment.id).in_(sealed_to))))
    held = {(one.authority.gid, one.name, one.value) for one in authorities.held_by(db, gid)}
    emergencies = [gid for gid, name, value in held if (name, value) == policies.EMERGENCY]
    if emergencies:
        some = select(Compartment).where(
            *active, Compartment.preset == "emergency", col(Compartment.authority_gid).in_(emergencies)
        )
        rows += [row for row in db.exec(some) if (row.registrar_gid, *policies.BREAK_GLASS) in held]
    return sorted(rows, key=lambda row: row.created_at, reverse=True)


def owner_name_of(db: Session, row: Compartment) -> str:
    account = db.get(Account, row.account_id)
    return account.name if account else ""


# -- opening ------------------------------------------------------------------------------------------
def open_epochs(
    parts: Parts, login: "Login", row: Compartment, reason_sha256: bytes, reason: str = ""
) -> list[OpenEpoch]:
    """The keys of the epochs there are, the newest first: two while files' keys are wrapped anew. A person who came
    with the newest opens that alone. Raises as the newest does."""
    speaker = identities.proof_for(login, parts)
    owner = identities.verified_statement(parts, row.owner_gid)
    with parts.database.read() as db:
        keys = db.exec(
            select(CompartmentKey)
            .where(CompartmentKey.compartment_id == row.id, CompartmentKey.epoch <= row.epoch)
            .order_by(col(CompartmentKey.epoch).desc())
        ).all()
    found: list[OpenEpoch] = []
    for key in keys:
        try:
            found.append(_open_epoch(parts, login, row, key, speaker, owner, reason_sha256, reason))
        except CLOSED as error:
            if key.epoch == row.epoch:
                raise
            log.info("epoch %s of share %s does not open: %s", key.epoch, row.id, error.code)
    if not found:
        raise NotFound("no key")
    return found


def _open_epoch(
    parts: Parts, login: "Login", row: Compartment, key: CompartmentKey, speaker: Speaker, owner: VerifiedPerson,
    reason_sha256: bytes, reason: str,
) -> OpenEpoch:  # fmt: skip
    kind = cast(Kind, row.kind)
    if kind not in ("named", "policy"):
        raise EnvelopeError("share of an unknown kind")
    compartments.check_signature(
        owner.signing_public, kind, row.id, row.owner_gid, key.epoch, key.header, key.signature
    )
    with parts.database.read() as db:
        mine = db.get(CompartmentReader, (row.id, key.epoch, speaker.gid))
    envelope_opened = b""
    if mine is not None:
        context = compartments.reader_context(row.id, key.epoch, speaker.gid)
        envelope_opened = login.ring().open(mine.sealed, context=context)
    holdings: list[bytes] = []
    if kind == "named":
        compartments.check_named_header(key.header, row.id, row.owner_gid, key.epoch, speaker.gid)
        secret = envelope_opened
        if len(secret) != envelope.KEY_BYTES:
            raise EnvelopeError("no secret for this reader")
    else:
        secret, holdings = _by_policy(parts, login, row, key, speaker, owner, envelope_opened)
    released = parts.keyholder.vault_release(
        speaker, row.id, key.epoch, reason_sha256=reason_sha256 or None, holdings=holdings
    )
    if released.opened_now:
        _tell_owner(parts, login, row, owner, released, speaker.gid, reason)
    ck = compartments.key_of(secret, login.ring().open(released.sealed, context=released.context), key.header)
    words = compartments.unwrap_words(ck, row.id, key.epoch, key.wrapped_words)
    return OpenEpoch(key.epoch, ck, released, words)


def _by_policy(
    parts: Parts, login: "Login", row: Compartment, key: CompartmentKey, speaker: Speaker, owner: VerifiedPerson,
    consent: bytes,
) -> tuple[bytes, list[bytes]]:  # fmt: skip
    """(the header's secret, holdings for the vault), with the reader's keys of the attributes that the policy names."""
    leaves = list(leaves_of(policy_of(key.header)))
    publics = {row.owner_gid: policies.own_authority(owner)}
    keys = [AttributeKey.from_bytes(consent)] if consent else []
    holdings: list[bytes] = []
    for gid in sorted({leaf.authority for leaf in leaves} - {row.owner_gid}):
        publics[gid], _ = policies.authority(parts, gid)
        wanted = [(leaf.name, leaf.value, leaf.epoch) for leaf in leaves if leaf.authority == gid]
        sealed = parts.keyholder.attribute_keys(speaker, gid, wanted)
        opened = login.ring().open(sealed.sealed, context=sealed.context)
        keys += [AttributeKey.from_bytes(one) for one in unpack_keys(opened)]
        holdings += sealed.holdings
    bound = compartments.binding(row.id, row.owner_gid, key.epoch)
    return decapsulate(key.header, keys, publics, binding=bound), holdings


def items_of(parts: Parts, row: Compartment, opened: list[OpenEpoch]) -> tuple[list[SharedItem], int]:
    """(the files of these epochs, the newest epoch of any). All in one look: between two, the worker moves files from
    one epoch to the next. One whose row was changed is left out, and never opens with another's key."""
    with parts.database.read() as db:
        found = db.exec(
            select(Item, ItemWrap.epoch, ItemWrap.wrapped_dek)
            .join(ItemWrap, col(ItemWrap.item_id) == col(Item.id))
            .where(ItemWrap.compartment_id == row.id, col(Item.deleted_at).is_(None))
            .order_by(col(Item.created_at), col(Item.id))
        ).all()
    keys = {one.epoch: one.ck for one in opened}
    items = []
    for item, epoch, wrapped in found:
        if epoch not in keys:
            continue
        try:
            dek = compartments.unwrap_dek(keys[epoch], row.id, item.id, epoch, wrapped)
            items.append(SharedItem(item, dek, open_details(dek, item.id, item.sealed_details)))
        except EnvelopeError:
            log.error("item %s of share %s was changed", item.id, row.id)
    return items, max((epoch for _, epoch, _ in found), default=0)


# -- emergencies --------------------------------------------------------------------------------------
def _tell_owner(
    parts: Parts, login: "Login", row: Compartment, owner: VerifiedPerson, released: Released, gid: str, reason: str
) -> None:
    """The row, the trail and the mail commit before anything is shown. Killed before, the keyholder has still recorded
    the opening, and `Keyholder.vault_openings` tells it."""
    opening_id, until = new_id(), dt.datetime.fromtimestamp(released.window_until or 0, dt.UTC)
    sealed = compartments.seal_reason(owner.statement.hpke, opening_id, reason)
    values = {"name": owner.name, "who": login.account.name, "until": f"{until:%H:%M} UTC",
              "portal": parts.settings.public_url.rstrip("/") + "/"}  # fmt: skip
    with parts.database.write() as db:
        db.add(EmergencyOpening(id=opening_id, compartment_id=row.id, gid=gid, sealed_reason=sealed, opened_at=now(),
                                until=until))  # fmt: skip
        record(db, "emergency-opened", account_id=row.account_id, actor=Actor("caregiver", login.account.id),
               share=row.id, opening=opening_id, minutes=policies.WINDOW_MINUTES)  # fmt: skip
        account = db.get(Account, row.account_id)
        mail = mails.add(db, parts, "emergency-opened", account.email, values) if account else None
    if mail is not None:
        try:
            mails.enqueue(parts, mail.id)
        except redis.exceptions.RedisError:
            log.warning("mail %s waits for the sweep", mail.id)
