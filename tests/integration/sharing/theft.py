"""How an attacker comes by things: copies of a test's files, database, Redis, keyholder, and what people kept.

Each method of `Thief` gives `Loot` for `tests.attacker.break_in`; nothing of the product's services is asked, except
over the keyholder's socket, as the person who takes part in the theft.
"""

import dataclasses
import shutil
import sqlite3
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates
from myphr.crypto.abe.key_policy import PatientPublic
from myphr.crypto.abe.multi_authority import AuthorityPublic, AuthoritySecret
from myphr.crypto.certificates import Issuer
from myphr.keyholder import master
from myphr.people import identities
from myphr.people.service_keys import ServiceKeys
from tests.attacker import Loot, attribute_keys_in
from tests.cast import SignedIn
from tests.integration.sharing.conftest import Clinic, gid_of
from tests.running_keyholder import RunningKeyholder


@dataclasses.dataclass(frozen=True)
class Thief:
    """`folder`: where the copies go, each into a new one."""

    clinic: Clinic
    keyholder: RunningKeyholder
    folder: Path

    # -- what lies on disks
    def public_values(self) -> Loot:
        """What everybody may know: of the authorities, and of the patient's own."""
        gids = (self.clinic.hospital.gid, self.clinic.registrar.gid)
        papers = [self.keyholder.client.authority_statement(gid) for gid in gids]
        own = identities.verified_statement(self.clinic.portal, gid_of(self.clinic.patient)).statement
        found = [AuthorityPublic.from_bytes(one) for one in (*map(_public_in, papers), own.authority)]
        return Loot(publics=tuple(found), patients=(PatientPublic.from_bytes(own.key_policy),))

    def database(self) -> Loot:
        """All files of the database, its journal too; read as they were at this moment."""
        copy = self._copy(self.clinic.portal.settings.home / "db")
        return Loot(databases=(copy / "myphr.sqlite",)) | self.public_values()

    def store(self) -> Loot:
        return Loot(stores=(self._copy(self.clinic.portal.settings.home / "store"),))

    def redis(self) -> Loot:
        client = self.clinic.portal.redis
        return Loot(redis=tuple(part for name in client.keys("*") for part in (name, client.dump(name) or b"")))

    def portal_keys(self) -> Loot:
        copy = self._copy(self.clinic.portal.settings.keys_dir)
        return Loot(folders=(copy,), rings=frozenset({ServiceKeys.load(copy).worker.private}))

    def at_rest(self) -> Loot:
        """Database, object store and Redis."""
        return self.database() | self.store() | self.redis()

    # -- the keyholder
    def sealed_keyholder(self) -> Loot:
        """Its folder without the passphrase."""
        return Loot(folders=(self._copy(self.keyholder.folder),))

    def halves(self) -> Loot:
        """All the vault holds, opened."""
        key, db = self._opened()
        rows = db.execute("SELECT compartment, epoch, sealed FROM half WHERE sealed <> ''").fetchall()
        return Loot(halves=frozenset(key.open("half", f"{one}|{epoch}", sealed) for one, epoch, sealed in rows))

    def authority(self, gid: str) -> Loot:
        """An organisation's master key."""
        key, db = self._opened()
        [(sealed,)] = db.execute("SELECT sealed_secret FROM authority WHERE gid = ?", (gid,)).fetchall()
        return Loot(authorities=(AuthoritySecret.from_bytes(key.open("authority", gid, sealed)),))

    def authority_signing_key(self, gid: str) -> ec.EllipticCurvePrivateKey:
        key, db = self._opened()
        [(sealed,)] = db.execute("SELECT sealed_signing FROM authority WHERE gid = ?", (gid,)).fetchall()
        return certificates.signing_key_from_bytes(key.open("authority-signing", gid, sealed))

    def ca(self) -> Issuer:
        """The CA's online key."""
        key, db = self._opened()
        number, der, sealed = db.execute("SELECT id, certificate, sealed_key FROM issuer ORDER BY id DESC").fetchone()
        return Issuer(der, certificates.signing_key_from_bytes(key.open("issuer", str(number), sealed)))

    def whole_keyholder(self) -> Loot:
        """Its folder with the passphrase: the halves and the master keys of both organisations."""
        both = self.authority(self.clinic.hospital.gid) | self.authority(self.clinic.registrar.gid)
        return self.sealed_keyholder() | self.halves() | both

    def _opened(self) -> tuple[master.MasterKey, sqlite3.Connection]:
        copy = self._copy(self.keyholder.folder)
        copy.chmod(0o700)
        key = master.load(copy, self.keyholder.passphrase_file.read_text().strip())
        return key, sqlite3.connect(copy / "store.sqlite")

    # -- people who take part
    def ring_of(self, who: SignedIn) -> Loot:
        """Somebody's private key, as they have it while signed in."""
        return Loot(rings=frozenset({who.login.ring().private_key}))

    def attribute_keys_of(self, who: SignedIn, *authorities: str) -> Loot:
        """What organisations give this person today, if they ask themself."""
        found = Loot()
        for gid in authorities or (self.clinic.hospital.gid, self.clinic.registrar.gid):
            sealed = self.keyholder.client.attribute_keys(identities.proof_for(who.login), gid)
            opened = who.login.ring().open(sealed.sealed, context=sealed.context)
            found |= Loot(attribute_keys=attribute_keys_in(opened))
        return found

    def half_for(self, who: SignedIn, share_id: str, epoch: int = 0) -> Loot:
        """The half that the vault gives this person today."""
        released = self.keyholder.client.vault_release(identities.proof_for(who.login), share_id, epoch)
        return Loot(halves=frozenset({who.login.ring().open(released.sealed, context=released.context)}))

    def _copy(self, of: Path) -> Path:
        target = self.folder / f"{len(list(self.folder.iterdir()))}"
        shutil.copytree(of, target, ignore=lambda _, names: [one for one in names if one.endswith(".sock")])
        return target


def _public_in(papers: object) -> bytes:
    statement = papers.statement  # type: ignore[attr-defined]
    size = int.from_bytes(statement[33:35], "big")  # magic 8, version 1, GID 16, time 8
    return statement[35 : 35 + size]
