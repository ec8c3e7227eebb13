"""STOW-RS with real senders against the real web server: dicomweb-client, Orthanc, and one that breaks off."""

import http.client
import io
import json
import socket
import time
from pathlib import Path

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import generate_uid

from myphr.ingest.drop_offs import Created
from myphr.portal import Portal
from tests.integration.providers.conftest import MARKER, Process, count_of, items_of, partial, where_marker_is
from tests.web.stage import dicom_bytes

HEADERS = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


def client(web: Process, token: str) -> DICOMwebClient:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    found = DICOMwebClient(f"http://127.0.0.1:{web.port}/dicom-web", session=session)
    found.set_http_retry_params(retry=False)
    return found


def study(count: int, **headers: object) -> list[bytes]:
    uid = generate_uid()
    return [dicom_bytes(uid, number, PatientName=f"{MARKER}^Vera", **headers) for number in range(count)]


def part(content: bytes) -> bytes:
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"


def test_dicomweb_client_stores_a_study(portal: Portal, web: Process, created: Created) -> None:
    images = [dcmread(io.BytesIO(content)) for content in study(20)]
    answer = client(web, created.token).store_instances(images)
    stored = {one.ReferencedSOPInstanceUID for one in answer.ReferencedSOPSequence}
    assert stored == {image.SOPInstanceUID for image in images}
    assert len(items_of(portal)) == count_of(portal, created) == 20
    assert len({item.study_id for item in items_of(portal)}) == 1


def test_dicomweb_client_is_told_what_failed(portal: Portal, web: Process, created: Created) -> None:
    good, other = (dcmread(io.BytesIO(study(1)[0])) for _ in range(2))
    answer = client(web, created.token).store_instances([good, other], good.StudyInstanceUID)
    assert [one.ReferencedSOPInstanceUID for one in answer.FailedSOPSequence] == [other.SOPInstanceUID]
    assert answer.FailedSOPSequence[0].FailureReason == 0xA900
    assert len(items_of(portal)) == 1


def test_dicomweb_client_with_a_wrong_token_gets_401(portal: Portal, web: Process, created: Created) -> None:
    images = [dcmread(io.BytesIO(content)) for content in study(2)]
    with pytest.raises(requests.HTTPError) as refused:
        client(web, "x" * 43).store_instances(images)
    assert refused.value.response.status_code == 401 and items_of(portal) == []


@pytest.mark.parametrize("chunked", [True, False])
def test_orthanc_pushes_a_study_by_its_stow_client(
    portal: Portal, web: Process, created: Created, orthanc, chunked: bool
) -> None:
    server = {"Url": f"http://127.0.0.1:{web.port}/dicom-web/", "ChunkedTransfers": chunked,
              "HttpHeaders": {"Authorization": f"Bearer {created.token}"}}  # fmt: skip
    peer = orthanc({"DicomWeb": {"Enable": True, "Servers": {"portal": server}}})
    ids = [requests.post(f"{peer}/instances", data=content, timeout=30).json()["ID"] for content in study(20)]
    done = requests.post(
        f"{peer}/dicom-web/servers/portal/stow", json={"Resources": ids, "Synchronous": True}, timeout=60
    )
    assert done.ok, done.text
    assert len(items_of(portal)) == count_of(portal, created) == 20


def test_orthanc_pushes_a_study_by_c_store(portal: Portal, receiver: Process, created: Created, orthanc) -> None:
    peer = orthanc({"DicomModalities": {"portal": [created.ae_title, "127.0.0.1", receiver.port]}})
    ids = [requests.post(f"{peer}/instances", data=content, timeout=30).json()["ID"] for content in study(20)]
    assert requests.post(f"{peer}/modalities/portal/echo", json={}, timeout=30).ok
    done = requests.post(f"{peer}/modalities/portal/store", json={"Resources": ids, "Synchronous": True}, timeout=60)
    assert done.ok and done.json()["FailedInstancesCount"] == 0, done.text
    assert len(items_of(portal)) == count_of(portal, created) == 20


