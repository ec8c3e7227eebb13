"""Closing an account: in one commit every key is destroyed, every name forgotten, every way in shut; then the rest.

Order: the keyholder destroys the halves of what the owner shared (as with every withdrawal, that moment counts), one
commit destroys all that the database holds, and `carry_on` ends machines, certificates and bytes. It is repeated by
the sweep until nothing is left, also of what a request on its way may have put back. No grace: what is destroyed is
destroyed (docs/decisions/0240-closing-an-account.md). Called by web and the sweep.
"""

import contextlib
import dataclasses
import datetime as dt
import logging
import shutil
from typing import Protocol

import redis
from sqlalchemy import delete, update
from sqlmodel import Session, col, func, or_, select

from myphr.audit import trail
from myphr.audit.models import AuditEvent
from myphr.audit.trail import Actor
from myphr.crypto import proofs
from myphr.database import new_id, now
from myphr.errors import CertificateMissing, NotFound, PortalError
from myphr.ingest import closing as ingest_closing
from myphr.machines import left_over, vm_sessions
from myphr.machines.models import VmSession
from myphr.machines.states import VM_SESSION, StateConflict
from myphr.people import closing as people_closing
from myphr.people import identities
from myphr.people.identities import AWAY
from myphr.people.login_sessions import Login
from myphr.people.models import Account, Certificate, LoginSession
from myphr.records import closing as records_closing
from myphr.records import deletions, exports
from myphr.records.filing import RecordParts
from myphr.records.models import Item
from myphr.sharing import delegations, forgetting, live, mails, record_shares, withdrawal
from myphr.sharing.app_key_models import AppKey, AppKeyStudy
from myphr.sharing.app_keys import APP_KEY
from myphr.sharing.closing_models import AccountClosing
from myphr.sharing.compartments import Parts as SharingParts
from myphr.sharing.models import Mail, Share, ShareVisit
from myphr.sharing.record_models import (
    Compartment,
    CompartmentReader,
    Delegation,
    DelegationKey,
    EmergencyOpening,
    RewrapTask,
)
from myphr.sharing.states import CLOSING, OPEN, SHARE
from myphr.viewers.models import ViewerMemory

SETTLED_AFTER = dt.timedelta(seconds=120)  # no request takes longer: what it put back is gone then
COPY_IS_LATE = dt.timedelta(days=7)
FORGET = (forgetting.forget_items,)

log = logging.getLogger(__name__)


class Parts(SharingParts, RecordParts, Protocol):
    """What closing needs of the portal."""


@dataclasses.dataclass(frozen=True)
class Before:
    """What the page says before anything is asked. `refusal`: why it cannot be closed now. `copied_at`: when a copy of
    everything was downloaded last."""

    refusal: PortalError | None
    files: int
    shares: int
    copied_at: dt.datetime | None
    copy_state: str
    added_since: int

    @property
    def is_copied(self) -> bool:
        """Lately, and nothing came since."""
        return self.copied_at is not None and self.copied_at > now() - COPY_IS_LATE and not self.added_since


def before(parts: Parts, login: Login) -> Before:
    account = login.account
    latest = exports.latest(parts, login)
    with parts.database.read() as db:
        refusal = None
        try:
            people_closing.refuse_if_needed(db, account)
        except PortalError as error:
            refusal = error
        mine = (Item.account_id == account.id, col(Item.deleted_at).is_(None))
        files = db.exec(select(func.count()).select_from(Item).where(*mine)).one()
        shares = db.exec(select(func.count()).select_from(Compartment).where(
            Compartment.account_id == account.id, Compartment.state == "active")).one()  # fmt: skip
        copied_at = db.exec(
            select(AuditEvent.at).where(AuditEvent.account_id == account.id, AuditEvent.event == "export-downloaded")
            .order_by(col(AuditEvent.number).desc())
        ).first()  # fmt: skip
        if copied_at is not None and copied_at.tzinfo is None:
            copied_at = copied_at.replace(tzinfo=dt.UTC)
        since = (col(Item.created_at) > copied_at,) if copied_at else ()
        added = db.exec(select(func.count()).select_from(Item).where(*mine, *since)).one()
    return Before(refusal, files, shares, copied_at, latest.state if latest else "", added)


