"""The owner's word on what a file is: it replaces the format we told, and can be taken back.

Changes `item.format`, which stands in clear as before; the format we told stays in the sealed details, so that the
database does not say which files were corrected to what. Needs the owner's ring. Called by `sharing`, since labels that
were guessed from the format decide who may open a file shared by kind.
"""

import dataclasses
from collections.abc import Callable

from sqlalchemy import update
from sqlmodel import Session, col

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.database import Database
from myphr.errors import FormRefused
from myphr.people.keyring import KeyRing
from myphr.records import formats, labels
from myphr.records.labels import Labels
from myphr.records.models import Item
from myphr.records.opening import dek_of, open_details, seal_details
from myphr.records.views import load_item

IDENTIFIED = "identified"  # in the details of a corrected file: the format we told
_TRIES = 3  # two corrections of one file at once: the later is made on what the earlier left


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a file is taken for, and what we told it was where its owner said otherwise."""

    format: str
    identified: str | None


def kind_of(database: Database, ring: KeyRing, account_id: str, item_id: str) -> Kind:
    """Raises NotFound, EnvelopeError for a damaged row."""
    item = load_item(database, account_id, item_id)
    return Kind(item.format, open_details(dek_of(ring, item), item.id, item.sealed_details).get(IDENTIFIED))


def correct(
    database: Database, ring: KeyRing, account_id: str, item_id: str, code: str | None,
    read_anew: Callable[[Session, Item, bytes], None] | None = None,
) -> Labels | None:  # fmt: skip
    """The owner says that the file is of format `code`, or (None) that we were right after all. Returns the labels that
    follow from it, None where the owner said those too or nothing changed. `read_anew` orders, in the same commit, what
    was read out of the file as something else.

    Safe to run twice. Raises NotFound for what is not theirs, FormRefused for no format, EnvelopeError for a damaged
    row."""
    if code is not None and code not in formats.FORMATS:
        raise FormRefused("format", reason="choose what the file is")
    for _ in range(_TRIES):
        item = load_item(database, account_id, item_id)
        dek = dek_of(ring, item)
        details = open_details(dek, item.id, item.sealed_details)
        told = details.pop(IDENTIFIED, None) or item.format
        wanted = told if code is None else code
        if wanted == item.format:
            return None
        if wanted != told:
            details[IDENTIFIED] = told
        values = {"format": wanted, "sealed_details": seal_details(dek, item.id, details)}
        follows = labels.guessed_anew(ring, item, wanted, details.get("headers"))
        if follows is not None:
            values["wrapped_labels"] = labels.wrap_guess(ring, item.id, follows)
        with database.write() as db:
            done = db.connection().execute(
                update(Item).where(
                    col(Item.id) == item.id, col(Item.sealed_details) == item.sealed_details,
                    col(Item.wrapped_labels).is_not_distinct_from(item.wrapped_labels), col(Item.deleted_at).is_(None),
                ).values(**values)
            ).rowcount  # fmt: skip
            if done:
                trail.record(db, "item-kind-corrected", account_id=account_id, actor=Actor("patient", account_id),
                             item=item.id)  # fmt: skip
                if read_anew is not None:
                    item.format = wanted
                    read_anew(db, item, dek)
                return follows
    raise FormRefused("format", reason="it was changed at this very moment; look at it and say it once more")
