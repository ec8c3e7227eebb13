"""The tus 1.0 routes: headers, status codes, who may, and where a call may come from."""

import base64
import hashlib
import json
import types

import pytest
from flask import Flask, request
from sqlmodel import select

from myphr.records import items
from myphr.records.models import Item, Upload
from myphr.web.uploads import make_blueprint

KIB64 = 64 * 1024
TUS = {"Tus-Resumable": "1.0.0"}
BODY = TUS | {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture
def client(portal):
    app = Flask("uploads-alone")
    app.extensions["portal"] = portal

    def current_login():
        who = request.headers.get("X-Account")
        return types.SimpleNamespace(account=types.SimpleNamespace(id=who)) if who else None

    app.register_blueprint(make_blueprint(current_login))
    return app.test_client()


@pytest.fixture
def mine(patient):
    return {"X-Account": patient.account.id}


def create(client, who, total, **headers):
    return client.post("/uploads", headers=TUS | who | {"Upload-Length": str(total)} | headers)


def said(text):
    return base64.b64encode(text.encode()).decode()


def test_options_tells_what_is_spoken_to_anybody(client):
    answer = client.options("/uploads")
    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert set(answer.headers["Tus-Extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "checksum",
        "expiration",
        "termination",
    }
    assert set(answer.headers["Tus-Checksum-Algorithm"].split(",")) == {"sha256", "sha1"}
    assert int(answer.headers["Tus-Max-Size"]) > 0
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_whole_upload(client, mine, portal, patient):
    data = bytes(range(256)) * 1000
    metadata = f"filename {said('Brain.dcm')},relativePath {said('CD/Brain.dcm')},is_confidential"
    created = create(client, mine, len(data), **{"Upload-Metadata": metadata})
    assert (
        created.status_code == 201 and created.headers["Upload-Offset"] == "0" and "Upload-Expires" in created.headers
    )
    url = created.headers["Location"]
    first = client.patch(url, headers=BODY | mine | {"Upload-Offset": "0"}, data=data[: KIB64 + 5])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, str(KIB64))
    head = client.head(url, headers=TUS | mine)
    assert (head.status_code, head.headers["Upload-Offset"], head.headers["Upload-Length"]) == (
        200,
        str(KIB64),
        str(len(data)),
    )
    assert head.headers["Cache-Control"] == "no-store"
    last = client.patch(url, headers=BODY | mine | {"Upload-Offset": str(KIB64)}, data=data[KIB64:])
    assert (last.status_code, last.headers["Upload-Offset"], last.headers["MyPHR-Duplicate"]) == (
        204,
        str(len(data)),
        "no",
    )
    view = items.item_view(portal.database, patient.login.ring(), patient.account.id, last.headers["MyPHR-Item"])
    assert (view.name, view.path) == ("Brain.dcm", "CD/Brain.dcm")
    again = client.head(url, headers=TUS | mine)
    assert again.headers["Upload-Offset"] == str(len(data)) and again.headers["MyPHR-Item"] == view.id


def test_a_small_file_comes_with_its_creation(client, mine, portal):
    answer = client.post("/uploads", headers=BODY | mine | {"Upload-Length": "5"}, data=b"hello")
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, "5") and answer.headers["MyPHR-Item"]
    twice = client.post("/uploads", headers=BODY | mine | {"Upload-Length": "5"}, data=b"hello")
    assert twice.headers["MyPHR-Duplicate"] == "yes"
    with portal.database.read() as db:
        assert len(db.exec(select(Item)).all()) == 1 and db.exec(select(Upload)).all() == []


def test_a_part_may_come_with_the_creation(client, mine):
    answer = client.post("/uploads", headers=BODY | mine | {"Upload-Length": str(3 * KIB64)}, data=bytes(2 * KIB64))
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, str(2 * KIB64))
    assert client.head(answer.headers["Location"], headers=TUS | mine).headers["Upload-Offset"] == str(2 * KIB64)


