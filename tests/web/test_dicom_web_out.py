"""QIDO-RS and WADO-RS with an app key: what it opens and what not, what matches, what goes into the trail."""

import email
import io
import json
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydicom import dcmread
from sqlmodel import select
from werkzeug.test import TestResponse

from myphr.audit.models import AuditEvent
from myphr.audit.trail import Actor
from myphr.portal import Portal
from myphr.records import deletions
from myphr.records.items import remove_study
from myphr.records.models import Item
from myphr.sharing import app_key_wraps, app_keys
from myphr.sharing.app_key_models import AppKey, AppKeyStudy
from myphr.sharing.forgetting import forget_items
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient
from tests.web.stage import dicom_bytes, put_in

HEAD, KNEE = "2.25.1001", "2.25.2002"
FORM = {"name": "My viewer", "days": "30", "what": "all"}


@pytest.fixture
def studies(portal: Portal, patient: SignedIn) -> dict[str, str]:
    """Two studies: the head's with two images, the knee's with one that has a program in its preamble."""
    ids = {}
    for uid, name, date, count in ((HEAD, "Head", "20240826", 2), (KNEE, "Knee", "20200101", 1)):
        for number in range(1, count + 1):
            content = dicom_bytes(uid, number, StudyDate=date, StudyDescription=name, PatientID="4711",
                                  PatientName="Lindqvist^Vera", SeriesNumber=1)  # fmt: skip
            if uid == KNEE:
                content = b"MZ" + b"\x90" * 126 + content[128:]
            item = put_in(portal, patient.account.id, content, f"{name}{number}")
        assert item.study_id
        ids[uid] = item.study_id
    return ids


@pytest.fixture
def token(portal: Portal, patient: SignedIn, studies: dict[str, str]) -> str:
    return app_keys.create(portal, patient.login, "My viewer", 3600, None).token


@pytest.fixture
def vera(browser: PageClient, patient: SignedIn) -> PageClient:
    return sign_in(browser, PATIENT)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def get(client: FlaskClient, token: str, address: str, accept: str = "") -> TestResponse:
    headers = {"Authorization": f"Bearer {token}"} | ({"Accept": accept} if accept else {})
    return client.get("/dicom-web" + address, headers=headers)


def files_in(answer: TestResponse) -> list[bytes]:
    whole = b"Content-Type: " + answer.headers["Content-Type"].encode() + b"\r\n\r\n" + answer.data
    assert answer.data.endswith(b"--\r\n")
    boundary = answer.headers["Content-Type"].rpartition("boundary=")[2].encode()
    assert email.message_from_bytes(whole).is_multipart()
    parts = answer.data.split(b"--" + boundary)[1:-1]
    return [part.partition(b"\r\n\r\n")[2][:-2] for part in parts]


# -- QIDO-RS --------------------------------------------------------------------------------------
def test_studies_series_and_instances_are_told(client: FlaskClient, token: str) -> None:
    answer = get(client, token, "/studies")
    assert answer.status_code == 200 and answer.content_type == "application/dicom+json"
    assert "Access-Control-Allow-Origin" not in answer.headers
    found = {one["0020000D"]["Value"][0]: one for one in json.loads(answer.data)}
    assert found.keys() == {HEAD, KNEE}
    assert found[HEAD]["00201208"]["Value"] == [2] and found[HEAD]["00080061"]["Value"] == ["MR"]
    assert found[HEAD]["00100010"]["Value"] == [{"Alphabetic": "Lindqvist^Vera"}]
    [series] = json.loads(get(client, token, f"/studies/{HEAD}/series").data)
    uid = series["0020000E"]["Value"][0]
    assert len(json.loads(get(client, token, f"/studies/{HEAD}/series/{uid}/instances").data)) == 2
    assert len(json.loads(get(client, token, f"/studies/{HEAD}/instances").data)) == 2
    assert len(json.loads(get(client, token, "/instances").data)) == 3 == 1 + len(
        json.loads(get(client, token, "/series").data)
    )


