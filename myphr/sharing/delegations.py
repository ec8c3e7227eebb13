"""Sharing by kind, the owner's side: "lab results of 2024 to my daughter", with keys over labels (FABEO-KP).

All that one owner shares by kind is one compartment of kind `labels`: one epoch and one half in the vault, whatever the
number of people and of classes of files. Spec: docs/formats/compartment.md, "By kind". As in `record_shares` the vault
comes first in every change, then the rows in one transaction. Called by the pages and at sign-in.
"""

import collections
import contextlib
import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import delete, func, insert, update
from sqlmodel import Session, col, select

from myphr.audit.trail import Actor, record
from myphr.crypto.abe import key_policy
from myphr.database import new_id, now
from myphr.errors import EnvelopeError, FormRefused, KeyholderConflict, NotFound, PortalError
from myphr.people import identities
from myphr.people.identities import AWAY, Person, VerifiedPerson
from myphr.people.identity_keys import IdentityKeys
from myphr.people.keyholder import Block, Rule, Speaker
from myphr.people.models import Account
from myphr.records import correction, readings
from myphr.records import labels as record_labels
from myphr.records.labels import TYPES, Labels
from myphr.records.models import Item
from myphr.sharing import compartments, consents, kinds, rewrapping, withdrawal
from myphr.sharing.compartments import DelegationSecret, Parts
from myphr.sharing.kinds import Filter, Hasher
from myphr.sharing.record_models import (
    Compartment,
    Delegation,
    DelegationKey,
    ItemWrap,
    LabelClass,
    LabelClassKey,
    RewrapTask,
)
from myphr.sharing.record_shares import ShareView, WithdrawalReport

if TYPE_CHECKING:
    from myphr.people.accounts import Login

__all__ = [
    "Filter",
    "KindPreview",
    "catch_up",
    "delegate",
    "list_mine",
    "mark_study",
    "one",
    "preview",
    "relabel",
    "stop",
]

log = logging.getLogger(__name__)
# A header takes 5 ms. New ones that do not fit into this much of the request that takes somebody's access away follow
# at the owner's next unlock: until then the old ones open for whoever is left, and the vault keeps the other out.
ROLL_SECONDS = 0.4
DELEGATIONS_MAX = 50
_IDS_AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class KindPreview:
    """Whom it would be shared with, and what that is today: `lines` such as "14 lab results"."""

    person: Person
    title: str
    lines: list[str]
    files: int


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The owner's note of a delegation, see `Delegation.wrapped_plan`. It names the person: changed, it is refused."""

    compartment_id: str
    gid: str
    wanted: Filter

    @property
    def words(self) -> str:
        return "also sensitive files" if self.wanted.also_sensitive else "no sensitive files"

    def to_json(self) -> dict[str, Any]:
        return {"compartment": self.compartment_id, "gid": self.gid, "filter": self.wanted.to_json()}

    @classmethod
    def from_json(cls, plan: dict[str, Any]) -> "_Plan":
        return cls(plan["compartment"], plan["gid"], Filter.from_json(plan["filter"]))


_Active = tuple[Delegation, _Plan]


# -- giving -------------------------------------------------------------------------------------------
def preview(parts: Parts, login: "Login", gid: str, wanted: Filter) -> KindPreview:
    """Raises FormRefused for somebody who cannot be shared with."""
    with parts.database.read() as db:
        try:
            person = identities.active_person(db, gid)
        except NotFound:
            raise FormRefused("gid", reason="they have no account here, or it was stopped") from None
    if gid == identities.gid_of(login):
        raise FormRefused("nobody", reason="this is you: choose somebody else")
    every = record_labels.of_record(parts.database, login.ring(), login.account.id)
    counts = collections.Counter(one.type for one in every.values() if wanted.matches(one))
    lines = [f"{counts[type]:,} {words[0] if counts[type] == 1 else words[1]}"
             for type, words in TYPES.items() if counts[type]]  # fmt: skip
    return KindPreview(person, wanted.words(), lines, counts.total())


