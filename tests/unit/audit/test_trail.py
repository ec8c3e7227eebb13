"""The audit trail: exact events, an unbroken chain under many writers, and no silent change or cut."""

import datetime as dt
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from myphr.audit import trail
from myphr.audit.events import EVENTS
from myphr.audit.models import AuditEvent
from myphr.audit.trail import Actor, Head
from myphr.database import Database
from myphr.errors import AuditBroken

VERA = "11111111-1111-4111-8111-111111111111"
NILS = "22222222-2222-4222-8222-222222222222"
ACTOR = Actor("patient", VERA)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    yield from opened(f"sqlite:///{tmp_path}/test.sqlite")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """For what depends on the engine: order, locks, types."""
    on_sqlite = request.param == "sqlite"
    yield from opened(f"sqlite:///{tmp_path}/test.sqlite" if on_sqlite else request.getfixturevalue("postgresql_url"))


def opened(url: str) -> Iterator[Database]:
    database = Database(url)
    database.create_all()
    yield database
    database.dispose()


def note(database: Database, count: int = 1, account_id: str = VERA) -> None:
    for number in range(count):
        with database.write() as db:
            trail.record(db, "items-uploaded", account_id=account_id, actor=ACTOR, items=number, bytes=7)


def change(database: Database, statement: str, **values: object) -> None:
    with database.write() as db:
        db.connection().execute(text(statement), values)


# -- what may be recorded -------------------------------------------------------------------------
@pytest.mark.parametrize(("event", "details"), [
    ("signed-in", {}),  # a field is missing
    ("signed-in", {"login_session": NILS, "email": "x"}),  # one too many
    ("signed-in", {"login_session": "vera@patient.example"}),
    ("signed-in", {"login_session": None}),
    ("signed-in", {"login_session": 7}),
    ("items-uploaded", {"items": -1, "bytes": 0}),
    ("items-uploaded", {"items": True, "bytes": 0}),
    ("items-uploaded", {"items": 1.5, "bytes": 0}),
    ("items-uploaded", {"items": 2**53, "bytes": 0}),
    ("vm-session-ended", {"vm_session": NILS, "reason": "Brain MRI of Vera"}),
    ("share-created", {"share": NILS, "vm_session": NILS, "access": "view", "passcode": 1, "seconds": 60}),
    ("looked-around", {}),  # not declared
])
def test_an_event_that_does_not_fit_its_declaration_raises(sqlite: Database, event: str, details: dict) -> None:
    with sqlite.write() as db, pytest.raises(ValueError):
        trail.record(db, event, account_id=VERA, actor=ACTOR, **details)
    assert trail.verify(sqlite) == 0


def test_an_unknown_kind_of_actor_raises(sqlite: Database) -> None:
    with sqlite.write() as db, pytest.raises(ValueError):
        trail.record(db, "item-deleted", account_id=VERA, actor=Actor("guest"), item=NILS)  # type: ignore[arg-type]


def test_every_declared_event_reads_as_a_sentence() -> None:
    values = {"id": NILS, "id or none": None, "count": 1, "code": "radiology", "yes or no": True}
    for name, event in EVENTS.items():
        details = {field: values[kind.value] for field, kind in event.fields.items()}
        event.check(details)
        row = AuditEvent(number=1, at=dt.datetime.now(dt.UTC), event=name, actor_kind="patient",
                         details=json.dumps(details), previous_hash="", hash="")
        sentence = trail.sentence(row)
        assert not sentence[0].islower() and sentence.endswith(".") and "{" not in sentence and NILS not in sentence


