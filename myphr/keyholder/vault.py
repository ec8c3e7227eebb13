"""The vault: 32 random bytes for each epoch of a compartment, given to whoever its owner's rule lets in today.

Only the owner makes, blocks and destroys; old epochs also whoever brings the owner's signed order. A block holds from
the moment its transaction is on disk. Spec: docs/formats/keyholder.md. The half alone opens nothing; without it neither
do the keys of attributes.
"""

import json
import secrets
import sqlite3
from typing import Any

from myphr.crypto import certificates, proofs
from myphr.crypto.envelope import context_for
from myphr.crypto.statements import STATEMENT_BYTES_MAX, owner_of_order, read_destroy_order, read_holding
from myphr.errors import (
    AccessWithheld,
    CertificateRefused,
    IdentityRevoked,
    KeyholderConflict,
    KeyholderProtocolError,
    NotFound,
    ReasonRequired,
)
from myphr.keyholder import arguments as a
from myphr.keyholder.authorities import STATEMENT, holds, hpke_key, seal_for
from myphr.keyholder.desk import Asked, Call, Desk, Reply
from myphr.keyholder.store import fact

HALF_BYTES = 32
HOLDING_SECONDS = 600
HOLDINGS_MAX = 64
OPENINGS_MAX = 1000
BLOCKS_MAX = 20_000