def delegate(parts: Parts, login: "Login", gid: str, wanted: Filter) -> str:
    """Share these kinds with this person, also what comes later of them; returns the id of the share. The same again is
    the same share. Raises FormRefused, KeyholderUnavailable, CertificateMissing."""
    shown = preview(parts, login, gid, wanted)
    verified = consents.verified(parts, [shown.person])
    if not verified:
        raise FormRefused("no keys", reason="they have to sign in once before you can share with them")
    group = _group(parts, login)
    if group is not None:
        group = _up_to_date(parts, login, group)
    active = _active(parts, login, group) if group else []
    for row, plan in active:
        if (plan.gid, plan.wanted) == (gid, wanted):
            return row.id
    if len(active) >= DELEGATIONS_MAX:
        raise FormRefused("many", reason=f"you can share by kind with at most {DELEGATIONS_MAX} people at a time")
    keys, speaker, delegation_id = identities.keys_of(login), identities.proof_for(login, parts), new_id()
    compartment_id, epoch = (group.id, group.epoch) if group else (new_id(), 0)
    plan = _Plan(compartment_id, gid, wanted)
    if group is None:
        _open_vault(parts, speaker, keys, compartment_id, epoch, {gid})
    issued = _issue(keys, delegation_id, epoch, plan, verified[0])
    filing = _Filing(parts, login, keys, speaker, compartment_id, epoch, [wanted, *(one.wanted for _, one in active)])
    with parts.database.write() as db:
        db.get(Account, login.account.id, with_for_update=True)  # two browsers: one compartment
        if group is None:
            if _group_row(db, login) is not None:
                raise _changed()
            db.add(Compartment(
                id=compartment_id, account_id=login.account.id, owner_gid=keys.gid, kind="labels", preset="by-kind",
                wrapped_plan=compartments.wrap_plan(login.ring(), compartment_id, {"by": "kind"}),
            ))  # fmt: skip
            db.flush()
        else:
            # Under the lock: the rule of the vault names everybody, and another browser's must not take it back.
            if not _still(db, login, group, active):
                raise _changed()
            _open_vault(parts, speaker, keys, compartment_id, epoch, {one.gid for _, one in active} | {gid})
        db.add(Delegation(
            id=delegation_id, compartment_id=compartment_id, gid=gid,
            wrapped_plan=compartments.wrap_plan(login.ring(), delegation_id, plan.to_json()),
        ))  # fmt: skip
        db.flush()
        db.add(issued)
        if not filing.write(db):
            raise _changed()
        _note(db, "record-shared-by-kind", login, share=delegation_id, person=gid, items=shown.files)
    return delegation_id


def _changed() -> FormRefused:
    return FormRefused("changed", reason="your shares changed in this very moment: try again")


def _open_vault(
    parts: Parts, speaker: Speaker, keys: IdentityKeys, compartment_id: str, epoch: int, gids: Iterable[str]
) -> None:
    """The half of an epoch, for these people. Again: the same half, for these people."""
    vault, rule = kinds.vault_id(keys.labels, compartment_id, epoch), Rule(people=frozenset(gids))
    try:
        parts.keyholder.vault_create(speaker, vault, epoch, rule)
    except KeyholderConflict:  # there already, for others
        parts.keyholder.vault_rule(speaker, vault, rule)
        parts.keyholder.vault_create(speaker, vault, epoch, rule)


def _still(db: Session, login: "Login", group: Compartment, active: Sequence[_Active]) -> bool:
    """Locks the compartment, in the caller's unit of work: whether its epoch and its people are those the caller knows.
    If not, another browser of the owner was here since."""
    fresh = db.get(Compartment, group.id, with_for_update=True, populate_existing=True)
    if fresh is None or (fresh.state, fresh.epoch) != ("active", group.epoch):
        return False
    return {row.id for row, _ in _active_in(db, login, group)} == {row.id for row, _ in active}


def _issue(keys: IdentityKeys, delegation_id: str, epoch: int, plan: _Plan, person: VerifiedPerson) -> DelegationKey:
    """A key over the hashed labels of one epoch, for one person."""
    policy = Hasher(keys.labels, keys.gid, plan.compartment_id, epoch).policy(plan.wanted)
    key = key_policy.issue(keys.patient_secret(), policy)
    vault = kinds.vault_id(keys.labels, plan.compartment_id, epoch)
    secret = DelegationSecret(vault, key.to_bytes(), plan.wanted.words(), plan.words)
    sealed = compartments.seal_delegation(person.statement.hpke, delegation_id, epoch, plan.gid, secret)
    signature = compartments.sign_delegation(
        keys.signing_key(), delegation_id, plan.compartment_id, epoch, plan.gid, sealed
    )
    return DelegationKey(delegation_id=delegation_id, epoch=epoch, sealed=sealed, signature=signature)


# -- files and their classes --------------------------------------------------------------------------
def _half(parts: Parts, login: "Login", keys: IdentityKeys, speaker: Speaker, compartment_id: str, epoch: int) -> bytes:
    vault = kinds.vault_id(keys.labels, compartment_id, epoch)
    released = parts.keyholder.vault_release(speaker, vault, epoch)
    return login.ring().open(released.sealed, context=released.context)