def test_sentences_count_and_name_the_actor() -> None:
    def sentence(event: str, who: str | None = None, kind: str = "patient", **details: object) -> str:
        return trail.sentence(AuditEvent(number=1, at=dt.datetime.now(dt.UTC), event=event, actor_kind=kind,
                                         details=json.dumps(details), previous_hash="", hash=""), who)

    assert sentence("items-uploaded", items=1, bytes=0) == "You added 1 file."
    assert sentence("items-uploaded", items=2000, bytes=0) == "You added 2,000 files."
    assert sentence("share-passcode-refused", attempts_left=4).endswith("4 tries left.")
    assert sentence("screen-watched", "a@b.example", "caregiver") == "a@b.example looked at your screen."
    assert sentence("screen-watched", None, "caregiver") == "A caregiver looked at your screen."
    assert sentence("written-by-a-newer-version", None, "system") == "The portal: written by a newer version."


# -- the chain ------------------------------------------------------------------------------------
def test_numbers_run_without_gaps_and_verify_counts_them(database: Database) -> None:
    assert trail.verify(database) == 0
    note(database, 5)
    assert trail.verify(database) == 5
    assert [row.number for row in trail.for_account(database, VERA)] == [5, 4, 3, 2, 1]


def test_several_events_of_one_unit_of_work_keep_their_order(sqlite: Database) -> None:
    with sqlite.write() as db:
        trail.record(db, "item-uploaded", account_id=VERA, actor=ACTOR, item=NILS, bytes=1)
        trail.record(db, "item-deleted", account_id=VERA, actor=ACTOR, item=NILS)
    assert [row.event for row in trail.for_account(sqlite, VERA)] == ["item-deleted", "item-uploaded"]
    assert trail.verify(sqlite) == 2


def test_rolled_back_work_leaves_no_event_and_no_gap(database: Database) -> None:
    note(database)
    with pytest.raises(RuntimeError), database.write() as db:
        trail.record(db, "item-deleted", account_id=VERA, actor=ACTOR, item=NILS)
        raise RuntimeError
    with database.write() as db:
        trail.record(db, "item-deleted", account_id=VERA, actor=ACTOR, item=NILS)
        db.rollback()
    note(database)
    assert trail.verify(database) == 2
    assert {row.event for row in trail.for_account(database, VERA)} == {"items-uploaded"}


def test_an_event_inside_a_savepoint_raises(sqlite: Database) -> None:
    with sqlite.write() as db, db.begin_nested(), pytest.raises(ValueError):
        trail.record(db, "item-deleted", account_id=VERA, actor=ACTOR, item=NILS)


@pytest.mark.parametrize("column", ["event", "account_id", "actor_kind", "actor_id", "details", "previous_hash",
                                    "hash"])
def test_verify_names_the_first_changed_row(sqlite: Database, column: str) -> None:
    note(sqlite, 6)
    change(sqlite, f"UPDATE audit_event SET {column} = 'forged' WHERE number = 4")
    with pytest.raises(AuditBroken) as broken:
        trail.verify(sqlite)
    assert broken.value.facts == {"number": 4}
    assert "4" in broken.value.message


def test_a_row_changed_together_with_its_hash_breaks_the_link_to_the_next(sqlite: Database) -> None:
    note(sqlite, 6)
    with sqlite.write() as db:
        row = db.get(AuditEvent, 4)
        assert row is not None
        row.account_id = NILS
        row.hash = trail.row_hash(row)
        db.add(row)
    with pytest.raises(AuditBroken) as broken:
        trail.verify(sqlite)
    assert broken.value.facts == {"number": 5}


def test_verify_notices_a_changed_time(database: Database) -> None:
    note(database, 3)
    with database.write() as db:
        row = db.get(AuditEvent, 2)
        assert row is not None
        row.at += dt.timedelta(microseconds=1)
        db.add(row)
    with pytest.raises(AuditBroken) as broken:
        trail.verify(database)
    assert broken.value.facts == {"number": 2}


def test_verify_names_a_row_taken_out_of_the_middle(sqlite: Database) -> None:
    note(sqlite, 5)
    change(sqlite, "DELETE FROM audit_event WHERE number = 3")
    with pytest.raises(AuditBroken) as broken:
        trail.verify(sqlite)
    assert broken.value.facts == {"number": 3}


