"""What people said moves a viewer the right way, and few people move nothing: properties, over all small numbers."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.viewers import catalogue, contents, suggest
from myphr.viewers.belief import NOBODY, PEOPLE_MIN, PRIOR_MEAN, Tally, chance, factor
from myphr.viewers.contents import Contents, Part
from myphr.viewers.suggest import Known

VIEWERS = catalogue.load()
UNHURRIED = settings(deadline=None)  # a busy machine is no counterexample
PEOPLE = st.integers(0, 60)
MODALITIES = st.sampled_from(["", "CT", "MR", "US", "SEG", "RTDOSE", "SR", "ECG", "DOC", "OT"])
PARTS = st.one_of(
    st.builds(Part, st.just("dicom"), MODALITIES, st.just(""), st.sampled_from(["", "1.2.840.10008.1.2.4.201"])),
    st.builds(Part, st.sampled_from(["pdf", "jpeg", "xlsx", "csv", "ps", "vcf", "unknown", "dicomdir", "strange"])),
)
COUNTED = st.dictionaries(PARTS, st.integers(1, 50_000), min_size=1, max_size=6).map(Counter)
CONTENTS = st.builds(Contents, COUNTED, st.integers(0, 10**10))
TALLIES = st.dictionaries(st.sampled_from(sorted(VIEWERS)), st.builds(Tally, PEOPLE, PEOPLE))


def order(what: Contents, tallies: dict[str, Tally]) -> list[str]:
    return [one.viewer.name for one in suggest.suggest(VIEWERS, what, Known(tallies=tallies))]


def place(what: Contents, tallies: dict[str, Tally], viewer: str) -> int:
    return order(what, tallies).index(viewer)


def test_without_history_nothing_moves():
    assert chance(NOBODY) == PRIOR_MEAN and factor(NOBODY) == 1.0


@UNHURRIED
@given(PEOPLE, PEOPLE)
def test_one_more_it_opened_never_lowers_and_one_more_it_did_not_never_raises(opened: int, not_opened: int):
    here = chance(Tally(opened, not_opened))
    assert chance(Tally(opened + 1, not_opened)) >= here >= chance(Tally(opened, not_opened + 1))


@UNHURRIED
@given(st.integers(0, PEOPLE_MIN - 1), st.integers(0, PEOPLE_MIN - 1))
def test_few_people_on_either_side_move_nothing_and_are_not_shown(opened: int, not_opened: int):
    assert factor(Tally(opened, not_opened)) == 1.0 and not Tally(opened, not_opened).counts


@pytest.mark.parametrize("side", ["opened", "not_opened"])
def test_a_few_people_who_say_the_same_are_heard(side: str):
    assert Tally(**{side: PEOPLE_MIN}).counts and factor(Tally(**{side: PEOPLE_MIN})) != 1.0
    assert not Tally(**{side: PEOPLE_MIN - 1}).counts and factor(Tally(**{side: PEOPLE_MIN - 1})) == 1.0


@UNHURRIED
@given(st.integers(PEOPLE_MIN, 60), st.integers(0, PEOPLE_MIN - 1))
def test_few_people_cannot_put_down_what_opened_for_many(opened: int, not_opened: int):
    assert factor(Tally(opened, not_opened)) >= 1.0


@UNHURRIED
@given(CONTENTS)
def test_with_no_history_the_order_is_the_content_order(what: Contents):
    content = suggest.suggest(VIEWERS, what)
    assert order(what, {}) == [one.viewer.name for one in content]
    assert suggest.suggest(VIEWERS, what, Known(tallies={name: NOBODY for name in VIEWERS})) == content


@UNHURRIED
@given(CONTENTS, st.dictionaries(st.sampled_from(sorted(VIEWERS)),
                                 st.builds(Tally, st.integers(0, PEOPLE_MIN - 1), st.integers(0, PEOPLE_MIN - 1))))
def test_the_word_of_few_people_leaves_the_content_order_and_its_sentences(what: Contents, tallies: dict[str, Tally]):
    assert suggest.suggest(VIEWERS, what, Known(tallies=tallies)) == suggest.suggest(VIEWERS, what)


@UNHURRIED
@given(CONTENTS, TALLIES, st.data())
def test_more_successes_never_lower_a_viewer(what: Contents, tallies: dict[str, Tally], data: st.DataObject):
    viewer = data.draw(st.sampled_from(order(what, tallies)))
    before = tallies.get(viewer, NOBODY)
    more = Tally(before.opened + data.draw(st.integers(1, 30)), before.not_opened)
    assert place(what, {**tallies, viewer: more}, viewer) <= place(what, tallies, viewer)


@UNHURRIED
@given(CONTENTS, TALLIES, st.data())
def test_more_failures_never_raise_a_viewer(what: Contents, tallies: dict[str, Tally], data: st.DataObject):
    viewer = data.draw(st.sampled_from(order(what, tallies)))
    before = tallies.get(viewer, NOBODY)
    more = Tally(before.opened, before.not_opened + data.draw(st.integers(1, 30)))
    assert place(what, {**tallies, viewer: more}, viewer) >= place(what, tallies, viewer)


@UNHURRIED
@given(CONTENTS, TALLIES)
def test_what_people_say_never_offers_a_viewer_that_opens_nothing_of_it(what: Contents, tallies: dict[str, Tally]):
    assert sorted(order(what, tallies)) == sorted(order(what, {}))


def test_a_tally_counts_people():
    with pytest.raises(ValueError):
        Tally(-1, 0)


def test_the_kind_is_made_of_known_words_only():
    strange = Part("dicom", "SECRET NAME", "9.9.9", "")
    assert contents.kind_of({strange: 3}) == "dicom/OT/image"
    assert contents.kind_of({Part("my secret"): 1}) == "unknown" and contents.kind_of({}) == "unknown"
