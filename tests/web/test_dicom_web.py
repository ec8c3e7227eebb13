"""STOW-RS: what is answered to whom (DICOM PS3.18, 10.5), and that only a drop-off's token counts."""

import datetime as dt
import itertools

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydicom.uid import generate_uid
from sqlmodel import select
from werkzeug.test import TestResponse

from myphr.database import now
from myphr.errors import StoreFull
from myphr.ingest import deliveries, drop_offs, stow
from myphr.ingest.drop_offs import Created
from myphr.ingest.models import DropOff
from myphr.ingest.multipart import Parser
from myphr.portal import Portal
from myphr.records.items import file_sealed
from myphr.records.models import Item
from myphr.records.store import LocalWriter
from tests.cast import PATIENT, SignedIn
from tests.cast import enter as enter_portal
from tests.web.stage import dicom_bytes, put_in

BOUNDARY = "b" * 73  # as long as Orthanc's
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
UID = generate_uid()


@pytest.fixture
def created(portal: Portal, patient: SignedIn) -> Created:
    return drop_offs.create(portal, patient.login, "Dr Berger", 3600, 5)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def body_of(*files: bytes, kind: str = "application/dicom") -> bytes:
    parts = (f"--{BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n".encode() + file + b"\r\n" for file in files)
    return b"".join(parts) + f"--{BOUNDARY}--".encode()


def send(
    client: FlaskClient, token: str, body: bytes, study: str = "", kind: str = TYPE, **headers: str
) -> TestResponse:
    return client.post(
        "/dicom-web/studies" + study, data=body, headers={"Authorization": f"Bearer {token}", "Content-Type": kind}
        | headers,
    )  # fmt: skip


def items_of(portal: Portal) -> list[Item]:
    with portal.database.read() as db:
        return list(db.exec(select(Item)).all())


def nothing_left(portal: Portal) -> bool:
    return not [*portal.store.keys(), *portal.store.partial_dir.iterdir()]


def uids(answer: TestResponse, tag: str) -> list[str]:
    return [one["00081155"]["Value"][0] for one in answer.get_json(force=True).get(tag, {}).get("Value", [])]


def reasons(answer: TestResponse, tag: str) -> list[int]:
    return [one["00081197"]["Value"][0] for one in answer.get_json(force=True)[tag]["Value"]]


# -- what is answered -----------------------------------------------------------------------------
def test_all_stored_is_200_and_names_the_images(client: FlaskClient, portal: Portal, created: Created) -> None:
    files = [dicom_bytes(UID, number) for number in range(2)]
    answer = send(client, created.token, body_of(*files))
    assert (answer.status_code, answer.mimetype) == (200, "application/dicom+json")
    assert len(set(uids(answer, "00081199"))) == 2 and "00081198" not in answer.get_json(force=True)
    assert len(items_of(portal)) == 2 and len({item.study_id for item in items_of(portal)}) == 1


