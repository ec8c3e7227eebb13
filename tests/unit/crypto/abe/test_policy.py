"""Policies in text, bytes and logic: random ones against a plain evaluator, hostile ones, each limit on both sides."""

import datetime
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.crypto.abe import dates
from myphr.crypto.abe.curve import R, wide
from myphr.crypto.abe.policy import (
    DEPTH_MAX,
    LEAVES_MAX,
    Attribute,
    Gate,
    all_of,
    any_of,
    at_least,
    attributes_from_bytes,
    authorities_of,
    authorities_sufficient,
    canonical,
    depth_of,
    from_canonical,
    leaf_count,
    leaves_of,
    parse,
    satisfied,
    to_text,
)
from myphr.crypto.abe.shares import Draws, choose, share
from myphr.errors import PolicyError

HOSPITAL, PATIENT, REGISTRAR = (f"0a0a0a0a-1111-4111-8111-00000000000{i}" for i in (1, 2, 3))
ALIASES = {"hospA": HOSPITAL, "patient": PATIENT, "Registrar.1": REGISTRAR}
PARTS = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=64)
POOL = [
    Attribute(authority, name, value, epoch)
    for authority in (HOSPITAL, PATIENT)
    for name, value in (("role", "nurse"), ("role", ""), ("x", "y"))
    for epoch in (0, 7)
]


def gates(children):
    return st.lists(children, min_size=2, max_size=4).flatmap(
        lambda some: st.integers(1, len(some)).map(lambda k: Gate(k, tuple(some)))
    )


def shallow(policy):
    return depth_of(policy) <= DEPTH_MAX


ANY_ATTRIBUTE = st.builds(
    Attribute,
    st.sampled_from(list(ALIASES.values())) | st.uuids().map(str),
    PARTS,
    PARTS | st.just(""),
    st.integers(0, 2**32 - 1),
)
POLICIES = st.recursive(st.sampled_from(POOL), gates, max_leaves=16).filter(shallow)
WILD = st.recursive(ANY_ATTRIBUTE, gates, max_leaves=16).filter(shallow)


def truth(policy, held):
    """The plain evaluator: every choice of k children, one by one."""
    if isinstance(policy, Attribute):
        return policy in held
    return any(all(truth(child, held) for child in some) for some in itertools.combinations(policy.children, policy.k))


@given(POLICIES, st.sets(st.sampled_from(POOL)))
@settings(deadline=None, max_examples=50)
def test_logic_and_shares_agree_with_a_plain_evaluator(policy, held):
    answer = truth(policy, held)
    assert satisfied(policy, held) is answer
    chosen = choose(policy, held)
    assert (chosen is not None) is answer
    if chosen is None:
        return
    leaves = list(leaves_of(policy))
    shares = share(policy, 123456789, Draws(bytes(32), b"test", b""))
    zeros = share(policy, 0, Draws(bytes(32), b"test", b"other"))
    rows, divisor = chosen
    assert len({leaf for leaf, _ in rows}) == len(rows) and all(leaves[leaf] in held for leaf, _ in rows)
    assert sum(factor * shares[leaf] for leaf, factor in rows) % R == 123456789 * divisor % R
    assert sum(factor * zeros[leaf] for leaf, factor in rows) % R == 0


@given(POLICIES, st.sets(st.sampled_from(POOL)), st.sampled_from(POOL))
@settings(deadline=None, max_examples=50)
def test_who_has_more_may_open_no_less(policy, held, more):
    assert satisfied(policy, held) <= satisfied(policy, held | {more})


@given(WILD)
@settings(deadline=None, max_examples=50)
def test_bytes_and_words_give_the_same_policy_back(policy):
    data = canonical(policy)
    assert from_canonical(data) == policy and canonical(from_canonical(data)) == data
    epochs = {}
    for leaf in leaves_of(policy):
        epochs.setdefault((leaf.authority, leaf.name, leaf.value), leaf.epoch)
    again = parse(to_text(policy, ALIASES), ALIASES, epochs)
    assert to_text(again, ALIASES) == to_text(policy, ALIASES)
    if all(epochs[leaf.authority, leaf.name, leaf.value] == leaf.epoch for leaf in leaves_of(policy)):
        assert again == policy


