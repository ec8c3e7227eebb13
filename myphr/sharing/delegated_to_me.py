"""Sharing by kind, the reader's side: opening with a key over labels what an owner shares of these kinds.

Opening takes, every time, the owner's signature on the key and on each class's header, the vault's half, and a key that
fits the owner's public value; nothing of it is kept. Called by `shared_with_me`.
"""

import collections
import dataclasses
import logging
from typing import TYPE_CHECKING

from sqlmodel import Session, col, select

from myphr.crypto.abe import key_policy
from myphr.crypto.abe.key_policy import KpKey, PatientPublic
from myphr.crypto.abe.policy import satisfied
from myphr.errors import AbeError, AccessWithheld, CertificateRefused, EnvelopeError, NotFound, PortalError
from myphr.people import identities
from myphr.people.identities import VerifiedPerson
from myphr.people.keyholder import Speaker
from myphr.records.models import Item
from myphr.sharing import compartments
from myphr.sharing.compartments import DelegationSecret, Parts
from myphr.sharing.record_models import Compartment, Delegation, DelegationKey, ItemWrap, LabelClass, LabelClassKey

if TYPE_CHECKING:
    from myphr.people.accounts import Login

ROLLS_MEANWHILE_MAX = 3

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Delegated:
    """One delegation to who is signed in, by the portal's rows: for finding; what opens it is the keys."""

    row: Delegation
    compartment: Compartment


@dataclasses.dataclass(frozen=True)
class OpenKey:
    epoch: int
    secret: DelegationSecret
    key: KpKey
    half: bytes = dataclasses.field(repr=False)


def to_read(db: Session, gid: str) -> list[Delegated]:
    found = db.exec(
        select(Delegation, Compartment)
        .join(Compartment, col(Compartment.id) == col(Delegation.compartment_id))
        .where(Delegation.gid == gid, Delegation.state == "active", Compartment.state == "active",
               Compartment.owner_gid != gid)
    ).all()  # fmt: skip
    return [Delegated(row, compartment) for row, compartment in found]


def is_let_in(db: Session, delegation_id: str, gid: str) -> bool:
    """Inside the caller's unit of work, with the compartment's row locked."""
    row = db.get(Delegation, delegation_id)
    if row is None:
        return False
    db.refresh(row)
    return (row.gid, row.state) == (gid, "active")


def words(parts: Parts, login: "Login", found: Delegated) -> tuple[str, str]:
    """(title, words), with the key really opened and the half released. Raises as `open_files`."""
    newest = open_keys(parts, login, found, newest_only=True)[0].secret
    return newest.title, newest.words


def open_files(parts: Parts, login: "Login", found: Delegated) -> tuple[str, list[tuple[Item, bytes]]]:
    """(title, files with their keys). Two epochs while the files' keys are wrapped anew. Raises NotFound,
    AccessWithheld, AbeError, CertificateRefused, EnvelopeError for who is not, or no longer, let in;
    KeyholderUnavailable."""
    owner = identities.verified_statement(parts, found.compartment.owner_gid)
    public = _public(owner)
    files: dict[str, tuple[Item, bytes]] = {}
    for _ in range(ROLLS_MEANWHILE_MAX):
        opened = open_keys(parts, login, found)
        # The oldest epoch first: the worker moves files from one to the next, and one moved in between is seen twice.
        for one in reversed(opened):
            files |= {item.id: (item, dek) for item, dek in _files_of(parts, found.compartment, owner, public, one)}
        with parts.database.read() as db:
            now_epoch = db.get_one(Compartment, found.compartment.id).epoch
        if now_epoch <= opened[0].epoch:
            break  # otherwise rolled since: some files may be under a key that was not opened yet
    return opened[0].secret.title, sorted(files.values(), key=lambda pair: (pair[0].created_at, pair[0].id))


def _public(owner: VerifiedPerson) -> PatientPublic:
    public = PatientPublic.from_bytes(owner.statement.key_policy)
    key_policy.check_public(public)
    return public


