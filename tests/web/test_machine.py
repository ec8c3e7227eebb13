"""The page of a VM session in each of its states, what is polled, tickets, sharing, the end."""

import datetime as dt
import json
from pathlib import Path

import pytest
from sqlmodel import select
from werkzeug.test import TestResponse

from myphr.database import now
from myphr.errors import HypervisorUnreachable
from myphr.machines.models import VmSession
from myphr.people.models import LoginSession
from myphr.portal import Portal
from myphr.sharing import live, tickets
from myphr.sharing.models import Share
from myphr.web.machine import isolation_sentence
from tests.cast import CAREGIVER, PATIENT, SignedIn
from tests.contract.hypervisor.fake import FakeHypervisor
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import isolation, put_in, put_study, put_vm_session, watch

SHARE = {"email": CAREGIVER.email, "access": "view", "seconds": "3600", "passcode": "on"}


@pytest.fixture
def vera(browser: PageClient, patient: SignedIn) -> PageClient:
    return sign_in(browser, PATIENT)


def login_session_of(portal: Portal, client: PageClient) -> LoginSession:
    with portal.database.read() as db:
        row = db.get(LoginSession, client.cookies()["myphr-key"].partition(".")[0])
    assert row
    return row


# -- the states -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("state", "heading", "polls"),
    [
        ("requested", "Getting your viewer ready", True),
        ("starting", "Getting your viewer ready", True),
        ("connecting", "Getting your viewer ready", True),
        ("opening", "Getting your viewer ready", True),
        ("live", "2 files in", True),
        ("ending", "Tidying up", True),
        ("ended", "The session has ended", False),
        ("failed", "The viewer did not start", False),
    ],
)
def test_each_state_has_its_page_and_only_unfinished_ones_poll(
    vera: PageClient, portal: Portal, patient: SignedIn, state: str, heading: str, polls: bool
) -> None:
    page = vera.page(f"/machine/{put_vm_session(portal, patient.account.id, state)}")
    assert page.h1 and page.h1.get_text().startswith(heading)
    assert bool(page.select('[data-hx-trigger*="every"]')) == polls


