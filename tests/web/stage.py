"""Sets the stage for page tests with real rows: files sealed into a record, VM sessions in a state, screens watched."""

import datetime as dt
import io
import json
import time
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from sqlmodel import select

from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.ingest import drop_offs
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.identify import describe
from myphr.ingest.pacs.models import Pacs, PacsFetch, PacsLink
from myphr.machines.models import Machine, VmSession
from myphr.people import identities
from myphr.people.models import AttributeGrant, Authority, Identity, Passkey, StoredKeyRing
from myphr.portal import Portal
from myphr.records import deletions, readings
from myphr.records import items as records
from myphr.records.items import ItemWriter, file_sealed
from myphr.records.models import Export, Item, ItemPreview, ItemReading
from myphr.records.reading import FullReading, within_limits
from myphr.sharing import app_keys, live
from tests.cast import SignedIn


def dicom_bytes(study_uid: str, number: int = 1, **headers: Any) -> bytes:
    """One small MR image with these headers (DICOM keywords)."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, study_uid[:60] + ".1"
    image.Modality, image.InstanceNumber = "MR", number
    image.Rows = image.Columns = 4
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 7, 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = bytes(16)
    for keyword, value in headers.items():
        setattr(image, keyword, value)
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    return out.getvalue()


def put_in(
    portal: Portal,
    account_id: str,
    content: bytes,
    name: str,
    path: str = "",
    source: str = "upload",
    source_id: str | None = None,
) -> Item:
    """One file in somebody's record, sealed as every file is."""
    with portal.database.read() as db:
        ring = db.get(StoredKeyRing, account_id)
    assert ring is not None
    with ItemWriter(
        portal, account_id, owner_public_key=ring.public_key, source=source, source_id=source_id, describe=describe
    ) as writer:
        writer.write(content)
        return writer.finish(name, path)


def put_many(portal: Portal, account_id: str, count: int, batch: int = 500) -> None:
    """Small letters, each with content of its own, sealed as every file is; many in one commit."""
    with portal.database.read() as db:
        ring = db.get(StoredKeyRing, account_id)
    assert ring is not None
    for begin in range(0, count, batch):
        files = []
        for number in range(begin, min(begin + batch, count)):
            writer = ItemWriter(
                portal, account_id, owner_public_key=ring.public_key, source="upload", source_id=None, describe=describe
            )
            writer.write(b"Dear doctor, this is letter %d\n" % number)
            files.append(writer.seal_up(f"letter-{number:05}.txt"))
        file_sealed(portal, files, owner_public_key=ring.public_key)


def put_drop_off(owner: SignedIn, portal: Portal, name: str = "Dr Berger", files_max: int = 10) -> str:
    """A drop-off that takes files; returns its id."""
    return drop_offs.create(portal, owner.login, name, 3600, files_max).drop_off_id


def put_fetch(owner: SignedIn, portal: Portal, state: str = "waiting", **values: Any) -> str:
    """A fetch from a hospital in this state; returns its id."""
    row = FhirFetch(id=new_id(), account_id=owner.account.id, state=state, state_sha256=new_id(), sealed_for_owner=b"",
                    **values)  # fmt: skip
    row.sealed_for_owner = envelope.seal_to(
        owner.login.ring().public_key, json.dumps({"hospital": "Harbour Hospital"}).encode(),
        context=envelope.context_for("fhir-owner", row.id),
    )  # fmt: skip
    with portal.database.write() as db:
        db.add(row)
        db.flush()
        return row.id


def put_pacs(portal: Portal, name: str = "Knee Clinic") -> str:
    """A PACS on the list, where nobody answers; returns its id."""
    with portal.database.write() as db:
        row = Pacs(name=name, host="127.0.0.1", port=9, called_ae="ARCHIVE", calling_ae="MYPHR", tls=False)
        db.add(row)
        db.flush()
        return row.id


def put_pacs_link(owner: SignedIn, portal: Portal, pacs_id: str = "", number: str = "4711") -> str:
    """A confirmed link to this PACS, or to a new one; returns its id."""
    row = PacsLink(id=new_id(), account_id=owner.account.id, pacs_id=pacs_id or put_pacs(portal), state="confirmed",
                   code_sha256=new_id(), sealed_for_owner=b"", patient_key=new_id())  # fmt: skip
    facts = {"number": number, "issuer": "", "birth_date": "19780412"}
    row.sealed_for_owner = envelope.seal_to(
        owner.login.ring().public_key, json.dumps(facts).encode(), context=envelope.context_for("pacs-link", row.id)
    )
    with portal.database.write() as db:
        db.add(row)
        db.flush()
        return row.id


def put_pacs_fetch(
    owner: SignedIn, portal: Portal, link_id: str = "", state: str = "waiting", studies: Any = (), **values: Any
) -> str:
    """A fetch from a PACS in this state, listing these studies; returns its id."""
    link_id = link_id or put_pacs_link(owner, portal)
    row = PacsFetch(id=new_id(), account_id=owner.account.id, link_id=link_id, state=state, **values)
    if state == "listed":
        row.sealed_list = envelope.seal_to(
            owner.login.ring().public_key, json.dumps(list(studies)).encode(),
            context=envelope.context_for("pacs-list", row.id),
        )  # fmt: skip
    with portal.database.write() as db:
        db.add(row)
        db.flush()
        return row.id


