"""Attribute authorities: their master keys, officers, memberships, epochs, and the keys of members.

A master key is opened only while keys are issued. An attribute's epoch is a counter that only grows: by one when a
membership is taken, ends, or its member is revoked. Spec: docs/formats/keyholder.md; the scheme is crypto/abe.
"""

import sqlite3
import struct

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates, proofs
from myphr.crypto.abe.multi_authority import AuthoritySecret, issue, new_authority
from myphr.crypto.abe.policy import Attribute
from myphr.crypto.certificates import Kind
from myphr.crypto.envelope import context_for, seal_to
from myphr.crypto.statements import (
    STATEMENT_BYTES_MAX,
    EpochTable,
    Holding,
    read_authority_statement,
    read_key_statement,
)
from myphr.errors import (
    CertificateRefused,
    EnvelopeError,
    KeyholderConflict,
    KeyholderProtocolError,
    KeyholderUnavailable,
    NotFound,
    PortalError,
)
from myphr.keyholder import arguments as a
from myphr.keyholder.ca import moment
from myphr.keyholder.desk import Asked, Call, Desk, Reply
from myphr.keyholder.identities import certify, check_operator
from myphr.keyholder.store import fact

GRANT_SECONDS_MAX = 400 * 86_400
MEMBERSHIPS_MAX = 20_000
ATTRIBUTES_MAX = 2000
RENEW_SECONDS = 30 * 86_400


# -- making and closing -----------------------------------------------------------------------------------
def create(desk: Desk, asked: Asked) -> Reply:
    gid, officers = asked.arguments["authority"], set(asked.arguments["officers"])
    with desk.store.write() as db:
        desk.spend(db, asked.request)
        if desk.ca:
            check_operator(db, asked.gid)
        row = db.execute("SELECT state FROM authority WHERE gid = ?", (gid,)).fetchone()
        if row is not None and (row["state"] == "closed" or _officers(db, gid) != officers):
            raise KeyholderConflict("made before, with other officers, or closed")
        if row is not None and row["state"] == "open":
            return _papers(db, gid)
        if row is None:
            _make(desk, db, gid, officers)
        request, public = _request_and_public(desk, db, gid)
        if desk.ca:
            certificate = desk.ca.issue(db, request, Kind.AUTHORITY)
            statement = certify(desk, db, gid, public, _signing_public(desk, db, gid), desk.gid)
            return _opened(db, gid, certificate, statement)
    # The keys lie sealed in the store before another machine hears of them: a crash from here on loses nothing.
    try:
        given = desk.ask_host(_ca_host(desk), "ca.certify",
                              {"request": request, "public": public, "evidence": asked.data})  # fmt: skip
    except KeyholderUnavailable:
        raise
    except PortalError:
        with desk.store.write() as db:
            for table, column in (("officer", "authority"), ("authority", "gid")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (gid,))  # noqa: S608 - two fixed names
        raise
    with desk.store.write() as db:
        return _opened(db, gid, proofs.from_base64(given["certificate"]), proofs.from_base64(given["statement"]))


def _make(desk: Desk, db: sqlite3.Connection, gid: str, officers: set[str]) -> None:
    """Keys and a first, empty epoch table; nobody is told yet."""
    secret, signing = new_authority(gid), certificates.new_signing_key()
    table = EpochTable(gid, 1, desk.now(), {}).sign(signing)
    db.execute(
        "INSERT INTO authority VALUES (?, 'pending', '', '', ?, ?, 1, ?, 0)",
        (gid, desk.store.master.seal("authority", gid, secret.to_bytes()),
         desk.store.master.seal("authority-signing", gid, certificates.signing_key_bytes(signing)), table),
    )  # fmt: skip
    db.executemany("INSERT INTO officer VALUES (?, ?)", [(gid, officer) for officer in sorted(officers)])


def _opened(db: sqlite3.Connection, gid: str, certificate: bytes, statement: bytes) -> Reply:
    until = int(certificates.read_certificate(certificate).not_after.timestamp())
    db.execute("UPDATE authority SET state = 'open', certificate = ?, statement = ?, certificate_until = ? "
               "WHERE gid = ? AND state IN ('pending', 'open')", (certificate, statement, until, gid))  # fmt: skip
    return _papers(db, gid)


def set_officers(desk: Desk, asked: Asked) -> Reply:
    gid = asked.arguments["authority"]
    _demand_operator(desk, asked)
    with desk.store.write() as db:
        desk.spend(db, asked.request)
        _open_row(db, gid)
        db.execute("DELETE FROM officer WHERE authority = ?", (gid,))
        db.executemany("INSERT INTO officer VALUES (?, ?)", [(gid, one) for one in asked.arguments["officers"]])
    return {}


