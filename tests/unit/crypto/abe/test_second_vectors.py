"""The frozen vectors by the second implementation: some here (all of them: `make vectors`), and that it can say no."""

import copy

import pytest

from tests.vectors import check

SCENARIOS = {document["scenario"]: document for document in check.documents()}
KINDS = sorted({document["kind"] for document in SCENARIOS.values()})
# One of each kind that opens, with a byte of each value that the second implementation has to come to by itself.
CHANGES = [
    ("rw15-leaf", ("header",)), ("rw15-leaf", ("key",)), ("rw15-leaf", ("keys", 0, "bytes")),
    ("rw15-leaf", ("authorities", 0, "public")), ("rw15-leaf", ("authorities", 0, "secret")),
    ("rw15-leaf", ("binding",)), ("kp-leaf", ("header",)), ("kp-leaf", ("key",)), ("kp-leaf", ("kp_key",)),
    ("kp-leaf", ("patient_public",)), ("kp-leaf", ("binding",)),
    ("pairing-0", ("gt",)), ("pairing-0", ("g1",)), ("policy-care", ("bytes",)),
    ("policy-care", ("leaves", 0)), ("days-one-day", ("policy",)), ("attribute-longest", ("bytes",)),
]


def test_the_second_implementation_knows_every_kind_of_vector():
    assert set(KINDS) <= set(check.SECOND) and set(check.SECOND) == set(check.PRODUCT)
    assert len(SCENARIOS) >= 241  # none was lost


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_implementation_comes_to_the_frozen_result(kind):
    smallest = min((d for d in SCENARIOS.values() if d["kind"] == kind), key=lambda d: len(str(d)))
    check.SECOND[kind](smallest)


@pytest.mark.parametrize(("scenario", "where"), CHANGES)
def test_one_changed_bit_in_a_vector_is_noticed(scenario, where):
    changed = copy.deepcopy(SCENARIOS[scenario])
    *path, last = where
    inner = changed
    for step in path:
        inner = inner[step]
    raw = bytearray.fromhex(inner[last])
    raw[-1] ^= 1
    inner[last] = raw.hex()
    with pytest.raises((AssertionError, ValueError)):
        check.SECOND[changed["kind"]](changed)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "refused" in kind])
def test_a_good_value_in_the_place_of_a_refused_one_is_noticed(kind):
    """A vector that must be refused and is good after all fails its check: the check does read it."""
    good = {
        "rw15-refused": "rw15-leaf", "kp-refused": "kp-leaf", "attribute-refused": "attribute-longest",
        "policy-refused-text": "policy-care", "policy-refused-bytes": "policy-care", "days-refused": "days-one-day",
        "element-refused": "pairing-0", "key-refused": "kp-leaf",
    }[kind]
    document = SCENARIOS[good]
    if kind == "element-refused":
        document = {"group": "gt", "bytes": document["gt"]}
    elif kind == "key-refused":
        document = {"what": "kp-key", "bytes": document["kp_key"]}
    with pytest.raises(AssertionError, match="was accepted"):
        check.SECOND[kind](document)
