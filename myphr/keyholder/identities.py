"""Calls about GIDs: the CA's four, revocation of a person, operators, other keyholders, and what those ask of the CA.

Runs inside the desk's transactions. Spec: docs/formats/keyholder.md, table of calls.
"""

import sqlite3
from typing import Any

from myphr.crypto import certificates, proofs
from myphr.crypto.abe.multi_authority import AuthorityPublic, check_public
from myphr.crypto.certificates import Chain, Kind
from myphr.crypto.statements import AuthorityStatement
from myphr.errors import (
    AbeError,
    CertificateRefused,
    KeyholderConflict,
    NotFound,
    ProofRefused,
)
from myphr.keyholder import arguments as a
from myphr.keyholder.ca import OwnCa
from myphr.keyholder.desk import Asked, Call, Desk, Reply
from myphr.keyholder.store import fact, set_fact

PUBLIC_BYTES_MAX = 2048
REVOKED_ASKED_MAX = 1000


def hello(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    return {"gid": desk.gid, "ca": desk.ca is not None, "time": desk.now()}


def own_ca(desk: Desk) -> OwnCa:
    if desk.ca is None:
        raise NotFound
    return desk.ca


# -- the CA ---------------------------------------------------------------------------------------------
def ca_issue(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    return {"certificate": own_ca(desk).issue(db, asked.arguments["request"], Kind.PERSON)}


def ca_revoke(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    own_ca(desk).revoke(db, asked.arguments["serial"])
    return {}


def ca_crl(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    return {"crls": desk.chain_parts(db)[2]}


def ca_chain(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    root, intermediates, _ = desk.chain_parts(db)
    return {"root": root, "intermediates": intermediates}


# -- people ---------------------------------------------------------------------------------------------
def check_operator(db: sqlite3.Connection, gid: str) -> None:
    """Raises NotFound for who is no operator: they may not know what they may not do."""
    if db.execute("SELECT 1 FROM operator WHERE gid = ?", (gid,)).fetchone() is None:
        raise NotFound


def identity_revoke(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    from myphr.keyholder.authorities import take_all

    gid = asked.arguments["gid"]
    if gid != asked.gid:
        check_operator(db, asked.gid)
    row = db.execute("SELECT kind FROM identity WHERE gid = ?", (gid,)).fetchone()
    if row is None or row["kind"] != Kind.PERSON.value:
        raise NotFound
    own_ca(desk).revoke_identity(db, gid)
    db.execute("DELETE FROM operator WHERE gid = ?", (gid,))
    return {"raised": take_all(desk, db, gid)}


def identity_revoked(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    """Which of these GIDs were revoked: other keyholders ask it about their members."""
    own_ca(desk)
    gids = asked.arguments["gids"]
    states = {
        gid: row["state"]
        for gid in gids
        if (row := db.execute("SELECT state FROM identity WHERE gid = ?", (gid,)).fetchone())
    }
    return {"revoked": [gid for gid in gids if states.get(gid) == "revoked"]}


def operator_appoint(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    """Also for a GID that has not signed in yet: who sets up a portal names its operator first."""
    own_ca(desk)
    row = db.execute("SELECT kind, state FROM identity WHERE gid = ?", (asked.arguments["gid"],)).fetchone()
    if row is not None and (row["kind"] != Kind.PERSON.value or row["state"] != "active"):
        raise NotFound
    db.execute("INSERT OR IGNORE INTO operator VALUES (?)", (asked.arguments["gid"],))
    return {}


def operator_dismiss(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    db.execute("DELETE FROM operator WHERE gid = ?", (asked.arguments["gid"],))
    return {}


# -- other keyholders -------------------------------------------------------------------------------------
def host_register(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    """A certificate for another keyholder, and all it needs to know of us. Again with the same key: the address is
    changed and the certificate new."""
    der = own_ca(desk).issue(db, asked.arguments["request"], Kind.HOST)
    gid = certificates.read_certificate(der).gid
    if gid == desk.gid:
        raise KeyholderConflict("that is this keyholder itself")
    db.execute("INSERT OR REPLACE INTO peer VALUES (?, ?)", (gid, asked.arguments["address"]))
    root, intermediates, crls = desk.chain_parts(db)
    return {"certificate": der, "ca": desk.gid, "root": root, "intermediates": intermediates, "crls": crls}


def host_forget(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    """Another keyholder is not to be believed any more: its certificate and those of its authorities are revoked."""
    gid = asked.arguments["gid"]
    row = db.execute("SELECT kind FROM identity WHERE gid = ?", (gid,)).fetchone()
    if row is None or row["kind"] != Kind.HOST.value or gid == desk.gid:
        raise NotFound
    db.execute("DELETE FROM peer WHERE gid = ?", (gid,))
    for entry in db.execute("SELECT authority FROM certified WHERE host = ?", (gid,)).fetchall():
        own_ca(desk).revoke_identity(db, entry["authority"])
    own_ca(desk).revoke_identity(db, gid)
    return {}


def host_renew(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    """A new certificate for the host that asks."""
    gid, _ = certificates.read_request(asked.arguments["request"])
    if gid != asked.peer.host:
        raise NotFound
    return {"certificate": own_ca(desk).issue(db, asked.arguments["request"], Kind.HOST)}


def ca_certify(desk: Desk, asked: Asked) -> Reply:
    """Certificate and statement for an authority on the host that asks. `evidence`: the operator's own request to that
    host, whose proof is checked here too; without it only what was certified before is made anew."""
    ca = own_ca(desk)
    gid, key = certificates.read_request(asked.arguments["request"])
    public = asked.arguments["public"]
    evidence = asked.arguments["evidence"]
    operator = _operator_behind(desk, asked, "authority.create", gid) if evidence else None
    check_possession(public, gid)
    with desk.store.write() as db:
        known = db.execute("SELECT host, public FROM certified WHERE authority = ?", (gid,)).fetchone()
        if known is None and operator is None:
            raise NotFound
        if known is not None and (known["host"] != asked.peer.host or bytes(known["public"]) != public):
            raise KeyholderConflict("certified with other keys or for another host")
        if operator is not None:
            request = proofs.read_request(evidence)
            check_operator(db, operator)
            desk.spend(db, request)
        certificate = ca.issue(db, asked.arguments["request"], Kind.AUTHORITY)
        statement = certify(desk, db, gid, public, certificates.public_key_bytes(key), asked.peer.host)
    return {"certificate": certificate, "statement": statement}


def ca_close(desk: Desk, asked: Asked) -> Reply:
    """The authority on the host that asks is closed: its certificate goes on the CRL. With the operator's evidence."""
    gid = asked.arguments["authority"]
    operator = _operator_behind(desk, asked, "authority.close", gid)
    with desk.store.write() as db:
        known = db.execute("SELECT host FROM certified WHERE authority = ?", (gid,)).fetchone()
        if known is None or known["host"] != asked.peer.host:
            raise NotFound
        check_operator(db, operator)
        desk.spend(db, proofs.read_request(asked.arguments["evidence"]))
        own_ca(desk).revoke_identity(db, gid)
    return {}


def ca_operator(desk: Desk, asked: Asked) -> Reply:
    """Whether the proof in `evidence` (a request about an authority, made to the host that asks) is an operator's."""
    request = proofs.read_request(asked.arguments["evidence"])
    operator = _operator_behind(desk, asked, request.call, str(request.arguments.get("authority")))
    with desk.store.write() as db:
        check_operator(db, operator)
        desk.spend(db, request)
    return {}


def _operator_behind(desk: Desk, asked: Asked, call: str, authority: str) -> str:
    request = proofs.read_request(asked.arguments["evidence"])
    speaker = desk.check_proof(request, keyholder=asked.peer.host)
    if request.call != call or request.arguments.get("authority") != authority:
        raise ProofRefused("evidence of something else")
    return speaker.gid


def check_possession(public: bytes, gid: str) -> None:
    """Raises CertificateRefused unless these are the public values of authority `gid`, with a proof that holds."""
    try:
        check_public(AuthorityPublic.from_bytes(public), gid)
    except AbeError as error:
        raise CertificateRefused(f"public value: {error.code}") from None


def certify(
    desk: Desk, db: sqlite3.Connection, gid: str, public: bytes, signing_public: bytes, host: str
) -> bytes:
    """The CA's statement about an authority, noted with the host that holds its keys."""
    statement = AuthorityStatement(gid, desk.now(), public, signing_public).sign(own_ca(desk).sign_with(db).key)
    db.execute("INSERT OR REPLACE INTO certified VALUES (?, ?, ?, ?)", (gid, host, public, statement))
    return statement


# -- a joined host ----------------------------------------------------------------------------------------
def crl_update(desk: Desk, asked: Asked, db: sqlite3.Connection) -> Reply:
    """Newer CRLs, from anyone: they are signed, and one that is older than ours is refused."""
    if desk.ca:
        raise NotFound
    return {"taken": take_chain(desk, db, None, asked.arguments["crls"])}


def take_chain(
    desk: Desk, db: sqlite3.Connection, intermediates: tuple[bytes, ...] | None, crls: tuple[bytes, ...]
) -> bool:
    """On a joined host: what the CA's host tells of chain and CRLs becomes ours, if the root signed it and it is no
    older. Returns whether anything changed. Raises CertificateRefused."""
    now_known = desk.chain_parts(db)
    found = Chain(now_known[0], intermediates or now_known[1], crls)
    before = desk.chain(db)
    if not found.at_least(before):
        raise CertificateRefused("older CRLs than the ones known here")
    parts = {"intermediates": intermediates or now_known[1], "crls": crls}
    if proofs.dump(parts) == fact(db, "chain"):
        return False
    set_fact(db, "chain", proofs.dump(parts))
    return True


def _public(value: Any) -> bytes:
    return a.blob(PUBLIC_BYTES_MAX)(value)


_REQUEST = a.blob(certificates.CERTIFICATE_BYTES_MAX)
_CRLS = a.many(a.blob(certificates.CRL_BYTES_MAX), 16, least=1)
_EVIDENCE = a.blob(proofs.REQUEST_BYTES_MAX)

CALLS: dict[str, Call] = {
    "hello": Call(hello, "anyone", {}),
    "ca.issue": Call(ca_issue, "portal", {"request": _REQUEST}, "write"),
    "ca.revoke": Call(ca_revoke, "portal", {"serial": a.serial}, "write"),
    "ca.crl": Call(ca_crl, "anyone", {}),
    "ca.chain": Call(ca_chain, "anyone", {}),
    "ca.certify": Call(ca_certify, "host", {
        "request": _REQUEST, "public": _public, "evidence": a.Optional(_EVIDENCE)}, "own"),
    "ca.close": Call(ca_close, "host", {"authority": a.gid, "evidence": _EVIDENCE}, "own"),
    "ca.operator": Call(ca_operator, "host", {"evidence": _EVIDENCE}, "own"),
    "crl.update": Call(crl_update, "anyone", {"crls": _CRLS}, "write"),
    "identity.revoke": Call(identity_revoke, "speaker", {"gid": a.gid}, "write"),
    "identity.revoked": Call(identity_revoked, "anyone", {"gids": a.many(a.gid, REVOKED_ASKED_MAX)}),
    "operator.appoint": Call(operator_appoint, "machine", {"gid": a.gid}, "write"),
    "operator.dismiss": Call(operator_dismiss, "machine", {"gid": a.gid}, "write"),
    "host.register": Call(host_register, "machine", {"request": _REQUEST, "address": a.address}, "write"),
    "host.forget": Call(host_forget, "machine", {"gid": a.gid}, "write"),
    "host.renew": Call(host_renew, "host", {"request": _REQUEST}, "write"),
}  # fmt: skip
