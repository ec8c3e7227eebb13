"""Tables of the record. What a file says (names, dates, hospitals) stands here only sealed."""

import datetime as dt

from sqlalchemy import BigInteger, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class Study(SQLModel, table=True):
    """A DICOM study: items that belong together. `group_key` is a keyed hash of its UID, so that an upload can
    find its study without being able to read anything."""

    __tablename__ = "study"
    __table_args__ = (UniqueConstraint("account_id", "group_key"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    group_key: str  # hex HMAC-SHA256(index key, account id || StudyInstanceUID)
    sealed_summary: bytes  # envelope to the owner of the JSON summary: see myphr.records.summaries
    items_count: int = 0
    bytes_total: int = Field(default=0, sa_type=BigInteger)
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    deleted_at: dt.datetime | None = None


HELD = "length(sealed_dek) > 0"  # of an item whose bytes are there: its key goes with them


class Item(SQLModel, table=True):
    """One file, kept byte-exact. Its bytes are the sealed container `object_key` in the object store."""

    __tablename__ = "item"
    # Both are asked with every file that comes. Is its content there? With an index for each of the two columns SQLite
    # may read all rows of the record, 1.2 ms at 3,000. How much does it hold? From the rows 9.5 ms at 10,000.
    __table_args__ = (
        Index("ix_item_content", "account_id", "content_key"),
        Index("ix_item_room", "account_id", "plain_bytes", sqlite_where=text(HELD), postgresql_where=text(HELD)),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    study_id: str | None = Field(default=None, foreign_key="study.id", index=True)
    version: int = 1
    object_key: str = Field(unique=True)
    format: str  # code of myphr.ingest.identify: dicom, pdf, jpeg, zip, unknown ...
    media_type: str = "application/octet-stream"
    plain_bytes: int = Field(sa_type=BigInteger)  # a whole slide passes 2 GiB: PostgreSQL's INTEGER ends there
    content_key: str  # hex HMAC-SHA256(index key, account id || SHA-256): finds duplicates blindly
    sealed_dek: bytes  # the file's key, envelope to the owner
    sealed_details: bytes  # JSON under the file's key: name, path, sha256, DICOM headers
    wrapped_labels: bytes | None = None  # under a key of the owner's ring: see myphr.records.labels
    source: str = "upload"  # upload, archive, result, drop-off
    source_id: str | None = None  # upload id, archive item id, VM session id or drop-off id
    created_at: dt.datetime = Field(default_factory=now)
    deleted_at: dt.datetime | None = None


class ItemRepeat(SQLModel, table=True):
    """A place from which an item's very bytes came again; they are kept once. One row a place, however often."""

    __tablename__ = "item_repeat"
    __table_args__ = (UniqueConstraint("item_id", "place_key"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    item_id: str = Field(foreign_key="item.id", index=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    place_key: str  # hex HMAC-SHA256(index key, account id || source, path and name)
    sealed_note: bytes  # envelope to the owner of the JSON note: name and path there
    source: str  # as in Item
    source_id: str | None = None
    times: int = 1
    created_at: dt.datetime = Field(default_factory=now)
    last_at: dt.datetime = Field(default_factory=now)


class ItemIdentifier(SQLModel, table=True):
    """What a file, or an entry in it, calls itself, as a keyed hash: finds other versions blindly."""

    __tablename__ = "item_identifier"
    __table_args__ = (Index("ix_item_identifier_key", "account_id", "kind", "key"),)

    item_id: str = Field(foreign_key="item.id", primary_key=True)
    kind: str = Field(primary_key=True)  # see myphr.records.duplicates.KINDS
    key: str = Field(primary_key=True)  # hex HMAC-SHA256(index key, kind || account id || identifier)
    account_id: str = Field(foreign_key="account.id")


class Upload(SQLModel, table=True):
    """One tus upload on its way in. The client's URL carries the token that wraps the key; nothing here opens it."""

    __tablename__ = "upload"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    token_sha256: str
    wrapped_dek: bytes | None  # under a key derived from the token; gone when the upload is finished
    sealed_metadata: bytes  # JSON under the DEK: name, path, media type as the browser said them
    state: str = "receiving"  # see myphr.ingest.uploads: receiving, writing, finishing, finished, abandoned
    total_bytes: int = Field(sa_type=BigInteger)
    # plaintext bytes that survive a kill -9, a multiple of the chunk size until the end
    durable_bytes: int = Field(default=0, sa_type=BigInteger)
    salt: bytes = b""  # of the container being written; replaced when a dirty tail forces a new key stream
    item_id: str | None = None
    drop_off_id: str | None = Field(default=None, index=True)  # a provider's upload: nobody else may go on with it
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    expires_at: dt.datetime


class ArchiveTask(SQLModel, table=True):
    """Unpacking one uploaded archive. The worker gets this one file's key, sealed for it, until the task is done."""

    __tablename__ = "archive_task"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    item_id: str = Field(foreign_key="item.id")
    state: str = "waiting"  # waiting, running, done, refused
    dek_for_worker: bytes | None
    members_total: int = 0
    members_done: int = 0
    members_duplicate: int = 0
    members_damaged: int = 0
    members_left: int = 0  # programs of a disc, which stay in its image
    sealed_note: bytes | None = None  # envelope to the owner: see myphr.records.discs
    error_code: str | None = None
    error_reason: str | None = None
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)


class ItemReading(SQLModel, table=True):
    """What was read out of one item, for its owner's pages and search. The worker gets this one file's key, sealed for
    it, until the file was read or could not be; afterwards only who has the item's key can open what was read."""

    __tablename__ = "item_reading"

    id: str = Field(default_factory=new_id, primary_key=True)
    item_id: str = Field(foreign_key="item.id", unique=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    state: str = Field(default="waiting", index=True)  # see myphr.ingest.states: waiting, running, done, failed
    attempts: int = 0
    dek_for_worker: bytes | None
    sealed_reading: bytes | None = None  # JSON under the file's key: see myphr.records.readings
    has_preview: bool = False
    has_narrative: bool = False
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)


class ItemPreview(SQLModel, table=True):
    """The picture and the narrative of one item, each under the file's key. A table of its own: lists never load it."""

    __tablename__ = "item_preview"

    item_id: str = Field(foreign_key="item.id", primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    sealed_preview: bytes | None = None  # JPEG or PNG
    sealed_narrative: bytes | None = None  # HTML of a fixed set of elements, UTF-8


class RecordIndex(SQLModel, table=True):
    """Where the sealed index of a record lies: see myphr.records.search. A cache, without which nothing is lost."""

    __tablename__ = "record_index"

    account_id: str = Field(foreign_key="account.id", primary_key=True)
    index_id: str  # fresh each time it is kept; bound in the container's header
    object_key: str = Field(unique=True)
    wrapped_dek: bytes  # under a key of the owner's ring
    plain_bytes: int = Field(sa_type=BigInteger)
    as_of: dt.datetime  # nothing that was deleted before is in it


class Export(SQLModel, table=True):
    """A zip of the whole record, made for its owner: sealed in the store, kept for a day. The worker holds its key
    until the zip is there; then only the owner's ring opens it."""

    __tablename__ = "export"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    state: str = Field(default="preparing", index=True)  # see myphr.records.states
    run_id: str | None = None  # of the run that writes it: another one must stop
    key_for_worker: bytes | None
    sealed_key: bytes  # envelope to the owner; empty when the export is over
    order_pieces: str = "[]"  # JSON: [name, bytes] of each piece of the order, see myphr.records.export_orders
    opened_to: str | None = None  # JSON: time and id of the last file in it
    items_opened: int = 0
    object_key: str | None = None
    zip_bytes: int = Field(default=0, sa_type=BigInteger)
    items_total: int = 0
    items_missing: int = 0
    bytes_total: int = Field(default=0, sa_type=BigInteger)
    bytes_done: int = Field(default=0, sa_type=BigInteger)
    error_code: str | None = None
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    expires_at: dt.datetime | None = None


class Deletion(SQLModel, table=True):
    """One act of deleting for good, and its proof. In the commit that makes this row the keys are destroyed already."""

    __tablename__ = "deletion"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    what: str  # file, study, account
    state: str = Field(default="keyless", index=True)  # see myphr.records.states
    items_count: int
    item_ids: str  # JSON
    sealed_note: bytes  # envelope to the owner of the JSON note: names and checksums; empty when an account closed
    facts: str = ""  # canonical JSON: what was destroyed and when, by ids; its checksum stands in the trail
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    bytes_at: dt.datetime | None = None
