""" "Did it open?" on the page of a VM session, and the suggestions that follow from the answers."""

import itertools
from collections.abc import Callable

import pytest
from sqlmodel import select

from myphr.machines import templates
from myphr.machines.models import VmSession
from myphr.people.keyring import KeyRing
from myphr.portal import Portal
from myphr.viewers import outcomes
from myphr.viewers.belief import PEOPLE_MIN
from myphr.viewers.models import ViewerAnswer, ViewerVoice
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in, put_study, put_vm_session


@pytest.fixture
def vera(browser: PageClient, portal: Portal, patient: SignedIn) -> PageClient:
    portal.redis.set(templates.INSTALLED_KEY, "radiology,documents")  # whatever viewers the catalogue gets
    return sign_in(browser, PATIENT)


def move(portal: Portal, vm_session_id: str, state: str) -> None:
    """A VM session that was live, in this state."""
    with portal.database.write() as db:
        row = db.get(VmSession, vm_session_id)
        assert row
        row.state, row.live_at, row.end_reason = state, row.created_at, "owner" if state == "ended" else None
        db.add(row)


def open_with(client: PageClient, portal: Portal, url: str, viewer: str, state: str = "ended") -> str:
    """Presses Open on this page; returns the VM session, which went through to `state`."""
    answer = client.post(f"{url}/open", {"viewer": viewer})
    assert answer.status_code == 303, text_of(answer)
    vm_session_id = answer.headers["Location"].rpartition("/")[2]
    move(portal, vm_session_id, state)
    return vm_session_id


@pytest.fixture
def study(portal: Portal, patient: SignedIn) -> str:
    return f"/study/{put_study(portal, patient.account.id)}"


# -- the question -----------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["live", "ended"])
def test_two_large_buttons_ask_whether_it_opened(vera: PageClient, portal: Portal, study: str, state: str) -> None:
    page = vera.page(f"/machine/{open_with(vera, portal, study, 'simple-images', state)}")
    buttons = page.select("#did-it-open button.big")
    assert [button.get_text(strip=True) for button in buttons] == ["It opened", "It did not"]


@pytest.mark.parametrize("state", ["requested", "connecting", "opening", "ending", "failed"])
def test_nothing_is_asked_before_or_without_an_opening(
    vera: PageClient, portal: Portal, study: str, state: str
) -> None:
    vm_session_id = open_with(vera, portal, study, "simple-images", state)
    assert "Did it open?" not in text_of(vera.get(f"/machine/{vm_session_id}"))
    assert vera.post(f"/machine/{vm_session_id}/opened", {"opened": "yes"}).status_code == 422