def test_some_stored_is_202_and_says_which_failed_and_why(
    client: FlaskClient, portal: Portal, created: Created
) -> None:
    answer = send(client, created.token, body_of(dicom_bytes(UID), b"not DICOM", dicom_bytes(UID, 2)))
    assert answer.status_code == 202 and len(uids(answer, "00081199")) == 2
    assert reasons(answer, "0008119A") == [0xC000]
    assert len(items_of(portal)) == 2


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each commit held."""
    sizes: list[int] = []

    def counted(parts, files, **rest):  # type: ignore[no-untyped-def]
        sizes.append(len(files))
        return file_sealed(parts, files, **rest)

    monkeypatch.setattr(deliveries, "file_sealed", counted)
    return sizes


def test_the_parts_of_one_request_are_filed_in_one_commit(
    client: FlaskClient, portal: Portal, patient: SignedIn, commits: list[int]
) -> None:
    created = drop_offs.create(portal, patient.login, "Dr Berger", 3600, 50)
    files = [dicom_bytes(UID, number) for number in range(stow.TOGETHER_MAX + 3)]
    files[5:5] = [b"not DICOM", files[0]]
    answer = send(client, created.token, body_of(*files))
    assert answer.status_code == 202 and reasons(answer, "0008119A") == [0xC000]
    assert len(uids(answer, "00081199")) == len(files) - 1 and len(items_of(portal)) == len(files) - 2
    assert commits == [stow.TOGETHER_MAX, 4] and len(list(portal.store.keys())) == len(files) - 2
    [view] = drop_offs.list_mine(portal, patient.login)
    assert view.files_count == len(files) - 2


@pytest.mark.parametrize(("size", "together"), [(10_000, [3]), (9 * 1024**2, [1, 1, 1])])
def test_large_parts_do_not_wait_for_others(
    client: FlaskClient, created: Created, commits: list[int], size: int, together: list[int]
) -> None:
    files = [dicom_bytes(UID, number, PixelData=bytes(size)) for number in range(3)]
    assert send(client, created.token, body_of(*files)).status_code == 200 and commits == together


def test_on_a_slow_line_what_came_is_filed_while_the_rest_still_comes(
    portal: Portal, created: Created, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "TOGETHER_SECONDS_MAX", 0.0)
    store, parser = stow.Store(portal, drop_offs.by_token(portal, created.token)), Parser(BOUNDARY, 9)
    body = body_of(dicom_bytes(UID, 1), dicom_bytes(UID, 2))
    store.take(parser.feed(body[:-300]))
    assert commits == [1] and len(items_of(portal)) == 1
    store.take(parser.feed(body[-300:]))
    store.finish()
    store.close()
    assert commits == [1, 1] and len(store.stored) == 2


def test_a_drop_off_that_is_revoked_in_a_request_takes_nothing_of_what_waits(
    portal: Portal, patient: SignedIn, created: Created
) -> None:
    store, parser = stow.Store(portal, drop_offs.by_token(portal, created.token)), Parser(BOUNDARY, 9)
    store.take(parser.feed(body_of(dicom_bytes(UID, 1), dicom_bytes(UID, 2))))
    drop_offs.revoke(portal, patient.login, created.drop_off_id)
    store.finish()
    assert store.is_over and store.status() == 401 and store.stored == []
    assert [error.code for _, error in store.failed] == ["drop-off-closed"] * 2
    assert items_of(portal) == [] and nothing_left(portal)


def test_a_database_that_fails_leaves_nothing_of_the_parts(
    client: FlaskClient, portal: Portal, created: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(parts, files, **rest):  # type: ignore[no-untyped-def]
        assert len(list(portal.store.keys())) == len(files) == 2
        raise ConnectionError

    monkeypatch.setattr(deliveries, "file_sealed", fails)
    body = body_of(dicom_bytes(UID, 1), dicom_bytes(UID, 2))
    assert send(client, created.token, body).status_code == 500
    assert items_of(portal) == [] and nothing_left(portal)
    monkeypatch.undo()
    assert send(client, created.token, body).status_code == 200 and len(items_of(portal)) == 2


def test_a_part_that_the_disk_does_not_keep_does_not_cost_the_others(
    client: FlaskClient, portal: Portal, created: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, count = LocalWriter.commit, itertools.count()

    def full(writer: LocalWriter) -> None:
        if next(count) == 1:
            writer.abort()
            raise StoreFull()
        commit(writer)

    monkeypatch.setattr(LocalWriter, "commit", full)
    answer = send(client, created.token, body_of(*(dicom_bytes(UID, number) for number in range(3))))
    assert answer.status_code == 202 and reasons(answer, "00081198") == [0xA700]
    assert len(uids(answer, "00081199")) == len(items_of(portal)) == len(list(portal.store.keys())) == 2


def test_none_stored_is_409_and_leaves_nothing(client: FlaskClient, portal: Portal, created: Created) -> None:
    assert send(client, created.token, body_of(b"not DICOM")).status_code == 409
    assert items_of(portal) == [] and nothing_left(portal)


def test_dicom_without_its_own_name_is_not_stored(client: FlaskClient, portal: Portal, created: Created) -> None:
    nameless = dicom_bytes(UID).replace(UID.encode(), b"\0" * len(UID))
    assert send(client, created.token, body_of(nameless)).status_code == 409
    assert items_of(portal) == []


def test_another_study_than_the_address_is_409(client: FlaskClient, portal: Portal, created: Created) -> None:
    answer = send(client, created.token, body_of(dicom_bytes(generate_uid())), f"/{UID}")
    assert answer.status_code == 409 and reasons(answer, "00081198") == [0xA900]
    assert items_of(portal) == [] and nothing_left(portal)


def test_the_study_of_the_address_is_stored(client: FlaskClient, created: Created) -> None:
    assert send(client, created.token, body_of(dicom_bytes(UID)), f"/{UID}").status_code == 200


@pytest.mark.parametrize("study", ["/not-a-uid", "/" + "1" * 65])
def test_an_address_that_is_no_study_is_400(client: FlaskClient, created: Created, study: str) -> None:
    assert send(client, created.token, body_of(dicom_bytes(UID)), study).status_code == 400


def test_no_parts_are_400(client: FlaskClient, created: Created) -> None:
    assert send(client, created.token, body_of()).status_code == 400
    assert send(client, created.token, b"").status_code == 400


def test_a_body_cut_off_is_400_and_keeps_what_came_whole(client: FlaskClient, portal: Portal, created: Created) -> None:
    body = body_of(dicom_bytes(UID, 1), dicom_bytes(UID, 2))
    answer = send(client, created.token, body[:-300])
    assert answer.status_code == 400 and len(uids(answer, "00081199")) == 1
    assert len(items_of(portal)) == 1 and not list(portal.store.partial_dir.iterdir())


@pytest.mark.parametrize("kind", ["application/dicom", "multipart/form-data; boundary=b", "",
                                  'multipart/related; type="application/dicom+json"; boundary=b'])  # fmt: skip
def test_another_kind_of_body_is_415(client: FlaskClient, created: Created, kind: str) -> None:
    assert send(client, created.token, b"x", kind=kind).status_code == 415


@pytest.mark.parametrize("boundary", ["", "; boundary=" + "x" * 201])
def test_a_boundary_that_cannot_be_used_is_400(client: FlaskClient, created: Created, boundary: str) -> None:
    kind = 'multipart/related; type="application/dicom"' + boundary
    assert send(client, created.token, b"x", kind=kind).status_code == 400


def test_a_part_of_another_kind_is_not_stored(client: FlaskClient, portal: Portal, created: Created) -> None:
    assert send(client, created.token, body_of(dicom_bytes(UID), kind="text/plain")).status_code == 409
    assert items_of(portal) == []


def test_what_was_sent_before_counts_as_stored_and_is_stored_once(
    client: FlaskClient, portal: Portal, created: Created
) -> None:
    body = body_of(dicom_bytes(UID))
    first, again = send(client, created.token, body), send(client, created.token, body)
    assert first.status_code == again.status_code == 200
    assert uids(first, "00081199") == uids(again, "00081199")
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 1


def test_a_file_that_the_patient_had_is_answered_like_a_new_one(
    client: FlaskClient, portal: Portal, patient: SignedIn, created: Created
) -> None:
    file = dicom_bytes(UID)
    put_in(portal, patient.account.id, file, "mine.dcm")
    answer = send(client, created.token, body_of(file))
    assert answer.status_code == 200 and len(uids(answer, "00081199")) == 1


# -- limits ---------------------------------------------------------------------------------------
def test_more_files_than_agreed_are_not_stored(client: FlaskClient, portal: Portal, created: Created) -> None:
    answer = send(client, created.token, body_of(*(dicom_bytes(UID, number) for number in range(7))))
    assert answer.status_code == 202 and len(uids(answer, "00081199")) == len(items_of(portal)) == 5
    assert reasons(answer, "00081198") == [0xA700] * 2 and len(list(portal.store.keys())) == 5
    assert send(client, created.token, body_of(dicom_bytes(UID, 9))).status_code == 413


def small_portal(app: Flask, portal: Portal, **limits: int) -> Created:
    object.__setattr__(portal, "settings", type(portal.settings)(**(vars(portal.settings) | limits)))
    return drop_offs.create(portal, enter_portal(portal, PATIENT).login, "Dr Berger", 3600, 5)


def test_one_file_over_the_limit_is_413_and_leaves_nothing(app: Flask, client: FlaskClient, portal: Portal) -> None:
    created = small_portal(app, portal, drop_off_object_bytes_max=100)
    assert send(client, created.token, body_of(dicom_bytes(UID))).status_code == 413
    assert nothing_left(portal)


def test_a_body_longer_than_everything_agreed_is_413_before_it_is_read(
    app: Flask, client: FlaskClient, portal: Portal
) -> None:
    created = small_portal(app, portal, drop_off_bytes_max=100)
    answer = send(client, created.token, bytes(17 * 1024**2))
    assert answer.status_code == 413 and "agreed" in answer.text


def test_files_over_everything_agreed_are_413(app: Flask, client: FlaskClient, portal: Portal) -> None:
    created = small_portal(app, portal, drop_off_bytes_max=100)
    assert send(client, created.token, body_of(dicom_bytes(UID))).status_code == 413
    assert nothing_left(portal)


# -- who ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("authorization", [
    None, "", "Bearer", "Bearer " + "x" * 43, "Bearer x", "Basic " + "x" * 43, "Bearer ä"])  # fmt: skip
def test_without_the_right_token_it_is_401_and_nothing_is_stored(
    client: FlaskClient, portal: Portal, created: Created, authorization: str | None
) -> None:
    headers = {"Content-Type": TYPE} | ({"Authorization": authorization} if authorization is not None else {})
    answer = client.post("/dicom-web/studies", data=body_of(dicom_bytes(UID)), headers=headers)
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert items_of(portal) == [] and nothing_left(portal)


def test_a_revoked_token_is_401_at_once(
    client: FlaskClient, portal: Portal, patient: SignedIn, created: Created
) -> None:
    assert send(client, created.token, body_of(dicom_bytes(UID))).status_code == 200
    drop_offs.revoke(portal, patient.login, created.drop_off_id)
    assert send(client, created.token, body_of(dicom_bytes(UID, 2))).status_code == 401
    assert len(items_of(portal)) == 1


def test_an_expired_token_is_401(client: FlaskClient, portal: Portal, created: Created) -> None:
    with portal.database.write() as db:
        row = db.get(DropOff, created.drop_off_id)
        assert row
        row.expires_at = now() - dt.timedelta(seconds=1)
        db.add(row)
    assert send(client, created.token, body_of(dicom_bytes(UID))).status_code == 401


def test_no_cookie_is_looked_at_or_set(client: FlaskClient, created: Created) -> None:
    answer = send(client, created.token, body_of(dicom_bytes(UID)))
    assert "Set-Cookie" not in answer.headers


def test_nothing_can_be_asked_or_fetched_with_the_token(client: FlaskClient, created: Created) -> None:
    send(client, created.token, body_of(dicom_bytes(UID)))
    headers = {"Authorization": f"Bearer {created.token}"}
    for address in ("", f"/{UID}", f"/{UID}/metadata", f"/{UID}/series"):  # a drop-off's token is no app key
        assert client.get(f"/dicom-web/studies{address}", headers=headers).status_code == 401
    assert client.get("/record", headers=headers).status_code == 303


def test_too_many_streams_of_one_drop_off_are_asked_to_wait(
    client: FlaskClient, portal: Portal, created: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    from myphr.web import senders

    monkeypatch.setattr(senders, "STREAMS_PER_DROP_OFF", 0)
    answer = send(client, created.token, body_of(dicom_bytes(UID)))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    monkeypatch.undo()
    assert send(client, created.token, body_of(dicom_bytes(UID))).status_code == 200
