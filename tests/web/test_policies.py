"""Every view carries exactly one policy; a stranger gets 404 and nobody gets anything; wrong methods are refused."""

from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.routing import Rule as UrlRule

from myphr.people import accounts
from myphr.portal import Portal
from myphr.records import questions
from myphr.records.search_index import Question
from myphr.web.policy import ANYONE, SIGNED_IN, policies_of, policy
from tests.cast import CAREGIVER, PATIENT, STRANGER, Person, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient
from tests.web.stage import (
    put_app_key,
    put_authority,
    put_deletion,
    put_drop_off,
    put_export,
    put_fetch,
    put_in,
    put_pacs_fetch,
    put_pacs_link,
    put_passkey,
    put_study,
    put_vm_session,
)

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
ANYBODYS = {
    "entrance.welcome", "entrance.register", "entrance.register_now", "entrance.sign_in", "entrance.sign_in_now",
    "entrance.recover", "entrance.recover_now", "help.help_page", "operator.healthz", "files.static_file",
    "caregiver.landing", "caregiver.open_share", "handing_over.landing", "handing_over.open_page",
    "second_step.second_step", "second_step.by_code",
    "second_step.by_passkey", "second_step.by_recovery_code", "closing.closed",
}  # fmt: skip
# What belongs to the person asking: a stranger gets their own, never the patient's.
OF_THE_CALLER = {
    "entrance.sign_out", "entrance.recovery_code_check", "entrance.confirm_recovery_code", "account.my_account",
    "account.change_password", "account.new_recovery_code", "record.my_record", "record.items", "record.load_samples",
    "trail.who_looked", "identity.begin_app", "identity.authenticator_app", "identity.confirm_app",
    "identity.remove_app", "identity.new_passkey", "identity.add_passkey", "identity.renew_certificate",
    "identity.revoke_certificate", "record_shares.mine", "record_shares.share_everything", "record_shares.choose",
    "record_shares.share_collection",
    "shared_with_me.everything",
    "share_by_kind.share",
    "app_keys.mine", "app_keys.create",
    "drop_offs.mine", "drop_offs.create", "hospitals.choose", "hospitals.go",
    "find.find", "find.ask", "find.timeline", "find.timeline_reading",
}  # fmt: skip
OF_THE_CALLER |= {"closing.about", "closing.sure", "closing.close"}
OF_THE_CALLER |= {"everything.everything", "everything.progress", "everything.ask", "deletions.mine"}
OF_A_VISITOR = {"caregiver.screen", "caregiver.ticket", "caregiver.state", "caregiver.leave"}
# The cookie of a drop-off's link: see test_handing_over.py.
OF_A_LINK = {"handing_over.files", "handing_over.done"}
OF_THE_OPERATOR = {
    "operator.status", "operator.create_authority", "operator.authority", "operator.change_officer",
    "operator.close_authority", "operator.revoke_identity", "operator.give_new_identity",
    "hospital_servers.mine", "hospital_servers.add", "hospital_servers.close",
}  # fmt: skip
# No cookie helps there, only a token: see test_dicom_web.py.
OF_A_SENDER = {"dicom_web.store", "dicom_web.store_study"}
# Nor there: the token of an app key: see test_dicom_web_out.py, test_dicom_web_parts.py.
OF_AN_APP = {f"dicom_web_out.{name}" for name in (
    "studies", "all_series", "all_instances", "series", "instances_of_study", "instances", "study", "one_series",
    "instance", "study_metadata", "series_metadata", "instance_metadata",
)} | {f"dicom_web_parts.{name}" for name in ("frames", "bulk", "rendered", "rendered_frame")}  # fmt: skip
OF_ONE_OWNER = {
    "app_keys.stop",
    "account.sign_out_device", "study.study", "study.open_study", "study.delete_study", "study.item", "study.open_item",
    "study.download", "study.download_study", "study.delete_item", "machine.machine", "machine.progress",
    "machine.watch", "machine.checked", "machine.ticket", "machine.here", "machine.keep", "machine.end",
    "machine.share", "machine.withdraw", "outcome.answer",
    "identity.remove_passkey", "authorities.members", "authorities.grant", "authorities.take",
    "record_shares.share", "record_shares.progress", "record_shares.stop", "record_shares.remove",
    "shared_with_me.shared", "shared_with_me.open_in_viewer", "share_by_kind.kind",
    "correction.kind",
    "find.found", "find.reading",
    "share_by_kind.study_sensitive",
    "drop_offs.stop", "previews.preview", "previews.narrative",
    "hospitals.back", "hospitals.fetch", "hospitals.progress", "hospitals.stop",
}  # fmt: skip