@pytest.mark.parametrize(
    "headers, status, words",
    [
        ({}, 400, "Upload-Length"),
        ({"Upload-Length": "-1"}, 400, "Upload-Length"),
        ({"Upload-Length": "1e3"}, 400, "Upload-Length"),
        ({"Upload-Length": "0"}, 400, "the file is empty"),
        ({"Upload-Length": str(10**17)}, 413, "larger"),
        ({"Upload-Defer-Length": "1"}, 400, "size"),
        ({"Upload-Length": "5", "Upload-Metadata": "filename ???"}, 400, "description"),
        ({"Upload-Length": "5", "Upload-Metadata": "x " * 10_000}, 400, "description"),
    ],
)
def test_a_creation_that_makes_no_sense_is_refused_in_words(client, mine, headers, status, words):
    answer = client.post("/uploads", headers=TUS | mine | headers)
    assert answer.status_code == status and words in answer.text


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Upload-Offset": "7"}, 409),
        ({}, 400),
        ({"Upload-Offset": "x"}, 400),
        ({"Upload-Offset": "0", "Content-Type": "application/octet-stream"}, 415),
    ],
)
def test_a_piece_that_makes_no_sense_changes_nothing(client, mine, headers, status):
    url = create(client, mine, KIB64).headers["Location"]
    assert client.patch(url, headers=BODY | mine | headers, data=bytes(KIB64)).status_code == status
    assert client.head(url, headers=TUS | mine).headers["Upload-Offset"] == "0"


def test_more_than_announced_is_413(client, mine):
    url = create(client, mine, 10).headers["Location"]
    assert client.patch(url, headers=BODY | mine | {"Upload-Offset": "0"}, data=bytes(11)).status_code == 413


