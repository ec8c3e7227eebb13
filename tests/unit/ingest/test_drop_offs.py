"""Drop-offs: what a provider may send, until when, how much; and that nothing of the patient's is told by it."""

import datetime as dt
import threading

import pytest
from pydicom.uid import generate_uid
from sqlmodel import select

from myphr.audit import trail
from myphr.audit.models import AuditEvent
from myphr.database import now
from myphr.errors import DropOffClosed, DropOffFull, FormRefused, NotFound, PortalError, RecordFull, UploadTooLarge
from myphr.ingest import drop_offs
from myphr.ingest.deliveries import Delivery
from myphr.ingest.models import DropOff
from myphr.records.items import Facts, dek_of, details_of, open_item
from myphr.records.models import Item
from tests.cast import SignedIn, new_portal
from tests.web.stage import dicom_bytes, put_in

NAME = "Dr Berger, X-ray in Mill Street"


@pytest.fixture
def created(portal, patient: SignedIn) -> drop_offs.Created:
    return drop_offs.create(portal, patient.login, NAME, 3600, 3)


def send(portal, grant: drop_offs.Grant, content: bytes, check=None):
    delivery = Delivery(portal, grant)
    try:
        delivery.write(content)
        return delivery.finish(check)
    finally:
        delivery.abort()


def row_of(portal, drop_off_id: str) -> DropOff:
    with portal.database.read() as db:
        return db.get(DropOff, drop_off_id)


def items_of(portal) -> list[Item]:
    with portal.database.read() as db:
        return list(db.exec(select(Item)).all())


def objects(portal) -> list:
    return [*portal.store.keys(), *portal.store.partial_dir.iterdir()]


def events(portal) -> list[str]:
    with portal.database.read() as db:
        return list(db.exec(select(AuditEvent.event).order_by(AuditEvent.number)).all())


def expire(portal, drop_off_id: str) -> None:
    with portal.database.write() as db:
        row = db.get(DropOff, drop_off_id)
        row.expires_at = now() - dt.timedelta(seconds=1)
        db.add(row)


# -- the grant ------------------------------------------------------------------------------------
def test_a_drop_off_has_an_ae_title_that_dicom_allows(created) -> None:
    assert len(created.ae_title) <= 16 and created.ae_title.startswith("PHR")
    assert created.ae_title.isalnum() and created.ae_title == created.ae_title.upper()


def test_no_two_drop_offs_share_token_or_ae_title(portal, patient) -> None:
    many = [drop_offs.create(portal, patient.login, NAME, 60, 1) for _ in range(drop_offs.OPEN_MAX)]
    assert len({one.token for one in many}) == len({one.ae_title for one in many}) == drop_offs.OPEN_MAX


def test_token_and_providers_name_are_nowhere_in_the_database(portal, created) -> None:
    portal.database.dispose()  # the journal goes into the file
    stored = b"".join(path.read_bytes() for path in (portal.settings.home / "db").iterdir())
    assert created.ae_title.encode() in stored  # the search finds what is there
    assert created.token.encode() not in stored and b"Berger" not in stored


def test_the_owner_reads_the_name_again(portal, patient, created) -> None:
    [view] = drop_offs.list_mine(portal, patient.login)
    assert (view.name, view.state, view.files_max) == (NAME, "open", 3)


def test_a_stranger_sees_and_stops_no_drop_off_of_somebody_else(portal, created, stranger) -> None:
    assert drop_offs.list_mine(portal, stranger.login) == []
    with pytest.raises(NotFound):
        drop_offs.one_of_mine(portal, stranger.login, created.drop_off_id)
    with pytest.raises(NotFound):
        drop_offs.revoke(portal, stranger.login, created.drop_off_id)
    assert row_of(portal, created.drop_off_id).state == "open"


@pytest.mark.parametrize(("seconds", "files"), [(0, 1), (-1, 1), (7_776_001, 1), (60, 0), (60, 20_001)])
def test_a_drop_off_without_limits_is_refused(portal, patient, seconds, files) -> None:
    with pytest.raises(FormRefused):
        drop_offs.create(portal, patient.login, NAME, seconds, files)


@pytest.mark.parametrize(("seconds", "files"), [(1, 1), (7_776_000, 20_000)])
def test_a_drop_off_at_its_limits_is_given(portal, patient, seconds, files) -> None:
    assert drop_offs.create(portal, patient.login, NAME, seconds, files).files_max == files


