"""Number, keys, certificate and key statement of a person: made at sign-in, checked by others, ended by an operator."""

import datetime as dt
import threading
import uuid

import pytest
from sqlmodel import select

from myphr.audit import trail
from myphr.crypto import certificates
from myphr.crypto.abe import key_policy, multi_authority
from myphr.crypto.envelope import context_for, derive, seal_to, wrap
from myphr.database import now
from myphr.errors import (
    CertificateMissing,
    CertificateRefused,
    EnvelopeError,
    IdentityRevoked,
    KeyholderUnavailable,
    NotFound,
    OperatorUnknown,
    RecoveryFailed,
    SignInRevoked,
    SignInUnconfirmed,
)
from myphr.people import accounts, identities
from myphr.people.identity_keys import new_keys, unwrap_keys, wrap_keys
from myphr.people.keyholder import Keyholder
from myphr.people.models import Account, Certificate, Identity, KeyStatement
from myphr.portal import Portal
from tests.cast import PATIENT, STRANGER, SignedIn
from tests.running_keyholder import RunningKeyholder

NEW_PASSWORD = "a lighthouse keeps no secrets"


def sign_in_again(portal: Portal, password: str = PATIENT.password, email: str = PATIENT.email) -> accounts.Login:
    _, cookie_value = accounts.sign_in(portal, email, password, "Safari on iPad")
    login = accounts.resolve(portal.database, cookie_value)
    assert login is not None
    return login


def identity_of(portal: Portal, account_id: str) -> Identity:
    with portal.database.read() as db:
        found = identities.of_account(db, account_id)
    assert found is not None
    return found


def change(portal: Portal, kind: type, key: str, **values: object) -> None:
    """What somebody who can write to the database does."""
    with portal.database.write() as db:
        row = db.get(kind, key)
        for name, value in values.items():
            setattr(row, name, value)
        db.add(row)


def events_of(portal: Portal, account_id: str) -> list[str]:
    trail.verify(portal.database)
    return [row.event for row in reversed(trail.for_account(portal.database, account_id))]


@pytest.fixture
def known_operator(keyholder: RunningKeyholder, operator: SignedIn) -> SignedIn:
    keyholder.client.operator_appoint(identities.gid_of(operator.login))
    return operator


# -- GID and keys -----------------------------------------------------------------------------------
def test_everybody_gets_a_random_number_at_registration(portal: Portal) -> None:
    account, _ = accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
    gid = uuid.UUID(identity_of(portal, account.id).gid)
    assert gid.version == 4 and str(gid) not in account.id


def test_an_account_from_before_there_were_numbers_gets_one_at_its_next_sign_in(portal: Portal) -> None:
    account, _ = accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
    with portal.database.write() as db:
        db.delete(db.get(Identity, identity_of(portal, account.id).gid))
    login = sign_in_again(portal)
    assert identities.keys_of(login).gid == identity_of(portal, account.id).gid


def test_the_keys_are_the_same_at_every_sign_in(portal: Portal, patient: SignedIn) -> None:
    assert identities.keys_of(sign_in_again(portal)) == identities.keys_of(patient.login)


def test_the_keys_stay_when_the_password_changes(portal: Portal, patient: SignedIn) -> None:
    before = identities.keys_of(patient.login)
    accounts.change_password(portal, patient.login, PATIENT.password, NEW_PASSWORD)
    assert identities.keys_of(sign_in_again(portal, NEW_PASSWORD)) == before


def test_the_keys_stay_when_only_the_recovery_code_is_left(portal: Portal, patient: SignedIn) -> None:
    before = identities.keys_of(patient.login)
    begun, code = accounts.recover_and_sign_in(
        portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD, "Firefox on Linux"
    )
    login = accounts.resolve(portal.database, begun.cookie_value)
    assert login is not None and identities.keys_of(login) == before
    accounts.recover(portal, PATIENT.email, code, PATIENT.password)