@pytest.mark.parametrize(
    ("query", "found"),
    [("StudyDate=20240826", {HEAD}), ("StudyDate=20240101-20241231", {HEAD}), ("StudyDate=-20211231", {KNEE}),
     ("StudyDate=20200101-", {HEAD, KNEE}), ("PatientID=4711", {HEAD, KNEE}), ("PatientID=4", set()),
     ("PatientName=lind*", {HEAD, KNEE}), ("PatientName=[a-z]*", set()), ("StudyDescription=Kne%3F", {KNEE}),
     (f"StudyInstanceUID={HEAD}", {HEAD}), (f"0020000D={HEAD},{KNEE}", {HEAD, KNEE}), ("ModalitiesInStudy=CT", set()),
     ("ModalitiesInStudy=MR&AccessionNumber=", {HEAD, KNEE}), ("limit=5&offset=2", set()),
     ("includefield=all&fuzzymatching=true", {HEAD, KNEE})],
)  # fmt: skip
def test_matching_keys(client: FlaskClient, token: str, query: str, found: set[str]) -> None:
    answer = get(client, token, "/studies?" + query)
    assert answer.status_code == (200 if found else 204)
    assert {one["0020000D"]["Value"][0] for one in json.loads(answer.data or b"[]")} == found
    assert ("Warning" in answer.headers) is ("fuzzy" in query)


@pytest.mark.parametrize(
    "query", ["limit=x", "limit=-1", "offset=1e9", "Modality=MR", "Nonsense=1", "limit=9999999999"]
)
def test_a_query_that_is_not_allowed_is_400(client: FlaskClient, token: str, query: str) -> None:
    assert get(client, token, "/studies?" + query).status_code == 400


def test_limit_and_offset_cut(client: FlaskClient, token: str) -> None:
    every = json.loads(get(client, token, "/instances").data)
    assert json.loads(get(client, token, "/instances?limit=1&offset=1").data) == every[1:2]


# -- WADO-RS --------------------------------------------------------------------------------------
def test_a_study_comes_whole_and_without_what_hides_in_a_preamble(
    client: FlaskClient, token: str, portal: Portal
) -> None:
    answer = get(client, token, f"/studies/{HEAD}", 'multipart/related; type="application/dicom"')
    files = files_in(answer)
    assert answer.status_code == 200 and [dcmread(io.BytesIO(one)).InstanceNumber for one in files] == [1, 2]
    [knee] = files_in(get(client, token, f"/studies/{KNEE}"))
    assert knee[:132] == bytes(128) + b"DICM" and dcmread(io.BytesIO(knee)).StudyInstanceUID == KNEE


def test_one_series_one_instance_and_metadata(client: FlaskClient, token: str) -> None:
    [first, _] = json.loads(get(client, token, f"/studies/{HEAD}/metadata").data)
    series, uid = first["0020000E"]["Value"][0], first["00080018"]["Value"][0]
    assert first["7FE00010"].keys() == {"vr", "BulkDataURI"}
    assert len(files_in(get(client, token, f"/studies/{HEAD}/series/{series}"))) == 2
    [image] = files_in(get(client, token, f"/studies/{HEAD}/series/{series}/instances/{uid}"))
    assert dcmread(io.BytesIO(image)).SOPInstanceUID == uid
    for address in (f"/studies/{HEAD}/series/{series}", f"/studies/{HEAD}/series/{series}/instances/{uid}"):
        assert json.loads(get(client, token, address + "/metadata").data)[0] == first


