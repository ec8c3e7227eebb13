"""After a roll: the files' keys, wrapped anew under the new epoch's key by the worker, a batch a transaction.

A file of a share by kind has its class's key, and a task has the keys of the classes it rolls.

The worker gets the keys sealed to it in the task's row, until it is done. Old epochs open for their readers until then;
then the worker shows the vault the owner's order to destroy their halves (decision 0193). What it could not do, the
owner does at the next unlock. Called by `record_shares`, `delegations`, jobs/sharing.py and the sweep.
"""

import datetime as dt
import logging

from sqlalchemy import delete, update
from sqlmodel import Session, and_, col, or_, select

from myphr.database import now
from myphr.errors import CertificateRefused, EnvelopeError, IdentityRevoked, KeyholderConflict, NotFound
from myphr.people.identities import AWAY
from myphr.people.keyholder import Speaker
from myphr.sharing import compartments
from myphr.sharing.compartments import Parts
from myphr.sharing.record_models import Compartment, CompartmentKey, CompartmentReader, ItemWrap, RewrapTask

JOB = "jobs.sharing.rewrap_share"
JOB_AGAIN = "jobs.sharing.rewrap_share_again"
BATCH = 500
JOB_SECONDS_MAX = 600
STUCK = dt.timedelta(seconds=20)  # a batch takes less than a second; until it is done, old halves open

log = logging.getLogger(__name__)
Keys = dict[tuple[str, int], bytes]  # by compartment or class, and epoch


def stop(db: Session, compartment_id: str) -> None:
    """Inside the caller's unit of work: unfinished tasks end, overtaken by a newer one or by a withdrawal."""
    db.execute(update(RewrapTask).where(col(RewrapTask.compartment_id) == compartment_id,
                                        col(RewrapTask.state) == "waiting")
               .values(state="stopped", keys_for_worker=None, destroy_order=None, changed_at=now()))  # fmt: skip


def enqueue(parts: Parts, task_id: str, job: str = JOB) -> None:
    parts.queue.enqueue(job, task_id, seconds_max=JOB_SECONDS_MAX)


def enqueue_stuck(parts: Parts) -> None:
    """Put tasks back that nobody seems to work on. For the sweep; safe to run twice."""
    with parts.database.read() as db:
        unfinished = or_(
            col(RewrapTask.state) == "waiting",
            and_(col(RewrapTask.state) == "done", col(RewrapTask.destroy_order).is_not(None)),
        )
        found = db.exec(select(RewrapTask.id).where(unfinished, RewrapTask.changed_at < now() - STUCK)).all()
    for task_id in found:
        enqueue(parts, task_id, JOB_AGAIN)


def run(parts: Parts, task_id: str) -> None:
    """Wrap anew what is left, then have the old halves destroyed. Runs twice without harm, also at the same time or
    after a kill: each batch finds under the lock what the one before left."""
    with parts.database.read() as db:
        task = db.get(RewrapTask, task_id)
    if task is None:
        return
    if task.keys_for_worker is not None:
        keys = _keys(parts, task)
        while _batch(parts, task_id, keys):
            pass
    _show_order(parts, task_id)


def _keys(parts: Parts, task: RewrapTask) -> Keys:
    assert task.keys_for_worker is not None
    private = parts.keys.worker.private
    with parts.database.read() as db:
        compartment = db.get(Compartment, task.compartment_id)
    if compartment is not None and compartment.kind == "labels":
        return compartments.open_class_keys(private, task.id, task.keys_for_worker)
    opened = compartments.open_keys(private, task.id, task.keys_for_worker)
    return {(task.compartment_id, epoch): key for epoch, key in opened.items()}


def _batch(parts: Parts, task_id: str, keys: Keys) -> bool:
    with parts.database.write() as db:
        named = db.get(RewrapTask, task_id)
        if named is None:
            return False
        # First the share, then its task, as a roll and a withdrawal do: the other way round they wait for each other.
        compartment = db.get(Compartment, named.compartment_id, with_for_update=True)
        task = db.get(RewrapTask, task_id, with_for_update=True, populate_existing=True)
        if task is None or task.state != "waiting":
            return False
        if compartment is None or compartment.state != "active" or compartment.epoch != task.to_epoch:
            task.state, task.keys_for_worker, task.destroy_order = "stopped", None, None
            db.add(task)
            return False
        query = select(ItemWrap).where(ItemWrap.compartment_id == compartment.id, ItemWrap.epoch < task.to_epoch)
        if compartment.kind == "labels":  # other classes are another task's
            query = query.where(col(ItemWrap.label_class_id).in_({place for place, _ in keys}))
        older = db.exec(query.limit(BATCH)).all()
        for wrap in older:
            _rewrap(db, wrap, task.to_epoch, keys)
        task.done, task.changed_at = min(task.total, task.done + len(older)), now()
        if not older:
            task.state, task.keys_for_worker, task.done = "done", None, task.total
        db.add(task)
        return bool(older)


