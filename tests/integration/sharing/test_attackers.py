"""What each attacker gets who holds copies of files, keys of the keyholder, or what a member kept: docs/security.md.

Who shares what with whom: `scene`. Every attempt bypasses all checks (`tests.attacker`), and the same attempt opens the
file once it is given what is needed, so that none of these tests could pass by trying nothing.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmodel import select

from myphr.crypto import certificates
from myphr.crypto.envelope import new_key_pair
from myphr.crypto.statements import KeyStatement as SignedKeys
from myphr.people import identities
from myphr.people.models import KeyStatement
from myphr.portal import Portal
from myphr.sharing import record_shares, rewrapping, shared_with_me
from myphr.sharing.record_models import ItemWrap, RewrapTask
from myphr.sharing.record_shares import Audience, Scope
from tests.attacker import Haul, Loot, break_in
from tests.cast import SignedIn
from tests.integration.sharing.conftest import gid_of
from tests.integration.sharing.scene import BLOOD, HEART, LETTER, Scene, fresh, scene

__all__ = ["fresh", "scene"]


def contents(haul: Haul) -> set[bytes]:
    return set(haul.files.values())


def run_jobs(portal: Portal) -> None:
    with portal.database.read() as db:
        tasks = db.exec(select(RewrapTask.id)).all()
    for task_id in tasks:
        rewrapping.run(portal, task_id)


# -- the control --------------------------------------------------------------------------------------
def test_the_same_attempt_opens_each_file_with_the_keys_of_who_may(scene: Scene) -> None:
    thief, clinic = scene.thief, scene.clinic
    rest = thief.at_rest()
    assert contents(break_in(rest | thief.ring_of(clinic.patient))) == {LETTER, HEART, BLOOD}
    named = rest | thief.ring_of(clinic.nurse) | thief.half_for(clinic.nurse, scene.named)
    assert contents(break_in(named)) == {LETTER}
    team = rest | thief.ring_of(clinic.caregiver) | thief.attribute_keys_of(clinic.caregiver)
    assert contents(break_in(team | thief.half_for(clinic.caregiver, scene.team))) == {HEART}
    emergency = rest | thief.attribute_keys_of(clinic.nurse) | thief.half_for(clinic.nurse, scene.emergency)
    assert contents(break_in(emergency)) == {BLOOD}


def test_a_key_that_lay_in_the_open_would_be_found(scene: Scene, tmp_path: Path) -> None:
    shown = shared_with_me.open_shared(scene.clinic.portal, scene.clinic.nurse.login, scene.named)
    (tmp_path / "debug.log").write_bytes(b"key=" + shown.items[0].dek + b"\n")
    found = break_in(scene.thief.store() | Loot(folders=(tmp_path,)), search=True)
    assert contents(found) == {LETTER}


# -- copies -------------------------------------------------------------------------------------------
COPIES: dict[str, Callable[[Scene], Loot]] = {
    "store": lambda scene: scene.thief.store(),
    "database": lambda scene: scene.thief.database(),
    "redis": lambda scene: scene.redis,
    "store, database, redis": lambda scene: scene.thief.at_rest() | scene.redis,
    "these and the portal's key files": lambda scene: scene.thief.at_rest() | scene.redis | scene.thief.portal_keys(),
    "these and the keyholder's folder": lambda scene: (
        scene.thief.at_rest() | scene.redis | scene.thief.sealed_keyholder()
    ),
}


@pytest.mark.parametrize("held", COPIES)
def test_copies_alone_and_together_open_nothing(scene: Scene, held: str) -> None:
    assert break_in(COPIES[held](scene), search=True).is_empty


# -- keys of the keyholder ----------------------------------------------------------------------------
@pytest.mark.parametrize("which", ["hospital", "registrar"])
def test_one_authority_s_key_with_every_copy_opens_not_even_a_header(scene: Scene, which: str) -> None:
    loot = scene.thief.at_rest() | scene.thief.portal_keys()
    assert break_in(loot | scene.thief.authority(getattr(scene.clinic, which).gid)).is_empty


@pytest.mark.parametrize("which", ["hospital", "registrar"])
def test_one_authority_s_key_opens_nothing_with_all_halves_of_the_vault_either(scene: Scene, which: str) -> None:
    key = scene.thief.authority(getattr(scene.clinic, which).gid)
    assert break_in(scene.thief.at_rest() | scene.thief.halves() | key).is_empty


def test_the_halves_of_the_vault_open_nothing_alone_nor_with_every_copy(scene: Scene) -> None:
    assert break_in(scene.thief.halves()).is_empty
    assert break_in(scene.thief.halves() | scene.thief.store()).is_empty
    assert break_in(scene.thief.halves() | scene.thief.at_rest() | scene.thief.portal_keys()).is_empty


def test_the_whole_keyholder_without_the_database_opens_nothing(scene: Scene) -> None:
    assert break_in(scene.thief.whole_keyholder() | scene.thief.store(), search=True).is_empty


def test_the_whole_keyholder_with_every_copy_opens_emergency_shares_and_no_others(scene: Scene) -> None:
    """Said on the security page: where one keyholder holds both organisations, it is both of them."""
    found = break_in(scene.thief.at_rest() | scene.thief.whole_keyholder())
    assert contents(found) == {BLOOD}
    assert found.headers == {(scene.emergency, 0)}


# -- members ------------------------------------------------------------------------------------------
def test_without_the_half_a_member_s_own_keys_open_a_header_and_no_file(scene: Scene) -> None:
    thief, clinic = scene.thief, scene.clinic
    for who, share_id in ((clinic.nurse, scene.named), (clinic.caregiver, scene.team)):
        found = break_in(thief.at_rest() | thief.ring_of(who) | thief.attribute_keys_of(who))
        assert (share_id, 0) in found.headers and not found.files and not found.words


def test_a_cardiologist_without_the_patient_s_consent_opens_nothing_even_with_the_half(scene: Scene) -> None:
    thief, later = scene.thief, scene.clinic.practice
    loot = thief.at_rest() | thief.ring_of(later) | thief.attribute_keys_of(later)
    assert break_in(loot | thief.half_for(later, scene.team)).is_empty


def test_one_s_consent_and_another_s_role_do_not_add_up(scene: Scene) -> None:
    """The caregiver's consent, without their role, and the role of a colleague whom the patient did not agree to."""
    thief, clinic = scene.thief, scene.clinic
    pooled = thief.ring_of(clinic.caregiver) | thief.attribute_keys_of(clinic.practice)
    assert break_in(thief.at_rest() | thief.halves() | pooled).is_empty