def test_more_drop_offs_than_anybody_needs_are_refused(portal, patient) -> None:
    for _ in range(drop_offs.OPEN_MAX):
        drop_offs.create(portal, patient.login, NAME, 60, 1)
    with pytest.raises(FormRefused):
        drop_offs.create(portal, patient.login, NAME, 60, 1)


# -- who is let in --------------------------------------------------------------------------------
def test_token_and_ae_title_lead_to_the_same_drop_off(portal, created) -> None:
    assert drop_offs.by_token(portal, created.token) == drop_offs.by_ae_title(portal, created.ae_title)


def test_wrong_revoked_and_expired_are_one_answer(portal, patient, created) -> None:
    with pytest.raises(DropOffClosed):
        drop_offs.by_token(portal, created.token[:-1] + "!")
    with pytest.raises(DropOffClosed):
        drop_offs.by_ae_title(portal, created.ae_title.lower())
    expire(portal, created.drop_off_id)
    with pytest.raises(DropOffClosed):
        drop_offs.by_token(portal, created.token)
    other = drop_offs.create(portal, patient.login, NAME, 60, 1)
    drop_offs.revoke(portal, patient.login, other.drop_off_id)
    with pytest.raises(DropOffClosed):
        drop_offs.by_token(portal, other.token)


def test_the_sweep_closes_what_ran_out_and_nothing_else(portal, patient, created) -> None:
    other = drop_offs.create(portal, patient.login, NAME, 60, 1)
    expire(portal, created.drop_off_id)
    assert (drop_offs.sweep(portal), drop_offs.sweep(portal)) == (1, 0)
    assert row_of(portal, created.drop_off_id).state == "expired"
    assert row_of(portal, other.drop_off_id).state == "open"


# -- files ----------------------------------------------------------------------------------------
def test_a_file_arrives_sealed_in_its_study_and_is_the_owners_alone(portal, patient, created) -> None:
    content = dicom_bytes(generate_uid(), 7, SeriesNumber=3)
    filed = send(portal, drop_offs.by_token(portal, created.token), content)
    assert filed.item.study_id and (filed.item.source, filed.item.source_id) == ("drop-off", created.drop_off_id)
    ring = patient.login.ring()
    opened = open_item(portal.store, filed.item, dek_of(ring, filed.item))
    assert opened.read_at(0, len(content)) == content
    assert details_of(ring, filed.item)["name"] == "MR-3-7.dcm"


def test_who_looked_says_who_sent_how_many(portal, patient, created) -> None:
    grant = drop_offs.by_token(portal, created.token)
    for number in range(2):
        send(portal, grant, dicom_bytes(generate_uid(), number))
    newest = next(trail.runs(trail.newest_first(portal.database, patient.account.id, None, 100)))
    with portal.database.read() as db:
        [name] = drop_offs.names(db, patient.login, [newest.newest.actor_id]).values()
    assert trail.sentence(newest.newest, name, newest.times) == f"{NAME} sent 2 files."


def test_the_last_agreed_file_comes_in_and_the_next_does_not(portal, created) -> None:
    grant = drop_offs.by_token(portal, created.token)
    for number in range(3):
        send(portal, grant, b"file %d" % number)
    assert row_of(portal, created.drop_off_id).state == "full"
    with pytest.raises(DropOffFull):
        send(portal, grant, b"one too many")
    with pytest.raises(DropOffFull):
        drop_offs.by_token(portal, created.token)
    assert len(items_of(portal)) == len(objects(portal)) == 3


def test_two_senders_at_once_do_not_pass_the_count(portal, patient) -> None:
    created = drop_offs.create(portal, patient.login, NAME, 60, 4)
    grant = drop_offs.by_token(portal, created.token)
    outcomes: list[str] = []

    def sender(number: int) -> None:
        try:
            send(portal, grant, b"file %d" % number)
            outcomes.append("stored")
        except PortalError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["drop-off-full"] * 6 + ["stored"] * 4
    assert row_of(portal, created.drop_off_id).files_count == len(items_of(portal)) == len(objects(portal)) == 4