def close(parts: Parts, login: Login) -> str:
    """The caller asked for password and second step (`accounts.check_owner`). The id of the closing.

    Raises AccountNeeded, and where something is shared KeyholderUnavailable and its like: nothing was destroyed in the
    database then. From the commit on nobody opens anything of this account, whatever happens to this process."""
    account = login.account
    with parts.database.read() as db:
        people_closing.refuse_if_needed(db, account)
    revocation = _tell_vault(parts, login)
    with parts.database.write() as db:
        # The lock that every filing takes: what comes later finds a closed account.
        row = db.exec(select(Account).where(Account.id == account.id).with_for_update()).one()
        db.refresh(row)
        if row.closed_at is not None:
            raise NotFound("account")
        people_closing.refuse_if_needed(db, row)
        address = row.email
        browsers = db.exec(select(LoginSession.id).where(LoginSession.account_id == account.id)).all()
        screens = db.exec(select(Share.id).where(Share.account_id == account.id)).all()
        item_ids, destroyed, index_object = _destroy(db, account.id, address)
        trail.record(db, "account-closed", account_id=account.id, actor=Actor("patient", account.id))
        deletion = deletions.of_account(db, account.id, item_ids, destroyed)
        db.flush()
        closing = AccountClosing(
            id=new_id(), account_id=account.id, deletion_id=deletion.id, revocation=revocation,
            index_object=index_object,
        )  # fmt: skip
        db.add(closing)
        values = {"deletion": deletion.id, "files": len(item_ids), "at": f"{deletion.created_at:%d %B %Y, %H:%M} UTC",
                  "portal": parts.settings.public_url.rstrip("/") + "/"}  # fmt: skip
        mail = mails.add(db, parts, "account-closed", address, values, forget_recipient=True)
    deletions.purge(parts.database)
    for grant in (*(f"owner:{one}" for one in browsers), *(f"share:{one}" for one in screens)):
        with contextlib.suppress(redis.exceptions.RedisError):  # gateways that miss the news ask the database
            live.revoke(parts.redis, grant)
    carry_on(parts, closing.id)
    with contextlib.suppress(redis.exceptions.RedisError):  # the sweep sends it
        mails.enqueue(parts, mail.id)
    return closing.id


def _tell_vault(parts: Parts, login: Login) -> bytes | None:
    """The halves of all that is shared go; the word that ends the identity is signed while there is a key to sign it.
    None where there is no keyholder to hear it, or nothing it knows."""
    with parts.database.read() as db:
        shares = db.exec(select(Compartment.id).where(
            Compartment.account_id == login.account.id, Compartment.state == "active").limit(1)).first()  # fmt: skip
    try:
        try:
            speaker = identities.proof_for(login, parts)
        except CertificateMissing:
            identities.renew_certificate(parts, login)
            speaker = identities.proof_for(login, parts)
        record_shares.destroy_halves(parts, login, speaker)
        delegations.destroy_halves(parts, login, speaker)
        request = parts.keyholder.prove(
            speaker.signing_key, speaker.certificate, "identity.revoke", {"gid": speaker.gid}
        )
        return request.to_bytes()
    except AWAY as error:
        if shares is not None:
            raise
        log.warning("an account closes without a word to the keyholder: %s", error.code)
        return None