def test_one_s_emergency_and_another_s_break_glass_do_not_add_up(fresh: Scene) -> None:
    clinic, thief = fresh.clinic, fresh.thief
    clinic.grant(clinic.stranger, "break-glass", authority=clinic.registrar)
    pooled = thief.attribute_keys_of(clinic.nurse, clinic.hospital.gid)
    pooled |= thief.attribute_keys_of(clinic.stranger, clinic.registrar.gid)
    assert break_in(thief.at_rest() | thief.halves() | pooled).is_empty
    both = pooled | thief.attribute_keys_of(clinic.nurse, clinic.registrar.gid)
    assert contents(break_in(thief.at_rest() | thief.halves() | both)) == {BLOOD}


def test_one_authority_s_key_with_a_member_who_may_not_opens_nothing(scene: Scene) -> None:
    """The hospital makes its keys for anybody, the nurse and the stranger give all they have."""
    thief, clinic = scene.thief, scene.clinic
    loot = thief.at_rest() | thief.authority(clinic.hospital.gid) | thief.ring_of(clinic.stranger)
    loot |= thief.attribute_keys_of(clinic.stranger) | thief.attribute_keys_of(clinic.nurse, clinic.hospital.gid)
    assert break_in(loot | thief.half_for(clinic.practice, scene.team)).is_empty


# -- a revoked member ---------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Kept:
    """What a member had before they were removed: `keys` with consent, role and half, and `copies` of all files."""

    keys: Loot
    copies: Loot


def remove(scene: Scene, who: SignedIn, share_id: str) -> Kept:
    """Somebody keeps everything; then the patient removes them, the worker wraps anew, the old half is destroyed."""
    thief, clinic = scene.thief, scene.clinic
    keys = thief.ring_of(who) | thief.attribute_keys_of(who) | thief.half_for(who, share_id)
    kept = Kept(keys, thief.at_rest())
    record_shares.remove_person(clinic.portal, clinic.patient.login, share_id, gid_of(who))
    run_jobs(clinic.portal)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    return kept


@pytest.fixture
def two(fresh: Scene) -> Scene:
    """Both the caregiver and the practice are cardiologists whom the patient agreed to; the nurse and the caregiver
    have the letter by name."""
    clinic = fresh.clinic
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    audience = Audience("family", gids=(gid_of(clinic.nurse), gid_of(clinic.caregiver)))
    with clinic.portal.database.read() as db:
        [letter] = db.exec(select(ItemWrap.item_id).where(ItemWrap.compartment_id == fresh.named)).all()
    named = record_shares.share(clinic.portal, clinic.patient.login, Scope("item", letter), audience)
    record_shares.withdraw(clinic.portal, clinic.patient.login, fresh.named)
    return dataclasses.replace(fresh, named=named)


@pytest.mark.parametrize("share", ["named", "team"])
def test_a_revoked_member_with_all_they_kept_opens_nothing_of_a_later_copy(two: Scene, share: str) -> None:
    kept = remove(two, two.clinic.caregiver, getattr(two, share))
    later, content = two.thief.at_rest(), {"named": LETTER, "team": HEART}[share]
    assert not break_in(later | kept.keys).files
    with_leaking_vault = break_in(later | kept.keys | two.thief.halves())
    assert content not in contents(with_leaking_vault)
    still = {"named": two.clinic.nurse, "team": two.clinic.practice}[share]
    may = two.thief.ring_of(still) | two.thief.attribute_keys_of(still)
    assert contents(break_in(later | may | two.thief.half_for(still, getattr(two, share), 1))) == {content}


