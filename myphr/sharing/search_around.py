"""What a search finds beside the owner's own words: files that others share with her, and the names of who sent hers.

Each search really opens each share first, so that what was taken back is found no more from that moment. The words of
shared files stand in the reader's own sealed index (decision 0241) and go from it when it is written next. Shares for
emergencies are never read. Called by web, which hands it to `records.search`.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select
from sqlmodel import col
from sqlmodel import select as sqlmodel_select

from myphr.audit.trail import Actor, record
from myphr.errors import EnvelopeError, PortalError
from myphr.ingest import drop_offs
from myphr.ingest.fhir import fetches
from myphr.ingest.pacs import fetches as pacs_fetches
from myphr.people import identities
from myphr.records import entries, readings
from myphr.records.models import Item, ItemReading
from myphr.records.opening import open_details
from myphr.records.search_index import Doc, Entry
from myphr.sharing import delegated_to_me, shared_with_me
from myphr.sharing.compartments import Parts
from myphr.sharing.delegated_to_me import Delegated
from myphr.sharing.record_models import Compartment, ItemWrap
from myphr.sharing.shared_with_me import CLOSED, OpenEpoch

if TYPE_CHECKING:
    from myphr.people.accounts import Login

log = logging.getLogger(__name__)


class Around:
    """For one search, or one reading of the index, of who is signed in."""

    def __init__(self, parts: Parts, login: "Login") -> None:
        self._parts, self._login = parts, login
        self._of_item: dict[str, str] = {}  # item: the share that it is found by
        self._named: dict[str, tuple[Compartment, str, list[OpenEpoch]]] = {}
        self._by_kind: dict[str, tuple[Delegated, str]] = {}

    def is_any(self) -> bool:
        """Whether somebody shares something, by the portal's rows."""
        with self._parts.database.read() as db:
            gid = identities.gid_of(self._login)
            return bool(shared_with_me.mine_to_read(db, gid) or delegated_to_me.to_read(db, gid))

    # -- who sent it ------------------------------------------------------------------------------------
    def senders(self, items: Iterable[Item]) -> Mapping[str, str]:
        """By item, the practice or hospital that it came from."""
        by_source: dict[str, dict[str, str]] = {"drop-off": {}, "fhir": {}, "pacs": {}}
        for item in items:
            if item.source in by_source and item.source_id:
                by_source[item.source][item.id] = item.source_id
        names: dict[str, str] = {}
        with self._parts.database.read() as db:
            known = (("drop-off", drop_offs.names), ("fhir", fetches.names), ("pacs", pacs_fetches.names))
            for source, named in known:
                if by_source[source]:
                    with contextlib.suppress(EnvelopeError):  # a name that was changed must not hide the files
                        names |= named(db, self._login, by_source[source].values())
        return {item_id: names[id_] for ids in by_source.values() for item_id, id_ in ids.items() if id_ in names}

    # -- what others share --------------------------------------------------------------------------------
    def stamps(self) -> dict[str, bytes] | None:
        """As those of the record, by the index's keys; each share opened anew. None where nobody can tell now."""
        found: dict[str, bytes] = {}
        self._of_item, self._named, self._by_kind = {}, {}, {}
        try:
            gid = identities.gid_of(self._login)
            with self._parts.database.read() as db:
                rows = [(row, shared_with_me.owner_name_of(db, row)) for row in shared_with_me.mine_to_read(db, gid)]
                by_kind = [(one, shared_with_me.owner_name_of(db, one.compartment))
                           for one in delegated_to_me.to_read(db, gid)]  # fmt: skip
            for row, owner_name in rows:
                if row.preset != "emergency":
                    self._stamp_named(found, row, owner_name)
            for one, owner_name in by_kind:
                self._stamp_by_kind(found, one, owner_name)
        except PortalError as error:  # the keyholder is away, or this person has no certificate
            log.warning("what others share cannot be searched now: %s", error.code)
            return None
        return found

    def _stamp_named(self, found: dict[str, bytes], row: Compartment, owner_name: str) -> None:
        try:
            opened = shared_with_me.open_epochs(self._parts, self._login, row, b"")
        except CLOSED:
            return
        self._named[row.id] = row, owner_name, opened
        wanted = col(ItemWrap.epoch).in_([one.epoch for one in opened])
        self._stamp(found, row, row.id, owner_name, wanted)

    def _stamp_by_kind(self, found: dict[str, bytes], one: Delegated, owner_name: str) -> None:
        try:
            opened = delegated_to_me.open_keys(self._parts, self._login, one)
        except CLOSED:
            return
        self._by_kind[one.row.id] = one, owner_name
        for key in opened:
            classes = delegated_to_me.classes_of(self._parts, one, key)
            wanted = and_(col(ItemWrap.epoch) == key.epoch, col(ItemWrap.label_class_id).in_(classes))
            self._stamp(found, one.compartment, one.row.id, owner_name, wanted)

    def _stamp(
        self, found: dict[str, bytes], compartment: Compartment, share_id: str, owner_name: str, wanted: Any
    ) -> None:
        query = (
            select(
                col(Item.id), col(Item.format), func.substr(Item.sealed_details, 2, 12),
                func.substr(ItemReading.sealed_reading, 2, 12),
            )
            .join(ItemWrap, col(ItemWrap.item_id) == col(Item.id))
            .outerjoin(ItemReading, col(ItemReading.item_id) == col(Item.id))
            .where(col(ItemWrap.compartment_id) == compartment.id, wanted, col(Item.deleted_at).is_(None),
                   col(Item.account_id) == compartment.account_id)
        )  # fmt: skip
        with self._parts.database.read() as db:
            rows = db.connection().execute(query).all()
        for item_id, format, details, reading in rows:
            if item_id in self._of_item:
                continue  # by two shares, or two epochs: once
            self._of_item[item_id] = share_id
            found[entries.shared_key(item_id)] = b"|".join(
                (share_id.encode(), owner_name.encode(), format.encode(), details, reading or b"")
            )

    def read(self, keys: Sequence[str], stamps: Mapping[str, bytes]) -> Iterator[tuple[Entry, Doc]]:
        """The files behind these keys of the last `stamps`, share by share; each owner's trail says so first."""
        wanted: dict[str, set[str]] = {}
        for key in keys:
            item_id = entries.item_of_shared(key)
            if item_id in self._of_item:
                wanted.setdefault(self._of_item[item_id], set()).add(item_id)
        for share_id, ids in wanted.items():
            try:
                compartment, owner_name, files = self._files(share_id)
            except CLOSED as error:
                log.info("share %s closed while it was read: %s", share_id, error.code)
                continue
            chosen = [(item, dek) for item, dek in files if item.id in ids]
            for item in self._lost(ids - {item.id for item, _ in chosen}):  # else it would be waited for, for ever
                yield entries.of_shared(share_id, owner_name, item, {}, None, stamps[entries.shared_key(item.id)])
            self._note(compartment, share_id, len(chosen))
            rows = readings.rows_of(self._parts.database, [item.id for item, _ in chosen])
            for item, dek in chosen:
                details, reading = {}, None
                try:
                    details = open_details(dek, item.id, item.sealed_details)
                    row = rows.get(item.id)
                    reading = readings.reading_in(row, dek) if row is not None else None
                except EnvelopeError:
                    log.error("item %s of share %s was changed", item.id, share_id)
                stamp = stamps[entries.shared_key(item.id)]
                yield entries.of_shared(share_id, owner_name, item, details, reading, stamp)

    def _lost(self, ids: set[str]) -> Sequence[Item]:
        """Rows of files whose key does not open: changed in the database."""
        with self._parts.database.read() as db:
            return db.exec(sqlmodel_select(Item).where(col(Item.id).in_(ids))).all() if ids else []

    def _files(self, share_id: str) -> tuple[Compartment, str, list[tuple[Item, bytes]]]:
        if share_id in self._named:
            row, owner_name, opened = self._named[share_id]
            items, _ = shared_with_me.items_of(self._parts, row, opened)
            return row, owner_name, [(one.item, one.dek) for one in items]
        one, owner_name = self._by_kind[share_id]
        _, files = delegated_to_me.open_files(self._parts, self._login, one)
        return one.compartment, owner_name, files

    def _note(self, compartment: Compartment, share_id: str, items: int) -> None:
        if not items:
            return
        with self._parts.database.write() as db:
            record(db, "shared-record-indexed", account_id=compartment.account_id,
                   actor=Actor("caregiver", self._login.account.id), share=share_id, items=items)  # fmt: skip