@pytest.mark.parametrize("ending", ["revoke", "expire"])
def test_a_file_on_its_way_does_not_outlive_its_drop_off(portal, patient, created, ending) -> None:
    delivery = Delivery(portal, drop_offs.by_token(portal, created.token))
    delivery.write(b"half of it")
    if ending == "revoke":
        drop_offs.revoke(portal, patient.login, created.drop_off_id)
    else:
        expire(portal, created.drop_off_id)
    delivery.write(b"the other half")
    with pytest.raises(DropOffClosed):
        delivery.finish()
    assert items_of(portal) == [] and objects(portal) == []


def test_what_was_sent_before_is_stored_once_and_counted_once(portal, created) -> None:
    grant = drop_offs.by_token(portal, created.token)
    first = send(portal, grant, b"the same")
    again = send(portal, grant, b"the same")
    assert again.duplicate and again.item.id == first.item.id
    assert row_of(portal, created.drop_off_id).files_count == len(objects(portal)) == 1


def test_the_count_does_not_tell_what_the_record_held_before(portal, patient, created) -> None:
    put_in(portal, patient.account.id, b"a letter", "letter.txt")
    grant = drop_offs.by_token(portal, created.token)
    send(portal, grant, b"a letter")
    send(portal, grant, b"another")
    assert row_of(portal, created.drop_off_id).files_count == 2


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
def test_one_file_has_a_largest_size(tmp_path, redis_url, size, fits) -> None:
    from tests import cast

    portal = new_portal(tmp_path / "small", redis_url, drop_off_object_bytes_max=1000)
    created = drop_offs.create(portal, cast.enter(portal, cast.PATIENT).login, NAME, 60, 5)
    grant = drop_offs.by_token(portal, created.token)
    if fits:
        send(portal, grant, bytes(size))
    else:
        with pytest.raises(UploadTooLarge):
            send(portal, grant, bytes(size))
    assert len(objects(portal)) == int(fits)
    portal.database.dispose()


@pytest.mark.parametrize(("size", "fits"), [(400, True), (401, False)])
def test_all_files_together_have_a_largest_size(tmp_path, redis_url, size, fits) -> None:
    from tests import cast

    portal = new_portal(tmp_path / "small", redis_url, drop_off_bytes_max=1000)
    created = drop_offs.create(portal, cast.enter(portal, cast.PATIENT).login, NAME, 60, 5)
    grant = drop_offs.by_token(portal, created.token)  # taken before the first file: the commit decides
    send(portal, grant, bytes(600))
    if fits:
        send(portal, grant, bytes(size))
        with pytest.raises(DropOffFull):
            drop_offs.by_token(portal, created.token)
    else:
        with pytest.raises(DropOffFull):
            send(portal, grant, bytes(size))
    assert len(objects(portal)) == 1 + int(fits)
    portal.database.dispose()


def test_a_record_without_room_takes_nothing(tmp_path, redis_url) -> None:
    from tests import cast

    portal = new_portal(tmp_path / "small", redis_url, record_bytes_max=1000)
    created = drop_offs.create(portal, cast.enter(portal, cast.PATIENT).login, NAME, 60, 5)
    with pytest.raises(RecordFull):
        send(portal, drop_offs.by_token(portal, created.token), bytes(1001))
    assert objects(portal) == [] and row_of(portal, created.drop_off_id).files_count == 0
    portal.database.dispose()


def test_what_the_check_refuses_leaves_nothing(portal, created) -> None:
    def refuse(facts: Facts) -> None:
        raise FormRefused(reason=facts.format)

    with pytest.raises(FormRefused):
        send(portal, drop_offs.by_token(portal, created.token), b"hello", refuse)
    assert objects(portal) == [] and row_of(portal, created.drop_off_id).files_count == 0


def test_a_broken_off_file_leaves_nothing(portal, created) -> None:
    delivery = Delivery(portal, drop_offs.by_token(portal, created.token))
    delivery.write(bytes(3_000_000))
    assert len(objects(portal)) == 1
    delivery.abort()
    assert objects(portal) == []


def test_each_end_of_a_drop_off_is_noted(portal, patient, created) -> None:
    drop_offs.revoke(portal, patient.login, created.drop_off_id)
    other = drop_offs.create(portal, patient.login, NAME, 60, 1)
    send(portal, drop_offs.by_token(portal, other.token), b"x")
    expire(portal, other.drop_off_id)
    drop_offs.sweep(portal)
    noted = [event for event in events(portal) if event.startswith("drop-off")]
    assert noted == ["drop-off-opened", "drop-off-revoked", "drop-off-opened", "drop-off-received", "drop-off-full",
                     "drop-off-expired"]  # fmt: skip
