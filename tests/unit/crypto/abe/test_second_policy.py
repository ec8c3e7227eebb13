"""Attributes, policies and dates: the product and the second implementation read the same and refuse the same."""

import datetime
import random
import uuid

import pytest

from myphr.crypto.abe import dates, policy
from myphr.errors import PolicyError
from tests.vectors.abe_second import policy as second

RNG = random.Random()
ALIASES = {"hospA": "00000000-0000-4000-8000-00000000000a", "Practice.7": "00000000-0000-4000-8000-00000000000b"}
NAMES = ("role", "role:cardiologist", "consent:care-team", "x.y_z-0", "type:p01")


@pytest.fixture(autouse=True)
def _the_same_every_time():
    RNG.seed("second policy")


def random_text(leaves=8, depth=0):
    """A policy in words, sometimes with too much of something."""
    if leaves == 1 or depth > 6 or RNG.random() < 0.2:
        return f"{RNG.choice(NAMES)}@{RNG.choice([*ALIASES, ALIASES['hospA']])}"
    parts = [random_text(max(1, leaves // 2), depth + 1) for _ in range(RNG.randint(1, 4))]
    style = RNG.randrange(4)
    if style == 0:
        return f"{RNG.randint(1, len(parts))} of ({', '.join(parts)})"
    joined = [" AND ", " OR ", " AND "][style - 1].join(f"({part})" if RNG.random() < 0.5 else part for part in parts)
    return f"({joined})" if style == 3 else joined


def broken(text, alphabet):
    """With one to three signs changed, lost or added."""
    for _ in range(RNG.randint(1, 3)):
        at = RNG.randrange(len(text) + 1)
        sign = RNG.randrange(len(alphabet))
        text = text[:at] + RNG.choice([alphabet[sign : sign + 1], alphabet[:0]]) + text[at + RNG.randint(0, 1) :]
    return text


def product_bytes(text):
    try:
        return policy.canonical(policy.parse(text, ALIASES, 3))
    except PolicyError:
        return None


def second_bytes(text):
    try:
        aliases = {alias: uuid.UUID(value) for alias, value in ALIASES.items()}
        return second.encode(second.parse(text, aliases, lambda *_: 3))
    except ValueError:
        return None


def product_again(data):
    try:
        return policy.canonical(policy.from_canonical(data))
    except PolicyError:
        return None


def second_again(data):
    try:
        return second.encode(second.decode(data))
    except ValueError:
        return None


def test_both_read_the_same_policy_from_the_same_words():
    texts = [random_text() for _ in range(300)]
    both = [(product_bytes(text), second_bytes(text)) for text in texts]
    assert all(one == other for one, other in both)
    assert sum(one is not None for one, _ in both) > 200


def test_both_write_the_same_words():
    names = {uuid.UUID(value).bytes: alias for alias, value in ALIASES.items()}
    for text in (random_text() for _ in range(200)):
        if (data := product_bytes(text)) is not None:
            written = policy.to_text(policy.from_canonical(data), ALIASES)
            assert written == second.write(second.decode(data), names)
            assert product_bytes(written) == second_bytes(written) == data


def test_both_refuse_the_same_words():
    alphabet = "()@:, ofANDOR12abcZ._-\t\nÄ0" + "\u00a0\x0b"
    texts = [broken(random_text(), alphabet) for _ in range(1500)]
    answers = [(text, product_bytes(text), second_bytes(text)) for text in texts]
    assert [text for text, one, other in answers if one != other] == []
    assert 100 < sum(one is None for _, one, _ in answers) < 1400


def test_a_uuid_stands_for_itself_even_when_it_is_an_alias():
    hospital, practice = ALIASES["hospA"], ALIASES["Practice.7"]
    expected = policy.Attribute(hospital, "a", "", 3)
    assert policy.parse(f"a@{hospital}", {hospital: practice}, 3) == expected
    mine = second.parse(f"a@{hospital}", {hospital: uuid.UUID(practice)}, lambda *_: 3)
    assert second.encode(mine) == policy.canonical(expected)


@pytest.mark.parametrize("text", [
    "", "()", "a@hospA b@hospA", "a@hospA AND", "OR a@hospA", "2 of (a@hospA)", "1 of (a@hospA)", "1 of a@hospA",
    "0 of (a@hospA, b@hospA)", "02 of (a@hospA, b@hospA)", "65 of (a@hospA, b@hospA)", "2 of(a@hospA,b@hospA)",
    "a:@hospA", "a:b:c@hospA", "@hospA", "a@", "a@nobody", "a@00000000-0000-4000-8000-0000000000FF",
    "a@00000000-0000-4000-8000-0000000000ff", "A@hospA", "a and b@hospA", "a@hospA and b@hospA",
    "AND@hospA", "of@hospA", "2@hospA", "2 of (2@hospA, of@hospA)", "(a@hospA", "a@hospA)", "a@hospA,b@hospA",
    "a@hospA OR b@hospA AND c@hospA", "(" * 32 + "a@hospA" + ")" * 32, "(" * 33 + "a@hospA" + ")" * 33,
    "2 of (" * 7 + "a@hospA" + ", a@hospA)" * 7, "2 of (" * 8 + "a@hospA" + ", a@hospA)" * 8,
    " AND ".join(["a@hospA"] * 64), " AND ".join(["a@hospA"] * 65),
    "a@hospA" + " " * 16377, "a@hospA" + " " * 16378,
    f"{'n' * 64}:{'v' * 64}@hospA", f"{'n' * 65}@hospA", f"n:{'v' * 65}@hospA",
])
def test_both_answer_alike_at_the_edges_of_the_language(text):
    assert product_bytes(text) == second_bytes(text)


def test_both_refuse_the_same_bytes():
    originals = [data for data in (product_bytes(random_text()) for _ in range(300)) if data]
    changed = [broken(RNG.choice(originals), bytes(range(256))) for _ in range(2000)]
    refused = 0
    for data in [*originals, *changed]:
        assert product_again(data) == second_again(data) in (data, None)
        refused += product_again(data) is None
    assert 500 < refused < len(originals) + len(changed) - 500


def test_both_write_a_day_and_a_range_the_same():
    authority = ALIASES["hospA"]
    days = [RNG.choice([0, 1, 2**15 - 1, 2**15, 2**16 - 2, 2**16 - 1, RNG.randrange(2**16)]) for _ in range(600)]
    for one, other in zip(days[::2], days[1::2], strict=True):
        first, last = (dates.FIRST_DAY + datetime.timedelta(days=number) for number in sorted((one, other)))
        values = [attribute.value for attribute in dates.date_attributes(first, authority=authority)]
        assert values == second.day_values(first)
        leaves = policy.leaves_of(dates.date_range(first, last, authority=authority))
        assert [leaf.value for leaf in leaves] == second.range_values(first, last)
