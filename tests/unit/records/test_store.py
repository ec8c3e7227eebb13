"""The local object store: durable, created once, private, and nothing half-written when the disk is full."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from myphr.errors import ConfigurationError, NotFound
from myphr.records.store import KeyTaken, LocalStore, open_store

ROOT = Path(__file__).parents[3]
KEY = "0f3a6c1e-aaaa-4bbb-8ccc-000000000001.1"


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return open_store(f"file://{tmp_path}/store")


def put(store, key, content):
    writer = store.create(key)
    writer.write(content)
    writer.commit()


def test_what_was_committed_is_read_back_in_ranges(store):
    put(store, KEY, b"0123456789")
    reader = store.open(KEY)
    assert reader.size == 10 and reader.read_at(3, 4) == b"3456" and reader.read_at(8, 100) == b"89"
    buffer = memoryview(bytearray(4))
    assert reader.read_into(6, buffer) == 4 and bytes(buffer) == b"6789"
    reader.close()
    assert store.exists(KEY) and list(store.keys()) == [KEY]


def test_nothing_is_visible_before_commit_and_nothing_left_after_abort(store):
    writer = store.create(KEY)
    writer.write(b"x" * 100_000)
    assert not store.exists(KEY)
    with pytest.raises(NotFound):
        store.open(KEY)
    writer.abort()
    writer.abort()
    assert list(store.keys()) == [] and list(store.partial_dir.iterdir()) == []


def test_an_object_is_never_overwritten(store):
    put(store, KEY, b"first")
    with pytest.raises(KeyTaken):
        put(store, KEY, b"second")
    assert store.open(KEY).read_at(0, 10) == b"first"
    assert list(store.partial_dir.iterdir()) == []


def test_files_and_folders_are_for_the_portal_only(store):
    put(store, KEY, b"x")
    assert stat.S_IMODE(store.path_of(KEY).stat().st_mode) == 0o600
    for folder in (store.root, store.partial_dir, store.path_of(KEY).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "short", "UPPERCASE-KEY", "a/b/c/d/e/f", "aaaaaaa..bbbb", "", "x" * 200, "aaaaaaaa\0"]
)
def test_a_key_is_never_a_path(store, key):
    for call in (store.create, store.open, store.exists, store.delete):
        with pytest.raises(ValueError):
            call(key)


def test_adopting_a_finished_file_takes_it_once_and_may_be_repeated(store):
    path = store.partial_dir / "upload.1"
    path.write_bytes(b"sealed")
    store.adopt(path, KEY)
    assert not path.exists() and store.open(KEY).read_at(0, 10) == b"sealed"
    store.adopt(path, KEY)
    with pytest.raises(NotFound):
        store.adopt(path, KEY.replace("1.1", "2.1"))


def test_delete_is_repeatable(store):
    put(store, KEY, b"x")
    store.delete(KEY)
    store.delete(KEY)
    assert not store.exists(KEY)


def test_commit_syncs_the_file_before_its_name_and_then_the_folder(store, monkeypatch):
    done = []
    for name in ("fdatasync", "fsync", "link"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, o=original, **k: (done.append(n), o(*a, **k))[1])
    put(store, KEY, b"x")
    assert done == ["fdatasync", "link", "fsync"]


def test_several_threads_may_read_one_object(store):
    put(store, KEY, bytes(range(256)) * 1000)
    reader, wrong = store.open(KEY), []

    def read():
        for at in range(0, 250_000, 977):
            if reader.read_at(at, 1)[0] != at % 256:
                wrong.append(at)

    threads = [threading.Thread(target=read) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare for a disk of its own size")
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path):
    """On a real file system of 1 MiB, made for this test in a namespace of its own."""
    program = """
import pathlib, sys
from myphr.errors import StoreFull
from myphr.records.store import open_store
store = open_store("file://" + sys.argv[1] + "/store")
writer = store.create("0f3a6c1e-small.1"); writer.write(b"x" * 1000); writer.commit()
writer = store.create("0f3a6c1e-large.1")
try:
    for _ in range(100):
        writer.write(b"x" * 65536)
    writer.commit()
except StoreFull as error:
    print(error.status, list(store.keys()), list(store.partial_dir.iterdir()))
"""
    disk = tmp_path / "disk"
    disk.mkdir()
    answer = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            f'mount -t tmpfs -o size=1500k tmpfs {disk} && exec "$0" -c "$1" {disk}',
            sys.executable,
            program,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "not permitted" in answer.stderr and os.geteuid() != 0:
        pytest.skip("this kernel lets nobody mount in a namespace of their own")
    assert answer.stdout.strip() == "507 ['0f3a6c1e-small.1'] []", answer.stderr


def test_other_errors_of_the_disk_are_not_called_full(store, monkeypatch):
    writer = store.create(KEY)
    monkeypatch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(errno.EIO, "disk")))
    with pytest.raises(OSError) as failed:
        writer.write(b"x")
    assert failed.value.errno == errno.EIO
    assert list(store.partial_dir.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["", "store", "file://relative", "file://host/folder", "http://x/y", "s3://", "s3://b/p?colour=red"]
)
def test_an_address_that_names_no_store_stops_the_start(url):
    with pytest.raises(ConfigurationError):
        open_store(url)