def open_keys(parts: Parts, login: "Login", found: Delegated, *, newest_only: bool = False) -> list[OpenKey]:
    """The newest first. Raises as the newest does."""
    speaker = identities.proof_for(login, parts)
    owner = identities.verified_statement(parts, found.compartment.owner_gid)
    with parts.database.read() as db:
        rows = db.exec(
            select(DelegationKey)
            .where(DelegationKey.delegation_id == found.row.id)
            .order_by(col(DelegationKey.epoch).desc())
        ).all()
    opened: list[OpenKey] = []
    for row in rows[: 1 if newest_only else None]:
        try:
            opened.append(_open_key(parts, login, found, row, owner, speaker))
        except (AbeError, AccessWithheld, CertificateRefused, EnvelopeError, NotFound) as error:
            if not opened:
                raise
            log.info("epoch %s of delegation %s does not open: %s", row.epoch, found.row.id, error.code)
    if not opened:
        raise NotFound("no key")
    return opened


def _open_key(
    parts: Parts, login: "Login", found: Delegated, row: DelegationKey, owner: VerifiedPerson, speaker: Speaker
) -> OpenKey:
    compartments.check_delegation(
        owner.signing_public, found.row.id, found.compartment.id, row.epoch, speaker.gid, row.sealed, row.signature
    )
    secret = compartments.open_delegation(login.ring(), found.row.id, row.epoch, speaker.gid, row.sealed)
    key = KpKey.from_bytes(secret.key)
    key_policy.check_key(key, _public(owner))
    released = parts.keyholder.vault_release(speaker, secret.vault_id, row.epoch)
    return OpenKey(row.epoch, secret, key, login.ring().open(released.sealed, context=released.context))


def _files_of(
    parts: Parts, compartment: Compartment, owner: VerifiedPerson, public: PatientPublic, opened: OpenKey
) -> list[tuple[Item, bytes]]:
    """The files of one epoch whose class the key opens. What was changed is left out, and never opens with another's
    key."""
    with parts.database.read() as db:
        mine = [one for one in _headers(db, compartment, opened) if _fits(one, opened.key)]
        ids = [one.label_class_id for one in mine]
        rows = collections.defaultdict(list)
        for item, wrap in db.exec(
            select(Item, ItemWrap)
            .join(ItemWrap, col(ItemWrap.item_id) == col(Item.id))
            .where(ItemWrap.compartment_id == compartment.id, ItemWrap.epoch == opened.epoch,
                   col(ItemWrap.label_class_id).in_(ids), col(Item.deleted_at).is_(None),
                   Item.account_id == compartment.account_id)
        ):  # fmt: skip
            rows[compartments.place_of(wrap)].append((item, wrap.wrapped_dek))
    found = []
    for header in mine:
        if not rows[header.label_class_id]:
            continue
        try:
            ck = _class_key(compartment, owner, public, header, opened)
        except (AbeError, CertificateRefused, EnvelopeError) as error:
            log.error("class %s was changed: %s", header.label_class_id, error.code)
            continue
        for item, wrapped in rows[header.label_class_id]:
            try:
                dek = compartments.unwrap_dek(ck, header.label_class_id, item.id, opened.epoch, wrapped)
            except EnvelopeError:
                log.error("item %s of class %s was changed", item.id, header.label_class_id)
                continue
            found.append((item, dek))
    return found


def classes_of(parts: Parts, found: Delegated, opened: OpenKey) -> list[str]:
    """Ids of the classes that this key fits, without opening them."""
    with parts.database.read() as db:
        return [one.label_class_id for one in _headers(db, found.compartment, opened) if _fits(one, opened.key)]


def _headers(db: Session, compartment: Compartment, opened: OpenKey) -> list[LabelClassKey]:
    return list(db.exec(
        select(LabelClassKey)
        .join(LabelClass, col(LabelClass.id) == col(LabelClassKey.label_class_id))
        .where(LabelClass.compartment_id == compartment.id, LabelClassKey.epoch == opened.epoch)
    ))  # fmt: skip


def _fits(row: LabelClassKey, key: KpKey) -> bool:
    """Plain logic over hashes, for finding; what keeps others out is the key."""
    try:
        return satisfied(key.policy, key_policy.labels_of(row.header))
    except PortalError:
        log.error("header of class %s is damaged", row.label_class_id)
        return False


def _class_key(
    compartment: Compartment, owner: VerifiedPerson, public: PatientPublic, row: LabelClassKey, opened: OpenKey
) -> bytes:
    compartments.check_signature(owner.signing_public, "labels", row.label_class_id, compartment.owner_gid, row.epoch,
                                 row.header, row.signature)  # fmt: skip
    bound = compartments.binding(row.label_class_id, compartment.owner_gid, row.epoch)
    secret = key_policy.decapsulate(row.header, opened.key, public, binding=bound)
    return compartments.key_of(secret, opened.half, row.header)
