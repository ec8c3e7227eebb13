"""Closing an account on PostgreSQL, where a filing, another browser and the closing really run at once."""

from sqlmodel import select

from myphr.errors import NotFound, PortalError
from myphr.people import accounts
from myphr.people.models import Account
from myphr.records import deletions
from myphr.records.models import Deletion, Item
from myphr.sharing import closing
from tests.cast import PATIENT
from tests.integration.postgresql.test_exports_and_deletions import together
from tests.integration.sharing.conftest import gid_of, new_clinic
from tests.integration.sharing.test_closing import OTHERS_TOO, blobs_of, full_record, settle


def test_closed_twice_at_once_while_files_come_in_nothing_is_left(portal, keyholder, enter, monkeypatch) -> None:
    clinic = new_clinic(portal, keyholder, enter)
    full_record(clinic)
    mine = (clinic.patient.account.id, gid_of(clinic.patient))
    assert len(blobs_of(portal)) > 30

    def files() -> None:
        for number in range(30):
            clinic.add_item(f"{number}.txt", b"late %d" % number)

    answers = together(
        files, *[lambda: closing.close(portal, clinic.patient.login)] * 3, files
    )  # fmt: skip
    closed = [answer for answer in answers[1:4] if isinstance(answer, str)]
    assert len(closed) == 1 and all(isinstance(one, PortalError | str) for one in answers[1:4]), answers
    assert all(answer is None or isinstance(answer, NotFound) for answer in (answers[0], answers[4])), answers
    settle(clinic, monkeypatch)
    left = {
        ".".join(place) for place, rows in blobs_of(portal).items() for row, _ in rows
        if place[0] not in OTHERS_TOO or row.get("account_id") in mine or row.get("gid") in mine
    }  # fmt: skip
    assert left - {"authority_seen.epochs"} <= {"mail.sealed_values"}
    with portal.database.read() as db:
        [proof] = db.exec(select(Deletion).where(Deletion.what == "account")).all()
        assert db.exec(select(Item.id).where(Item.sealed_dek != b"")).all() == []
        assert PATIENT.email not in db.exec(select(Account.email)).all()
    assert proof.state == "erased"
    assert deletions.check_in(portal.database, deletions.certificate_of_account(portal.database, proof.id)) == 2
    accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