def test_verify_names_a_missing_first_row(sqlite: Database) -> None:
    note(sqlite, 2)
    change(sqlite, "DELETE FROM audit_event WHERE number = 1")
    with pytest.raises(AuditBroken) as broken:
        trail.verify(sqlite)
    assert broken.value.facts == {"number": 1}


# -- the anchor outside the database --------------------------------------------------------------
def test_a_cut_tail_passes_the_chain_but_not_the_anchor(sqlite: Database, tmp_path: Path) -> None:
    note(sqlite, 5)
    anchored = trail.anchor(sqlite, tmp_path / "head")
    assert trail.read_anchor(tmp_path / "head") == anchored == trail.head(sqlite)
    assert trail.verify(sqlite, anchored) == 5
    change(sqlite, "DELETE FROM audit_event WHERE number > 3")
    assert trail.verify(sqlite) == 3
    with pytest.raises(AuditBroken) as broken:
        trail.verify(sqlite, trail.read_anchor(tmp_path / "head"))
    assert broken.value.facts == {"number": 4}


def test_a_tail_written_anew_does_not_fit_the_anchor_and_never_replaces_it(sqlite: Database, tmp_path: Path) -> None:
    note(sqlite, 5)
    before = trail.anchor(sqlite, tmp_path / "head")
    change(sqlite, "DELETE FROM audit_event WHERE number > 3")
    note(sqlite, 4, NILS)
    assert trail.verify(sqlite) == 7
    with pytest.raises(AuditBroken) as broken:
        trail.verify(sqlite, before)
    assert broken.value.facts == {"number": 5}
    with pytest.raises(AuditBroken):
        trail.anchor(sqlite, tmp_path / "head")
    assert trail.read_anchor(tmp_path / "head") == before


def test_the_anchor_moves_on_with_the_trail(sqlite: Database, tmp_path: Path) -> None:
    assert trail.anchor(sqlite, tmp_path / "head").number == 0
    note(sqlite, 2)
    first = trail.anchor(sqlite, tmp_path / "head")
    assert trail.anchor(sqlite, tmp_path / "head") == first
    note(sqlite)
    assert trail.anchor(sqlite, tmp_path / "head").number == 3
    assert trail.verify(sqlite, first) == 3
    assert (tmp_path / "head").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("head*")] == ["head"]


def test_a_missing_anchor_is_none_and_a_damaged_one_raises(tmp_path: Path) -> None:
    assert trail.read_anchor(tmp_path / "head") is None
    for content in (b"", b"myphr-audit-head/1 x " + b"0" * 64, b"myphr-audit-head/2 1 " + b"0" * 64, b"\xff\xfe"):
        (tmp_path / "head").write_bytes(content)
        with pytest.raises(AuditBroken):
            trail.read_anchor(tmp_path / "head")


# -- reading --------------------------------------------------------------------------------------
def test_a_record_sees_its_own_events_only_page_by_page(database: Database) -> None:
    note(database, 3)
    note(database, 2, NILS)
    note(database, 2)
    first = trail.for_account(database, VERA, limit=2)
    assert [row.number for row in first] == [7, 6]
    assert [row.number for row in trail.for_account(database, VERA, limit=10, before=6)] == [3, 2, 1]
    assert [row.number for row in trail.for_account(database, NILS)] == [5, 4]


def test_times_are_utc_and_keep_their_microseconds(database: Database) -> None:
    note(database)
    row = trail.for_account(database, VERA)[0]
    assert row.at.utcoffset() == dt.timedelta(0)
    assert trail.row_hash(row) == row.hash