@given(WILD, WILD)
@settings(deadline=None, max_examples=50)
def test_two_policies_never_have_the_same_bytes(one, other):
    assert (canonical(one) == canonical(other)) is (one == other)


@given(WILD, st.data())
@settings(deadline=None, max_examples=50)
def test_changed_cut_or_extended_bytes_are_another_policy_or_refused(policy, data):
    good = canonical(policy)
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    for bad in (flipped, good[:at], good + data.draw(st.binary(min_size=1, max_size=4))):
        try:
            found = from_canonical(bad)
        except PolicyError:
            continue
        assert bad == flipped and found != policy and canonical(found) == bad


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=50)
def test_any_bytes_are_a_policy_or_a_policy_error(data):
    for start in (data, b"\x01" + data, b"\x01\x02\x01\x02\x01\x10" + data):
        try:
            assert canonical(from_canonical(start)) == start
        except PolicyError:
            pass
        try:
            attributes_from_bytes(start, 2)
        except PolicyError:
            pass


WORDS = st.sampled_from(
    [
        "(",
        ")",
        ",",
        "AND",
        "OR",
        "of",
        "2",
        "1 of (",
        "99 of",
        "a@hospA",
        "role:nurse@patient",
        "x@nobody",
        " ",
        "@",
        ":",
        "\t",
        "\u00a0",
        "A",
        "not",
        "and",
        "0",
        "-1",
        "a@hospA,",
    ]
)


@given(st.lists(WORDS, max_size=40).map(" ".join) | st.lists(WORDS, max_size=40).map("".join) | st.text(max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_policy_or_a_policy_error(text):
    try:
        found = parse(text, ALIASES, 0)
    except PolicyError as error:
        assert "cannot be used" in error.message
        return
    assert parse(to_text(found, ALIASES), ALIASES, 0) == found


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "1 of (" * 2000,
        "a@hospA AND " * 1300,
        "2 of(" + "a@hospA," * 1500,
        "(" * 8000 + ")" * 8000,
        "1 of (" * 32 + "1 of (a@hospA" + ")" * 33,
    ],
)
def test_text_of_extremes_is_refused(text):
    with pytest.raises(PolicyError):
        parse(text, ALIASES, 0)


