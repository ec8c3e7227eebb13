"""Uploads over the real gunicorn: killed with -9 in the middle, sent by the real tus-js-client and by a hostile one."""

import hashlib
import json
import os
import random
import re
import socket
import threading
import time
from pathlib import Path

import pytest
import requests
from sqlmodel import select

from myphr.records import items
from myphr.records.models import Item, Upload
from tests.integration.uploads.serving import reused

MIB = 1024**2


def make_file(path: Path, size: int, seed: int = 5) -> str:
    block = random.Random(seed).randbytes(MIB)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(size // MIB):
            piece = number.to_bytes(8, "big") + block[8:]
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def only_item(portal) -> Item:
    with portal.database.read() as db:
        [item] = db.exec(select(Item)).all()
    return item


def sha256_of(portal, signed_in, item) -> str:
    opened = items.open_item(portal.store, item, items.dek_of(signed_in.login.ring(), item))
    digest = hashlib.sha256()
    for offset in range(0, opened.plain_bytes, MIB):
        digest.update(opened.read_at(offset, MIB))
    opened.close()
    return digest.hexdigest()


def create(server, account_id: str, total: int) -> str:
    answer = requests.post(
        f"{server.url}/uploads",
        headers={"X-Account": account_id, "Tus-Resumable": "1.0.0", "Upload-Length": str(total)},
    )
    assert answer.status_code == 201
    return server.url + answer.headers["Location"]


def head(url: str, account_id: str) -> int:
    answer = requests.head(url, headers={"X-Account": account_id, "Tus-Resumable": "1.0.0"})
    assert answer.status_code == 200
    return int(answer.headers["Upload-Offset"])


def patch(url: str, account_id: str, offset: int, data) -> requests.Response:
    headers = {"X-Account": account_id, "Tus-Resumable": "1.0.0", "Upload-Offset": str(offset)}
    headers["Content-Type"] = "application/offset+octet-stream"
    return requests.patch(url, data=data, headers=headers)


def open_patch(url: str, account_id: str, offset: int, announced: int, data: bytes) -> socket.socket:
    """A PATCH of which only a part is sent: the connection stays open and silent."""
    host, port, path = re.match(r"http://([^:]+):(\d+)(.*)", url).groups()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        f"PATCH {path} HTTP/1.1\r\nHost: {host}:{port}\r\nX-Account: {account_id}\r\nTus-Resumable: 1.0.0\r\n"
        f"Upload-Offset: {offset}\r\nContent-Type: application/offset+octet-stream\r\n"
        f"Content-Length: {announced}\r\n\r\n".encode()
        + data
    )
    return connection


@pytest.mark.parametrize("chunk_bytes", [0, 5_000_000])
def test_tus_js_client_resumes_over_kills_and_the_item_is_byte_exact(
    portal, patient, server, tus_client, tmp_path, seals_file, chunk_bytes
):
    source = tmp_path / "study.bin"
    expected = make_file(source, 192 * MIB)
    client = tus_client(patient.account.id, source, chunk_bytes)
    kill_at = [30 * MIB, 100 * MIB, 170 * MIB]
    last = {}
    for line in client.stdout:
        last = json.loads(line)
        if kill_at and last.get("sent", 0) > kill_at[0]:
            kill_at.pop(0)
            server.kill()
            server.start()
    assert client.wait() == 0, last
    assert not kill_at and last["done"]
    item = only_item(portal)
    assert item.id == last["done"]
    assert sha256_of(portal, patient, item) == expected
    assert items.details_of(patient.login.ring(), item)["sha256"] == expected
    chunks, twice = reused(seals_file)
    assert chunks >= 192 * 16 and twice == []


def test_a_hostile_client_cannot_have_two_plaintexts_sealed_under_one_key_and_nonce(
    portal, patient, server, seals_file
):
    """Sends other bytes for the same place after each kill, at random moments, until the file is complete."""
    me, total, kept = patient.account.id, 24 * MIB, 3 * MIB
    url = create(server, me, total)
    lottery = random.Random(3)
    assert patch(url, me, 0, lottery.randbytes(kept)).headers["Upload-Offset"] == str(kept)
    for _ in range(8):
        assert head(url, me) == kept
        noise = lottery.randbytes(total - kept)
        sealed_before = seals_file.stat().st_size
        connection = open_patch(url, me, kept, len(noise), b"")
        part = noise[: lottery.randrange(2 * MIB, len(noise))]
        sender = threading.Thread(target=send_quietly, args=(connection, part))
        sender.start()
        while seals_file.stat().st_size == sealed_before:  # chunks were sealed: the kill has something to spoil
            time.sleep(0.001)
        time.sleep(lottery.random() * 0.05)
        server.kill()
        server.start()
        sender.join()
        connection.close()
    assert patch(url, me, kept, lottery.randbytes(total - kept)).status_code == 204
    chunks, twice = reused(seals_file)
    assert chunks > 24 * 16 + 8 and twice == []
    assert only_item(portal).plain_bytes == total


