"""The pages of images from a practice: connecting, the list, choosing, stopping; the operator's list and confirming."""

import re
from collections.abc import Callable

import pytest
from sqlmodel import select

from myphr.database import now
from myphr.errors import FormRefused, NotFound
from myphr.ingest.pacs import fetches, links, way
from myphr.ingest.pacs.models import PacsFetch, PacsLink
from myphr.ingest.pacs.plan import checked_patient
from myphr.portal import Portal
from tests.cast import CAREGIVER, STRANGER, Person, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_pacs, put_pacs_fetch, put_pacs_link, put_study

KNEE = {"uid": "1.2.3.4", "date": "20240826", "modalities": ["MR"], "description": "Knee left", "images": 120}
HEAD = {"uid": "1.2.3.5", "date": "", "modalities": ["CT", "SR"], "description": "", "images": 0}
WHO = {"number": "4711", "issuer": "", "birth_date": "1978-04-12", "sure": "yes"}


@pytest.fixture
def her(browser: PageClient, patient: SignedIn) -> PageClient:
    """The patient's browser, signed in."""
    return sign_in(browser, patient.person)


def code_of(page: str) -> str:
    found = re.search(r"[A-Z2-9]{4}-[A-Z2-9]{4}-[A-Z2-9]{4}", page)
    assert found
    return found[0]


def row_of(portal: Portal, fetch_id: str) -> PacsFetch:
    with portal.database.read() as db:
        row = db.get(PacsFetch, fetch_id)
    assert row
    return row


# -- connecting -----------------------------------------------------------------------------------
def test_the_record_leads_there_when_there_is_an_archive(her: PageClient, portal: Portal) -> None:
    assert not her.page("/record").select('a[href="/image-archives"]')
    assert "connected to no practice yet" in text_of(her.get("/image-archives"))
    put_pacs(portal)
    assert her.page("/record").select('a[href="/image-archives"]')


def test_she_asks_the_operator_confirms_and_nothing_can_be_fetched_before(
    her: PageClient, oda: PageClient, portal: Portal
) -> None:
    pacs_id = put_pacs(portal)
    assert her.post("/image-archives", {"pacs": pacs_id}).status_code == 303
    page = her.get("/image-archives").text
    assert "Show this code" in page and "Look for new images" not in page
    code, link_id = code_of(page), re.search(r"/image-archives/([0-9a-f-]{36})/end", page)
    assert link_id and her.post(f"/image-archives/{link_id[1]}/look").status_code == 422
    shown = oda.post("/operator/image-archives/code", {"code": code.lower().replace("-", " ")})
    assert "Vera Lindqvist, vera@patient.example" in text_of(shown)
    answer = oda.post("/operator/image-archives/confirm", WHO | {"code": code})
    assert answer.status_code == 303
    assert "Vera Lindqvist (vera@patient.example) is connected with Knee Clinic" in text_of(
        oda.get("/operator/image-archives")
    )
    page = text_of(her.get("/image-archives"))
    assert "4711" in page and "born 12 April 1978" in page and "Look for new images" in page and code not in page
    assert her.post(f"/image-archives/{link_id[1]}/look").status_code == 303
    trail = text_of(her.get("/who-looked"))
    for words in ("You asked to connect your record", "confirmed who you are", "had a practice's image archive asked"):
        assert words in trail


def test_pressed_again_there_is_one_code(her: PageClient, portal: Portal) -> None:
    pacs_id = put_pacs(portal)
    codes = []
    for _ in range(2):
        her.post("/image-archives", {"pacs": pacs_id})
        codes.append(code_of(her.get("/image-archives").text))
    assert codes[0] == codes[1]


@pytest.mark.parametrize("pacs_id", ["", "x", "6a1b0000-0000-4000-8000-000000000000"])
def test_an_archive_that_is_not_on_the_list_is_404(her: PageClient, pacs_id: str) -> None:
    assert her.post("/image-archives", {"pacs": pacs_id}).status_code == 404