def _class_key(
    login: "Login", keys: IdentityKeys, compartment_id: str, class_id: str, epoch: int, labels: Labels, half: bytes
) -> tuple[bytes, LabelClassKey]:
    """(key, row) of one class in one epoch."""
    attributes = Hasher(keys.labels, keys.gid, compartment_id, epoch).attributes(labels)
    bound = compartments.binding(class_id, keys.gid, epoch)
    secret, header = key_policy.encapsulate(attributes, keys.patient_secret().public, binding=bound)
    ck = compartments.key_of(secret, half, header)
    signature = compartments.sign_header(keys.signing_key(), "labels", class_id, keys.gid, epoch, header)
    return ck, LabelClassKey(
        label_class_id=class_id, epoch=epoch, header=header, signature=signature,
        wrapped_ck=compartments.wrap_ck(login.ring(), class_id, epoch, ck),
    )  # fmt: skip


def _classes(
    parts: Parts, login: "Login", keys: IdentityKeys, compartment_id: str
) -> dict[str, tuple[LabelClass, Labels]]:
    """By id. A row that this owner did not make is left out: nothing is wrapped under its key."""
    with parts.database.read() as db:
        rows = db.exec(select(LabelClass).where(LabelClass.compartment_id == compartment_id)).all()
    found = {}
    for row in rows:
        try:
            labels = record_labels.from_json(compartments.unwrap_labels(login.ring(), row.id, row.wrapped_labels))
            if kinds.class_id(keys.labels, compartment_id, labels) != row.id:
                raise EnvelopeError("labels of another compartment's class")
        except (EnvelopeError, ValueError, KeyError):
            log.error("class %s was changed in the database", row.id)
            continue
        found[row.id] = (row, labels)
    return found


class _Filing:
    """Which files have to be wrapped under their class's key, worked out before the transaction that does it: new files
    and those whose labels changed. Classes that lag behind the epoch have to be rolled first."""

    def __init__(
        self, parts: Parts, login: "Login", keys: IdentityKeys, speaker: Speaker, compartment_id: str, epoch: int,
        filters: Sequence[Filter],
    ) -> None:  # fmt: skip
        self._compartment_id, self._epoch = compartment_id, epoch
        self.classes: dict[str, tuple[LabelClass, LabelClassKey]] = {}
        self.wraps: list[dict[str, Any]] = []
        ring = login.ring()
        every = record_labels.of_record(parts.database, ring, login.account.id)
        wanted = {item_id: kinds.class_id(keys.labels, compartment_id, labels)
                  for item_id, labels in every.items() if any(one.matches(labels) for one in filters)}  # fmt: skip
        with parts.database.read() as db:
            have = dict(db.exec(select(ItemWrap.item_id, ItemWrap.label_class_id)
                                .where(ItemWrap.compartment_id == compartment_id)).all())  # fmt: skip
        self.dropped = [item_id for item_id, class_id in have.items() if wanted.get(item_id) != class_id]
        missing = [item_id for item_id, class_id in wanted.items() if have.get(item_id) != class_id]
        self.moved = False
        if not missing and not self.dropped:
            return
        known = _classes(parts, login, keys, compartment_id)
        # Out of a class that is still shared: who may open that one may show the file on a screen now.
        self.moved = any(
            class_id in known and any(one.matches(known[class_id][1]) for one in filters)
            for class_id in {have[item_id] for item_id in self.dropped}
            if class_id is not None
        )
        cks: dict[str, bytes] = {}
        half = b""
        for item_id in missing:
            class_id = wanted[item_id]
            if class_id in cks:
                continue
            if class_id in known:
                with parts.database.read() as db:
                    key = db.get(LabelClassKey, (class_id, epoch))
                if key is not None:
                    cks[class_id] = compartments.unwrap_ck(ring, class_id, epoch, key.wrapped_ck)
                continue
            half = half or _half(parts, login, keys, speaker, compartment_id, epoch)
            labels = every[item_id]
            cks[class_id], key = _class_key(login, keys, compartment_id, class_id, epoch, labels, half)
            plain = record_labels.to_json(labels)
            self.classes[class_id] = (LabelClass(
                id=class_id, compartment_id=compartment_id, epoch=epoch,
                wrapped_labels=compartments.wrap_labels(ring, class_id, plain)), key)  # fmt: skip
        for start in range(0, len(missing), _IDS_AT_ONCE):
            with parts.database.read() as db:
                items = db.exec(select(Item.id, Item.sealed_dek)
                                .where(col(Item.id).in_(missing[start : start + _IDS_AT_ONCE]))).all()  # fmt: skip
            for item in items:
                class_id = wanted[item[0]]
                if class_id not in cks:
                    continue
                try:
                    dek = ring.open_dek(item)  # type: ignore[arg-type]  # a row of these two columns
                except EnvelopeError:
                    log.warning("item %s is damaged and was not shared", item[0])
                    continue
                wrapped = compartments.wrap_dek(cks[class_id], class_id, item[0], epoch, dek)
                self.wraps.append({"compartment_id": compartment_id, "item_id": item[0], "epoch": epoch,
                                   "label_class_id": class_id, "wrapped_dek": wrapped})  # fmt: skip

    def write(self, db: Session) -> bool:
        """Inside the caller's unit of work. False, and nothing, when the epoch is another by now. What another browser
        of the owner filed in this moment stays as that one did it."""
        fresh = db.get(Compartment, self._compartment_id, with_for_update=True)
        if fresh is None or (fresh.state, fresh.epoch) != ("active", self._epoch):
            return False
        foreign = {id_ for id_ in self.classes if db.get(LabelClass, id_) is not None}
        for class_id, (row, key) in self.classes.items():
            if class_id not in foreign:
                db.add(row)
                db.flush()
                db.add(key)
        for start in range(0, len(self.dropped), _IDS_AT_ONCE):
            some = self.dropped[start : start + _IDS_AT_ONCE]
            db.execute(delete(ItemWrap).where(col(ItemWrap.compartment_id) == self._compartment_id,
                                              col(ItemWrap.item_id).in_(some)))  # fmt: skip
        have = set(db.exec(select(ItemWrap.item_id).where(ItemWrap.compartment_id == self._compartment_id)))
        wraps = [one for one in self.wraps if one["label_class_id"] not in foreign and one["item_id"] not in have]
        if wraps:
            db.execute(insert(ItemWrap), wraps)
        return True