OF_ONE_OWNER |= {f"pacs.{name}" for name in ("look", "end", "fetch", "progress", "choose", "stop")}
OF_THE_CALLER |= {"pacs.mine", "pacs.connect"}
OF_THE_OPERATOR |= {f"pacs_servers.{name}" for name in ("mine", "add", "echo", "close", "code", "confirm", "end")}
OF_ONE_OWNER |= {"everything.remove", "everything.download", "deletions.proof", "deletions.certificate"}


def rules_of(app: Flask) -> list[UrlRule]:
    """Everything but uploads, which have their own tests (test_uploads_http.py, test_handing_over.py)."""
    return [rule for rule in app.url_map.iter_rules() if "uploads." not in rule.endpoint]


def methods_of(rule: UrlRule) -> set[str]:
    return (rule.methods or set()) & METHODS


# -- one policy each ------------------------------------------------------------------------------
def test_every_view_carries_exactly_one_policy(app: Flask) -> None:
    assert {name: policies_of(view) for name, view in app.view_functions.items() if len(policies_of(view)) != 1} == {}


def test_a_view_without_a_policy_is_noticed() -> None:
    assert policies_of(lambda: "open to all") == ()


def test_a_view_with_two_policies_is_noticed() -> None:
    @policy(SIGNED_IN)
    @policy(ANYONE)
    def twice() -> str:
        return ""

    assert len(policies_of(twice)) == 2


def test_every_address_is_known_to_these_tests(app: Flask) -> None:
    known = ANYBODYS | OF_THE_CALLER | OF_A_VISITOR | OF_THE_OPERATOR | OF_ONE_OWNER
    known |= OF_A_SENDER | OF_A_LINK | OF_AN_APP
    assert {rule.endpoint for rule in rules_of(app)} == known


def test_only_the_open_pages_are_open_to_anyone(app: Flask) -> None:
    assert {
        rule.endpoint for rule in rules_of(app) if policies_of(app.view_functions[rule.endpoint]) == (ANYONE,)
    } == ANYBODYS


# -- strangers ------------------------------------------------------------------------------------
@pytest.fixture
def things(portal: Portal, patient: SignedIn) -> dict[str, str]:
    """The ids of what belongs to the patient, by the name that addresses give them."""
    account_id = patient.account.id
    # Somebody else's passkey: with one of her own the patient could not sign in here by her password alone.
    other, _ = accounts.register(portal, CAREGIVER.email, CAREGIVER.name, CAREGIVER.password)
    study_id = put_study(portal, account_id)
    return {
        "study_id": study_id, "kind": "study", "thing_id": study_id, "gid": study_id,
        "item_id": put_in(portal, account_id, b"a letter", "letter.txt").id,
        "vm_session_id": put_vm_session(portal, account_id), "login_session_id": patient.login.login_session.id,
        "study_uid": "1.2.3", "series_uid": "1.2.3", "instance_uid": "1.2.3", "numbers": "1", "tag": "7FE00010",
        "app_key_id": put_app_key(patient, portal), "drop_off_id": put_drop_off(patient, portal),
        "fetch_id": put_fetch(patient, portal), "server_id": study_id, "pacs_id": study_id,
        "link_id": (link_id := put_pacs_link(patient, portal)),
        "pacs_fetch_id": put_pacs_fetch(patient, portal, link_id),
        "question": questions.seal(patient.login.ring(), account_id, Question("knee")),
        "share_id": "6a1b0000-0000-4000-8000-000000000000", **put_authority(portal, account_id),
        "passkey_id": put_passkey(portal, other.id),
        "export_id": put_export(portal, account_id), "deletion_id": put_deletion(patient, portal),
    }  # fmt: skip


def _address(app: Flask, rule: UrlRule, things: dict[str, str]) -> str:
    with app.test_request_context():
        return app.url_for(rule.endpoint, **{name: things[name] for name in rule.arguments})  # type: ignore[arg-type]


def _call_all(
    app: Flask, client: PageClient, endpoints: set[str], things: dict[str, str]
) -> dict[str, tuple[int, str]]:
    answers = {}
    token = client.token()
    for rule in rules_of(app):
        for method in methods_of(rule) if rule.endpoint in endpoints else ():
            answer = client.request(method, _address(app, rule, things), headers={"X-CSRF-Token": token})
            answers[f"{method} {rule.endpoint}"] = (answer.status_code, answer.headers.get("Location", ""))
    return answers


