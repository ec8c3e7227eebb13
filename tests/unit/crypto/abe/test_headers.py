"""Headers and keys of both suites: random policies against a plain evaluator, every byte, length and binding."""

import datetime
import random
import struct
import sys
import threading
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from myphr.crypto.abe import dates, key_policy, multi_authority
from myphr.crypto.abe.policy import Attribute, Gate, all_of, any_of, at_least, leaves_of, parse
from myphr.errors import AbeError, AbeMalformed, AbeNotSatisfied, AuthorityRefused, PolicyError

NAMES = [f"0a0a0a0a-1111-4111-8111-00000000000{i}" for i in (1, 2, 3)]
ALIASES = dict(zip(("hospA", "patient", "registrar"), NAMES, strict=True))
GID, OTHER_GID = str(uuid.UUID(int=1, version=4)), str(uuid.UUID(int=2, version=4))
SECRETS = {name: multi_authority.new_authority(name) for name in NAMES}
PUBLICS = {name: secret.public for name, secret in SECRETS.items()}
POOL = [Attribute(name, role, "", 1) for name in NAMES for role in ("a", "b")]
KEYS = {attribute: multi_authority.issue(SECRETS[attribute.authority], GID, attribute) for attribute in POOL}
PERSON = key_policy.new_patient()


def policy_of(text):
    return parse(text, ALIASES, 1)


def random_policy(rng, leaves):
    if leaves == 1:
        return rng.choice(POOL)
    width = rng.randint(2, min(leaves, 4))
    sizes = [1] * width
    for _ in range(leaves - width):
        sizes[rng.randrange(width)] += 1
    return at_least(rng.randint(1, width), [random_policy(rng, size) for size in sizes])


def truth(policy, held):
    if isinstance(policy, Attribute):
        return policy in held
    return sum(truth(child, held) for child in policy.children) >= policy.k


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_both_suites_open_exactly_when_a_plain_evaluator_says_so(number):
    rng = random.Random(number)
    policy = random_policy(rng, rng.randint(1, 8))
    held = [attribute for attribute in POOL if rng.random() < 0.6] or POOL[:1]
    key, header = multi_authority.encapsulate(policy, PUBLICS, binding=b"here")
    kp_key = key_policy.issue(PERSON, policy)
    kp_secret, kp_header = key_policy.encapsulate(held, PERSON.public, binding=b"here")
    if truth(policy, held):
        assert multi_authority.decapsulate(header, [KEYS[one] for one in held], PUBLICS, binding=b"here") == key
        assert key_policy.decapsulate(kp_header, kp_key, PERSON.public, binding=b"here") == kp_secret
    else:
        with pytest.raises(AbeNotSatisfied):
            multi_authority.decapsulate(header, [KEYS[one] for one in held], PUBLICS, binding=b"here")
        with pytest.raises(AbeNotSatisfied):
            key_policy.decapsulate(kp_header, kp_key, PERSON.public, binding=b"here")


def test_a_policy_of_64_leaves_opens_whichever_way_it_is_asked():
    many = [Attribute(NAMES[0], f"n{i}") for i in range(64)]
    keys = [multi_authority.issue(SECRETS[NAMES[0]], GID, one) for one in many]
    for k, having in ((1, 1), (33, 33), (64, 64)):
        key, header = multi_authority.encapsulate(Gate(k, tuple(many)), PUBLICS, binding=b"b")
        assert multi_authority.decapsulate(header, keys[64 - having :], PUBLICS, binding=b"b") == key
        with pytest.raises(AbeNotSatisfied):
            multi_authority.decapsulate(header, keys[: k - 1], PUBLICS, binding=b"b")


def test_two_headers_and_two_keys_of_the_same_are_never_the_same():
    policy = policy_of("a@hospA")
    (key, header), (other_key, other_header) = (
        multi_authority.encapsulate(policy, PUBLICS, binding=b"b") for _ in range(2)
    )
    assert key != other_key and header != other_header
    attribute = POOL[0]
    assert multi_authority.issue(SECRETS[NAMES[0]], GID, attribute) != multi_authority.issue(
        SECRETS[NAMES[0]], GID, attribute
    )
    assert len(header) == 48 + len(header[16 : 16 + struct.unpack(">I", header[12:16])[0]]) + 816


