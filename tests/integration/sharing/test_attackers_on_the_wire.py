"""What attackers get who speak to the keyholder themselves, byte by byte on its socket: forged, replayed and foreign
proofs, the CA's key, an authority's keys, an operator. The store of the keyholder is compared before and after.

Requests are made here, not by the client, so that nothing is refused before it is sent. Who shares what: `scene`.
"""

import dataclasses
import datetime as dt
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from myphr.crypto import certificates, proofs
from myphr.crypto.certificates import Issuer, Kind
from myphr.crypto.envelope import KeyPair, context_for, new_key_pair, open_with
from myphr.crypto.statements import Holding, KeyStatement
from myphr.people import identities
from myphr.people.keyholder import Block, Speaker
from tests.attacker import NOBODY, Loot, attribute_keys_in, break_in
from tests.cast import SignedIn
from tests.integration.sharing.conftest import gid_of
from tests.integration.sharing.scene import BLOOD, Scene, fresh, scene
from tests.running_keyholder import somebody

__all__ = ["fresh", "scene"]


@dataclasses.dataclass(frozen=True)
class Wire:
    """The keyholder's socket, and an attacker who is the stranger: a person with a GID and a certificate."""

    scene: Scene

    @property
    def attacker(self) -> Speaker:
        return self.speaker(self.scene.clinic.stranger)

    @property
    def own_ring(self) -> bytes:
        return self.scene.clinic.stranger.login.ring().private_key

    @staticmethod
    def speaker(who: SignedIn) -> Speaker:
        return identities.proof_for(who.login)

    def arguments(self, call: str, statement: bytes) -> dict[str, Any]:
        """Of a call that would give the attacker something, or take something from the patient."""
        hospital, team = self.scene.clinic.hospital.gid, self.scene.team
        wanted = [["role", "cardiologist", 0]]
        return {
            "vault.release": {"compartment": team, "epoch": 0, "key_statement": statement},
            "attribute.keys": {"authority": hospital, "wanted": wanted, "key_statement": statement},
            "vault.unblock": {"compartment": team, "block": ["gid", gid_of(self.scene.clinic.operator)]},
            "vault.destroy": {"compartment": team, "epoch": None},
        }[call]

    def request(
        self, call: str, given: dict[str, Any], *, key: object = None, certificate: bytes = b"", gid: str | None = None,
        seconds: int = 0, keyholder: str | None = None,
    ) -> bytes:  # fmt: skip
        """A request as somebody without scruples makes it: every part can be another's."""
        client = self.scene.thief.keyholder.client
        own = certificates.read_certificate(certificate).gid if certificate else ""
        said = proofs.dump({"arguments": given, "call": call, "gid": own if gid is None else gid, "time":
                            int(time.time()) + seconds, "keyholder": keyholder or client.gid(),
                            "nonce": uuid.uuid4().bytes})  # fmt: skip
        signature = certificates.sign(key, proofs.TAG, said) if key else b""  # type: ignore[arg-type]
        head = bytes((1, 1 if key else 0)) + len(certificate).to_bytes(2, "big")
        return head + certificate + signature + said

    def send(self, request: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(15)
            stream.connect(str(self.scene.thief.keyholder.socket))
            stream.sendall(proofs.frame(request))
            return proofs.load(proofs.read_frame(stream.recv, proofs.REPLY_BYTES_MAX))

    def stored(self) -> dict[str, list[tuple]]:
        """What the keyholder knows that a call could change."""
        with closing(sqlite3.connect(self.scene.thief.keyholder.folder / "store.sqlite")) as db:
            tables = (
                "half",
                "compartment",
                "block",
                "opening",
                "membership",
                "epoch",
                "officer",
                "authority",
                "operator",
            )
            return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


@pytest.fixture
def wire(scene: Scene) -> Wire:
    return Wire(scene)


@pytest.fixture(autouse=True)
def nothing_changes(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every attack on the shared stage the keyholder's store is what it was, to the byte."""
    if "wire" not in request.fixturenames:
        yield
        return
    wire = request.getfixturevalue("wire")
    owner, blocked = wire.speaker(wire.scene.clinic.patient), gid_of(wire.scene.clinic.operator)
    wire.scene.thief.keyholder.client.vault_block(owner, Block(gid=blocked), wire.scene.team)  # what is to be undone
    before = wire.stored()
    assert before["block"] and before["half"]
    yield
    assert wire.stored() == before


# -- forged proofs ------------------------------------------------------------------------------------
def nobody(wire: Wire, victim: Speaker, call: str) -> bytes:
    return wire.request(call, wire.arguments(call, wire.attacker.key_statement))


def under_another_s_certificate(wire: Wire, victim: Speaker, call: str) -> bytes:
    given = wire.arguments(call, wire.attacker.key_statement)
    return wire.request(call, given, key=wire.attacker.signing_key, certificate=victim.certificate)


def in_another_s_name(wire: Wire, victim: Speaker, call: str) -> bytes:
    given = wire.arguments(call, wire.attacker.key_statement)
    own = wire.attacker
    return wire.request(call, given, key=own.signing_key, certificate=own.certificate, gid=victim.gid)


def _certified(wire: Wire, issuer: Issuer, victim: Speaker, call: str) -> bytes:
    """With a new key in the victim's name, certified by `issuer`, and a statement that asks to be sealed to."""
    key = certificates.new_signing_key()
    at = dt.datetime.now(dt.UTC)
    forged = certificates.issue(issuer, victim.gid, key.public_key(), Kind.PERSON, at)
    ring = KeyPair.from_private(wire.own_ring)
    statement = KeyStatement(victim.gid, int(at.timestamp()), ring.public).sign(key)
    return wire.request(call, wire.arguments(call, statement), key=key, certificate=forged)


def by_a_ca_of_their_own(wire: Wire, victim: Speaker, call: str) -> bytes:
    at = dt.datetime.now(dt.UTC)
    root = certificates.new_root(at, dt.timedelta(days=9))
    return _certified(wire, certificates.new_intermediate(root, at, dt.timedelta(days=5)), victim, call)


def by_the_stolen_key_of_the_ca(wire: Wire, victim: Speaker, call: str) -> bytes:
    return _certified(wire, wire.scene.thief.ca(), victim, call)


def by_an_authority_s_stolen_key(wire: Wire, victim: Speaker, call: str) -> bytes:
    papers = wire.scene.thief.keyholder.client.authority_statement(wire.scene.clinic.hospital.gid)
    key = wire.scene.thief.authority_signing_key(wire.scene.clinic.hospital.gid)
    return _certified(wire, Issuer(papers.certificate, key), victim, call)


def harmless(wire: Wire, victim: Speaker, call: str) -> bytes:
    """A call that the victim really makes, and the attacker writes down on its way."""
    given = wire.arguments(call, victim.key_statement)
    if call == "vault.destroy":
        given["epoch"] = 7
    if call == "vault.unblock":
        given["block"] = ["gid", NOBODY]
    return wire.request(call, given, key=victim.signing_key, certificate=victim.certificate)


def replayed(wire: Wire, victim: Speaker, call: str) -> bytes:
    data = harmless(wire, victim, call)
    assert "done" in wire.send(data)
    return data


def changed_on_the_way(wire: Wire, victim: Speaker, call: str) -> bytes:
    data = harmless(wire, victim, call)
    other = {b'"epoch":7': b'"epoch":0', NOBODY.encode(): gid_of(wire.scene.clinic.operator).encode()}
    if call in ("vault.release", "attribute.keys"):
        swapped = [proofs.dump(one.key_statement)[1:-1] for one in (victim, wire.attacker)]
        other = {swapped[0]: swapped[1]}
    changed = data
    for before, after in other.items():
        changed = changed.replace(before, after)
    assert changed != data
    return changed


def an_hour_old(wire: Wire, victim: Speaker, call: str) -> bytes:
    given = wire.arguments(call, victim.key_statement)
    return wire.request(call, given, key=victim.signing_key, certificate=victim.certificate, seconds=-3600)


def for_another_keyholder(wire: Wire, victim: Speaker, call: str) -> bytes:
    given = wire.arguments(call, victim.key_statement)
    key, certificate = victim.signing_key, victim.certificate
    return wire.request(call, given, key=key, certificate=certificate, keyholder=certificates.new_gid())


FORGERIES = (
    nobody, under_another_s_certificate, in_another_s_name, by_a_ca_of_their_own, by_the_stolen_key_of_the_ca,
    by_an_authority_s_stolen_key, replayed, changed_on_the_way, an_hour_old, for_another_keyholder,
)  # fmt: skip
CALLS = {
    "vault.release": "caregiver", "attribute.keys": "caregiver", "vault.unblock": "patient", "vault.destroy": "patient",
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda one: one.__name__)
def test_a_forged_proof_gets_nothing_and_changes_nothing(wire: Wire, forgery: Callable[..., bytes]) -> None:
    for call, victim in CALLS.items():
        reply = wire.send(forgery(wire, wire.speaker(getattr(wire.scene.clinic, victim)), call))
        assert reply.get("error") in ("proof-refused", "certificate-refused"), (call, reply)


def test_the_same_requests_get_what_they_ask_for_when_they_are_honest(wire: Wire) -> None:
    """The control: half and keys for the caregiver; the patient unblocks and destroys, in a share made for it."""
    clinic = wire.scene.clinic
    doctor, ring = wire.speaker(clinic.caregiver), clinic.caregiver.login.ring()
    half = wire.send(harmless(wire, doctor, "vault.release"))["done"]["sealed"]
    context = context_for("vault-half", wire.scene.team, "0", doctor.gid)
    assert len(ring.open(proofs.from_base64(half), context=context)) == 32
    keys = wire.send(harmless(wire, doctor, "attribute.keys"))["done"]["sealed"]
    context = context_for("attribute-keys", clinic.hospital.gid, doctor.gid)
    assert len(attribute_keys_in(ring.open(proofs.from_base64(keys), context=context))) == 1
    owner, share_id = wire.speaker(clinic.patient), str(uuid.uuid4())
    before = wire.stored()
    for call, given, done in (
        ("vault.create", {"compartment": share_id, "epoch": 0, "key_statement": owner.key_statement,
                          "rule": {"people": [], "holders": [], "window_minutes": 0}}, None),
        ("vault.block", {"compartment": share_id, "block": ["gid", doctor.gid]}, {"compartments": 1}),
        ("vault.unblock", {"compartment": share_id, "block": ["gid", doctor.gid]}, {"compartments": 1}),
        ("vault.destroy", {"compartment": share_id, "epoch": None}, {"halves": 1}),
    ):  # fmt: skip
        reply = wire.send(wire.request(call, given, key=owner.signing_key, certificate=owner.certificate))["done"]
        assert done is None or reply == done
    assert wire.stored() != before  # and the comparison sees it
    with closing(sqlite3.connect(wire.scene.thief.keyholder.folder / "store.sqlite", isolation_level=None)) as db:
        for table, column in (("half", "compartment"), ("compartment", "id")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (share_id,))


# -- proofs of one's own ------------------------------------------------------------------------------
@pytest.mark.parametrize("who", ["stranger", "practice", "nurse"])
def test_somebody_s_own_right_proof_gets_nothing_of_what_is_not_theirs(wire: Wire, who: str) -> None:
    """A stranger, an officer of the hospital, a member with other rights: on the share of the letter or the heart."""
    own = wire.speaker(getattr(wire.scene.clinic, who))
    share_id = wire.scene.team if who == "nurse" else wire.scene.named
    rule = {"people": [own.gid], "holders": [], "window_minutes": 0}
    half = {"compartment": share_id, "epoch": 0, "key_statement": own.key_statement}
    for call, given, error in (
        ("vault.release", half, "access-withheld"),
        ("vault.release", half | {"reason_sha256": bytes(32)}, "access-withheld"),
        ("vault.release", half | {"epoch": 1}, "not-found"),
        ("vault.release", half | {"compartment": str(uuid.uuid4())}, "not-found"),
        ("vault.create", half | {"rule": rule}, "not-found"),
        ("vault.create", half | {"rule": rule, "epoch": 5}, "not-found"),
        ("vault.rule", {"compartment": share_id, "rule": rule}, "not-found"),
        ("vault.block", {"compartment": share_id, "block": ["all"]}, "not-found"),
        ("vault.unblock", {"compartment": share_id, "block": ["all"]}, "not-found"),
        ("vault.destroy", {"compartment": share_id, "epoch": 0}, "not-found"),
        ("vault.openings", {"compartment": share_id}, "not-found"),
        ("identity.revoke", {"gid": gid_of(wire.scene.clinic.patient)}, "not-found"),
        ("authority.officers", {"authority": wire.scene.clinic.hospital.gid, "officers": [own.gid]}, "not-found"),
    ):  # fmt: skip
        reply = wire.send(wire.request(call, given, key=own.signing_key, certificate=own.certificate))
        assert reply.get("error") == error, (call, reply)


def test_who_holds_nothing_gets_an_envelope_of_keys_without_a_key_whatever_they_ask_for(wire: Wire) -> None:
    own, hospital = wire.attacker, wire.scene.clinic.hospital.gid
    for epoch in (0, 1):
        given = {"authority": hospital, "key_statement": own.key_statement,
                 "wanted": [["role", "cardiologist", epoch], ["emergency", "", epoch]]}  # fmt: skip
        done = wire.send(wire.request("attribute.keys", given, key=own.signing_key, certificate=own.certificate))[
            "done"
        ]
        context = context_for("attribute-keys", wire.scene.clinic.hospital.gid, own.gid)
        opened = open_with(wire.own_ring, proofs.from_base64(done["sealed"]), context=context)
        assert attribute_keys_in(opened) == () and done["holdings"] == []


def test_a_holding_that_was_forged_or_is_another_s_opens_no_vault(wire: Wire) -> None:
    """Holdings are for authorities on other hosts: the one of this keyholder's own list decides here."""
    clinic, own, now = wire.scene.clinic, wire.attacker, int(time.time())
    hospital = clinic.hospital.gid
    said = Holding(hospital, own.gid, "role", "cardiologist", now)
    theirs = wire.scene.thief.keyholder.client.attribute_keys(wire.speaker(clinic.caregiver), hospital).holdings
    shown = {
        "signed by the attacker": said.sign(own.signing_key),
        "as an authority of their own": dataclasses.replace(said, authority=own.gid).sign(own.signing_key),
        "the caregiver's": theirs[0],
        "signed with the hospital's stolen key": said.sign(wire.scene.thief.authority_signing_key(hospital)),
    }
    for which, holding in shown.items():
        given = wire.arguments("vault.release", own.key_statement) | {"holdings": [holding]}
        reply = wire.send(wire.request("vault.release", given, key=own.signing_key, certificate=own.certificate))
        assert reply.get("error") == "access-withheld", which


def test_a_holding_kept_from_before_does_not_outlive_the_role(fresh: Scene) -> None:
    clinic, thief = fresh.clinic, fresh.thief
    doctor = Wire.speaker(clinic.caregiver)
    kept = thief.keyholder.client.attribute_keys(doctor, clinic.hospital.gid).holdings
    clinic.take(clinic.caregiver, "role", "cardiologist")
    wire = Wire(fresh)
    given = wire.arguments("vault.release", doctor.key_statement) | {"holdings": list(kept)}
    reply = wire.send(wire.request("vault.release", given, key=doctor.signing_key, certificate=doctor.certificate))
    assert reply.get("error") == "access-withheld"


# -- the CA's key, and a portal that was broken into --------------------------------------------------
def test_a_new_gid_from_the_ca_gets_in_nowhere_and_opens_nothing(wire: Wire) -> None:
    """What a break-in into the portal can ask of the CA: a person who never was."""
    made = somebody(wire.scene.thief.keyholder.client)
    for call, error in (("vault.release", "access-withheld"), ("vault.unblock", "not-found"),
                        ("vault.destroy", "not-found")):  # fmt: skip
        given = wire.arguments(call, made.speaker.key_statement)
        reply = wire.send(wire.request(call, given, key=made.signing_key, certificate=made.certificate))
        assert reply.get("error") == error
    given = wire.arguments("attribute.keys", made.speaker.key_statement)
    done = wire.send(wire.request("attribute.keys", given, key=made.signing_key, certificate=made.certificate))["done"]
    context = context_for("attribute-keys", wire.scene.clinic.hospital.gid, made.gid)
    assert attribute_keys_in(open_with(made.pair.private, proofs.from_base64(done["sealed"]), context=context)) == ()
    assert break_in(wire.scene.thief.at_rest() | Loot(rings=frozenset({made.pair.private}))).is_empty


def test_the_ca_gives_no_certificate_for_a_gid_that_exists(wire: Wire) -> None:
    for who in (wire.scene.clinic.patient, wire.scene.clinic.caregiver):
        request = certificates.new_request(certificates.new_signing_key(), gid_of(who))
        assert wire.send(wire.request("ca.issue", {"request": request})).get("error") == "certificate-refused"
    own = certificates.new_request(identities.keys_of(wire.scene.clinic.patient.login).signing_key(),
                                   gid_of(wire.scene.clinic.patient))  # fmt: skip
    assert "certificate" in wire.send(wire.request("ca.issue", {"request": own}))["done"]


def test_a_gid_that_the_stolen_key_of_the_ca_made_up_is_nobody(wire: Wire) -> None:
    key, pair, gid = certificates.new_signing_key(), new_key_pair(), certificates.new_gid()
    at = dt.datetime.now(dt.UTC)
    der = certificates.issue(wire.scene.thief.ca(), gid, key.public_key(), Kind.PERSON, at)
    statement = KeyStatement(gid, int(at.timestamp()), pair.public).sign(key)
    for call in CALLS:
        reply = wire.send(wire.request(call, wire.arguments(call, statement), key=key, certificate=der))
        assert reply.get("error") == "certificate-refused"


# -- who may do more ----------------------------------------------------------------------------------
def test_an_operator_who_makes_themself_officer_of_both_opens_emergency_shares_and_it_is_on_record(
    fresh: Scene,
) -> None:
    """Said on the security page: operators name officers, and officers name members. The patient is told of the
    opening by the keyholder; consent and names hold the other shares."""
    clinic, thief = fresh.clinic, fresh.thief
    client, own = thief.keyholder.client, Wire.speaker(clinic.operator)
    for authority, (name, value) in ((clinic.hospital, ("role", "cardiologist")), (clinic.hospital, ("emergency", "")),
                                     (clinic.registrar, ("break-glass", ""))):  # fmt: skip
        client.authority_officers(own, authority.gid, [own.gid])
        client.attribute_grant(own, authority.gid, own.gid, name, value, int(time.time()) + 3600)
    loot = thief.at_rest() | thief.ring_of(clinic.operator) | thief.attribute_keys_of(clinic.operator)
    released = client.vault_release(own, fresh.emergency, 0, reason_sha256=bytes(32))
    halves = {clinic.operator.login.ring().open(released.sealed, context=released.context)}
    loot |= Loot(halves=frozenset(halves)) | thief.half_for(clinic.operator, fresh.team)
    found = break_in(loot)
    assert set(found.files.values()) == {BLOOD} and found.headers == {(fresh.emergency, 0)}
    openings = client.vault_openings(Wire.speaker(clinic.patient), fresh.emergency)
    assert own.gid in {one.member for one in openings}