# -- many writers ---------------------------------------------------------------------------------
def test_many_threads_keep_one_chain(database: Database) -> None:
    threads = [threading.Thread(target=note, args=(database, 10)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trail.verify(database) == 80


def test_several_processes_keep_one_chain(database: Database) -> None:
    program = (
        "import sys; from myphr.database import Database; from myphr.audit import trail\n"
        "database = Database(sys.argv[1])\n"
        "for number in range(25):\n"
        "    with database.write() as db:\n"
        "        trail.record(db, 'items-uploaded', account_id=None, actor=trail.SYSTEM, items=number, bytes=0)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, database.url], cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert trail.verify(database) == 75


def test_units_of_work_that_lock_rows_in_opposite_order_of_the_chain_do_not_block_each_other(
    database: Database,
) -> None:
    """One records first and changes a row after, the other the other way round: the chain's lock comes last in both."""
    from myphr.people.models import Account

    with database.write() as db:
        db.add(Account(id=VERA, email="vera@patient.example", name="Vera"))
    problems: list[Exception] = []

    def work(record_first: bool) -> None:
        try:
            for _ in range(15):
                with database.write() as db:
                    if record_first:
                        trail.record(db, "account-closed", account_id=VERA, actor=ACTOR)
                    # The one changes the row at commit only, the other locks it from the start.
                    account = db.get(Account, VERA, with_for_update=not record_first)
                    assert account is not None
                    account.name = f"Vera {uuid.uuid4()}"
                    db.add(account)
                    if not record_first:
                        trail.record(db, "account-closed", account_id=VERA, actor=ACTOR)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (True, False, True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert trail.verify(database) == 60


def test_the_chain_is_computed_as_the_format_says(database: Database) -> None:
    import hashlib

    note(database, 2)
    second, first = trail.for_account(database, VERA)
    assert first.previous_hash == "0" * 64 and second.previous_hash == first.hash
    at = second.at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{second.at.microsecond:06d}Z"
    canonical = (f'[2,"{at}","items-uploaded","{VERA}","patient","{VERA}","{{\\"bytes\\":7,\\"items\\":1}}",'
                 f'"{first.hash}"]')
    if second.details == '{"bytes":7,"items":0}':
        canonical = canonical.replace('items\\":1', 'items\\":0')
    assert second.hash == hashlib.sha256(b"myphr/audit/1\n" + canonical.encode()).hexdigest()
    assert trail.head(database) == Head(2, second.hash)


# -- told together ------------------------------------------------------------------------------------------
def row(number: int, minute: float, event: str = "item-uploaded", actor: Actor = ACTOR) -> AuditEvent:
    return AuditEvent(
        number=number, at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=minute), event=event,
        account_id=VERA, actor_kind=actor.kind, actor_id=actor.id, previous_hash="", hash="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "times"),
    [
        ([], []),
        ([row(2, 5), row(1, 0)], [2]),
        ([row(3, 20), row(2, 10), row(1, 0)], [3]),  # each within ten minutes of its neighbour
        ([row(2, 10.1), row(1, 0)], [1, 1]),
        ([row(2, 1), row(1, 0, "item-deleted")], [1, 1]),
        ([row(2, 1), row(1, 0, actor=Actor("machine", VERA))], [1, 1]),
        ([row(2, 1), row(1, 0, actor=Actor("patient", NILS))], [1, 1]),
        ([row(3, 2), row(2, 1, "signed-in"), row(1, 0)], [1, 1, 1]),
        ([row(2, 1, "signed-in"), row(1, 0, "signed-in")], [1, 1]),  # each sign-in is a line of its own
        ([row(2, 1, "from-a-newer-version"), row(1, 0, "from-a-newer-version")], [1, 1]),
    ],
)
def test_only_alike_neighbours_of_one_actor_are_told_together(rows: list[AuditEvent], times: list[int]) -> None:
    found = list(trail.runs(rows))
    assert [run.times for run in found] == times
    assert sum(run.times for run in found) == len(rows)
    if rows:
        assert (found[0].newest.number, found[-1].first_number) == (rows[0].number, rows[-1].number)


def test_what_tells_who_watched_the_screen_is_never_told_together() -> None:
    for name, event in EVENTS.items():
        assert not (event.together and name.startswith(("screen-", "share-", "vm-session-", "folder-", "item-damaged")))
        if event.together:
            assert "7" in trail.sentence(row(1, 0, name), times=7)
