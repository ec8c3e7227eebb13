"""What several senders have ready at once is filed in one commit, each for itself: right, durable, and only its own."""

import threading
from collections.abc import Callable

import pytest
from pydicom.uid import generate_uid
from sqlalchemy.exc import OperationalError

from myphr.errors import DropOffFull, PortalError
from myphr.ingest import deliveries, drop_offs
from myphr.ingest.deliveries import Delivery, FilingTogether
from myphr.ingest.drop_offs import Created
from myphr.portal import Portal
from myphr.records.items import file_sealed
from tests.cast import SignedIn
from tests.integration.providers.conftest import items_of
from tests.web.stage import dicom_bytes


@pytest.fixture
def together(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[object], list[int]]]:
    """`together(created, contents)` delivers all of them at once, the first commit held until all others wait;
    returns the outcomes and the sizes of the commits."""

    def deliver(created: Created, contents: list[bytes]) -> tuple[list[object], list[int]]:
        grant, filing = drop_offs.by_token(portal, created.token), FilingTogether(portal)
        sizes: list[int] = []

        def counted(parts, files, **rest):  # type: ignore[no-untyped-def]
            if not sizes:
                while len(filing._waiting) < len(contents) - 1:
                    threading.Event().wait(0.005)
            sizes.append(len(files))
            return file_sealed(parts, files, **rest)

        monkeypatch.setattr(deliveries, "file_sealed", counted)
        outcomes: list[object] = [None] * len(contents)

        def one(number: int) -> None:
            delivery = Delivery(portal, grant, filing)
            delivery.write(contents[number])
            try:
                filed = delivery.finish()
                assert filed.item.id in {item.id for item in items_of(portal)}  # durable when it returns
                outcomes[number] = filed
            except PortalError as error:
                outcomes[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in range(len(contents))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return outcomes, sizes

    return deliver


def test_those_that_wait_are_filed_in_one_commit(portal: Portal, patient: SignedIn, together) -> None:
    created, study = drop_offs.create(portal, patient.login, "Dr Berger", 3600, 50), generate_uid()
    outcomes, sizes = together(created, [dicom_bytes(study, number) for number in range(6)])
    assert sizes == [1, 5] and len(items_of(portal)) == 6 and len({item.study_id for item in items_of(portal)}) == 1
    assert not any(isinstance(one, PortalError) for one in outcomes)
    [view] = drop_offs.list_mine(portal, patient.login)
    assert view.files_count == 6


def test_one_over_the_agreed_number_does_not_cost_the_others(portal: Portal, patient: SignedIn, together) -> None:
    created, study = drop_offs.create(portal, patient.login, "Dr Berger", 3600, 4), generate_uid()
    outcomes, _ = together(created, [dicom_bytes(study, number) for number in range(6)])
    assert sum(isinstance(one, DropOffFull) for one in outcomes) == 2
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 4


def test_the_same_image_twice_in_one_commit_is_kept_once(portal: Portal, patient: SignedIn, together) -> None:
    created, image = drop_offs.create(portal, patient.login, "Dr Berger", 3600, 50), dicom_bytes(generate_uid())
    outcomes, _ = together(created, [image] * 4)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 1
    assert sum(one.duplicate for one in outcomes) == 3  # type: ignore[attr-defined]


def test_a_database_that_is_away_is_told_to_each_and_nothing_is_left_waiting(
    portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = drop_offs.create(portal, patient.login, "Dr Berger", 3600, 50)
    grant, filing = drop_offs.by_token(portal, created.token), FilingTogether(portal)
    monkeypatch.setattr(deliveries, "file_sealed", lambda *_, **__: (_ for _ in ()).throw(ConnectionError))
    delivery = Delivery(portal, grant, filing)
    delivery.write(dicom_bytes(generate_uid()))
    with pytest.raises(ConnectionError):
        delivery.finish()
    assert list(portal.store.keys()) == []
    monkeypatch.undo()
    delivery = Delivery(portal, grant, filing)
    delivery.write(dicom_bytes(generate_uid()))
    assert not delivery.finish().duplicate and len(items_of(portal)) == 1


def test_what_fails_behind_the_commit_costs_no_container(
    portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = drop_offs.create(portal, patient.login, "Dr Berger", 3600, 50)
    delivery = Delivery(portal, drop_offs.by_token(portal, created.token))
    delivery.write(dicom_bytes(generate_uid()))

    def late(*given, **rest):  # type: ignore[no-untyped-def]
        file_sealed(*given, **rest)
        raise ConnectionError

    monkeypatch.setattr(deliveries, "file_sealed", late)
    with pytest.raises(ConnectionError):
        delivery.finish()
    [item] = items_of(portal)
    assert list(portal.store.keys()) == [item.object_key]


def test_a_commit_that_may_yet_be_carried_out_keeps_its_container(
    portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line to the database was cut: nobody knows, so the sweep decides when it is known."""
    created = drop_offs.create(portal, patient.login, "Dr Berger", 3600, 50)
    delivery = Delivery(portal, drop_offs.by_token(portal, created.token))
    delivery.write(dicom_bytes(generate_uid()))
    cut = OperationalError("COMMIT", {}, ConnectionError(), connection_invalidated=True)
    monkeypatch.setattr(deliveries, "file_sealed", lambda *_, **__: (_ for _ in ()).throw(cut))
    with pytest.raises(OperationalError):
        delivery.finish()
    assert items_of(portal) == [] and len(list(portal.store.keys())) == 1