def _demand_operator(desk: Desk, asked: Asked) -> None:
    if desk.ca:
        with desk.store.read() as db:
            check_operator(db, asked.gid)
    else:
        desk.ask_host(_ca_host(desk), "ca.operator", {"evidence": asked.data})


def close(desk: Desk, asked: Asked) -> Reply:
    gid = asked.arguments["authority"]
    with desk.store.read() as db:
        if desk.ca:
            check_operator(db, asked.gid)
        if db.execute("SELECT 1 FROM authority WHERE gid = ? AND state <> 'pending'", (gid,)).fetchone() is None:
            raise NotFound
    if not desk.ca:
        desk.ask_host(_ca_host(desk), "ca.close", {"authority": gid, "evidence": asked.data})
    with desk.store.write() as db:
        desk.spend(db, asked.request)
        if desk.ca:
            desk.ca.revoke_identity(db, gid)
        db.execute("UPDATE authority SET state = 'closed', sealed_secret = '', sealed_signing = '' WHERE gid = ?",
                   (gid,))  # fmt: skip
        db.execute("DELETE FROM membership WHERE authority = ?", (gid,))
        db.execute("DELETE FROM officer WHERE authority = ?", (gid,))
    desk.store.forget_deleted()
    return {}


def statement(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    return _papers(db, asked.arguments["authority"])


def _papers(db: sqlite3.Connection, gid: str) -> Reply:
    row = db.execute("SELECT * FROM authority WHERE gid = ? AND state <> 'pending'", (gid,)).fetchone()
    if row is None:
        raise NotFound
    return {"statement": bytes(row["statement"]), "certificate": bytes(row["certificate"]),
            "epochs": bytes(row["epochs"]), "closed": row["state"] == "closed"}  # fmt: skip


def host(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    """Which keyholder holds this authority."""
    gid = asked.arguments["authority"]
    if db.execute("SELECT 1 FROM authority WHERE gid = ? AND state <> 'pending'", (gid,)).fetchone():
        return {"host": desk.gid}
    row = db.execute("SELECT host FROM certified WHERE authority = ?", (gid,)).fetchone()
    if row is None:
        raise NotFound
    return {"host": row["host"]}


# -- memberships ------------------------------------------------------------------------------------------
def _open_row(db: sqlite3.Connection, gid: str, officer: str | None = None) -> sqlite3.Row:
    row = db.execute("SELECT * FROM authority WHERE gid = ? AND state = 'open'", (gid,)).fetchone()
    if row is None or (officer is not None and officer not in _officers(db, gid)):
        raise NotFound
    return row


def _officers(db: sqlite3.Connection, gid: str) -> set[str]:
    return {row["gid"] for row in db.execute("SELECT gid FROM officer WHERE authority = ?", (gid,))}


def grant(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    given, now = asked.arguments, desk.now()
    gid, member, name, value, until = (given[key] for key in ("authority", "member", "name", "value", "until"))
    _open_row(db, gid, asked.gid)
    if not now < until <= now + GRANT_SECONDS_MAX:
        raise KeyholderProtocolError("a grant ends within 400 days, and not before it begins")
    if desk.ca:
        row = db.execute("SELECT state, kind FROM identity WHERE gid = ?", (member,)).fetchone()
        if row is None or row["state"] != "active" or row["kind"] != Kind.PERSON.value:
            raise CertificateRefused("no such member, or revoked")
    lapse(desk, db, gid)
    epoch = _epoch(db, gid, name, value)
    counts = db.execute("SELECT count(*) FROM membership WHERE authority = ?", (gid,)).fetchone()[0]
    known = db.execute("SELECT count(*) FROM epoch WHERE authority = ?", (gid,)).fetchone()[0]
    if counts >= MEMBERSHIPS_MAX or known >= ATTRIBUTES_MAX:
        raise KeyholderProtocolError("this authority is as large as it can be")
    db.execute(
        "INSERT INTO membership VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET until = excluded.until",
        (gid, member, name, value, now, until, epoch),
    )
    return {"epoch": epoch}


def take(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    gid, member, name, value = (asked.arguments[key] for key in ("authority", "member", "name", "value"))
    _open_row(db, gid, asked.gid)
    taken = db.execute(
        "DELETE FROM membership WHERE authority = ? AND member = ? AND name = ? AND value = ?",
        (gid, member, name, value),
    )
    if taken.rowcount:
        _raise_epochs(desk, db, gid, {(name, value)})
    return {"epoch": _epoch(db, gid, name, value)}


def take_all(desk: Desk, db: sqlite3.Connection, member: str) -> list[list[str]]:
    """A person was revoked: takes all they hold here. Returns [authority, name, value] of each attribute raised."""
    rows = db.execute(
        "SELECT authority, name, value FROM membership WHERE member = ? ORDER BY 1, 2, 3", (member,)
    ).fetchall()
    db.execute("DELETE FROM membership WHERE member = ?", (member,))
    db.execute("DELETE FROM officer WHERE gid = ?", (member,))
    for gid in {row["authority"] for row in rows}:
        _raise_epochs(desk, db, gid, {(row["name"], row["value"]) for row in rows if row["authority"] == gid})
    return [[row["authority"], row["name"], row["value"]] for row in rows]


def lapse(desk: Desk, db: sqlite3.Connection, only: str | None = None) -> int:
    """Memberships whose end date has come are taken, as an officer would. Returns how many."""
    where, values = "until <= ?", [desk.now()]
    if only is not None:
        where, values = "until <= ? AND authority = ?", [desk.now(), only]  # type: ignore[list-item]
    rows = db.execute(f"SELECT authority, name, value FROM membership WHERE {where}", values).fetchall()  # noqa: S608
    if rows:
        db.execute(f"DELETE FROM membership WHERE {where}", values)  # noqa: S608
    for gid in {row["authority"] for row in rows}:
        _raise_epochs(desk, db, gid, {(row["name"], row["value"]) for row in rows if row["authority"] == gid})
    return len(rows)


def _epoch(db: sqlite3.Connection, gid: str, name: str, value: str) -> int:
    row = db.execute("SELECT epoch FROM epoch WHERE authority = ? AND name = ? AND value = ?", (gid, name, value))
    found = row.fetchone()
    return found["epoch"] if found else 0


def _raise_epochs(desk: Desk, db: sqlite3.Connection, gid: str, attributes: set[tuple[str, str]]) -> None:
    """These attributes of an open authority get their next epoch, and the table a new version, signed."""
    for name, value in sorted(attributes):
        db.execute("INSERT INTO epoch VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1",
                   (gid, name, value))  # fmt: skip
    row = db.execute("SELECT version, sealed_signing, state FROM authority WHERE gid = ?", (gid,)).fetchone()
    if row["state"] == "closed":
        return
    rows = db.execute("SELECT name, value, epoch FROM epoch WHERE authority = ?", (gid,)).fetchall()
    table = EpochTable(gid, row["version"] + 1, desk.now(), {(r["name"], r["value"]): r["epoch"] for r in rows})
    signed = table.sign(_signing_key(desk, gid, row["sealed_signing"]))
    db.execute("UPDATE authority SET version = ?, epochs = ? WHERE gid = ?", (table.version, signed, gid))


def members(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    gid = asked.arguments["authority"]
    _open_row(db, gid, asked.gid)
    rows = db.execute(
        "SELECT member, name, value, granted_at, until, epoch FROM membership WHERE authority = ? AND until > ? "
        "ORDER BY member, name, value", (gid, desk.now()),
    )  # fmt: skip
    return {"members": [dict(row) for row in rows]}


def holds(db: sqlite3.Connection, member: str, authority: str, name: str, value: str, now: int) -> bool:
    """Whether `member` holds name:value today at an open authority of this keyholder."""
    return db.execute(
        "SELECT 1 FROM membership JOIN authority ON authority.gid = membership.authority "
        "WHERE authority.state = 'open' AND authority = ? AND member = ? AND name = ? AND value = ? AND until > ?",
        (authority, member, name, value, now),
    ).fetchone() is not None  # fmt: skip


# -- keys -------------------------------------------------------------------------------------------------
def keys(desk: Desk, asked: Asked) -> Reply:
    gid, member, wanted, now = asked.arguments["authority"], asked.gid, asked.arguments["wanted"], desk.now()
    hpke = hpke_key(asked)
    with desk.store.read() as db:
        row = _open_row(db, gid)
        held = db.execute("SELECT name, value, epoch FROM membership WHERE authority = ? AND member = ? AND until > ?",
                          (gid, member, now)).fetchall()  # fmt: skip
        today = {(r["name"], r["value"]): _epoch(db, gid, r["name"], r["value"]) for r in held}
    since = {(r["name"], r["value"]): r["epoch"] for r in held}
    asked_for = wanted if wanted is not None else [(name, value, epoch) for (name, value), epoch in today.items()]
    entitled = sorted(
        (name, value, epoch) for name, value, epoch in asked_for
        if (name, value) in today and since[name, value] <= epoch <= today[name, value]
    )[: a.WANTED_MAX]  # fmt: skip
    packed = [struct.pack(">H", len(entitled))]
    holdings: list[bytes] = []
    if held:
        secret = AuthoritySecret.from_bytes(desk.store.master.open("authority", gid, row["sealed_secret"]))
        for name, value, epoch in entitled:
            key = issue(secret, member, Attribute(gid, name, value, epoch)).to_bytes()
            packed += [struct.pack(">H", len(key)), key]
        signing = _signing_key(desk, gid, row["sealed_signing"])
        holdings = [Holding(gid, member, name, value, now).sign(signing) for name, value in sorted(today)]
    return {"sealed": seal_for(hpke, b"".join(packed), context_for("attribute-keys", gid, member)),
            "holdings": holdings[: a.WANTED_MAX]}  # fmt: skip


def hpke_key(asked: Asked) -> bytes:
    """The public key to which the speaker wants things sealed: from a statement signed with the key that signed the
    request. Raises CertificateRefused."""
    assert asked.speaker is not None
    return read_key_statement(asked.arguments["key_statement"], asked.speaker.public_key, asked.gid).hpke


def seal_for(public_key: bytes, secret: bytes, context: bytes) -> bytes:
    try:
        return seal_to(public_key, secret, context=context)
    except EnvelopeError:
        raise CertificateRefused("the key statement has no usable key") from None


def _signing_key(desk: Desk, gid: str, sealed: bytes) -> ec.EllipticCurvePrivateKey:
    return certificates.signing_key_from_bytes(desk.store.master.open("authority-signing", gid, sealed))


def _signing_public(desk: Desk, db: sqlite3.Connection, gid: str) -> bytes:
    row = db.execute("SELECT sealed_signing FROM authority WHERE gid = ?", (gid,)).fetchone()
    return certificates.public_key_bytes(_signing_key(desk, gid, row["sealed_signing"]).public_key())


def _request_and_public(desk: Desk, db: sqlite3.Connection, gid: str) -> tuple[bytes, bytes]:
    row = db.execute("SELECT sealed_secret, sealed_signing FROM authority WHERE gid = ?", (gid,)).fetchone()
    secret = AuthoritySecret.from_bytes(desk.store.master.open("authority", gid, row["sealed_secret"]))
    return certificates.new_request(_signing_key(desk, gid, row["sealed_signing"]), gid), secret.public.to_bytes()


def _ca_host(desk: Desk) -> str:
    with desk.store.read() as db:
        return fact(db, "ca").decode()


# -- the round --------------------------------------------------------------------------------------------
def renew(desk: Desk) -> int:
    """Certificates of authorities that end within 30 days, or whose CA key is no longer trusted, are made anew with the
    statement. Returns how many. What cannot be done now is tried again in the next round."""
    now, due = desk.now(), []
    with desk.store.read() as db:
        chain = desk.chain(db)
        for row in db.execute("SELECT * FROM authority WHERE state = 'open'").fetchall():
            if row["certificate_until"] - now < RENEW_SECONDS or not _still_good(row, chain, now):
                due.append((row["gid"], *_request_and_public(desk, db, row["gid"])))
    for gid, request, public in due:
        if desk.ca:
            with desk.store.write() as db:
                certificate = desk.ca.issue(db, request, Kind.AUTHORITY)
                _opened(db, gid, certificate, certify(desk, db, gid, public, _signing_public(desk, db, gid), desk.gid))
        else:
            given = desk.ask_host(_ca_host(desk), "ca.certify", {"request": request, "public": public})
            with desk.store.write() as db:
                _opened(db, gid, proofs.from_base64(given["certificate"]), proofs.from_base64(given["statement"]))
    return len(due)


def _still_good(row: sqlite3.Row, chain: certificates.Chain, now: int) -> bool:
    try:
        certificates.validate(bytes(row["certificate"]), chain, moment(now))
    except CertificateRefused:
        return False
    for key in chain.issuer_keys():
        try:
            read_authority_statement(bytes(row["statement"]), key, row["gid"])
            return True
        except CertificateRefused:
            continue
    return False


def _officer_list(value: object) -> tuple[str, ...]:
    return a.many(a.gid, a.OFFICERS_MAX, least=1)(value)


_WHAT = {"authority": a.gid, "member": a.gid, "name": a.name, "value": a.value}
STATEMENT = a.blob(STATEMENT_BYTES_MAX)

CALLS: dict[str, Call] = {
    "authority.create": Call(create, "speaker", {"authority": a.gid, "officers": _officer_list}, "own"),
    "authority.officers": Call(set_officers, "speaker", {"authority": a.gid, "officers": _officer_list}, "own"),
    "authority.close": Call(close, "speaker", {"authority": a.gid}, "own"),
    "authority.statement": Call(statement, "anyone", {"authority": a.gid}),
    "authority.host": Call(host, "anyone", {"authority": a.gid}),
    "attribute.grant": Call(grant, "speaker", {**_WHAT, "until": a.seconds}, "write"),
    "attribute.take": Call(take, "speaker", _WHAT, "write"),
    "attribute.members": Call(members, "speaker", {"authority": a.gid}),
    "attribute.keys": Call(keys, "speaker", {
        "authority": a.gid, "key_statement": STATEMENT, "wanted": a.Optional(a.many(a.wanted, a.WANTED_MAX))}, "own"),
}  # fmt: skip