def test_keys_made_after_the_recovery_code_open_with_it_too(portal: Portal) -> None:
    """A ring from before these keys: its recovery wrap was made without them."""
    _, code = accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
    made = identities.keys_of(sign_in_again(portal))
    begun, _ = accounts.recover_and_sign_in(portal, PATIENT.email, code, NEW_PASSWORD, "")
    login = accounts.resolve(portal.database, begun.cookie_value)
    assert login is not None and identities.keys_of(login) == made


def test_two_first_sign_ins_at_once_agree_on_the_keys(portal: Portal) -> None:
    accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(identities.keys_of(sign_in_again(portal)).labels))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1


def test_keys_of_another_ring_or_number_do_not_open(patient: SignedIn, stranger: SignedIn) -> None:
    gid = certificates.new_gid()
    keys = new_keys(gid)
    wrapped = wrap_keys(patient.login.ring(), keys)
    assert unwrap_keys(patient.login.ring(), gid, wrapped) == keys
    with pytest.raises(EnvelopeError):
        unwrap_keys(stranger.login.ring(), gid, wrapped)
    with pytest.raises(EnvelopeError):
        unwrap_keys(patient.login.ring(), certificates.new_gid(), wrapped)
    for at in range(0, len(wrapped), 37):
        with pytest.raises(EnvelopeError):
            unwrap_keys(patient.login.ring(), gid, wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :])


def test_who_only_writes_to_the_database_cannot_put_keys_in_place(portal: Portal, patient: SignedIn) -> None:
    """The public half of the ring stands in the database: it must not be enough to make keys the owner would take."""
    gid, public = identity_of(portal, patient.account.id).gid, patient.login.ring().public_key
    context, content = context_for("identity-keys", gid), b'{"version":2}'
    forged = (
        seal_to(public, content, context=context),
        wrap(derive(public, "myphr/identity-keys/1"), content, context=context),
    )
    for wrapped in forged:
        change(portal, Identity, gid, wrapped_keys=wrapped)
        with pytest.raises(SignInUnconfirmed):
            sign_in_again(portal)


def test_a_ring_and_keys_never_print(patient: SignedIn) -> None:
    keys = identities.keys_of(patient.login)
    assert repr(keys.signing) not in repr(keys) and "labels" not in repr(keys)


