"""QIDO-RS and WADO-RS with real readers: dicomweb-client, and Orthanc's DICOMweb client fetching a study."""

import io
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import generate_uid

from myphr.portal import Portal
from myphr.sharing import app_keys
from tests.cast import SignedIn
from tests.integration.providers.conftest import Process
from tests.web.stage import dicom_bytes, put_in

STUDY = generate_uid()


@pytest.fixture
def token(portal: Portal, patient: SignedIn) -> str:
    for number in (1, 2, 3):
        content = dicom_bytes(STUDY, number, StudyDate="20240826", PatientID="4711", SeriesNumber=1)
        put_in(portal, patient.account.id, content, f"{number}")
    return app_keys.create(portal, patient.login, "My viewer", 3600, None).token


def test_dicomweb_client_finds_and_fetches(portal: Portal, web: Process, token: str) -> None:
    from dicomweb_client.api import DICOMwebClient

    client = DICOMwebClient(f"http://127.0.0.1:{web.port}/dicom-web", headers={"Authorization": f"Bearer {token}"})
    [study] = client.search_for_studies(search_filters={"PatientID": "4711"})
    assert study["0020000D"]["Value"] == [STUDY]
    [series] = client.search_for_series(STUDY)
    uid = series["0020000E"]["Value"][0]
    assert len(client.search_for_instances(STUDY, uid)) == len(client.retrieve_study_metadata(STUDY)) == 3
    images = client.retrieve_study(STUDY)
    assert sorted(image.InstanceNumber for image in images) == [1, 2, 3]
    one = client.retrieve_instance(STUDY, uid, images[0].SOPInstanceUID)
    assert one.PixelData == images[0].PixelData


def test_dicomweb_client_fetches_frames_whole_headers_and_long_values(
    portal: Portal, web: Process, patient: SignedIn
) -> None:
    from dicomweb_client.api import DICOMwebClient

    pixels = bytes(range(48))
    film = dicom_bytes(STUDY, NumberOfFrames=3, PixelData=pixels)
    put_in(portal, patient.account.id, film, "film")
    photo = (Path(pydicom.__file__).parent / "data" / "test_files" / "SC_rgb_jpeg_dcmtk.dcm").read_bytes()
    put_in(portal, patient.account.id, photo, "photo")
    token = app_keys.create(portal, patient.login, "My viewer", 3600, None).token
    client = DICOMwebClient(f"http://127.0.0.1:{web.port}/dicom-web", headers={"Authorization": f"Bearer {token}"})

    def uids_of(content: bytes) -> tuple[str, str, str]:
        image = pydicom.dcmread(io.BytesIO(content))
        return image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID

    assert client.retrieve_instance_frames(*uids_of(film), frame_numbers=[3, 1]) == [pixels[32:], pixels[:16]]
    octets = (("application/octet-stream", "1.2.840.10008.1.2.1"),)
    assert client.retrieve_instance_frames(*uids_of(film), frame_numbers=[2], media_types=octets) == [pixels[16:32]]
    image = pydicom.dcmread(io.BytesIO(photo))
    jpeg = (("image/jpeg", image.file_meta.TransferSyntaxUID),)
    [found] = client.retrieve_instance_frames(*uids_of(photo), frame_numbers=[1], media_types=jpeg)
    assert found == next(generate_frames(image.PixelData, number_of_frames=1))

    drawn = client.retrieve_instance_rendered(*uids_of(photo), media_types=("image/jpeg",))
    assert drawn[:3] == b"\xff\xd8\xff"
    drawn = client.retrieve_instance_frames_rendered(*uids_of(film), frame_numbers=[2], media_types=("image/jpeg",))
    assert drawn[:3] == b"\xff\xd8\xff"

    def here(address: str) -> str:  # the portal's own address is not where the test's process listens
        assert address.startswith(portal.settings.public_url + "/dicom-web/")
        return address.replace(portal.settings.public_url, f"http://127.0.0.1:{web.port}")

    whole = client.retrieve_instance_metadata(*uids_of(photo))
    assert whole.keys() >= {f"{int(one.tag):08X}" for one in image if one.tag.element}
    assert client.retrieve_bulkdata(here(whole["7FE00010"]["BulkDataURI"])) == [found]
    told = pydicom.Dataset.from_json(client.retrieve_instance_metadata(*uids_of(film)), lambda *_: b"")
    assert told.Rows == 4 and told.PhotometricInterpretation == "MONOCHROME2"
    [address] = [one["7FE00010"]["BulkDataURI"] for one in client.retrieve_study_metadata(STUDY)]
    assert client.retrieve_bulkdata(here(address), media_types=octets) == [pixels]


def test_orthanc_fetches_a_study(web: Process, token: str, orthanc: Callable[[dict], str]) -> None:
    server = {"Url": f"http://127.0.0.1:{web.port}/dicom-web/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}
    url = orthanc({"DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"patient": server}}})

    def ask(path: str, body: dict | None = None) -> dict:
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(url + path, data=data), timeout=60) as answer:
            return json.load(answer)

    ask("/dicom-web/servers/patient/retrieve", {"Resources": [{"Study": STUDY}], "Synchronous": True})
    deadline = time.monotonic() + 30
    while ask("/statistics")["CountInstances"] != 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
