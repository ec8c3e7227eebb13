"""Sharing 10,000 files and taking it back, as the owner feels it: seconds by the clock, with a real keyholder process.

A care team of 20 and a share by name with 20; SQLite on disk. Revoking one person is felt until the report is there:
their access has ended and the share has new keys; the worker then wraps the files' keys anew. No peer: nothing else
here has a vault, consent and a roll to compare. By kind: the same files in 300 classes, everything to 20 people.
"""

import datetime as dt
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert, update
from sqlmodel import col, select

from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.people import authorities, identities
from myphr.portal import Portal
from myphr.records import labels, opening
from myphr.records.models import Item
from myphr.sharing import delegations, record_shares, rewrapping, shared_with_me
from myphr.sharing.record_models import RewrapTask
from myphr.sharing.record_shares import Audience, Scope
from tests import cast
from tests.running_keyholder import RunningKeyholder

ITEMS, PEOPLE = 10_000, 20
CLASSES = 300
TARGET_REVOKE_SECONDS = 1.0


def _add_items(portal: Portal, owner: cast.SignedIn) -> None:
    """Rows as an upload leaves them; their bytes do not matter here."""
    public, rows = owner.login.ring().public_key, []
    for _ in range(ITEMS):
        item_id, dek = new_id(), secrets.token_bytes(32)
        rows.append({
            "id": item_id, "account_id": owner.account.id, "version": 1, "object_key": item_id, "format": "text",
            "media_type": "text/plain", "plain_bytes": 1, "content_key": item_id, "source": "upload",
            "sealed_dek": envelope.seal_to(public, dek, context=opening.dek_context(item_id)),
            "sealed_details": opening.seal_details(dek, item_id, {"name": "slice"}), "created_at": now(),
        })  # fmt: skip
    with portal.database.write() as db:
        db.execute(insert(Item), rows)


def _timed(what: str, work: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - started
    print(f"  {what:52} {seconds:6.2f} s", flush=True)
    return seconds, found


def _measure(portal: Portal, owner: cast.SignedIn, reader: cast.SignedIn, audience: Audience) -> float:
    print(f"{audience.preset}, {PEOPLE} people, {ITEMS:,} files")
    scope = Scope("everything", "all")
    share_id = str(_timed("share", lambda: record_shares.share(portal, owner.login, scope, audience))[1])
    _timed("a reader opens it (all keys and descriptions)",
           lambda: shared_with_me.open_shared(portal, reader.login, share_id))  # fmt: skip
    gid = identities.gid_of(reader.login)
    felt, report = _timed("revoke one person, felt",
                          lambda: record_shares.remove_person(portal, owner.login, share_id, gid))  # fmt: skip
    assert isinstance(report, record_shares.WithdrawalReport)
    with portal.database.read() as db:
        tasks = db.exec(select(RewrapTask.id).where(RewrapTask.state == "waiting")).all()
    _timed("  then the worker wraps the files' keys anew", lambda: [rewrapping.run(portal, one) for one in tasks])
    all_felt, _ = _timed("withdraw from everybody, felt",
                         lambda: record_shares.withdraw(portal, owner.login, share_id))  # fmt: skip
    return max(felt, all_felt)


def _measure_by_kind(portal: Portal, owner: cast.SignedIn, readers: list[cast.SignedIn]) -> float:
    print(f"by kind, {PEOPLE} people, {ITEMS:,} files in {CLASSES} classes")
    everything, gids = delegations.Filter(), [identities.gid_of(reader.login) for reader in readers]
    day = now().date()
    with portal.database.write() as db:
        for at, item_id in enumerate(db.exec(select(Item.id)).all()):
            said = labels.Labels("laboratory", "none", False, day - dt.timedelta(days=7 * (at % CLASSES)))
            db.execute(update(Item).where(col(Item.id) == item_id)
                       .values(wrapped_labels=labels._wrap(owner.login.ring(), item_id, said, said=True)))  # fmt: skip

    def give(gid: str) -> str:
        return delegations.delegate(portal, owner.login, gid, everything)

    first = str(_timed("share with the first", lambda: give(gids[0]))[1])
    _timed(f"share with {PEOPLE - 1} more", lambda: [give(gid) for gid in gids[1:]])
    _timed("a reader opens it (all keys and descriptions)",
           lambda: shared_with_me.open_shared(portal, readers[0].login, first))  # fmt: skip
    _timed("the owner's unlock with nothing new", lambda: delegations.catch_up(portal, owner.login))
    felt, _ = _timed("revoke one person, felt", lambda: delegations.stop(portal, owner.login, first))
    _timed("  then the owner's unlock makes the headers left", lambda: delegations.catch_up(portal, owner.login))
    with portal.database.read() as db:
        tasks = db.exec(select(RewrapTask.id).where(RewrapTask.state == "waiting")).all()
    _timed("  then the worker wraps the files' keys anew", lambda: [rewrapping.run(portal, one) for one in tasks])
    return felt


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="myphr-bench-sharing-"))
    redis_server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        with RunningKeyholder(folder / "keyholder") as keyholder:
            portal = cast.new_portal(folder / "home", f"unix://{folder / 'redis.sock'}")
            portal.__dict__["keyholder"] = keyholder.client
            operator, owner, officer = (cast.enter(portal, one) for one in (cast.OPERATOR, cast.PATIENT, cast.PRACTICE))
            keyholder.client.operator_appoint(identities.gid_of(operator.login))
            hospital = authorities.create(portal, operator.login, "St Mary's", "hospital", cast.PRACTICE.email)
            readers = [cast.enter(portal, cast.Person(f"doctor{i}@hospital.example", f"Doctor {i}",
                                                      "an otter under the old bridge")) for i in range(PEOPLE)]
            last_day = (now() + dt.timedelta(days=30)).date()
            for reader in readers:
                authorities.grant(portal, officer.login, hospital.gid, reader.person.email, "role", "cardiologist",
                                  last_day)  # fmt: skip
            _add_items(portal, owner)
            team = Audience("care-team", authority_gid=hospital.gid, attributes=(("role", "cardiologist"),))
            named = Audience("named", gids=tuple(identities.gid_of(reader.login) for reader in readers))
            worst = max(_measure(portal, owner, readers[0], audience) for audience in (team, named))
            worst = max(worst, _measure_by_kind(portal, owner, readers))
            verdict = "met" if worst <= TARGET_REVOKE_SECONDS else "MISSED"
            print(f"revocation felt, worst: {worst:.2f} s, target at most {TARGET_REVOKE_SECONDS:.0f} s: {verdict}")
            portal.database.dispose()
    finally:
        redis_server.terminate()
        redis_server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
