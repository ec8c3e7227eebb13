"""Parts of images for the patient's own apps: frames. What is given, in which form, to whom, and what not."""

import io
import json
from typing import Any

import pydicom
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from sqlmodel import select

from myphr.audit.models import AuditEvent
from myphr.audit.trail import Actor
from myphr.portal import Portal
from myphr.records.items import details_of, remove_study
from myphr.records.models import Item
from myphr.records.reading import FullReading, Reading
from myphr.sharing import app_keys
from myphr.web import dicom_web_parts
from tests.cast import SignedIn
from tests.web.stage import dicom_bytes, put_in, put_reading
from tests.web.test_dicom_web_out import files_in, get

FILM, PHOTO, OTHER = "2.25.31", "2.25.32", "2.25.33"
PIXELS = bytes(range(48))
PHOTOS = [b"\xff\xd8one.", b"\xff\xd8two."]
NATIVE, JPEG = "1.2.840.10008.1.2.1", str(JPEGBaseline8Bit)


def compressed(study_uid: str, frames: list[bytes]) -> bytes:
    image = pydicom.dcmread(io.BytesIO(dicom_bytes(study_uid, NumberOfFrames=len(frames))))
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    image.PixelData = encapsulate(frames)
    image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.fixture
def images(portal: Portal, patient: SignedIn) -> dict[str, str]:
    """The addresses of a native film of three frames and of a compressed one of two, both in the key's scope."""
    found = {}
    film = dicom_bytes(FILM, NumberOfFrames=3, PixelData=PIXELS)
    for content in (film, compressed(PHOTO, PHOTOS), dicom_bytes(OTHER)):
        put_in(portal, patient.account.id, content, "film")
        image = pydicom.dcmread(io.BytesIO(content))
        uids = image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID
        found[uids[0]] = "/studies/{}/series/{}/instances/{}".format(*uids)
    return found


@pytest.fixture
def token(portal: Portal, patient: SignedIn, images: dict[str, str]) -> str:
    with portal.database.read() as db:
        studies = [item.study_id for item in db.exec(select(Item).order_by(Item.created_at))]  # type: ignore[arg-type]
    return app_keys.create(portal, patient.login, "My viewer", 3600, [str(one) for one in studies[:2]]).token


def study_of(portal: Portal, owner: SignedIn, uid: str) -> str:
    with portal.database.read() as db:
        items, ring = db.exec(select(Item)).all(), owner.login.ring()
    [found] = [str(one.study_id) for one in items if details_of(ring, one)["headers"]["study_uid"] == uid]
    return found


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client(use_cookies=False)


# -- frames ---------------------------------------------------------------------------------------
def test_frames_come_in_the_order_asked_for(client: FlaskClient, token: str, images: dict[str, str]) -> None:
    answer = get(client, token, images[FILM] + "/frames/3,1")
    assert answer.status_code == 200 and files_in(answer) == [PIXELS[32:], PIXELS[:16]]
    assert answer.content_type.startswith('multipart/related; type="application/octet-stream"; boundary=')
    assert f"Content-Type: application/octet-stream; transfer-syntax={NATIVE}\r\n".encode() in answer.data
    answer = get(client, token, images[PHOTO] + "/frames/2")
    assert files_in(answer) == [PHOTOS[1]]
    assert f"Content-Type: image/jpeg; transfer-syntax={JPEG}\r\n".encode() in answer.data


