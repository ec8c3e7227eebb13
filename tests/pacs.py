"""Real PACS for tests: Orthanc and dcmtk's dcmqrscp, each with the studies that a test puts in."""

import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid

from myphr.audit.trail import Actor
from myphr.ingest.pacs import fetches, fetching, links, servers
from myphr.ingest.pacs.fetches import FetchView
from myphr.ingest.pacs.models import Pacs
from myphr.ingest.pacs.servers import Entry
from myphr.portal import Portal
from tests.cast import SignedIn
from tests.running import free_port
from tests.web.stage import dicom_bytes

OPERATOR = Actor("operator", "6a1b0000-0000-4000-8000-000000000000")
VERA, NILS = "4711", "4712"
BORN = {VERA: "19780412", NILS: "19650101"}


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def study_of(number: str, images: int, **headers: Any) -> list[bytes]:
    """A study of this patient: files."""
    uid = generate_uid()
    words = {"PatientID": number, "PatientBirthDate": BORN.get(number, ""), "PatientName": "Lindqvist^Vera",
             "StudyDate": "20240826", "StudyTime": "101500", "StudyID": "1", "StudyDescription": "Knee left",
             "SeriesNumber": 2, "AccessionNumber": "A1"} | headers  # fmt: skip
    return [dicom_bytes(uid, number, **words) for number in range(1, images + 1)]


def uid_of(study: Sequence[bytes]) -> str:
    return str(dcmread(io.BytesIO(study[0]), stop_before_pixels=True).StudyInstanceUID)


def as_other_image(image: bytes, **headers: Any) -> bytes:
    """The same bytes with other headers; a new name if none is given."""
    changed = dcmread(io.BytesIO(image))
    for keyword, value in headers.items():
        setattr(changed, keyword, value)
    changed.file_meta.MediaStorageSOPClassUID = changed.SOPClassUID
    changed.file_meta.MediaStorageSOPInstanceUID = changed.SOPInstanceUID
    out = io.BytesIO()
    changed.save_as(out, enforce_file_format=True)
    return out.getvalue()


class Orthanc:
    """Orthanc as a PACS. As a context manager."""

    called = "ARCHIVE"

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir()
        self.port, self.http = free_port(), free_port()
        values = {
            "Name": "archive", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "Plugins": [], "HttpPort": self.http, "DicomPort": self.port, "DicomAet": self.called,
            "AuthenticationEnabled": False, "RemoteAccessAllowed": False, "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True, "DicomAlwaysAllowEcho": True, "DicomCheckCalledAet": True,
        } | settings  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(values))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", shutil.which("Orthanc") or "/usr/sbin/Orthanc",
                 str(folder / "orthanc.json")],
                stdout=log, stderr=log, env=os.environ | {"TCP_NODELAY": "1"},
            )  # fmt: skip
        while not (answers(self.port) and answers(self.http)):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def put(self, study: Sequence[bytes]) -> str:
        for image in study:
            request = urllib.request.Request(f"http://127.0.0.1:{self.http}/instances", data=image)
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
        return uid_of(study)

    def __enter__(self) -> "Orthanc":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class Dcmqrscp:
    """dcmtk's archive. Its images are put in by `storescu`."""

    called = "ARCHIVE"

    def __init__(self, folder: Path, *options: str, hosts: str = "") -> None:
        """`hosts`: lines of the host table, for a C-MOVE."""
        (folder / "db").mkdir(parents=True)
        self.folder, self.port = folder, free_port()
        (folder / "config").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 65536\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.called} {folder / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
        )
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "dcmqrscp", "-v", "-c", str(folder / "config"), *options],
                stdout=log, stderr=log, env=os.environ | {"TCP_NODELAY": "1"},
            )  # fmt: skip
        while not answers(self.port):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def put(self, study: Sequence[bytes]) -> str:
        into = self.folder / f"in-{len(list(self.folder.iterdir()))}"
        into.mkdir()
        for number, image in enumerate(study):
            (into / f"{number}.dcm").write_bytes(image)
        subprocess.run(
            ["dcmsend", "-aec", self.called, "+sd", "127.0.0.1", str(self.port), str(into)],
            check=True, capture_output=True, timeout=60, env=os.environ | {"TCP_NODELAY": "1"},
        )  # fmt: skip
        return uid_of(study)

    def __enter__(self) -> "Dcmqrscp":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def on_the_list(portal: Portal, port: int, **values: Any) -> Pacs:
    """This PACS, as the operator adds it: it must answer."""
    entry = {"name": "Knee Clinic", "host": "127.0.0.1", "port": str(port), "called_ae": "ARCHIVE",
             "calling_ae": "MYPHR", "tls": False}  # fmt: skip
    return servers.add(portal, OPERATOR, Entry(**entry | values))


def linked(
    portal: Portal, patient: SignedIn, operator: SignedIn, port: int, number: str = VERA, born: str = "", **values: Any
) -> str:
    """The id of a confirmed link to the PACS at this port."""
    pacs = on_the_list(portal, port, **values)
    link_id = links.ask(portal, patient.login, pacs.id)
    code = links.one_of_mine(portal, patient.login, link_id).code
    born = born or BORN[number]
    links.confirm(portal, operator.login, code, number, "", f"{born[:4]}-{born[4:6]}-{born[6:]}")
    return link_id


def looked(portal: Portal, patient: SignedIn, link_id: str) -> FetchView:
    fetch_id = fetches.look(portal, patient.login, link_id)
    fetching.look(portal, fetch_id)
    return fetches.view(portal, patient.login, fetch_id)


def fetched(portal: Portal, patient: SignedIn, link_id: str, *uids: str) -> FetchView:
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, uids or [one.uid for one in there.studies])
    fetching.run(portal, there.id)
    return fetches.view(portal, patient.login, there.id)
