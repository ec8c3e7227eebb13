"""After a roll: the files' keys, wrapped anew under the new epoch's key by the worker, a batch a transaction.

The worker gets the keys sealed to it in the task's row, until it is done. Old epochs open for their readers until then;
their halves the owner destroys at the next unlock, as the vault takes that from its owner alone. Called by
`record_shares`, jobs/sharing.py and the sweep.
"""

import datetime as dt
import logging

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from myphr.database import now
from myphr.errors import EnvelopeError
from myphr.people.keyholder import Speaker
from myphr.sharing import compartments
from myphr.sharing.compartments import Parts
from myphr.sharing.record_models import Compartment, CompartmentKey, CompartmentReader, ItemWrap, RewrapTask

JOB = "jobs.sharing.rewrap_share"
JOB_AGAIN = "jobs.sharing.rewrap_share_again"
BATCH = 500
JOB_SECONDS_MAX = 600
STUCK = dt.timedelta(seconds=60)

log = logging.getLogger(__name__)


def stop(db: Session, compartment_id: str) -> None:
    """Inside the caller's unit of work: unfinished tasks end, overtaken by a newer one or by a withdrawal."""
    db.execute(update(RewrapTask).where(col(RewrapTask.compartment_id) == compartment_id,
                                        col(RewrapTask.state) == "waiting")
               .values(state="stopped", keys_for_worker=None, changed_at=now()))  # fmt: skip


def enqueue(parts: Parts, task_id: str, job: str = JOB) -> None:
    parts.queue.enqueue(job, task_id, seconds_max=JOB_SECONDS_MAX)


def enqueue_stuck(parts: Parts) -> None:
    """Put tasks back that nobody seems to work on. For the sweep; safe to run twice."""
    with parts.database.read() as db:
        found = db.exec(select(RewrapTask.id).where(RewrapTask.state == "waiting",
                                                    RewrapTask.changed_at < now() - STUCK)).all()  # fmt: skip
    for task_id in found:
        enqueue(parts, task_id, JOB_AGAIN)


def run(parts: Parts, task_id: str) -> None:
    """Wrap anew what is left. Runs twice without harm, also at the same time or after a kill: each batch finds under
    the lock what the one before left."""
    with parts.database.read() as db:
        task = db.get(RewrapTask, task_id)
    if task is None or task.keys_for_worker is None:
        return
    keys = compartments.open_keys(parts.keys.worker.private, task_id, task.keys_for_worker)
    while _batch(parts, task_id, keys):
        pass


def _batch(parts: Parts, task_id: str, keys: dict[int, bytes]) -> bool:
    with parts.database.write() as db:
        task = db.get(RewrapTask, task_id, with_for_update=True)
        if task is None or task.state != "waiting":
            return False
        compartment = db.get(Compartment, task.compartment_id, with_for_update=True)
        if compartment is None or compartment.state != "active" or compartment.epoch != task.to_epoch:
            task.state, task.keys_for_worker = "stopped", None
            db.add(task)
            return False
        older = db.exec(
            select(ItemWrap)
            .where(ItemWrap.compartment_id == compartment.id, ItemWrap.epoch < task.to_epoch)
            .limit(BATCH)
        ).all()
        for wrap in older:
            _rewrap(db, wrap, task.to_epoch, keys)
        task.done, task.changed_at = min(task.total, task.done + len(older)), now()
        if not older:
            task.state, task.keys_for_worker, task.done = "done", None, task.total
        db.add(task)
        return bool(older)


def _rewrap(db: Session, wrap: ItemWrap, to_epoch: int, keys: dict[int, bytes]) -> None:
    try:
        dek = compartments.unwrap_dek(
            keys[wrap.epoch], wrap.compartment_id, wrap.item_id, wrap.epoch, wrap.wrapped_dek
        )
        if db.get(ItemWrap, (wrap.compartment_id, wrap.item_id, to_epoch)) is None:
            new = compartments.wrap_dek(keys[to_epoch], wrap.compartment_id, wrap.item_id, to_epoch, dek)
            db.add(ItemWrap(compartment_id=wrap.compartment_id, item_id=wrap.item_id, epoch=to_epoch, wrapped_dek=new))
    except (EnvelopeError, KeyError):  # a row that was changed opens nothing; the owner's next unlock wraps it again
        log.error("a wrap of share %s was changed", wrap.compartment_id)
    db.delete(wrap)


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
    if not tasks:
        return
    with parts.database.write() as db:
        db.execute(delete(CompartmentReader).where(col(CompartmentReader.compartment_id) == compartment_id,
                                                   col(CompartmentReader.epoch) < newest))
        db.execute(delete(CompartmentKey).where(col(CompartmentKey.compartment_id) == compartment_id,
                                                col(CompartmentKey.epoch) < newest))
        db.execute(update(RewrapTask).where(col(RewrapTask.id).in_([task.id for task in tasks]))
                   .values(state="closed"))  # fmt: skip