@pytest.mark.parametrize("wrong", [
    {"number": "*"}, {"number": "47?1"}, {"number": "4711\\4712"}, {"number": ""}, {"number": "x" * 65},
    {"number": "4\n7"}, {"number": "4\u202e7"}, {"issuer": "*"}, {"birth_date": ""}, {"birth_date": "1978"},
    {"sure": ""},
])  # fmt: skip
def test_what_could_mean_more_than_one_patient_is_not_confirmed(
    her: PageClient, oda: PageClient, portal: Portal, wrong: dict[str, str]
) -> None:
    her.post("/image-archives", {"pacs": put_pacs(portal)})
    code = code_of(her.get("/image-archives").text)
    answer = oda.post("/operator/image-archives/confirm", WHO | {"code": code} | wrong)
    assert answer.status_code == 422 and "Please check the form" in text_of(answer)
    assert "Show this code" in her.get("/image-archives").text


@pytest.mark.parametrize("code", ["", "AAAA-AAAA-AAAA", "%", "x" * 500])
def test_a_code_that_nobody_has_confirms_nothing(oda: PageClient, portal: Portal, code: str) -> None:
    put_pacs(portal)
    for address in ("code", "confirm"):
        answer = oda.post(f"/operator/image-archives/{address}", WHO | {"code": code})
        assert answer.status_code == 422 and "there is no such code" in text_of(answer)


def test_a_code_works_once_and_for_a_time(
    patient: SignedIn, operator: SignedIn, portal: Portal
) -> None:
    link_id = links.ask(portal, patient.login, put_pacs(portal))
    code = links.one_of_mine(portal, patient.login, link_id).code
    links.confirm(portal, operator.login, code, "4711", "", "1978-04-12")
    with pytest.raises(FormRefused):
        links.confirm(portal, operator.login, code, "4712", "", "1978-04-12")
    old = links.ask(portal, patient.login, put_pacs(portal, "Old Clinic"))
    code = links.one_of_mine(portal, patient.login, old).code
    with portal.database.write() as db:
        row = db.get(PacsLink, old)
        assert row
        row.created_at = now() - links.CODE_WITHIN - links.CODE_WITHIN / 100
        db.add(row)
    with pytest.raises(FormRefused):
        links.by_code(portal, code)
    fetches.sweep(portal)
    with pytest.raises(NotFound):
        links.one_of_mine(portal, patient.login, old)
    assert links.one_of_mine(portal, patient.login, link_id).state == "confirmed"


def test_one_number_is_one_account(
    patient: SignedIn, operator: SignedIn, enter: Callable[[Person], SignedIn], portal: Portal
) -> None:
    """Somebody who says at the desk that they are her gets nothing while she is connected."""
    stranger = enter(STRANGER)
    pacs_id, other_pacs = put_pacs(portal), put_pacs(portal, "Another")
    codes = {}
    for one in (patient, stranger):
        link_id = links.ask(portal, one.login, pacs_id)
        codes[one.person.name] = (link_id, links.one_of_mine(portal, one.login, link_id).code)
    hers, mine = codes[patient.person.name], codes[stranger.person.name]
    links.confirm(portal, operator.login, hers[1], "4711", "", "1978-04-12")
    with pytest.raises(FormRefused) as refusal:
        links.confirm(portal, operator.login, mine[1], "4711", "", "1978-04-12")
    assert "another account" in refusal.value.message
    elsewhere = links.ask(portal, stranger.login, other_pacs)
    code = links.one_of_mine(portal, stranger.login, elsewhere).code
    links.confirm(portal, operator.login, code, "4711", "", "1965-01-01")  # another archive, another patient
    links.end_by_operator(portal, operator.login, hers[0])
    links.confirm(portal, operator.login, mine[1], "4711", "", "1978-04-12")


