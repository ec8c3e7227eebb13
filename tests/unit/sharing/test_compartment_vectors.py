"""The frozen vectors of compartments: all with the product; with the second implementation all, but of a field that is
changed byte by byte only some (`make vectors` does all). And that a check can fail."""

import pytest

from myphr.errors import EnvelopeError
from tests.vectors import check
from tests.vectors.compartment import make, product
from tests.vectors.second import compartment as second

DOCUMENTS = check.compartment_documents()
NOTHING_SEALED = ("hashes", "filter")  # worked out, not opened: another byte is another value
SIDES = [(product, check.REFUSED_BY_THE_PRODUCT), (second, ValueError)]


def named(scenario: str) -> check.Document:
    return next(d for d in DOCUMENTS if d["scenario"] == scenario)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["scenario"])
def test_frozen_vector_has_its_outcome(document: check.Document) -> None:
    check.compartment_check(product, check.REFUSED_BY_THE_PRODUCT, document, every=3)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["scenario"])
def test_the_page_alone_comes_to_the_same(document: check.Document) -> None:
    check.compartment_check(second, ValueError, document, every=61)


@pytest.mark.parametrize(("side", "refused"), SIDES, ids=["product", "second"])
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d["expect"] == "opens"], ids=lambda document: document["scenario"]
)
def test_a_check_fails_on_another_value_and_on_what_opens_against_expectation(document, side, refused) -> None:
    [name, *_] = document["opens_to"]
    with pytest.raises(AssertionError, match="opens otherwise"):
        check.compartment_check(side, refused, document | {"opens_to": document["opens_to"] | {name: "another"}})
    with pytest.raises(AssertionError, match="was accepted"):
        check.compartment_check(side, refused, document | {"expect": "refused"})


def test_a_byte_that_does_not_matter_is_noticed() -> None:
    document = named("opens-named") | {"expect": "refused-each-byte", "of": "comment", "comment": "00"}
    with pytest.raises(AssertionError, match="was accepted"):
        check.compartment_check(product, EnvelopeError, document)


def test_every_kind_and_row_has_one_that_opens_and_one_whose_every_byte_counts() -> None:
    both = {(d["row"], d.get("kind", "")): set() for d in DOCUMENTS}
    for d in DOCUMENTS:
        both[(d["row"], d.get("kind", ""))].add(d["expect"])
    assert set(both) == {("share", kind) for kind in product.SECRETS} | {(row, "") for row in product.ROWS} - {
        ("share", "")
    }
    for (row, _), outcomes in both.items():
        sealed = {"refused-each-byte"} if row not in NOTHING_SEALED else set()
        assert outcomes == {"opens", "refused"} | sealed, row
    assert product.SECRETS.keys() == second.SECRETS.keys() and product.ROWS.keys() == second.ROWS.keys()


def test_frozen_files_are_those_of_their_generator() -> None:
    """But for what was drawn, which is random at every run."""
    made = {}
    for name, (expect, row, content) in make.scenarios().items():
        content = content | {"scenario": name, "expect": expect, "row": row}
        if expect == "refused":
            content.pop("opens_to")
        made[name] = content

    def fixed(document: check.Document) -> check.Document:
        return {name: value for name, value in document.items() if name not in make.DRAWN}

    assert {d["scenario"]: fixed(d) for d in DOCUMENTS} == {name: fixed(d) for name, d in made.items()}
