"""Finding something in one's record, and the timeline, as pages."""

import re

import pytest
from bs4 import BeautifulSoup

from myphr.portal import Portal
from myphr.web import find
from tests.cast import SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in, put_many, put_study

HOSTILE = ["", " ", "\0", "\0knee", '"', '"""', "knee AND", "NEAR(", "title:knee", "*", "^knee", "-", "a OR b NOT",
           "(((((", "';--", "x" * 5000, "<script>alert(1)</script>",
           "{{ 7*7 }}", "\ud83d\ude00", "é́́́", "%00", "ﷺ" * 200, "-- " * 99,
           '"unclosed', "a" + "\u202e" + "b", "AND OR NOT", "\x02\x03", "膝"]  # fmt: skip


@pytest.fixture(autouse=True)
def as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a search reads less at once than these tests put in."""
    monkeypatch.setattr("myphr.records.search.AT_ONCE_SECONDS", 60)


@pytest.fixture
def vera(browser: PageClient, patient: SignedIn) -> PageClient:
    return sign_in(browser, patient.person)


@pytest.fixture
def letter(portal: Portal, patient: SignedIn) -> str:
    return put_in(portal, patient.account.id, b"<b>hello</b>", "Knee <b>report</b> Müller.txt", "letters/2004").id


def ask(client: PageClient, words: str, **more: str) -> BeautifulSoup:
    answer = client.post("/record/find", {"words": words, **more})
    assert answer.status_code == 303
    return client.page(answer.location)


def test_the_record_offers_to_find_something_only_when_there_is_something(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    # The field waits unseen (app.css), as the list is refreshed without it when the first file is in.
    assert vera.page("/record").select_one(".find-box ~ #record-list[data-empty]")
    put_in(portal, patient.account.id, b"a letter", "letter.txt")
    assert not vera.page("/record").select("[data-empty]")
    assert vera.page("/record").select_one('#words[type=search]') and "/record/timeline" in vera.get("/record").text


def test_what_is_found_leads_to_it_and_shows_where_the_words_stand(vera: PageClient, letter: str) -> None:
    page = ask(vera, "kne muller")
    assert [link["href"] for link in page.select("#results a")] == [f"/item/{letter}"]
    assert [mark.get_text() for mark in page.select("#results mark")][:2] == ["Knee", "Müller"]
    assert "Knee <b>report</b> Müller.txt" in page.select_one("#results").get_text()  # type: ignore[union-attr]
    assert page.select_one("#words")["value"] == "kne muller"  # type: ignore[index]
    assert text_of(page.select_one("#found-count")).strip() == "1 found"  # type: ignore[arg-type]


def test_no_word_stands_in_an_address(vera: PageClient, letter: str) -> None:
    answer = vera.post("/record/find", {"words": "knee"})
    page = vera.page(answer.location)
    names = ("href", "action", "data-address", "data-hx-get", "data-hx-post")
    links = [str(tag.get(name)) for tag in page.find_all(True) for name in names]
    assert "knee" not in answer.location.lower() and not any("knee" in link.lower() for link in links)
    assert page.title and "knee" not in page.title.get_text().lower()
    short, long = (len(vera.post("/record/find", {"words": words}).location) for words in ("a", "appendectomy"))
    assert short == long


def test_an_address_opens_for_its_owner_alone(vera: PageClient, nils: PageClient, letter: str) -> None:
    address = vera.post("/record/find", {"words": "knee"}).location
    assert vera.get(address).status_code == 200
    assert nils.get(address).status_code == 404 == nils.get(f"{address}/reading").status_code
    broken = address[:-3] + ("AAA" if address[-3:] != "AAA" else "BBB")
    for other in (broken, "/record/find/x", "/record/find/" + "A" * 9000, "/record/find/%00", "/record/find/é"):
        assert vera.get(other).status_code == 404


def test_a_stranger_finds_nothing_of_others(vera: PageClient, nils: PageClient, letter: str) -> None:
    assert "Nothing found" in text_of(ask(nils, "knee"))
    for address in ("/record/find", "/record/timeline?undated=1"):
        assert "Knee" not in text_of(nils.get(address)) and "Knee" in text_of(vera.get(address))


def test_the_form_of_another_login_only_brings_its_words(vera: PageClient, nils: PageClient, letter: str) -> None:
    within = vera.page("/record/find").select_one("[name=within]")["value"]  # type: ignore[index]
    assert nils.post("/record/find", {"words": "knee", "within": str(within)}).status_code == 303


def test_nothing_that_can_be_typed_breaks_the_page(vera: PageClient, letter: str) -> None:
    for words in HOSTILE:
        typed = words.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        assert ask(vera, typed).h1, ascii(words)
        assert vera.post("/record/find", {"words": typed}, htmx=True).status_code == 200, ascii(words)


def test_while_somebody_types_only_the_answer_comes(vera: PageClient, letter: str) -> None:
    answer = vera.post("/record/find", {"words": "rep"}, htmx=True)
    assert answer.status_code == 200 and "<h1" not in answer.text
    part = BeautifulSoup(answer.text, "html5lib")
    assert part.select_one("#found")["data-address"].startswith("/record/find/")  # type: ignore[union-attr]
    assert part.select_one(f'a[href="/item/{letter}"]') and part.select_one("#found-count[data-hx-swap-oob]")


def test_results_are_narrowed_by_chips_that_can_be_taken_away(
    vera: PageClient, portal: Portal, patient: SignedIn, letter: str
) -> None:
    put_study(portal, patient.account.id, StudyDate="20040826")
    put_in(portal, patient.account.id, b"\x89PNG\r\n\x1a\n", "wound.png", source="result")
    page = vera.page("/record/find")
    chips = {text_of(chip).strip(): str(chip["href"]) for chip in page.select(".narrow-down .chip")}
    wanted = {"Photos 1", "Letters and documents 1", "Scans and pictures of the body 1", "2004 1", "Date not known 2",
              "Saved from a viewer 1", "Picture (PNG) 1"}  # fmt: skip
    assert wanted <= set(chips)
    page = vera.page(chips["Scans and pictures of the body 1"])
    assert "1 found" in text_of(page) and "MR scan, head" in text_of(page)
    [chosen] = page.select(".chip.chosen")
    assert "3 found" in text_of(vera.page(str(chosen["href"])))
    # Words are looked for within what was chosen.
    within = str(page.select_one("[name=within]")["value"])  # type: ignore[index]
    assert "Nothing found" in text_of(ask(vera, "wound", within=within))
    assert "1 found" in text_of(ask(vera, "harbour", within=within))


def test_a_deleted_file_is_found_no_more(vera: PageClient, letter: str) -> None:
    assert "1 found" in text_of(ask(vera, "knee"))
    vera.post(f"/item/{letter}/delete")
    assert "Nothing found" in text_of(ask(vera, "knee"))


def test_many_results_come_in_pages(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    put_many(portal, patient.account.id, 70)
    page, seen = ask(vera, "letter"), set()
    for count in (30, 30, 10):
        links = {str(link["href"]) for link in page.select("#results a")}
        assert len(links) == count and not links & seen
        seen |= links
        more = next((str(link["href"]) for link in page.select("a") if link.get_text() == "More results"), None)
        page = vera.page(more) if more else page
    assert more is None and "61 to 70 of 70 found" in text_of(page)


def test_what_is_not_read_yet_is_told_and_asked_for_again(
    vera: PageClient, portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many(portal, patient.account.id, 120)
    monkeypatch.setattr("myphr.records.search.AT_ONCE_SECONDS", 0)
    page = vera.page("/record/find")
    assert re.search(r"Still reading \d+ new files", text_of(page))
    poll = str(page.select_one("#found")["data-hx-get"])  # type: ignore[index]
    for thread in list(portal.search._reading.values()):
        thread.join(20)
    part = vera.get(poll, htmx=True)
    assert "120 found" in text_of(part) and "data-hx-get" not in part.text and "Still reading" not in part.text


# -- the timeline ---------------------------------------------------------------------------------------
def test_a_life_stands_by_year_month_and_occasion(
    vera: PageClient, portal: Portal, patient: SignedIn, letter: str
) -> None:
    for day, place in (("20040826", "Harbour Hospital"), ("20040826", "harbour  hospital"), ("20040826", "Lake Clinic"),
                       ("20040102", "Harbour Hospital"), ("19990505", "")):  # fmt: skip
        put_study(portal, patient.account.id, images=1, StudyDate=day, InstitutionName=place)
    page = vera.page("/record/timeline")
    assert [text_of(head).strip() for head in page.select("h2.year")] == ["2004", "1999"]
    assert [text_of(head).strip() for head in page.select(".month > h3")] == ["August 2004", "January 2004", "May 1999"]
    occasions = {text_of(one.h4).strip(): len(one.select("li")) for one in page.select(".occasion")}  # type: ignore[arg-type]
    assert occasions == {"26 August 2004, Harbour Hospital": 2, "26 August 2004, Lake Clinic": 1,
                         "2 January 2004, Harbour Hospital": 1, "5 May 1999": 1}  # fmt: skip
    years = {text_of(chip).strip(): str(chip["href"]) for chip in page.select(".years .chip")}
    assert list(years) == ["2004 4", "1999 1", "Date not known 1"]
    old = vera.page(years["1999 1"])
    assert [text_of(head).strip() for head in old.select("h2.year")] == ["1999"] and old.select(".chip.chosen")
    assert "Knee" in text_of(vera.page(years["Date not known 1"])) and "Knee" not in text_of(page)


def test_a_file_moves_to_the_day_that_its_owner_says(vera: PageClient, letter: str) -> None:
    assert "Knee" not in text_of(vera.get("/record/timeline"))
    vera.post(f"/item/{letter}/kind", {"type": "document", "day": "2011-11-30"})
    assert "30 November 2011" in text_of(vera.page("/record/timeline"))


def test_any_address_of_the_timeline_is_a_page(vera: PageClient, letter: str) -> None:
    for query in ("year=0", "year=x", "year=99999", "year=-1", "from=1000000", "from=-1", "undated=1&from=9",
                  "year=2004&from=1", "year=%00"):  # fmt: skip
        assert vera.page(f"/record/timeline?{query}").h1, query


def test_a_long_life_comes_in_pages(
    vera: PageClient, portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "TIMELINE_SHOWN", 2)
    for year in range(1990, 1995):
        put_study(portal, patient.account.id, images=1, StudyDate=f"{year}0101")
    page, years = vera.page("/record/timeline"), []
    while True:
        years += [text_of(head).strip() for head in page.select("h2.year")]
        more = next((link for link in page.select("a") if link.get_text() == "Earlier"), None)
        if more is None:
            break
        page = vera.page(str(more["href"]))
    assert years == ["1994", "1993", "1992", "1991", "1990"]
