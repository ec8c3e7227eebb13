"""What each attacker gets of files that are shared by kind (keys over labels): docs/security.md.

The caregiver has lab results, the nurse photos; neither has what is sensitive. Every attempt goes around all checks
(`tests.attacker`), and the first test opens the files with the same attempt, given what is needed.
"""

import dataclasses
import datetime as dt
from pathlib import Path

import pytest

from myphr.records.labels import Labels
from myphr.sharing import compartments, delegations
from myphr.sharing.kinds import Filter
from myphr.sharing.record_models import DelegationKey
from tests.attacker import Haul, Loot, break_in
from tests.cast import SignedIn
from tests.integration.sharing.conftest import Clinic, gid_of
from tests.integration.sharing.test_record_shares import rows, run_jobs
from tests.integration.sharing.theft import Thief
from tests.running_keyholder import RunningKeyholder

LAB, PHOTO, SECRET = b"Dear Vera, the blood count\n", b"Dear Vera, the wound\n", b"Dear Vera, the other test\n"
DAY = dt.date(2024, 6, 1)


@dataclasses.dataclass(frozen=True)
class ByKind:
    """`labs`, `photos`: ids of the two delegations."""

    clinic: Clinic
    thief: Thief
    labs: str
    photos: str

    def keys_of(self, who: SignedIn, delegation_id: str, epoch: int = 0) -> Loot:
        """All that a delegate has in one epoch: their ring, which opens their key over labels, and the vault's half."""
        sealed = next(one.sealed for one in rows(self.clinic, DelegationKey)
                      if (one.delegation_id, one.epoch) == (delegation_id, epoch))  # fmt: skip
        secret = compartments.open_delegation(who.login.ring(), delegation_id, epoch, gid_of(who), sealed)
        return self.thief.ring_of(who) | self.thief.half_for(who, secret.vault_id, epoch)


@pytest.fixture
def scene(clinic: Clinic, keyholder: RunningKeyholder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ByKind:
    monkeypatch.setattr(delegations, "ROLL_SECONDS", 3600)  # all headers at once, however busy the computer is
    for name, content, type, sensitive in (("lab", LAB, "laboratory", False), ("photo", PHOTO, "photo", False),
                                           ("secret", SECRET, "laboratory", True)):  # fmt: skip
        item = clinic.add_item(name, content)
        delegations.relabel(clinic.portal, clinic.patient.login, item, Labels(type, "none", sensitive, DAY))
    labs, photos, _ = (
        delegations.delegate(clinic.portal, clinic.patient.login, gid_of(who), wanted)
        for who, wanted in ((clinic.caregiver, Filter(("laboratory",))), (clinic.nurse, Filter(("photo",))),
                            (clinic.stranger, Filter(also_sensitive=True)))
    )  # fmt: skip
    (tmp_path / "stolen").mkdir()
    return ByKind(clinic, Thief(clinic, keyholder, tmp_path / "stolen"), labs, photos)


def contents(haul: Haul) -> set[bytes]:
    return set(haul.files.values())


def test_by_kind_the_same_attempt_opens_each_file_with_the_keys_of_who_may(scene: ByKind) -> None:
    clinic, rest = scene.clinic, scene.thief.at_rest()
    assert contents(break_in(rest | scene.keys_of(clinic.caregiver, scene.labs))) == {LAB}
    assert contents(break_in(rest | scene.keys_of(clinic.nurse, scene.photos))) == {PHOTO}
    all_of_it = rest | scene.thief.ring_of(clinic.stranger) | scene.thief.halves()
    assert contents(break_in(all_of_it)) == {LAB, PHOTO, SECRET}


def test_by_kind_copies_alone_and_together_open_nothing(scene: ByKind) -> None:
    thief = scene.thief
    assert break_in(thief.at_rest() | thief.portal_keys(), search=True).is_empty


def test_by_kind_the_whole_keyholder_with_every_copy_opens_nothing(scene: ByKind) -> None:
    assert break_in(scene.thief.at_rest() | scene.thief.whole_keyholder()).is_empty


def test_by_kind_a_delegate_s_key_without_the_half_opens_a_header_and_no_file(scene: ByKind) -> None:
    found = break_in(scene.thief.at_rest() | scene.thief.ring_of(scene.clinic.caregiver))
    assert len(found.headers) == 1 and not found.files


def test_by_kind_keys_of_two_delegates_with_all_halves_open_what_is_theirs_and_no_more(scene: ByKind) -> None:
    pooled = scene.thief.ring_of(scene.clinic.caregiver) | scene.thief.ring_of(scene.clinic.nurse)
    found = break_in(scene.thief.at_rest() | scene.thief.halves() | pooled)
    assert contents(found) == {LAB, PHOTO} and len(found.headers) == 2


def test_by_kind_a_removed_delegate_with_all_they_kept_opens_nothing_of_a_later_copy(scene: ByKind) -> None:
    clinic, thief = scene.clinic, scene.thief
    kept = scene.keys_of(clinic.caregiver, scene.labs)
    old_copy = thief.at_rest()
    assert contents(break_in(old_copy | kept)) == {LAB}  # what was copied then stays open: said on the page
    delegations.stop(clinic.portal, clinic.patient.login, scene.labs)
    run_jobs(clinic)
    item = clinic.add_item("next", b"Dear Vera, the next count\n")
    delegations.relabel(clinic.portal, clinic.patient.login, item, Labels("laboratory", "none", False, DAY))
    delegations.catch_up(clinic.portal, clinic.patient.login)
    with_leaking_vault = break_in(thief.at_rest() | kept | thief.halves())
    assert not with_leaking_vault.files
    still = thief.at_rest() | scene.keys_of(clinic.nurse, scene.photos, 1)
    assert contents(break_in(still)) == {PHOTO}


def test_by_kind_what_was_taken_back_from_everybody_is_closed_also_with_older_copies(scene: ByKind) -> None:
    clinic, thief = scene.clinic, scene.thief
    before = thief.at_rest()
    for one in delegations.list_mine(clinic.portal, clinic.patient.login):
        delegations.stop(clinic.portal, clinic.patient.login, one.id)
    run_jobs(clinic)
    everybody = thief.whole_keyholder()
    for who in (clinic.caregiver, clinic.nurse, clinic.stranger):
        everybody |= thief.ring_of(who)
    delegations.catch_up(clinic.portal, clinic.patient.login)
    assert not break_in(before | everybody).files
    assert break_in(thief.at_rest() | everybody).is_empty