# -- every byte, every length ---------------------------------------------------------------------
def rw15_case():
    _, header = multi_authority.encapsulate(POOL[0], PUBLICS, binding=b"b")
    return header, lambda data: multi_authority.decapsulate(data, [KEYS[POOL[0]]], PUBLICS, binding=b"b")


def unused_row_case():
    """The second row is not needed to open: it is bound all the same."""
    _, header = multi_authority.encapsulate(any_of(POOL[0], POOL[1]), PUBLICS, binding=b"b")
    return header, lambda data: multi_authority.decapsulate(data, [KEYS[POOL[0]]], PUBLICS, binding=b"b")


def kp_case():
    """The second label is not needed to open."""
    key = key_policy.issue(PERSON, POOL[0])
    _, header = key_policy.encapsulate(POOL[:2], PERSON.public, binding=b"b")
    return header, lambda data: key_policy.decapsulate(data, key, PERSON.public, binding=b"b")


@pytest.mark.parametrize(
    ("case", "offsets"),
    [
        (rw15_case, slice(None)),
        (kp_case, slice(None)),
        (
            unused_row_case,
            slice(-816, None, 11),
        ),  # of the row that is never read, as each try makes the whole header again
    ],
)
def test_every_byte_of_a_header_counts(case, offsets):
    header, opened = case()
    opened(header)
    rng = random.Random(7)
    for at in range(len(header))[offsets]:
        changed = bytearray(header)
        changed[at] ^= 1 << rng.randrange(8)
        with pytest.raises(AbeError):
            opened(bytes(changed))


@pytest.mark.parametrize("case", [rw15_case, unused_row_case, kp_case])
def test_every_other_length_of_a_header_is_refused(case):
    header, opened = case()
    for bad in (
        *(header[:size] for size in range(len(header))),
        header + b"\x00",
        header * 2,
        header + header[-816:],
        header[1:],
        bytes(len(header)),
    ):
        with pytest.raises(AbeMalformed):
            opened(bad)


@given(st.binary(max_size=1200))
@example(bytes(31) + b"\x01")
@settings(deadline=None)
def test_any_bytes_are_refused_as_a_header_and_as_a_key(data):
    for start in (data, b"MYPHRABE\x01\x01" + data, b"MYPHRABE\x01\x02" + data):
        with pytest.raises(AbeMalformed):
            multi_authority.decapsulate(start, [], PUBLICS, binding=b"b")
        with pytest.raises(AbeMalformed):
            key_policy.labels_of(start)
    for kind, reader in enumerate(
        (
            multi_authority.AuthoritySecret,
            multi_authority.AuthorityPublic,
            multi_authority.AttributeKey,
            key_policy.PatientSecret,
            key_policy.PatientPublic,
            key_policy.KpKey,
        ),
        start=1,
    ):
        raw = b"MYPHRABK\x01" + bytes((kind,)) + data[:40]
        try:
            found = reader.from_bytes(raw)
        except AbeMalformed:
            continue
        assert found.to_bytes() == raw  # a scalar in the right range is a patient's secret: nothing else reads so
        assert reader is key_policy.PatientSecret


def test_headers_of_one_suite_are_none_of_the_other():
    _, header = multi_authority.encapsulate(POOL[0], PUBLICS, binding=b"b")
    _, kp_header = key_policy.encapsulate(POOL[:1], PERSON.public, binding=b"b")
    with pytest.raises(AbeMalformed):
        key_policy.decapsulate(header, key_policy.issue(PERSON, POOL[0]), PERSON.public, binding=b"b")
    with pytest.raises(AbeMalformed):
        multi_authority.decapsulate(kp_header, [KEYS[POOL[0]]], PUBLICS, binding=b"b")


