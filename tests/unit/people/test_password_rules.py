"""Which passwords are taken: long ones that are not on everybody's list, whatever they are made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myphr.errors import PasswordRefused
from myphr.people import password_rules
from myphr.people.password_rules import CHARACTERS_MAX, CHARACTERS_MIN, check
from tests import cast

PERSONAL = ("Vera Lindqvist", "vera.l@patient.example")


def refused(password: str) -> str:
    with pytest.raises(PasswordRefused) as error:
        check(password, personal=PERSONAL)
    return error.value.message


@pytest.mark.parametrize("person", [cast.PATIENT, cast.CAREGIVER, cast.PRACTICE, cast.STRANGER, cast.OPERATOR])
def test_the_cast_has_good_passwords(person: cast.Person) -> None:
    check(person.password, personal=(person.email, person.name))


@pytest.mark.parametrize("password", [
    "ochre kettle drifts past us",  # words, lower case only
    "xK9$vQ2!mZ7@pL4w",
    "синий чайник у окна",
    "青い鳥は静かな水車の上を飛ぶでしょう",
    "🦊🐌🪁🧵🎋🦔🪴🧊🛶🪵🐚🧇🪐🦚🎏",
    "        trailing spaces count   ",
    "Sommer in Kopenhagen 1998",
    "&;]{/?~|<^`'.,:}[",
])
def test_long_passwords_of_any_kind_are_taken(password: str) -> None:
    check(password, personal=PERSONAL)


def test_length_limits_on_both_sides() -> None:
    text = "kettle ochre drifts past the old observatory "
    long = (text * 8)[: CHARACTERS_MAX + 1]
    check("ochre kettles d"[:CHARACTERS_MIN])
    assert "at least 15" in refused("ochre kettles d"[: CHARACTERS_MIN - 1])
    varied = "".join(chr(0x4E00 + 7 * i) for i in range(CHARACTERS_MAX))
    check(varied)
    assert "at most 256" in refused(varied + "x")
    assert "at most 256" in refused(long * 1000)


def test_length_is_counted_after_normalisation() -> None:
    assert "at least 15" in refused("e\u0301" * 7 + "abcdefg"[:7])  # 21 code points, 14 letters
    assert "at most 256" in refused("\ufdfa" * 100)  # one code point that becomes 18


@pytest.mark.parametrize("password", [
    "passwordpassword", "P@ssw0rd12345678", "PASSWORD-password-1", "drowssapdrowssap1", "123456789012345",
    "qwertyuiopasdfgh", "1qaz2wsx3edc4rfv", "monkey dragon 1234", "iloveyou iloveyou!", "letmeinletmein2026",
    "correct horse battery staple", "ThisIsMyPassword!", "abcdefghijklmnopqrstuvwxyz", "zyxwvutsrqponmlk",
    "-----password-----", "!@#$%^&*()_+)(*&^%", "p.a.s.s.w.o.r.d.",
])
def test_what_everybody_guesses_is_refused(password: str) -> None:
    assert "guess" in refused(password)


@pytest.mark.parametrize("password", [
    "vera.lindqvist2024", "LindqvistVera1980", "tsivqdnil-arev-1980", "vera.l@patient.example", "MyPHRMachines2026!",
    "verahealthrecord", "Vera Lindqvist !!",
])
def test_words_of_the_person_and_of_the_portal_are_refused(password: str) -> None:
    assert "guess" in refused(password)


@pytest.mark.parametrize("password", ["aaaaaaaaaaaaaaaaaaaa", "abababababababab", "xyzxyzxyzxyzxyzxyz", " " * 15])
def test_repetitions_are_refused(password: str) -> None:
    assert "repeats" in refused(password)


def test_another_persons_name_is_no_reason_to_refuse() -> None:
    check("verena.lundkvost77q", personal=("Nils Berger", "nils@elsewhere.example"))


def test_text_that_is_no_unicode_is_refused() -> None:
    refused("ochre kettle drifts \ud800")


def test_no_refusal_repeats_the_password() -> None:
    for password in ("passwordpassword", "short", "aaaaaaaaaaaaaaaaaaaa"):
        assert password not in refused(password)


@given(st.text(max_size=300))
def test_any_text_is_taken_or_refused_with_a_reason(password: str) -> None:
    try:
        check(password, personal=PERSONAL)
    except PasswordRefused as error:
        assert error.facts["reason"]
    else:
        assert len(password) <= CHARACTERS_MAX


def test_the_shipped_list_is_large_and_clean() -> None:
    words = password_rules.common_passwords()
    assert len(words) >= 1000
    assert all(word == word.casefold() and len(word) >= 2 for word in words)