def create(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    compartment, epoch = asked.arguments["compartment"], asked.arguments["epoch"]
    rule = json.dumps(asked.arguments["rule"], separators=(",", ":"), sort_keys=True)
    hpke = hpke_key(asked)
    row = db.execute("SELECT owner, rule, state FROM compartment WHERE id = ?", (compartment,)).fetchone()
    if row is None:
        db.execute("INSERT INTO compartment VALUES (?, ?, ?, 'open')", (compartment, asked.gid, rule))
    elif row["owner"] != asked.gid:
        raise NotFound
    elif row["state"] != "open" or row["rule"] != rule:
        raise KeyholderConflict("destroyed, or has another rule")
    found = db.execute("SELECT sealed FROM half WHERE compartment = ? AND epoch = ?", (compartment, epoch)).fetchone()
    if found is None:
        half = secrets.token_bytes(HALF_BYTES)
        sealed = desk.store.master.seal("half", f"{compartment}|{epoch}", half)
        db.execute("INSERT INTO half VALUES (?, ?, ?)", (compartment, epoch, sealed))
    elif not found["sealed"]:
        raise KeyholderConflict("this epoch was destroyed")
    else:
        half = _half(desk, compartment, epoch, found["sealed"])
    return {"sealed": seal_for(hpke, half, context_for("vault-half", compartment, str(epoch), asked.gid))}


def set_rule(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    compartment = asked.arguments["compartment"]
    _owned(db, compartment, asked.gid)
    rule = json.dumps(asked.arguments["rule"], separators=(",", ":"), sort_keys=True)
    db.execute("UPDATE compartment SET rule = ? WHERE id = ?", (rule, compartment))
    return {}


def release(desk: Desk, asked: Asked) -> Reply:
    compartment, epoch, now = asked.arguments["compartment"], asked.arguments["epoch"], desk.now()
    hpke = hpke_key(asked)
    # Who is let in is decided and, for break-glass, written down in one transaction: a block that was acknowledged
    # before this one began is seen by it.
    with desk.store.read() as db:
        window, sealed = _let_in(desk, asked, db, compartment, epoch, now)
    until, opened_now = None, False
    if window:
        with desk.store.write() as db:
            desk.spend(db, asked.request)
            window, sealed = _let_in(desk, asked, db, compartment, epoch, now)
            until, opened_now = _window(asked, db, compartment, window, now)
    half = _half(desk, compartment, epoch, sealed)
    envelope = seal_for(hpke, half, context_for("vault-half", compartment, str(epoch), asked.gid))
    return {"sealed": envelope, "window_until": until, "opened_now": opened_now}


def _let_in(
    desk: Desk, asked: Asked, db: sqlite3.Connection, compartment: str, epoch: int, now: int
) -> tuple[int, bytes]:
    """(minutes of the break-glass window or 0, sealed half). Raises NotFound, AccessWithheld."""
    row = db.execute(
        "SELECT owner, rule, sealed FROM compartment JOIN half ON half.compartment = compartment.id "
        "WHERE id = ? AND epoch = ? AND state = 'open'", (compartment, epoch),
    ).fetchone()  # fmt: skip
    if row is None or not row["sealed"]:
        raise NotFound
    if row["owner"] == asked.gid:
        return 0, row["sealed"]
    if _revoked(db, row["owner"]):
        raise AccessWithheld("its owner's identity was revoked")
    blocks = {
        (entry["kind"], entry["target"])
        for entry in db.execute("SELECT kind, target FROM block WHERE owner = ? AND compartment IN ('', ?)",
                                (row["owner"], compartment))
    }  # fmt: skip
    if ("all", "") in blocks or ("gid", asked.gid) in blocks:
        raise AccessWithheld("blocked")
    rule = json.loads(row["rule"])
    if asked.gid in rule["people"] or _holds_enough(asked, db, rule["holders"], blocks, now):
        return rule["window_minutes"], row["sealed"]
    raise AccessWithheld("not let in")


def _holds_enough(
    asked: Asked, db: sqlite3.Connection, holders: list[list[list[str]]], blocks: set[tuple[str, str]], now: int
) -> bool:
    shown: set[tuple[str, str, str]] | None = None
    for every in holders:
        if any(("attribute", a.held_text(*one)) in blocks or ("authority", one[0]) in blocks for one in every):
            continue
        missing = [one for one in every if not holds(db, asked.gid, one[0], one[1], one[2], now)]
        if missing and shown is None:
            shown = _shown(asked, db, now)
        if all(tuple(one) in (shown or set()) for one in missing):
            return True
    return False


def _shown(asked: Asked, db: sqlite3.Connection, now: int) -> set[tuple[str, str, str]]:
    """What the speaker holds at authorities of other keyholders, as they signed it within ten minutes. Their key is the
    one their GID was registered with. Of an authority held here none is taken: our own list knows of a role that was
    taken a moment ago, a holding from before does not."""
    found = set()
    here = fact(db, "gid").decode()
    for data in asked.arguments["holdings"] or ():
        for row in db.execute(
            "SELECT gid, public_key FROM identity JOIN certified ON certified.authority = identity.gid "
            "WHERE gid = ? AND state = 'active' AND host <> ?", (_issuer_of(data), here),
        ):  # fmt: skip
            try:
                holding = read_holding(data, certificates.public_key_from_bytes(bytes(row["public_key"])))
            except CertificateRefused:
                continue
            fresh = -proofs.SKEW_SECONDS_MAX <= now - holding.made_at <= HOLDING_SECONDS
            if holding.member == asked.gid and holding.authority == row["gid"] and fresh:
                found.add((holding.authority, holding.name, holding.value))
    return found


def _issuer_of(holding: bytes) -> str:
    from myphr.crypto.abe.policy import uuid_text

    return uuid_text(holding[9:25])


def _window(asked: Asked, db: sqlite3.Connection, compartment: str, minutes: int, now: int) -> tuple[int, bool]:
    row = db.execute("SELECT max(until) FROM opening WHERE compartment = ? AND member = ? AND until > ?",
                     (compartment, asked.gid, now)).fetchone()  # fmt: skip
    if row[0] is not None:
        return row[0], False
    reason = asked.arguments["reason_sha256"]
    if reason is None:
        raise ReasonRequired
    owner = db.execute("SELECT owner FROM compartment WHERE id = ?", (compartment,)).fetchone()["owner"]
    until = now + 60 * minutes
    db.execute("INSERT INTO opening (compartment, owner, member, reason_sha256, opened_at, until) "
               "VALUES (?, ?, ?, ?, ?, ?)", (compartment, owner, asked.gid, reason, now, until))  # fmt: skip
    return until, True


def _revoked(db: sqlite3.Connection, gid: str) -> bool:
    row = db.execute("SELECT state FROM identity WHERE gid = ?", (gid,)).fetchone()
    return row is not None and row["state"] != "active"


def block(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    compartment = asked.arguments["compartment"] or ""
    kind, target = asked.arguments["block"]
    if kind == "gid" and target == asked.gid:
        raise KeyholderProtocolError("an owner is never blocked")
    if db.execute("SELECT count(*) FROM block WHERE owner = ?", (asked.gid,)).fetchone()[0] >= BLOCKS_MAX:
        raise KeyholderProtocolError("too many blocks")
    touched = _touched(db, compartment, asked.gid)
    db.execute("INSERT OR IGNORE INTO block VALUES (?, ?, ?, ?)", (asked.gid, compartment, kind, target))
    if kind in ("gid", "all"):  # an open break-glass window ends with it
        _end_windows(desk, db, asked.gid, compartment, target)
    return {"compartments": touched}


def _end_windows(desk: Desk, db: sqlite3.Connection, owner: str, compartment: str, member: str) -> None:
    now = desk.now()
    db.execute("UPDATE opening SET until = ? WHERE owner = ? AND until > ? AND (? = '' OR compartment = ?) "
               "AND (? = '' OR member = ?)", (now, owner, now, compartment, compartment, member, member))  # fmt: skip


def unblock(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    compartment = asked.arguments["compartment"] or ""
    kind, target = asked.arguments["block"]
    touched = _touched(db, compartment, asked.gid)
    db.execute("DELETE FROM block WHERE owner = ? AND compartment = ? AND kind = ? AND target = ?",
               (asked.gid, compartment, kind, target))  # fmt: skip
    return {"compartments": touched}


def _touched(db: sqlite3.Connection, compartment: str, owner: str) -> int:
    if compartment:
        _owned(db, compartment, owner)
        return 1
    query = "SELECT count(*) FROM compartment WHERE owner = ? AND state = 'open'"
    return db.execute(query, (owner,)).fetchone()[0]


def destroy(desk: Desk, asked: Asked) -> Reply:
    compartment, epoch = asked.arguments["compartment"], asked.arguments["epoch"]
    with desk.store.write() as db:
        desk.spend(db, asked.request)
        row = db.execute("SELECT owner FROM compartment WHERE id = ?", (compartment,)).fetchone()
        if row is None or row["owner"] != asked.gid:
            raise NotFound
        # The row stays, empty: an epoch that was destroyed is never made again under the same name.
        gone = db.execute("UPDATE half SET sealed = '' WHERE compartment = ? AND sealed <> '' "
                          "AND (? IS NULL OR epoch = ?)", (compartment, epoch, epoch)).rowcount  # fmt: skip
        if epoch is None:
            db.execute("UPDATE compartment SET state = 'destroyed' WHERE id = ?", (compartment,))
    if gone:
        desk.store.forget_deleted()
    return {"halves": gone}


def destroy_old(desk: Desk, asked: Asked) -> Reply:
    """With the owner's order instead of the owner: the halves below one epoch, never the newest that is left."""
    compartment, before, data = (asked.arguments[name] for name in ("compartment", "before", "order"))
    with desk.store.write() as db:
        signer = db.execute("SELECT public_key, state FROM identity WHERE gid = ? AND kind = 'person'",
                            (owner_of_order(data),)).fetchone()  # fmt: skip
        if signer is None:
            raise NotFound
        if signer["state"] != "active":
            raise IdentityRevoked("")
        order = read_destroy_order(data, certificates.public_key_from_bytes(bytes(signer["public_key"])))
        if (order.compartment, order.before) != (compartment, before):
            raise CertificateRefused("order for something else")
        row = db.execute("SELECT owner FROM compartment WHERE id = ?", (compartment,)).fetchone()
        if row is None or row["owner"] != order.owner:
            raise NotFound
        newer = db.execute("SELECT 1 FROM half WHERE compartment = ? AND epoch >= ? AND sealed <> ''",
                           (compartment, before)).fetchone()  # fmt: skip
        if newer is None:
            raise KeyholderConflict("no newer half to go on with")
        gone = db.execute("UPDATE half SET sealed = '' WHERE compartment = ? AND epoch < ? AND sealed <> ''",
                          (compartment, before)).rowcount  # fmt: skip
    if gone:
        desk.store.forget_deleted()
    return {"halves": gone}


def openings(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    compartment = asked.arguments["compartment"]
    if compartment is not None:
        _owned(db, compartment, asked.gid, destroyed=True)
    rows = db.execute(
        "SELECT compartment, member, reason_sha256, opened_at, until FROM opening WHERE owner = ? "
        "AND (? IS NULL OR compartment = ?) ORDER BY id DESC LIMIT ?",
        (asked.gid, compartment, compartment, OPENINGS_MAX),
    )  # fmt: skip
    return {"openings": [dict(row) for row in rows]}


def _owned(db: sqlite3.Connection, compartment: str, owner: str, *, destroyed: bool = False) -> None:
    row = db.execute("SELECT owner, state FROM compartment WHERE id = ?", (compartment,)).fetchone()
    if row is None or row["owner"] != owner or (row["state"] != "open" and not destroyed):
        raise NotFound


def _half(desk: Desk, compartment: str, epoch: int, sealed: bytes) -> bytes:
    return desk.store.master.open("half", f"{compartment}|{epoch}", sealed)


_WHERE: dict[str, Any] = {"compartment": a.uuid, "epoch": a.epoch, "key_statement": STATEMENT}
_BLOCK: dict[str, Any] = {"block": a.block, "compartment": a.Optional(a.uuid)}

CALLS: dict[str, Call] = {
    "vault.create": Call(create, "speaker", {**_WHERE, "rule": a.rule}, "write"),
    "vault.rule": Call(set_rule, "speaker", {"compartment": a.uuid, "rule": a.rule}, "write"),
    "vault.release": Call(release, "speaker", {
        **_WHERE, "reason_sha256": a.Optional(a.blob(32, 32)),
        "holdings": a.Optional(a.many(a.blob(1024), HOLDINGS_MAX))}, "own"),
    "vault.block": Call(block, "speaker", _BLOCK, "write"),
    "vault.unblock": Call(unblock, "speaker", _BLOCK, "write"),
    "vault.destroy": Call(destroy, "speaker", {"compartment": a.uuid, "epoch": a.Optional(a.epoch)}, "own"),
    "vault.destroy_old": Call(destroy_old, "portal", {
        "compartment": a.uuid, "before": a.epoch, "order": a.blob(STATEMENT_BYTES_MAX)}, "own"),
    "vault.openings": Call(openings, "speaker", {"compartment": a.Optional(a.uuid)}),
}  # fmt: skip
