"""A patient with files, a hospital with a registrar beside it, and people who hold roles there; a real keyholder."""

import dataclasses
import datetime as dt
from collections.abc import Callable

import pytest

from myphr.database import now
from myphr.people import authorities, identities
from myphr.people.models import Authority
from myphr.portal import Portal
from myphr.records.items import Facts, ItemWriter
from myphr.sharing.record_shares import Audience
from tests.cast import CAREGIVER, OPERATOR, PATIENT, PRACTICE, STRANGER, Person, SignedIn
from tests.running_keyholder import RunningKeyholder

NURSE = Person("nora@hospital.example", "Nora Holm", "linen folded before the dawn")


@dataclasses.dataclass(frozen=True)
class Clinic:
    """Everybody signed in; roles are given by `grant`."""

    portal: Portal
    patient: SignedIn
    caregiver: SignedIn
    nurse: SignedIn
    stranger: SignedIn
    practice: SignedIn
    operator: SignedIn
    hospital: Authority
    registrar: Authority

    def grant(self, who: SignedIn, name: str, value: str = "", authority: Authority | None = None) -> None:
        gid, day = (authority or self.hospital).gid, (now() + dt.timedelta(days=30)).date()
        authorities.grant(self.portal, self.practice.login, gid, who.person.email, name, value, day)

    def take(self, who: SignedIn, name: str, value: str = "", authority: Authority | None = None) -> None:
        gid = (authority or self.hospital).gid
        with self.portal.database.read() as db:
            line = next(one for one in authorities.members(db, gid)
                        if (one.member.gid, one.name, one.value) == (gid_of(who), name, value))  # fmt: skip
        authorities.take(self.portal, self.practice.login, gid, line.id)

    def add_item(self, name: str = "letter.txt", content: bytes = b"Dear patient\n") -> str:
        writer = ItemWriter(
            self.portal, self.patient.account.id, owner_public_key=self.patient.login.ring().public_key,
            source="upload", source_id=None, describe=lambda head: Facts("text", "text/plain"),
        )  # fmt: skip
        writer.write(content)
        return writer.finish(name, name).id

    @property
    def cardiologists(self) -> Audience:
        return Audience("care-team", authority_gid=self.hospital.gid, attributes=(("role", "cardiologist"),))

    @property
    def emergency(self) -> Audience:
        return Audience("emergency", authority_gid=self.hospital.gid, registrar_gid=self.registrar.gid)


def gid_of(who: SignedIn) -> str:
    return identities.gid_of(who.login)


def new_clinic(portal: Portal, keyholder: RunningKeyholder, enter: Callable[..., SignedIn]) -> Clinic:
    operator = enter(OPERATOR)
    keyholder.client.operator_appoint(gid_of(operator))
    patient, caregiver, nurse, stranger, practice = map(enter, (PATIENT, CAREGIVER, NURSE, STRANGER, PRACTICE))
    hospital = authorities.create(portal, operator.login, "St Mary's", "hospital", PRACTICE.email)
    registrar = authorities.create(portal, operator.login, "Registrar", "registrar", PRACTICE.email)
    return Clinic(portal, patient, caregiver, nurse, stranger, practice, operator, hospital, registrar)


@pytest.fixture
def clinic(portal: Portal, keyholder: RunningKeyholder, enter: Callable[..., SignedIn]) -> Clinic:
    return new_clinic(portal, keyholder, enter)