@pytest.mark.parametrize(
    ("image", "accept", "kind"),
    [(FILM, "", "multipart/related"), (FILM, "*/*", "multipart/related"),
     (FILM, 'multipart/related; type="application/octet-stream"', "multipart/related"),
     (FILM, f"multipart/related; type=application/octet-stream; transfer-syntax={NATIVE}", "multipart/related"),
     (FILM, "application/octet-stream", "application/octet-stream"),
     (FILM, 'multipart/related; type="image/jpeg", application/octet-stream', "application/octet-stream"),
     (FILM, 'multipart/related; type="image/jpeg"', ""), (FILM, "image/jpeg", ""), (FILM, "text/html", ""),
     (FILM, f'multipart/related; type="application/octet-stream"; transfer-syntax={JPEG}', ""),
     (PHOTO, 'multipart/related; type="image/jpeg"', "multipart/related"), (PHOTO, "image/jpeg", "image/jpeg"),
     (PHOTO, 'multipart/related; type="image/*"; transfer-syntax=*', "multipart/related"),
     (PHOTO, f'multipart/related; type="image/jpeg"; transfer-syntax={JPEG}', "multipart/related"),
     (PHOTO, "application/octet-stream; transfer-syntax=*", "application/octet-stream"),
     (PHOTO, 'multipart/related; type="application/octet-stream"', ""), (PHOTO, "application/octet-stream", ""),
     (PHOTO, 'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.70', ""),
     (PHOTO, 'multipart/related; type="image/jp2"', "")],
)  # fmt: skip
def test_a_frame_comes_as_it_is_stored_or_not(
    client: FlaskClient, token: str, images: dict[str, str], image: str, accept: str, kind: str
) -> None:
    answer = get(client, token, images[image] + "/frames/1", accept)
    assert answer.status_code == (200 if kind else 406)
    if kind:
        assert answer.content_type.startswith(kind)
        body = files_in(answer)[0] if "multipart" in kind else answer.data
        assert body == {FILM: PIXELS[:16], PHOTO: PHOTOS[0]}[image]


@pytest.mark.parametrize(
    ("numbers", "status"),
    [("0", 404), ("4", 404), ("1,4", 404), ("999999999", 404), ("x", 400), ("-1", 400), ("1,,2", 400), ("1-2", 400),
     ("1" * 10, 400), (",".join(["1"] * 1001), 400), ("%D9%A1", 400)],
)  # fmt: skip
def test_frames_that_are_not_there(
    client: FlaskClient, token: str, images: dict[str, str], numbers: str, status: int
) -> None:
    assert get(client, token, f"{images[FILM]}/frames/{numbers}").status_code == status


def test_several_frames_are_no_single_part(client: FlaskClient, token: str, images: dict[str, str]) -> None:
    assert get(client, token, images[FILM] + "/frames/1,2", "application/octet-stream").status_code == 406


# -- the whole header and long values --------------------------------------------------------------
def test_metadata_holds_everything_and_the_address_of_what_is_long(
    client: FlaskClient, portal: Portal, patient: SignedIn
) -> None:
    image = pydicom.dcmread(io.BytesIO(dicom_bytes(FILM, ImageComments="x" * 2000, PatientName="Lindqvist^Vera")))
    image.private_block(0x0009, "ACME", create=True).add_new(1, "UN", bytes(1500))
    image.RequestAttributesSequence = [pydicom.Dataset()]
    image.RequestAttributesSequence[0].ScheduledProcedureStepID = "4711"
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    put_in(portal, patient.account.id, out.getvalue(), "image")
    token = app_keys.create(portal, patient.login, "My viewer", 3600, None).token
    [found] = json.loads(get(client, token, f"/studies/{FILM}/metadata").data)
    assert found["00400275"]["Value"] == [{"00400009": {"vr": "SH", "Value": ["4711"]}}]
    assert found["00083002"]["Value"] == [NATIVE] and found["00280103"] == {"vr": "US", "Value": [0]}
    for tag, value in (("00204000", b"x" * 2000), ("00091001", bytes(1500)), ("7FE00010", bytes(16))):
        base, _, address = found[tag]["BulkDataURI"].partition("/dicom-web")
        assert base == portal.settings.public_url and "Value" not in found[tag]
        assert get(client, token, address, "application/octet-stream").data == value
        assert files_in(get(client, token, address)) == [value]
        assert get(client, token, address, "image/jpeg").status_code == 406
    for tag in ("00400275", "00080005", "00100099", "7FE00008", "7fe0001", "x" * 8, "00020010"):
        address = f"/studies/{FILM}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}/bulkdata/{tag}"
        assert get(client, token, address).status_code == 404


