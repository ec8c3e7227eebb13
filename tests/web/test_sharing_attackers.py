"""What attackers get from the pages who know every id: a stranger, and a cardiologist who was removed while signed in.

Every address with an id in it, every id in every place; real keyholder. Told in docs/security.md.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlmodel import select
from werkzeug.test import TestResponse

from myphr.records.models import Item
from myphr.sharing import record_shares
from myphr.sharing.record_models import Compartment, CompartmentKey, CompartmentReader, ItemWrap
from myphr.sharing.record_shares import Scope
from tests.cast import SignedIn
from tests.integration.sharing.conftest import Clinic, clinic, gid_of
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of

__all__ = ["clinic"]
METHODS = frozenset({"GET", "POST", "PATCH", "DELETE"})
CONTENT, NAME = b"Dear Vera, the heart\n", "heart-of-vera.txt"


@pytest.fixture
def enter_page(app: Flask) -> Callable[[SignedIn], PageClient]:
    return lambda who: sign_in(PageClient(app), who.person)


@pytest.fixture
def shared(clinic: Clinic) -> str:
    """The id of the share: one file with everything, the caregiver and the nurse being cardiologists."""
    clinic.add_item(NAME, CONTENT)
    for who in (clinic.caregiver, clinic.nurse):
        clinic.grant(who, "role", "cardiologist")
    return record_shares.share(clinic.portal, clinic.patient.login, Scope("everything", "all"), clinic.cardiologists)


def all_ids(clinic: Clinic, share_id: str) -> list[str]:
    with clinic.portal.database.read() as db:
        items = list(db.exec(select(Item.id)))
    patient = clinic.patient
    return [share_id, *items, patient.account.id, gid_of(patient), clinic.hospital.gid, patient.login.login_session.id]


def answers(
    app: Flask, client: PageClient, ids: list[str], methods: frozenset[str] = METHODS
) -> Iterator[tuple[str, TestResponse]]:
    """Every address with an id, asked for and posted to, with the same and with different ids in its places."""
    token = client.token()
    for rule in app.url_map.iter_rules():
        names = sorted(rule.arguments - {"kind", "filename", "name"})
        if not names or "filename" in rule.arguments:
            continue
        for chosen in itertools.product(ids, repeat=len(names)):
            values = dict(zip(names, chosen, strict=True))
            for kind in ("item", "study") if "kind" in rule.arguments else ("",):
                with app.test_request_context():
                    address = app.url_for(rule.endpoint, **values, **({"kind": kind} if kind else {}))  # type: ignore[arg-type]
                for method in sorted((rule.methods or set()) & methods):
                    form = {"csrf": token, "sure": "yes", "reason": "she fainted", "viewer": "simple-documents"}
                    answer = client.browser.open(address, method=method, data=None if method == "GET" else form,
                                                 headers={"X-CSRF-Token": token})  # fmt: skip
                    yield f"{method} {address}", answer


def kept(clinic: Clinic) -> list[object]:
    """The rows that an attacker would want to change."""
    with clinic.portal.database.read() as db:
        tables = (Item, Compartment, CompartmentKey, CompartmentReader, ItemWrap)
        return [row.model_dump() for table in tables for row in db.exec(select(table))]  # type: ignore[attr-defined]


def tells(answer: TestResponse) -> bool:
    return CONTENT.strip() in answer.data or NAME.encode() in answer.data


@pytest.mark.parametrize("who", ["stranger", "caregiver"])
def test_no_address_with_any_id_gives_a_stranger_or_a_removed_cardiologist_anything(
    app: Flask, clinic: Clinic, shared: str, enter_page: Callable[[SignedIn], PageClient], who: str
) -> None:
    attacker = enter_page(getattr(clinic, who))
    if who == "caregiver":  # opens it once, and is removed while still signed in
        assert NAME in text_of(attacker.get(f"/shared-with-me/{shared}"))
        record_shares.remove_person(clinic.portal, clinic.patient.login, shared, gid_of(clinic.caregiver))
    before, tried, surprises = kept(clinic), 0, []
    for name, answer in answers(app, attacker, all_ids(clinic, shared)):
        refused = {404, 409, 410, 412, 415}
        if name.split()[1].startswith("/dicom-web/"):  # a token is asked for, whatever id
            refused |= {401}
        if name.split()[1].startswith(("/s/", "/d/")):  # a mailed link's first page is there for whatever id
            refused |= {200, 303, 422}
        if answer.status_code not in refused or tells(answer) or clinic.patient.person.email.encode() in answer.data:
            surprises.append((name, answer.status_code))
        tried += 1
    assert surprises == []
    assert tried > 200 and kept(clinic) == before
    assert NAME not in attacker.get("/shared-with-me").text


def test_the_same_addresses_give_the_patient_the_file_and_the_colleague_who_stays_its_name(
    app: Flask, clinic: Clinic, shared: str, enter_page: Callable[[SignedIn], PageClient]
) -> None:
    """The control, reading only."""
    record_shares.remove_person(clinic.portal, clinic.patient.login, shared, gid_of(clinic.caregiver))
    ids = all_ids(clinic, shared)
    for who, least in ((clinic.patient, CONTENT.strip()), (clinic.nurse, NAME.encode())):
        client = enter_page(who)
        found = [answer.data for _, answer in answers(app, client, ids[:2], frozenset({"GET"})) if tells(answer)]
        assert any(least in data for data in found)
