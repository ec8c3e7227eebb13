"""Who may ask for what: proofs, replays, places from which a call is taken, and hostile arguments."""

import random
from pathlib import Path

import pytest

from myphr.crypto import certificates, proofs
from myphr.errors import (
    CertificateRefused,
    IdentityRevoked,
    KeyholderProtocolError,
    NotFound,
    ProofRefused,
)
from myphr.keyholder.desk import Peer
from myphr.people.keyholder import read_reply
from tests.running_keyholder import Somebody
from tests.unit.keyholder.desk_stage import Stage, together


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def block_of(stage: Stage, person: Somebody, **changes: object) -> bytes:
    """A request that changes something: the person withholds everything they own."""
    arguments = {"block": ["all"], "compartment": None}
    return proofs.new_request(
        str(changes.get("keyholder", stage.desk.gid)), "vault.block", arguments, key=person.signing_key,
        now=int(stage.time + float(str(changes.get("seconds", 0)))), certificate=person.certificate,
    ).to_bytes()  # fmt: skip


def answer(stage: Stage, data: bytes, peer: Peer | None = None) -> dict:
    return read_reply(stage.desk.handle(data, peer or stage.peer))


def test_a_proof_is_good_once(stage: Stage) -> None:
    data = block_of(stage, stage.somebody())
    assert answer(stage, data) == {"compartments": 0}
    with pytest.raises(ProofRefused, match="seen before"):
        answer(stage, data)


def test_a_proof_that_changed_something_is_spent_across_a_restart(stage: Stage) -> None:
    data = block_of(stage, stage.somebody())
    answer(stage, data)
    stage.restart()
    with pytest.raises(ProofRefused, match="seen before"):
        answer(stage, data)


def test_of_many_at_once_with_one_proof_a_single_one_gets_through(stage: Stage) -> None:
    data = block_of(stage, stage.somebody())
    results = together(8, lambda _: answer(stage, data))
    assert results.count({"compartments": 0}) == 1
    assert sum(isinstance(one, ProofRefused) for one in results) == 7


@pytest.mark.parametrize(("seconds", "fine"), [(-60, True), (60, True), (-61, False), (61, False)])
def test_clocks_may_differ_by_a_minute(stage: Stage, seconds: int, fine: bool) -> None:
    data = block_of(stage, stage.somebody(), seconds=seconds)
    if fine:
        answer(stage, data)
    else:
        with pytest.raises(ProofRefused, match="clock"):
            answer(stage, data)


def test_a_proof_made_for_another_keyholder_is_refused(stage: Stage) -> None:
    with pytest.raises(ProofRefused, match="another keyholder"):
        answer(stage, block_of(stage, stage.somebody(), keyholder=certificates.new_gid()))
    with pytest.raises(ProofRefused):
        answer(stage, block_of(stage, stage.somebody(), keyholder=""))


def test_without_a_proof_nothing_is_done_for_anybody(stage: Stage) -> None:
    request = proofs.new_request(stage.desk.gid, "vault.block", {"block": ["all"], "compartment": None},
                                 now=int(stage.time))  # fmt: skip
    with pytest.raises(ProofRefused):
        answer(stage, request.to_bytes())


def test_nobody_signs_with_another_key_than_that_of_their_certificate(stage: Stage) -> None:
    ann, eve = stage.somebody(), stage.somebody()
    with pytest.raises(ProofRefused, match="signature"):
        answer(stage, block_of(stage, Somebody(ann.gid, eve.signing_key, eve.pair, ann.certificate)))


def test_changed_arguments_break_the_proof(stage: Stage) -> None:
    data = block_of(stage, stage.somebody())
    with pytest.raises(ProofRefused, match="signature"):
        answer(stage, data.replace(b'["all"]', b'["aLl"]').replace(b'["aLl"]', b'["all"] '))


def test_yesterday_s_certificate_no_longer_speaks(stage: Stage) -> None:
    ann = stage.somebody()
    stage.time += 86_401
    stage.round()
    with pytest.raises(CertificateRefused):
        answer(stage, block_of(stage, ann))
    answer(stage, block_of(stage, stage.renewed(ann)))


def test_a_revoked_certificate_no_longer_speaks_but_the_next_one_does(stage: Stage) -> None:
    ann = stage.somebody()
    stage.client.ca_revoke(certificates.read_certificate(ann.certificate).serial_hex)
    with pytest.raises(CertificateRefused, match="revoked"):
        answer(stage, block_of(stage, ann))
    answer(stage, block_of(stage, stage.renewed(ann)))


def test_a_revoked_gid_never_speaks_again(stage: Stage) -> None:
    ann = stage.somebody()
    stage.client.identity_revoke(ann.speaker, ann.gid)
    with pytest.raises(IdentityRevoked):
        answer(stage, block_of(stage, ann))
    with pytest.raises(IdentityRevoked):
        stage.renewed(ann)