def relabel(parts: Parts, login: "Login", item_id: str, labels: Labels) -> None:
    """The owner says what a file is: it leaves who may not open such files, and comes to who may. Machines that show it
    and no longer should end. Raises NotFound, FormRefused."""
    record_labels.say(parts.database, login.ring(), login.account.id, item_id, labels)
    _moved(parts, login, {item_id: labels})


def correct_kind(parts: Parts, login: "Login", item_id: str, code: str | None) -> None:
    """The owner says of which format a file is (None: as we told); what is shared by kind follows. Raises NotFound,
    FormRefused, EnvelopeError. The worker reads the file anew."""

    def read_anew(db: Session, item: Item, dek: bytes) -> None:
        readings.forget(db, item.id)  # who reads it this moment as something else finds the order gone
        db.add(readings.order(parts.keys.worker.public, item.account_id, item.id, dek))

    labels = correction.correct(parts.database, login.ring(), login.account.id, item_id, code, read_anew)
    parts.queue.enqueue(readings.JOB, login.account.id)
    if labels is not None:
        _moved(parts, login, {item_id: labels})


def mark_study(parts: Parts, login: "Login", study_id: str, *, sensitive: bool) -> None:
    """The same for all files of a study, of their sensitivity alone. Raises NotFound."""
    _moved(parts, login, record_labels.mark_study(
        parts.database, login.ring(), login.account.id, study_id, sensitive=sensitive
    ))  # fmt: skip


def _moved(parts: Parts, login: "Login", said: dict[str, Labels]) -> None:
    group = _group(parts, login)
    if group is None:
        return
    keys, gone = identities.keys_of(login), 0
    with parts.database.write() as db:
        for item_id, labels in said.items():
            gone += db.connection().execute(
                delete(ItemWrap).where(
                    col(ItemWrap.compartment_id) == group.id, col(ItemWrap.item_id) == item_id,
                    col(ItemWrap.label_class_id) != kinds.class_id(keys.labels, group.id, labels),
                )
            ).rowcount  # fmt: skip
    if gone:
        withdrawal.end_sessions(parts, [group.id], None)
    try:
        _file(parts, login, group)
    except AWAY as error:
        log.warning("files are filed by kind later: %s", error.code)


def _file(parts: Parts, login: "Login", group: Compartment) -> None:
    filters = [plan.wanted for _, plan in _active(parts, login, group)]
    keys, speaker = identities.keys_of(login), identities.proof_for(login, parts)
    filing = _Filing(parts, login, keys, speaker, group.id, group.epoch, filters)
    if filing.wraps or filing.dropped:
        with parts.database.write() as db:
            filing.write(db)
    if filing.moved:  # by what was read out of a file since, it is another class's
        withdrawal.end_sessions(parts, [group.id], None)