def test_a_session_that_was_given_up_before_it_was_live_is_not_asked_about(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vm_session_id = put_vm_session(portal, patient.account.id, "ended")
    assert "Did it open?" not in text_of(vera.get(f"/machine/{vm_session_id}"))


def test_it_opened_is_thanked_for_and_can_be_changed_and_taken_back(
    vera: PageClient, portal: Portal, study: str
) -> None:
    url = f"/machine/{open_with(vera, portal, study, 'simple-images')}"
    said = vera.post(f"{url}/opened", {"opened": "yes"}, htmx=True)
    assert "You said: it opened" in said.text and "<html" not in said.text
    assert "did not open. Thank you" in vera.post(f"{url}/opened", {"opened": "no"}, htmx=True).text
    assert "Did Simple images show" in vera.post(f"{url}/opened", {"opened": "unsaid"}, htmx=True).text


def test_without_a_script_the_whole_page_comes_again(vera: PageClient, portal: Portal, study: str) -> None:
    url = f"/machine/{open_with(vera, portal, study, 'simple-images')}"
    answer = vera.post(f"{url}/opened", {"opened": "yes"})
    assert answer.status_code == 303 and answer.headers["Location"] == f"{url}#did-it-open"
    assert "You said: it opened" in text_of(vera.get(url))


def test_it_did_not_offers_the_next_viewer_for_the_same_study(vera: PageClient, portal: Portal, study: str) -> None:
    viewers = ["simple-images", "aeskulap"]
    for viewer, following in itertools.pairwise([*viewers, None]):
        url = f"/machine/{open_with(vera, portal, study, str(viewer))}"
        vera.post(f"{url}/opened", {"opened": "no"})
        form = vera.page(url).select_one(f'#did-it-open form[action="{study}/open"] [name="viewer"]')
        assert (form["value"] if form else None) == following
    assert "There is no other viewer here" in text_of(vera.get(url)), "none of them opened it: none is offered again"


def test_it_did_not_offers_the_next_viewer_for_the_same_file(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    item = f"/item/{put_in(portal, patient.account.id, b'%PDF-1.4 a letter', 'letter.pdf').id}"
    url = f"/machine/{open_with(vera, portal, item, 'simple-documents')}"
    vera.post(f"{url}/opened", {"opened": "no"})
    assert vera.page(url).select_one(f'#did-it-open form[action="{item}/open"] [value="qpdfview"]')
    vera.post(f"{item}/delete")
    page = vera.page(url)
    assert "it did not open" in text_of(page) and not page.select("#open-next"), "a button that leads nowhere"


@pytest.mark.parametrize("sent", [{}, {"opened": ""}, {"opened": "maybe"}, {"opened": "True"}])
def test_an_answer_that_no_form_of_ours_sends_is_refused(
    vera: PageClient, portal: Portal, study: str, sent: dict[str, str]
) -> None:
    url = f"/machine/{open_with(vera, portal, study, 'simple-images')}"
    assert vera.post(f"{url}/opened", sent).status_code == 422
    assert "Did Simple images show" in text_of(vera.get(url))


def test_a_stranger_cannot_answer_for_another(
    vera: PageClient, nils: PageClient, portal: Portal, study: str
) -> None:
    url = f"/machine/{open_with(vera, portal, study, 'simple-images')}"
    assert nils.post(f"{url}/opened", {"opened": "no"}).status_code == 404
    assert "Did Simple images show" in text_of(vera.get(url))
    with portal.database.read() as db:
        assert db.exec(select(ViewerAnswer)).all() == []


def test_an_answer_needs_a_post_and_a_token(vera: PageClient, portal: Portal, study: str) -> None:
    url = f"/machine/{open_with(vera, portal, study, 'simple-images')}/opened"
    assert vera.get(url).status_code == 405
    assert vera.request("POST", url, data={"opened": "yes"}).status_code == 400


# -- what follows ------------------------------------------------------------------------------------
def first_button(client: PageClient, url: str) -> str:
    button = client.page(url).select_one("#open")
    assert button
    return button.get_text(strip=True)


def test_what_did_not_open_last_time_is_no_longer_suggested_first(vera: PageClient, portal: Portal, study: str) -> None:
    assert first_button(vera, study) == "Open with Simple images"
    url = f"/machine/{open_with(vera, portal, study, 'simple-images')}"
    vera.post(f"{url}/opened", {"opened": "no"})
    assert first_button(vera, study) == "Open with Aeskulap"
    assert "It did not open for you last time." in text_of(vera.get(study))
    vera.post(f"{url}/opened", {"opened": "yes"})
    assert first_button(vera, study) == "Open with Simple images"


def others_say(portal: Portal, enter_many: int, opened: bool, viewer: str = "simple-images") -> None:
    """So many people's word, as their own pages would have left it."""
    from myphr.crypto.envelope import new_key_pair
    from myphr.database import new_id
    from myphr.people.models import Account

    for _ in range(enter_many):
        with portal.database.write() as db:
            account = Account(email=f"{new_id()}@people.example", name="A Person")
            db.add(account)
        ring, vm_session_id = KeyRing(new_key_pair()), new_id()
        outcomes.remember(portal.database, ring, account.id, vm_session_id, viewer, "dicom/MR/image")
        outcomes.say(portal, ring, account.id, vm_session_id, opened)


@pytest.mark.parametrize(("people", "shown"), [(PEOPLE_MIN - 1, False), (PEOPLE_MIN, True)])
def test_what_others_said_is_shown_from_a_few_people_on(
    vera: PageClient, portal: Portal, study: str, people: int, shown: bool
) -> None:
    others_say(portal, people, False)
    outcomes.count(portal)
    words = text_of(vera.get(study))
    assert (f"did not open for any of {people} people" in words) is shown
    assert first_button(vera, study) == ("Open with Aeskulap" if shown else "Open with Simple images")


def test_one_account_that_lies_again_and_again_shifts_nothing(
    vera: PageClient, portal: Portal, study: str, patient: SignedIn
) -> None:
    others_say(portal, PEOPLE_MIN, True)
    for _ in range(2 * PEOPLE_MIN):
        vera.post(f"/machine/{open_with(vera, portal, study, 'simple-images')}/opened", {"opened": "no"})
    outcomes.count(portal)
    with portal.database.read() as db:
        rows = db.exec(select(ViewerVoice)).all()
    assert sorted(row.opened for row in rows) == [False] + [True] * PEOPLE_MIN
    dump = "".join(repr(row.model_dump()) for row in rows)
    assert patient.account.id not in dump and patient.person.email not in dump


def test_a_viewer_that_is_not_installed_has_no_button(vera: PageClient, portal: Portal, study: str) -> None:
    portal.redis.set(templates.INSTALLED_KEY, "documents")
    page = vera.page(study)
    assert "not installed on this portal" in text_of(page)
    assert [field["value"] for field in page.select('[name="viewer"]')] == ["simple-documents"]
    portal.redis.set(templates.INSTALLED_KEY, "documents,radiology")
    assert first_button(vera, study) == "Open with Simple images"


def test_without_redis_every_viewer_is_offered(
    vera: PageClient, portal: Portal, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    assert templates.installed(redis.Redis(unix_socket_path="/nonexistent/redis.sock")) is None


def test_the_sweep_keeps_the_names_of_the_published_templates(portal: Portal, enter: Callable[..., SignedIn]) -> None:
    from tests.contract.hypervisor.fake import FakeHypervisor

    hypervisor = FakeHypervisor()
    portal.__dict__["hypervisor"] = hypervisor
    templates.note_installed(portal)
    assert templates.installed(portal.redis) == {template.name for template in hypervisor.templates()}
    hypervisor.known_templates = []
    templates.note_installed(portal)
    assert templates.installed(portal.redis) == frozenset()