def test_a_certificate_that_a_thief_of_the_ca_s_key_made_for_a_known_gid_speaks_for_nobody(stage: Stage) -> None:
    ann, key = stage.somebody(), certificates.new_signing_key()
    assert stage.desk.ca
    with stage.store.read() as db:
        issuer = stage.desk.ca.sign_with(db)
    forged = certificates.issue(issuer, ann.gid, key.public_key(), certificates.Kind.PERSON, stage.now())
    with pytest.raises(CertificateRefused, match="not the key"):
        answer(stage, block_of(stage, Somebody(ann.gid, key, ann.pair, forged)))
    gid = certificates.new_gid()
    unknown = certificates.issue(issuer, gid, key.public_key(), certificates.Kind.PERSON, stage.now())
    with pytest.raises(CertificateRefused, match="not the key"):
        answer(stage, block_of(stage, Somebody("", key, ann.pair, unknown)))


def test_a_refused_proof_spends_nothing_of_its_owner(stage: Stage) -> None:
    ann = stage.somebody()
    made = proofs.read_request(block_of(stage, ann))
    broken = proofs.Request(made.said, made.keyholder, made.gid, made.call, made.time, made.nonce, made.arguments,
                            made.certificate, bytes(64))  # fmt: skip
    with pytest.raises(ProofRefused):
        answer(stage, broken.to_bytes())
    answer(stage, made.to_bytes())


# -- from where a call is taken
def test_certificates_are_given_to_the_portal_alone(stage: Stage) -> None:
    for call, given in (("ca.issue", {"request": b"x"}), ("ca.revoke", {"serial": "1"})):
        request = proofs.new_request(stage.desk.gid, call, given, now=int(stage.time)).to_bytes()
        with pytest.raises(NotFound):
            answer(stage, request, Peer(host=certificates.new_gid()))


@pytest.mark.parametrize("call", ["operator.appoint", "operator.dismiss", "host.forget"])
def test_operators_are_made_on_the_machine_alone(stage: Stage, call: str) -> None:
    request = proofs.new_request(stage.desk.gid, call, {"gid": stage.somebody().gid}, now=int(stage.time)).to_bytes()
    for peer in (Peer(local=True), Peer(host=certificates.new_gid()), Peer()):
        with pytest.raises(NotFound):
            answer(stage, request, peer)


@pytest.mark.parametrize("call", ["ca.certify", "ca.close", "ca.operator", "host.renew"])
def test_what_keyholders_ask_each_other_nobody_else_may_ask(stage: Stage, call: str) -> None:
    request = proofs.new_request(stage.desk.gid, call, {}, now=int(stage.time)).to_bytes()
    with pytest.raises(NotFound):
        answer(stage, request)


def test_somebody_who_is_no_operator_finds_no_operator_s_call(stage: Stage) -> None:
    ann, bob, gid = stage.somebody(), stage.somebody(), certificates.new_gid()
    with pytest.raises(NotFound):
        stage.client.authority_create(ann.speaker, gid, [ann.gid])
    with pytest.raises(NotFound):
        stage.client.identity_revoke(ann.speaker, bob.gid)
    operator = stage.operator()
    stage.client.authority_create(operator.speaker, gid, [ann.gid])
    stage.client.operator_dismiss(operator.gid)
    with pytest.raises(NotFound):
        stage.client.authority_close(operator.speaker, gid)


# -- hostile arguments
STRANGE = [None, True, False, 0, -1, 1, 2**31, 2**63, 2**200, 1.5, "", "x", "\0", "é", "A" * 5000, "AAAA", [], [[]], {},
           {"a": 1}, ["gid"], ["all", "x"], [None], [1, 2, 3], ["role", "x", 0], "00000000-0000-4000-8000-000000000000",
           [["role", "x", 0]] * 300, "'; DROP TABLE half; --", {"people": [], "holders": [], "window_minutes": 0}]


def test_no_arguments_whatever_make_the_desk_fail(stage: Stage) -> None:
    rng, ann = random.Random(5), stage.operator()
    codes = set()
    for call, known in stage.desk.calls.items():
        for _ in range(40):
            arguments = {name: rng.choice(STRANGE) for name in known.schema if rng.random() < 0.95}
            if rng.random() < 0.1:
                arguments["surprise"] = 1
            request = proofs.new_request(stage.desk.gid, call, arguments, now=int(stage.time), key=ann.signing_key,
                                         certificate=ann.certificate).to_bytes()  # fmt: skip
            for peer in (stage.peer, Peer(host=ann.gid)):
                reply = proofs.load(stage.desk.handle(request, peer))
                assert reply.get("detail") != "failed", (call, arguments)
                codes.add(reply.get("error"))
    assert "keyholder-protocol" in codes


def test_an_unknown_call_is_refused(stage: Stage) -> None:
    request = proofs.new_request(stage.desk.gid, "vault.everything", {}, now=int(stage.time))
    with pytest.raises(KeyholderProtocolError):
        answer(stage, request.to_bytes())


def test_a_failure_of_our_own_tells_neither_the_caller_nor_the_log_what_it_was_about(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    ann = stage.somebody()
    stage.store.close()
    reply = proofs.load(stage.desk.handle(block_of(stage, ann), stage.peer))
    assert reply == {"error": "keyholder-unavailable", "detail": "failed"}
    assert "ProgrammingError" in caplog.text and ann.gid not in caplog.text
