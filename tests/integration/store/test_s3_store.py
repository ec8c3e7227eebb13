"""The S3 store against a real S3 server over HTTP (moto's), through the same library as in production."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from myphr.errors import NotFound
from myphr.ingest import identify
from myphr.ingest.uploads import Uploads, Wish
from myphr.records import items
from myphr.records.store import S3_PART_BYTES, KeyTaken, S3Store, open_store
from tests.unit.ingest.bodies import Pieces

KEY = "0f3a6c1e-aaaa-4bbb-8ccc-000000000001.1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def store_url(endpoint, monkeypatch, request) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return f"s3://bucket/{request.node.name[:40].replace('[', '-').replace(']', '')}?endpoint={endpoint}"


@pytest.fixture
def store(store_url, tmp_path) -> S3Store:
    found = open_store(store_url, partial_dir=tmp_path / "partial")
    assert isinstance(found, S3Store)
    return found


def put(store, key, *pieces):
    writer = store.create(key)
    for piece in pieces:
        writer.write(piece)
    writer.commit()


def test_an_object_of_several_parts_is_read_back_across_their_edges(store):
    pieces = [os.urandom(1024**2) for _ in range(20)]
    put(store, KEY, *pieces)
    whole = b"".join(pieces)
    reader = store.open(KEY)
    assert reader.size == len(whole) > 2 * S3_PART_BYTES
    for at in (0, S3_PART_BYTES - 5, 2 * S3_PART_BYTES - 1, len(whole) - 10):
        assert reader.read_at(at, 100) == whole[at : at + 100]
    assert reader.read_at(len(whole), 10) == b""


def test_keys_are_listed_without_the_prefix_and_deleted(store):
    put(store, KEY, b"x")
    assert list(store.keys()) == [KEY]
    [stored] = store.listing()
    assert stored.size == 1 and stored.age_seconds < 60
    store.delete(KEY)
    store.delete(KEY)
    assert list(store.keys()) == [] and not store.exists(KEY)


def test_a_missing_object_is_not_found_and_a_taken_key_is_told(store):
    with pytest.raises(NotFound):
        store.open(KEY)
    put(store, KEY, b"x")
    with pytest.raises(KeyTaken):
        store.create(KEY)


def test_nothing_is_visible_before_commit_or_after_abort(store):
    writer = store.create(KEY)
    writer.write(os.urandom(3 * S3_PART_BYTES))
    assert not store.exists(KEY)
    writer.abort()
    assert list(store.keys()) == []


def test_adopting_is_repeatable_and_finishes_a_half_done_one(store):
    path = store.partial_dir / "upload.1"
    path.write_bytes(b"sealed")
    put(store, KEY, b"sealed")  # put before a crash that came before the file was removed
    store.adopt(path, KEY)
    store.adopt(path, KEY)
    assert not path.exists() and store.open(KEY).read_at(0, 10) == b"sealed"
    with pytest.raises(NotFound):
        store.adopt(path, KEY.replace("1.1", "2.1"))


def test_an_object_shorter_than_what_was_sent_is_an_error(store):
    put(store, KEY, b"x")
    with pytest.raises(OSError):
        store.check_size(KEY, 2)
    assert not store.exists(KEY)


def test_an_upload_goes_through_sealed(tmp_path, redis_url, store_url, endpoint):
    from tests.cast import PATIENT, enter, new_portal

    portal = new_portal(tmp_path / "home", redis_url, store_url=store_url)
    portal.__dict__["store"] = open_store(store_url, partial_dir=tmp_path / "partial")
    patient = enter(portal, PATIENT)
    taking = Uploads(portal)
    data = b"MARKER-OF-PLAINTEXT" * 600_000
    progress, token = taking.create(patient.account.id, Wish(len(data), "scan.bin"))
    progress = taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(data[: 5 * 1024**2]))
    progress = taking.append(
        patient.account.id, progress.upload_id, token, progress.offset, Pieces(data[progress.offset :])
    )
    item = items.load_item(portal.database, patient.account.id, progress.item_id)
    opened = items.open_item(portal.store, item, items.dek_of(patient.login.ring(), item))
    assert b"".join(opened.read_at(at, 1 << 20) for at in range(0, len(data), 1 << 20)) == data
    stored = portal.store.open(item.object_key)
    assert b"MARKER" not in stored.read_at(0, stored.size)
    assert list((tmp_path / "partial").iterdir()) == []
    writer = items.ItemWriter(
        portal, patient.account.id, owner_public_key=patient.login.ring().public_key, source="upload", source_id=None,
        describe=identify.describe,
    )  # fmt: skip
    writer.write(b"small")
    small = writer.finish("small")
    assert items.open_item(portal.store, small, items.dek_of(patient.login.ring(), small)).read_at(0, 10) == b"small"
    assert json.dumps(sorted(portal.store.keys())) == json.dumps(sorted([item.object_key, small.object_key]))
    portal.database.dispose()