# -- rolling ------------------------------------------------------------------------------------------
def _up_to_date(parts: Parts, login: "Login", group: Compartment) -> Compartment:
    """With everything done that was left for later: somebody whose access ended meets only new keys."""
    if group.stale:
        _roll(parts, login, group)
    fresh = _group(parts, login)
    if fresh is None:
        raise _changed()
    _roll_classes(parts, login, fresh)
    return fresh


def _roll(parts: Parts, login: "Login", group: Compartment, until: float | None = None) -> tuple[int, int]:
    """The next epoch: a new half, new keys for whoever is left, new headers; (keys replaced, files left for the
    worker). Headers only `until` this moment. Raises what the keyholder raises."""
    keys, speaker, epoch = identities.keys_of(login), identities.proof_for(login, parts), group.epoch + 1
    active = _active(parts, login, group)
    issued = _issue_all(parts, keys, epoch, active)
    with parts.database.write() as db:
        if not _still(db, login, group, active):
            return 0, 0  # ended, rolled or shared with others by another browser of the owner
        _open_vault(parts, speaker, keys, group.id, epoch, {plan.gid for _, plan in active})
        moved = db.connection().execute(
            update(Compartment)
            .where(col(Compartment.id) == group.id, col(Compartment.epoch) == group.epoch,
                   col(Compartment.state) == "active")
            .values(epoch=epoch, stale=False)
        )  # fmt: skip
        assert moved.rowcount == 1, "the row is locked"
        for one in issued:
            db.add(one)
    fresh = group.model_copy(update={"epoch": epoch, "stale": False})
    replaced, left = _roll_classes(parts, login, fresh, until)
    return len(issued) + replaced, left


def _issue_all(parts: Parts, keys: IdentityKeys, epoch: int, active: Sequence[_Active]) -> list[DelegationKey]:
    """For those of them whose public keys hold today; the others get theirs at a later unlock."""
    with parts.database.read() as db:
        people = []
        for gid in {plan.gid for _, plan in active}:
            with contextlib.suppress(NotFound):
                people.append(identities.active_person(db, gid))
    verified = {person.gid: person for person in consents.verified(parts, people)}
    return [_issue(keys, row.id, epoch, plan, verified[plan.gid]) for row, plan in active if plan.gid in verified]


def _roll_classes(parts: Parts, login: "Login", group: Compartment, until: float | None = None) -> tuple[int, int]:
    """New headers for the classes that lag behind the epoch; classes that nobody may open any more go. Returns (keys
    made, files left for the worker). What does not fit in the time is done next time."""
    keys, speaker, ring = identities.keys_of(login), identities.proof_for(login, parts), login.ring()
    filters = [plan.wanted for _, plan in _active(parts, login, group)]
    lagging = [one for one in _classes(parts, login, keys, group.id).values() if one[0].epoch < group.epoch]
    if not lagging:
        return 0, 0
    dropped = [row.id for row, labels in lagging if not any(one.matches(labels) for one in filters)]
    made: dict[str, tuple[int, bytes, LabelClassKey]] = {}
    half = _half(parts, login, keys, speaker, group.id, group.epoch)
    for row, labels in lagging:
        if row.id in dropped:
            continue
        if until is not None and time.monotonic() > until:
            break
        made[row.id] = (row.epoch, *_class_key(login, keys, group.id, row.id, group.epoch, labels, half))
    task = RewrapTask(compartment_id=group.id, to_epoch=group.epoch, keys_for_worker=None)
    with parts.database.write() as db:
        fresh = db.get(Compartment, group.id, with_for_update=True)
        if fresh is None or (fresh.state, fresh.epoch) != ("active", group.epoch):
            return 0, 0
        _delete_classes(db, dropped)
        for_worker: dict[tuple[str, int], bytes] = {}
        for class_id, (before, ck, key) in made.items():
            current = db.get(LabelClass, class_id)
            if current is None or current.epoch != before:
                continue  # another browser of the owner was here first
            for old in db.exec(select(LabelClassKey).where(LabelClassKey.label_class_id == class_id)):
                for_worker[class_id, old.epoch] = compartments.unwrap_ck(ring, class_id, old.epoch, old.wrapped_ck)
            current.epoch = group.epoch
            db.add(current)
            db.add(key)
            for_worker[class_id, group.epoch] = ck
        places = sorted({place for place, _ in for_worker})
        task.total = db.exec(
            select(func.count()).select_from(ItemWrap).where(col(ItemWrap.label_class_id).in_(places))
        ).one()
        if task.total:
            task.keys_for_worker = compartments.seal_class_keys(parts.keys.worker.public, task.id, for_worker)
            db.add(task)
    if task.total:
        rewrapping.enqueue(parts, task.id)
    return len(places), task.total


