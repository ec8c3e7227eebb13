"""The CA: one key a GID for good, revocation at once, a list every hour, a root that is not here."""

import datetime as dt
import sqlite3
from pathlib import Path

import pytest

from myphr.crypto import certificates
from myphr.crypto.passwords import new_recovery_code
from myphr.errors import (
    CertificateRefused,
    ConfigurationError,
    EnvelopeError,
    IdentityRevoked,
    NotFound,
    RecoveryFailed,
)
from myphr.keyholder import ca, setup
from myphr.people.keyholder import check_papers
from tests.unit.keyholder.desk_stage import PASSPHRASE, Stage, together


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_person_gets_a_certificate_for_a_day(stage: Stage) -> None:
    ann = stage.somebody()
    facts = certificates.validate(ann.certificate, stage.client.chain(), stage.now())
    assert facts.gid == ann.gid and facts.not_after - stage.now() == dt.timedelta(hours=24)


def test_a_gid_keeps_its_first_key(stage: Stage) -> None:
    ann = stage.somebody()
    with pytest.raises(CertificateRefused, match="another key"):
        stage.client.ca_issue(certificates.new_request(certificates.new_signing_key(), ann.gid))
    stage.renewed(ann)


def test_a_key_serves_one_gid(stage: Stage) -> None:
    ann = stage.somebody()
    with pytest.raises(CertificateRefused, match="another GID"):
        stage.client.ca_issue(certificates.new_request(ann.signing_key, certificates.new_gid()))


def test_two_at_once_for_one_gid_with_two_keys_leave_one(stage: Stage) -> None:
    gid = certificates.new_gid()
    requests = [certificates.new_request(certificates.new_signing_key(), gid) for _ in range(6)]
    results = together(6, lambda number: stage.client.ca_issue(requests[number]))
    assert sum(isinstance(one, bytes) for one in results) == 1
    assert sum(isinstance(one, CertificateRefused) for one in results) == 5


def test_a_revocation_is_on_the_list_at_once_and_twice_is_no_harm(stage: Stage) -> None:
    ann = stage.somebody()
    serial = certificates.read_certificate(ann.certificate).serial_hex
    before = stage.client.chain().crl_number()
    stage.client.ca_revoke(serial)
    assert stage.client.chain().crl_number() == before + 1
    with pytest.raises(CertificateRefused, match="revoked"):
        certificates.validate(ann.certificate, stage.client.chain(), stage.now())
    stage.client.ca_revoke(serial)
    assert stage.client.chain().crl_number() == before + 1


def test_a_serial_that_was_never_given_is_not_found(stage: Stage) -> None:
    with pytest.raises(NotFound):
        stage.client.ca_revoke("abc123")


def test_a_revoked_gid_loses_every_certificate_and_gets_none_again(stage: Stage) -> None:
    ann = stage.somebody()
    first = ann.certificate
    second = stage.renewed(ann).certificate
    stage.client.identity_revoke(ann.speaker, ann.gid)
    for der in (first, second):
        with pytest.raises(CertificateRefused, match="revoked"):
            certificates.validate(der, stage.client.chain(), stage.now())
    with pytest.raises(IdentityRevoked):
        stage.client.ca_issue(certificates.new_request(ann.signing_key, ann.gid))
    assert stage.client.identities_revoked([ann.gid, certificates.new_gid()]) == {ann.gid}


def test_an_operator_revokes_anybody_and_twice_is_no_harm(stage: Stage) -> None:
    operator, ann = stage.operator(), stage.somebody()
    stage.client.identity_revoke(operator.speaker, ann.gid)
    stage.client.identity_revoke(operator.speaker, ann.gid)
    with pytest.raises(NotFound):
        stage.client.identity_revoke(operator.speaker, certificates.new_gid())


def test_a_revoked_operator_is_none(stage: Stage) -> None:
    first, second = stage.operator(), stage.operator()
    stage.client.identity_revoke(first.speaker, second.gid)
    with pytest.raises(NotFound):
        stage.client.operator_appoint(second.gid)


def test_the_list_is_new_every_hour_and_good_for_two(stage: Stage) -> None:
    number = stage.client.chain().crl_number()
    stage.time += 3_599
    stage.round()
    assert stage.client.chain().crl_number() == number
    stage.time += 61
    stage.round()
    assert stage.client.chain().crl_number() == number + 1
    ann = stage.somebody()
    chain = stage.client.chain()
    certificates.validate(ann.certificate, chain, stage.now() + dt.timedelta(hours=2))
    with pytest.raises(CertificateRefused, match="out of date"):
        certificates.validate(ann.certificate, chain, stage.now() + dt.timedelta(hours=2, seconds=1))


def test_what_ended_leaves_the_list(stage: Stage) -> None:
    ann = stage.somebody()
    stage.client.ca_revoke(certificates.read_certificate(ann.certificate).serial_hex)
    assert len(certificates.crl_entries(stage.client.ca_crl()[0])) == 1
    stage.time += 86_400 + 7_200
    stage.round()
    assert certificates.crl_entries(stage.client.ca_crl()[0]) == []


