"""Kinds as policies: a key opens exactly the files that its filter matches, and headers do not say what they label."""

import datetime as dt
import random
import secrets

import pytest

from myphr.crypto.abe import dates, key_policy
from myphr.crypto.abe.policy import canonical, leaf_count, satisfied
from myphr.database import new_id
from myphr.errors import AbeNotSatisfied, FormRefused
from myphr.records.labels import TYPES, Labels
from myphr.sharing import kinds
from myphr.sharing.kinds import MODALITIES_MAX, Filter, Hasher

OWNER, PLACE = new_id(), new_id()
KEY = secrets.token_bytes(32)
DAY = dt.date(2024, 5, 6)
LAB = Labels("laboratory", "none", False, DAY)


def hasher(**change) -> Hasher:
    return Hasher(**({"key": KEY, "owner_gid": OWNER, "compartment_id": PLACE, "epoch": 3} | change))


def opens(wanted: Filter, labels: Labels) -> bool:
    return satisfied(hasher().policy(wanted), set(hasher().attributes(labels)))


def some_filter(chance: random.Random) -> Filter:
    days = sorted(dt.date(2020, 1, 1) + dt.timedelta(chance.randrange(1500)) for _ in range(2))
    return Filter(
        tuple(chance.sample(sorted(TYPES), chance.randrange(len(TYPES) + 1))),
        tuple(chance.sample(["ct", "mr", "us", "dx"], chance.choice((0, 0, 1, 2)))),
        days[0] if chance.random() < 0.6 else None, days[1] if chance.random() < 0.6 else None,
        chance.random() < 0.5,
    )  # fmt: skip


def some_labels(chance: random.Random) -> Labels:
    type = chance.choice(sorted(TYPES))
    modality = chance.choice(["ct", "mr", "us", "none"]) if type == "imaging" else "none"
    return Labels(type, modality, chance.random() < 0.4, dt.date(2020, 1, 1) + dt.timedelta(chance.randrange(1500)))


def test_a_policy_lets_through_exactly_what_its_filter_matches() -> None:
    chance, matched = random.Random(5), 0
    for _ in range(400):
        wanted = some_filter(chance)
        policy = hasher().policy(wanted)
        for labels in (some_labels(chance) for _ in range(10)):
            assert satisfied(policy, set(hasher().attributes(labels))) == wanted.matches(labels), (wanted, labels)
            matched += wanted.matches(labels)
    assert 400 < matched < 3600  # both happened


def test_a_key_decapsulates_exactly_the_headers_of_matching_labels() -> None:
    chance, secret = random.Random(8), key_policy.new_patient()
    seen = set()
    for _ in range(15):
        wanted, labels = some_filter(chance), some_labels(chance)
        key = key_policy.issue(secret, hasher().policy(wanted))
        made, header = key_policy.encapsulate(hasher().attributes(labels), secret.public, binding=b"class")
        seen.add(wanted.matches(labels))
        if wanted.matches(labels):
            assert key_policy.decapsulate(header, key, secret.public, binding=b"class") == made
        else:
            with pytest.raises(AbeNotSatisfied):
                key_policy.decapsulate(header, key, secret.public, binding=b"class")
    assert seen == {True, False}


def test_the_first_and_the_last_day_belong_to_a_range_and_their_neighbours_do_not() -> None:
    for first, last in ((DAY, DAY), (dt.date(2024, 1, 1), dt.date(2024, 12, 31)), (dt.date(2024, 2, 29), DAY)):
        for edge, inside in ((first, True), (last, True), (first - dt.timedelta(1), False),
                             (last + dt.timedelta(1), False)):  # fmt: skip
            assert opens(Filter(first=first, last=last), Labels("photo", "none", False, edge)) is inside


def test_a_range_without_an_end_goes_on_to_the_last_day_there_is() -> None:
    late, early = Labels("photo", "none", False, dates.LAST_DAY), Labels("photo", "none", False, dates.FIRST_DAY)
    assert opens(Filter(first=DAY), late) and not opens(Filter(first=DAY), early)
    assert opens(Filter(last=DAY), early) and not opens(Filter(last=DAY), late)
    assert opens(Filter(), early) and opens(Filter(), late)


def test_the_longest_filter_fits_into_a_policy_and_its_key() -> None:
    worst = Filter(tuple(sorted(TYPES))[:-1], tuple(f"m{n}" for n in range(40)), dates.FIRST_DAY + dt.timedelta(1),
                   dates.LAST_DAY - dt.timedelta(1))  # fmt: skip
    policy = hasher().policy(worst)
    assert leaf_count(policy) <= 64 and len(worst.modalities) == MODALITIES_MAX
    assert len(canonical(policy)) < 10_000


@pytest.mark.parametrize("change", [{"epoch": 4}, {"compartment_id": new_id()}, {"key": bytes(32)},
                                    {"owner_gid": new_id()}])  # fmt: skip
def test_labels_of_another_epoch_compartment_or_owner_have_nothing_in_common(change: dict) -> None:
    mine, theirs = hasher().attributes(LAB), hasher(**change).attributes(LAB)
    assert not set(mine) & set(theirs)
    if "owner_gid" not in change:  # two owners have two keys
        assert not {one.value for one in mine} & {one.value for one in theirs}


def test_neither_header_nor_key_say_what_they_label() -> None:
    secret = key_policy.new_patient()
    _, header = key_policy.encapsulate(hasher().attributes(LAB), secret.public, binding=b"class")
    key = key_policy.issue(secret, hasher().policy(Filter(("laboratory",), first=DAY, last=DAY))).to_bytes()
    for word in (b"laboratory", b"normal", b"sensitiv", b"date", b"p0", b"type", b"modality"):
        assert word not in header and word not in key


def test_ids_tell_nobody_but_the_owner_and_are_the_same_again() -> None:
    assert kinds.class_id(KEY, PLACE, LAB) == kinds.class_id(KEY, PLACE, LAB)
    assert len({kinds.class_id(KEY, PLACE, LAB), kinds.class_id(bytes(32), PLACE, LAB),
                kinds.class_id(KEY, OWNER, LAB), kinds.vault_id(KEY, PLACE, 0),
                kinds.vault_id(KEY, PLACE, 1)}) == 5  # fmt: skip


@pytest.mark.parametrize(("wanted", "words"), [
    (Filter(("laboratory",), first=dt.date(2024, 1, 1), last=dt.date(2024, 12, 31)), "Lab results from 2024"),
    (Filter(("laboratory",), first=dt.date(2020, 1, 1), last=dt.date(2024, 12, 31)), "Lab results from 2020 to 2024"),
    (Filter(("photo", "document"), first=DAY), "Letters and documents and photos since 6 May 2024"),
    (Filter(("imaging",), ("mr", "ct")), "CT scans, MR scans"),
    (Filter(), "Everything"), (Filter(last=DAY), "Everything up to 6 May 2024"),
    (Filter(("ecg",), first=DAY, last=DAY), "ECGs and heart recordings of 6 May 2024"),
])  # fmt: skip
def test_a_filter_is_told_in_words(wanted: Filter, words: str) -> None:
    assert wanted.words() == words


def test_a_filter_survives_its_json_and_days_in_the_wrong_order_do_not() -> None:
    wanted = Filter(("photo",), (), DAY, None, True)
    assert Filter.from_json(wanted.to_json()) == wanted
    assert Filter(tuple(TYPES)) == Filter()
    with pytest.raises(FormRefused):
        Filter(first=DAY, last=DAY - dt.timedelta(1))