def checksum(data, algorithm="sha256"):
    digest = hashlib.new(algorithm, data).digest()
    return {"Upload-Checksum": f"{algorithm} {base64.b64encode(digest).decode()}"}


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
def test_a_piece_with_the_right_checksum_is_taken(client, mine, portal, algorithm):
    data = bytes(range(256)) * 1000
    url = create(client, mine, len(data)).headers["Location"]
    first, rest = data[:KIB64], data[KIB64:]
    for offset, piece in ((0, first), (KIB64, rest)):
        headers = BODY | mine | {"Upload-Offset": str(offset)} | checksum(piece, algorithm)
        answer = client.patch(url, headers=headers, data=piece)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(offset + len(piece)))
    assert answer.headers["MyPHR-Item"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
def test_a_piece_with_a_wrong_checksum_is_460_and_nothing_of_it_is_kept(client, mine, portal, algorithm):
    data = bytes(range(256)) * 1000
    url = create(client, mine, len(data)).headers["Location"]
    kept = client.patch(url, headers=BODY | mine | {"Upload-Offset": "0"}, data=data[:KIB64])
    assert kept.headers["Upload-Offset"] == str(KIB64)
    headers = BODY | mine | {"Upload-Offset": str(KIB64)} | checksum(data[KIB64:], algorithm)
    damaged = data[KIB64:-1] + b"?"
    answer = client.patch(url, headers=headers, data=damaged)
    assert (answer.status_code, answer.headers["MyPHR-Error"]) == (460, "upload-checksum")
    assert client.head(url, headers=TUS | mine).headers["Upload-Offset"] == str(KIB64)
    with portal.database.read() as db:
        assert db.exec(select(Item)).all() == []
    assert client.patch(url, headers=headers, data=data[KIB64:]).headers["MyPHR-Item"]


@pytest.mark.parametrize("total", [5, 3 * KIB64])
def test_a_creation_with_a_damaged_body_leaves_nothing(client, mine, portal, total):
    sent = bytes(min(total, 2 * KIB64))
    headers = BODY | mine | {"Upload-Length": str(total)} | checksum(b"x" * len(sent))
    assert client.post("/uploads", headers=headers, data=sent).status_code == 460
    with portal.database.read() as db:
        assert db.exec(select(Item)).all() == []
        assert all(row.wrapped_dek is None for row in db.exec(select(Upload)))
    assert list(portal.store.keys()) == [] and list(portal.store.partial_dir.iterdir()) == []
    good = headers | checksum(sent)
    assert client.post("/uploads", headers=good, data=sent).status_code == 201


@pytest.mark.parametrize(
    "value", ["", "md5 " + "A" * 24, "sha256", "sha256 ???", "sha1 " + base64.b64encode(bytes(32)).decode()]
)
def test_a_checksum_that_cannot_be_checked_is_400_and_changes_nothing(client, mine, value):
    url = create(client, mine, KIB64).headers["Location"]
    headers = BODY | mine | {"Upload-Offset": "0", "Upload-Checksum": value}
    assert client.patch(url, headers=headers, data=bytes(KIB64)).status_code == 400
    assert client.head(url, headers=TUS | mine).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.1"])
def test_another_version_of_tus_is_412_and_told_ours(client, mine, version):
    headers = mine | {"Upload-Length": "5"} | ({"Tus-Resumable": version} if version else {})
    answer = client.post("/uploads", headers=headers)
    assert (answer.status_code, answer.headers["Tus-Version"]) == (412, "1.0.0")


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_a_call_of_another_site_is_refused(client, mine, headers):
    answer = create(client, mine, 5, **headers)
    assert answer.status_code == 400 and "another site" in answer.text
    assert create(client, mine, 5, Origin="http://localhost").status_code == 201


@pytest.mark.parametrize("method", ["head", "patch", "delete"])
def test_whose_upload_it_is_not_sees_404(client, mine, stranger, method):
    url = create(client, mine, KIB64).headers["Location"]
    wrong_token = url[:-1] + ("A" if url[-1] != "A" else "B")
    for address, who in (
        (url, {"X-Account": stranger.account.id}),
        (wrong_token, mine),
        (url + "x", mine),
        ("/uploads/x/y", mine),
    ):
        answer = getattr(client, method)(address, headers=BODY | who | {"Upload-Offset": "0"}, data=b"")
        assert answer.status_code == 404
    assert client.head(url, headers=TUS | mine).status_code == 200


def test_nobody_uploads_without_being_signed_in(client, mine):
    url = create(client, mine, 5).headers["Location"]
    assert create(client, {}, 5).status_code == 401
    assert client.patch(url, headers=BODY | {"Upload-Offset": "0"}, data=b"hello").status_code == 401


@pytest.mark.parametrize("method", ["get", "put", "post"])
def test_other_methods_are_405(client, mine, method):
    url = create(client, mine, 5).headers["Location"]
    assert getattr(client, method)(url, headers=TUS | mine).status_code == 405
    assert client.get("/uploads", headers=TUS | mine).status_code == 405


def test_terminate_forgets_the_upload(client, mine):
    url = create(client, mine, 5).headers["Location"]
    assert client.delete(url, headers=TUS | mine).status_code == 204
    assert client.head(url, headers=TUS | mine).status_code == 404


def test_the_database_does_not_know_the_token(client, mine, portal):
    token = create(client, mine, 5).headers["Location"].rsplit("/", 1)[1]
    for path in (portal.settings.home / "db").iterdir():
        assert token.encode() not in path.read_bytes()


# -- many small files in one request ----------------------------------------------------------------
TOGETHER = TUS | {"Content-Type": "application/vnd.myphr.files"}


def packed(*contents: bytes) -> bytes:
    told = json.dumps([{"name": f"{n}.txt", "size": len(one)} for n, one in enumerate(contents)]).encode()
    return len(told).to_bytes(4, "big") + told + b"".join(contents)


def together(client, who, *contents, **headers):
    return client.post("/uploads/together", headers=TOGETHER | who | headers, data=packed(*contents))


def test_small_files_come_together_and_each_is_told(client, mine, portal):
    assert together(client, mine, b"one", b"two").json == [{"stored": True, "again": False}] * 2
    answer = together(client, mine, b"two", b"", b"three")
    assert answer.json[0] == {"stored": True, "again": True} and answer.json[2] == {"stored": True, "again": False}
    assert answer.json[1]["stored"] is False and "the file is empty" in answer.json[1]["why"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(list(portal.store.keys())) == 3


def test_files_together_need_a_login_our_own_page_and_the_right_method(client, mine, portal):
    assert together(client, {}, b"x").status_code == 401
    assert together(client, mine, b"x", Origin="https://evil.example").status_code == 400
    assert client.post("/uploads/together", headers=mine, data=packed(b"x")).status_code == 412  # as a form would
    for method in ("get", "put"):
        assert getattr(client, method)("/uploads/together", headers=TOGETHER | mine).status_code == 405
    assert list(portal.store.keys()) == []


def test_files_of_a_stranger_go_into_his_own_record(client, mine, patient, stranger, portal):
    together(client, mine, b"mine")
    assert together(client, {"X-Account": stranger.account.id}, b"mine").json == [{"stored": True, "again": False}]


def test_a_body_of_another_type_or_too_long_is_refused(client, mine, portal):
    headers = TOGETHER | mine
    plain = client.post("/uploads/together", headers=headers | {"Content-Type": "text/plain"}, data=b"x")
    assert plain.status_code == 415
    long = client.post("/uploads/together", headers=headers, data=bytes(16 * 1024**2 + 1))
    assert long.status_code == 413
    broken = client.post("/uploads/together", headers=headers, data=packed(b"x") + b"y")
    assert (broken.status_code, broken.headers["MyPHR-Error"]) == (400, "upload-refused")
    assert list(portal.store.keys()) == []