def _delete_classes(db: Session, class_ids: Sequence[str]) -> None:
    for start in range(0, len(class_ids), _IDS_AT_ONCE):
        some = class_ids[start : start + _IDS_AT_ONCE]
        db.execute(delete(ItemWrap).where(col(ItemWrap.label_class_id).in_(some)))
        db.execute(delete(LabelClassKey).where(col(LabelClassKey.label_class_id).in_(some)))
        db.execute(delete(LabelClass).where(col(LabelClass.id).in_(some)))


# -- taking back --------------------------------------------------------------------------------------
def stop(parts: Parts, login: "Login", delegation_id: str) -> WithdrawalReport:
    """This person no longer opens these kinds: the vault's block comes first, and that moment counts. What else is
    shared with them by kind pauses until its files have new keys. Raises NotFound, also for one that was stopped, and
    KeyholderUnavailable; the portal's rows are as before then."""
    started = time.monotonic()
    group, row, plan = _own(parts, login, delegation_id)
    keys, speaker = identities.keys_of(login), identities.proof_for(login, parts)
    blocked = _living_epochs(parts, group)
    _block(parts, speaker, keys, group, plan.gid, blocked)
    ended_at, halves = now(), 0
    with parts.database.write() as db:
        # The row of the compartment is locked first: a machine asked for in this moment is refused or ended, and what
        # another browser of the owner did until now is there to see.
        db.get(Compartment, group.id, with_for_update=True, populate_existing=True)
        epochs = _living_epochs_in(db, group)
        name = _person(db, plan.gid)
        others = [one for one in _active_in(db, login, group) if one[0].id != delegation_id]
        if others:
            _block(parts, speaker, keys, group, plan.gid, sorted(set(epochs) - set(blocked)))
            db.execute(update(Compartment).where(col(Compartment.id) == group.id).values(stale=True))
            _end(db, [row.id], ended_at)
        else:
            for epoch in sorted({*epochs, *blocked}):
                vault = kinds.vault_id(keys.labels, group.id, epoch)
                with contextlib.suppress(NotFound):  # destroyed already, or never made
                    halves += parts.keyholder.vault_destroy(speaker, vault, epoch)
            forget(db, group.id, ended_at)
        _note(db, "record-share-by-kind-ended", login, share=row.id, person=plan.gid)
    ended = withdrawal.end_sessions(parts, [group.id], plan.gid)
    replaced, left = halves, 0
    fresh = _group(parts, login) if others else None
    if fresh is not None and fresh.stale:
        try:
            replaced, left = _roll(parts, login, fresh, time.monotonic() + ROLL_SECONDS)
        except AWAY as error:
            log.warning("shares by kind roll later: %s", error.code)
    return WithdrawalReport(name, ended_at, replaced, round((time.monotonic() - started) * 1000), ended, left)


def _block(
    parts: Parts, speaker: Speaker, keys: IdentityKeys, group: Compartment, gid: str, epochs: Iterable[int]
) -> None:
    for epoch in epochs:
        with contextlib.suppress(NotFound):  # destroyed already, or never made: nothing to withhold
            parts.keyholder.vault_block(speaker, Block(gid=gid), kinds.vault_id(keys.labels, group.id, epoch))


def _end(db: Session, delegation_ids: Sequence[str], at: dt.datetime) -> None:
    """Without its plan no later change of the row makes it a share again."""
    db.execute(update(Delegation).where(col(Delegation.id).in_(delegation_ids), col(Delegation.state) == "active")
               .values(state="ended", ended_at=at, wrapped_plan=b""))  # fmt: skip
    db.execute(delete(DelegationKey).where(col(DelegationKey.delegation_id).in_(delegation_ids)))


def destroy_halves(parts: Parts, login: "Login", speaker: Speaker) -> int:
    """The vault's halves of all that this owner shares by kind, for good: the account closes. Safe to repeat."""
    group = _group(parts, login)
    if group is None:
        return 0
    keys, halves = identities.keys_of(login), 0
    for epoch in _living_epochs(parts, group):
        with contextlib.suppress(NotFound):  # destroyed already, or never made
            halves += parts.keyholder.vault_destroy(speaker, kinds.vault_id(keys.labels, group.id, epoch), epoch)
    return halves


