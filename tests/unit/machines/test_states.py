"""Every pair of state and event, legal or not, of all lifecycles; and the page drawn from them."""

from pathlib import Path

import pytest
from sqlmodel import select

from myphr.database import Database, new_id, now
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.fhir.states import FETCH
from myphr.ingest.models import DropOff
from myphr.ingest.pacs.models import Pacs, PacsFetch, PacsLink
from myphr.ingest.pacs.states import PACS_FETCH, PACS_LINK
from myphr.ingest.states import DROP_OFF, READING
from myphr.machines.models import Machine, VmSession
from myphr.machines.states import MACHINE, VM_SESSION, move
from myphr.people.models import Account
from myphr.records.models import Deletion, Export, Item, ItemReading
from myphr.records.states import DELETION, EXPORT
from myphr.sharing.app_key_models import AppKey
from myphr.sharing.app_keys import APP_KEY
from myphr.sharing.closing_models import AccountClosing
from myphr.sharing.models import Mail, Share
from myphr.sharing.states import ALL, CLOSING, MAIL, SHARE
from myphr.state_tables import StateConflict, StateTable, as_markdown

PAIRS = [(table, state, event) for table in ALL for state in table.states for event in table.events]


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Database:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('states')}/db.sqlite")
    database.create_all()
    yield database
    database.dispose()


def new_row(db, table: StateTable, state: str):
    account = Account(email=f"{new_id()}@x.example", name="x")
    db.add(account)
    db.flush()
    if table is MACHINE:
        highest = len(db.exec(select(Machine)).all())
        row = Machine(vmid=100_000 + highest, node="pve", template="probe", state=state)
    elif table is VM_SESSION:
        row = VmSession(account_id=account.id, viewer="probe", template="probe", state=state)
    elif table is SHARE:
        vm_session = VmSession(account_id=account.id, viewer="probe", template="probe", state="live")
        db.add(vm_session)
        db.flush()
        row = Share(
            account_id=account.id, vm_session_id=vm_session.id, email="a@b.example", access="view", state=state,
            secret_sha256="", expires_at=now(),
        )  # fmt: skip
    elif table is READING:
        item = Item(account_id=account.id, object_key=new_id(), format="pdf", plain_bytes=1, content_key="",
                    sealed_dek=b"", sealed_details=b"")  # fmt: skip
        db.add(item)
        db.flush()
        row = ItemReading(account_id=account.id, item_id=item.id, state=state, dek_for_worker=None)
    elif table is FETCH:
        row = FhirFetch(account_id=account.id, state=state, state_sha256=new_id(), sealed_for_owner=b"")
    elif table in (PACS_LINK, PACS_FETCH):
        pacs = Pacs(name="x", host="x", port=1, called_ae="X", calling_ae="Y", tls=True)
        db.add(pacs)
        db.flush()
        row = PacsLink(account_id=account.id, pacs_id=pacs.id, code_sha256=new_id(), sealed_for_owner=b"")
        if table is PACS_LINK:
            row.state = state
        else:
            db.add(row)
            db.flush()
            row = PacsFetch(account_id=account.id, link_id=row.id, state=state)
    elif table is DROP_OFF:
        row = DropOff(
            account_id=account.id, sealed_name=b"", token_sha256=new_id(), ae_title=new_id(), state=state, files_max=1,
            bytes_max=1, expires_at=now(),
        )  # fmt: skip
    elif table is DELETION:
        row = Deletion(account_id=account.id, what="file", items_count=1, item_ids="[]", sealed_note=b"", state=state)
    elif table is CLOSING:
        proof = Deletion(account_id=account.id, what="account", items_count=0, item_ids="[]", sealed_note=b"")
        db.add(proof)
        db.flush()
        row = AccountClosing(account_id=account.id, deletion_id=proof.id, state=state)
    elif table is APP_KEY:
        row = AppKey(account_id=account.id, sealed_name=b"", token_sha256=new_id(), state=state, expires_at=now())
    elif table is EXPORT:
        row = Export(account_id=account.id, key_for_worker=None, sealed_key=b"", state=state)
    else:
        row = Mail(template="share-locked", recipient="a@b.example", sealed_values=None, state=state)
    db.add(row)
    db.flush()
    return row


@pytest.mark.parametrize(("table", "state", "event"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_each_pair_does_what_its_table_says_or_is_refused(database, table, state, event) -> None:
    with database.write() as db:
        row = new_row(db, table, state)
    with database.write() as db:
        if (state, event) in table.rows:
            table.move(db, row, event)
            assert row.state == table.rows[state, event][1]
        else:
            with pytest.raises(StateConflict):
                table.move(db, row, event)
    with database.read() as db:
        stored = db.get(table.model, row.id)
    assert stored.state == table.rows.get((state, event), ("", state))[1]


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
def test_every_state_can_be_reached_and_every_way_ends(table) -> None:
    reached = {table.first}
    while more := {following for (state, _), (_, following) in table.rows.items() if state in reached} - reached:
        reached |= more
    assert reached == set(table.states)
    ends = set(table.final)
    assert ends
    while more := {state for (state, _), (_, following) in table.rows.items() if following in ends} - ends:
        ends |= more
    assert ends == set(table.states)


def test_the_slower_of_two_workers_changes_nothing(database) -> None:
    with database.write() as db:
        machine = new_row(db, MACHINE, "warm")
    with database.read() as db:
        seen_by_other = db.get(Machine, machine.id)
    with database.write() as db:
        move(db, machine, "claim")
    with database.write() as db, pytest.raises(StateConflict):
        move(db, seen_by_other, "give_up", failure="machine-failed")
    with database.read() as db:
        stored = db.get(Machine, machine.id)
    assert (stored.state, stored.failure) == ("claimed", None)


def test_a_condition_that_does_not_hold_stops_the_move(database) -> None:
    with database.write() as db:
        machine = new_row(db, MACHINE, "warm")
    with database.write() as db, pytest.raises(StateConflict):
        move(db, machine, "claim", only_if=[Machine.template == "radiology"])
    assert machine.state == "warm"


def test_the_page_of_states_is_the_one_drawn_from_the_tables() -> None:
    page = Path(__file__).parents[3] / "docs" / "states.md"
    assert page.read_text() == as_markdown(ALL)


def test_only_final_states_of_a_vm_session_are_over() -> None:
    assert VM_SESSION.final == {"ended", "failed"}
    assert MACHINE.final == {"destroyed"}
    assert DROP_OFF.final == {"revoked", "expired"}
    assert MAIL.final == {"sent", "failed"}
