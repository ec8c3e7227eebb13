"""The CA: four calls behind which another CA can stand in (issue, revoke, crl, chain), and our own behind them.

Our own: a root that is made once and taken offline, an intermediate that signs here, user certificates of 24 h,
authorities' and hosts' of 90 d, a CRL every hour and at each revocation. Spec: docs/formats/keyholder.md.
"""

import datetime as dt
import sqlite3
from collections.abc import Callable
from typing import Protocol

from myphr.crypto import certificates
from myphr.crypto.certificates import Issuer, Kind
from myphr.crypto.passwords import unwrap_by_recovery, wrap_by_recovery
from myphr.errors import CertificateRefused, IdentityRevoked, KeyholderConflict, NotFound
from myphr.keyholder.master import MasterKey
from myphr.keyholder.store import fact, set_fact

ROOT_LIFETIME = dt.timedelta(days=20 * 365)
INTERMEDIATE_LIFETIME = dt.timedelta(days=5 * 365)
CRL_LIFETIME = dt.timedelta(hours=2)
CRL_SECONDS = 3600  # made anew when this old: a reader that asks every hour always has a current one
ROOT_CONTEXT = b"myphr/ca-root/1"
Clock = Callable[[], float]


def moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(seconds), dt.timezone.utc)


class CertificateAuthority(Protocol):
    """The whole of what the keyholder asks of a CA. Each call joins the caller's transaction `db`, where it has one."""

    def issue(self, db: sqlite3.Connection, request: bytes, kind: Kind) -> bytes:
        """A certificate (DER) for a request (PKCS #10, DER). Raises CertificateRefused, IdentityRevoked."""

    def revoke(self, db: sqlite3.Connection, serial_hex: str) -> None:
        """Put a serial on the CRL at once; a second time is no harm. Raises NotFound for one that was never given."""

    def crl(self, db: sqlite3.Connection) -> tuple[bytes, ...]:
        """The current CRLs (DER): one of each intermediate, one of the root."""

    def chain(self, db: sqlite3.Connection) -> tuple[bytes, tuple[bytes, ...]]:
        """(root, intermediates), DER."""


class OwnCa:
    """Our own CA. Stateless but for the store: every method works inside the caller's transaction."""

    def __init__(self, master: MasterKey, clock: Clock) -> None:
        self._master = master
        self._clock = clock
        self._newest: tuple[int, Issuer] | None = None

    # -- the four calls
    def issue(self, db: sqlite3.Connection, request: bytes, kind: Kind) -> bytes:
        """The first certificate for a GID fixes its key and kind for good: whoever takes over the portal later gets no
        certificate for a GID that exists."""
        gid, public = certificates.read_request(request)
        key, now = certificates.public_key_bytes(public), int(self._clock())
        row = db.execute("SELECT kind, public_key, state FROM identity WHERE gid = ?", (gid,)).fetchone()
        if row is None:
            if db.execute("SELECT 1 FROM identity WHERE public_key = ?", (key,)).fetchone():
                raise CertificateRefused("this key belongs to another GID")
            db.execute("INSERT INTO identity (gid, kind, public_key, registered_at) VALUES (?, ?, ?, ?)",
                       (gid, kind.value, key, now))  # fmt: skip
        elif row["state"] != "active":
            raise IdentityRevoked(gid)
        elif bytes(row["public_key"]) != key or row["kind"] != kind.value:
            raise CertificateRefused("this GID has another key")
        number, issuer = self._issuer(db)
        der = certificates.issue(issuer, gid, public, kind, moment(now))
        facts = certificates.read_certificate(der)
        db.execute("INSERT INTO certificate (serial, issuer, gid, until) VALUES (?, ?, ?, ?)",
                   (facts.serial_hex, number, gid, int(facts.not_after.timestamp())))  # fmt: skip
        return der

    def revoke(self, db: sqlite3.Connection, serial_hex: str) -> None:
        row = db.execute("SELECT issuer, revoked_at FROM certificate WHERE serial = ?", (serial_hex,)).fetchone()
        if row is None:
            raise NotFound
        if row["revoked_at"] is None:
            now = int(self._clock())
            db.execute("UPDATE certificate SET revoked_at = ? WHERE serial = ?", (now, serial_hex))
            self._make_crl(db, row["issuer"])

    def crl(self, db: sqlite3.Connection) -> tuple[bytes, ...]:
        rows = db.execute("SELECT crl FROM issuer WHERE until > ? ORDER BY id DESC", (int(self._clock()),)).fetchall()
        return (*(bytes(row["crl"]) for row in rows), fact(db, "root-crl"))

    def chain(self, db: sqlite3.Connection) -> tuple[bytes, tuple[bytes, ...]]:
        rows = db.execute(
            "SELECT certificate FROM issuer WHERE until > ? ORDER BY id DESC", (int(self._clock()),)
        ).fetchall()
        return fact(db, "root"), tuple(bytes(row["certificate"]) for row in rows)

    # -- beyond the four
    def revoke_identity(self, db: sqlite3.Connection, gid: str) -> None:
        """The GID ends for good, with every certificate it has. Raises NotFound for one that was never registered."""
        if db.execute("SELECT 1 FROM identity WHERE gid = ?", (gid,)).fetchone() is None:
            raise NotFound
        now = int(self._clock())
        db.execute("UPDATE identity SET state = 'revoked', revoked_at = coalesce(revoked_at, ?) WHERE gid = ?",
                   (now, gid))  # fmt: skip
        issuers = db.execute(
            "SELECT DISTINCT issuer FROM certificate WHERE gid = ? AND until > ? AND revoked_at IS NULL", (gid, now)
        ).fetchall()
        db.execute("UPDATE certificate SET revoked_at = ? WHERE gid = ? AND revoked_at IS NULL", (now, gid))
        for row in issuers:
            self._make_crl(db, row["issuer"])

    def sign_with(self, db: sqlite3.Connection) -> Issuer:
        """The newest intermediate, for statements about authorities."""
        return self._issuer(db)[1]

    def is_due(self, db: sqlite3.Connection) -> bool:
        """Whether a CRL is an hour old, so that `refresh` has something to do."""
        now = int(self._clock())
        return db.execute("SELECT 1 FROM issuer WHERE until > ? AND abs(? - crl_made_at) >= ?",
                          (now, now, CRL_SECONDS)).fetchone() is not None  # fmt: skip

    def refresh(self, db: sqlite3.Connection) -> None:
        """CRLs that are an hour old are made anew; rows of certificates that ended long ago go."""
        now = int(self._clock())
        db.execute("DELETE FROM certificate WHERE until < ?", (now - 86_400,))
        old = db.execute("SELECT id FROM issuer WHERE until > ? AND abs(? - crl_made_at) >= ?",
                         (now, now, CRL_SECONDS)).fetchall()  # fmt: skip
        for row in old:
            self._make_crl(db, row["id"])

    def _issuer(self, db: sqlite3.Connection) -> tuple[int, Issuer]:
        row = db.execute("SELECT id, certificate, sealed_key FROM issuer ORDER BY id DESC LIMIT 1").fetchone()
        if row is None:
            raise KeyholderConflict("this keyholder has no CA")
        if self._newest is None or self._newest[0] != row["id"]:
            key = certificates.signing_key_from_bytes(self._master.open("issuer", str(row["id"]), row["sealed_key"]))
            self._newest = (row["id"], Issuer(bytes(row["certificate"]), key))
        return self._newest

    def _make_crl(self, db: sqlite3.Connection, number: int) -> None:
        row = db.execute("SELECT * FROM issuer WHERE id = ?", (number,)).fetchone()
        key = certificates.signing_key_from_bytes(self._master.open("issuer", str(number), row["sealed_key"]))
        now = int(self._clock())
        revoked = [
            (int(entry["serial"], 16), moment(entry["revoked_at"]))
            for entry in db.execute(
                "SELECT serial, revoked_at FROM certificate WHERE issuer = ? AND revoked_at IS NOT NULL AND until > ?",
                (number, now - 3600),
            )
        ]
        crl = certificates.issue_crl(Issuer(bytes(row["certificate"]), key), revoked, number=row["crl_number"] + 1,
                                     now=moment(now), lifetime=CRL_LIFETIME)  # fmt: skip
        db.execute("UPDATE issuer SET crl = ?, crl_number = crl_number + 1, crl_made_at = ? WHERE id = ?",
                   (crl, now, number))  # fmt: skip