# -- bindings, public values, keys ----------------------------------------------------------------
def test_a_header_opens_under_its_own_binding_only():
    key, header = multi_authority.encapsulate(POOL[0], PUBLICS, binding=b"x" * 4096)
    assert multi_authority.decapsulate(header, [KEYS[POOL[0]]], PUBLICS, binding=b"x" * 4096) == key
    for other in (b"x", b"x" * 4095, b"y" + b"x" * 4095):
        with pytest.raises(AbeError):
            multi_authority.decapsulate(header, [KEYS[POOL[0]]], PUBLICS, binding=other)
    kp_key = key_policy.issue(PERSON, POOL[0])
    _, header = key_policy.encapsulate(POOL[:1], PERSON.public, binding=b"x")
    with pytest.raises(AbeError):
        key_policy.decapsulate(header, kp_key, PERSON.public, binding=b"y")
    for bad in (b"", b"x" * 4097):
        with pytest.raises(ValueError):
            multi_authority.encapsulate(POOL[0], PUBLICS, binding=bad)
        with pytest.raises(ValueError):
            key_policy.encapsulate(POOL[:1], PERSON.public, binding=bad)


def test_a_missing_or_swapped_public_value_is_refused():
    policy = policy_of("a@hospA AND a@patient")
    _, header = multi_authority.encapsulate(policy, PUBLICS, binding=b"b")
    held = [KEYS[one] for one in leaves_of(policy)]
    swapped = {NAMES[0]: PUBLICS[NAMES[1]], NAMES[1]: PUBLICS[NAMES[0]]}
    for bad in ({}, {NAMES[0]: PUBLICS[NAMES[0]]}, swapped):
        with pytest.raises(AuthorityRefused):
            multi_authority.encapsulate(policy, bad, binding=b"b")
        with pytest.raises(AuthorityRefused):
            multi_authority.decapsulate(header, held, bad, binding=b"b")


def test_public_values_prove_their_secret_and_their_name():
    public = PUBLICS[NAMES[0]]
    multi_authority.check_public(public, NAMES[0])
    key_policy.check_public(PERSON.public)
    good, other = public.to_bytes(), PUBLICS[NAMES[1]].to_bytes()
    parts = [(0, 10), (10, 26), (26, 602), (602, 698), (698, 730), (730, 762), (762, 794)]
    assert parts[-1][1] == len(good) == len(other)
    for start, end in parts[1:]:  # the front is the same in both
        mixed = multi_authority.AuthorityPublic.from_bytes(good[:start] + other[start:end] + good[end:])
        with pytest.raises(AuthorityRefused):
            multi_authority.check_public(mixed)
    with pytest.raises(AuthorityRefused):
        multi_authority.check_public(public, NAMES[1])
    stranger = key_policy.new_patient().public
    for mixed in (
        key_policy.PatientPublic(stranger.a, PERSON.public.proof),
        key_policy.PatientPublic(PERSON.public.a, stranger.proof),
    ):
        with pytest.raises(AuthorityRefused):
            key_policy.check_public(mixed)


def test_keys_are_checked_against_the_public_value_they_come_from():
    key = KEYS[POOL[0]]
    multi_authority.check_key(key, PUBLICS[POOL[0].authority])
    for bad in (
        multi_authority.AttributeKey(OTHER_GID, key.attribute, key.k, key.t),
        multi_authority.AttributeKey(GID, POOL[1], key.k, key.t),
        multi_authority.AttributeKey(GID, key.attribute, key.k + key.k, key.t),
    ):
        with pytest.raises(AuthorityRefused):
            multi_authority.check_key(bad, PUBLICS[POOL[0].authority])
    with pytest.raises(AuthorityRefused):
        multi_authority.check_key(key, PUBLICS[NAMES[1]])
    policy = policy_of("2 of (a@hospA, b@hospA, a@hospA)")
    kp_key = key_policy.issue(PERSON, policy)
    key_policy.check_key(kp_key, PERSON.public)
    with pytest.raises(AuthorityRefused):
        key_policy.check_key(kp_key, key_policy.new_patient().public)
    with pytest.raises(AuthorityRefused):
        key_policy.check_key(key_policy.KpKey(policy, kp_key.rows[::-1], kp_key.randomisers), PERSON.public)


def test_an_authority_issues_its_own_attributes_only():
    with pytest.raises(AuthorityRefused):
        multi_authority.issue(SECRETS[NAMES[0]], GID, Attribute(NAMES[1], "a"))
    with pytest.raises(PolicyError):
        multi_authority.issue(SECRETS[NAMES[0]], "not a gid", POOL[0])
    with pytest.raises(PolicyError):
        multi_authority.new_authority("not an id")


