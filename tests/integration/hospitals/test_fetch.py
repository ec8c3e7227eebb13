"""Records from a hospital, end to end: there, consent, back, every page and letter in the record, and again."""

import json
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from sqlmodel import col, select

from myphr.ingest.fhir import fetches, fetching, servers
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.reading import work
from myphr.portal import Portal
from myphr.records.items import dek_of, details_of, open_item
from myphr.records.models import Item
from tests.cast import OPERATOR, PATIENT, SignedIn, enter, new_portal
from tests.hospital import CLIENT_ID, Hospital
from tests.integration.hospitals.conftest import LETTER, Visit, as_json, observation, person_with
from tests.web.stage import put_in


def items_of(portal: Portal, person: SignedIn) -> dict[str, tuple[Item, bytes]]:
    """Name -> item and content, opened with the owner's keys."""
    ring = person.login.ring()
    with portal.database.read() as db:
        items = db.exec(select(Item).where(Item.account_id == person.account.id, col(Item.deleted_at).is_(None))).all()
    found = {}
    for item in items:
        opened = open_item(portal.store, item, dek_of(ring, item))
        found[details_of(ring, item)["name"]] = item, opened.read_at(0, opened.plain_bytes)
        opened.close()
    return found


def test_the_patient_is_sent_with_pkce_state_and_audience(visit: Visit, hospital: Hospital) -> None:
    asked = parse_qs(urlsplit(visit.go()).query)
    assert asked["code_challenge_method"] == ["S256"] and len(asked["code_challenge"][0]) == 43
    assert asked["scope"] == ["launch/patient patient/*.rs"] and asked["aud"] == [hospital.base]
    assert len(asked["state"][0]) == 43 and asked["redirect_uri"] == ["http://localhost:8000/hospitals/back"]


def test_everything_comes_byte_for_byte_and_the_letter_as_a_file(
    visit: Visit, portal: Portal, patient: SignedIn, hospital: Hospital
) -> None:
    seen = visit.fetch()
    assert (seen.state, seen.hospital, seen.reason) == ("done", "Harbour Hospital", "")
    found = items_of(portal, patient)
    assert set(found) == {
        "Personal details.json", "Results and measurements.json", "Results and measurements 2.json",
        "Results and measurements 3.json", "Diagnoses.json", "Documents.json", "Letter of discharge.pdf",
    }  # fmt: skip
    assert {(item.source, item.source_id) for item, _ in found.values()} == {("fhir", seen.id)}
    assert {item.format for item, _ in found.values()} == {"fhir-json", "pdf"}
    assert found["Letter of discharge.pdf"][1].startswith(LETTER)
    _status, raw = hospital.medplum.call("GET", f"/Patient/{hospital.patient}")
    assert found["Personal details.json"][1] == raw
    assert len(json.loads(found["Results and measurements.json"][1])["entry"]) == 50
    assert seen.items_count == 7 and seen.entries_new == 123 and seen.steps_done == seen.steps_total
    assert seen.bytes_count == sum(len(content) for _, content in found.values())


def test_the_same_records_again_are_told_and_not_kept_twice(
    visit: Visit, portal: Portal, patient: SignedIn
) -> None:
    visit.fetch()
    again = visit.fetch()
    assert again.nothing_new and (again.entries_new, again.entries_changed, again.entries_known) == (0, 0, 123)
    assert again.items_count == 0 and len(items_of(portal, patient)) == 7


def test_new_ids_and_another_order_do_not_make_them_new(visit: Visit, hospital: Hospital) -> None:
    again = person_with(120)
    hospital.patient = hospital.medplum.admit(as_json(again))
    visit.fetch()
    again["entry"][1:121] = reversed(again["entry"][1:121])
    hospital.patient = hospital.medplum.admit(as_json(again))
    seen = visit.fetch()
    assert (seen.entries_new, seen.entries_changed, seen.entries_known) == (0, 0, 123)


def test_a_corrected_result_is_kept_and_called_changed(
    visit: Visit, portal: Portal, patient: SignedIn, hospital: Hospital
) -> None:
    hospital.medplum.put(observation(7, hospital.patient))
    visit.fetch()
    corrected = observation(7, hospital.patient, status="amended", valueQuantity={"value": 99, "unit": "mmol/l"})
    hospital.medplum.put(corrected)
    hospital.medplum.put(observation(500, hospital.patient))
    again = visit.fetch()
    assert (again.entries_new, again.entries_changed, again.entries_known) == (1, 1, 124)
    assert again.items_count == 1 and len(items_of(portal, patient)) == 7  # of the same name