def test_nobody_confirms_their_own_code(operator: SignedIn, portal: Portal) -> None:
    link_id = links.ask(portal, operator.login, put_pacs(portal))
    code = links.one_of_mine(portal, operator.login, link_id).code
    with pytest.raises(FormRefused):
        links.confirm(portal, operator.login, code, "4711", "", "1978-04-12")


def test_a_number_is_kept_as_it_is_and_its_blanks_do_not_count() -> None:
    assert checked_patient("  AB-12/3 x ", "", "1978-04-12").number == "AB-12/3 x"


def test_the_number_stands_nowhere_in_clear(patient: SignedIn, operator: SignedIn, portal: Portal) -> None:
    link_id = links.ask(portal, patient.login, put_pacs(portal))
    code = links.one_of_mine(portal, patient.login, link_id).code
    links.confirm(portal, operator.login, code, "ZZNUMBERZZ", "", "1978-04-12")
    fetches.look(portal, patient.login, link_id)
    for path in portal.settings.home.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"ZZNUMBERZZ" not in content and code.replace("-", "").encode() not in content, path


# -- another patient's --------------------------------------------------------------------------------
def test_nobody_looks_chooses_or_ends_by_somebody_elses_link(
    nils: PageClient, patient: SignedIn, portal: Portal
) -> None:
    """Also when she has one of her own to the same archive."""
    link_id = put_pacs_link(patient, portal)
    fetch_id = put_pacs_fetch(patient, portal, link_id, "listed", [KNEE])
    for address in (f"{link_id}/look", f"{link_id}/end", f"fetches/{fetch_id}", f"fetches/{fetch_id}/stop"):
        assert nils.post(f"/image-archives/{address}", {"study": KNEE["uid"]}).status_code == 404
    assert row_of(portal, fetch_id).state == "listed"
    with portal.database.read() as db:
        assert [row.state for row in db.exec(select(PacsLink))] == ["confirmed"]


def test_the_list_of_one_link_cannot_be_fetched_by_another(
    enter: Callable[[Person], SignedIn], patient: SignedIn, portal: Portal
) -> None:
    """A study of hers, named in a form of somebody who is connected with the same archive."""
    other = enter(CAREGIVER)
    pacs_id = put_pacs(portal)
    put_pacs_fetch(patient, portal, put_pacs_link(patient, portal, pacs_id), "listed", [KNEE])
    his = put_pacs_fetch(other, portal, put_pacs_link(other, portal, pacs_id, "4712"), "listed", [HEAD])
    with pytest.raises(FormRefused):
        fetches.choose(portal, other.login, his, [str(KNEE["uid"])])
    assert row_of(portal, his).sealed_for_worker is None


# -- the list and what comes --------------------------------------------------------------------------
def test_the_list_is_in_plain_words_and_what_is_here_is_not_ticked(
    her: PageClient, patient: SignedIn, portal: Portal
) -> None:
    put_study(portal, patient.account.id, 2, StudyInstanceUID="1.2.3.5")
    fetch_id = put_pacs_fetch(patient, portal, "", "listed", [KNEE, HEAD], refused_count=1)
    page = her.page(f"/image-archives/fetches/{fetch_id}")
    text = text_of(her.get(f"/image-archives/fetches/{fetch_id}"))
    assert "MR scan: Knee left 26 August 2024, 120 images" in text
    assert "answered about somebody with another number" in text
    ticked = [box["value"] for box in page.select('input[name="study"]') if box.has_attr("checked")]
    here = re.search(r"CT scan[^.]*\. You have it already", text)
    assert ticked == ["1.2.3.4"] and here


