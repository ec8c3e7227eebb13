"""Organisations: registered by an operator, kept by their officer, shown to who shares."""

import datetime as dt

import pytest

from myphr.audit import trail
from myphr.database import now
from myphr.errors import FormRefused, KeyholderUnavailable, NotFound, OperatorUnknown
from myphr.people import accounts, authorities, identities
from myphr.people.keyholder import Keyholder, check_papers
from myphr.people.models import Account, AttributeGrant, Authority
from myphr.portal import Portal
from tests.cast import CAREGIVER, PATIENT, PRACTICE, STRANGER, SignedIn
from tests.running_keyholder import RunningKeyholder

DAY = dt.timedelta(days=1)


@pytest.fixture
def known_operator(keyholder: RunningKeyholder, operator: SignedIn) -> SignedIn:
    keyholder.client.operator_appoint(identities.gid_of(operator.login))
    return operator


@pytest.fixture
def hospital(portal: Portal, known_operator: SignedIn, practice: SignedIn) -> Authority:
    """St Mary's, whose officer is the practice of the cast."""
    return authorities.create(portal, known_operator.login, " St  Mary's ", "hospital", PRACTICE.email)


@pytest.fixture
def caregiver(keyholder: RunningKeyholder, enter) -> SignedIn:
    return enter(CAREGIVER)


def last_day(days: int = 30) -> dt.date:
    return (now() + days * DAY).date()


def holders(portal: Portal, gid: str, name: str = "role", value: str = "cardiologist") -> list[str]:
    with portal.database.read() as db:
        return [person.name for person in authorities.holders(db, gid, name, value)]


def grant(portal: Portal, officer: SignedIn, gid: str, member: str = CAREGIVER.email, **values) -> identities.Person:
    wanted = {"name": "role", "value": "cardiologist", "last_day": last_day()} | values
    return authorities.grant(portal, officer.login, gid, member, **wanted)


# -- the operator's ---------------------------------------------------------------------------------
def test_an_organisation_is_known_to_the_keyholder_and_its_ca(portal: Portal, hospital: Authority) -> None:
    papers = portal.keyholder.authority_statement(hospital.gid)
    public, _ = check_papers(papers, portal.keyholder.chain(), now())
    assert public.authority == hospital.gid and hospital.name == "St Mary's"
    with portal.database.read() as db:
        assert [one.name for one in authorities.open_ones(db)] == ["St Mary's"]


def test_only_an_operator_registers_one(
    portal: Portal, keyholder: RunningKeyholder, stranger: SignedIn, practice: SignedIn
) -> None:
    with pytest.raises(OperatorUnknown):
        authorities.create(portal, stranger.login, "Fake Hospital", "hospital", PRACTICE.email)
    with portal.database.read() as db:
        assert authorities.all_of(db) == []


@pytest.mark.parametrize(
    ("name", "kind", "officer", "words"),
    [
        ("", "hospital", PRACTICE.email, "a name"), ("x" * 81, "hospital", PRACTICE.email, "a name"),
        ("A\x00B", "hospital", PRACTICE.email, "a name"), ("Bridge", "castle", PRACTICE.email, "what kind"),
        ("Bridge", "practice", "nobody@nowhere.example", "nobody has an account"),
        ("ST MARY'S", "hospital", PRACTICE.email, "of this name already"),
    ],
)  # fmt: skip
def test_a_form_that_does_not_fit_is_refused(
    portal: Portal, hospital: Authority, known_operator: SignedIn, name: str, kind: str, officer: str, words: str
) -> None:
    with pytest.raises(FormRefused) as refused:
        authorities.create(portal, known_operator.login, name, kind, officer)
    assert words in refused.value.message


def test_an_officer_must_have_signed_in_once(portal: Portal, known_operator: SignedIn) -> None:
    accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
    with pytest.raises(FormRefused) as refused:
        authorities.create(portal, known_operator.login, "Bridge", "practice", PATIENT.email)
    assert "sign in once" in refused.value.message


def test_a_closed_organisation_is_offered_no_more_and_its_officer_has_nothing_to_do(
    portal: Portal, hospital: Authority, known_operator: SignedIn, practice: SignedIn, caregiver: SignedIn
) -> None:
    grant(portal, practice, hospital.gid)
    authorities.close(portal, known_operator.login, hospital.gid)
    assert holders(portal, hospital.gid) == []
    with portal.database.read() as db:
        assert authorities.open_ones(db) == [] and authorities.of_officer(db, practice.account.id) == []
    assert portal.keyholder.authority_statement(hospital.gid).closed
    with pytest.raises(NotFound):
        grant(portal, practice, hospital.gid)
    with pytest.raises(NotFound):
        authorities.close(portal, known_operator.login, hospital.gid)