# -- the root, offline --------------------------------------------------------------------------------
def seal_root(root: Issuer, code: str) -> bytes:
    """The root's key under a recovery code (docs/formats/envelope.md): what is taken away on a stick and on paper."""
    return wrap_by_recovery(code, certificates.signing_key_bytes(root.key), context=ROOT_CONTEXT)


def open_root(certificate: bytes, sealed: bytes, code: str) -> Issuer:
    """Raises RecoveryFailed or EnvelopeError for another code, CertificateRefused for another certificate."""
    key = certificates.signing_key_from_bytes(unwrap_by_recovery(code, sealed, context=ROOT_CONTEXT))
    if certificates.ca_public_key(certificate) != certificates.public_key_bytes(key.public_key()):
        raise CertificateRefused("this is not the key of this root")
    return Issuer(certificate, key)


def add_intermediate(
    db: sqlite3.Connection, master: MasterKey, root: Issuer, now: dt.datetime, *, revoke_others: bool = False
) -> None:
    """A new intermediate below `root`, used from now on. The ones before stay valid until they end, unless they are
    revoked (their key is believed stolen): then every certificate below them is worth nothing at once."""
    before = db.execute("SELECT id, certificate FROM issuer").fetchall()
    number = db.execute("SELECT coalesce(max(id), 0) + 1 FROM issuer").fetchone()[0]
    issuer = certificates.new_intermediate(root, now, INTERMEDIATE_LIFETIME)
    crl = certificates.issue_crl(issuer, [], number=1, now=now, lifetime=CRL_LIFETIME)
    sealed = master.seal("issuer", str(number), certificates.signing_key_bytes(issuer.key))
    until = int((now + INTERMEDIATE_LIFETIME).timestamp())
    db.execute("INSERT INTO issuer VALUES (?, ?, ?, ?, ?, ?, ?)",
               (number, issuer.certificate, sealed, until, crl, 1, int(now.timestamp())))  # fmt: skip
    revoked: list[tuple[int, dt.datetime]] = []
    crl_number = 1
    if before:
        revoked = certificates.crl_entries(fact(db, "root-crl"))
        crl_number = certificates.crl_number(fact(db, "root-crl")) + 1
    if revoke_others:
        known = {serial for serial, _ in revoked}
        serials = [certificates.ca_serial(bytes(row["certificate"])) for row in before]
        revoked += [(serial, now) for serial in serials if serial not in known]
        db.execute("UPDATE issuer SET until = 0 WHERE id <> ?", (number,))
    set_fact(db, "root", root.certificate)
    set_fact(db, "root-crl", certificates.issue_crl(root, revoked, number=crl_number, now=now,
                                                    lifetime=INTERMEDIATE_LIFETIME))  # fmt: skip