def test_what_was_deleted_since_is_new_again(visit: Visit, portal: Portal, patient: SignedIn) -> None:
    from myphr.audit.trail import Actor
    from myphr.records.items import remove_item

    visit.fetch()
    for item, _ in items_of(portal, patient).values():
        remove_item(portal.database, patient.account.id, item.id, Actor("patient", patient.account.id))
    again = visit.fetch()
    assert (again.entries_new, again.entries_known, again.items_count) == (123, 0, 7)


def test_a_bundle_put_in_by_hand_is_known_again(
    visit: Visit, portal: Portal, patient: SignedIn, hospital: Hospital
) -> None:
    """An export of the patient portal of the hospital, say, in one file: other bytes, the same entries."""
    found = []
    for kind in ("Observation", "Condition"):
        _status, body = hospital.medplum.call("GET", f"/{kind}?patient={hospital.patient}&_count=50")
        found += json.loads(body)["entry"]
    export = as_json({"resourceType": "Bundle", "type": "collection", "entry": found})
    put_in(portal, patient.account.id, export, "my-export.json")
    work.run(portal, patient.account.id)
    seen = visit.fetch()
    assert (seen.entries_known, seen.entries_new) == (51, 72)


def test_somebody_elses_records_are_not_taken_for_known(
    visit: Visit, portal: Portal, stranger: SignedIn, hospital: Hospital, server_id: str
) -> None:
    visit.fetch()
    assert Visit(portal, stranger, hospital, server_id).fetch().entries_new == 123


def test_a_server_with_everything_is_asked_once(visit: Visit, hospital: Hospital) -> None:
    operation = [{"name": "everything", "definition": "http://hl7.org/fhir/OperationDefinition/Patient-everything"}]
    hospital.faults["metadata"] = json.dumps({
        "resourceType": "CapabilityStatement",
        "rest": [{"resource": [{"type": "Patient", "operation": operation}, {"type": "Observation"}]}],
    })  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [
        {"resource": observation(number, hospital.patient)} for number in range(3)]}  # fmt: skip
    hospital.faults["answers"] = {"$everything": (200, json.dumps(bundle))}
    seen = visit.fetch()
    assert (seen.state, seen.entries_new) == ("done", 4)
    assert not [path for path in hospital.asked if path.startswith("/Observation")]


def test_an_everything_that_does_not_work_is_replaced_by_searches(visit: Visit, hospital: Hospital) -> None:
    operation = [{"name": "everything"}]
    hospital.faults["metadata"] = json.dumps({
        "resourceType": "CapabilityStatement", "rest": [{"resource": [{"type": "Patient", "operation": operation}]}],
    })  # fmt: skip
    hospital.faults["answers"] = {"$everything": (403, "{}")}
    assert visit.fetch().entries_new == 123


def test_a_server_of_smart_1_is_found_by_its_capability_statement(visit: Visit, hospital: Hospital) -> None:
    hospital.faults["no-well-known"] = True
    asked = parse_qs(urlsplit(visit.go()).query)
    assert asked["scope"] == ["launch/patient patient/*.read"]
    hospital.faults["iss"] = hospital.base  # there is no issuer to compare with but the server itself
    assert visit.fetch().state == "done"


def test_observations_by_category_where_the_server_wants_one(visit: Visit, hospital: Hospital) -> None:
    def only_by_category(path: str):
        from flask import Response

        if "category" not in path:
            return Response("{}", 400, mimetype="application/fhir+json")
        return Response(hospital.medplum.call("GET", path, base=hospital.base)[1], mimetype="application/fhir+json")

    hospital.faults["answers"] = {"/Observation": only_by_category}
    seen = visit.fetch()
    assert seen.state == "done" and any("category=vital-signs" in path for path in hospital.asked)


def test_what_the_hospital_does_not_give_is_said(visit: Visit, hospital: Hospital) -> None:
    hospital.faults["answers"] = {"/Condition": (403, "{}"), "/Binary": (404, "{}")}
    seen = visit.fetch()
    assert seen.state == "done" and seen.not_given == ("Diagnoses", "Documents")
    assert seen.entries_new == 122


