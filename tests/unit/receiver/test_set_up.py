"""The receiver's set-up: when it may listen without TLS, and the head of a DICOM file that it writes."""

import io
from pathlib import Path

import pytest
from pydicom import dcmread

from myphr.errors import ConfigurationError, NotDicom
from myphr.ingest.dimse.part10 import IMPLEMENTATION_UID, head_of_file
from myphr.receiver.server import address_of, tls_context
from myphr.settings import load
from myphr.supervisor import services
from tests.unit.sharing import certificate

MR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"


@pytest.mark.parametrize("bind", ["127.0.0.1:11112", "127.1.2.3:1", "[::1]:11112", "localhost:11112"])
def test_on_this_computer_no_tls_is_needed(bind: str) -> None:
    assert tls_context(load({}, receiver_bind=bind)) is None


@pytest.mark.parametrize("bind", ["0.0.0.0:11112", "[::]:11112", ":11112", "10.0.0.1:11112", "pacs.example:11112"])
def test_beyond_this_computer_plain_text_is_refused_unless_it_was_said(bind: str) -> None:
    with pytest.raises(ConfigurationError):
        tls_context(load({}, receiver_bind=bind))
    assert tls_context(load({}, receiver_bind=bind, receiver_plain=1)) is None


@pytest.mark.parametrize("alone", ["receiver_tls_key_file", "receiver_tls_ca_file"])
def test_half_of_tls_is_refused(alone: str) -> None:
    with pytest.raises(ConfigurationError):
        tls_context(load({}, **{alone: "/x"}))


def test_files_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    chain, key = certificate.make(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    for wrong in ({"receiver_tls_cert_file": str(tmp_path / "none")},
                  {"receiver_tls_cert_file": str(chain), "receiver_tls_key_file": str(tmp_path / "empty")},
                  {"receiver_tls_cert_file": str(chain), "receiver_tls_key_file": str(key),
                   "receiver_tls_ca_file": str(tmp_path / "empty")}):  # fmt: skip
        with pytest.raises(ConfigurationError):
            tls_context(load({}, **wrong))


def test_a_bind_without_a_port_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        address_of("127.0.0.1")
    assert address_of("[::1]:104") == ("::1", 104)


def test_the_receiver_is_started_only_where_it_has_an_address(tmp_path: Path) -> None:
    assert "receiver" in [one.name for one in services(load({}, home=tmp_path))]
    assert "receiver" not in [one.name for one in services(load({}, home=tmp_path, receiver_bind=""))]


def test_the_head_of_a_file_says_what_follows_and_nothing_of_the_sender() -> None:
    head = head_of_file(MR, "1.2.3", EXPLICIT)
    meta = dcmread(io.BytesIO(head)).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (MR, "1.2.3")
    assert (meta.TransferSyntaxUID, meta.ImplementationClassUID) == (EXPLICIT, IMPLEMENTATION_UID)
    assert head == head_of_file(MR, "1.2.3", EXPLICIT) and "SourceApplicationEntityTitle" not in meta
    assert len(IMPLEMENTATION_UID) <= 64


@pytest.mark.parametrize("uid", ["", "../../x", "1.2\0", "1" * 65, "1.2.3\n"])
def test_a_uid_that_is_none_makes_no_file(uid: str) -> None:
    with pytest.raises(NotDicom):
        head_of_file(MR, uid, EXPLICIT)
    with pytest.raises(NotDicom):
        head_of_file(uid, "1.2.3", EXPLICIT)
