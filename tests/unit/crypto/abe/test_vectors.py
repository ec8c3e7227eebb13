"""The frozen vectors of attribute-based sharing, the quick part of `make vectors`: all of them with the product, a few
of each kind with the second implementation, every fiftieth published point; and that a check can fail."""

import collections
import copy

import pytest

from tests.vectors import check
from tests.vectors.abe import generate

DOCUMENTS = check.documents()
BY_KIND = collections.defaultdict(list)
for _document in DOCUMENTS:
    BY_KIND[_document["kind"]].append(_document)
MADE = {  # per kind: a value that a check must not pass when it is another one
    "attribute": "bytes",
    "policy": "bytes",
    "day": "values",
    "days": "policy",
    "pairing": "gt",
    "rw15": "key",
    "kp": "key",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["scenario"])
def test_frozen_vector_has_its_outcome(document):
    check.PRODUCT[document["kind"]](document)


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_second_implementation_comes_to_the_same(kind):
    for document in BY_KIND[kind][:2]:
        check.SECOND[kind](document)


def test_published_vectors_of_the_curve_hold():
    ran = 0
    for checks in (check.rfc_9380_checks(), check.serialisation_checks(every=50)):
        for _, one in checks:
            one()
            ran += 1
    assert ran == 20 + 2 * 2 * 20


@pytest.mark.parametrize("side", ["PRODUCT", "SECOND"])
@pytest.mark.parametrize("kind", sorted(MADE))
def test_a_check_fails_on_another_value(kind, side):
    document = copy.deepcopy(BY_KIND[kind][0])
    value = document[MADE[kind]]
    document[MADE[kind]] = value[::-1]
    with pytest.raises(Exception):
        getattr(check, side)[kind](document)


@pytest.mark.parametrize("side", ["PRODUCT", "SECOND"])
@pytest.mark.parametrize("kind", ["rw15", "kp"])
def test_a_refusal_fails_on_a_header_that_opens(kind, side):
    with pytest.raises(AssertionError, match="accepted"):
        getattr(check, side)[f"{kind}-refused"](BY_KIND[kind][0])


def test_frozen_files_are_those_of_their_generator():
    assert {document["scenario"]: document for document in DOCUMENTS} == generate.scenarios()