def test_compressed_pixels_come_one_frame_a_part(client: FlaskClient, token: str, images: dict[str, str]) -> None:
    answer = get(client, token, images[PHOTO] + "/bulkdata/7FE00010")
    assert files_in(answer) == PHOTOS and b"image/jpeg" in answer.data
    octets = get(client, token, images[PHOTO] + "/bulkdata/7FE00010", "application/octet-stream")
    assert octets.status_code == 406


# -- rendered -------------------------------------------------------------------------------------
def colours(frames: int, native: bool) -> bytes:
    """A film whose frames are red, green and blue."""
    whole = [bytes(255 if place % 3 == number else 0 for place in range(48 * 48 * 3)) for number in range(frames)]
    image = pydicom.dcmread(io.BytesIO(dicom_bytes(FILM, NumberOfFrames=frames, PixelData=b"".join(whole))))
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.Rows = image.Columns = 48
    if not native:
        pictures = []
        for pixels in whole:
            Image.frombytes("RGB", (48, 48), pixels).save(out := io.BytesIO(), "JPEG", quality=95)
            pictures.append(out.getvalue())
        image.file_meta.TransferSyntaxUID, image.PhotometricInterpretation = JPEGBaseline8Bit, "YBR_FULL_422"
        image.PixelData = encapsulate(pictures)
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
    image.save_as(out := io.BytesIO(), enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("native", [True, False])
def test_the_frame_that_was_asked_for_is_drawn_in_a_process_of_its_own(
    client: FlaskClient, portal: Portal, patient: SignedIn, native: bool
) -> None:
    content = colours(3, native)
    put_in(portal, patient.account.id, content, "film")
    image = pydicom.dcmread(io.BytesIO(content))
    address = f"/studies/{FILM}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
    token = app_keys.create(portal, patient.login, "My viewer", 3600, None).token
    for number in (1, 3, 2):
        answer = get(client, token, f"{address}/frames/{number}/rendered", "image/jpeg")
        assert answer.status_code == 200 and answer.content_type == "image/jpeg"
        assert "Not for diagnosis" in answer.headers["Warning"]
        middle = Image.open(io.BytesIO(answer.data)).convert("RGB").getpixel((24, 24))
        assert isinstance(middle, tuple) and middle.index(max(middle)) == number - 1 and max(middle) > 200
    for numbers, status in (("4", 404), ("0", 404), ("1,2", 400), ("x", 400)):
        assert get(client, token, f"{address}/frames/{numbers}/rendered").status_code == status
    for accept in ("image/png", "application/dicom", 'multipart/related; type="image/jpeg"'):
        assert get(client, token, f"{address}/rendered", accept).status_code == 406


def test_the_picture_that_the_owner_sees_is_the_one_that_is_given(
    client: FlaskClient, portal: Portal, patient: SignedIn, token: str, images: dict[str, str]
) -> None:
    with portal.database.read() as db:
        items, ring = db.exec(select(Item)).all(), patient.login.ring()
    [item] = [one for one in items if details_of(ring, one)["headers"]["study_uid"] == FILM]
    preview = b"\xff\xd8\xff kept for the owner"
    put_reading(portal, patient, item.id, FullReading(Reading(), preview, ""))
    answer = get(client, token, images[FILM] + "/rendered")
    assert answer.data == preview and "Not for diagnosis" in answer.headers["Warning"]


def test_what_no_decoder_reads_is_406_and_two_at_once_wait(
    client: FlaskClient, token: str, images: dict[str, str]
) -> None:
    assert get(client, token, images[PHOTO] + "/rendered").status_code == 406  # its frames are no JPEG
    assert dicom_web_parts._drawing.acquire(blocking=False)
    try:
        answer = get(client, token, images[FILM] + "/rendered")
    finally:
        dicom_web_parts._drawing.release()
    assert answer.status_code == 503 and answer.headers["Retry-After"]
    assert get(client, token, images[FILM] + "/rendered").status_code == 200


def test_a_place_that_was_learnt_opens_nothing_that_the_key_does_not(
    client: FlaskClient, portal: Portal, patient: SignedIn, token: str, images: dict[str, str]
) -> None:
    frame = images[FILM] + "/frames/1"
    assert [get(client, token, frame).status_code for _ in range(2)] == [200, 200]
    other = app_keys.create(portal, patient.login, "Other", 3600, [study_of(portal, patient, OTHER)]).token
    assert get(client, other, frame).status_code == 404
    actor = Actor("patient", patient.account.id)
    remove_study(portal.database, patient.account.id, study_of(portal, patient, FILM), actor)
    assert get(client, token, frame).status_code == 404
    assert get(client, token, images[PHOTO] + "/frames/1").status_code == 200


def test_a_second_frame_opens_the_details_of_its_own_image_only(
    client: FlaskClient, token: str, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = app_keys.open_details

    def counted(dek: bytes, item_id: str, sealed: bytes) -> dict[str, Any]:
        opened.append(item_id)
        return real(dek, item_id, sealed)

    monkeypatch.setattr(app_keys, "open_details", counted)
    for number in (1, 2, 3):
        get(client, token, f"{images[FILM]}/frames/{number}")
    assert len(opened) <= 2 + 1 + 1 and len(set(opened[-2:])) == 1


# -- who and what not -----------------------------------------------------------------------------
PARTS = ["/frames/1", "/bulkdata/7FE00010", "/rendered", "/frames/1/rendered"]


@pytest.mark.parametrize("part", PARTS)
def test_nothing_of_an_image_outside_the_key_or_after_its_end(
    client: FlaskClient, portal: Portal, patient: SignedIn, token: str, images: dict[str, str], part: str
) -> None:
    assert get(client, token, images[FILM] + part).status_code == 200
    for address in (images[OTHER], images[FILM] + "9", images[FILM].replace(FILM, PHOTO, 1)):
        assert get(client, token, address + part).status_code == 404
    assert get(client, "x" * 43, images[FILM] + part).status_code == 401
    assert client.get("/dicom-web" + images[FILM] + part).status_code == 401
    for method in ("POST", "PUT", "DELETE"):
        bearer = {"Authorization": f"Bearer {token}"}
        answer = client.open("/dicom-web" + images[FILM] + part, method=method, headers=bearer)
        assert answer.status_code in (400, 405)
    [key] = app_keys.list_mine(portal, patient.login)
    app_keys.revoke(portal, patient.login, key.id)
    assert get(client, token, images[FILM] + part).status_code == 401


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_given_stands_in_the_trail(
    client: FlaskClient, portal: Portal, token: str, images: dict[str, str], part: str
) -> None:
    times = 12 if "rendered" not in part else 2
    for _ in range(times):  # more than one key may have under way at once: each is closed with its answer
        assert get(client, token, images[FILM] + part).status_code == 200
        assert get(client, token, images[FILM] + part, "text/html").status_code == 406
    with portal.database.read() as db:
        events = [one.event for one in db.exec(select(AuditEvent).where(AuditEvent.actor_kind == "app"))]
    assert events == ["app-key-fetched"] * times


def test_no_stored_bytes_make_more_than_a_404_or_a_406(
    client: FlaskClient, portal: Portal, patient: SignedIn
) -> None:
    content = compressed(FILM, PHOTOS)
    image = pydicom.dcmread(io.BytesIO(content))
    address = f"/studies/{FILM}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
    put_in(portal, patient.account.id, content[:-22], "cut.dcm")
    token = app_keys.create(portal, patient.login, "My viewer", 3600, None).token
    assert get(client, token, address + "/frames/2").status_code == 404
    assert get(client, token, address + "/frames/1").status_code == 200