def test_another_officer_takes_over_at_once(
    portal: Portal, hospital: Authority, known_operator: SignedIn, practice: SignedIn, caregiver: SignedIn,
    stranger: SignedIn,
) -> None:  # fmt: skip
    authorities.change_officer(portal, known_operator.login, hospital.gid, STRANGER.email)
    with pytest.raises(NotFound):
        grant(portal, practice, hospital.gid)
    grant(portal, stranger, hospital.gid)
    assert holders(portal, hospital.gid) == [CAREGIVER.name]


def test_nobody_but_an_operator_closes_or_changes(
    portal: Portal, hospital: Authority, practice: SignedIn, stranger: SignedIn
) -> None:
    for person in (practice, stranger):
        with pytest.raises(OperatorUnknown):
            authorities.close(portal, person.login, hospital.gid)
        with pytest.raises(OperatorUnknown):
            authorities.change_officer(portal, person.login, hospital.gid, STRANGER.email)
    with portal.database.read() as db:
        assert authorities.for_officer(db, practice.account.id, hospital.gid)


# -- the officer's ----------------------------------------------------------------------------------
def test_who_is_granted_a_role_holds_it_and_gets_its_key(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn
) -> None:
    assert grant(portal, practice, hospital.gid).name == CAREGIVER.name
    assert holders(portal, hospital.gid) == [CAREGIVER.name]
    sealed = portal.keyholder.attribute_keys(identities.proof_for(caregiver.login), hospital.gid)
    opened = caregiver.login.ring().open(sealed.sealed, context=sealed.context)
    assert opened[:2] == b"\x00\x01"
    assert trail.for_account(portal.database, caregiver.account.id)[0].event == "attribute-granted"


def test_a_member_is_found_by_number_too(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn
) -> None:
    grant(portal, practice, hospital.gid, f" {identities.gid_of(caregiver.login).upper()} ")
    assert holders(portal, hospital.gid) == [CAREGIVER.name]


@pytest.mark.parametrize("member", ["", "nobody@nowhere.example", "00000000-0000-4000-8000-000000000000", "x" * 9999])
def test_nobody_is_no_member(portal: Portal, hospital: Authority, practice: SignedIn, member: str) -> None:
    with pytest.raises(FormRefused):
        grant(portal, practice, hospital.gid, member)


def test_an_organisation_is_no_member(portal: Portal, hospital: Authority, practice: SignedIn) -> None:
    with pytest.raises(FormRefused):
        grant(portal, practice, hospital.gid, hospital.gid)


def test_granting_again_moves_the_last_day(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn
) -> None:
    grant(portal, practice, hospital.gid)
    grant(portal, practice, hospital.gid, last_day=last_day(60))
    with portal.database.read() as db:
        lines = authorities.members(db, hospital.gid)
    assert [line.ends_at.date() for line in lines] == [last_day(60)]


@pytest.mark.parametrize(("days", "taken"), [(-1, False), (0, True), (399, True), (400, False), (4000, False)])
def test_a_role_ends_between_today_and_399_days_from_now(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn, days: int, taken: bool
) -> None:
    if taken:
        grant(portal, practice, hospital.gid, last_day=last_day(days))
        assert holders(portal, hospital.gid) == [CAREGIVER.name]
    else:
        with pytest.raises(FormRefused):
            grant(portal, practice, hospital.gid, last_day=last_day(days))
        assert holders(portal, hospital.gid) == []


def test_a_role_taken_away_is_gone_at_once(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn
) -> None:
    grant(portal, practice, hospital.gid)
    with portal.database.read() as db:
        line = authorities.members(db, hospital.gid)[0]
    authorities.take(portal, practice.login, hospital.gid, line.id)
    assert holders(portal, hospital.gid) == []
    sealed = portal.keyholder.attribute_keys(identities.proof_for(caregiver.login), hospital.gid)
    assert caregiver.login.ring().open(sealed.sealed, context=sealed.context) == b"\x00\x00"
    with pytest.raises(NotFound):
        authorities.take(portal, practice.login, hospital.gid, line.id)
    grant(portal, practice, hospital.gid)
    assert holders(portal, hospital.gid) == [CAREGIVER.name]