def test_a_permission_that_runs_out_is_renewed_within_the_fetch(visit: Visit, hospital: Hospital) -> None:
    hospital.token_seconds = 31  # renewed 30 s before its end
    fetch_id = visit.come_back()
    hospital.before_answer = lambda path: [setattr(t, "ends_at", 0) for t in hospital.tokens[:1]]
    fetching.run(visit.portal, fetch_id)
    assert visit.view(fetch_id).state == "done" and len(hospital.tokens) >= 2


def test_the_permission_is_given_back_and_erased_at_the_end(visit: Visit, portal: Portal, hospital: Hospital) -> None:
    seen = visit.fetch()
    assert all(token.revoked for token in hospital.tokens)
    with portal.database.read() as db:
        row = db.get(FhirFetch, seen.id)
    assert row is not None and row.sealed_for_worker is None


def test_who_looked_tells_of_it(visit: Visit, portal: Portal, patient: SignedIn) -> None:
    from myphr.audit import trail

    visit.fetch()
    events = [event.event for event in trail.newest_first(portal.database, patient.account.id, None, 50)]
    assert "hospital-fetched" in events and "hospital-asked" in events
    assert trail.verify(portal.database) > 0


def test_withdrawing_stops_it_where_it_is(visit: Visit, portal: Portal, patient: SignedIn, hospital: Hospital) -> None:
    fetch_id = visit.come_back()

    def stop(path: str) -> None:
        if "_offset=50" in path:
            fetches.withdraw(portal, patient.login, fetch_id)

    hospital.before_answer = stop
    fetching.run(portal, fetch_id)
    seen = visit.view(fetch_id)
    assert seen.state == "withdrawn" and 0 < seen.items_count < 7
    assert len(items_of(portal, patient)) == seen.items_count
    with portal.database.read() as db:
        row = db.get(FhirFetch, fetch_id)
    assert row is not None and row.sealed_for_worker is None
    assert all(token.revoked for token in hospital.tokens)


def test_a_hospital_off_the_list_ends_it(visit: Visit, portal: Portal, operator: SignedIn, server_id: str) -> None:
    fetch_id = visit.come_back()
    servers.close(portal, operator.login, server_id)
    fetching.run(portal, fetch_id)
    assert visit.view(fetch_id).state == "failed" and "off the list" in visit.view(fetch_id).reason


def test_a_hospital_taken_off_the_list_meanwhile_ends_it_at_its_next_step(
    visit: Visit, portal: Portal, operator: SignedIn, server_id: str, hospital: Hospital
) -> None:
    fetch_id = visit.come_back()

    def take_off(path: str) -> None:
        if "_offset=50" in path:
            servers.close(portal, operator.login, server_id)

    hospital.before_answer = take_off
    fetching.run(portal, fetch_id)
    seen = visit.view(fetch_id)
    assert seen.state == "failed" and seen.items_count == 3
    assert len(list(portal.store.keys())) == 3


def test_two_workers_at_once_file_everything_once(visit: Visit, portal: Portal, patient: SignedIn) -> None:
    fetch_id = visit.come_back()
    workers = [threading.Thread(target=fetching.run, args=(portal, fetch_id)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seen = visit.view(fetch_id)
    assert (seen.state, seen.items_count, seen.entries_new) == ("done", 7, 123)
    assert len(items_of(portal, patient)) == 7
    assert len(list(portal.store.keys())) == 7


def test_on_postgresql_two_workers_file_everything_once_too(
    tmp_path: Path, redis_url: str, postgresql_url: str, hospital: Hospital
) -> None:
    portal = new_portal(tmp_path / "on-postgresql", redis_url, fhir_loopback=1, database_url=postgresql_url)
    operator, person = enter(portal, OPERATOR), enter(portal, PATIENT)
    server = servers.add(portal, operator.login, "Harbour Hospital", hospital.base, CLIENT_ID).server
    visit = Visit(portal, person, hospital, server.id)
    fetch_id = visit.come_back()
    workers = [threading.Thread(target=fetching.run, args=(portal, fetch_id)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    fetching.run(portal, fetch_id)  # had both been overtaken, the sweep would do this
    seen = visit.view(fetch_id)
    assert (seen.state, seen.items_count, seen.entries_new) == ("done", 7, 123)
    assert visit.fetch().nothing_new
    portal.database.dispose()


def test_a_job_that_runs_again_after_the_end_changes_nothing(visit: Visit, portal: Portal) -> None:
    seen = visit.fetch()
    fetching.run(portal, seen.id)
    assert visit.view(seen.id) == seen
