""" "Who looked", errors, help, health."""

import datetime as dt

import pytest
import redis
from flask import Flask

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.errors import PortalError
from myphr.portal import Portal
from myphr.web.trail import Line, by_day
from myphr.web.zones import zone_named
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of


def test_what_happened_stands_in_plain_words_grouped_by_day(vera: PageClient) -> None:
    page = vera.page("/who-looked")
    assert [heading.get_text() for heading in page.select("h2.day")] == [f"{dt.datetime.now(dt.UTC):%-d %B %Y}"]
    assert "You signed in." in text_of(page)


def test_a_stranger_sees_their_own_trail_only(vera: PageClient, nils: PageClient, portal: Portal, app: Flask) -> None:
    with portal.database.read() as db:
        from sqlmodel import select

        from myphr.people.models import Account

        vera_id = db.exec(select(Account.id).where(Account.email == PATIENT.email)).one()
    with portal.database.write() as db:
        trail.record(
            db,
            "item-deleted",
            account_id=vera_id,
            actor=Actor("patient", vera_id),
            item="6a1b0000-0000-4000-8000-000000000000",
        )
    assert "deleted a file" in text_of(vera.get("/who-looked"))
    assert "deleted a file" not in text_of(nils.get("/who-looked"))


def note(portal: Portal, account_id: str, times: int, event: str = "item-uploaded", **more: object) -> None:
    with portal.database.write() as db:
        for number in range(times):
            details = {"item": f"item-{number}"} | ({"bytes": 1} if event == "item-uploaded" else {}) | more
            trail.record(db, event, account_id=account_id, actor=Actor("patient", account_id), **details)


def lines(page: PageClient, address: str = "/who-looked") -> list[str]:
    return [text_of(line) for line in page.page(address).select(".trail li")]


def test_older_lines_are_one_click_away(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    for _ in range(105):  # in turns: no two are alike
        note(portal, patient.account.id, 1)
        note(portal, patient.account.id, 1, "item-deleted")
    page = sign_in(browser, PATIENT).page("/who-looked")
    assert len(page.select(".trail li")) == 200
    older = browser.page(str(page.select_one('a[href*="before="]')["href"]))  # type: ignore[index]
    assert len(older.select(".trail li")) == 210 + 3 - 200  # opened the account, signed in twice


def test_a_cd_sent_as_single_files_is_one_line_with_their_number(
    browser: PageClient, portal: Portal, patient: SignedIn
) -> None:
    note(portal, patient.account.id, 1200)
    note(portal, patient.account.id, 3, "item-deleted")
    note(portal, patient.account.id, 2)
    found = lines(sign_in(browser, PATIENT))
    assert [text.split(" Since")[0].split("You ")[1] for text in found[1:4]] == [
        "added 2 files.", "deleted 3 files.", "added 1,200 files.",
    ]  # fmt: skip
    assert "Since" in found[3] and "older" not in text_of(browser.get("/who-looked"))


def test_a_single_file_is_told_as_one(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    note(portal, patient.account.id, 1)
    assert "You added a file." in lines(sign_in(browser, PATIENT))[1] and "Since" not in "".join(lines(browser))


def test_a_page_that_reads_its_fill_goes_on_where_it_stopped(
    browser: PageClient, portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from myphr.web import trail as page

    monkeypatch.setattr(page, "EVENTS_PER_PAGE", 600)
    note(portal, patient.account.id, 1000)
    first = sign_in(browser, PATIENT).page("/who-looked")
    assert "You added 599 files." in text_of(first)
    address = str(first.select_one('a[href*="before="]')["href"])  # type: ignore[index]
    assert "You added 401 files." in lines(browser, address)[0]


@pytest.mark.parametrize("before", ["x", "-1", "0", "99999999999999999999", "1; DROP TABLE"])
def test_a_nonsense_page_number_is_no_error(vera: PageClient, before: str) -> None:
    assert vera.get("/who-looked", query_string={"before": before}).status_code == 200


def test_lines_are_grouped_by_the_readers_own_day(app: Flask) -> None:
    late = Line(dt.datetime(2026, 3, 1, 23, 30, tzinfo=dt.UTC), "eye", "late")
    early = Line(dt.datetime(2026, 3, 1, 1, 30, tzinfo=dt.UTC), "eye", "early")
    assert [day.date.day for day in by_day([late, early])] == [1]
    with app.test_request_context(headers={"Cookie": "myphr-zone=Europe/Stockholm"}):
        assert [day.date.day for day in by_day([late, early])] == [2, 1]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "", "Europe/../../x", "Nowhere/Atall", "A" * 200, "\x00", "Etc/passwd"]
)
def test_a_strange_zone_is_utc(name: str) -> None:
    assert zone_named(name) is dt.UTC


# -- errors ---------------------------------------------------------------------------------------
def test_a_missing_page_is_a_page(browser: PageClient) -> None:
    answer = browser.get("/nothing-here")
    assert answer.status_code == 404 and "not yours to see" in text_of(answer) and "not-found" in answer.text


def test_an_unexpected_error_tells_nothing_of_itself(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    from myphr.web.policy import ANYONE, policy

    secret = "a patient name and a key"

    @app.get("/breaks")
    @policy(ANYONE)
    def breaks() -> str:
        raise ValueError(secret)

    answer = PageClient(app).get("/breaks")
    assert answer.status_code == 500 and "went wrong on our side" in text_of(answer)
    assert secret not in answer.text and secret not in caplog.text
    assert "ValueError" in caplog.text and "breaks" in caplog.text


def test_htmx_gets_an_error_as_a_part_beside_the_page(app: Flask) -> None:
    from myphr.web.policy import ANYONE, policy

    @app.get("/refuses")
    @policy(ANYONE)
    def refuses() -> str:
        raise PortalError

    answer = PageClient(app).get("/refuses", htmx=True)
    assert answer.status_code == 500 and answer.headers["HX-Retarget"] == "#notice" and "<html" not in answer.text


def test_a_broken_poll_keeps_what_is_shown_and_tries_again(app: Flask) -> None:
    from myphr.web.policy import SIGNED_IN_POLL, Rule, policy

    @app.get("/polled")
    @policy(Rule("anyone, poll", "nobody", prolongs=False))
    def polled() -> str:
        raise PortalError

    assert SIGNED_IN_POLL.prolongs is False
    assert PageClient(app).get("/polled", htmx=True).headers["HX-Reswap"] == "none"


# -- health ---------------------------------------------------------------------------------------
def test_health_is_told_without_signing_in(browser: PageClient) -> None:
    answer = browser.get("/healthz")
    assert answer.status_code == 200 and answer.json == {"ok": True, "database": True, "redis": True}


def test_a_part_that_does_not_answer_is_told(browser: PageClient, portal: Portal) -> None:
    portal.__dict__["redis"] = redis.Redis(unix_socket_path="/nonexistent/redis.sock")
    answer = browser.get("/healthz")
    assert answer.status_code == 503 and answer.json and answer.json["redis"] is False


def test_help_answers_the_usual_questions(browser: PageClient) -> None:
    words = text_of(browser.get("/help"))
    for question in ("Put files in", "Open", "Share the screen, and stop", "Share a part of your record",
                     "What it cannot undo", "recovery code", "I got a link"):  # fmt: skip
        assert question in words


def test_the_operator_page_names_the_outbox_and_no_record(oda: PageClient, portal: Portal) -> None:
    words = text_of(oda.get("/operator"))
    assert str(portal.settings.home / "outbox") in words