def put_app_key(owner: SignedIn, portal: Portal) -> str:
    """An app key for all the patient has; returns its id."""
    return app_keys.create(portal, owner.login, "My viewer", 3600, None).app_key_id


def put_study(portal: Portal, account_id: str, images: int = 2, **headers: Any) -> str:
    """A study of a few images; returns its id."""
    uid = generate_uid()
    words = {
        "StudyDate": "20240826",
        "InstitutionName": "Harbour Hospital",
        "BodyPartExamined": "HEAD",
        "StudyDescription": "MRI Head",
    }
    items = [
        put_in(
            portal, account_id, dicom_bytes(uid, number, **(words | headers)), f"IM{number:05}", f"DISC/IM{number:05}"
        )
        for number in range(1, images + 1)
    ]
    assert items[0].study_id
    return items[0].study_id


def put_vm_session(portal: Portal, account_id: str, state: str = "live", **values: Any) -> str:
    """A VM session row in this state, with a machine if that state has one; returns its id."""
    machine_id = None
    with portal.database.write() as db:
        if state in ("connecting", "opening", "live"):
            machine = Machine(
                vmid=100_000 + int(time.monotonic_ns() % 800_000), node="pve", template="probe", state="claimed"
            )
            db.add(machine)
            db.flush()
            machine_id = machine.id
        facts: dict[str, Any] = {
            "viewer": "probe",
            "template": "probe",
            "items_count": 2,
            "live_at": now() if state == "live" else None,
        }
        row = VmSession(id=new_id(), account_id=account_id, state=state, machine_id=machine_id, **(facts | values))
        db.add(row)
        db.flush()
        return row.id


def put_authority(portal: Portal, account_id: str, name: str = "Harbour Hospital") -> dict[str, str]:
    """An organisation whose officer and only member this account is, in the database alone; returns both ids."""
    with portal.database.write() as db:
        identity = identities.of_account(db, account_id)
        assert identity is not None
        its = Identity(kind="authority")
        db.add(its)
        db.flush()
        db.add(Authority(gid=its.gid, name=name, kind="hospital", officer_account_id=account_id))
        db.flush()
        grant = AttributeGrant(authority_gid=its.gid, member_gid=identity.gid, name="role", value="nurse",
                               ends_at=now() + dt.timedelta(days=9))  # fmt: skip
        db.add(grant)
        return {"authority_gid": its.gid, "grant_id": grant.id}


def put_passkey(portal: Portal, account_id: str) -> str:
    """A row of a passkey that nobody has; returns its id."""
    with portal.database.write() as db:
        row = Passkey(account_id=account_id, credential_id=account_id.encode(), public_key=b"", sign_count=0,
                      device="Safari on iPad")  # fmt: skip
        db.add(row)
        return row.id


def isolation(*blocked: bool) -> str:
    """What a guest's check left in the row."""
    return json.dumps(
        [
            {"check": name, "blocked": is_blocked}
            for name, is_blocked in zip(("dns", "public", "ipv6"), blocked, strict=False)
        ]
    )


def watch(portal: Portal, vm_session_id: str, grant: str, access: str = "view") -> None:
    """What the screen gateway writes while somebody looks."""
    moment = time.time()
    portal.redis.hset(live.presence_key(vm_session_id), new_id(), live.presence_value(grant, access, moment, moment))


def put_reading(portal: Portal, signed_in: SignedIn, item_id: str, full: FullReading) -> None:
    """As the worker keeps what the reader told."""
    full = within_limits(full)
    with portal.database.write() as db:
        dek = records.dek_of(signed_in.login.ring(), db.exec(select(Item).where(Item.id == item_id)).one())
        row = db.exec(select(ItemReading).where(ItemReading.item_id == item_id)).first()
        row = row or ItemReading(item_id=item_id, account_id=signed_in.account.id, dek_for_worker=None)
        row.state, row.dek_for_worker = "done", None
        row.sealed_reading = readings.seal(dek, item_id, full.reading)
        row.has_preview, row.has_narrative = full.reading.has_preview, full.reading.has_narrative
        db.add(row)
        db.add(ItemPreview(
            item_id=item_id, account_id=signed_in.account.id,
            sealed_preview=readings.seal_preview(dek, item_id, full.preview) if full.preview else None,
            sealed_narrative=readings.seal_narrative(dek, item_id, full.narrative) if full.narrative else None,
        ))  # fmt: skip


def put_export(portal: Portal, account_id: str) -> str:
    """An export that waits for its worker; its id."""
    with portal.database.write() as db:
        export = Export(account_id=account_id, key_for_worker=b"key", sealed_key=b"key")
        db.add(export)
        db.flush()
        return export.id


def put_deletion(signed_in: SignedIn, portal: Portal) -> str:
    """A file that came and was deleted for ever; the id of the deletion."""
    item = put_in(portal, signed_in.account.id, b"soon gone", "gone.txt")
    return deletions.delete_item(portal, signed_in.login, item.id)