# -- the commit -----------------------------------------------------------------------------------------
def _destroy(db: Session, account_id: str, address: str | None) -> tuple[list[str], dict[str, int], str | None]:
    """Everything that opens, names or lets in, in every table. Safe to repeat. (ids of the files, how many of what,
    the index's object)."""
    record = records_closing.destroy(db, account_id, FORGET)
    counts = record.counts | _shares(db, account_id)
    letters = ingest_closing.mails_of(db, account_id)
    counts |= ingest_closing.destroy(db, account_id)
    counts["app_keys"] = _app_keys(db, account_id)
    counts["screen_links"] = _screens(db, account_id)
    links = select(Share.id).where(Share.account_id == account_id)
    db.execute(delete(Mail).where(or_(col(Mail.share_id).in_(links), col(Mail.id).in_(letters))))
    if address:  # what others' shares say of this address is theirs
        db.execute(delete(Mail).where(col(Mail.recipient) == address, col(Mail.share_id).is_(None)))
        db.execute(update(Mail).where(col(Mail.recipient) == address, col(Mail.state).in_(("sent", "failed")))
                   .values(recipient=""))  # fmt: skip
    db.execute(delete(ViewerMemory).where(col(ViewerMemory.account_id) == account_id))
    db.execute(update(VmSession).where(col(VmSession.account_id) == account_id)
               .values(secret_for_worker=None, sealed_manifest=None))  # fmt: skip
    return list(record.item_ids), counts | people_closing.destroy(db, account_id), record.index_object


def _shares(db: Session, account_id: str) -> dict[str, int]:
    """What she shared is withdrawn; what was shared with her is given back."""
    at = now()
    own = db.exec(select(Compartment).where(Compartment.account_id == account_id)).all()
    ids = [row.id for row in own]
    active = sum(row.state == "active" for row in own)
    for row in own:
        if row.state == "active":
            (delegations if row.kind == "labels" else record_shares).forget(db, row.id, at)
    db.execute(update(Compartment).where(col(Compartment.account_id) == account_id).values(wrapped_plan=b""))
    db.execute(update(EmergencyOpening).where(col(EmergencyOpening.compartment_id).in_(ids)).values(sealed_reason=b""))
    db.execute(update(RewrapTask).where(col(RewrapTask.compartment_id).in_(ids))
               .values(keys_for_worker=None, destroy_order=None))  # fmt: skip
    given_back = 0
    for gid in people_closing.gids_of(db, account_id):
        db.execute(update(Compartment).where(col(Compartment.state) == "active", withdrawal.shared_with(gid))
                   .values(stale=True))  # fmt: skip
        given_back += _count(db, delete(CompartmentReader).where(col(CompartmentReader.gid) == gid))
        # The owner's next unlock ends the delegation itself: only the owner can tell the vault.
        theirs = select(Delegation.id).where(Delegation.gid == gid)
        given_back += _count(db, delete(DelegationKey).where(col(DelegationKey.delegation_id).in_(theirs)))
    return {"shares": active, "keys_of_others": given_back}


def _app_keys(db: Session, account_id: str) -> int:
    rows = db.exec(select(AppKey).where(AppKey.account_id == account_id)).all()
    ended = 0
    for row in rows:
        if row.state == "open":
            with contextlib.suppress(StateConflict):  # it ran out this very moment
                APP_KEY.move(db, row, "revoke")
            ended += 1
        row.sealed_name, row.sealed_key = b"", None
        db.add(row)
    db.execute(delete(AppKeyStudy).where(col(AppKeyStudy.app_key_id).in_([row.id for row in rows])))
    return ended


def _screens(db: Session, account_id: str) -> int:
    """Links to live screens; whose they were is forgotten with them."""
    ended = 0
    for row in db.exec(select(Share).where(Share.account_id == account_id)).all():
        if row.state in OPEN:
            SHARE.move(db, row, "withdraw", closed_at=now())
            ended += 1
        row.email, row.passcode_mac = "", None
        db.add(row)
        db.execute(delete(ShareVisit).where(col(ShareVisit.share_id) == row.id))
    return ended


def _count(db: Session, statement: object) -> int:
    return db.connection().execute(statement).rowcount  # type: ignore[call-overload]