def test_a_stranger_neither_grants_nor_takes(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn, stranger: SignedIn
) -> None:
    grant(portal, practice, hospital.gid)
    with portal.database.read() as db:
        line = authorities.members(db, hospital.gid)[0]
    for attempt in (
        lambda: grant(portal, stranger, hospital.gid, STRANGER.email),
        lambda: authorities.take(portal, stranger.login, hospital.gid, line.id),
        lambda: authorities.refresh(portal, stranger.login, hospital.gid),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert holders(portal, hospital.gid) == [CAREGIVER.name]


def test_an_officer_by_the_database_alone_is_none_to_the_keyholder(
    portal: Portal, hospital: Authority, stranger: SignedIn, caregiver: SignedIn
) -> None:
    with portal.database.write() as db:
        row = db.get(Authority, hospital.gid)
        assert row is not None
        row.officer_account_id = stranger.account.id
        db.add(row)
    with pytest.raises(NotFound):
        grant(portal, stranger, hospital.gid)


def test_an_officer_takes_lines_of_the_own_organisation_only(
    portal: Portal, hospital: Authority, known_operator: SignedIn, practice: SignedIn, caregiver: SignedIn,
    stranger: SignedIn,
) -> None:  # fmt: skip
    other = authorities.create(portal, known_operator.login, "Bridge", "practice", STRANGER.email)
    grant(portal, practice, hospital.gid)
    with portal.database.read() as db:
        line = authorities.members(db, hospital.gid)[0]
    with pytest.raises(NotFound):
        authorities.take(portal, stranger.login, other.gid, line.id)


def test_the_copy_follows_the_keyholders_list(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn, patient: SignedIn
) -> None:
    """A crash between keyholder and database, in both directions."""
    speaker, until = identities.proof_for(practice.login), int((now() + DAY).timestamp())
    portal.keyholder.attribute_grant(
        speaker, hospital.gid, identities.gid_of(caregiver.login), "role", "nurse", until
    )
    with portal.database.write() as db:
        db.add(AttributeGrant(authority_gid=hospital.gid, member_gid=identities.gid_of(patient.login), name="role",
                              value="nurse", ends_at=now() + DAY))  # fmt: skip
    assert holders(portal, hospital.gid, "role", "nurse") == [PATIENT.name]
    for _ in range(2):
        authorities.refresh(portal, practice.login, hospital.gid)
        assert holders(portal, hospital.gid, "role", "nurse") == [CAREGIVER.name]


def test_nothing_is_noted_when_the_keyholder_does_not_answer(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn
) -> None:
    portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/keyholder.sock")
    with pytest.raises(KeyholderUnavailable):
        grant(portal, practice, hospital.gid)
    assert holders(portal, hospital.gid) == []


# -- who holds what ---------------------------------------------------------------------------------
def test_who_is_no_longer_there_holds_nothing(
    portal: Portal, hospital: Authority, known_operator: SignedIn, practice: SignedIn, caregiver: SignedIn
) -> None:
    grant(portal, practice, hospital.gid)
    with portal.database.write() as db:
        row = db.exec(AttributeGrant.__table__.select()).first()
        assert row is not None
        held = db.get(AttributeGrant, row.id)
        assert held is not None
        held.ends_at = now() - dt.timedelta(seconds=1)
        db.add(held)
    assert holders(portal, hospital.gid) == []
    grant(portal, practice, hospital.gid)
    identities.revoke_identity(portal, known_operator.login, caregiver.account)
    assert holders(portal, hospital.gid) == []


def test_a_closed_account_holds_nothing(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn
) -> None:
    grant(portal, practice, hospital.gid)
    with portal.database.write() as db:
        row = db.get(Account, caregiver.account.id)
        assert row is not None
        row.closed_at = now()
        db.add(row)
    assert holders(portal, hospital.gid) == []


def test_holders_come_by_name_and_attributes_are_listed_once(
    portal: Portal, hospital: Authority, practice: SignedIn, caregiver: SignedIn, patient: SignedIn
) -> None:
    grant(portal, practice, hospital.gid, PATIENT.email)
    grant(portal, practice, hospital.gid)
    grant(portal, practice, hospital.gid, name="break-glass", value="")
    assert holders(portal, hospital.gid) == [CAREGIVER.name, PATIENT.name]
    assert holders(portal, hospital.gid, "break-glass", "") == [CAREGIVER.name]
    with portal.database.read() as db:
        assert authorities.offered(db, hospital.gid) == [("break-glass", ""), ("role", "cardiologist")]
        assert {line.words for line in authorities.held_by(db, identities.gid_of(caregiver.login))} == {
            "Cardiologist", "May open records in an emergency, with a reason",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "attribute", "words"),
    [
        (("Role", " Head  of Ward 3 "), ("role", "head-of-ward-3"), "Head of ward 3"),
        (("department", "Radiology"), ("department", "radiology"), "Works in radiology"),
        (("emergency", ""), ("emergency", ""), "May give emergency care"),
        (("on-call", "night"), ("on-call", "night"), "On call: night"),
    ],
)
def test_what_is_typed_becomes_an_attribute_and_plain_words_again(
    typed: tuple[str, str], attribute: tuple[str, str], words: str
) -> None:
    assert authorities.attribute_of(*typed) == attribute
    assert authorities.attribute_words(*attribute) == words


@pytest.mark.parametrize("typed", [("", "x"), ("role", "Ärztin"), ("role", "x" * 65), ("role", "a/b"), ("ro:le", "x")])
def test_what_has_no_place_in_an_attribute_is_refused_not_mapped(typed: tuple[str, str]) -> None:
    with pytest.raises(FormRefused):
        authorities.attribute_of(*typed)


def test_every_common_attribute_is_one() -> None:
    for name, value in authorities.COMMON:
        assert authorities.attribute_of(name, value) == (name, value)
