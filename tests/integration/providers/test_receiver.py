"""The receiver with real senders (dcmtk): what arrives, who is turned away, and what a hostile or dying one leaves."""

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from myphr.errors import DropOffFull
from myphr.ingest import drop_offs
from myphr.ingest.dimse import part10
from myphr.ingest.drop_offs import Created
from myphr.portal import Portal
from myphr.records.items import dek_of, details_of, open_item
from tests.cast import SignedIn
from tests.integration.providers.conftest import (
    MARKER,
    Process,
    count_of,
    items_of,
    partial,
    where_marker_is,
)
from tests.web.stage import dicom_bytes

NODELAY = os.environ | {"TCP_NODELAY": "1"}


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=NODELAY, timeout=120)


def storescu(receiver: Process, ae_title: str, images: Path, *options: str) -> subprocess.CompletedProcess:
    return run("storescu", "-v", "-aet", "PEER", "-aec", ae_title, *options, "+sd", "127.0.0.1", receiver.port, images)


def settled(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s"
        time.sleep(0.05)


# -- what arrives ---------------------------------------------------------------------------------
def test_storescu_puts_a_study_into_the_record(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created, images: Path
) -> None:
    done = storescu(receiver, created.ae_title, images)
    assert done.returncode == 0, done.stdout + done.stderr
    found = items_of(portal)
    assert len(found) == count_of(portal, created) == 4 and len({item.study_id for item in found}) == 1
    ring = patient.login.ring()
    details = [details_of(ring, item) for item in found]
    assert sorted(one["name"] for one in details) == [f"MR-2-{number}.dcm" for number in range(1, 5)]
    assert MARKER in details[0]["headers"]["patient_name"]


def test_what_is_stored_is_the_data_set_as_it_came(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created, images: Path
) -> None:
    from pydicom import dcmread

    assert storescu(receiver, created.ae_title, images).returncode == 0
    ring = patient.login.ring()
    sent = {}
    for path in images.iterdir():
        content, image = path.read_bytes(), dcmread(path)
        sent[image.SOPInstanceUID] = content[144 + image.file_meta.FileMetaInformationGroupLength :]
    for item in items_of(portal):
        opened = open_item(portal.store, item, dek_of(ring, item))
        content = opened.read_at(0, item.plain_bytes)
        headers = details_of(ring, item)["headers"]
        head = part10.head_of_file(headers["sop_class"], headers["instance_uid"], headers["transfer_syntax"])
        assert content == head + sent[headers["instance_uid"]]


def test_dcmsend_and_echoscu_are_served(portal: Portal, receiver: Process, created: Created, images: Path) -> None:
    echo = run("echoscu", "-v", "-aec", created.ae_title, "127.0.0.1", receiver.port)
    assert echo.returncode == 0, echo.stderr
    done = run("dcmsend", "-v", "-aec", created.ae_title, "127.0.0.1", receiver.port, *sorted(images.iterdir()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(items_of(portal)) == 4


def test_the_same_study_sent_twice_is_stored_once(
    portal: Portal, receiver: Process, created: Created, images: Path
) -> None:
    for _ in range(2):
        assert storescu(receiver, created.ae_title, images).returncode == 0
    assert len(items_of(portal)) == len(list(portal.store.keys())) == count_of(portal, created) == 4


def test_a_kind_of_image_that_nobody_knows_does_not_cost_the_others(
    portal: Portal, receiver: Process, created: Created, images: Path
) -> None:
    from pydicom import dcmread

    odd = dcmread(images / "1.dcm")
    odd.SOPClassUID = odd.file_meta.MediaStorageSOPClassUID = "1.2.826.0.1.3680043.9.9999.1"
    odd.save_as(images / "1.dcm")
    done = run("dcmsend", "-v", "-aec", created.ae_title, "127.0.0.1", receiver.port, *sorted(images.iterdir()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(items_of(portal)) == 4


def test_two_senders_at_once_both_arrive(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created, tmp_path: Path
) -> None:
    other = drop_offs.create(portal, patient.login, "Another", 3600, 500)
    done: dict[str, int] = {}

    def send(ae_title: str) -> None:
        folder = tmp_path / ae_title
        folder.mkdir()
        study = generate_uid()
        for number in range(10):
            (folder / str(number)).write_bytes(dicom_bytes(study, number))
        done[ae_title] = storescu(receiver, ae_title, folder).returncode

    threads = [threading.Thread(target=send, args=(one.ae_title,)) for one in (created, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(done.values()) == {0}
    assert count_of(portal, created) == count_of(portal, other) == 10
    assert len({item.study_id for item in items_of(portal)}) == 2


# -- who is turned away ---------------------------------------------------------------------------
def reason_of(receiver: Process, ae_title: str) -> str:
    done = run("echoscu", "-v", "-aec", ae_title, "127.0.0.1", receiver.port)
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_an_unknown_ae_title_is_not_recognised(receiver: Process, created: Created) -> None:
    assert "Called AE Title Not Recognized" in reason_of(receiver, "PHR2222")
    assert "Called AE Title Not Recognized" in reason_of(receiver, "MYPHR")


def test_a_revoked_and_an_expired_drop_off_are_not_recognised(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created
) -> None:
    brief = drop_offs.create(portal, patient.login, "Brief", 1, 5)
    drop_offs.revoke(portal, patient.login, created.drop_off_id)
    time.sleep(1.1)  # what runs out is the clock's
    for one in (created, brief):
        assert "Called AE Title Not Recognized" in reason_of(receiver, one.ae_title)


def test_files_over_the_count_are_refused_one_by_one(
    portal: Portal, patient: SignedIn, receiver: Process, images: Path
) -> None:
    few = drop_offs.create(portal, patient.login, "Few", 3600, 3)
    done = storescu(receiver, few.ae_title, images, "-nh")
    assert "OutOfResources" in done.stdout + done.stderr
    assert len(items_of(portal)) == count_of(portal, few) == 3 and partial(portal) == []
    with pytest.raises(DropOffFull):
        drop_offs.by_ae_title(portal, few.ae_title)
    assert "Local Limit Exceeded" in reason_of(receiver, few.ae_title)


def test_an_open_association_takes_nothing_once_its_drop_off_is_revoked(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created, images: Path
) -> None:
    association = associate(receiver, created)
    assert store(association, images / "0.dcm") == 0x0000
    drop_offs.revoke(portal, patient.login, created.drop_off_id)
    assert store(association, images / "1.dcm") == 0x0124
    association.release()
    assert len(items_of(portal)) == 1


# -- hostile and dying senders --------------------------------------------------------------------
def associate(receiver: Process, created: Created):  # type: ignore[no-untyped-def]
    from pydicom.uid import ExplicitVRLittleEndian
    from pynetdicom import AE

    ae = AE("PEER")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4", ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", receiver.port, ae_title=created.ae_title)
    assert association.is_established
    return association


def store(association, path: Path, **changes: str) -> int:  # type: ignore[no-untyped-def]
    from pydicom import dcmread

    image = dcmread(path)
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    return association.send_c_store(image).Status


def request_of(called: str) -> bytes:
    """An A-ASSOCIATE-RQ for MR images in explicit little endian (PS3.8, 9.3.2)."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    syntaxes = item(0x30, b"1.2.840.10008.5.1.4.1.1.4") + item(0x40, b"1.2.840.10008.1.2.1")
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4")
    body = (
        struct.pack(">HH", 1, 0) + called.ljust(16).encode() + b"PEER".ljust(16) + bytes(32)
        + item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, bytes([1, 0, 0, 0]) + syntaxes) + item(0x50, user)
    )  # fmt: skip
    return struct.pack(">BBI", 1, 0, len(body)) + body


def data_pdu(control: int, data: bytes) -> bytes:
    value = struct.pack(">IBB", len(data) + 2, 1, control) + data
    return struct.pack(">BBI", 4, 0, len(value)) + value


def command_of(instance: str, kind: int = 1) -> bytes:
    """A C-STORE-RQ (or another command with a data set) in implicit little endian."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    rest = (
        element(0x0002, b"1.2.840.10008.5.1.4.1.1.4") + element(0x0100, struct.pack("<H", kind))
        + element(0x0110, struct.pack("<H", 1)) + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1)) + element(0x1000, instance.encode())
    )  # fmt: skip
    return element(0x0000, struct.pack("<I", len(rest))) + rest


def connect(receiver: Process, created: Created) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", receiver.port), timeout=30)
    peer.sendall(request_of(created.ae_title))
    assert peer.recv(1) == b"\2"  # A-ASSOCIATE-AC
    peer.recv(65536)
    return peer


def ends(peer: socket.socket) -> bool:
    """Whether the other side hangs up."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_a_sender_that_dies_in_an_object_leaves_nothing(
    portal: Portal, receiver: Process, created: Created, tmp_path: Path
) -> None:
    peer = connect(receiver, created)
    peer.sendall(data_pdu(3, command_of("1.2.3")))
    for _ in range(40):
        peer.sendall(data_pdu(0, MARKER.encode() * 10_000))
    settled(lambda: partial(portal) and partial(portal)[0].stat().st_size > 2_000_000)
    assert where_marker_is(portal.settings.home, receiver.temporary) == []
    peer.close()
    settled(lambda: partial(portal) == [])
    assert items_of(portal) == [] and list(portal.store.keys()) == [] and count_of(portal, created) == 0
    assert where_marker_is(portal.settings.home, receiver.temporary) == []
    assert list(receiver.temporary.iterdir()) == []


def test_the_search_for_the_marker_finds_it_in_clear(tmp_path: Path, images: Path) -> None:
    assert len(where_marker_is(tmp_path)) == 4


def test_a_killed_storescu_leaves_only_whole_images(
    portal: Portal, receiver: Process, created: Created, tmp_path: Path
) -> None:
    folder, study = tmp_path / "many", generate_uid()
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}").write_bytes(dicom_bytes(study, number, PatientName=MARKER, PixelData=bytes(100_000)))
    sender = subprocess.Popen(
        ["storescu", "-aec", created.ae_title, "+sd", "127.0.0.1", str(receiver.port), str(folder)], env=NODELAY,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    settled(lambda: len(items_of(portal)) >= 3)
    sender.kill()
    sender.wait()
    settled(lambda: partial(portal) == [])
    settled(lambda: len(items_of(portal)) == len(list(portal.store.keys())) == count_of(portal, created))
    assert len(items_of(portal)) < 200
    assert where_marker_is(portal.settings.home, receiver.temporary) == []


def test_a_receiver_that_is_told_to_stop_leaves_nothing_half_received(
    portal: Portal, receiver: Process, created: Created
) -> None:
    peer = connect(receiver, created)
    peer.sendall(data_pdu(3, command_of("1.2.3")) + data_pdu(0, bytes(100_000)))
    settled(lambda: partial(portal))
    receiver.stop()
    assert partial(portal) == [] and items_of(portal) == []
    peer.close()


def test_a_killed_receiver_leaves_nothing_in_clear(portal: Portal, receiver: Process, created: Created) -> None:
    peer = connect(receiver, created)
    peer.sendall(data_pdu(3, command_of("1.2.3")))
    for _ in range(40):
        peer.sendall(data_pdu(0, MARKER.encode() * 10_000))
    settled(lambda: partial(portal) and partial(portal)[0].stat().st_size > 2_000_000)
    receiver.stop(signal.SIGKILL)
    assert where_marker_is(portal.settings.home, receiver.temporary) == [] and items_of(portal) == []
    peer.close()


def test_what_was_answered_for_is_there_after_a_kill_with_several_senders(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created, tmp_path: Path
) -> None:
    """Also what was filed together with others."""
    study, answered, guard = generate_uid(), [], threading.Lock()
    images = [dicom_bytes(study, number, InstanceNumber=number) for number in range(400)]
    (tmp_path / "a.dcm").write_bytes(images[0])

    def send(mine: list[bytes]) -> None:
        association = associate(receiver, created)
        for number, image in enumerate(mine):
            path = tmp_path / f"{id(mine)}-{number}.dcm"
            path.write_bytes(image)
            try:
                if store(association, path) != 0x0000:
                    return
            except (RuntimeError, ValueError, AttributeError):  # the association is gone
                return
            with guard:
                answered.append(dcmread_uid(image))

    threads = [threading.Thread(target=send, args=(images[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    settled(lambda: len(answered) >= 12)
    receiver.stop(signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    assert 12 <= len(answered) < 400
    ring = patient.login.ring()
    stored = [details_of(ring, item)["headers"]["instance_uid"] for item in items_of(portal)]
    assert len(stored) == len(set(stored)) and set(answered) <= set(stored)
    for item in items_of(portal):
        assert open_item(portal.store, item, dek_of(ring, item)).read_at(0, item.plain_bytes)[128:132] == b"DICM"
    assert where_marker_is(portal.settings.home, receiver.temporary) == []


def dcmread_uid(content: bytes) -> str:
    import io

    from pydicom import dcmread

    return dcmread(io.BytesIO(content), stop_before_pixels=True).SOPInstanceUID


def test_a_huge_pdu_before_the_login_costs_no_memory(receiver: Process) -> None:
    before = receiver.memory_bytes("VmRSS")
    peer = socket.create_connection(("127.0.0.1", receiver.port), timeout=30)
    peer.sendall(struct.pack(">BBI", 1, 0, 0xFFFFFFFF))
    try:
        for _ in range(600):
            peer.sendall(bytes(1024**2))
    except ConnectionError:
        pass
    assert ends(peer)
    assert receiver.memory_bytes() < before + 16 * 1024**2


@pytest.mark.parametrize(("length", "answered"), [(1024**2, True), (1024**2 + 1, False)])
def test_a_pdu_has_a_largest_length(receiver: Process, created: Created, length: int, answered: bool) -> None:
    """One of the largest length is read to its end, and only then found to be nothing that was agreed."""
    peer = connect(receiver, created)
    value = struct.pack(">IBB", length - 4, 1, 0)
    try:
        peer.sendall(struct.pack(">BBI", 4, 0, length) + value + bytes(length - 6))
        answer = peer.recv(1)
    except ConnectionError:
        answer = b""
    assert (answer == b"\7") is answered  # A-ABORT
    assert ends(peer)


def test_an_object_without_end_is_cut_off(portal: Portal, start_receiver, created: Created) -> None:
    receiver = start_receiver(drop_off_object_bytes_max=2_000_000)
    peer = connect(receiver, created)
    peer.sendall(data_pdu(3, command_of("1.2.3")))
    try:
        for _ in range(200):
            peer.sendall(data_pdu(0, bytes(100_000)))
    except ConnectionError:
        pass
    assert ends(peer)
    settled(lambda: partial(portal) == [])
    assert items_of(portal) == []


@pytest.mark.parametrize("hostile", ["command", "data-first", "find"])
def test_a_message_that_would_be_collected_in_memory_ends_the_association(
    receiver: Process, created: Created, hostile: str
) -> None:
    peer = connect(receiver, created)
    before = receiver.memory_bytes("VmRSS")
    if hostile == "find":
        peer.sendall(data_pdu(3, command_of("1.2.3", kind=0x20)))
    try:
        for _ in range(600):
            peer.sendall(data_pdu(1 if hostile == "command" else 0, bytes(100_000)))
    except ConnectionError:
        pass
    assert ends(peer)
    assert receiver.memory_bytes() < before + 16 * 1024**2


def test_a_sender_that_waits_for_no_answer_is_read_only_as_fast_as_its_objects_are_filed(
    portal: Portal, receiver: Process, created: Created
) -> None:
    peer = connect(receiver, created)
    before = receiver.memory_bytes("VmRSS")
    sent = b"".join(data_pdu(3, command_of(f"1.2.{number}")) + data_pdu(2, bytes(100_000)) for number in range(60))
    threading.Thread(target=peer.sendall, args=(sent,), daemon=True).start()
    answers = b""
    while answers.count(b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xc0") < 60:
        more = peer.recv(65536)
        assert more
        answers += more
    peer.close()
    assert partial(portal) == [] and receiver.memory_bytes() < before + 16 * 1024**2


@pytest.mark.parametrize("instance", ["../../x", "1.2.3\\4", "1" * 65])
def test_a_name_that_is_no_uid_is_refused_and_is_no_path(
    portal: Portal, receiver: Process, created: Created, instance: str
) -> None:
    peer = connect(receiver, created)
    peer.sendall(data_pdu(3, command_of(instance)) + data_pdu(2, bytes(1000)))
    answer = peer.recv(65536)
    assert answer[:1] == b"\7" or b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xc0" in answer  # A-ABORT, or status C000
    assert items_of(portal) == [] and list(portal.store.keys()) == [] and partial(portal) == []
    peer.close()


def test_bytes_that_are_no_image_are_not_taken_for_stored(portal: Portal, receiver: Process, created: Created) -> None:
    peer = connect(receiver, created)
    peer.sendall(data_pdu(3, command_of("1.2.3")) + data_pdu(2, os.urandom(5000)))
    assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xc0" in peer.recv(65536)
    assert items_of(portal) == [] and list(portal.store.keys()) == []
    peer.close()


def test_an_image_under_another_images_name_is_refused(
    portal: Portal, receiver: Process, created: Created, images: Path
) -> None:
    peer = connect(receiver, created)
    content = (images / "0.dcm").read_bytes()
    start = 144 + struct.unpack_from("<I", content, 140)[0]
    peer.sendall(data_pdu(3, command_of("1.2.3")) + data_pdu(2, content[start:]))
    assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xa9" in peer.recv(65536)
    assert items_of(portal) == []
    peer.close()


def test_idle_peers_of_one_address_do_not_keep_a_practice_out(
    portal: Portal, start_receiver, created: Created, images: Path
) -> None:
    receiver = start_receiver(receiver_associations_per_address=3)
    idle = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(10)]
    # the fourth of an address is hung up on at once, without a thread for it
    idle[-1].settimeout(5)
    assert idle[-1].recv(1) == b""
    other = socket.create_connection(("127.0.0.1", receiver.port), source_address=("127.0.0.2", 0), timeout=30)
    other.sendall(request_of(created.ae_title))
    assert other.recv(1) == b"\2"
    for peer in (*idle, other):
        peer.close()
    settled(lambda: storescu(receiver, created.ae_title, images).returncode == 0)
    assert len(items_of(portal)) == 4


def test_nothing_of_a_patient_stands_in_the_log(receiver: Process, created: Created, images: Path) -> None:
    storescu(receiver, created.ae_title, images)
    peer = connect(receiver, created)
    peer.sendall(data_pdu(3, command_of("1.2.3")) + data_pdu(0, MARKER.encode()) + data_pdu(1, b"\xff" * 70_000))
    assert ends(peer)
    log = receiver.log.read_text()
    assert "an association was aborted" in log  # it is the log
    assert MARKER not in log and created.ae_title not in log and "pynetdicom" not in log