def test_a_revoked_member_and_a_colleague_whom_nobody_agreed_to_do_not_add_up(two: Scene) -> None:
    kept = remove(two, two.clinic.caregiver, two.team)
    clinic, thief = two.clinic, two.thief
    clinic.grant(clinic.stranger, "role", "cardiologist")
    pooled = kept.keys | thief.attribute_keys_of(clinic.stranger) | thief.half_for(clinic.stranger, two.team, 1)
    assert HEART not in contents(break_in(thief.at_rest() | pooled))


def test_who_kept_a_copy_of_everything_still_opens_the_files_of_then_and_none_that_came_later(two: Scene) -> None:
    """What taking back cannot undo, said on the page and on the security page."""
    clinic, thief = two.clinic, two.thief
    everything = record_shares.share(clinic.portal, clinic.patient.login, Scope("everything", "all"),
                                     clinic.cardiologists)  # fmt: skip
    kept = remove(two, clinic.caregiver, everything)
    later = b"Dear Vera, after that\n"
    clinic.add_item("later.txt", later)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    old_and_new = kept.copies | kept.keys | thief.at_rest()
    assert contents(break_in(old_and_new)) == {LETTER, HEART, BLOOD}
    may = thief.ring_of(clinic.practice) | thief.attribute_keys_of(clinic.practice)
    assert later in contents(break_in(thief.at_rest() | may | thief.half_for(clinic.practice, everything, 1)))


def test_a_withdrawn_share_is_closed_to_who_takes_everything_afterwards(two: Scene) -> None:
    """Every key of everybody, both organisations and the vault: what is gone is the half."""
    clinic, thief = two.clinic, two.thief
    before = thief.at_rest()
    for share_id in (two.named, two.team, two.emergency):
        record_shares.withdraw(clinic.portal, clinic.patient.login, share_id)
    people = (clinic.caregiver, clinic.nurse, clinic.practice)
    everybody = thief.whole_keyholder()
    for who in people:
        everybody |= thief.ring_of(who) | thief.attribute_keys_of(who)
    assert not break_in(before | everybody).files  # not even with an old copy of the database
    assert break_in(thief.at_rest() | everybody).is_empty


# -- while keys are replaced --------------------------------------------------------------------------
def test_the_portal_s_key_files_open_shares_whose_keys_are_being_replaced_and_only_as_long(two: Scene) -> None:
    """Said in the threat model: until the worker is done, the task's row holds both keys sealed to it."""
    clinic, thief = two.clinic, two.thief
    record_shares.remove_person(clinic.portal, clinic.patient.login, two.team, gid_of(clinic.caregiver))
    assert contents(break_in(thief.at_rest() | thief.portal_keys())) == {HEART}
    assert break_in(thief.at_rest()).is_empty
    run_jobs(clinic.portal)
    assert break_in(thief.at_rest() | thief.portal_keys()).is_empty


# -- who changes the database -------------------------------------------------------------------------
def test_a_key_statement_forged_with_the_ca_s_key_gets_the_next_share_s_secret_and_no_half(fresh: Scene) -> None:
    """With the CA's key and the database an attacker puts a key of their own in the caregiver's place. The portal seals
    the next share's secret to it; the vault still gives the half to the caregiver's own key alone."""
    clinic, thief, gid = fresh.clinic, fresh.thief, gid_of(fresh.clinic.caregiver)
    signing, pair = certificates.new_signing_key(), new_key_pair()
    at = dt.datetime.now(dt.UTC)
    forged = certificates.issue(thief.ca(), gid, signing.public_key(), certificates.Kind.PERSON, at)
    own = identities.keys_of(clinic.stranger.login)
    statement = SignedKeys(gid, int(at.timestamp()), pair.public, own.authority_secret().public.to_bytes(),
                           own.patient_secret().public.to_bytes()).sign(signing)  # fmt: skip
    with clinic.portal.database.write() as db:
        row = db.get(KeyStatement, gid)
        assert row is not None
        row.statement, row.certificate = statement, forged
        db.add(row)
    item = clinic.add_item("next.txt", b"Dear Vera, the next one\n")
    share_id = record_shares.share(clinic.portal, clinic.patient.login, Scope("item", item),
                                   Audience("named", gids=(gid,)))  # fmt: skip
    loot = thief.at_rest() | Loot(rings=frozenset({pair.private}))
    found = break_in(loot)
    assert found.headers == {(share_id, 0)} and not found.files
    assert contents(break_in(loot | thief.halves())) == {b"Dear Vera, the next one\n"}  # said on the security page
