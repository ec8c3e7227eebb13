"""App keys on PostgreSQL: brought up to date by two browsers at once, while a file of the study is deleted."""

from collections import Counter

from sqlmodel import select

from myphr.audit.models import AuditEvent
from myphr.records import deletions
from myphr.records.models import Item
from myphr.sharing import app_key_wraps, app_keys, forgetting
from tests.integration.postgresql.test_exports_and_deletions import together
from tests.web.stage import dicom_bytes, put_in

STUDY, ROUNDS = "2.25.1001", 5


def test_brought_up_to_date_twice_at_once_while_a_file_goes_it_opens_what_is_left(portal, patient) -> None:
    items = [put_in(portal, patient.account.id, dicom_bytes(STUDY, number), f"{number}") for number in range(ROUNDS)]
    token = app_keys.create(portal, patient.login, "My viewer", 3600, None).token
    for number in range(ROUNDS):
        put_in(portal, patient.account.id, dicom_bytes(STUDY, 100 + number), f"later {number}")
        answers = together(
            lambda: app_key_wraps.catch_up(portal, patient.login),
            lambda number=number: deletions.delete_item(
                portal, patient.login, items[number].id, (forgetting.forget_items,)
            ),
            lambda: app_key_wraps.catch_up(portal, patient.login),
        )
        assert not any(isinstance(answer, Exception) for answer in answers), answers
    app_key_wraps.catch_up(portal, patient.login)
    with portal.database.read() as db:
        left = {item.id for item in db.exec(select(Item)) if item.deleted_at is None}
        added = [event.details for event in db.exec(select(AuditEvent).where(AuditEvent.event == "app-key-widened"))]
    reader = app_keys.by_token(portal, token)
    [study_id] = reader.studies()
    found = Counter(one.item.id for one in reader.instances(study_id))
    assert found == Counter(left) and len(left) == ROUNDS
    assert added