def send_quietly(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        pass  # killed in the middle: that is the test


def test_what_was_acknowledged_survives_a_kill_right_after(portal, patient, server):
    me, data = patient.account.id, os.urandom(9 * MIB)
    url = create(server, me, len(data))
    assert patch(url, me, 0, data[: 5 * MIB]).headers["Upload-Offset"] == str(5 * MIB)
    server.kill()
    server.start()
    assert head(url, me) == 5 * MIB
    assert patch(url, me, 5 * MIB, data[5 * MIB :]).status_code == 204
    server.kill()
    assert sha256_of(portal, patient, only_item(portal)) == hashlib.sha256(data).hexdigest()


def test_a_second_request_makes_a_silent_first_one_let_go(portal, patient, server):
    me, data = patient.account.id, os.urandom(3 * MIB)
    url = create(server, me, len(data))
    silent = open_patch(url, me, 0, len(data), data[: MIB + 1000])
    while not list(portal.store.partial_dir.glob("*.lock")):  # the first request is at work
        time.sleep(0.01)
    offset = head(url, me)
    assert offset <= MIB and offset % (64 * 1024) == 0
    assert b"409" in silent.recv(4096).split(b"\r\n")[0]
    assert patch(url, me, offset, data[offset:]).status_code == 204
    assert sha256_of(portal, patient, only_item(portal)) == hashlib.sha256(data).hexdigest()


def test_the_body_comes_straight_from_the_socket_and_the_connection_stays_usable(portal, patient, server):
    """Two requests on one connection: what gunicorn read ahead is not lost, and what follows the body is not eaten."""
    me, data = patient.account.id, os.urandom(MIB)
    with requests.Session() as http:
        for _ in range(3):
            answer = http.post(
                f"{server.url}/uploads",
                headers={"X-Account": me, "Tus-Resumable": "1.0.0", "Upload-Length": str(len(data))},
            )
            url = server.url + answer.headers["Location"]
            headers = {"X-Account": me, "Tus-Resumable": "1.0.0", "Upload-Offset": "0"}
            headers["Content-Type"] = "application/offset+octet-stream"
            answer = http.patch(url, data=data, headers=headers)
            assert answer.status_code == 204 and "close" not in answer.headers.get("Connection", "")
    with portal.database.read() as db:
        assert len(db.exec(select(Upload).where(Upload.state == "finished")).all()) == 3
    assert sha256_of(portal, patient, only_item(portal)) == hashlib.sha256(data).hexdigest()


def test_no_token_is_in_the_server_log(patient, server):
    url = create(server, patient.account.id, 10)
    head(url, patient.account.id)
    requests.patch(url + "x", headers={"X-Account": patient.account.id, "Tus-Resumable": "1.0.0"})
    server.kill()
    assert url.rsplit("/", 1)[1] not in server.log.read_text()


def test_small_files_together_are_all_there_once_whenever_the_portal_is_killed(portal, patient, server, seals_file):
    """A folder of 300 files in ten requests; nine kills at random moments; what is not acknowledged is sent again."""
    lottery = random.Random(7)
    folder = {f"CD/{number}": lottery.randbytes(20_000 + number) for number in range(300)}
    paths = list(folder)
    acknowledged: set[str] = set()
    stopped = threading.Event()

    def send_all() -> None:
        for at in range(0, len(paths), 30):
            some = paths[at : at + 30]
            told = json.dumps([{"name": path, "size": len(folder[path])} for path in some]).encode()
            body = len(told).to_bytes(4, "big") + told + b"".join(folder[path] for path in some)
            headers = {
                "X-Account": patient.account.id, "Tus-Resumable": "1.0.0",
                "Content-Type": "application/vnd.myphr.files",
            }  # fmt: skip
            while not acknowledged >= set(some):
                try:
                    answer = requests.post(f"{server.url}/uploads/together", headers=headers, data=body, timeout=30)
                except requests.RequestException:
                    time.sleep(0.05)
                    continue
                assert answer.status_code == 200 and all(one["stored"] for one in answer.json())
                acknowledged.update(some)
        stopped.set()

    sender = threading.Thread(target=send_all)
    sender.start()
    kills = 0
    while not stopped.is_set() and kills < 9:
        time.sleep(lottery.random() * 0.3)
        server.kill()
        server.start()
        kills += 1
    sender.join()
    assert kills >= 3
    with portal.database.read() as db:
        found = db.exec(select(Item)).all()
    assert len(found) == len(folder)
    hashes = {sha256_of(portal, patient, item) for item in found}
    assert hashes == {hashlib.sha256(content).hexdigest() for content in folder.values()}
    assert reused(seals_file)[1] == []