def test_keys_and_values_are_read_as_they_were_written():
    policy = policy_of("2 of (a@hospA, b@hospA, a@hospA)")
    for one in (
        SECRETS[NAMES[0]],
        PUBLICS[NAMES[0]],
        KEYS[POOL[0]],
        PERSON,
        PERSON.public,
        key_policy.issue(PERSON, policy),
    ):
        data = one.to_bytes()
        again = type(one).from_bytes(data)
        assert again == one and again.to_bytes() == data


def test_labels_are_a_set_whatever_their_order():
    labels = [
        *dates.date_attributes(datetime.date(2024, 3, 10), authority=NAMES[1]),
        Attribute(NAMES[1], "type", "laboratory"),
    ]
    one = key_policy.encapsulate(labels, PERSON.public, binding=b"b", seed=bytes(32))
    assert key_policy.encapsulate(labels[::-1], PERSON.public, binding=b"b", seed=bytes(32)) == one
    assert set(key_policy.labels_of(one[1])) == set(labels)
    for bad in ([], labels + labels[:1], [Attribute(NAMES[0], f"n{i}") for i in range(65)]):
        with pytest.raises(PolicyError):
            key_policy.encapsulate(bad, PERSON.public, binding=b"b")
    key_policy.encapsulate([Attribute(NAMES[0], f"n{i}") for i in range(64)], PERSON.public, binding=b"b")


def test_a_range_of_days_and_a_kind_open_with_one_key():
    lab = Attribute(NAMES[1], "type", "laboratory")
    in_2024 = dates.date_range(datetime.date(2024, 1, 1), datetime.date(2024, 12, 31), authority=NAMES[1])
    key = key_policy.issue(PERSON, all_of(lab, in_2024))
    for day, label, opens in (
        ("2024-01-01", lab, True),
        ("2024-12-31", lab, True),
        ("2023-12-31", lab, False),
        ("2025-01-01", lab, False),
        ("2024-06-01", Attribute(NAMES[1], "type", "image"), False),
    ):
        labels = [label, *dates.date_attributes(datetime.date.fromisoformat(day), authority=NAMES[1])]
        secret, header = key_policy.encapsulate(labels, PERSON.public, binding=b"b")
        if opens:
            assert key_policy.decapsulate(header, key, PERSON.public, binding=b"b") == secret
        else:
            with pytest.raises(AbeNotSatisfied):
                key_policy.decapsulate(header, key, PERSON.public, binding=b"b")


def test_no_secret_stands_in_what_a_value_prints():
    for secret in (SECRETS[NAMES[0]], PERSON):
        assert str(secret.alpha) not in repr(secret) and "alpha" not in repr(secret)
    assert str(SECRETS[NAMES[0]].y) not in repr(SECRETS[NAMES[0]])
    assert "G1" not in repr(KEYS[POOL[0]]) and "rows" not in repr(key_policy.issue(PERSON, POOL[0]))


def test_threads_share_one_public_value():
    public = multi_authority.AuthorityPublic.from_bytes(PUBLICS[NAMES[0]].to_bytes())
    results, gate = [], threading.Barrier(6)
    was = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work():
        gate.wait()
        for _ in range(3):
            key, header = multi_authority.encapsulate(POOL[0], {NAMES[0]: public}, binding=b"b")
            results.append(
                multi_authority.decapsulate(header, [KEYS[POOL[0]]], {NAMES[0]: public}, binding=b"b") == key
            )

    threads = [threading.Thread(target=work) for _ in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(was)
    assert results == [True] * 18


def test_an_authority_s_tables_change_nothing_and_are_kept_for_a_few_authorities_only(monkeypatch):
    def made(name, number):
        secret = multi_authority.new_authority(name, seed=bytes([number]) * 32)
        return multi_authority.encapsulate(POOL[0], {name: secret.public}, binding=b"b", seed=bytes(32))

    first = made(NAMES[0], 1)
    assert [made(NAMES[0], 1) for _ in range(multi_authority._Powers.TABLES_FROM_USES)] == [first] * 8
    public = multi_authority.new_authority(NAMES[0], seed=b"\1" * 32).public
    assert public._powers._tables is not None
    monkeypatch.setattr(multi_authority, "_POWERS_MAX", 3)
    for number in range(2, 7):
        made(NAMES[0], number)
    assert len(multi_authority._powers) == 3
    assert made(NAMES[0], 1) == first
