"""Authorities: made by operators, run by officers; keys for those who hold something today, and for nobody else."""

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from myphr.crypto import certificates
from myphr.crypto.abe import multi_authority
from myphr.crypto.abe.multi_authority import AttributeKey, AuthorityPublic
from myphr.crypto.abe.policy import Attribute, all_of
from myphr.crypto.envelope import new_key_pair
from myphr.errors import (
    AbeError,
    AuthorityRefused,
    CertificateRefused,
    EnvelopeError,
    IdentityRevoked,
    KeyholderConflict,
    KeyholderProtocolError,
    NotFound,
)
from myphr.people.keyholder import Keyholder, check_papers, unpack_keys
from tests.running_keyholder import Somebody
from tests.unit.keyholder.desk_stage import Stage, together

YEAR = 365 * 86_400


class Hospital:
    """An authority with its officer and an operator, on a stage of its own."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder)
        self.client: Keyholder = self.stage.client
        self.operator, self.officer = self.stage.operator(), self.stage.somebody()
        self.gid = certificates.new_gid()
        self.papers = self.client.authority_create(self.operator.speaker, self.gid, [self.officer.gid])

    def grant(self, person: Somebody, name: str = "role", value: str = "cardiologist", seconds: int = YEAR) -> int:
        until = int(self.stage.time) + seconds
        return self.client.attribute_grant(self.officer.speaker, self.gid, person.gid, name, value, until)

    def take(self, person: Somebody, name: str = "role", value: str = "cardiologist") -> int:
        return self.client.attribute_take(self.officer.speaker, self.gid, person.gid, name, value)

    def keys(self, person: Somebody, wanted=None) -> list[AttributeKey]:
        sealed = self.client.attribute_keys(person.speaker, self.gid, wanted)
        return [AttributeKey.from_bytes(key) for key in unpack_keys(person.open(sealed))]

    def epochs(self, person: Somebody, *wanted: int) -> list[int]:
        return [key.attribute.epoch for key in self.keys(person, [("role", "cardiologist", epoch) for epoch in wanted])]

    def public(self) -> AuthorityPublic:
        return check_papers(self.client.authority_statement(self.gid), self.client.chain(), self.stage.now())[0]


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


# -- making and closing
def test_a_new_authority_proves_what_it_is(hospital: Hospital) -> None:
    public, table = check_papers(hospital.papers, hospital.client.chain(), hospital.stage.now())
    assert public.authority == hospital.gid and table.version == 1 and dict(table.epochs) == {}


def test_made_again_it_is_the_same(hospital: Hospital) -> None:
    again = hospital.client.authority_create(hospital.operator.speaker, hospital.gid, [hospital.officer.gid])
    assert again == hospital.papers


def test_made_again_with_other_officers_or_after_its_end_it_is_refused(hospital: Hospital) -> None:
    with pytest.raises(KeyholderConflict):
        hospital.client.authority_create(hospital.operator.speaker, hospital.gid, [hospital.operator.gid])
    hospital.client.authority_close(hospital.operator.speaker, hospital.gid)
    with pytest.raises(KeyholderConflict):
        hospital.client.authority_create(hospital.operator.speaker, hospital.gid, [hospital.officer.gid])


def test_made_by_many_at_once_it_is_one(hospital: Hospital) -> None:
    gid = certificates.new_gid()
    results = together(6, lambda _: hospital.client.authority_create(
        hospital.operator.speaker, gid, [hospital.officer.gid]))  # fmt: skip
    assert all(one == results[0] for one in results)


def test_a_person_s_gid_becomes_no_authority(hospital: Hospital) -> None:
    with pytest.raises(CertificateRefused):
        hospital.client.authority_create(hospital.operator.speaker, hospital.officer.gid, [hospital.officer.gid])


def test_other_officers_take_over_at_once(hospital: Hospital) -> None:
    new, doctor = hospital.stage.somebody(), hospital.stage.somebody()
    hospital.client.authority_officers(hospital.operator.speaker, hospital.gid, [new.gid])
    with pytest.raises(NotFound):
        hospital.grant(doctor)
    hospital.officer = new
    hospital.grant(doctor)


def test_an_officer_names_no_officers(hospital: Hospital) -> None:
    with pytest.raises(NotFound):
        hospital.client.authority_officers(hospital.officer.speaker, hospital.gid, [hospital.officer.gid])


def test_a_closed_authority_gives_no_key_and_its_papers_are_refused(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    hospital.grant(doctor)
    hospital.client.authority_close(hospital.operator.speaker, hospital.gid)
    with pytest.raises(NotFound):
        hospital.keys(doctor)
    with pytest.raises(NotFound):
        hospital.grant(doctor)
    papers = hospital.client.authority_statement(hospital.gid)
    assert papers.closed
    for shown in (papers, dataclasses.replace(papers, closed=False)):
        with pytest.raises(CertificateRefused):
            check_papers(shown, hospital.client.chain(), hospital.stage.now())
    hospital.client.authority_close(hospital.operator.speaker, hospital.gid)


def test_the_master_key_of_a_closed_authority_is_nowhere_in_the_folder(hospital: Hospital) -> None:
    with hospital.stage.store.read() as db:
        row = db.execute("SELECT sealed_secret, sealed_signing FROM authority WHERE gid = ?", (hospital.gid,))
        sealed = [bytes(part) for part in row.fetchone()]

    def found() -> bool:
        contents = [path.read_bytes() for path in hospital.stage.folder.iterdir()]
        return any(part in content for part in sealed for content in contents)

    assert found(), "this test could not fail"
    hospital.client.authority_close(hospital.operator.speaker, hospital.gid)
    assert not found()


# -- memberships and epochs
def test_who_holds_an_attribute_gets_a_key_that_fits_the_authority(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    assert hospital.grant(doctor) == 0
    (key,) = hospital.keys(doctor)
    assert key.gid == doctor.gid and key.attribute == Attribute(hospital.gid, "role", "cardiologist", 0)
    multi_authority.check_key(key, hospital.public())


def test_who_holds_nothing_gets_an_empty_envelope(hospital: Hospital) -> None:
    stranger = hospital.stage.somebody()
    assert hospital.keys(stranger) == [] and hospital.keys(stranger, [("role", "cardiologist", 0)]) == []
    assert hospital.client.attribute_keys(stranger.speaker, hospital.gid).holdings == ()


def test_only_what_is_held_is_given(hospital: Hospital) -> None:
    nurse = hospital.stage.somebody()
    hospital.grant(nurse, value="nurse")
    wanted = [("role", "cardiologist", 0), ("role", "nurse", 0), ("role", "", 0), ("rol", "nurse", 0)]
    assert [key.attribute.value for key in hospital.keys(nurse, wanted)] == ["nurse"]


def test_a_key_of_two_authorities_opens_what_both_are_asked_for(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    other = certificates.new_gid()
    hospital.client.authority_create(hospital.operator.speaker, other, [hospital.officer.gid])
    hospital.grant(doctor)
    until = int(hospital.stage.time) + YEAR
    hospital.client.attribute_grant(hospital.officer.speaker, other, doctor.gid, "registered", "", until)
    publics, keys = {}, []
    for gid in (hospital.gid, other):
        papers = hospital.client.authority_statement(gid)
        publics[gid], _ = check_papers(papers, hospital.client.chain(), hospital.stage.now())
        sealed = hospital.client.attribute_keys(doctor.speaker, gid)
        keys += [AttributeKey.from_bytes(key) for key in unpack_keys(doctor.open(sealed))]
    policy = all_of(Attribute(hospital.gid, "role", "cardiologist"), Attribute(other, "registered"))
    secret, header = multi_authority.encapsulate(policy, publics, binding=b"compartment")
    assert multi_authority.decapsulate(header, keys, publics, binding=b"compartment") == secret
    with pytest.raises(AbeError):
        multi_authority.decapsulate(header, keys[:1], publics, binding=b"compartment")


def test_taking_raises_the_epoch_for_all_and_gives_the_rest_new_keys(hospital: Hospital) -> None:
    doctor, other = hospital.stage.somebody(), hospital.stage.somebody()
    hospital.grant(doctor)
    hospital.grant(other)
    _, before = check_papers(hospital.papers, hospital.client.chain(), hospital.stage.now())
    assert hospital.take(doctor) == 1
    papers = hospital.client.authority_statement(hospital.gid)
    _, table = check_papers(papers, hospital.client.chain(), hospital.stage.now(), last=before)
    assert table.epoch("role", "cardiologist") == 1 and table.version == 2
    assert hospital.keys(doctor) == [] and [key.attribute.epoch for key in hospital.keys(other)] == [1]
    with pytest.raises(CertificateRefused, match="back"):
        check_papers(hospital.papers, hospital.client.chain(), hospital.stage.now(), last=table)


def test_who_stays_still_gets_keys_of_epochs_since_their_grant(hospital: Hospital) -> None:
    early, late, gone = (hospital.stage.somebody() for _ in range(3))
    hospital.grant(early)
    hospital.grant(gone)
    hospital.take(gone)
    hospital.grant(late)
    hospital.grant(gone)
    assert hospital.epochs(early, 0, 1, 2) == [0, 1], "headers that were not renewed yet stay open to who was entitled"
    assert hospital.epochs(late, 0, 1, 2) == [1], "nothing from before, nothing from later"
    assert hospital.epochs(gone, 0, 1, 2) == [1], "taken and granted anew: not the time before"


def test_taking_what_is_not_held_changes_nothing(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    assert hospital.take(doctor) == 0
    hospital.grant(doctor)
    assert (hospital.take(doctor), hospital.take(doctor)) == (1, 1)


def test_taken_by_many_at_once_the_epoch_rises_once(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    hospital.grant(doctor)
    assert together(6, lambda _: hospital.take(doctor)) == [1] * 6


def test_a_grant_ends_by_its_date_and_the_epoch_rises(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    hospital.grant(doctor, seconds=3600)
    hospital.stage.time += 3599
    assert len(hospital.keys(doctor)) == 1
    hospital.stage.time += 1
    assert hospital.keys(doctor) == [], "at its end at once, before any round"
    hospital.stage.round()
    _, table = check_papers(hospital.client.authority_statement(hospital.gid), hospital.client.chain(),
                            hospital.stage.now())  # fmt: skip
    assert table.epoch("role", "cardiologist") == 1
    hospital.stage.round()
    assert hospital.grant(doctor) == 1, "a second round raised nothing"


def test_a_grant_that_is_prolonged_keeps_its_epochs(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    hospital.grant(doctor, seconds=3600)
    hospital.stage.time += 3000
    hospital.grant(doctor, seconds=3600)
    hospital.stage.time += 3000
    hospital.stage.round()
    assert [key.attribute.epoch for key in hospital.keys(doctor)] == [0]


@pytest.mark.parametrize("seconds", [0, -1, 400 * 86_400 + 1])
def test_a_grant_without_an_end_in_sight_is_refused(hospital: Hospital, seconds: int) -> None:
    with pytest.raises(KeyholderProtocolError):
        hospital.grant(hospital.stage.somebody(), seconds=seconds)
    hospital.grant(hospital.stage.somebody(), seconds=400 * 86_400)


@pytest.mark.parametrize(("name", "value"), [("Role", "x"), ("", "x"), ("role", "ä"), ("a" * 65, ""), ("role", "a b")])
def test_a_name_outside_the_alphabet_is_refused(hospital: Hospital, name: str, value: str) -> None:
    with pytest.raises(KeyholderProtocolError):
        hospital.grant(hospital.stage.somebody(), name, value)


def test_nothing_is_granted_to_whom_the_ca_does_not_know(hospital: Hospital) -> None:
    doctor = hospital.stage.somebody()
    hospital.client.identity_revoke(doctor.speaker, doctor.gid)
    for gid in (certificates.new_gid(), doctor.gid, hospital.gid):
        with pytest.raises(CertificateRefused):
            hospital.client.attribute_grant(hospital.officer.speaker, hospital.gid, gid, "role", "x",
                                            int(hospital.stage.time) + 60)  # fmt: skip


def test_an_officer_of_one_authority_is_nobody_at_another(hospital: Hospital) -> None:
    doctor, other, gid = hospital.stage.somebody(), hospital.stage.somebody(), certificates.new_gid()
    hospital.client.authority_create(hospital.operator.speaker, gid, [other.gid])
    until = int(hospital.stage.time) + 60
    for person in (other, doctor, hospital.operator):
        with pytest.raises(NotFound):
            hospital.client.attribute_grant(person.speaker, hospital.gid, doctor.gid, "role", "x", until)
        with pytest.raises(NotFound):
            hospital.client.attribute_take(person.speaker, hospital.gid, doctor.gid, "role", "x")
        with pytest.raises(NotFound):
            hospital.client.attribute_members(person.speaker, hospital.gid)


def test_members_are_listed_as_long_as_they_hold_something(hospital: Hospital) -> None:
    doctor, nurse = hospital.stage.somebody(), hospital.stage.somebody()
    hospital.grant(doctor)
    hospital.grant(nurse, value="nurse", seconds=60)
    assert {(m.member, m.value) for m in hospital.client.attribute_members(hospital.officer.speaker, hospital.gid)} == {
        (doctor.gid, "cardiologist"), (nurse.gid, "nurse")}  # fmt: skip
    hospital.stage.time += 60
    found = hospital.client.attribute_members(hospital.officer.speaker, hospital.gid)
    assert [member.member for member in found] == [doctor.gid]


def test_who_is_revoked_loses_all_they_held_and_the_office(hospital: Hospital) -> None:
    doctor = hospital.officer
    hospital.client.authority_officers(hospital.operator.speaker, hospital.gid, [doctor.gid, hospital.operator.gid])
    hospital.grant(doctor)
    hospital.grant(doctor, "department", "radiology")
    raised = hospital.client.identity_revoke(hospital.operator.speaker, doctor.gid)
    assert {(held.name, held.value) for held in raised} == {("role", "cardiologist"), ("department", "radiology")}
    with pytest.raises(IdentityRevoked):
        hospital.keys(doctor)
    _, table = check_papers(hospital.client.authority_statement(hospital.gid), hospital.client.chain(),
                            hospital.stage.now())  # fmt: skip
    assert dict(table.epochs) == {("role", "cardiologist"): 1, ("department", "radiology"): 1}
    hospital.officer = hospital.operator
    assert hospital.client.attribute_members(hospital.officer.speaker, hospital.gid) == []


@pytest.mark.parametrize("change", [
    "UPDATE epoch SET epoch = epoch - 1", "UPDATE epoch SET epoch = epoch", "DELETE FROM epoch",
    "UPDATE authority SET version = version - 1", "DELETE FROM authority",
])  # fmt: skip
def test_the_store_itself_takes_no_epoch_back(hospital: Hospital, change: str) -> None:
    doctor = hospital.stage.somebody()
    hospital.grant(doctor)
    hospital.take(doctor)
    with pytest.raises(sqlite3.IntegrityError), hospital.stage.store.write() as db:
        db.execute(change)


# -- keys are sealed to whom they belong
def test_keys_go_to_the_key_that_the_person_signed_and_to_no_other(hospital: Hospital) -> None:
    doctor, eve = hospital.stage.somebody(), hospital.stage.somebody()
    hospital.grant(doctor)
    theirs = dataclasses.replace(doctor.speaker, key_statement=eve.speaker.key_statement)
    with pytest.raises(CertificateRefused):
        hospital.client.attribute_keys(theirs, hospital.gid)
    forged = Somebody(doctor.gid, eve.signing_key, new_key_pair(), doctor.certificate).speaker.key_statement
    with pytest.raises(CertificateRefused):
        hospital.client.attribute_keys(dataclasses.replace(doctor.speaker, key_statement=forged), hospital.gid)
    sealed = hospital.client.attribute_keys(doctor.speaker, hospital.gid)
    with pytest.raises(EnvelopeError):
        eve.open(sealed)


def test_moved_rows_of_master_keys_open_nothing(hospital: Hospital) -> None:
    doctor, other = hospital.stage.somebody(), certificates.new_gid()
    hospital.client.authority_create(hospital.operator.speaker, other, [hospital.officer.gid])
    hospital.grant(doctor)
    with hospital.stage.store.write() as db:
        db.execute("UPDATE authority SET sealed_secret = (SELECT sealed_secret FROM authority WHERE gid = ?) "
                   "WHERE gid = ?", (other, hospital.gid))  # fmt: skip
    with pytest.raises(KeyholderProtocolError):
        hospital.keys(doctor)


def test_papers_of_which_one_is_another_authority_s_are_refused(hospital: Hospital) -> None:
    other = certificates.new_gid()
    theirs = hospital.client.authority_create(hospital.operator.speaker, other, [hospital.officer.gid])
    chain, now = hospital.client.chain(), hospital.stage.now()
    for name in ("authority", "statement", "certificate", "epochs"):
        mixed = dataclasses.replace(hospital.papers, **{name: getattr(theirs, name)})
        with pytest.raises((CertificateRefused, AuthorityRefused)):
            check_papers(mixed, chain, now)


def test_an_authority_renews_itself_before_its_certificate_ends(hospital: Hospital) -> None:
    before = certificates.read_certificate(hospital.papers.certificate).serial
    hospital.stage.time += 59 * 86_400
    hospital.stage.round()
    assert certificates.read_certificate(hospital.client.authority_statement(hospital.gid).certificate).serial == before
    hospital.stage.time += 2 * 86_400
    hospital.stage.round()
    papers = hospital.client.authority_statement(hospital.gid)
    assert certificates.read_certificate(papers.certificate).serial != before
    check_papers(papers, hospital.client.chain(), hospital.stage.now())