def _rewrap(db: Session, wrap: ItemWrap, to_epoch: int, keys: Keys) -> None:
    place = compartments.place_of(wrap)
    try:
        dek = compartments.unwrap_dek(keys[place, wrap.epoch], place, wrap.item_id, wrap.epoch, wrap.wrapped_dek)
        if db.get(ItemWrap, (wrap.compartment_id, wrap.item_id, to_epoch)) is None:
            new = compartments.wrap_dek(keys[place, to_epoch], place, wrap.item_id, to_epoch, dek)
            db.add(ItemWrap(compartment_id=wrap.compartment_id, item_id=wrap.item_id, epoch=to_epoch,
                            label_class_id=wrap.label_class_id, wrapped_dek=new))  # fmt: skip
    except (EnvelopeError, KeyError):  # a row that was changed opens nothing; the owner's next unlock wraps it again
        log.error("a wrap of share %s was changed", wrap.compartment_id)
    db.delete(wrap)


def _show_order(parts: Parts, task_id: str) -> None:
    """The owner's order to the vault, once no file's key needs an old half any more."""
    with parts.database.read() as db:
        task = db.get(RewrapTask, task_id)
        if task is None or task.state != "done" or task.destroy_order is None:
            return
        left = db.exec(select(ItemWrap.item_id).where(ItemWrap.compartment_id == task.compartment_id,
                                                      ItemWrap.epoch < task.to_epoch).limit(1)).first()  # fmt: skip
    order: bytes | None = task.destroy_order
    try:
        if left is None:
            parts.keyholder.vault_destroy_old(task.compartment_id, task.to_epoch, task.destroy_order)
            _forget_old(parts, task.compartment_id, task.to_epoch)
            return
        log.error("share %s still needs its old halves", task.compartment_id)
        order = None
    except AWAY as error:
        log.warning("old halves of share %s go later: %s", task.compartment_id, error.code)
    except (CertificateRefused, IdentityRevoked, KeyholderConflict, NotFound) as error:
        log.warning("old halves of share %s are their owner's to destroy: %s", task.compartment_id, error.code)
        order = None
    with parts.database.write() as db:
        db.execute(update(RewrapTask).where(col(RewrapTask.id) == task_id, col(RewrapTask.state) == "done")
                   .values(destroy_order=order, changed_at=now()))  # fmt: skip


def destroy_old(parts: Parts, speaker: Speaker, compartment_id: str) -> None:
    """With the owner there: halves, headers and consents of the epochs that a finished task left. Safe to repeat."""
    with parts.database.read() as db:
        tasks = db.exec(
            select(RewrapTask).where(RewrapTask.compartment_id == compartment_id, RewrapTask.state == "done")
        ).all()
        newest = max((task.to_epoch for task in tasks), default=0)
        epochs = db.exec(select(CompartmentKey.epoch).where(CompartmentKey.compartment_id == compartment_id,
                                                            CompartmentKey.epoch < newest)).all()  # fmt: skip
    for epoch in epochs:
        parts.keyholder.vault_destroy(speaker, compartment_id, epoch)
    if tasks:
        _forget_old(parts, compartment_id, newest)


def _forget_old(parts: Parts, compartment_id: str, newest: int) -> None:
    """Rows of the epochs below, whose halves are gone."""
    with parts.database.write() as db:
        db.execute(delete(CompartmentReader).where(col(CompartmentReader.compartment_id) == compartment_id,
                                                   col(CompartmentReader.epoch) < newest))
        db.execute(delete(CompartmentKey).where(col(CompartmentKey.compartment_id) == compartment_id,
                                                col(CompartmentKey.epoch) < newest))
        db.execute(update(RewrapTask).where(col(RewrapTask.compartment_id) == compartment_id,
                                            col(RewrapTask.state) == "done", col(RewrapTask.to_epoch) <= newest)
                   .values(state="closed", destroy_order=None))  # fmt: skip
