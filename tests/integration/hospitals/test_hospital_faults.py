"""What may go wrong between a patient and a hospital, each with a clear outcome: forged ways back, refused and broken
tokens, answers without end, other servers, lost lines, killed workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from flask import Response

from myphr.errors import HospitalRefused, NotFound
from myphr.ingest.fetch import rows, runs
from myphr.ingest.fhir import documents, fetches, fetching, line, servers
from myphr.ingest.fhir.models import FhirFetch
from myphr.portal import Portal
from tests.cast import SignedIn
from tests.hospital import CLIENT_ID, Hospital, give_consent
from tests.integration.hospitals.conftest import BACK, Visit, as_json, observation
from tests.integration.hospitals.test_fetch import items_of

ROOT = Path(__file__).parents[3]
THREE_PAGES = pytest.mark.parametrize("results", [120], ids=["three pages"])


@pytest.fixture
def results() -> int:
    return 3


def outcome(visit: Visit, fetch_id: str) -> tuple[str, str | None]:
    with visit.portal.database.read() as db:
        row = db.get(FhirFetch, fetch_id)
    assert row is not None
    if row.state in ("failed", "done", "withdrawn", "lapsed"):
        assert row.sealed_for_worker is None  # whatever happened, the permission is gone
    return row.state, row.error_code


# -- the way back ---------------------------------------------------------------------------------
def test_the_patient_may_say_no(visit: Visit, hospital: Hospital) -> None:
    assert outcome(visit, visit.come_back("no")) == ("failed", "denied")
    assert not hospital.tokens


@pytest.mark.parametrize("state", ["", "x", "A" * 43])
def test_another_state_is_nobodys(visit: Visit, state: str) -> None:
    with pytest.raises(NotFound):
        visit.come_back(change=lambda query: query.update(state=state))


def test_a_way_back_made_by_somebody_else_is_nobodys(
    visit: Visit, portal: Portal, stranger: SignedIn, hospital: Hospital, server_id: str
) -> None:
    """RFC 6749, 10.12: the stranger's records must not come into the patient's account."""
    address = give_consent(Visit(portal, stranger, hospital, server_id).go())
    from urllib.parse import parse_qsl, urlsplit

    with pytest.raises(NotFound):
        fetches.answer(portal, visit.person.login, dict(parse_qsl(urlsplit(address).query)))
    assert not hospital.tokens


@pytest.mark.parametrize("iss", ["https://evil.example", "", None])
def test_another_issuer_or_none_where_one_was_promised_is_refused(visit: Visit, hospital: Hospital, iss) -> None:
    change = (lambda query: query.pop("iss")) if iss is None else (lambda query: query.update(iss=iss))
    assert outcome(visit, visit.come_back(change=change)) == ("failed", "foreign-issuer")
    assert not hospital.tokens


def test_a_code_of_another_sign_in_does_not_fit_our_verifier(visit: Visit, hospital: Hospital) -> None:
    """Somebody put the code of their own consent into her way back: PKCE tells."""
    from urllib.parse import parse_qs, urlsplit

    theirs = parse_qs(urlsplit(give_consent(visit.go())).query)["code"][0]
    assert outcome(visit, visit.come_back(change=lambda query: query.update(code=theirs))) == ("failed", "code-refused")
    assert not hospital.tokens


def test_a_code_that_ran_out_is_told(visit: Visit, hospital: Hospital) -> None:
    hospital.faults["code-seconds"] = 0
    fetch_id = visit.come_back()
    assert outcome(visit, fetch_id) == ("failed", "code-refused")
    assert "may have taken too long" in visit.view(fetch_id).reason


@pytest.mark.parametrize("code", ["", "x" * 5000])
def test_a_code_that_is_none_is_not_asked_with(visit: Visit, hospital: Hospital, code: str) -> None:
    assert outcome(visit, visit.come_back(change=lambda query: query.update(code=code))) == ("failed", "sign-in-error")


def test_the_same_way_back_twice_uses_the_code_once(visit: Visit, hospital: Hospital) -> None:
    from urllib.parse import parse_qsl, urlsplit

    query = dict(parse_qsl(urlsplit(give_consent(visit.go())).query))
    ids: list[str] = []
    both = [
        threading.Thread(target=lambda: ids.append(fetches.answer(visit.portal, visit.person.login, query)))
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(set(ids)) == 1 and outcome(visit, ids[0])[0] == "waiting" and len(hospital.tokens) == 1


def test_coming_back_after_an_hour_is_too_late(visit: Visit, portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "ANSWER_WITHIN", -fetches.ANSWER_WITHIN)
    assert outcome(visit, visit.come_back())[0] == "lapsed"


# -- discovery ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("configuration", "code"), [
    ({"code_challenge_methods_supported": ["plain"]}, "no-pkce"),
    ({"authorization_endpoint": "https://evil.example/authorize"}, "changed"),
    ({"token_endpoint": "https://evil.example/token"}, "changed"),
    ({"token_endpoint": "http://evil.example/token"}, "address"),
    ({"authorization_endpoint": "javascript:alert(1)"}, "address"),
    ({"authorization_endpoint": "https://10.0.0.7/authorize"}, "address"),
    ({"authorization_endpoint": None}, "address"),
])  # fmt: skip
def test_a_discovery_that_leads_elsewhere_stops_at_the_door(
    visit: Visit, hospital: Hospital, configuration: dict, code: str
) -> None:
    hospital.faults["configuration"] = configuration
    with pytest.raises(HospitalRefused) as refused:
        visit.go()
    assert refused.value.detail == code


# -- the token ------------------------------------------------------------------------------------
TOKEN = {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "patient": "p1", "scope": "patient/*.rs"}


@pytest.mark.parametrize(("answer", "code"), [
    ((500, "<h1>down</h1>"), "token"), ((200, "<h1>hello</h1>"), "token"), ((200, "[]"), "token"),
    ((400, '{"error":"invalid_client"}'), "token"), ((400, '{"error":"invalid_grant"}'), "code-refused"),
    ((200, json.dumps(TOKEN | {"token_type": "mac"})), "token"),
    ((200, json.dumps(TOKEN | {"access_token": ""})), "token"),
    ((200, json.dumps(TOKEN | {"access_token": "a\r\nX-Evil: 1"})), "token"),
    ((200, json.dumps(TOKEN | {"access_token": "x" * 20_000})), "token"),
    ((200, json.dumps({k: v for k, v in TOKEN.items() if k != "patient"})), "no-patient"),
    ((200, json.dumps(TOKEN | {"patient": "../Patient/1"})), "no-patient"),
    ((200, json.dumps(TOKEN | {"patient": "1?_include=*"})), "no-patient"),
    ((200, json.dumps(TOKEN | {"patient": ["1"]})), "no-patient"),
    ((200, "{" + " " * 5 * 1024**2 + "}"), "too-large"), ((200, '{"a":' * 100_000), "token"),
    ((302, "", {"Location": "https://evil.example/"}), "moved"),
    ((307, "", {"Location": "http://127.0.0.1:1/"}), "moved"),
])  # fmt: skip
def test_a_token_endpoint_that_errs_ends_it(visit: Visit, hospital: Hospital, answer: tuple, code: str) -> None:
    hospital.faults["token-answer"] = answer
    fetch_id = visit.come_back()
    assert outcome(visit, fetch_id) == ("failed", code)
    assert visit.view(fetch_id).reason


# -- answers --------------------------------------------------------------------------------------
def bundle(*entries: dict, **more) -> bytes:
    return as_json({"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": e} for e in entries]} | more)


def answering(body: bytes, status: int = 200, **headers: str) -> Callable[[str], Response]:
    return lambda path: Response(body, status, headers=headers, mimetype="application/fhir+json")


def test_pages_without_end_are_cut_and_said(visit: Visit, hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAGES_PER_KIND_MAX", 5)

    def endless(path: str) -> Response:
        number = int(path.rpartition("=")[2]) if "page=" in path else 0
        link = [{"relation": "next", "url": f"{hospital.base}/Condition?page={number + 1}"}]
        return Response(bundle(observation(number, "endless"), link=link), mimetype="application/fhir+json")

    hospital.faults["answers"] = {"/Condition": endless}
    seen = visit.fetch()
    assert seen.state == "done" and seen.cut_short == ("Diagnoses",)
    assert len([path for path in hospital.asked if path.startswith("/Condition")]) == 5


def test_a_page_that_names_itself_the_next_is_asked_once(visit: Visit, hospital: Hospital) -> None:
    def circle(path: str) -> Response:
        link = [{"relation": "next", "url": hospital.base + path}]
        return Response(bundle(observation(1, "circle"), link=link), mimetype="application/fhir+json")

    hospital.faults["answers"] = {"/Condition": circle}
    seen = visit.fetch()
    assert seen.cut_short == ("Diagnoses",) and len([p for p in hospital.asked if p.startswith("/Condition")]) == 1


@pytest.mark.parametrize("url", [
    "https://evil.example/Condition?page=2", "http://127.0.0.1:1/", "//evil.example/x", "file:///etc/passwd",
    "http://[::1", "javascript:1", "https://harbour.example.evil.example/", "x" * 5000,
])  # fmt: skip
def test_a_next_page_on_another_server_is_not_asked(visit: Visit, hospital: Hospital, url: str) -> None:
    hospital.faults["answers"] = {
        "/Condition": answering(bundle(observation(1, "next"), link=[{"relation": "next", "url": url}]))
    }
    seen = visit.fetch()
    assert seen.state == "done" and seen.cut_short == ("Diagnoses",) and seen.not_given == ()


def test_a_letter_on_another_server_is_counted_and_not_fetched(visit: Visit, hospital: Hospital) -> None:
    letter = {"resourceType": "DocumentReference", "content": [
        {"attachment": {"url": "https://elsewhere.example/letter.pdf"}},
        {"attachment": {"url": f"{hospital.url}@evil.example/"}}]}  # fmt: skip
    hospital.faults["answers"] = {"/DocumentReference": answering(bundle(letter))}
    assert visit.fetch().elsewhere == 2


def test_a_letter_inside_the_answer_becomes_a_file_too(visit: Visit, hospital: Hospital) -> None:
    import base64

    data = base64.b64encode(b"%PDF-1.7 inside").decode()
    report = {"resourceType": "DiagnosticReport", "presentedForm": [{"contentType": "application/pdf", "data": data,
                                                                     "title": "X/../ray"}]}  # fmt: skip
    hospital.faults["answers"] = {"/DocumentReference": answering(bundle(report))}
    assert visit.fetch().items_count == 5  # the answer and what stood in it, in place of list and letter


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(visit: Visit, hospital: Hospital, status: int) -> None:
    hospital.faults["answers"] = {"/Condition": answering(b"", status, Location=f"{hospital.base}/Observation")}
    fetch_id = visit.come_back()
    fetching.run(visit.portal, fetch_id)
    assert outcome(visit, fetch_id) == ("failed", "moved")


def test_a_redirect_with_a_body_without_end_is_not_read(visit: Visit, hospital: Hospital) -> None:
    hospital.faults["answers"] = {"/Condition": lambda path: Response(
        (b"x" * 50_000 for _ in range(10**7)), 302, headers={"Location": "https://evil.example/"})}  # fmt: skip
    fetch_id = visit.come_back()
    fetching.run(visit.portal, fetch_id)
    assert outcome(visit, fetch_id) == ("failed", "moved")


@pytest.mark.parametrize("body", [
    b"", b"<html>", b"[]", b'{"resourceType": 7}', b'{"a":' * 200_000, b'{"resourceType":"OperationOutcome"}',
    b"\xff\xfe", b"1" * 100_000,
])  # fmt: skip
def test_an_answer_that_is_no_record_ends_it(visit: Visit, hospital: Hospital, body: bytes) -> None:
    hospital.faults["answers"] = {"/Condition": answering(body)}
    fetch_id = visit.come_back()
    fetching.run(visit.portal, fetch_id)
    assert outcome(visit, fetch_id) == ("failed", "not-records")
    assert visit.view(fetch_id).items_count > 0  # what came before stays


@pytest.mark.parametrize("resource", [
    {"resourceType": "Condition", "identifier": "x"}, {"resourceType": "Condition", "identifier": [None, {"value": 7}]},
    {"resourceType": "Condition", "identifier": {"value": " "}}, {"resourceType": 7}, {}, "text", None, [],
    {"resourceType": "DocumentReference", "content": "x"}, {"resourceType": "DocumentReference", "content": [7]},
    {"resourceType": "Binary", "data": "no base64!"}, {"resourceType": "Media", "content": {"url": 7}},
    {"resourceType": "Condition" * 5000, "a": "\ud800"},
])  # fmt: skip
def test_odd_resources_are_kept_as_they_came(visit: Visit, hospital: Hospital, resource) -> None:
    body = bundle(observation(1, "odd"), resource, link=7)
    hospital.faults["answers"] = {"/Condition": answering(body)}
    assert visit.fetch().state == "done"


def test_an_answer_larger_than_the_limit_ends_it(visit: Visit, hospital: Hospital, monkeypatch) -> None:
    monkeypatch.setattr(line, "PAGE_BYTES_MAX", 100_000)

    def stream(path: str) -> Response:
        return Response((b" " * 50_000 for _ in range(1_000_000)), mimetype="application/fhir+json")

    hospital.faults["answers"] = {"/Condition": stream}
    fetch_id = visit.come_back()
    fetching.run(visit.portal, fetch_id)
    assert outcome(visit, fetch_id) == ("failed", "too-large")


def test_a_letter_larger_than_the_limit_is_left_out_and_said(visit: Visit, hospital: Hospital, monkeypatch) -> None:
    monkeypatch.setattr(documents, "FILE_BYTES_MAX", 100_000)
    hospital.faults["answers"] = {
        "/Binary": lambda path: Response((b"x" * 50_000 for _ in range(1_000_000)), mimetype="application/pdf")
    }
    seen = visit.fetch()
    assert seen.state == "done" and seen.not_given == ("Documents",) and len(list(visit.portal.store.keys())) == 4


def test_a_packed_answer_that_nobody_asked_for_is_refused(visit: Visit, hospital: Hospital) -> None:
    import gzip

    bomb = gzip.compress(b" " * 10**7)
    hospital.faults["answers"] = {"/Condition": answering(bomb, **{"Content-Encoding": "gzip"})}
    fetch_id = visit.come_back()
    fetching.run(visit.portal, fetch_id)
    assert outcome(visit, fetch_id) == ("failed", "not-records")


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (429, 3), (500, 1)])
def test_a_server_in_trouble_is_asked_again_and_then_left(
    visit: Visit, hospital: Hospital, status: int, tries: int
) -> None:
    hospital.faults["answers"] = {"/Condition": answering(b"{}", status)}
    seen = visit.fetch()
    assert seen.state == "done" and seen.not_given == ("Diagnoses",)
    assert len([path for path in hospital.asked if path.startswith("/Condition")]) == tries


def test_a_server_slower_than_the_whole_fetch_may_take_ends_it(
    visit: Visit, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(path: str) -> Response:
        def bytes_one_by_one():
            for _ in range(400):
                time.sleep(0.05)
                yield b" "

        return Response(bytes_one_by_one(), mimetype="application/fhir+json")

    fetch_id = visit.come_back()
    hospital.faults["answers"] = {"/Condition": drip}
    monkeypatch.setitem(visit.portal.__dict__, "settings", visit.portal.settings.__class__(
        **{f: getattr(visit.portal.settings, f) for f in visit.portal.settings.__dataclass_fields__}
        | {"fhir_seconds_max": 2}))  # fmt: skip
    began = time.monotonic()
    fetching.run(visit.portal, fetch_id)
    assert outcome(visit, fetch_id) == ("failed", "too-slow") and time.monotonic() - began < 10


@THREE_PAGES
def test_a_permission_that_is_not_renewed_ends_it(visit: Visit, hospital: Hospital) -> None:
    hospital.faults["no-refresh"] = True
    fetch_id = visit.come_back()

    def end(path: str) -> None:
        if "_offset=50" in path:
            for token in hospital.tokens:
                token.revoked = True

    hospital.before_answer = end
    fetching.run(visit.portal, fetch_id)
    # The answer that was on its way still came; the next one is refused.
    assert outcome(visit, fetch_id) == ("failed", "expired")
    assert visit.view(fetch_id).items_count > 0 and "ran out before everything" in visit.view(fetch_id).reason


# -- the line and the worker ----------------------------------------------------------------------
def test_a_line_lost_in_the_middle_of_an_answer_ends_it_after_three_tries(visit: Visit, hospital: Hospital) -> None:
    def cut(path: str) -> Response:
        return Response(iter([b'{"resourceType":"Bundle"']), headers={"Content-Length": "90000"},
                        mimetype="application/fhir+json")  # fmt: skip

    hospital.faults["answers"] = {"/Condition": cut}
    fetch_id = visit.come_back()
    fetching.run(visit.portal, fetch_id)
    assert outcome(visit, fetch_id) == ("failed", "unreachable")
    assert len([path for path in hospital.asked if path.startswith("/Condition")]) == 3


def test_a_hospital_that_is_away_is_told_on_the_way_there(portal: Portal, operator: SignedIn, visit: Visit) -> None:
    with pytest.raises(HospitalRefused, match="unreachable"):
        servers.add(portal, operator.login, "Closed Hospital", "http://127.0.0.1:9/fhir", CLIENT_ID)


@THREE_PAGES
def test_a_worker_killed_in_the_middle_is_taken_up_where_it_was(
    visit: Visit, portal: Portal, hospital: Hospital, redis_url: str
) -> None:
    """kill -9 of a real process at each of several answers, each after a renewal of the permission; the next one goes
    on, nothing comes twice and nothing is left out."""
    hospital.token_seconds = 20
    fetch_id = visit.come_back()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MYPHR_")} | {
        "MYPHR_HOME": str(portal.settings.home), "MYPHR_REDIS_URL": redis_url, "MYPHR_FHIR_LOOPBACK": "1",
    }  # fmt: skip
    code = f"from jobs.ingest import fetch_from_hospital as f; f({fetch_id!r})"
    killed = 0
    for part in ("/Condition", "_offset=50", "/Binary"):
        reached = threading.Event()

        def stop_here(path: str, part: str = part, reached: threading.Event = reached) -> None:
            if part in path and not reached.is_set():
                reached.set()
                time.sleep(1)  # the kill comes now

        hospital.before_answer = stop_here
        worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environ)
        assert reached.wait(30)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        killed += 1
        assert outcome(visit, fetch_id)[0] == "running"
    hospital.before_answer = lambda path: None
    fetching.run(portal, fetch_id)
    seen = visit.view(fetch_id)
    assert killed == 3 and (seen.state, seen.items_count, seen.entries_new) == ("done", 7, 123)


def test_a_fetch_that_nobody_works_on_is_put_back_by_the_sweep(visit: Visit, portal: Portal, monkeypatch) -> None:
    fetch_id = visit.come_back()
    monkeypatch.setattr(rows, "STUCK", -rows.STUCK)
    portal.redis.flushall()
    fetches.sweep(portal)
    jobs = [job.id for job in portal.queue.rq.jobs]
    assert jobs == [f"jobs-ingest-refetch_from_hospital_{fetch_id}"]


def test_an_error_behind_the_commit_costs_no_file(
    visit: Visit, portal: Portal, hospital: Hospital, request: pytest.FixtureRequest
) -> None:
    """An answer is filed; then Redis refuses the job to read it, and the run ends with that."""
    fetch_id = visit.come_back()
    full = request.getfixturevalue("full_redis")
    with pytest.raises(redis.ResponseError):
        fetching.run(portal, fetch_id)
    came = visit.view(fetch_id).items_count
    assert came == len(items_of(portal, visit.person)) == len(list(portal.store.keys())) == 1
    full.config_set("maxmemory", 0)
    fetching.run(portal, fetch_id)
    assert (visit.view(fetch_id).state, visit.view(fetch_id).items_count) == ("done", 5)
    assert len(items_of(portal, visit.person)) == len(list(portal.store.keys())) == 5  # each opens


def test_a_long_file_ends_soon_after_the_owner_stops_it(
    visit: Visit, portal: Portal, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "WANTED_SECONDS", 0.0)
    sent = 0

    def endless(path: str) -> Response:
        def blocks() -> Iterator[bytes]:
            nonlocal sent
            while sent < 2000:
                sent += 1
                if sent == 50:
                    fetches.withdraw(portal, visit.person.login, fetch_id)
                yield b"x" * 65536

        return Response(blocks(), mimetype="application/pdf")

    hospital.faults["answers"] = {"/Binary": endless}
    fetch_id = visit.come_back()
    fetching.run(portal, fetch_id)
    seen = visit.view(fetch_id)
    assert (seen.state, seen.items_count) == ("withdrawn", 4) and sent < 2000
    assert len(items_of(portal, visit.person)) == len(list(portal.store.keys())) == 4


# -- secrets --------------------------------------------------------------------------------------
@THREE_PAGES
def test_no_token_code_or_answer_stands_anywhere_in_clear(
    visit: Visit, portal: Portal, patient: SignedIn, hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole home (database with its journal, store), Redis, and every log line, in the middle and at the end."""
    caplog.set_level("INFO")
    places: list[bytes] = []

    def look(path: str) -> None:
        if "_offset=100" in path:
            places.extend(_everything(portal))

    hospital.before_answer = look
    fetch_id = visit.come_back()
    in_queue = _everything(portal)
    fetching.run(portal, fetch_id)
    places += in_queue + _everything(portal)
    assert visit.view(fetch_id).state == "done" and len(hospital.secrets) >= 3 and len(places) > 10
    markers = [*hospital.secrets, "Letter of discharge", "lab.example", "Migraine", hospital.patient]
    log = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]  # that is the hospital's
    for marker in markers:
        assert not any(marker.encode() in place for place in places), "a marker stands in clear"
        assert not any(marker in line for line in log), "a marker stands in a log line"
    assert any(b"fhir_fetch" in place for place in places)  # the control: these are the right places
    with portal.database.read() as db:
        names = [row for row in db.connection().exec_driver_sql("SELECT * FROM fhir_fetch")]
    assert "Harbour" not in repr(names)


def _everything(portal: Portal) -> list[bytes]:
    files = [path.read_bytes() for path in portal.settings.home.rglob("*") if path.is_file()]
    keys = [key for key in portal.redis.scan_iter()]
    values = [portal.redis.dump(key) or b"" for key in keys]
    hashes = [b"".join(portal.redis.hgetall(key).values()) for key in keys if portal.redis.type(key) == b"hash"]
    return [*files, *keys, *values, *hashes]


def test_the_address_of_the_way_back_is_the_registered_one_only(visit: Visit, hospital: Hospital) -> None:
    import requests

    address = visit.go().replace("hospitals%2Fback", "elsewhere")
    assert requests.get(address, timeout=10).status_code == 400
    assert BACK not in address