def test_a_stranger_gets_404_for_everything_of_somebody_else(
    app: Flask, nils: PageClient, things: dict[str, str]
) -> None:
    answers = _call_all(app, nils, OF_ONE_OWNER, things)
    assert len(answers) >= len(OF_ONE_OWNER)
    assert {name: status for name, (status, _) in answers.items() if status != 404} == {}


def test_the_owner_gets_what_the_stranger_does_not(app: Flask, browser: PageClient, things: dict[str, str]) -> None:
    """Shows that the 404s above are about who asks, not about the address."""
    vera = sign_in(browser, PATIENT)
    reading = {"study.study", "study.item", "study.download", "machine.machine", "machine.ticket", "machine.here",
               "authorities.members", "find.found", "find.reading"}  # fmt: skip
    answers = _call_all(app, vera, reading, things)
    assert {name: status for name, (status, _) in answers.items() if status not in (200, 204)} == {}


def test_nobody_is_sent_to_sign_in_from_every_page_that_needs_it(
    app: Flask, browser: PageClient, things: dict[str, str]
) -> None:
    answers = _call_all(app, browser, OF_ONE_OWNER | OF_THE_CALLER | OF_THE_OPERATOR, things)
    refused = {
        name: answer for name, answer in answers.items() if not (answer[0] == 303 and answer[1].startswith("/sign-in"))
    }
    assert refused == {"POST machine.ticket": (401, "")}  # the screen's script wants JSON, not a page


def test_without_a_visit_every_page_of_a_visitor_is_a_closed_link(
    app: Flask, nils: PageClient, things: dict[str, str]
) -> None:
    answers = _call_all(app, nils, OF_A_VISITOR, things)
    assert {status for status, _ in answers.values()} == {410}


def test_without_its_link_nobody_sees_the_page_of_a_drop_off_not_even_the_owner(
    app: Flask, nils: PageClient, browser: PageClient, things: dict[str, str]
) -> None:
    for client in (nils, sign_in(browser, PATIENT)):
        answers = _call_all(app, client, OF_A_LINK, things)
        assert {status for status, _ in answers.values()} == {404} and len(answers) == len(OF_A_LINK)


def test_without_a_token_nobody_sends_not_even_the_owner(
    app: Flask, nils: PageClient, browser: PageClient, things: dict[str, str]
) -> None:
    for client in (nils, sign_in(browser, PATIENT)):
        answers = _call_all(app, client, OF_A_SENDER | OF_AN_APP, things)
        assert {status for status, _ in answers.values()} == {401} and len(answers) == len(OF_A_SENDER | OF_AN_APP)


def test_the_operators_pages_are_not_there_for_others(app: Flask, nils: PageClient, things: dict[str, str]) -> None:
    answers = _call_all(app, nils, OF_THE_OPERATOR, things)
    assert len(answers) == len(OF_THE_OPERATOR)
    assert {status for status, _ in answers.values()} == {404}


def test_the_operator_sees_the_operator_page(oda: PageClient) -> None:
    assert oda.get("/operator").status_code == 200


def test_the_operator_gets_404_for_a_record(app: Flask, oda: PageClient, things: dict[str, str]) -> None:
    answers = _call_all(app, oda, OF_ONE_OWNER, things)
    assert {status for status, _ in answers.values()} == {404}


# -- wrong methods --------------------------------------------------------------------------------
def test_every_wrong_method_is_refused_with_a_page(
    app: Flask, browser_of: Callable[[Person], PageClient], things: dict[str, str]
) -> None:
    client = browser_of(STRANGER)
    token = client.token()
    allowed: dict[str, set[str]] = {}
    for rule in rules_of(app):
        allowed.setdefault(_address_shape(rule), set()).update(methods_of(rule))
    tried = 0
    for rule in rules_of(app):
        address = _address(app, rule, things) if rule.endpoint != "files.static_file" else "/static/app.css"
        for method in METHODS - allowed[_address_shape(rule)]:
            answer = client.request(method, address, headers={"X-CSRF-Token": token})
            assert answer.status_code == 405, (method, rule.endpoint, answer.status_code)
            assert answer.headers["Allow"]
            tried += 1
    assert tried > 100


def _address_shape(rule: UrlRule) -> str:
    return rule.rule
