"""Making a keyholder: its folder with master key and store, the CA's root beside it to be taken away, joining a CA.

Everything is made in a folder beside and moved into place at the end, so a crash leaves nothing half made. Called by
the command line, as the user who owns the portal or as root.
"""

import datetime as dt
import hashlib
import os
import pwd
import shutil
from collections.abc import Mapping
from pathlib import Path

from myphr.crypto import certificates, proofs
from myphr.crypto.certificates import Chain, Kind
from myphr.crypto.passwords import new_recovery_code
from myphr.errors import ConfigurationError
from myphr.keyholder import ca, master
from myphr.keyholder.store import FILE, Store, set_fact

_TAKE_AWAY = """This folder holds the root of the portal's certificates (CA). The portal does not need it to run.

Take it away:  1. copy root.sealed and root.der to a stick (two are better) and lock it away;
               2. write down or print the code in root-code.txt, and keep it in another place than the stick;
               3. delete this folder.

You need both again to renew the intermediate certificate (every five years, or when its key may be stolen):
    python -m myphr.keyholder renew-intermediate --root-folder <copy of this folder> ...
Whoever has both can make certificates that this portal believes; they still cannot open any record.
"""


def initialise(
    folder: Path, root_folder: Path | None, passphrase: str, *, now: dt.datetime, memory_kib: int, passes: int,
    user: str | None = None,
) -> str:  # fmt: skip
    """A new keyholder in `folder`; with `root_folder` also its CA. Returns its GID. Raises ConfigurationError if there
    is one already."""
    if folder.exists():
        raise ConfigurationError("there is a keyholder in this folder already")
    draft = _draft(folder)
    key = master.create(draft, passphrase, memory_kib=memory_kib, passes=passes)
    store = Store.create(draft, key)
    gid, signing = certificates.new_gid(), certificates.new_signing_key()
    with store.write() as db:
        set_fact(db, "gid", gid.encode())
        set_fact(db, "sealed-host-key", key.seal("host-key", gid, certificates.signing_key_bytes(signing)))
        if root_folder is not None:
            root = certificates.new_root(now, ca.ROOT_LIFETIME)
            ca.add_intermediate(db, key, root, now)
            own = ca.OwnCa(key, now.timestamp).issue(db, certificates.new_request(signing, gid), Kind.HOST)
            set_fact(db, "certificate", own)
            _write_root(root_folder, root)
    store.forget_deleted()
    store.close()
    if user is not None:
        owner = pwd.getpwnam(user)
        for path in (*draft.iterdir(), draft):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    draft.replace(folder)
    master.sync(folder.parent)
    return gid


def _draft(folder: Path) -> Path:
    draft = folder.with_name(folder.name + ".new")
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir(mode=0o700, parents=True)
    draft.chmod(0o700)
    return draft


def _write_root(folder: Path, root: certificates.Issuer) -> None:
    if folder.exists():  # of a set-up that was cut off before its keyholder was in place, or of one that was lost
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        folder.replace(aside)
    draft = _draft(folder)
    code = new_recovery_code()
    master.write_new(draft / "root.sealed", ca.seal_root(root, code))
    master.write_new(draft / "root.der", root.certificate)
    master.write_new(draft / "root-code.txt", f"{code}\n".encode())
    master.write_new(draft / "TAKE-THIS-AWAY.txt", _TAKE_AWAY.encode())
    draft.replace(folder)
    master.sync(folder.parent)


def renew_intermediate(
    folder: Path, passphrase: str, root_folder: Path, code: str, *, now: dt.datetime, revoke_others: bool
) -> None:
    """A new intermediate below the root that was fetched from where it lies. The keyholder must not be running.

    Raises RecoveryFailed or EnvelopeError for another code, ConfigurationError for another root."""
    root = ca.open_root((root_folder / "root.der").read_bytes(), (root_folder / "root.sealed").read_bytes(), code)
    key = master.load(folder, passphrase)
    store = Store(folder, key)
    try:
        with store.write() as db:
            known = db.execute("SELECT value FROM fact WHERE name = 'root'").fetchone()
            if known is None or bytes(known["value"]) != root.certificate:
                raise ConfigurationError("this is the root of another CA")
            ca.add_intermediate(db, key, root, now, revoke_others=revoke_others)
    finally:
        store.close()


# -- a keyholder of another host ----------------------------------------------------------------------------
def request_to_join(folder: Path, passphrase: str) -> bytes:
    """What the CA's operator needs to register this keyholder: a certificate request (DER)."""
    key = master.load(folder, passphrase)
    store = Store(folder, key)
    try:
        with store.read() as db:
            facts = {row["name"]: bytes(row["value"]) for row in db.execute("SELECT name, value FROM fact")}
    finally:
        store.close()
    gid = facts["gid"].decode()
    signing = certificates.signing_key_from_bytes(key.open("host-key", gid, facts["sealed-host-key"]))
    return certificates.new_request(signing, gid)


def join(folder: Path, passphrase: str, bundle: Mapping[str, object], address: str, *, now: dt.datetime) -> str:
    """Takes what `register` on the CA's host gave out. From here on the CA in it is believed: compare the root's
    fingerprint, which is returned, with the one shown there. Raises CertificateRefused, ConfigurationError."""
    root, own = proofs.from_base64(bundle["root"]), proofs.from_base64(bundle["certificate"])
    intermediates, crls = (
        tuple(proofs.from_base64(one) for one in part) if isinstance(part, list) else ()
        for part in (bundle["intermediates"], bundle["crls"])
    )
    gid = certificates.check_gid(bundle["ca"])
    facts = certificates.validate(own, Chain(root, intermediates, crls), now)
    store = Store(folder, master.load(folder, passphrase))
    try:
        with store.write() as db:
            mine = db.execute("SELECT value FROM fact WHERE name = 'gid'").fetchone()["value"].decode()
            known = db.execute("SELECT value FROM fact WHERE name = 'root'").fetchone()
            if facts.gid != mine:
                raise ConfigurationError("this was made for another keyholder")
            if known is not None and bytes(known["value"]) != root:
                raise ConfigurationError("this keyholder has joined another CA")
            set_fact(db, "root", root)
            set_fact(db, "ca", gid.encode())
            set_fact(db, "certificate", own)
            set_fact(db, "chain", proofs.dump({"intermediates": intermediates, "crls": crls}))
            db.execute("DELETE FROM peer")
            db.execute("INSERT INTO peer VALUES (?, ?)", (gid, address))
    finally:
        store.close()
    return fingerprint(root)


def fingerprint(der: bytes) -> str:
    """SHA-256 in groups of four, to be read out and compared."""
    text = hashlib.sha256(der).hexdigest()
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def is_there(folder: Path) -> bool:
    return (folder / FILE).exists()


def backup(folder: Path, passphrase: str, out: Path) -> None:
    """A consistent copy in the new folder `out`, also while the keyholder runs. What is secret in it stays sealed. One
    that does not become whole leaves nothing behind."""
    store = Store(folder, master.load(folder, passphrase))
    try:
        out.mkdir(mode=0o700)
        try:
            store.copy_to(out / FILE)
            master.write_new(out / master.MASTER_FILE, (folder / master.MASTER_FILE).read_bytes())
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
    finally:
        store.close()