def test_both_ways_in_find_the_same_study(
    portal: Portal, web: Process, receiver: Process, created: Created, orthanc
) -> None:
    files = study(4)
    images = [dcmread(io.BytesIO(content)) for content in files[:2]]
    client(web, created.token).store_instances(images)
    peer = orthanc({"DicomModalities": {"portal": [created.ae_title, "127.0.0.1", receiver.port]}})
    ids = [requests.post(f"{peer}/instances", data=content, timeout=30).json()["ID"] for content in files[2:]]
    assert requests.post(f"{peer}/modalities/portal/store", json=ids, timeout=60).ok
    assert len(items_of(portal)) == 4 and len({item.study_id for item in items_of(portal)}) == 1


def test_a_chunked_body_of_any_chunk_size_is_taken(portal: Portal, web: Process, created: Created) -> None:
    body = b"".join(part(content) for content in study(2)) + b"--b--"
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    connection.request("POST", "/dicom-web/studies", pieces, HEADERS | {"Authorization": f"Bearer {created.token}"})
    assert connection.getresponse().status == 200
    assert len(items_of(portal)) == 2


def test_chunks_that_are_none_end_the_body_and_keep_what_came_whole(
    portal: Portal, web: Process, created: Created
) -> None:
    body = b"".join(part(content) for content in study(2, PixelData=bytes(400_000)))
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {created.token}\r\n"
        f"Transfer-Encoding: chunked\r\nContent-Type: {HEADERS['Content-Type']}\r\n\r\n"
    )
    sender = socket.create_connection(("127.0.0.1", web.port), timeout=30)
    sender.sendall(head.encode() + b"%x\r\n" % len(body) + body + b"\r\nno length\r\n")
    answer = http.client.HTTPResponse(sender)
    answer.begin()
    assert answer.status == 400 and len(json.loads(answer.read())["00081199"]["Value"]) == 1
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 1 and partial(portal) == []


def test_a_large_body_keeps_the_memory_flat_and_nothing_in_clear(
    portal: Portal, web: Process, created: Created
) -> None:
    [content] = study(1, PixelData=bytes(64 * 1024**2))
    warm = client(web, created.token)
    warm.store_instances([dcmread(io.BytesIO(study(1)[0]))])
    before = children_memory(web)

    def pieces():
        yield part(content)[:-2]
        for _ in range(3):
            yield bytes(64 * 1024**2)  # an over-long last element, as far as anybody here reads
        yield b"\r\n--b--"

    answer = requests.post(
        f"http://127.0.0.1:{web.port}/dicom-web/studies", data=pieces(), timeout=120,
        headers=HEADERS | {"Authorization": f"Bearer {created.token}"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert children_memory(web) < before + 32 * 1024**2
    assert where_marker_is(portal.settings.home, web.temporary) == [] and list(web.temporary.iterdir()) == []


def children_memory(web: Process) -> int:
    """The most that a worker of this gunicorn ever held."""
    children = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split()
    status = [Path(f"/proc/{child}/status").read_text() for child in children]
    return max(int(line.split()[1]) * 1024 for text in status for line in text.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("chunked", [True, False])
def test_a_sender_that_dies_in_a_body_leaves_only_what_was_whole(
    portal: Portal, web: Process, created: Created, chunked: bool
) -> None:
    whole, broken = study(2, PixelData=bytes(3_000_000))
    body = part(whole) + part(broken)[:2_000_000]
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 9000000"
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {created.token}\r\n{length}\r\n"
        f"Content-Type: {HEADERS['Content-Type']}\r\n\r\n"
    )
    sender = socket.create_connection(("127.0.0.1", web.port), timeout=30)
    sender.sendall(head.encode() + (b"%x\r\n" % len(body) if chunked else b"") + body)
    settled(lambda: sum(path.stat().st_size for path in partial(portal)) > 4_500_000)  # both are under way
    assert where_marker_is(portal.settings.home, web.temporary) == []
    sender.close()
    settled(lambda: partial(portal) == [])
    assert len(items_of(portal)) == len(list(portal.store.keys())) == count_of(portal, created) == 1


def settled(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s"
        time.sleep(0.05)
