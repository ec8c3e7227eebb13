"""Who may see which folder: the files gateway's only questions to the database, and how results become items.

Everything here blocks and runs in worker threads. A secret is compared in constant time and never leaves this call
chain; what is refused is refused alike, whatever the reason. Called by `files_hub`.
"""

import dataclasses
import datetime as dt
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sqlmodel import col, select

from myphr.audit import trail
from myphr.errors import EnvelopeError, NotFound
from myphr.gateway import files_folder
from myphr.gateway.files_folder import Folder
from myphr.gateway.files_tree import MemoryBudget, Source
from myphr.ingest import identify
from myphr.machines.models import Machine, VmSession
from myphr.portal import Portal
from myphr.records import items, manifest
from myphr.records.models import Item

log = logging.getLogger("myphr.files")

MACHINE_STATES = ("cloned", "starting", "booting", "warm", "claimed")  # it runs, or may run any moment
SESSION_STATES = ("starting", "connecting", "opening", "live")  # its machine was or is just being told the secret
SECRET_CHARACTERS = 43  # base64url of 32 bytes


class AttachRefused(Exception):
    """Nothing for this machine. `reason` is for the trail and the log, never for the guest."""

    def __init__(self, reason: str, machine_id: str | None = None, account_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.machine_id = machine_id
        self.account_id = account_id


@dataclasses.dataclass(frozen=True, slots=True)
class Claimed:
    """A VM session that presented its secret."""

    vm_session_id: str
    account_id: str
    machine_id: str
    owner_public_key: bytes
    created_at: dt.datetime
    sealed_manifest: bytes = dataclasses.field(repr=False)


class Access:
    """Bound to one portal; thread-safe."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self.spool: Path = portal.settings.spool_dir / "results"

    def machines(self) -> dict[int, str]:
        """vmid -> machine id of machines that may be running."""
        with self._portal.database.read() as db:
            rows = db.exec(select(Machine.vmid, Machine.id).where(col(Machine.state).in_(MACHINE_STATES)))
            return {vmid: machine_id for vmid, machine_id in rows}

    def over(self, vm_session_ids: Iterable[str]) -> set[str]:
        """Those of these sessions whose folder must not be shown any more (or that do not exist)."""
        asked = list(vm_session_ids)
        if not asked:
            return set()
        with self._portal.database.read() as db:
            statement = select(col(VmSession.id)).where(
                col(VmSession.id).in_(asked), col(VmSession.state).in_(SESSION_STATES)
            )
            return set(asked) - set(db.exec(statement).all())

    def ending(self) -> list[str]:
        """Sessions that are being ended: their end job waits for results."""
        with self._portal.database.read() as db:
            return list(db.exec(select(VmSession.id).where(VmSession.state == "ending")))

    def claim(self, vmid: int, uname: str, aname: str) -> Claimed:
        """The session that this very machine is claimed for, if the secret is its own. Raises AttachRefused."""
        with self._portal.database.read() as db:
            row = db.exec(
                select(Machine.id, VmSession)
                .outerjoin(VmSession, col(VmSession.machine_id) == col(Machine.id))
                .where(Machine.vmid == vmid, col(Machine.state).in_(MACHINE_STATES))
            ).first()
        if row is None:
            raise AttachRefused("no-machine")
        machine_id, session = row
        presented = hashlib.sha256(aname.encode()).hexdigest()
        # Compared even when there is nothing to compare with: the answer takes as long for each kind of "no".
        expected = session.secret_sha256 if session is not None and session.secret_sha256 else "0" * 64
        right = hmac.compare_digest(presented, expected)
        if session is None:
            raise AttachRefused("not-claimed", machine_id)
        if session.state not in SESSION_STATES or session.sealed_manifest is None:
            raise AttachRefused("not-open", machine_id, session.account_id)
        # Linux attaches again, without a name, for a second user of the same mount: the machine says which session.
        if not right or len(aname) != SECRET_CHARACTERS or uname not in ("", session.id):
            raise AttachRefused("wrong-secret", machine_id, session.account_id)
        return Claimed(
            session.id, session.account_id, machine_id, session.owner_public_key, session.created_at,
            session.sealed_manifest,
        )  # fmt: skip

    def ended(self, vm_session_id: str) -> Claimed | None:
        """A session that is over, to save what it left; None while it may still be running, or for none at all."""
        with self._portal.database.read() as db:
            session = db.get(VmSession, vm_session_id)
        if session is None or session.state in (*SESSION_STATES, "requested") or not session.owner_public_key:
            return None
        return Claimed(
            session.id, session.account_id, session.machine_id or session.id, session.owner_public_key,
            session.created_at, b"",
        )  # fmt: skip

    def open_folder(
        self, claimed: Claimed, aname: str, *, budget: MemoryBudget, later: Callable[[Callable[[], None]], None]
    ) -> Folder:
        """The keys of the manifest, in memory. Raises AttachRefused when the manifest is not this session's."""
        secret = aname.encode()
        try:
            entries = manifest.open_(secret, claimed.vm_session_id, claimed.sealed_manifest)
        except EnvelopeError:
            raise AttachRefused("manifest", claimed.machine_id, claimed.account_id) from None
        store = self._portal.store
        reported: set[str] = set()

        def damaged(item_id: str) -> None:
            if item_id not in reported:
                reported.add(item_id)
                self.note_damaged(claimed, item_id)

        def source(entry: manifest.ManifestEntry) -> Source:
            return Source(
                entry.path, entry.item_id, entry.plain_bytes, lambda: items.open_item(store, entry, entry.dek)
            )

        created = claimed.created_at.replace(tzinfo=claimed.created_at.tzinfo or dt.UTC)
        return files_folder.open_folder(
            claimed.vm_session_id, secret, [source(entry) for entry in entries],
            created_ns=int(created.timestamp()) * 10**9, budget=budget, damaged=damaged, spool=self.spool,
            owner_public_key=claimed.owner_public_key, results_bytes_max=self._portal.settings.results_bytes_max,
            later=later,
        )  # fmt: skip

    # -- the trail --------------------------------------------------------------------------------------
    def note_refused(self, refused: AttachRefused, vmid: int) -> None:
        log.warning("machine %d was refused its folder: %s", vmid, refused.reason)
        if refused.machine_id is None:
            return
        with self._portal.database.write() as db:
            trail.record(
                db, "folder-refused", account_id=refused.account_id,
                actor=trail.Actor("machine", refused.machine_id), machine=refused.machine_id, reason=refused.reason,
            )  # fmt: skip

    def note_damaged(self, claimed: Claimed, item_id: str) -> None:
        log.error("item %s is damaged in storage (VM session %s)", item_id, claimed.vm_session_id)
        try:
            with self._portal.database.write() as db:
                item = db.get(Item, item_id)  # of somebody else, where a share is read
                trail.record(
                    db, "item-damaged", account_id=item.account_id if item else claimed.account_id,
                    actor=trail.Actor("machine", claimed.machine_id), item=item_id, vm_session=claimed.vm_session_id,
                )  # fmt: skip
        except Exception as error:  # the guest's read must end with EIO whatever the database says
            log.error("damage of item %s could not be noted: %s", item_id, type(error).__name__)

    # -- results --------------------------------------------------------------------------------------------
    def make_item(self, claimed: Claimed, path: str, chunks: Iterator[bytes]) -> str:
        """Seal one result to its owner as a new item; the id, also when the record had these bytes already.

        Raises PortalError (a full store, a closed account) and what `chunks` raises; then nothing is in the record."""
        with items.ItemWriter(
            self._portal, claimed.account_id, owner_public_key=claimed.owner_public_key, source="result",
            source_id=claimed.vm_session_id, describe=identify.describe,
        ) as writer:  # fmt: skip
            for chunk in chunks:
                writer.write(chunk)
            return writer.finish(path.rpartition("/")[2], path).id

    def withdraw(self, claimed: Claimed, item_ids: list[str]) -> None:
        """Take earlier states of results out of the record: only those that came from this very session."""
        with self._portal.database.read() as db:
            ours = db.exec(
                select(Item.id).where(
                    col(Item.id).in_(item_ids), Item.source == "result", Item.source_id == claimed.vm_session_id,
                    col(Item.deleted_at).is_(None),
                )
            ).all()  # fmt: skip
        for item_id in ours:
            try:
                items.remove_item(
                    self._portal.database, claimed.account_id, item_id, trail.Actor("machine", claimed.machine_id)
                )
            except NotFound:
                pass  # its owner was faster

    def note_saved(self, claimed: Claimed, count: int, total_bytes: int) -> None:
        with self._portal.database.write() as db:
            trail.record(
                db, "results-saved", account_id=claimed.account_id,
                actor=trail.Actor("machine", claimed.machine_id), vm_session=claimed.vm_session_id, items=count,
                bytes=total_bytes,
            )  # fmt: skip