def test_the_stages_say_what_is_done_and_what_goes_on(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    page = vera.page(f"/machine/{put_vm_session(portal, patient.account.id, 'connecting')}")
    assert [item["class"][0] for item in page.select(".stages li")] == ["done", "done", "now", "later"]
    assert page.select_one('[aria-current="step"]').get_text(strip=True) == "Connecting your files"  # type: ignore[union-attr]


def test_a_live_page_carries_the_name_of_what_is_open(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    page = vera.page(f"/machine/{put_vm_session(portal, patient.account.id, study_id=study_id)}")
    assert page.h1 and page.h1.get_text() == "MR scan, head"
    assert page.select_one(f'[data-ticket$="/ticket"], [data-ticket-url$="/ticket"]')  # noqa: F541


def test_a_failed_start_offers_to_try_again(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    page = vera.page(
        f"/machine/{put_vm_session(portal, patient.account.id, 'failed', study_id=study_id, failure='machine-failed')}"
    )
    assert "did not start" in text_of(page) and page.select_one(f'form[action="/study/{study_id}/open"]')
    # Where the viewer is not installed, trying again leads back here: the others stand on the study's own page.
    assert "Choose another viewer" in page.select_one(f'main a[href="/study/{study_id}"]').get_text()


@pytest.mark.parametrize(("state", "words"), [("failed", "Try again"), ("ended", "Open it again")])
def test_a_single_file_can_be_opened_again_while_it_is_there(
    vera: PageClient, portal: Portal, patient: SignedIn, state: str, words: str
) -> None:
    item = put_in(portal, patient.account.id, b"%PDF-1.4 a letter", "letter.pdf")
    answer = vera.post(f"/item/{item.id}/open", {"viewer": "qpdfview"})
    vm_session_id = answer.headers["Location"].rpartition("/")[2]
    with portal.database.write() as db:
        row = db.get(VmSession, vm_session_id)
        assert row and row.item_id == item.id
        row.state = state
        db.add(row)
    page = vera.page(f"/machine/{vm_session_id}")
    form = page.select_one(f'form[action="/item/{item.id}/open"]')
    assert form and words in form.get_text() and form.select_one('[name="viewer"]')["value"] == "qpdfview"  # type: ignore[index]
    again = vera.post(f"/item/{item.id}/open", {"viewer": "qpdfview"})
    assert again.status_code == 303 and again.headers["Location"] != answer.headers["Location"]
    vera.post(f"/item/{item.id}/delete")
    page = vera.page(f"/machine/{vm_session_id}")
    assert not page.select_one('form[action$="/open"]'), "a button that leads nowhere"


def test_a_viewer_that_was_never_published_is_told_in_words(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    hypervisor = FakeHypervisor()
    hypervisor.known_templates = []
    portal.__dict__["hypervisor"] = hypervisor
    item = put_in(portal, patient.account.id, b"%PDF-1.4 a letter", "letter.pdf")
    answer = vera.post(f"/item/{item.id}/open", {"viewer": "probe"})
    assert answer.status_code == 422 and "not installed on this portal" in text_of(answer)
    with portal.database.read() as db:
        assert db.exec(select(VmSession)).all() == []


def test_without_a_machine_room_an_internal_viewer_is_not_a_fault_of_ours(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    hypervisor = FakeHypervisor()
    hypervisor.trouble["templates"] = [HypervisorUnreachable("away")]
    portal.__dict__["hypervisor"] = hypervisor
    item = put_in(portal, patient.account.id, b"%PDF-1.4 a letter", "letter.pdf")
    answer = vera.post(f"/item/{item.id}/open", {"viewer": "probe"})
    assert answer.status_code == 503 and "does not answer" in text_of(answer)


def test_an_ended_session_lists_what_was_saved(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, "ended", end_reason="owner")
    assert "nothing was added" in text_of(vera.get(f"/machine/{vm_session_id}"))
    put_in(portal, patient.account.id, b"a measurement", "measurement.txt", source="result", source_id=vm_session_id)
    words = text_of(vera.get(f"/machine/{vm_session_id}"))
    assert "You saved 1 file" in words and "measurement.txt" in words


def test_the_page_says_what_the_isolation_check_found(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    words = text_of(
        vera.get(f"/machine/{put_vm_session(portal, patient.account.id, isolation=isolation(True, True, True))}")
    )
    assert "could reach nothing but your files: 3 of 3 attempts blocked" in words


def test_a_hole_in_the_isolation_is_not_hidden(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    words = text_of(
        vera.get(f"/machine/{put_vm_session(portal, patient.account.id, isolation=isolation(True, False, True))}")
    )
    assert "Only 2 of 3" in words and "nothing but your files" not in words
    assert isolation_sentence([]) != ""


# -- polling --------------------------------------------------------------------------------------
def test_progress_is_the_part_that_the_page_holds(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, "starting")
    whole = vera.get(f"/machine/{vm_session_id}")
    part = vera.get(f"/machine/{vm_session_id}/progress", htmx=True)
    assert "every 1s" in part.text and part.text.strip() in whole.text


@pytest.mark.parametrize(
    ("state", "asked"),
    [("live", "starting"), ("failed", "starting"), ("ending", "starting"), ("ended", "ending"), ("failed", "ending")],
)
def test_polling_ends_when_the_state_changes(
    vera: PageClient, portal: Portal, patient: SignedIn, state: str, asked: str
) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, state)
    answer = vera.get(f"/machine/{vm_session_id}/progress?seen={asked}.x.0", htmx=True)
    assert answer.headers["HX-Redirect"] == f"/machine/{vm_session_id}"
    assert "every" not in answer.text


def test_watching_ends_when_the_screen_is_over(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, "ending")
    assert vera.get(f"/machine/{vm_session_id}/watch", htmx=True).headers["HX-Redirect"] == f"/machine/{vm_session_id}"


@pytest.mark.parametrize("part", ["progress", "watch"])
def test_a_polled_address_opened_by_hand_leads_to_the_page(
    vera: PageClient, portal: Portal, patient: SignedIn, part: str
) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, "live")
    assert vera.get(f"/machine/{vm_session_id}/{part}").headers["Location"] == f"/machine/{vm_session_id}"


@pytest.mark.parametrize("state", ["starting", "ending", "live"])
def test_a_poll_with_nothing_new_changes_nothing_on_the_page(
    vera: PageClient, portal: Portal, patient: SignedIn, state: str
) -> None:
    """So the focus stays on the button it is on, and a screen reader does not repeat itself."""
    page = vera.page(f"/machine/{put_vm_session(portal, patient.account.id, state)}")
    polled = str(page.select_one('[data-hx-trigger*="every"]')["data-hx-get"])  # type: ignore[index]
    assert vera.get(polled, htmx=True).status_code == 204


def test_a_poll_with_something_new_brings_it(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    page = vera.page(f"/machine/{vm_session_id}")
    vera.post(f"/machine/{vm_session_id}/share", SHARE)
    with portal.database.read() as db:
        watch(portal, vm_session_id, f"share:{db.exec(select(Share)).one().id}")
    answer = vera.get(str(page.select_one("#watch")["data-hx-get"]), htmx=True)  # type: ignore[index]
    assert answer.status_code == 200 and CAREGIVER.email in answer.text


def _grow_old(portal: Portal, client: PageClient) -> dt.datetime:
    """This login session was last used ten minutes ago."""
    row = login_session_of(portal, client)
    with portal.database.write() as db:
        fresh = db.get(LoginSession, row.id)
        assert fresh
        fresh.last_seen_at = now() - dt.timedelta(minutes=10)
        db.add(fresh)
        return fresh.last_seen_at


@pytest.mark.parametrize("address", ["/machine/{}/progress", "/machine/{}/watch", "/record/items"])
def test_a_poll_does_not_prolong_the_login(vera: PageClient, portal: Portal, patient: SignedIn, address: str) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    before = _grow_old(portal, vera)
    assert vera.get(address.format(vm_session_id), htmx=True).status_code == 200
    assert login_session_of(portal, vera).last_seen_at == before


@pytest.mark.parametrize(
    "address", ["/", "/help", "/static/app.css", "/nothing", "/healthz", "/s/6a1b0000-0000-4000-8000-000000000000"]
)
def test_open_pages_do_not_prolong_the_login_either(vera: PageClient, portal: Portal, address: str) -> None:
    before = _grow_old(portal, vera)
    vera.get(address)
    assert login_session_of(portal, vera).last_seen_at == before


def test_using_the_page_prolongs_the_login(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    token, before = vera.token(), _grow_old(portal, vera)
    assert vera.request("POST", f"/machine/{vm_session_id}/here", headers={"X-CSRF-Token": token}).status_code == 204
    assert login_session_of(portal, vera).last_seen_at > before


def test_a_poll_after_the_login_has_ended_leads_to_sign_in(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    vera.post("/sign-out")
    answer = vera.get(f"/machine/{vm_session_id}/watch", htmx=True)
    assert answer.status_code == 401 and answer.headers["HX-Redirect"] == "/sign-in"


def test_a_poll_for_something_gone_replaces_the_polling_part(vera: PageClient) -> None:
    answer = vera.get("/machine/6a1b0000-0000-4000-8000-000000000000/watch", htmx=True)
    assert answer.status_code == 404
    assert "HX-Retarget" not in answer.headers and "HX-Reswap" not in answer.headers and "every" not in answer.text


# -- who is watching ------------------------------------------------------------------------------
def test_the_owner_alone_is_told_so(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    watch(portal, vm_session_id, f"owner:{login_session_of(portal, vera).id}", "control")
    assert "Only you are watching." in text_of(vera.get(f"/machine/{vm_session_id}/watch", htmx=True))


def test_a_watching_caregiver_is_named_by_their_address(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    vera.post(f"/machine/{vm_session_id}/share", SHARE)
    with portal.database.read() as db:
        share = db.exec(select(Share)).one()
    watch(portal, vm_session_id, f"share:{share.id}")
    assert f"you and {CAREGIVER.email}" in text_of(vera.get(f"/machine/{vm_session_id}/watch", htmx=True))


def test_without_redis_the_page_does_not_claim_that_nobody_watches(
    vera: PageClient, portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    vm_session_id = put_vm_session(portal, patient.account.id)
    portal.__dict__["redis"] = redis.Redis(unix_socket_path="/nonexistent/redis.sock")
    words = text_of(vera.get(f"/machine/{vm_session_id}/watch", htmx=True))
    assert "not known" in words and "Only you" not in words


def words_of_the_share(answer: TestResponse) -> str:
    """What the answer to a poll says in the list of those who may look."""
    assert 'id="shared" data-hx-swap-oob="true"' in answer.text
    return answer.text.split('id="shared"')[1].partition("</p>")[0]


def test_who_stops_watching_is_no_longer_listed_as_watching(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    vera.post(f"/machine/{vm_session_id}/share", SHARE)
    with portal.database.write() as db:
        share = db.exec(select(Share)).one()
        share.first_opened_at = now()
        db.add(share)
        share_id = share.id
    poll = f"/machine/{vm_session_id}/watch"
    watch(portal, vm_session_id, f"share:{share_id}")
    answer = vera.get(poll, htmx=True)
    assert "Watching now." in words_of_the_share(answer)
    seen = answer.text.split("seen=")[1].partition('"')[0]
    assert vera.get(f"{poll}?seen={seen}", htmx=True).status_code == 204
    portal.redis.delete(live.presence_key(vm_session_id))
    answer = vera.get(f"{poll}?seen={seen}", htmx=True)
    assert "not watching now" in words_of_the_share(answer)


def test_a_share_that_ran_out_leaves_the_list_by_itself(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    vera.post(f"/machine/{vm_session_id}/share", SHARE)
    with portal.database.write() as db:
        share = db.exec(select(Share)).one()
        share.expires_at = now()
        db.add(share)
    answer = vera.get(f"/machine/{vm_session_id}/watch", htmx=True)
    assert 'id="shared"' in answer.text and CAREGIVER.email not in answer.text


# -- time left ------------------------------------------------------------------------------------
def test_the_idle_warning_can_be_answered_with_keep_going(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    long_ago = now() - dt.timedelta(seconds=portal.settings.idle_seconds_max - 60)
    vm_session_id = put_vm_session(portal, patient.account.id, live_at=long_ago, last_input_at=long_ago)
    assert "Are you still there?" in text_of(vera.get(f"/machine/{vm_session_id}"))
    answer = vera.post(f"/machine/{vm_session_id}/keep", htmx=True)
    assert "Are you still there?" not in answer.text and "every 3s" in answer.text


def test_the_longest_time_cannot_be_kept_going(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, ends_at=now() + dt.timedelta(seconds=60))
    page = vera.page(f"/machine/{vm_session_id}")
    assert "longest time is nearly over" in text_of(page) and not page.select("#keep button")


# -- tickets --------------------------------------------------------------------------------------
def test_the_owner_gets_a_ticket_for_the_screen(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    answer = vera.post(f"/machine/{vm_session_id}/ticket")
    assert answer.status_code == 200 and answer.json and answer.json["url"] == portal.settings.screen_url
    ticket = tickets.verify(portal.keys.ticket_key, answer.json["ticket"], now())
    assert (ticket.vm_session_id, ticket.access, ticket.visit) == (vm_session_id, "control", None)
    assert ticket.grant == f"owner:{login_session_of(portal, vera).id}"


@pytest.mark.parametrize("state", ["ending", "ended", "failed"])
def test_there_is_no_ticket_for_what_is_over(vera: PageClient, portal: Portal, patient: SignedIn, state: str) -> None:
    answer = vera.post(f"/machine/{put_vm_session(portal, patient.account.id, state)}/ticket")
    assert answer.status_code == 410 and answer.json and answer.json["code"] == "session-over"


def test_a_ticket_is_not_handed_out_without_a_token(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    answer = vera.request("POST", f"/machine/{put_vm_session(portal, patient.account.id)}/ticket")
    assert answer.status_code == 400 and answer.json and answer.json["code"] == "form-expired"


# -- sharing --------------------------------------------------------------------------------------
def test_sharing_shows_the_passcode_once_and_lists_the_share(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    answer = vera.post(f"/machine/{vm_session_id}/share", SHARE, htmx=True)
    passcode = answer.text.split('id="passcode-to-tell">')[1].split("<")[0].strip()
    assert len(passcode) == 6 and passcode.isdigit()
    page = vera.get(f"/machine/{vm_session_id}")
    assert CAREGIVER.email in page.text and passcode not in page.text


def test_the_passcode_is_asked_for_unless_switched_off(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    assert vera.page(f"/machine/{vm_session_id}").select_one('input[name="passcode"][checked]')
    answer = vera.post(
        f"/machine/{vm_session_id}/share", {k: v for k, v in SHARE.items() if k != "passcode"}, htmx=True
    )
    assert "passcode-to-tell" not in answer.text and "on its way" in answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"email": "nobody"},
        {"email": ""},
        {"access": "own"},
        {"access": ""},
        {"seconds": "5"},
        {"seconds": "x"},
        {"seconds": "99999999"},
    ],
)
def test_a_refused_share_says_why_and_makes_none(
    vera: PageClient, portal: Portal, patient: SignedIn, change: dict[str, str]
) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    answer = vera.post(f"/machine/{vm_session_id}/share", SHARE | change, htmx=True)
    assert 'role="alert"' in answer.text
    with portal.database.read() as db:
        assert db.exec(select(Share)).all() == []


def test_without_htmx_sharing_answers_with_the_whole_page(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    assert "passcode-to-tell" in vera.post(f"/machine/{vm_session_id}/share", SHARE).text
    assert vera.post(f"/machine/{vm_session_id}/share", SHARE | {"email": "nobody"}).status_code == 422


def test_stop_sharing_takes_the_share_away_and_tells_the_gateway(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    vera.post(f"/machine/{vm_session_id}/share", SHARE)
    with portal.database.read() as db:
        share = db.exec(select(Share)).one()
    news = portal.redis.pubsub(ignore_subscribe_messages=True)
    news.subscribe("myphr:revoked")
    news.get_message(timeout=1)
    answer = vera.post(f"/machine/{vm_session_id}/share/{share.id}/withdraw", htmx=True)
    assert CAREGIVER.email not in answer.text
    message = news.get_message(timeout=5)
    assert message and message["data"].decode() == f"share:{share.id}"
    news.close()


def test_a_stranger_cannot_stop_a_share(vera: PageClient, nils: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    vera.post(f"/machine/{vm_session_id}/share", SHARE)
    with portal.database.read() as db:
        share = db.exec(select(Share)).one()
    assert nils.post(f"/machine/{vm_session_id}/share/{share.id}/withdraw").status_code == 404
    assert CAREGIVER.email in vera.get(f"/machine/{vm_session_id}").text


def test_nothing_is_shared_of_a_session_that_is_over(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    answer = vera.post(f"/machine/{put_vm_session(portal, patient.account.id, 'ended')}/share", SHARE)
    assert answer.status_code == 410


# -- opening and ending ---------------------------------------------------------------------------
def test_opening_a_study_asks_for_a_machine_and_shows_its_start(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    study_id = put_study(portal, patient.account.id)
    viewer = vera.page(f"/study/{study_id}").select_one('input[name="viewer"]')["value"]  # type: ignore[index]
    answer = vera.post(f"/study/{study_id}/open", {"viewer": str(viewer)})
    assert answer.status_code == 303
    assert "Getting your viewer ready" in text_of(vera.get(answer.headers["Location"]))
    with portal.database.read() as db:
        row = db.exec(select(VmSession)).one()
    assert (row.account_id, row.study_id, row.state) == (patient.account.id, study_id, "requested")
    jobs = [job for job in portal.queue.rq.jobs if job.func_name == "jobs.machines.start_vm_session"]
    assert [job.args for job in jobs] == [(row.id,)] or [list(job.args) for job in jobs] == [[row.id]]


def test_an_unknown_viewer_is_refused_in_words(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    answer = vera.post(f"/study/{study_id}/open", {"viewer": "../../etc"})
    assert answer.status_code == 422 and "choose one of the viewers" in text_of(answer)


def test_when_all_machines_are_in_use_the_study_page_says_so(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    study_id = put_study(portal, patient.account.id)
    page = vera.page(f"/study/{study_id}")
    for _ in range(portal.settings.machines_max):
        put_vm_session(portal, patient.account.id)
    answer = vera.post(f"/study/{study_id}/open", {"viewer": str(page.select_one('input[name="viewer"]')["value"])})  # type: ignore[index]
    assert answer.status_code == 503 and "All machines are in use" in text_of(answer)


def test_end_ends_and_says_what_happens(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id)
    assert vera.post(f"/machine/{vm_session_id}/end").headers["Location"] == f"/machine/{vm_session_id}"
    assert "Tidying up" in text_of(vera.get(f"/machine/{vm_session_id}"))
    assert vera.post(f"/machine/{vm_session_id}/end").status_code == 303  # a second press does no harm


def test_no_secret_and_no_hypervisor_stands_on_the_page(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, secret_sha256="5e" * 32)
    text = vera.get(f"/machine/{vm_session_id}").text
    assert "5e5e5e" not in text and "8006" not in text and "vmid" not in text and "PVE" not in text
    assert json.dumps(str(Path.cwd())) not in text