def forget(db: Session, compartment_id: str, at: dt.datetime) -> None:
    """Rows whose halves are gone: what is left tells that there was something, and opens nothing."""
    db.execute(update(Compartment).where(col(Compartment.id) == compartment_id)
               .values(state="withdrawn", stale=False, withdrawn_at=at))  # fmt: skip
    rewrapping.stop(db, compartment_id)
    _end(db, db.exec(select(Delegation.id).where(Delegation.compartment_id == compartment_id)).all(), at)
    _delete_classes(db, db.exec(select(LabelClass.id).where(LabelClass.compartment_id == compartment_id)).all())
    db.execute(delete(ItemWrap).where(col(ItemWrap.compartment_id) == compartment_id))


def _living_epochs(parts: Parts, group: Compartment) -> list[int]:
    with parts.database.read() as db:
        return _living_epochs_in(db, group)


def _living_epochs_in(db: Session, group: Compartment) -> list[int]:
    """Epochs whose halves may still be there."""
    of_people = select(DelegationKey.epoch).join(Delegation, col(Delegation.id) == col(DelegationKey.delegation_id))
    of_files = select(LabelClassKey.epoch).join(LabelClass, col(LabelClass.id) == col(LabelClassKey.label_class_id))
    found = {group.epoch, *db.exec(select(Compartment.epoch).where(Compartment.id == group.id)),
             *db.exec(of_people.where(Delegation.compartment_id == group.id).distinct()),
             *db.exec(of_files.where(LabelClass.compartment_id == group.id).distinct())}  # fmt: skip
    return sorted(found)


def _destroy_old(parts: Parts, speaker: Speaker, keys: IdentityKeys, group: Compartment) -> None:
    """Halves, headers and keys of the epochs that no file is wrapped under any more. Safe to repeat."""
    with parts.database.read() as db:
        lagging = db.exec(select(func.count()).select_from(LabelClass).where(
            LabelClass.compartment_id == group.id, LabelClass.epoch < group.epoch)).one()  # fmt: skip
        wrapped = db.exec(select(func.count()).select_from(ItemWrap).where(
            ItemWrap.compartment_id == group.id, ItemWrap.epoch < group.epoch)).one()  # fmt: skip
    older = [epoch for epoch in _living_epochs(parts, group) if epoch < group.epoch]
    if lagging or wrapped or not older:
        return
    for epoch in older:
        with contextlib.suppress(NotFound):
            parts.keyholder.vault_destroy(speaker, kinds.vault_id(keys.labels, group.id, epoch), epoch)
    with parts.database.write() as db:
        of_people = select(Delegation.id).where(Delegation.compartment_id == group.id)
        of_files = select(LabelClass.id).where(LabelClass.compartment_id == group.id)
        db.execute(delete(DelegationKey).where(col(DelegationKey.delegation_id).in_(of_people),
                                               col(DelegationKey.epoch) < group.epoch))  # fmt: skip
        db.execute(delete(LabelClassKey).where(col(LabelClassKey.label_class_id).in_(of_files),
                                               col(LabelClassKey.epoch) < group.epoch))  # fmt: skip
        db.execute(update(RewrapTask).where(col(RewrapTask.compartment_id) == group.id,
                                            col(RewrapTask.state) == "done").values(state="closed"))  # fmt: skip


# -- keeping up ---------------------------------------------------------------------------------------
def catch_up(parts: Parts, login: "Login") -> None:
    """At the owner's unlock: new files get their classes, keys roll where somebody went, old halves are destroyed. What
    cannot be done now is done next time. Safe to run twice."""
    try:
        _forget_earlier(parts, login)
        if _group(parts, login) is not None:
            _catch_up(parts, login)
    except PortalError as error:
        log.warning("shares by kind stay as they were: %s", error.code)


def _catch_up(parts: Parts, login: "Login") -> None:
    group = _group(parts, login)
    assert group is not None
    for row, plan in _active(parts, login, group):
        with parts.database.read() as db:
            try:
                identities.active_person(db, plan.gid)
                continue
            except NotFound:
                pass  # revoked, or the account was closed: the keyholder refuses them already
        stop(parts, login, row.id)
    group = _group(parts, login)
    if group is None:
        return
    group = _up_to_date(parts, login, group)
    keys, speaker = identities.keys_of(login), identities.proof_for(login, parts)
    _destroy_old(parts, speaker, keys, group)
    _issue_missing(parts, login, keys, group)
    _file(parts, login, group)


def _issue_missing(parts: Parts, login: "Login", keys: IdentityKeys, group: Compartment) -> None:
    active = _active(parts, login, group)
    with parts.database.read() as db:
        without = [one for one in active if db.get(DelegationKey, (one[0].id, group.epoch)) is None]
    issued = _issue_all(parts, keys, group.epoch, without)
    if not issued:
        return
    speaker = identities.proof_for(login, parts)
    with parts.database.write() as db:
        if not _still(db, login, group, active):
            return
        _open_vault(parts, speaker, keys, group.id, group.epoch, {plan.gid for _, plan in active})
        for key in issued:
            if db.get(DelegationKey, (key.delegation_id, group.epoch)) is None:
                db.add(key)


