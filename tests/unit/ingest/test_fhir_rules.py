"""Pure rules of records from hospitals: PKCE by its published vector, addresses, how an entry is known again."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from myphr.errors import HospitalRefused
from myphr.ingest.fhir import entries, smart, words
from myphr.ingest.fhir.reasons import REASONS, refused

URL = "https://fhir.harbour.example/r4/Condition?patient=1"


def test_the_challenge_is_that_of_rfc_7636_appendix_b() -> None:
    challenge = smart.challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    assert challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_a_verifier_has_the_length_that_rfc_7636_wants() -> None:
    assert 43 <= len(smart.new_verifier()) <= 128 and smart.new_verifier() != smart.new_verifier()


@pytest.mark.parametrize("url", ["https://fhir.harbour.example/r4", "https://x.example:8443/a/b?c=d"])
def test_an_address_of_the_open_internet_may_be_called(url: str) -> None:
    assert smart.checked_url(url, loopback=False) == url


@pytest.mark.parametrize("url", [
    "http://x.example/", "https://127.0.0.1/", "https://localhost/", "https://10.1/", "https://0x7f.1/x y",
    "https://[::1]/", "https://u@x.example/", "https://x.example/#a", "https://x.example\\@evil.example/",
    "https://2130706433/", "ftp://x.example/", "", None, 7, "https://x.example/" + "a" * 3000, "https://ex\u0430mple.org/",
    "https://x.example/\n", "https://router/", "https://0x7f.0x1/", "https://127.0.0.0x1/", "https://.example/", "https://x./",
])  # fmt: skip
def test_other_addresses_may_not(url: object) -> None:
    with pytest.raises(HospitalRefused):
        smart.checked_url(url, loopback=False)


@pytest.mark.parametrize(("url", "below"), [
    ("https://fhir.harbour.example/r4?page=2", True), ("https://FHIR.harbour.example:443/x", True),
    ("https://fhir.harbour.example:8443/r4", False), ("http://fhir.harbour.example/r4", False),
    ("https://fhir.harbour.example.evil.example/", False), ("https://fhir.harbour.example@evil.example/", False),
    ("https://u@fhir.harbour.example/", False), ("https://[", False), ("", False),
])  # fmt: skip
def test_the_next_page_lies_on_the_same_origin_or_is_not_asked(url: str, below: bool) -> None:
    assert smart.is_below(url, "https://fhir.harbour.example/r4") is below


def test_every_reason_completes_a_sentence() -> None:
    for code in REASONS:
        message = refused(code).message
        assert message.startswith("Your records could not be fetched: ") and message.endswith(".")
        assert ".." not in message and message[35].islower()


def test_every_kind_has_words_of_its_own() -> None:
    assert len(set(words.KINDS.values())) == len(words.KINDS)
    assert words.words_of("Everything") == "Whole record" and words.words_of("Basic") == "Other records"


# -- entries --------------------------------------------------------------------------------------
SODIUM = {
    "resourceType": "Observation", "id": "1", "meta": {"versionId": "7"},
    "text": {"status": "generated", "div": "<div/>"}, "code": {"text": "Sodium"},
    "subject": {"reference": "Patient/1"}, "valueQuantity": {"value": 140},
}  # fmt: skip


def entry_of(resource: dict) -> entries.Entry:
    page = entries.page_of(json.dumps(resource).encode(), URL)
    assert page is not None
    return page.entries[0]


@pytest.mark.parametrize("change", [
    {"id": "2"}, {"meta": {}}, {"text": {"status": "empty"}}, {"subject": {"reference": "Patient/2"}},
])  # fmt: skip
def test_another_export_of_the_same_is_known_again(change: dict) -> None:
    assert entry_of(SODIUM | change).content == entry_of(SODIUM).content


@pytest.mark.parametrize("change", [
    {"code": {"text": "Potassium"}}, {"valueQuantity": {"value": 141}}, {"status": "amended"},
    {"contained": [{"resourceType": "Device"}]}, {"subject": {"reference": "Patient/1", "display": "Vera"}},
])  # fmt: skip
def test_other_words_are_other_content(change: dict) -> None:
    assert entry_of(SODIUM | change).content != entry_of(SODIUM).content


def test_the_order_of_members_does_not_matter() -> None:
    assert entry_of(dict(reversed(SODIUM.items()))).content == entry_of(SODIUM).content


def test_identities_name_the_type_so_that_a_number_of_a_report_is_not_a_patients() -> None:
    numbered = {"identifier": [{"system": "urn:a", "value": " 7 "}, {"value": "8"}, {"system": "urn:a"}]}
    assert entry_of(SODIUM | numbered).identities == ("Observation|urn:a|7", "Observation||8")


def test_remarks_on_the_search_are_no_entries() -> None:
    bundle = {"resourceType": "Bundle", "entry": [
        {"resource": {"resourceType": "OperationOutcome"}, "search": {"mode": "outcome"}}, {"resource": SODIUM},
        {"response": {"status": "404"}}, {"resource": None}, 7,
    ]}  # fmt: skip
    page = entries.page_of(json.dumps(bundle).encode(), URL)
    assert page is not None and len(page.entries) == 1


@pytest.mark.parametrize(("link", "url"), [
    ([{"relation": "next", "url": "?page=2"}], "https://fhir.harbour.example/r4/Condition?page=2"),
    ([{"relation": "self", "url": "x"}], ""), ([{"relation": "next"}], ""), (None, ""), ([7], ""),
    ([{"relation": "next", "url": "https://fhir.harbour.example/p"}], "https://fhir.harbour.example/p"),
])  # fmt: skip
def test_the_next_page_is_read_from_the_links(link: object, url: str) -> None:
    page = entries.page_of(json.dumps({"resourceType": "Bundle", "link": link}).encode(), URL)
    assert page is not None and page.next == url


NAMES = ("resourceType", "entry", "resource", "link", "url", "identifier", "value", "system", "content", "attachment",
         "data", "title", "search", "text", "type", "operation", "name", "rest")  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine draws slowly
@given(json_values)
def test_no_json_upsets_the_reading(value: object) -> None:
    body = json.dumps({"resourceType": "Bundle", "entry": [{"resource": value}], "link": value}).encode()
    assert entries.page_of(body, URL) is not None
    entries.offer_of(json.dumps({"rest": value}).encode())
    entries.page_of(json.dumps(value).encode(), URL)


@given(st.binary(max_size=64))
def test_no_bytes_upset_the_reading(body: bytes) -> None:
    entries.page_of(body, URL)
    entries.offer_of(body)
    entries.binary_of(body)
    with pytest.raises(HospitalRefused):
        smart.tokens_of(200, body)