def test_the_client_refuses_a_list_that_goes_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, old = stage.somebody(), stage.client.ca_crl()
    stage.client.chain()
    stage.client.ca_revoke(certificates.read_certificate(ann.certificate).serial_hex)
    stage.client.chain()
    monkeypatch.setattr(stage.client, "ca_crl", lambda: old)
    stage.time += 61
    with pytest.raises(CertificateRefused, match="goes back"):
        stage.client.chain()


@pytest.mark.parametrize("change", [
    "UPDATE identity SET state = 'active' WHERE gid = ?", "UPDATE identity SET public_key = x'00' WHERE gid = ?",
    "DELETE FROM identity WHERE gid = ?", "UPDATE identity SET gid = 'x' WHERE gid = ?",
    "UPDATE issuer SET crl_number = crl_number - 1 WHERE ? IS NOT NULL",
])  # fmt: skip
def test_the_store_itself_takes_nothing_back(stage: Stage, change: str) -> None:
    ann = stage.somebody()
    stage.client.identity_revoke(ann.speaker, ann.gid)
    with pytest.raises(sqlite3.IntegrityError), stage.store.write() as db:
        db.execute(change, (ann.gid,))


# -- the root
def root_of(stage: Stage) -> tuple[Path, str]:
    folder = stage.folder.parent / "root"
    return folder, (folder / "root-code.txt").read_text().strip()


def test_the_root_s_key_opens_with_its_code_alone(stage: Stage) -> None:
    folder, code = root_of(stage)
    certificate, sealed = (folder / "root.der").read_bytes(), (folder / "root.sealed").read_bytes()
    assert ca.open_root(certificate, sealed, code).certificate == certificate
    with pytest.raises(EnvelopeError):
        ca.open_root(certificate, sealed, new_recovery_code())
    with pytest.raises(RecoveryFailed):
        ca.open_root(certificate, sealed, "something else")
    other = certificates.new_root(stage.now(), ca.ROOT_LIFETIME)
    with pytest.raises(CertificateRefused):
        ca.open_root(other.certificate, sealed, code)


def test_the_keyholder_s_folder_has_nothing_of_the_root_s_key(stage: Stage) -> None:
    folder, code = root_of(stage)
    root = ca.open_root((folder / "root.der").read_bytes(), (folder / "root.sealed").read_bytes(), code)
    key = certificates.signing_key_bytes(root.key)
    secrets = (key, (folder / "root.sealed").read_bytes(), code.encode())
    for path in stage.folder.iterdir():
        assert not [secret for secret in secrets if secret in path.read_bytes()]


def renew(stage: Stage, *, revoke_others: bool) -> None:
    folder, code = root_of(stage)
    stage.store.close()
    setup.renew_intermediate(stage.folder, PASSPHRASE, folder, code, now=stage.now(), revoke_others=revoke_others)
    stage.open()
    stage.round()


def test_a_renewed_intermediate_leaves_what_was_given_before_valid(stage: Stage) -> None:
    ann, operator, gid = stage.somebody(), stage.operator(), certificates.new_gid()
    papers = stage.client.authority_create(operator.speaker, gid, [ann.gid])
    stage.client.chain()
    renew(stage, revoke_others=False)
    stage.time += 61
    chain = stage.client.chain()
    assert len(chain.intermediates) == 2
    certificates.validate(ann.certificate, chain, stage.now())
    certificates.validate(stage.somebody().certificate, chain, stage.now())
    check_papers(papers, chain, stage.now())


def test_a_stolen_intermediate_is_worth_nothing_after_its_renewal(stage: Stage) -> None:
    ann, operator, gid = stage.somebody(), stage.operator(), certificates.new_gid()
    assert stage.desk.ca
    with stage.store.read() as db:
        stolen = stage.desk.ca.sign_with(db)
    before = stage.client.authority_create(operator.speaker, gid, [ann.gid])
    renew(stage, revoke_others=True)
    stage.time += 61
    chain = stage.client.chain()
    forged = certificates.issue(stolen, certificates.new_gid(), certificates.new_signing_key().public_key(),
                                certificates.Kind.PERSON, stage.now())  # fmt: skip
    with_it = certificates.Chain(chain.root, (*chain.intermediates, stolen.certificate), chain.crls)
    for known in (chain, with_it):
        with pytest.raises(CertificateRefused):
            certificates.validate(forged, known, stage.now())
    with pytest.raises(CertificateRefused):
        check_papers(before, chain, stage.now())
    # The round made the authority's certificate and statement anew; people renew at their next sign-in.
    check_papers(stage.client.authority_statement(gid), chain, stage.now())
    stage.client.authority_officers(stage.renewed(operator).speaker, gid, [operator.gid])


def test_another_ca_s_root_renews_nothing(stage: Stage, tmp_path: Path) -> None:
    other = Stage(tmp_path / "other")
    folder, code = root_of(other)
    stage.store.close()
    with pytest.raises(ConfigurationError, match="another CA"):
        setup.renew_intermediate(stage.folder, PASSPHRASE, folder, code, now=stage.now(), revoke_others=True)
