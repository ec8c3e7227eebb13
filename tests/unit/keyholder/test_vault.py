"""The vault: halves for whoever the owner's rule lets in today; what is withheld is withheld at once."""

import dataclasses
import hashlib
import sqlite3
import uuid
from pathlib import Path

import pytest

from myphr.crypto import certificates
from myphr.crypto.statements import DestroyOrder, Holding
from myphr.errors import (
    AccessWithheld,
    CertificateRefused,
    EnvelopeError,
    IdentityRevoked,
    KeyholderConflict,
    KeyholderProtocolError,
    NotFound,
    ReasonRequired,
)
from myphr.keyholder.desk import Peer
from myphr.people.keyholder import Block, Held, Released, Rule, Sealed
from tests.running_keyholder import Somebody
from tests.unit.keyholder.desk_stage import together
from tests.unit.keyholder.test_authorities import Hospital

REASON = hashlib.sha256(b"unconscious in the ambulance").digest()


class Vault(Hospital):
    """A hospital with two doctors, a registrar, and an owner with compartments."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.owner, self.doctor, self.friend = (self.stage.somebody() for _ in range(3))
        self.grant(self.doctor)
        self.cardiologist = Held(self.gid, "role", "cardiologist")
        self.compartment = str(uuid.uuid4())

    def create(self, rule: Rule | None = None, *, epoch: int = 1, compartment: str | None = None) -> bytes:
        rule = rule or Rule(frozenset({self.friend.gid}), ((self.cardiologist,),))
        made = self.client.vault_create(self.owner.speaker, compartment or self.compartment, epoch, rule)
        return self.owner.open(made)

    def release(self, person: Somebody, *, epoch: int = 1, compartment: str | None = None, **more) -> bytes:
        return person.open(self.released(person, epoch=epoch, compartment=compartment, **more))

    def released(self, person: Somebody, *, epoch: int = 1, compartment: str | None = None, **more) -> Released:
        return self.client.vault_release(person.speaker, compartment or self.compartment, epoch, **more)

    def block(self, block: Block, compartment: str | None = None) -> int:
        return self.client.vault_block(self.owner.speaker, block, compartment)

    def withheld(self, person: Somebody, **more) -> bool:
        try:
            self.released(person, **more)
        except AccessWithheld:
            return True
        return False


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def test_owner_friend_and_doctor_get_the_same_half_and_a_stranger_nothing(vault: Vault) -> None:
    half = vault.create()
    assert len(half) == 32
    assert all(vault.release(person) == half for person in (vault.owner, vault.friend, vault.doctor))
    assert vault.withheld(vault.stage.somebody())


def test_each_compartment_and_epoch_has_a_half_of_its_own(vault: Vault) -> None:
    other = str(uuid.uuid4())
    halves = {vault.create(), vault.create(epoch=2), vault.create(compartment=other)}
    assert len(halves) == 3
    assert vault.release(vault.friend, epoch=2) != vault.release(vault.friend)


def test_made_again_it_is_the_same_half(vault: Vault) -> None:
    assert vault.create() == vault.create()


def test_made_by_many_at_once_it_is_one_half(vault: Vault) -> None:
    assert len(set(together(8, lambda _: vault.create()))) == 1


def test_another_rule_is_set_openly_or_not_at_all(vault: Vault) -> None:
    vault.create()
    with pytest.raises(KeyholderConflict):
        vault.create(Rule())
    vault.client.vault_rule(vault.owner.speaker, vault.compartment, Rule())
    assert vault.withheld(vault.friend) and vault.withheld(vault.doctor)
    vault.create(Rule(), epoch=2)


def test_a_compartment_belongs_to_who_made_it(vault: Vault) -> None:
    vault.create()
    speaker = vault.friend.speaker
    for call in (
        lambda: vault.client.vault_create(speaker, vault.compartment, 1, Rule()),
        lambda: vault.client.vault_create(speaker, vault.compartment, 9, Rule()),
        lambda: vault.client.vault_rule(speaker, vault.compartment, Rule()),
        lambda: vault.client.vault_block(speaker, Block(), vault.compartment),
        lambda: vault.client.vault_unblock(speaker, Block(), vault.compartment),
        lambda: vault.client.vault_destroy(speaker, vault.compartment),
        lambda: vault.client.vault_openings(speaker, vault.compartment),
    ):
        with pytest.raises(NotFound):
            call()
    assert vault.client.vault_block(speaker, Block()) == 0, "a friend's own block touches only the friend's own"
    assert vault.release(vault.doctor)


def test_what_is_not_there_is_not_found(vault: Vault) -> None:
    vault.create()
    with pytest.raises(NotFound):
        vault.release(vault.friend, compartment=str(uuid.uuid4()))
    with pytest.raises(NotFound):
        vault.release(vault.friend, epoch=2)


def test_a_half_opens_for_its_own_compartment_and_person_alone(vault: Vault) -> None:
    vault.create()
    vault.create(epoch=2)
    released = vault.released(vault.friend)
    with pytest.raises(EnvelopeError):
        vault.doctor.open(released)
    with pytest.raises(EnvelopeError):
        vault.friend.open(Sealed(released.sealed, vault.released(vault.friend, epoch=2).context))


# -- rules
def test_all_attributes_of_one_way_in_are_needed(vault: Vault) -> None:
    both = (vault.cardiologist, Held(vault.gid, "department", "radiology"))
    vault.create(Rule(holders=(both,)))
    assert vault.withheld(vault.doctor)
    vault.grant(vault.doctor, "department", "radiology")
    assert vault.release(vault.doctor)


def test_one_of_several_ways_in_is_enough(vault: Vault) -> None:
    vault.create(Rule(holders=((Held(vault.gid, "role", "nurse"),), (vault.cardiologist,))))
    assert vault.release(vault.doctor)


def test_the_way_in_closes_with_the_membership(vault: Vault) -> None:
    vault.create()
    vault.take(vault.doctor)
    assert vault.withheld(vault.doctor)
    vault.grant(vault.doctor, seconds=60)
    assert vault.release(vault.doctor)
    vault.stage.time += 60
    assert vault.withheld(vault.doctor)


def test_the_way_in_closes_with_the_authority(vault: Vault) -> None:
    vault.create()
    vault.client.authority_close(vault.operator.speaker, vault.gid)
    assert vault.withheld(vault.doctor)


def test_an_attribute_of_an_authority_nobody_knows_lets_nobody_in(vault: Vault) -> None:
    unknown = certificates.new_gid()
    vault.create(Rule(holders=((Held(unknown, "role", "cardiologist"),),)))
    holding = Holding(unknown, vault.doctor.gid, "role", "cardiologist", int(vault.stage.time))
    assert vault.withheld(vault.doctor, holdings=[holding.sign(certificates.new_signing_key())])
    assert vault.withheld(vault.doctor, holdings=[b"rubbish"])


@pytest.mark.parametrize("rule", [
    {"people": ["x"], "holders": [], "window_minutes": 0}, {"people": [], "holders": [[]], "window_minutes": 0},
    {"people": [], "holders": [], "window_minutes": -1}, {"people": [], "holders": [], "window_minutes": 1441},
    {"people": [], "holders": [[["x", "role", ""]]], "window_minutes": 0}, {"people": []}, [], "all",
])  # fmt: skip
def test_a_rule_of_another_form_is_refused(vault: Vault, rule: object) -> None:
    arguments = {"compartment": vault.compartment, "epoch": 1, "rule": rule,
                 "key_statement": vault.owner.speaker.key_statement}  # fmt: skip
    request = vault.client.prove(vault.owner.signing_key, vault.owner.certificate, "vault.create", arguments)
    with pytest.raises(KeyholderProtocolError):
        vault.client.send(request)


# -- withholding
def test_a_blocked_person_is_out_at_once_and_the_others_stay(vault: Vault) -> None:
    vault.create()
    assert vault.block(Block(gid=vault.friend.gid)) == 1
    assert vault.withheld(vault.friend) and vault.release(vault.doctor) and vault.release(vault.owner)


def test_a_blocked_attribute_or_authority_closes_the_ways_in_that_need_it(vault: Vault) -> None:
    vault.create(Rule(frozenset({vault.friend.gid}), ((vault.cardiologist,), (Held(vault.gid, "role", "nurse"),))))
    vault.block(Block(held=vault.cardiologist))
    assert vault.withheld(vault.doctor) and vault.release(vault.friend)
    vault.grant(vault.doctor, value="nurse")
    assert vault.release(vault.doctor), "another way in is another way in"
    vault.block(Block(authority=vault.gid))
    assert vault.withheld(vault.doctor) and vault.release(vault.friend)


def test_blocking_all_leaves_the_owner(vault: Vault) -> None:
    vault.create()
    vault.block(Block(), vault.compartment)
    assert vault.withheld(vault.doctor) and vault.withheld(vault.friend) and vault.release(vault.owner)


def test_a_block_of_one_compartment_is_of_that_one_and_a_block_of_all_of_later_ones_too(vault: Vault) -> None:
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    vault.create(compartment=first)
    vault.create(compartment=second)
    assert vault.block(Block(gid=vault.friend.gid), first) == 1
    assert vault.withheld(vault.friend, compartment=first) and vault.release(vault.friend, compartment=second)
    assert vault.block(Block(gid=vault.friend.gid)) == 2
    vault.create(compartment=third)
    assert vault.withheld(vault.friend, compartment=second) and vault.withheld(vault.friend, compartment=third)


def test_a_block_stays_over_a_new_epoch_and_a_restart(vault: Vault) -> None:
    vault.create()
    vault.block(Block(gid=vault.friend.gid), vault.compartment)
    vault.create(epoch=2)
    vault.stage.restart()
    assert vault.withheld(vault.friend, epoch=2)


def test_taking_a_block_away_takes_away_that_one_alone(vault: Vault) -> None:
    vault.create()
    vault.block(Block(gid=vault.friend.gid))
    vault.block(Block(gid=vault.friend.gid), vault.compartment)
    vault.client.vault_unblock(vault.owner.speaker, Block(gid=vault.friend.gid))
    assert vault.withheld(vault.friend)
    vault.client.vault_unblock(vault.owner.speaker, Block(gid=vault.friend.gid), vault.compartment)
    assert vault.release(vault.friend)


def test_an_owner_cannot_lock_themself_out(vault: Vault) -> None:
    vault.create()
    with pytest.raises(KeyholderProtocolError):
        vault.block(Block(gid=vault.owner.gid))


def test_after_the_answer_to_a_block_nobody_who_asks_gets_the_half(vault: Vault) -> None:
    vault.create()
    seen: list[str] = []

    def run(number: int) -> None:
        if number == 0:
            vault.block(Block(gid=vault.friend.gid))
            seen.append("blocked")
        else:
            for _ in range(20):
                after = bool(seen)
                if not vault.withheld(vault.friend) and after:
                    seen.append("released after the block")

    assert [one for one in together(4, run) if one is not None] == []
    assert seen == ["blocked"]


def test_a_revoked_owner_s_compartments_are_withheld(vault: Vault) -> None:
    vault.create()
    vault.client.identity_revoke(vault.owner.speaker, vault.owner.gid)
    assert vault.withheld(vault.friend) and vault.withheld(vault.doctor)


# -- destroying
def test_a_destroyed_epoch_is_gone_for_good_and_the_others_stay(vault: Vault) -> None:
    vault.create()
    vault.create(epoch=2)
    assert vault.client.vault_destroy(vault.owner.speaker, vault.compartment, 1) == 1
    assert vault.client.vault_destroy(vault.owner.speaker, vault.compartment, 1) == 0
    with pytest.raises(NotFound):
        vault.release(vault.owner)
    with pytest.raises(KeyholderConflict):
        vault.create()
    assert vault.release(vault.friend, epoch=2)


def test_a_destroyed_compartment_is_gone_for_good(vault: Vault) -> None:
    vault.create()
    vault.create(epoch=2)
    assert vault.client.vault_destroy(vault.owner.speaker, vault.compartment) == 2
    for epoch in (1, 2):
        with pytest.raises(NotFound):
            vault.release(vault.owner, epoch=epoch)
    with pytest.raises(KeyholderConflict):
        vault.create(epoch=3)


def test_a_destroyed_half_is_nowhere_in_the_folder_not_even_sealed(vault: Vault) -> None:
    vault.create()
    with vault.stage.store.read() as db:
        sealed = bytes(db.execute("SELECT sealed FROM half").fetchone()["sealed"])

    def found() -> bool:
        return any(sealed in path.read_bytes() for path in vault.stage.folder.iterdir())

    assert found(), "this test could not fail"
    vault.client.vault_destroy(vault.owner.speaker, vault.compartment)
    assert not found()


# -- with the owner's order instead of the owner
def order(vault: Vault, before: int = 2, *, compartment: str = "", by: Somebody | None = None, of: str = "") -> bytes:
    signer = by or vault.owner
    return DestroyOrder(of or signer.gid, compartment or vault.compartment, before).sign(signer.signing_key)


def halves_left(vault: Vault) -> list[tuple[str, int]]:
    with vault.stage.store.read() as db:
        rows = db.execute("SELECT compartment, epoch FROM half WHERE sealed <> '' ORDER BY compartment, epoch")
        return [tuple(row) for row in rows]


@pytest.fixture
def rolled(vault: Vault) -> Vault:
    """Epochs 0 to 3 of one compartment, epoch 1 of another."""
    for epoch in range(4):
        vault.create(epoch=epoch)
    vault.create(compartment=str(uuid.UUID(int=1)))
    return vault


def test_an_order_destroys_the_epochs_below_and_nothing_else_however_often_it_is_shown(rolled: Vault) -> None:
    before = {one for one in halves_left(rolled) if one not in {(rolled.compartment, 0), (rolled.compartment, 1)}}
    shown = order(rolled)
    assert [rolled.client.vault_destroy_old(rolled.compartment, 2, shown) for _ in range(3)] == [2, 0, 0]
    rolled.stage.time += 400 * 86_400
    rolled.stage.restart()
    assert rolled.client.vault_destroy_old(rolled.compartment, 2, shown) == 0
    assert set(halves_left(rolled)) == before
    rolled.stage.round()
    rolled.stage.renewed(rolled.owner)
    with pytest.raises(KeyholderConflict):
        rolled.create(epoch=0)


def test_an_order_is_for_its_compartment_and_epoch_alone(rolled: Vault) -> None:
    before, other = halves_left(rolled), str(uuid.UUID(int=1))
    for compartment, epoch in ((rolled.compartment, 3), (rolled.compartment, 1), (other, 2)):
        with pytest.raises(CertificateRefused):
            rolled.client.vault_destroy_old(compartment, epoch, order(rolled))
    assert halves_left(rolled) == before


def test_an_order_of_somebody_else_is_refused(rolled: Vault) -> None:
    before, args = halves_left(rolled), (rolled.compartment, 2)
    for error, shown in (
        (NotFound, order(rolled, by=rolled.friend)),
        (CertificateRefused, order(rolled, by=rolled.friend, of=rolled.owner.gid)),
        (NotFound, order(rolled, of=certificates.new_gid())),
        (NotFound, b"x"),
        (CertificateRefused, order(rolled)[:-1]),
        (CertificateRefused, order(rolled) + b"x"),
    ):
        with pytest.raises(error):
            rolled.client.vault_destroy_old(*args, shown)
    assert halves_left(rolled) == before


def test_what_the_owner_signed_for_something_else_is_no_order(rolled: Vault) -> None:
    before = halves_left(rolled)
    statement = rolled.owner.speaker.key_statement
    with pytest.raises(CertificateRefused):
        rolled.client.vault_destroy_old(rolled.compartment, 2, statement)
    assert halves_left(rolled) == before


def test_an_order_never_takes_the_newest_half(rolled: Vault) -> None:
    before = halves_left(rolled)
    for epoch in (4, 2**32 - 1):
        with pytest.raises(KeyholderConflict):
            rolled.client.vault_destroy_old(rolled.compartment, epoch, order(rolled, epoch))
    assert halves_left(rolled) == before
    assert rolled.client.vault_destroy_old(rolled.compartment, 3, order(rolled, 3)) == 3
    assert rolled.release(rolled.friend, epoch=3)


def test_an_order_of_a_revoked_owner_destroys_nothing(rolled: Vault) -> None:
    before = halves_left(rolled)
    rolled.client.identity_revoke(rolled.owner.speaker, rolled.owner.gid)
    with pytest.raises(IdentityRevoked):
        rolled.client.vault_destroy_old(rolled.compartment, 2, order(rolled))
    assert halves_left(rolled) == before


def test_over_tls_nobody_shows_an_order(rolled: Vault) -> None:
    before = halves_left(rolled)
    rolled.stage.peer = Peer(host=certificates.new_gid())
    with pytest.raises(NotFound):
        rolled.client.vault_destroy_old(rolled.compartment, 2, order(rolled))
    assert halves_left(rolled) == before


def test_no_half_stands_in_the_folder_in_clear(vault: Vault) -> None:
    half = vault.create()
    assert all(half not in path.read_bytes() for path in vault.stage.folder.iterdir())


def test_a_compartment_keeps_its_owner_in_the_store(vault: Vault) -> None:
    vault.create()
    with pytest.raises(sqlite3.IntegrityError), vault.stage.store.write() as db:
        db.execute("UPDATE compartment SET owner = ?", (vault.friend.gid,))


# -- break-glass
@pytest.fixture
def glass(vault: Vault) -> Vault:
    vault.create(Rule(holders=((vault.cardiologist,),), window_minutes=30))
    return vault


def test_glass_breaks_only_with_a_reason_and_is_written_down(glass: Vault) -> None:
    with pytest.raises(ReasonRequired):
        glass.released(glass.doctor)
    assert glass.client.vault_openings(glass.owner.speaker) == []
    released = glass.released(glass.doctor, reason_sha256=REASON)
    assert released.opened_now and released.window_until == int(glass.stage.time) + 1800
    assert glass.doctor.open(released) == glass.release(glass.owner)
    (opening,) = glass.client.vault_openings(glass.owner.speaker, glass.compartment)
    assert (opening.member, opening.reason_sha256, opening.until) == (glass.doctor.gid, REASON, released.window_until)


def test_while_the_window_is_open_no_second_reason_is_asked(glass: Vault) -> None:
    first = glass.released(glass.doctor, reason_sha256=REASON)
    glass.stage.time += 1799
    again = glass.released(glass.doctor)
    assert not again.opened_now and again.window_until == first.window_until
    glass.stage.time += 1
    with pytest.raises(ReasonRequired):
        glass.released(glass.doctor)


def test_a_window_is_open_for_who_opened_it(glass: Vault) -> None:
    other = glass.stage.somebody()
    glass.grant(other)
    glass.released(glass.doctor, reason_sha256=REASON)
    with pytest.raises(ReasonRequired):
        glass.released(other)


def test_the_owner_needs_no_reason(glass: Vault) -> None:
    assert glass.released(glass.owner).window_until is None


def test_a_reason_lets_in_nobody_who_is_not_let_in(glass: Vault) -> None:
    assert glass.withheld(glass.friend, reason_sha256=REASON)
    assert glass.client.vault_openings(glass.owner.speaker) == []


def test_a_block_shuts_the_window(glass: Vault) -> None:
    glass.released(glass.doctor, reason_sha256=REASON)
    glass.block(Block(gid=glass.doctor.gid))
    assert glass.withheld(glass.doctor)
    glass.client.vault_unblock(glass.owner.speaker, Block(gid=glass.doctor.gid))
    with pytest.raises(ReasonRequired):
        glass.released(glass.doctor)


def test_two_who_break_the_glass_at_once_with_one_identity_open_one_window(glass: Vault) -> None:
    results = together(6, lambda _: glass.released(glass.doctor, reason_sha256=REASON).opened_now)
    assert sorted(results) == [False] * 5 + [True]
    assert len(glass.client.vault_openings(glass.owner.speaker)) == 1


def test_a_reason_of_another_size_is_refused(glass: Vault) -> None:
    for reason in (b"", b"x" * 31, b"x" * 33):
        with pytest.raises(KeyholderProtocolError):
            glass.released(glass.doctor, reason_sha256=reason)


def test_half_and_keys_go_only_to_the_signed_key(vault: Vault) -> None:
    vault.create()
    swapped = dataclasses.replace(vault.friend.speaker, key_statement=vault.stage.somebody().speaker.key_statement)
    with pytest.raises(CertificateRefused):
        vault.client.vault_release(swapped, vault.compartment, 1)
