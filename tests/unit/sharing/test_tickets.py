"""Screen tickets: one spelling, one key, thirty seconds."""

import base64
import dataclasses
import datetime as dt
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myphr.errors import TicketRefused
from myphr.sharing import tickets

KEY = bytes(range(32))
NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
TICKET = tickets.ScreenTicket(
    vm_session_id="0f0a7c1e-0000-4000-8000-000000000001", grant="share:0f0a7c1e-0000-4000-8000-000000000002",
    visit="0f0a7c1e-0000-4000-8000-000000000003", access="view",
    expires_at=NOW + dt.timedelta(seconds=30), jti="abcdefgh12345678",
)  # fmt: skip


def signed(payload: bytes, key: bytes = KEY) -> str:
    mac = hmac.new(key, b"myphr/ticket/1|" + payload, hashlib.sha256).digest()
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (payload, mac))


def test_a_ticket_comes_back_as_it_was_minted():
    assert tickets.verify(KEY, tickets.mint(KEY, TICKET), NOW) == TICKET


def test_an_owners_ticket_has_no_visit():
    text = tickets.issue(KEY, vm_session_id="vm-1", grant="owner:login-1", access="control", now=NOW)
    ticket = tickets.verify(KEY, text, NOW)
    assert (ticket.grant, ticket.visit, ticket.access) == ("owner:login-1", None, "control")


def test_two_issued_tickets_differ():
    made = {tickets.issue(KEY, vm_session_id="vm-1", grant="owner:login-1", access="view", now=NOW) for _ in range(50)}
    assert len(made) == 50


def test_the_format_is_the_documented_one():
    payload = json.dumps(
        {"v": 1, "s": TICKET.vm_session_id, "g": TICKET.grant, "i": TICKET.visit, "a": "view",
         "e": int(NOW.timestamp()) + 30, "j": TICKET.jti}, separators=(",", ":"),
    ).encode()  # fmt: skip
    assert tickets.mint(KEY, TICKET) == signed(payload)


def test_the_last_moment_is_good_and_the_next_is_not():
    text = tickets.mint(KEY, TICKET)
    tickets.verify(KEY, text, NOW + dt.timedelta(seconds=29, microseconds=999_999))
    with pytest.raises(TicketRefused, match="expired"):
        tickets.verify(KEY, text, NOW + dt.timedelta(seconds=30))


def test_a_ticket_that_lives_too_long_is_refused():
    with pytest.raises(TicketRefused, match="ahead"):
        tickets.verify(
            KEY, tickets.mint(KEY, dataclasses.replace(TICKET, expires_at=NOW + dt.timedelta(seconds=36))), NOW
        )


def test_another_key_does_not_open_it():
    with pytest.raises(TicketRefused, match="not ours"):
        tickets.verify(bytes(32), tickets.mint(KEY, TICKET), NOW)


def test_every_changed_character_is_refused():
    text = tickets.mint(KEY, TICKET)
    for place in range(len(text)):
        for other in ("A", "B", ".", "=", " ", "é"):
            if text[place] != other:
                with pytest.raises(TicketRefused):
                    tickets.verify(KEY, text[:place] + other + text[place + 1 :], NOW)


def test_truncated_and_extended_text_is_refused():
    text = tickets.mint(KEY, TICKET)
    for wrong in (
        *(text[:end] for end in range(len(text))),
        text + "A",
        text + "=",
        text + ".",
        text + "\n",
        text + "A" * 2000,
    ):
        with pytest.raises(TicketRefused):
            tickets.verify(KEY, wrong, NOW)


@pytest.mark.parametrize("change", [
    {"v": 2}, {"a": "admin"}, {"g": "everybody:1"}, {"i": None}, {"s": "../1"}, {"j": ""}, {"e": "soon"}, {"e": 1e400},
    {"s": 5}, {"g": None}, {"g": "owner:abc"},
])  # fmt: skip
def test_a_signed_ticket_with_odd_fields_is_refused(change):
    fields = {
        "v": 1,
        "s": "vm-1",
        "g": "share:s-1",
        "i": "visit-1",
        "a": "view",
        "e": int(NOW.timestamp()) + 9,
        "j": "abcdefgh1",
    }
    assert tickets.verify(KEY, signed(json.dumps(fields).encode()), NOW).vm_session_id == "vm-1"
    with pytest.raises(TicketRefused):
        tickets.verify(KEY, signed(json.dumps(fields | change).encode()), NOW)


@given(st.binary(max_size=80))
def test_signed_nonsense_is_refused(payload):
    with pytest.raises(TicketRefused):
        tickets.verify(KEY, signed(payload), NOW)


@given(st.text(max_size=120))
def test_any_text_is_refused_and_never_crashes(text):
    with pytest.raises(TicketRefused):
        tickets.verify(KEY, text, NOW)


def test_odd_fields_are_not_minted():
    for change in ({"access": "all"}, {"grant": "share:"}, {"visit": None}, {"vm_session_id": "A B"}):
        with pytest.raises(ValueError):
            tickets.mint(KEY, dataclasses.replace(TICKET, **change))
