"""After a whole session nothing readable is left: files, database, queue, logs and process lists are searched for the
plaintext, the password, the recovery code, the keys of the items, the link's secret and the passcode.

A control proves that the search finds such things where they do stand: in the operator's outbox.
"""

import base64
import email
import email.policy
import re
import time
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from myphr.people import accounts
from myphr.portal import Portal
from myphr.settings import load
from tests.person import PASSWORD, Person, Screen
from tests.running import RunningPortal

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

MARKER = b"PLAINTEXT-MARKER-of-Ada-7f3a91"
NAME_MARKER = "secret-diagnosis-9b1c.txt"


def spellings(secret: bytes) -> list[bytes]:
    """How a secret could stand somewhere: raw, hex, base64 (both alphabets), UTF-16."""
    found = [
        secret,
        secret.hex().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
    ]
    if secret.isascii():
        found.append(secret.decode().encode("utf-16-le"))
    return found


def places_with(needles: list[bytes], root: Path, leave_out: tuple[str, ...] = ()) -> list[str]:
    """Files below `root` in which any of the needles stands."""
    found = []
    for path in sorted(root.rglob("*")):
        relative = str(path.relative_to(root))
        if relative.startswith(leave_out) or path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if any(needle in content for needle in needles):
            found.append(relative)
    return found


@pytest.fixture(scope="module")
def after_a_session(running: RunningPortal, ada: Person) -> dict[str, list[bytes]]:
    """A document uploaded, opened, shared, watched by a caregiver, ended. Returns the spellings to look for."""
    ada.upload(NAME_MARKER, MARKER * 3000)
    document = next(path for path in ada.documents() if NAME_MARKER in ada.get(path).get_text())
    machine = ada.open(document)
    assert ada.wait_for(machine, "live", "failed") == "live"
    shared = ada.submit(
        machine, f"{machine}/share", email="carl@example.org", access="view", seconds="3600", passcode="on"
    )
    assert shared.ok
    shown = BeautifulSoup(shared.text, "html.parser").find(id="passcode-to-tell")
    assert shown, "the page shows no passcode"
    code = shown.get_text(strip=True).replace(" ", "")
    deadline = time.monotonic() + 60
    while not (mails := sorted((running.home / "outbox").glob("*.eml"))):
        assert time.monotonic() < deadline, "no mail went out"
        time.sleep(0.2)
    message = email.message_from_bytes(mails[-1].read_bytes(), policy=email.policy.default)
    body = message.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    share_id, secret = re.search(r"/s/([0-9a-f-]{36})#([A-Za-z0-9_-]{43})", body).groups()  # type: ignore[union-attr]

    carl = Person(running.url)
    opened = carl.submit(f"/s/{share_id}", f"/s/{share_id}/open", secret=secret, passcode=code)
    assert opened.ok, opened.text[:500]
    with carl.screen(f"/s/{share_id}/ticket") as socket:
        assert len(Screen(socket).picture()) > 0
    ada.end(machine)
    ada.wait_for(machine, "ended")

    settings = load({k: v for k, v in running.environ.items() if k.startswith("MYPHR_")})
    portal = Portal(settings)
    _, cookie = accounts.sign_in(portal, "ada@example.org", PASSWORD, "test")
    ring = accounts.resolve(portal.database, cookie).ring()  # type: ignore[union-attr]
    from sqlmodel import select

    from myphr.records.models import Item

    with portal.database.read() as db:
        keys = [ring.open_dek(item) for item in db.exec(select(Item))]
    portal.database.dispose()
    needles = {
        "plaintext": spellings(MARKER), "file name": spellings(NAME_MARKER.encode()),
        "password": spellings(PASSWORD.encode()),
        "recovery code": spellings(ada.recovery_code.encode()),
        "link secret": [secret.encode(), base64.urlsafe_b64decode(secret + "=")],
        "patient's private key": spellings(ring.private_key),
        "item keys": [spelling for key in keys for spelling in spellings(key)],
    }  # fmt: skip
    return needles


KINDS = ["plaintext", "file name", "password", "recovery code", "link secret", "patient's private key", "item keys"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_below_home_holds_it(running: RunningPortal, after_a_session: dict[str, list[bytes]], kind: str):
    # The outbox is the mail itself: whoever operates the embedded default reads it on the mail's way, as a relay would.
    assert places_with(after_a_session[kind], running.home, leave_out=("outbox/",)) == []


def test_the_search_finds_what_is_there(running: RunningPortal, after_a_session: dict[str, list[bytes]]):
    (running.home / "log" / "control").write_bytes(b"x" * 5000 + MARKER[:10] + MARKER[10:] + b"y")
    try:
        assert places_with(after_a_session["plaintext"], running.home) == ["log/control"]
    finally:
        (running.home / "log" / "control").unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_no_process_list_or_environment_holds_it(
    running: RunningPortal, after_a_session: dict[str, list[bytes]], kind: str
):
    processes = running.processes(".")
    assert processes
    for process in processes:
        for name in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{process}/{name}").read_bytes()
            except OSError:
                continue
            assert not any(needle in content for needle in after_a_session[kind])


@pytest.mark.parametrize("kind", ["plaintext", "file name", "item keys", "link secret", "password"])
def test_redis_memory_holds_none_of_it(running: RunningPortal, after_a_session: dict[str, list[bytes]], kind: str):
    import redis

    connection = redis.Redis.from_url(f"unix://{running.home}/run/redis.sock")
    keys = list(connection.scan_iter())
    assert keys, "an empty Redis proves nothing"
    for key in keys:
        content = key + (connection.dump(key) or b"")
        assert not any(needle in content for needle in after_a_session[kind]), key