def _forget_earlier(parts: Parts, login: "Login") -> None:
    """What was shared under an identity that was revoked: the vault withholds it for good."""
    gid = identities.gid_of(login)
    with parts.database.write() as db:
        for compartment_id in db.exec(
            select(Compartment.id).where(Compartment.account_id == login.account.id, Compartment.kind == "labels",
                                         Compartment.state == "active", Compartment.owner_gid != gid)
        ).all():  # fmt: skip
            forget(db, compartment_id, now())


# -- looking ------------------------------------------------------------------------------------------
def list_mine(parts: Parts, login: "Login") -> list[ShareView]:
    """What is shared by kind now, the newest first."""
    group = _group(parts, login)
    if group is None:
        return []
    with parts.database.read() as db:
        return [_view(db, group, row, plan) for row, plan in _active(parts, login, group)]


def one(parts: Parts, login: "Login", delegation_id: str) -> ShareView:
    """Raises NotFound."""
    group, row, plan = _own(parts, login, delegation_id)
    with parts.database.read() as db:
        return _view(db, group, row, plan)


def _group_row(db: Session, login: "Login") -> Compartment | None:
    return db.exec(
        select(Compartment)
        .where(Compartment.account_id == login.account.id, Compartment.kind == "labels",
               Compartment.state == "active", Compartment.owner_gid == identities.gid_of(login))
        .order_by(col(Compartment.created_at))
    ).first()  # fmt: skip


def _group(parts: Parts, login: "Login") -> Compartment | None:
    """The compartment of all that this owner shares by kind. One they did not make is none."""
    with parts.database.read() as db:
        row = _group_row(db, login)
    if row is None:
        return None
    try:
        compartments.unwrap_plan(login.ring(), row.id, row.wrapped_plan)
    except EnvelopeError:
        log.error("share %s was changed in the database", row.id)
        return None
    return row


def _active(parts: Parts, login: "Login", group: Compartment) -> list[_Active]:
    with parts.database.read() as db:
        return _active_in(db, login, group)


def _active_in(db: Session, login: "Login", group: Compartment) -> list[_Active]:
    """Active delegations with their plans. A row whose plan this owner did not make is nobody's."""
    rows = db.exec(
        select(Delegation)
        .where(Delegation.compartment_id == group.id, Delegation.state == "active")
        .order_by(col(Delegation.created_at).desc())
    ).all()
    found = []
    for row in rows:
        try:
            plan = _Plan.from_json(compartments.unwrap_plan(login.ring(), row.id, row.wrapped_plan))
            if (plan.compartment_id, plan.gid) != (group.id, row.gid):
                raise EnvelopeError("a plan for somebody else")
        except (EnvelopeError, KeyError):
            log.error("delegation %s was changed in the database", row.id)
            continue
        found.append((row, plan))
    return found


def _own(parts: Parts, login: "Login", delegation_id: str) -> tuple[Compartment, Delegation, _Plan]:
    group = _group(parts, login)
    if group is not None:
        for row, plan in _active(parts, login, group):
            if row.id == delegation_id:
                return group, row, plan
    raise NotFound("share")


def _view(db: Session, group: Compartment, row: Delegation, plan: _Plan) -> ShareView:
    done, total = db.exec(
        select(func.coalesce(func.sum(RewrapTask.done), 0), func.coalesce(func.sum(RewrapTask.total), 0))
        .where(RewrapTask.compartment_id == group.id, RewrapTask.state == "waiting")
    ).one()  # fmt: skip
    lagging = db.exec(select(LabelClass.id).where(LabelClass.compartment_id == group.id,
                                                  LabelClass.epoch < group.epoch)).first()  # fmt: skip
    people = []
    with contextlib.suppress(NotFound):
        people.append(identities.active_person(db, plan.gid))
    state: Literal["active", "changing"] = "changing" if total or lagging or group.stale else "active"
    words = f"{plan.words[:1].upper()}{plan.words[1:]}, and what comes later"
    return ShareView(row.id, plan.wanted.words(), words, people, row.created_at, state, done, total, False, [], True)


def _person(db: Session, gid: str) -> str:
    with contextlib.suppress(NotFound):
        return identities.active_person(db, gid).name
    return "somebody"


def _note(db: Session, event: str, login: "Login", **details: object) -> None:
    record(db, event, account_id=login.account.id, actor=Actor("patient", login.account.id), **details)