# -- afterwards -----------------------------------------------------------------------------------------
def sweep(parts: Parts) -> int:
    """Goes on with what a crash, or somebody being away, left. Safe to run twice. Returns how many are not settled."""
    with parts.database.read() as db:
        rows = db.exec(select(AccountClosing.id).where(AccountClosing.state == "keyless")).all()
    for closing_id in rows:
        carry_on(parts, closing_id)
    return len(rows)


def carry_on(parts: Parts, closing_id: str) -> None:
    """What is left to do, each time again: machines, the keyholder, bytes. Runs twice without harm and after a kill at
    any point."""
    with parts.database.read() as db:
        row = db.get(AccountClosing, closing_id)
    if row is None or row.state != "keyless":
        return
    machines_left = _end_machines(parts, row.account_id)
    keyholder_told = _tell_keyholder(parts, row)
    with parts.database.write() as db:  # what a request on its way put back
        *_, index_object = _destroy(db, row.account_id, None)
    for object_key in filter(None, (row.index_object, index_object)):
        parts.store.delete(object_key)
    with parts.database.read() as db:
        deletion = db.get_one(deletions.Deletion, row.deletion_id)
    if deletion.state == "keyless":
        deletions.remove_bytes(parts, deletion, FORGET)
        with parts.database.read() as db:
            deletion = db.get_one(deletions.Deletion, row.deletion_id)
    if machines_left or not keyholder_told or deletion.state == "keyless" or row.created_at > now() - SETTLED_AFTER:
        return
    with parts.database.write() as db, contextlib.suppress(StateConflict):
        CLOSING.move(db, row, "settle", revocation=None, index_object=None)


def _end_machines(parts: Parts, account_id: str) -> int:
    """Her machines, and others' that show her files; how many of hers are not gone yet. Results that no record takes
    any more go with them."""
    with parts.database.read() as db:
        compartment_ids = db.exec(select(Compartment.id).where(Compartment.account_id == account_id)).all()
        own = db.exec(select(VmSession.id, VmSession.state).where(VmSession.account_id == account_id)).all()
    left = [vm_session_id for vm_session_id, state in own if state not in VM_SESSION.final]
    try:
        withdrawal.end_sessions(parts, compartment_ids, None)
        for vm_session_id in left:
            vm_sessions.end(parts, vm_session_id, "account-closed")
    except redis.exceptions.RedisError:
        log.warning("machines of a closed account end later: the queue is away")
        return max(len(left), 1)
    spool = left_over.spool_of(parts)
    for vm_session_id, state in own:
        if state in VM_SESSION.final:
            shutil.rmtree(spool / vm_session_id, ignore_errors=True)
    return len(left)


def _tell_keyholder(parts: Parts, row: AccountClosing) -> bool:
    """The identity ends at the keyholder, with roles and what it owns there; its certificates in any case, for which
    nobody's signature is needed. False: it is away."""
    try:
        if row.revocation is not None:
            try:
                parts.keyholder.send(proofs.read_request(row.revocation))
            except AWAY:
                raise
            except PortalError as error:  # said already, or too late: what is left runs out with the certificate
                log.info("the keyholder took no revocation: %s", error.code)
            with parts.database.write() as db:
                db.execute(update(AccountClosing).where(col(AccountClosing.id) == row.id).values(revocation=None))
        with parts.database.read() as db:
            gids = people_closing.gids_of(db, row.account_id)
            serials = db.exec(select(Certificate.serial).where(
                col(Certificate.gid).in_(gids), col(Certificate.expires_at) > now())).all()  # fmt: skip
        for serial in serials:
            with contextlib.suppress(NotFound):  # of another CA
                parts.keyholder.ca_revoke(serial)
        with parts.database.write() as db:
            db.execute(delete(Certificate).where(col(Certificate.gid).in_(gids)))
        return True
    except AWAY as error:
        log.warning("a closed account's certificates are revoked later: %s", error.code)
        return False
