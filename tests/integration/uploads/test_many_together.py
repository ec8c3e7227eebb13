"""Many small files in one request over the real gunicorn: killed with -9, cut off, hostile, and from many at once."""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

import pytest
import requests
from sqlmodel import select

from myphr.ingest.uploads import Uploads
from myphr.records import items
from myphr.records.models import Item
from tests.integration.uploads.conftest import ROOT, Server

MARK = b"plaintext of a patient "  # at the start of every file: nowhere on the disk may it be read


def folder(count: int, size: int = 20_000, seed: int = 1) -> dict[str, bytes]:
    random_bytes = random.Random(seed)
    return {f"CD/IMAGES/IM{at:05}": MARK + random_bytes.randbytes(size - len(MARK)) for at in range(count)}


def framed(files: Mapping[str, bytes]) -> bytes:
    told = [{"name": path.rsplit("/")[-1], "path": path, "size": len(content)} for path, content in files.items()]
    text = json.dumps(told).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, *files.values()))


def post(server: Server, account_id: str, body: bytes, **headers: str) -> requests.Response:
    wanted = {"X-Account": account_id, "Tus-Resumable": "1.0.0", "Content-Type": "application/vnd.myphr.files"}
    return requests.post(f"{server.url}/uploads/together", data=body, headers=wanted | headers, timeout=60)