@pytest.mark.parametrize("text", [None, 5, b"a@hospA", ["a@hospA"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(PolicyError):
        parse(text, ALIASES, 0)


def test_an_error_names_the_place_and_never_what_stands_there():
    with pytest.raises(PolicyError) as caught:
        parse("owner@patient OR secret-name@nobody", ALIASES, 0)
    assert "character 18" in caught.value.message and "secret" not in caught.value.message + str(caught.value)


def test_precedence_chains_and_parentheses():
    a, b, c, d = (Attribute(HOSPITAL, name) for name in "abcd")
    aliases = {"h": HOSPITAL}
    assert parse("a@h AND b@h OR c@h AND d@h", aliases, 0) == any_of(all_of(a, b), all_of(c, d))
    assert parse("a@h AND b@h AND c@h", aliases, 0) == Gate(3, (a, b, c))
    assert parse("a@h AND (b@h AND c@h)", aliases, 0) == Gate(2, (a, Gate(2, (b, c))))
    assert parse("((a@h))", aliases, 0) == parse("1 of (a@h)", aliases, 0) == a
    assert parse("2 of (a@h OR b@h, c@h, d@h)", aliases, 0) == Gate(2, (any_of(a, b), c, d))


def test_epochs_come_from_a_number_an_authority_an_attribute_or_a_function():
    text, by_attribute = "role:nurse@hospA AND owner@patient", {(HOSPITAL, "role", "nurse"): 4, PATIENT: 9}
    for epochs in (by_attribute, {HOSPITAL: 4, PATIENT: 9}, lambda authority, name, value: 4 if name == "role" else 9):
        assert [leaf.epoch for leaf in leaves_of(parse(text, ALIASES, epochs))] == [4, 9]
    assert [leaf.epoch for leaf in leaves_of(parse(text, ALIASES, 3))] == [3, 3]
    for epochs in ({HOSPITAL: 4}, lambda *_: None, -1, 2**32, {HOSPITAL: 4, PATIENT: True}):
        with pytest.raises(PolicyError):
            parse(text, ALIASES, epochs)


@pytest.mark.parametrize(
    "bad",
    [
        {"authority": "0A0A0A0A-1111-4111-8111-000000000001"},
        {"authority": "x"},
        {"authority": HOSPITAL + "\n"},
        {"authority": None},
        {"name": ""},
        {"name": "a" * 65},
        {"name": "Role"},
        {"name": "ro le"},
        {"name": "r\u00f4le"},
        {"name": "a\n"},
        {"name": "\u0661"},
        {"value": "a" * 65},
        {"value": "A"},
        {"value": "a:b"},
        {"value": None},
        {"epoch": -1},
        {"epoch": 2**32},
        {"epoch": 1.0},
        {"epoch": True},
    ],
    ids=str,
)
def test_an_attribute_outside_the_alphabet_or_the_limits_is_refused(bad):
    Attribute(**{"authority": HOSPITAL, "name": "a" * 64, "value": "b" * 64, "epoch": 2**32 - 1})
    with pytest.raises(PolicyError):
        Attribute(**{"authority": HOSPITAL, "name": "role", "value": "nurse", "epoch": 1, **bad})


def test_limits_of_leaves_depth_and_gates():
    a = Attribute(HOSPITAL, "a")
    widest = at_least(64, [a] * LEAVES_MAX)
    assert leaf_count(widest) == 64 and from_canonical(canonical(widest)) == widest
    deepest = a
    for _ in range(DEPTH_MAX - 1):
        deepest = all_of(a, deepest)
    assert depth_of(deepest) == DEPTH_MAX and from_canonical(canonical(deepest)) == deepest
    for bad in (
        lambda: all_of(widest, a),
        lambda: Gate(1, (a,) * 65),
        lambda: all_of(a, deepest),
        lambda: Gate(0, (a, a)),
        lambda: Gate(3, (a, a)),
        lambda: Gate(1, (a,)),
        lambda: Gate(1, ()),
        lambda: any_of(),
        lambda: all_of(),
        lambda: Gate(True, (a, a)),
        lambda: Gate(1, [a, a]),
        lambda: Gate(1, (a, None)),
        lambda: at_least(2, [a]),
        lambda: at_least(1, [None]),
    ):
        with pytest.raises(PolicyError):
            bad()


def test_the_longest_policy_fits_its_limit_of_bytes():
    longest = [Attribute(HOSPITAL, "a" * 64, "b" * 64) for _ in range(64)]
    tree = longest
    while len(tree) > 1:  # as many gates as 64 leaves can have
        tree = [all_of(tree[i], tree[i + 1]) for i in range(0, len(tree), 2)]
    assert from_canonical(canonical(tree[0])) == tree[0]
    with pytest.raises(PolicyError):
        from_canonical(canonical(tree[0]) + bytes(100))


def test_the_linter_learns_which_authority_alone_would_suffice():
    text = "(role:nurse@hospA AND consent@patient) OR (break-glass@Registrar.1 AND emergency@hospA)"
    policy = parse(text, ALIASES, 0)
    assert authorities_of(policy) == [HOSPITAL, PATIENT, REGISTRAR]
    assert authorities_sufficient(policy) == []
    assert authorities_sufficient(any_of(policy, Attribute(PATIENT, "owner"))) == [PATIENT]
    assert authorities_sufficient(parse("2 of (a@hospA, b@hospA, c@patient)", ALIASES, 0)) == [HOSPITAL]


@given(POLICIES, st.sampled_from([HOSPITAL, PATIENT]))
@settings(deadline=None, max_examples=50)
def test_an_authority_suffices_exactly_if_all_its_attributes_do(policy, authority):
    own = {one for one in POOL if one.authority == authority}
    assert (authority in authorities_sufficient(policy)) is truth(policy, own)


def test_an_alias_that_reads_as_a_uuid_or_cannot_be_read_is_refused_in_writing():
    for alias in (REGISTRAR, "has space", "", "\u00e9"):
        with pytest.raises(PolicyError):
            to_text(Attribute(HOSPITAL, "a"), {alias: HOSPITAL})
    assert parse(f"a@{PATIENT}", {PATIENT: HOSPITAL}, 0).authority == PATIENT


def test_draws_follow_from_seed_tag_and_context_and_are_never_zero():
    first = Draws(bytes(32), b"tag", b"context")
    drawn = [first.draw() for _ in range(50)]
    assert len(set(drawn)) == 50 and all(1 <= one < R for one in drawn)
    for other in (
        Draws(b"\x01" * 32, b"tag", b"context"),
        Draws(bytes(32), b"tah", b"context"),
        Draws(bytes(32), b"tag", b"c"),
    ):
        assert other.draw() not in drawn
    with pytest.raises(ValueError):
        Draws(bytes(31), b"tag", b"")
    assert wide(bytes(64)) == 1


# -- days -----------------------------------------------------------------------------------------
DAYS = st.dates(dates.FIRST_DAY, dates.LAST_DAY)


@given(DAYS, DAYS, DAYS)
@settings(deadline=None, max_examples=200)
def test_a_range_holds_for_its_days_and_no_other(one, other, day):
    first, last = min(one, other), max(one, other)
    policy = dates.date_range(first, last, authority=PATIENT)
    step = datetime.timedelta(days=1)
    for asked in {
        day,
        first,
        last,
        max(first - step, dates.FIRST_DAY) if first > dates.FIRST_DAY else first,
        min(last + step, dates.LAST_DAY) if last < dates.LAST_DAY else last,
    }:
        assert satisfied(policy, dates.date_attributes(asked, authority=PATIENT)) is (first <= asked <= last)
    assert leaf_count(policy) <= 30


def test_ranges_are_small_and_known():
    def leaves(first, last):
        return [
            leaf.value
            for leaf in leaves_of(
                dates.date_range(
                    datetime.date.fromisoformat(first), datetime.date.fromisoformat(last), authority=PATIENT
                )
            )
        ]

    assert leaves("1900-01-01", "2079-06-06") == ["p"]
    assert len(leaves("2024-03-10", "2026-02-01")) == 10
    assert len(leaves("1900-01-02", "2079-06-05")) == 30
    assert leaves("1900-01-01", "1900-01-01") == ["p" + "0" * 16]
    assert leaves("1900-01-01", "1900-01-03") == ["p" + "0" * 15, "p" + "0" * 14 + "10"]


@pytest.mark.parametrize(
    "day", [datetime.date(1899, 12, 31), datetime.date(2079, 6, 7), datetime.datetime(2024, 1, 1), "2024-01-01", None]
)
def test_a_day_out_of_range_or_no_day_is_refused(day):
    with pytest.raises(PolicyError):
        dates.date_attributes(day, authority=PATIENT)
    with pytest.raises(PolicyError):
        dates.date_range(day, dates.LAST_DAY, authority=PATIENT)


def test_a_range_the_wrong_way_round_is_refused():
    with pytest.raises(PolicyError):
        dates.date_range(datetime.date(2024, 1, 2), datetime.date(2024, 1, 1), authority=PATIENT)