def test_choosing_seals_it_to_the_worker_and_queues_a_job(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    fetch_id = put_pacs_fetch(patient, portal, "", "listed", [KNEE, HEAD])
    address = f"/image-archives/fetches/{fetch_id}"
    for wrong in ([], ["1.2.3"], ["1.2.3.4", "*"]):
        assert her.post(address, {"study": wrong}).status_code == 422
    assert her.post(address, {"study": ["1.2.3.4"]}).status_code == 303
    row = row_of(portal, fetch_id)
    assert (row.state, row.studies_count, row.files_total, row.sealed_list) == ("chosen", 1, 120, None)
    assert [(job.func_name, job.args) for job in portal.queue.rq.jobs] == [(way.FETCH, [fetch_id])]
    assert her.post(address, {"study": ["1.2.3.4"]}).status_code == 303  # pressed twice
    assert "You chose to fetch 1 examination" in text_of(her.get("/who-looked"))


def test_after_the_link_is_ended_nothing_is_chosen(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    link_id = put_pacs_link(patient, portal)
    fetch_id = put_pacs_fetch(patient, portal, link_id, "listed", [KNEE])
    assert "End the connection with Knee Clinic?" in text_of(her.get(f"/image-archives/{link_id}/end"))
    assert her.post(f"/image-archives/{link_id}/end").status_code == 303
    assert (row_of(portal, fetch_id).state, row_of(portal, fetch_id).sealed_list) == ("withdrawn", None)
    assert her.post(f"/image-archives/{link_id}/look").status_code == 404
    with portal.database.read() as db:
        link = db.get(PacsLink, link_id)
    assert link and (link.sealed_for_owner, link.patient_key) == (b"", None)


def test_while_one_is_under_way_looking_again_shows_it(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    link_id = put_pacs_link(patient, portal)
    fetch_id = put_pacs_fetch(patient, portal, link_id, "fetching")
    assert her.post(f"/image-archives/{link_id}/look").headers["Location"].endswith(fetch_id)


def test_a_page_that_polls_ends_polling_when_it_is_over(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    link_id = put_pacs_link(patient, portal)
    for state in ("waiting", "looking", "listed", "chosen", "fetching", "done", "failed", "withdrawn", "lapsed"):
        page = her.page(f"/image-archives/fetches/{put_pacs_fetch(patient, portal, link_id, state)}")
        assert bool(page.select("[data-hx-get]")) is (state in ("waiting", "looking", "chosen", "fetching")), state


def test_the_fragment_is_the_page_without_its_frame(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    values = {"files_total": 120, "items_count": 50, "known_count": 2, "bytes_count": 1_000_000}
    fetch_id = put_pacs_fetch(patient, portal, "", "fetching", **values)
    part = her.get(f"/image-archives/fetches/{fetch_id}/progress", htmx=True)
    assert "52 images of 120 so far" in text_of(part) and "<html" not in part.text
    assert her.page(f"/image-archives/fetches/{fetch_id}/progress").h1


@pytest.mark.parametrize(("values", "words"), [
    ({"known_count": 61}, "Nothing new: 61 images you had already"),
    ({"items_count": 7, "known_count": 1, "missing_count": 2, "refused_count": 1}, "2 images did not come"),
    ({"items_count": 7, "refused_count": 1}, "1 image did not say that they are yours"),
    ({}, "The practice sent nothing"),
    ({"state": "failed", "error_code": "no-get"}, "does not hand out images in the way"),
    ({"state": "failed", "error_code": "too-slow", "items_count": 4}, "could not be fetched to the end"),
    ({"state": "withdrawn"}, "It was stopped."), ({"state": "lapsed"}, "This list is old"),
    ({"state": "listed"}, "has no images under your number"),
])  # fmt: skip
def test_what_came_of_it_is_told_in_plain_words(
    her: PageClient, patient: SignedIn, portal: Portal, values: dict, words: str
) -> None:
    fetch_id = put_pacs_fetch(patient, portal, **{"state": "done"} | values)
    assert words in text_of(her.get(f"/image-archives/fetches/{fetch_id}"))


def test_stopping_is_a_post_and_final(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    fetch_id = put_pacs_fetch(patient, portal, "", "fetching", sealed_for_worker=b"sealed")
    for _ in range(2):
        assert her.post(f"/image-archives/fetches/{fetch_id}/stop").status_code == 303
    row = row_of(portal, fetch_id)
    assert (row.state, row.sealed_for_worker) == ("withdrawn", None)
    assert "You stopped fetching images" in text_of(her.get("/who-looked"))


def test_old_lists_and_endless_fetches_are_ended(patient: SignedIn, portal: Portal) -> None:
    old = now() - 3 * way.LIST_WITHIN
    listed = put_pacs_fetch(patient, portal, "", "listed", [KNEE], changed_at=old)
    endless = put_pacs_fetch(patient, portal, "", "fetching", created_at=old, sealed_for_worker=b"sealed")
    fetches.sweep(portal)
    assert (row_of(portal, listed).state, row_of(portal, listed).sealed_list) == ("lapsed", None)
    assert (row_of(portal, endless).state, row_of(portal, endless).sealed_for_worker) == ("failed", None)


def test_a_damaged_link_is_shown_as_one_and_fetches_nothing(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    link_id = put_pacs_link(patient, portal)
    with portal.database.write() as db:
        row = db.get(PacsLink, link_id)
        assert row
        row.sealed_for_owner = b"damaged"
        db.add(row)
    assert "This connection cannot be read" in text_of(her.get("/image-archives"))
    assert her.post(f"/image-archives/{link_id}/look").status_code == 422


# -- the operator ---------------------------------------------------------------------------------
FORM = {"name": "Knee Clinic", "host": "127.0.0.1", "port": "9", "called_ae": "ARCHIVE", "calling_ae": "MYPHR"}


@pytest.mark.parametrize("wrong", [
    {"name": ""}, {"host": ""}, {"host": "a b"}, {"host": "http://x"}, {"host": "-x"}, {"port": ""}, {"port": "0"},
    {"port": "70000"}, {"port": "x"}, {"port": "\u0661"}, {"called_ae": ""}, {"called_ae": "x" * 17},
    {"called_ae": "A\\B"}, {"calling_ae": "Ä"}, {"host": "pacs.example"}, {"tls": "yes", "ca_pem": "nonsense"},
    {"host": "pacs.example", "tls": "yes", "moves": "yes"},
])  # fmt: skip
def test_an_entry_that_makes_no_sense_is_not_called(oda: PageClient, wrong: dict[str, str]) -> None:
    answer = oda.post("/operator/image-archives", FORM | wrong)
    assert answer.status_code == 422 and "Please check the form" in text_of(answer)


def test_an_archive_that_does_not_answer_is_not_put_on_the_list(oda: PageClient) -> None:
    answer = oda.post("/operator/image-archives", FORM)
    assert answer.status_code == 502 and "does not answer" in text_of(answer)
    assert "Take it off the list" not in oda.get("/operator/image-archives").text


def test_the_operator_asks_ends_and_takes_off_the_list(oda: PageClient, patient: SignedIn, portal: Portal) -> None:
    pacs_id = put_pacs(portal)
    first, second = put_pacs_link(patient, portal, pacs_id), put_pacs_link(patient, portal, pacs_id)
    page = text_of(oda.get("/operator/image-archives"))
    assert "Vera Lindqvist" in page and "4711" not in page and oda.page("/operator").select(
        'a[href="/operator/image-archives"]'
    )
    assert oda.post(f"/operator/image-archives/{pacs_id}/echo").status_code == 502
    assert oda.post(f"/operator/image-archives/links/{first}/end").status_code == 303
    assert oda.post(f"/operator/image-archives/links/{first}/end").status_code == 404
    running = put_pacs_fetch(patient, portal, second, "fetching")
    for status in (303, 404):
        assert oda.post(f"/operator/image-archives/{pacs_id}/close").status_code == status
    assert row_of(portal, running).state == "withdrawn"
    with portal.database.read() as db:
        assert {row.state for row in db.exec(select(PacsLink))} == {"ended"}
