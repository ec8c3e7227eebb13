"""The receiver with TLS and client certificates: who gets as far as an association, with dcmtk's own TLS."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from myphr.ingest.drop_offs import Created
from myphr.portal import Portal
from tests.integration.providers.conftest import Keys, Process, items_of
from tests.web.stage import dicom_bytes


@pytest.fixture
def receiver(receiver_over_tls: Process) -> Process:
    return receiver_over_tls


def send(receiver: Process, created: Created, folder: Path, *options: object) -> int:
    folder = folder / "image"
    folder.mkdir(exist_ok=True)
    (folder / "1.dcm").write_bytes(dicom_bytes(generate_uid()))
    command = ["storescu", "-aec", created.ae_title, *map(str, options), "+sd", "127.0.0.1", str(receiver.port),
               str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, env=os.environ | {"TCP_NODELAY": "1"}, timeout=60)
    return done.returncode


def test_a_practice_with_a_certificate_of_the_agreed_ca_sends(
    portal: Portal, receiver: Process, created: Created, ours: Keys, theirs: Keys, tmp_path: Path
) -> None:
    options = ("+tls", theirs.key, theirs.certificate, "+cf", ours.certificate)
    assert send(receiver, created, tmp_path, *options) == 0
    assert len(items_of(portal)) == 1


def test_nobody_else_gets_in(portal: Portal, receiver: Process, created: Created, ours: Keys, tmp_path: Path) -> None:
    foreign = Keys(tmp_path / "foreign")
    assert send(receiver, created, tmp_path, "+tls", foreign.key, foreign.certificate, "+cf", ours.certificate) != 0
    assert send(receiver, created, tmp_path, "+tla", "+cf", ours.certificate) != 0
    assert send(receiver, created, tmp_path) != 0
    assert items_of(portal) == []


def test_without_a_ca_any_client_may_speak_tls_and_the_ae_title_decides(
    portal: Portal, start_receiver, created: Created, ours: Keys, tmp_path: Path
) -> None:
    receiver = start_receiver(receiver_tls_cert_file=ours.certificate, receiver_tls_key_file=ours.key)
    assert send(receiver, created, tmp_path, "+tla", "+cf", ours.certificate) == 0
    assert send(receiver, created, tmp_path) != 0
    assert len(items_of(portal)) == 1


def test_peers_that_never_shake_hands_keep_nobody_waiting(
    portal: Portal, receiver: Process, created: Created, ours: Keys, theirs: Keys, tmp_path: Path
) -> None:
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(5)]
    options = ("+tls", theirs.key, theirs.certificate, "+cf", ours.certificate)
    assert send(receiver, created, tmp_path, *options) == 0
    assert len(items_of(portal)) == 1
    for peer in silent:
        with pytest.raises(BlockingIOError):  # they were connected all the time
            peer.recv(1, socket.MSG_DONTWAIT)
        peer.close()