# -- certificate ------------------------------------------------------------------------------------
def test_signing_in_gives_a_certificate_of_24_hours_for_this_number(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    gid = identities.gid_of(patient.login)
    speaker = identities.proof_for(patient.login)
    facts = certificates.validate(speaker.certificate, portal.keyholder.chain(), now())
    assert facts.gid == gid == speaker.gid
    assert dt.timedelta(hours=23, minutes=58) < facts.not_after - now() <= dt.timedelta(hours=24)
    assert PATIENT.email.encode() not in speaker.certificate and PATIENT.name.encode() not in speaker.certificate


def test_the_next_sign_in_renews_it(portal: Portal, keyholder: RunningKeyholder, patient: SignedIn) -> None:
    first = identities.proof_for(patient.login).certificate
    assert identities.proof_for(sign_in_again(portal)).certificate != first


def test_without_the_keyholder_people_still_get_at_their_own_record(portal: Portal, patient: SignedIn) -> None:
    assert patient.login.ring().public_key  # signed in, no keyholder anywhere
    with pytest.raises(CertificateMissing):
        identities.proof_for(patient.login)
    with pytest.raises(KeyholderUnavailable):
        identities.proof_for(patient.login, portal)


def test_a_keyholder_that_comes_back_is_asked_when_it_is_needed(
    portal: Portal, patient: SignedIn, keyholder: RunningKeyholder
) -> None:
    assert identities.proof_for(patient.login, portal).gid == identities.gid_of(patient.login)
    assert identities.proof_for(patient.login).key_statement


def test_a_cancelled_certificate_speaks_for_nobody_until_there_is_a_new_one(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    speaker = identities.proof_for(patient.login)
    assert identities.revoke_certificates(portal, patient.login) == 1
    with pytest.raises(CertificateRefused):
        certificates.validate(speaker.certificate, portal.keyholder.chain(), now())
    with pytest.raises(CertificateMissing):
        identities.proof_for(patient.login, portal)
    assert identities.revoke_certificates(portal, patient.login) == 0
    renewed = identities.renew_certificate(portal, patient.login)
    certificates.validate(renewed.der, portal.keyholder.chain(), now())
    assert events_of(portal, patient.account.id)[-2:] == ["certificate-revoked", "certificate-renewed"]


def test_cancelling_ends_the_certificates_of_all_browsers(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    other = sign_in_again(portal)
    assert identities.revoke_certificates(portal, patient.login) == 2
    with pytest.raises(CertificateMissing):
        identities.proof_for(other)
    assert identities.proof_for(sign_in_again(portal)).certificate


def test_a_certificate_that_ran_out_is_renewed_when_it_is_needed(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    first = identities.proof_for(patient.login)
    serial = certificates.read_certificate(first.certificate).serial_hex
    change(portal, Certificate, serial, expires_at=now() - dt.timedelta(seconds=1))
    with pytest.raises(CertificateMissing):
        identities.proof_for(patient.login)
    assert identities.proof_for(patient.login, portal).certificate != first.certificate


def test_a_number_swapped_in_the_database_is_refused_at_sign_in(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn, stranger: SignedIn
) -> None:
    """The stranger's row given to the patient: its keys do not open with her ring."""
    mine, theirs = identity_of(portal, patient.account.id), identity_of(portal, stranger.account.id)
    change(portal, Identity, mine.gid, account_id=None)
    change(portal, Identity, theirs.gid, account_id=patient.account.id)
    with pytest.raises(SignInUnconfirmed):
        sign_in_again(portal)


def test_keys_taken_out_of_the_database_are_noticed_at_sign_in(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    """The CA fixed the signing key of this number with its first certificate: new keys under it are refused."""
    change(portal, Identity, identity_of(portal, patient.account.id).gid, wrapped_keys=b"")
    with pytest.raises(SignInUnconfirmed):
        sign_in_again(portal)


class LyingKeyholder(Keyholder):
    """Gives everybody the same person's certificate."""

    def __init__(self, real: Keyholder, der: bytes) -> None:
        super().__init__(f"unix:{real._path}")
        self.der = der

    def ca_issue(self, request: bytes) -> bytes:
        return self.der


def test_a_certificate_for_somebody_else_is_not_taken(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn, stranger: SignedIn
) -> None:
    portal.__dict__["keyholder"] = LyingKeyholder(keyholder.client, identities.proof_for(stranger.login).certificate)
    before = identities.proof_for(patient.login).certificate
    login = sign_in_again(portal)
    assert identities.proof_for(login).certificate == before


# -- key statements ---------------------------------------------------------------------------------
def test_others_get_a_persons_public_keys_checked(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    keys = identities.keys_of(patient.login)
    found = identities.verified_statement(portal, keys.gid)
    assert (found.name, found.account_id) == (PATIENT.name, patient.account.id)
    assert found.statement.hpke == patient.login.ring().public_key
    authority = multi_authority.AuthorityPublic.from_bytes(found.statement.authority)
    multi_authority.check_public(authority, keys.gid)
    assert authority == keys.authority_secret().public
    key_policy.check_public(key_policy.PatientPublic.from_bytes(found.statement.key_policy))
    assert found.signing_public == certificates.public_key_bytes(keys.signing_key().public_key())


def test_a_statement_is_good_long_after_its_certificate_ran_out(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    """Whoever was away for a month can still be shared with: the statement counts as of when it was signed."""
    chain, login = portal.keyholder.chain(), patient.login
    der = identities.proof_for(login).certificate
    signed_at = now()
    with pytest.raises(CertificateRefused):
        certificates.validate(der, chain, signed_at + dt.timedelta(days=2))
    assert certificates.validate_then(der, chain, signed_at).gid == identities.gid_of(login)
    with pytest.raises(CertificateRefused):
        certificates.validate_then(der, chain, signed_at + dt.timedelta(days=2))


def test_a_statement_put_in_the_place_of_another_is_refused(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn, stranger: SignedIn
) -> None:
    gid, other = identities.gid_of(patient.login), identities.gid_of(stranger.login)
    with portal.database.read() as db:
        theirs = db.get(KeyStatement, other)
    assert theirs is not None
    change(portal, KeyStatement, gid, statement=theirs.statement, certificate=theirs.certificate)
    with pytest.raises(CertificateRefused):
        identities.verified_statement(portal, gid)


def test_a_statement_signed_with_a_key_of_no_certificate_is_refused(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn, stranger: SignedIn
) -> None:
    """An attacker with the database signs for the patient with a key of their own, under a certificate of their own."""
    gid = identities.gid_of(patient.login)
    evil = certificates.new_root(now() - dt.timedelta(minutes=1), dt.timedelta(days=2))
    below = certificates.new_intermediate(evil, now() - dt.timedelta(minutes=1), dt.timedelta(days=1))
    key = certificates.new_signing_key()
    der = certificates.issue(below, gid, key.public_key(), certificates.Kind.PERSON, now())
    statement = identities.SignedKeys(gid, int(now().timestamp()), stranger.login.ring().public_key).sign(key)
    change(portal, KeyStatement, gid, statement=statement, certificate=der)
    with pytest.raises(CertificateRefused):
        identities.verified_statement(portal, gid)
    with portal.database.read() as db:  # and with the patient's real certificate, which has another key
        real = identities.current_certificate(db, gid)
    assert real is not None
    change(portal, KeyStatement, gid, certificate=real.der)
    with pytest.raises(CertificateRefused):
        identities.verified_statement(portal, gid)


def test_every_flipped_byte_of_a_statement_is_refused(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn
) -> None:
    gid = identities.gid_of(patient.login)
    with portal.database.read() as db:
        row = db.get(KeyStatement, gid)
    assert row is not None
    for at in range(0, len(row.statement), 127):
        flipped = row.statement[:at] + bytes([row.statement[at] ^ 4]) + row.statement[at + 1 :]
        change(portal, KeyStatement, gid, statement=flipped)
        with pytest.raises(CertificateRefused):
            identities.verified_statement(portal, gid)


def test_nobody_has_no_statement(portal: Portal, keyholder: RunningKeyholder, patient: SignedIn) -> None:
    with pytest.raises(NotFound):
        identities.verified_statement(portal, certificates.new_gid())
    change(portal, Account, patient.account.id, closed_at=now())
    with pytest.raises(NotFound):
        identities.verified_statement(portal, identity_of(portal, patient.account.id).gid)


# -- revoking ---------------------------------------------------------------------------------------
def test_a_revoked_person_is_signed_out_everywhere_and_does_not_get_in_again(
    portal: Portal, known_operator: SignedIn, patient: SignedIn
) -> None:
    ended = identities.revoke_identity(portal, known_operator.login, patient.account)
    identities.tell_keyholder_revoked(portal, known_operator.login, patient.account)
    assert list(ended) == [patient.login.login_session.id]
    assert accounts.resolve(portal.database, patient.cookie_value) is None
    with pytest.raises(SignInRevoked):
        sign_in_again(portal)
    with pytest.raises(SignInRevoked):
        accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)
    with pytest.raises(NotFound):
        identities.verified_statement(portal, identity_of(portal, patient.account.id).gid)
    assert events_of(portal, patient.account.id)[-1] == "identity-revoked"


def test_only_who_knows_the_password_hears_that_the_account_was_stopped(
    portal: Portal, known_operator: SignedIn, patient: SignedIn
) -> None:
    identities.revoke_identity(portal, known_operator.login, patient.account)
    with pytest.raises(accounts.SignInFailed):
        sign_in_again(portal, "a wrong password for sure")
    with pytest.raises(RecoveryFailed):
        accounts.recover(portal, PATIENT.email, known_operator.recovery_code, NEW_PASSWORD)


def test_a_row_set_back_to_active_does_not_let_a_revoked_person_in(
    portal: Portal, known_operator: SignedIn, patient: SignedIn
) -> None:
    gid = identities.gid_of(patient.login)
    identities.revoke_identity(portal, known_operator.login, patient.account)
    identities.tell_keyholder_revoked(portal, known_operator.login, patient.account)
    change(portal, Identity, gid, state="active", revoked_at=None)
    with pytest.raises(SignInRevoked):
        sign_in_again(portal)


def test_a_new_number_lets_a_revoked_person_in_with_the_same_password_and_record(
    portal: Portal, known_operator: SignedIn, patient: SignedIn
) -> None:
    with pytest.raises(NotFound):
        identities.give_new(portal, known_operator.login, patient.account)
    identities.revoke_identity(portal, known_operator.login, patient.account)
    old = identity_of(portal, patient.account.id).gid
    new = identities.give_new(portal, known_operator.login, patient.account)
    login = sign_in_again(portal)
    assert identities.gid_of(login) == new.gid != old
    assert login.ring().public_key == patient.login.ring().public_key
    assert identities.proof_for(login).gid == new.gid


def test_sign_ins_end_even_if_the_keyholder_does_not_answer(
    portal: Portal, known_operator: SignedIn, patient: SignedIn, keyholder: RunningKeyholder
) -> None:
    portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/keyholder.sock")
    identities.revoke_identity(portal, known_operator.login, patient.account)
    with pytest.raises(KeyholderUnavailable):
        identities.tell_keyholder_revoked(portal, known_operator.login, patient.account)
    assert accounts.resolve(portal.database, patient.cookie_value) is None
    portal.__dict__["keyholder"] = keyholder.client
    identities.revoke_identity(portal, known_operator.login, patient.account)
    identities.tell_keyholder_revoked(portal, known_operator.login, patient.account)
    assert keyholder.client.identities_revoked([identity_of(portal, patient.account.id).gid])


def test_the_keyholder_takes_a_revocation_from_no_patient(
    portal: Portal, keyholder: RunningKeyholder, patient: SignedIn, stranger: SignedIn
) -> None:
    with pytest.raises(OperatorUnknown):
        identities.tell_keyholder_revoked(portal, stranger.login, patient.account)
    assert not keyholder.client.identities_revoked([identities.gid_of(patient.login)])


def test_a_revoked_person_has_no_proof(portal: Portal, known_operator: SignedIn, patient: SignedIn) -> None:
    identities.revoke_identity(portal, known_operator.login, patient.account)
    with pytest.raises(IdentityRevoked):
        identities.proof_for(patient.login, portal)


def test_making_an_operator_is_told_to_the_keyholder(
    portal: Portal, keyholder: RunningKeyholder, stranger: SignedIn, patient: SignedIn
) -> None:
    accounts.make_operator(portal, STRANGER.email)
    identities.revoke_identity(portal, stranger.login, patient.account)
    identities.tell_keyholder_revoked(portal, stranger.login, patient.account)
    assert keyholder.client.identities_revoked([identity_of(portal, patient.account.id).gid])


def test_old_rows_of_certificates_go(portal: Portal, keyholder: RunningKeyholder, patient: SignedIn) -> None:
    serial = certificates.read_certificate(identities.proof_for(patient.login).certificate).serial_hex
    change(portal, Certificate, serial, expires_at=now() - dt.timedelta(days=8))
    sign_in_again(portal)
    with portal.database.read() as db:
        assert serial not in db.exec(select(Certificate.serial)).all()