@pytest.mark.parametrize(
    ("accept", "status"),
    [('multipart/related; type="application/dicom"; transfer-syntax=*', 200), ("*/*", 200),
     ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1', 200),
     ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.50', 406), ("image/jpeg", 406)],
)  # fmt: skip
def test_only_what_is_stored_is_given(client: FlaskClient, token: str, accept: str, status: int) -> None:
    assert get(client, token, f"/studies/{HEAD}", accept).status_code == status


# -- who and what not -----------------------------------------------------------------------------
def test_only_what_was_chosen_opens(
    client: FlaskClient, portal: Portal, patient: SignedIn, studies: dict[str, str]
) -> None:
    token = app_keys.create(portal, patient.login, "Knee app", 3600, [studies[KNEE]]).token
    assert len(json.loads(get(client, token, "/studies").data)) == 1
    for rest in ("", "/metadata"):
        assert get(client, token, f"/studies/{HEAD}{rest}").status_code == 404
        assert get(client, token, f"/studies/1.2.3{rest}").status_code == 404
    assert get(client, token, f"/studies/{HEAD}/series").status_code == 204


def test_what_came_later_is_there_once_its_owner_signed_in(
    client: FlaskClient, portal: Portal, patient: SignedIn, browser: PageClient, token: str, studies: dict[str, str]
) -> None:
    put_in(portal, patient.account.id, dicom_bytes(HEAD, 3), "later")
    put_in(portal, patient.account.id, dicom_bytes("2.25.3003", 1), "another study")
    assert len(files_in(get(client, token, f"/studies/{HEAD}"))) == 2
    assert get(client, token, "/studies/2.25.3003").status_code == 404
    vera = sign_in(browser, PATIENT)
    assert len(files_in(get(client, token, f"/studies/{HEAD}"))) == 3
    assert len(files_in(get(client, token, "/studies/2.25.3003"))) == 1
    assert "You signed in, and 2 pictures that had come since were added for an app." in vera.get("/who-looked").text
    remove_study(portal.database, patient.account.id, studies[HEAD], Actor("patient", patient.account.id))
    assert get(client, token, f"/studies/{HEAD}").status_code == 404


def test_a_key_for_chosen_studies_gets_what_comes_to_them_and_no_other(
    client: FlaskClient, portal: Portal, patient: SignedIn, studies: dict[str, str]
) -> None:
    token = app_keys.create(portal, patient.login, "Knee app", 3600, [studies[KNEE]]).token
    for uid, number in ((HEAD, 3), (KNEE, 2), ("2.25.3003", 1)):
        put_in(portal, patient.account.id, dicom_bytes(uid, number), f"{uid}{number}")
    for _ in range(2):
        app_key_wraps.catch_up(portal, patient.login)
        assert len(files_in(get(client, token, f"/studies/{KNEE}"))) == 2
        assert {one["0020000D"]["Value"][0] for one in json.loads(get(client, token, "/studies").data)} == {KNEE}


def test_a_key_that_is_over_gets_nothing_and_one_from_before_stays_as_it_was(
    client: FlaskClient, portal: Portal, patient: SignedIn, token: str, studies: dict[str, str]
) -> None:
    app_keys.create(portal, patient.login, "Stopped", 3600, None)
    app_keys.revoke(portal, patient.login, app_keys.list_mine(portal, patient.login)[0].id)
    with portal.database.write() as db:
        stopped, before = db.exec(select(AppKey).order_by(AppKey.state.desc())).all()
        assert stopped.sealed_key is None
        before.sealed_key = None
        db.add(before)
    put_in(portal, patient.account.id, dicom_bytes(HEAD, 3), "later")
    app_key_wraps.catch_up(portal, patient.login)
    assert len(files_in(get(client, token, f"/studies/{HEAD}"))) == 2
    with portal.database.read() as db:
        assert {row.app_key_id for row in db.exec(select(AppKeyStudy))} == {before.id}


def test_a_file_deleted_while_keys_are_brought_up_to_date_is_left_out(
    portal: Portal, patient: SignedIn, token: str, studies: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(portal, patient.account.id, dicom_bytes(HEAD, 3), "later")
    real = app_key_wraps.opened

    def deleted_meanwhile(*given):
        found = real(*given)
        with portal.database.read() as db:
            gone = db.exec(select(Item).where(Item.study_id == studies[HEAD])).first()
        deletions.delete_item(portal, patient.login, gone.id, (forget_items,))
        monkeypatch.setattr(app_key_wraps, "opened", real)
        return found

    monkeypatch.setattr(app_key_wraps, "opened", deleted_meanwhile)
    app_key_wraps.catch_up(portal, patient.login)
    reader = app_keys.by_token(portal, token)
    with portal.database.read() as db:
        row = db.get(AppKeyStudy, (reader.app_key_id, studies[HEAD]))
        left = {item.id for item in db.exec(select(Item).where(Item.study_id == studies[HEAD])) if not item.deleted_at}
    assert reader._wrapping.open(row).keys() == left and len(left) == 2


def test_with_a_deleted_image_the_keys_that_an_app_held_of_its_study_are_gone_until_its_owner_signs_in(
    client: FlaskClient, portal: Portal, patient: SignedIn, token: str, studies: dict[str, str]
) -> None:
    with portal.database.read() as db:
        item = db.exec(select(Item).where(Item.study_id == studies[HEAD])).first()
        assert item
    deletions.delete_item(portal, patient.login, item.id, (forget_items,))
    with portal.database.read() as db:
        assert [row.study_id for row in db.exec(select(AppKeyStudy)) if row.wrapped_deks] == [studies[KNEE]]
    assert get(client, token, f"/studies/{HEAD}").status_code == 404
    assert get(client, token, "/studies").status_code == 200
    app_key_wraps.catch_up(portal, patient.login)
    assert len(files_in(get(client, token, f"/studies/{HEAD}"))) == 1


def test_an_image_deleted_on_its_page_is_all_that_the_app_loses(
    client: FlaskClient, vera: PageClient, portal: Portal, token: str, studies: dict[str, str]
) -> None:
    with portal.database.read() as db:
        item = db.exec(select(Item).where(Item.study_id == studies[HEAD])).first()
        assert item
    assert vera.post(f"/item/{item.id}/delete", {}).status_code == 303
    assert len(files_in(get(client, token, f"/studies/{HEAD}"))) == 1


@pytest.mark.parametrize("bad", ["", "x" * 43, "short"])
def test_a_wrong_token_opens_nothing(client: FlaskClient, token: str, bad: str) -> None:
    answer = get(client, bad, "/studies")
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_revoked_and_expired_open_nothing_and_their_keys_are_gone(
    client: FlaskClient, portal: Portal, patient: SignedIn, token: str
) -> None:
    import datetime as dt

    from myphr.database import now

    other = app_keys.create(portal, patient.login, "Other", 3600, None)
    [first, second] = app_keys.list_mine(portal, patient.login)
    app_keys.revoke(portal, patient.login, second.id)
    assert get(client, token, "/studies").status_code == 401
    with portal.database.write() as db:
        row = db.get(AppKey, other.app_key_id)
        assert row
        row.expires_at = now() - dt.timedelta(seconds=1)
        db.add(row)
    assert get(client, other.token, "/studies").status_code == 401
    assert app_keys.sweep(portal) == 1 and app_keys.sweep(portal) == 0
    with portal.database.read() as db:
        assert db.exec(select(AppKeyStudy)).all() == []
    assert first.id == other.app_key_id


def test_the_database_alone_opens_nothing(portal: Portal, token: str) -> None:
    from myphr.errors import EnvelopeError

    with portal.database.read() as db:
        row = db.exec(select(AppKey)).one()
    reader = app_keys.Reader(portal, row, b"\0" * 32)
    with pytest.raises(EnvelopeError):
        reader.instances(reader.studies()[0])


def test_every_use_stands_in_who_looked(client: FlaskClient, vera: PageClient, portal: Portal, token: str) -> None:
    get(client, token, "/studies")
    get(client, token, f"/studies/{HEAD}")
    with portal.database.read() as db:
        events = [one.event for one in db.exec(select(AuditEvent).where(AuditEvent.actor_kind == "app"))]
    assert events == ["app-key-searched", "app-key-fetched"]
    page = vera.get("/who-looked").text
    assert "My viewer looked which pictures there are." in page and "My viewer fetched 2 pictures." in page


# -- the pages ------------------------------------------------------------------------------------
def test_a_key_is_made_on_the_page_shown_once_and_stopped(
    vera: PageClient, client: FlaskClient, studies: dict[str, str]
) -> None:
    answer = vera.post("/app-keys", FORM)
    token = re.search(r'id="app-key">([^<]+)<', answer.text)[1]
    assert get(client, token, "/studies").status_code == 200
    page = vera.get("/app-keys").text
    assert "My viewer" in page and token not in page
    address = re.search(r"/app-keys/[0-9a-f-]{36}/stop", page)[0]
    assert vera.get(address).status_code == 200 and get(client, token, "/studies").status_code == 200
    assert vera.post(address, {}).status_code == 303 and get(client, token, "/studies").status_code == 401
    assert vera.post(address, {}).status_code == 404


@pytest.mark.parametrize("wrong", [{"name": ""}, {"days": "9"}, {"what": ""}, {"what": "chosen"}])
def test_a_form_that_makes_no_sense_is_shown_again(vera: PageClient, studies, wrong: dict[str, str]) -> None:
    assert vera.post("/app-keys", FORM | wrong).status_code == 422


def test_somebody_elses_study_cannot_be_chosen_and_a_strangers_key_shows_nothing(
    nils: PageClient, studies: dict[str, str]
) -> None:
    assert nils.post("/app-keys", FORM | {"what": "chosen", "study": studies[HEAD]}).status_code == 404
    assert "no pictures" in nils.get("/app-keys").text