def open_post(server: Server, account_id: str, announced: int, data: bytes) -> socket.socket:
    """A request of which only a part is sent: the connection stays open and silent."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(
        f"POST /uploads/together HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nX-Account: {account_id}\r\n"
        "Tus-Resumable: 1.0.0\r\nContent-Type: application/vnd.myphr.files\r\n"
        f"Content-Length: {announced}\r\n\r\n".encode()
        + data
    )
    return connection


def in_record(portal, person) -> dict[str, str]:
    """SHA-256 of the opened bytes, by path. A file that comes twice is an error."""
    ring = person.login.ring()
    found: dict[str, str] = {}
    with portal.database.read() as db:
        rows = db.exec(select(Item)).all()
    for item in rows:
        path = items.details_of(ring, item)["path"]
        assert path not in found
        opened = items.open_item(portal.store, item, items.dek_of(ring, item))
        found[path] = hashlib.sha256(opened.read_at(0, opened.plain_bytes)).hexdigest()
        opened.close()
    return found
KILLS_MAX = 12  # a machine so busy that nothing is sent between two of them comes to an end too


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def groups(files: Mapping[str, bytes], together: int) -> list[dict[str, bytes]]:
    pairs = list(files.items())
    return [dict(pairs[at : at + together]) for at in range(0, len(pairs), together)]


class Sender(threading.Thread):
    """Sends its groups one after the other until each is acknowledged, over whatever happens to the server."""

    def __init__(self, server: Server, account_id: str, waiting: list[dict[str, bytes]]) -> None:
        super().__init__()
        self._server, self._account_id, self._waiting = server, account_id, waiting
        self.acknowledged: dict[str, bytes] = {}
        self.tries = 0

    def run(self) -> None:
        for group in self._waiting:
            body = framed(group)
            while True:
                self.tries += 1
                try:
                    answer = post(self._server, self._account_id, body)
                except requests.RequestException:  # killed in the middle: that is the test
                    time.sleep(0.02)
                    continue
                assert answer.status_code == 200, answer.text
                assert all(one["stored"] for one in answer.json())
                self.acknowledged |= group
                break


def test_nothing_acknowledged_is_lost_over_kills_nothing_twice_and_no_plaintext_on_disk(portal, patient, server):
    """Four senders, as a browser; killed with -9 at random moments, looked at while it is dead."""
    files = folder(480)
    share = groups(files, 30)
    senders = [Sender(server, patient.account.id, share[at::4]) for at in range(4)]
    for sender in senders:
        sender.start()
    lottery, kills = random.Random(4), 0
    while kills < KILLS_MAX and any(sender.is_alive() for sender in senders):
        requests.options(f"{server.url}/uploads", timeout=60)  # it listens before it works
        time.sleep(lottery.random() * 0.6)
        acknowledged = [dict(sender.acknowledged) for sender in senders]
        server.kill()
        kills += 1
        found = in_record(portal, patient)
        for one in acknowledged:
            assert digests(one).items() <= found.items()
        for path in (portal.settings.home).rglob("*"):
            assert not (path.is_file() and MARK in path.read_bytes())
        server.start()
    for sender in senders:
        sender.join()
    assert kills >= 3 and sum(sender.tries for sender in senders) > len(share)  # it was hit in the middle
    assert in_record(portal, patient) == digests(files)


def test_what_a_kill_left_half_done_is_swept_away(portal, patient, server):
    files = folder(100)
    body = framed(files)
    connection = open_post(server, patient.account.id, len(body), body[: len(body) // 2])
    while len(list(portal.store.partial_dir.glob("new-*"))) < 20:
        time.sleep(0.01)
    server.kill()
    connection.close()
    assert in_record(portal, patient) == {} and list(portal.store.keys()) == []
    old = time.time() - 7 * 24 * 3600
    for path in portal.store.partial_dir.iterdir():
        os.utime(path, (old, old))
    Uploads(portal).sweep()
    assert list(portal.store.partial_dir.iterdir()) == []


def test_a_lost_line_leaves_nothing_and_the_group_comes_again(portal, patient, server):
    files = folder(60)
    body = framed(files)
    for share in (0, 3, 100, len(body) // 2, len(body) - 1):
        open_post(server, patient.account.id, len(body), body[:share]).close()
    while list(portal.store.partial_dir.iterdir()):
        time.sleep(0.01)
    assert in_record(portal, patient) == {} and list(portal.store.keys()) == []
    answer = post(server, patient.account.id, body)
    assert [one["again"] for one in answer.json()] == [False] * len(files)
    assert in_record(portal, patient) == digests(files)


def test_an_answer_that_got_lost_is_given_again_and_nothing_is_twice(portal, patient, server):
    files = folder(60)
    body = framed(files)
    open_post(server, patient.account.id, len(body), body).close()  # nobody waits for the answer
    while len(in_record(portal, patient)) < len(files):
        time.sleep(0.05)
    assert [one["again"] for one in post(server, patient.account.id, body).json()] == [True] * len(files)
    assert in_record(portal, patient) == digests(files) and len(list(portal.store.keys())) == len(files)


ABSURD = {
    "a very long name": "x" * 50_000,
    "a path upwards": "../../../../etc/passwd",
    "an absolute one": "/etc/passwd",
    "a NUL": "a\0b",
    "half a pair": "\ud800.dcm",
    "turned around": "\u202egpj.exe",
    "a newline": "a\r\nSet-Cookie: x=y",
    "nothing": "",
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_names_are_only_names(portal, patient, server, what):
    name = ABSURD[what]
    text = json.dumps([{"name": name, "path": name, "size": 5}]).encode()
    answer = post(server, patient.account.id, len(text).to_bytes(4, "big") + text + b"hello")
    assert answer.status_code == 200 and answer.json() == [{"stored": True, "again": False}]
    with portal.database.read() as db:
        [item] = db.exec(select(Item)).all()
    details = items.details_of(patient.login.ring(), item)
    assert 0 < len(details["name"]) <= 255 and len(details["path"]) <= 1024
    assert (details["name"] + details["path"]).isprintable()
    server.kill()
    assert name.strip() == "" or name not in server.log.read_text()


def test_the_portal_takes_all_the_file_handles_it_may_have(portal, server):
    """Twelve requests of two hundred files each were seen with 1,095; a service not told otherwise has 1,024."""
    start = "import resource as r; _, hard = r.getrlimit(r.RLIMIT_NOFILE); r.setrlimit(r.RLIMIT_NOFILE, (512, hard))"
    told = subprocess.run(
        [sys.executable, "-c", f"{start}; import app; print(r.getrlimit(r.RLIMIT_NOFILE)[0] == hard)"],
        cwd=ROOT, env=server.environ, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert told.stdout.split()[-1] == "True"


def test_other_files_of_the_same_name_are_kept_beside_each_other(portal, patient, server):
    one, other = folder(5, seed=1), folder(5, seed=2)
    for files in (one, other):
        assert post(server, patient.account.id, framed(files)).status_code == 200
    with portal.database.read() as db:
        assert len(db.exec(select(Item)).all()) == 10


def test_without_sign_in_or_from_elsewhere_nothing_is_taken(portal, patient, server):
    body = framed(folder(3))
    plain = {"Tus-Resumable": "1.0.0", "Content-Type": "application/vnd.myphr.files"}
    assert requests.post(f"{server.url}/uploads/together", data=body, headers=plain, timeout=30).status_code == 401
    assert post(server, patient.account.id, body, Origin="https://evil.example").status_code == 400
    assert post(server, patient.account.id, body, **{"Tus-Resumable": ""}).status_code == 412
    assert post(server, patient.account.id, body, **{"Content-Type": "text/plain"}).status_code == 415
    assert in_record(portal, patient) == {}
