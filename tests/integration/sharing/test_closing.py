"""Closing an account, with a real keyholder: nothing that is left opens, names or lets in; others stay as they were."""

import contextlib
import datetime as dt
import email
import email.policy
import json
import shutil
from pathlib import Path

import pyotp
import pytest
from sqlalchemy import MetaData
from sqlmodel import select

from jobs import sweep as round_of
from myphr.audit import trail
from myphr.cli import main
from myphr.database import now
from myphr.errors import (
    AccessWithheld,
    AccountNeeded,
    AppKeyClosed,
    CertificateRefused,
    ContainerError,
    DropOffClosed,
    EnvelopeError,
    IdentityRevoked,
    KeyholderUnavailable,
    NotFound,
    PasswordRefused,
    PortalError,
    SecondStepRefused,
    ShareClosed,
    SignInFailed,
)
from myphr.ingest import drop_offs, identify
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.pacs import expectations
from myphr.ingest.pacs.models import PacsFetch, PacsLink
from myphr.ingest.pacs.plan import Patient
from myphr.machines import left_over
from myphr.machines.models import VmSession
from myphr.people import accounts, identities, second_factor
from myphr.people.keyholder import Keyholder
from myphr.people.models import Account, Certificate, PendingSignIn, Totp
from myphr.records import deletions, export_orders, exports, search
from myphr.records.models import Deletion, Export, Item, ItemPreview, ItemReading, Upload
from myphr.records.opening import dek_context, open_item
from myphr.records.reading import FullReading, Reading
from myphr.records.search_index import Question
from myphr.records.store import open_store
from myphr.sharing import (
    app_keys,
    closing,
    delegations,
    drop_off_links,
    kinds,
    live,
    mails,
    record_shares,
    shared_with_me,
    shares,
)
from myphr.sharing.closing_models import AccountClosing
from myphr.sharing.kinds import Filter
from myphr.sharing.models import Mail, Share
from myphr.sharing.record_models import Compartment, CompartmentReader, DelegationKey
from myphr.sharing.record_shares import Audience, Scope
from myphr.viewers.models import ViewerMemory
from tests.cast import CAREGIVER, PATIENT, SignedIn, new_portal
from tests.integration.sharing.conftest import Clinic, gid_of
from tests.web.stage import dicom_bytes, put_in, put_pacs_fetch, put_pacs_link, put_passkey, put_reading, put_vm_session

EVERYTHING = Scope("everything", "all")
CONTENT = b"Dear patient, the letter that has to go " * 3000
PRACTICE_ADDRESS = "scans@radiology.example"


def close(clinic: Clinic) -> str:
    return closing.close(clinic.portal, clinic.patient.login)


def settle(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the sweep does, later."""
    monkeypatch.setattr(closing, "SETTLED_AFTER", dt.timedelta(0))
    round_of.run(clinic.portal)


def blobs_of(portal) -> dict[tuple[str, str], list[tuple[dict, bytes]]]:
    """(table, column): [(its row, the bytes)], of every column of every table."""
    found: dict[tuple[str, str], list[tuple[dict, bytes]]] = {}
    metadata = MetaData()
    metadata.reflect(portal.database.engine)
    with portal.database.engine.connect() as connection:
        for table in metadata.tables.values():
            for row in connection.execute(table.select()).mappings():
                for name, value in row.items():
                    if isinstance(value, bytes | bytearray | memoryview) and len(bytes(value)) >= 32:
                        found.setdefault((table.name, name), []).append((dict(row), bytes(value)))
    return found


def full_record(clinic: Clinic) -> dict[str, str]:
    """Something in every corner that an account has; ids and secrets by name."""
    portal, patient = clinic.portal, clinic.patient
    account_id, login = patient.account.id, patient.login
    letter = put_in(portal, account_id, CONTENT, "Letter of Dr Berger.txt")
    image = put_in(portal, account_id, dicom_bytes("1.2.3.4"), "one.dcm")
    gone = put_in(portal, account_id, b"deleted before", "old.txt")
    put_in(portal, account_id, CONTENT, "again.txt")  # a repeat
    deletions.delete_item(portal, login, gone.id, closing.FORGET)
    put_reading(portal, patient, letter.id, FullReading(Reading(title="Letter", text="words"), b"picture", "<p>x</p>"))
    portal.search.find(login.ring(), account_id, Question("words"), 10)
    search.bring_up_to_date(portal, login.ring(), account_id)
    export_id = exports.ask(portal, login)
    exports.run(portal, export_id, identify.pronom_of)
    made = drop_off_links.invite(portal, login, "Radiology at the Harbour", PRACTICE_ADDRESS, "", 3600, 10).created
    key = app_keys.create(portal, login, "My viewer", 3600, None)
    vm_session_id = put_vm_session(portal, account_id, secret_for_worker=b"s" * 40, sealed_manifest=b"m" * 40,
                                   ends_at=now() + dt.timedelta(hours=1))  # fmt: skip
    link, _, _ = shares.create(portal, login, vm_session_id, CAREGIVER.email, "view", 3600)
    share_id = record_shares.share(portal, login, EVERYTHING, Audience("named", gids=(gid_of(clinic.caregiver),)))
    by_kind = delegations.delegate(portal, login, gid_of(clinic.nurse), Filter())
    put_passkey(portal, account_id)
    fetch_id = put_pacs_fetch(patient, portal, put_pacs_link(patient, portal), "listed", sealed_for_worker=b"w" * 40)
    with portal.database.write() as db:
        expected = expectations.Wanted(Patient("4711", "", "19780412"), "1.2.3", ["1.2.4", "1.2.5", "1.2.6"], 3, 1, 600)
        fetch = db.get(PacsFetch, fetch_id)
        pacs_id = db.get(PacsLink, fetch.link_id).pacs_id
        expectations.open_for(portal, db, fetch, pacs_id, expected)
        db.add(FhirFetch(account_id=account_id, state="running", state_sha256="x", sealed_for_owner=b"o" * 40,
                         sealed_for_worker=b"w" * 40, sealed_notes=b"n" * 40))  # fmt: skip
        db.add(ViewerMemory(account_id=account_id, sealed=b"v" * 40))
        db.add(Totp(account_id=account_id, sealed_secret=b"t" * 40))
        db.add(PendingSignIn(account_id=account_id, token_sha256="p", sealed_ring=b"r" * 40, ring_changed_at=now(),
                             challenge=b"c" * 32, expires_at=now()))  # fmt: skip
        db.add(Upload(account_id=account_id, token_sha256="u", wrapped_dek=b"d" * 40, sealed_metadata=b"n" * 40,
                      total_bytes=9, expires_at=now() + dt.timedelta(hours=1)))  # fmt: skip
    return {
        "letter": letter.id, "image": image.id, "export": export_id, "drop_off": made.drop_off_id, "token": made.token,
        "app_key": key.token, "vm_session": vm_session_id, "link": link.id, "share": share_id, "by_kind": by_kind,
    }  # fmt: skip


@pytest.fixture
def corners(clinic: Clinic) -> dict[str, str]:
    return full_record(clinic)


# -- the keys are gone ----------------------------------------------------------------------------
OTHERS_TOO = {"key_ring", "login_session", "identity", "certificate", "key_statement"}


def test_no_sealed_byte_of_hers_is_left_in_any_table(clinic: Clinic, corners: dict[str, str], monkeypatch) -> None:
    mine = (clinic.patient.account.id, gid_of(clinic.patient))
    before = blobs_of(clinic.portal)
    assert {
        "item.sealed_dek", "item.sealed_details", "study.sealed_summary", "key_ring.wrapped_by_password",
        "key_ring.wrapped_by_recovery", "login_session.sealed_ring", "pending_sign_in.sealed_ring",
        "identity.wrapped_keys", "totp.sealed_secret", "passkey.credential_id", "item_reading.sealed_reading",
        "item_repeat.sealed_note", "record_index.wrapped_dek", "export.sealed_key", "upload.wrapped_dek",
        "drop_off.sealed_name", "drop_off.sealed_address", "drop_off.wrapped_page", "app_key.sealed_name",
        "app_key.sealed_key", "app_key_study.wrapped_deks",
        "fhir_fetch.sealed_for_worker", "pacs_link.sealed_for_owner",
        "pacs_expectation.announced", "pacs_fetch.sealed_for_worker", "pacs_fetch.sealed_list",
        "deletion.sealed_note", "viewer_memory.sealed",
        "vm_session.sealed_manifest", "compartment.wrapped_plan", "compartment_key.wrapped_ck", "item_wrap.wrapped_dek",
        "compartment_reader.sealed", "delegation.wrapped_plan", "delegation_key.sealed", "label_class.wrapped_labels",
        "label_class_key.wrapped_ck", "mail.sealed_values", "item_reading.dek_for_worker",
    } <= {".".join(place) for place in before}  # fmt: skip
    close(clinic)
    settle(clinic, monkeypatch)
    left = {
        ".".join(place)
        for place, rows in blobs_of(clinic.portal).items()
        for row, _ in rows
        if place[0] not in OTHERS_TOO or row.get("account_id") in mine or row.get("gid") in mine
    }
    assert left - {"authority_seen.epochs"} <= {"mail.sealed_values"}
    with clinic.portal.database.read() as db:
        [waiting] = db.exec(select(Mail).where(Mail.sealed_values.is_not(None))).all()
    assert waiting.template == "account-closed"  # to the worker, until it is sent


def test_a_copy_of_the_old_bytes_opens_with_nothing_that_is_left(
    clinic: Clinic, corners: dict[str, str], tmp_path: Path
) -> None:
    portal, ring = clinic.portal, clinic.patient.login.ring()
    with portal.database.read() as db:
        letter = db.get(Item, corners["letter"])
    portal.database.dispose()
    shutil.copytree(portal.settings.home, tmp_path / "before", ignore=shutil.ignore_patterns("*.sock"))
    before = new_portal(tmp_path / "before", portal.settings.redis_url)
    old_bytes = open_store(f"file://{tmp_path}/before/store")

    def opens(where) -> bool:
        for rows in blobs_of(where).values():
            for _, secret in rows:
                with contextlib.suppress(EnvelopeError, ContainerError):
                    dek = ring.open(secret, context=dek_context(letter.id))
                    with contextlib.closing(open_item(old_bytes, letter, dek)) as opened:
                        return opened.read_at(0, 100) == CONTENT[:100]
        return False

    assert opens(before)  # the control: a copy of before opens
    before.database.dispose()
    close(clinic)
    assert not opens(portal)
    assert not portal.store.exists(letter.object_key)


def test_neither_name_nor_address_nor_old_key_stands_in_the_databases_files(
    clinic: Clinic, corners: dict[str, str], monkeypatch
) -> None:
    portal = clinic.portal
    with portal.database.read() as db:
        old_key = bytes(db.get(Item, corners["letter"]).sealed_dek)[100:160]

    def stored() -> bytes:
        return b"".join(path.read_bytes() for path in (portal.settings.home / "db").iterdir())

    needles = [PATIENT.email.encode(), PATIENT.name.encode(), PRACTICE_ADDRESS.encode(), old_key]
    assert all(needle in stored() for needle in needles)  # the search finds what is there
    close(clinic)
    settle(clinic, monkeypatch)
    assert [needle for needle in needles if needle in stored()] == []


def test_every_table_with_something_sealed_is_known_to_these_tests(clinic: Clinic) -> None:
    """A new one: does closing an account empty it? Then here."""
    metadata = MetaData()
    metadata.reflect(clinic.portal.database.engine)
    sealed = {
        table.name for table in metadata.tables.values()
        if any(str(column.type) == "BLOB" for column in table.columns) or "account_id" in table.columns
    }  # fmt: skip
    assert sealed == {
        "account_closing", "app_key", "app_key_study", "archive_task", "audit_event", "authority_seen", "certificate",
        "compartment", "compartment_key", "compartment_reader", "delegation", "delegation_key", "deletion", "drop_off",
        "emergency_opening", "export", "fhir_fetch", "identity", "item", "item_identifier", "item_preview",
        "item_reading", "item_repeat", "item_wrap", "key_ring", "key_statement", "label_class", "label_class_key",
        "login_session", "mail", "pacs_expectation", "pacs_fetch", "pacs_link",
        "passkey", "pending_sign_in", "record_index", "rewrap_task", "share", "study", "totp",
        "upload", "viewer_answer", "viewer_memory", "vm_session",
    }  # fmt: skip


def test_the_bytes_of_everything_are_gone_from_the_store(clinic: Clinic, corners: dict[str, str], monkeypatch) -> None:
    assert list(clinic.portal.store.keys())
    close(clinic)
    settle(clinic, monkeypatch)
    assert list(clinic.portal.store.keys()) == []


# -- ways in --------------------------------------------------------------------------------------
def test_signing_in_says_what_a_wrong_password_says(clinic: Clinic) -> None:
    close(clinic)
    for password in (PATIENT.password, "something else entirely"):
        with pytest.raises(SignInFailed) as refused:
            accounts.sign_in(clinic.portal, PATIENT.email, password, "Firefox")
        assert str(refused.value.message) == str(SignInFailed().message)
    assert accounts.resolve(clinic.portal.database, clinic.patient.cookie_value) is None
    with pytest.raises(PortalError):
        accounts.recover(clinic.portal, PATIENT.email, clinic.patient.recovery_code, "a quite new long password")


def test_the_address_may_be_used_again_for_an_empty_account(clinic: Clinic, corners: dict[str, str]) -> None:
    close(clinic)
    account, _ = accounts.register(clinic.portal, PATIENT.email, PATIENT.name, PATIENT.password)
    assert account.id != clinic.patient.account.id
    with clinic.portal.database.read() as db:
        assert db.exec(select(Item).where(Item.account_id == account.id)).all() == []


def test_who_holds_a_link_or_token_or_key_is_dropped_at_once(clinic: Clinic, corners: dict[str, str]) -> None:
    portal = clinic.portal
    assert shared_with_me.open_shared(portal, clinic.caregiver.login, corners["share"]).items  # open until now
    assert shared_with_me.open_shared(portal, clinic.nurse.login, corners["by_kind"]).items
    drop_offs.by_token(portal, corners["token"])
    app_keys.by_token(portal, corners["app_key"])
    news = portal.redis.pubsub(ignore_subscribe_messages=True)
    news.subscribe(live.REVOKED_CHANNEL)
    news.get_message(timeout=1)
    close(clinic)
    told = set()
    while message := news.get_message(timeout=0.2):
        told.add(message["data"].decode())
    assert f"share:{corners['link']}" in told and f"owner:{clinic.patient.login.login_session.id}" in told
    assert f"vm:{corners['vm_session']}" in told
    for who, share_id in ((clinic.caregiver, corners["share"]), (clinic.nurse, corners["by_kind"])):
        assert shared_with_me.list_shared(portal, who.login) == []
        with pytest.raises(NotFound):
            shared_with_me.open_shared(portal, who.login, share_id)
    with pytest.raises(DropOffClosed):
        drop_offs.by_token(portal, corners["token"])
    with pytest.raises(AppKeyClosed):
        app_keys.by_token(portal, corners["app_key"])
    with pytest.raises((ShareClosed, NotFound)):
        live.right(portal.database, vm_session_id=corners["vm_session"], grant=f"share:{corners['link']}", visit=None,
                   now=now())  # fmt: skip
    with portal.database.read() as db:
        assert db.get(Share, corners["link"]).email == ""
        session = db.get(VmSession, corners["vm_session"])
        assert session.state == "ending" and session.sealed_manifest is None
    with pytest.raises(NotFound):
        clinic.add_item("late.txt", b"too late")


def test_the_keyholder_knows_it_too(clinic: Clinic, corners: dict[str, str]) -> None:
    portal, gid = clinic.portal, gid_of(clinic.patient)
    clinic.grant(clinic.patient, "role", "volunteer")
    speaker = identities.proof_for(clinic.patient.login, portal)
    reader = identities.proof_for(clinic.caregiver.login, portal)
    assert portal.keyholder.vault_release(reader, corners["share"], 0)
    close(clinic)
    assert portal.keyholder.identities_revoked([gid]) == {gid}
    with pytest.raises((NotFound, AccessWithheld)):
        portal.keyholder.vault_release(reader, corners["share"], 0)
    with pytest.raises((IdentityRevoked, CertificateRefused)):
        portal.keyholder.vault_destroy(speaker, corners["share"])
    officer = identities.proof_for(clinic.practice.login, portal)
    members = portal.keyholder.attribute_members(officer, clinic.hospital.gid)
    assert gid not in {one.member for one in members}
    with portal.database.read() as db:
        assert db.exec(select(Certificate).where(Certificate.gid == gid)).all() == []


def test_the_halves_are_destroyed_and_not_only_withheld(clinic: Clinic, corners: dict[str, str], monkeypatch) -> None:
    """By name and by kind: what an operator could undo, or a backup of the keyholder, must not bring them back."""
    portal = clinic.portal
    vaults = [(clinic.caregiver, corners["share"]), (clinic.nurse, vault_of_kind(clinic))]
    for who, vault in vaults:
        assert portal.keyholder.vault_release(identities.proof_for(who.login, portal), vault, 0)
    with monkeypatch.context() as patch:
        patch.setattr(closing, "_tell_keyholder", lambda *_: False)
        close(clinic)
    assert portal.keyholder.identities_revoked([gid_of(clinic.patient)]) == set()
    for who, vault in vaults:
        with pytest.raises((NotFound, AccessWithheld)):
            portal.keyholder.vault_release(identities.proof_for(who.login, portal), vault, 0)


def vault_of_kind(clinic: Clinic) -> str:
    with clinic.portal.database.read() as db:
        group = db.exec(select(Compartment.id).where(Compartment.kind == "labels")).one()
    return kinds.vault_id(identities.keys_of(clinic.patient.login).labels, group, 0)


def test_what_others_shared_with_her_is_given_back_and_they_go_on(clinic: Clinic) -> None:
    portal, mine = clinic.portal, gid_of(clinic.patient)
    put_in(portal, clinic.caregiver.account.id, CONTENT, "hers.txt")
    both = Audience("named", gids=(mine, gid_of(clinic.nurse)))
    share_id = record_shares.share(portal, clinic.caregiver.login, EVERYTHING, both)
    delegations.delegate(portal, clinic.caregiver.login, mine, Filter())
    close(clinic)
    with portal.database.read() as db:
        assert db.exec(select(CompartmentReader).where(CompartmentReader.gid == mine)).all() == []
        assert db.exec(select(DelegationKey)).all() == []
        assert db.get(Compartment, share_id).stale
    record_shares.catch_up(portal, clinic.caregiver.login)
    delegations.catch_up(portal, clinic.caregiver.login)
    assert [person.gid for person in record_shares.one(portal, clinic.caregiver.login, share_id).people] == [
        gid_of(clinic.nurse)
    ]
    assert delegations.list_mine(portal, clinic.caregiver.login) == []
    assert len(shared_with_me.open_shared(portal, clinic.nurse.login, share_id).items) == 1


def test_the_records_of_others_stay_as_they_were(clinic: Clinic, corners: dict[str, str], monkeypatch) -> None:
    item = put_in(clinic.portal, clinic.stranger.account.id, CONTENT, "stays.txt")
    close(clinic)
    settle(clinic, monkeypatch)
    dek = clinic.stranger.login.ring().open_dek(item)
    with contextlib.closing(open_item(clinic.portal.store, item, dek)) as opened:
        assert opened.read_at(0, len(CONTENT)) == CONTENT
    accounts.sign_in(clinic.portal, clinic.stranger.person.email, clinic.stranger.person.password, "Firefox")


# -- asked twice ----------------------------------------------------------------------------------
def test_password_and_second_step_are_asked_for(clinic: Clinic) -> None:
    portal, login = clinic.portal, clinic.patient.login
    with pytest.raises(PasswordRefused):
        accounts.check_owner(portal, login, "not my password at all")
    accounts.check_owner(portal, login, PATIENT.password)
    second_factor.begin_app(portal, login)
    secret = second_factor.app_setup(portal, login).secret
    second_factor.confirm_app(portal, login, pyotp.TOTP(secret).at(now() - dt.timedelta(seconds=30)))
    for wrong in ({}, {"code": "000000"}, {"credential": "{}"}):
        with pytest.raises(SecondStepRefused):
            accounts.check_owner(portal, login, PATIENT.password, **wrong)
    accounts.check_owner(portal, login, PATIENT.password, code=pyotp.TOTP(secret).now())
    with pytest.raises(PortalError):
        accounts.check_owner(portal, login, PATIENT.password, recovery_code=clinic.caregiver.recovery_code)
    accounts.check_owner(portal, login, PATIENT.password, recovery_code=clinic.patient.recovery_code)


def test_who_looks_after_an_organisation_or_the_portal_alone_is_told_what_to_do_first(clinic: Clinic) -> None:
    with pytest.raises(AccountNeeded) as needed:
        closing.close(clinic.portal, clinic.practice.login)
    assert "St Mary's" in needed.value.message and "operator" in needed.value.message
    with pytest.raises(AccountNeeded) as needed:
        closing.close(clinic.portal, clinic.operator.login)
    assert "only one who runs this portal" in needed.value.message
    with clinic.portal.database.read() as db:
        assert db.exec(select(AccountClosing)).all() == []
    accounts.sign_in(clinic.portal, clinic.practice.person.email, clinic.practice.person.password, "Firefox")


def test_it_can_be_closed_once_only(clinic: Clinic) -> None:
    close(clinic)
    with pytest.raises(PortalError):
        close(clinic)
    with clinic.portal.database.read() as db:
        assert len(db.exec(select(Deletion).where(Deletion.what == "account")).all()) == 1


# -- the proof ------------------------------------------------------------------------------------
def test_the_proof_is_mailed_covers_all_files_and_fits_the_trail(
    clinic: Clinic, corners: dict[str, str], monkeypatch, tmp_path: Path, capsys
) -> None:
    portal = clinic.portal
    close(clinic)
    with portal.database.read() as db:
        [mail] = db.exec(select(Mail).where(Mail.template == "account-closed")).all()
    assert mail.recipient == "" and PATIENT.email.encode() not in mail.sealed_values
    mails.send(portal, mail.id)
    [sent] = (portal.settings.home / "outbox").iterdir()
    message = email.message_from_bytes(sent.read_bytes(), policy=email.policy.default)
    assert message["To"] == PATIENT.email and message["Subject"] == "Your account is closed"
    words = message.get_body(("plain",)).get_content()
    assert "2 files" in words and PATIENT.name not in words and "Berger" not in sent.read_text()
    [attached] = message.iter_attachments()
    proof = json.loads(attached.get_content())
    assert {one["item"] for one in proof["note"]["files"]} == {corners["letter"], corners["image"]}
    assert [one["event"] for one in proof["events"]] == ["keys-destroyed", "bytes-removed"]
    assert deletions.check_in(portal.database, proof) == 2 and trail.verify(portal.database) > 0
    assert proof["facts"]["destroyed"]["key_ring"] == 1 and proof["facts"]["destroyed"]["shares"] == 2
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof))
    monkeypatch.setenv("MYPHR_HOME", str(portal.settings.home))
    assert main(["audit", "verify", "--certificate", str(file)]) == 0
    file.write_text(json.dumps(proof).replace(corners["letter"], corners["image"]))
    assert main(["audit", "verify", "--certificate", str(file)]) != 0
    with portal.database.read() as db:
        assert db.get(Mail, mail.id).sealed_values is None  # the address went with them
    events = [one.event for one in trail.for_account(portal.database, clinic.patient.account.id)]
    assert "account-closed" in events and "account-registered" in events  # the chain keeps her rows, without a name


def test_no_mail_goes_before_the_bytes_are_gone(clinic: Clinic, corners: dict[str, str], monkeypatch) -> None:
    portal = clinic.portal
    monkeypatch.setattr(portal.store, "delete", lambda key: None)
    close(clinic)
    with portal.database.read() as db:
        [mail] = db.exec(select(Mail).where(Mail.template == "account-closed")).all()
    mails.send(portal, mail.id)
    assert not (portal.settings.home / "outbox").exists()
    monkeypatch.undo()
    round_of.run(portal)
    mails.send(portal, mail.id)
    assert len(list((portal.settings.home / "outbox").iterdir())) == 1


# -- faults ---------------------------------------------------------------------------------------
class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill -9."""


@pytest.mark.parametrize("where", ["carry_on", "_end_machines", "_tell_keyholder"])
def test_killed_after_the_commit_the_sweep_ends_it(
    clinic: Clinic, corners: dict[str, str], monkeypatch, where: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(closing, where, lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            close(clinic)
    with clinic.portal.database.read() as db:
        assert db.get(Item, corners["letter"]).sealed_dek == b""
        assert db.get(Account, clinic.patient.account.id).name == ""
        [mail] = db.exec(select(Mail).where(Mail.template == "account-closed")).all()
    settle(clinic, monkeypatch)
    mails.send(clinic.portal, mail.id)
    assert list(clinic.portal.store.keys()) == []
    assert clinic.portal.keyholder.identities_revoked([gid_of(clinic.patient)])
    assert len(list((clinic.portal.settings.home / "outbox").iterdir())) == 1


def test_killed_before_the_commit_nothing_is_lost_and_it_can_be_done_again(
    clinic: Clinic, corners: dict[str, str], monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(closing, "_destroy", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            close(clinic)
    with clinic.portal.database.read() as db:
        item = db.get(Item, corners["letter"])
    assert clinic.patient.login.ring().open_dek(item)
    assert accounts.resolve(clinic.portal.database, clinic.patient.cookie_value)
    close(clinic)


def test_it_settles_only_when_machines_are_gone_and_takes_their_left_over_results(
    clinic: Clinic, corners: dict[str, str], monkeypatch
) -> None:
    portal = clinic.portal
    spool = left_over.spool_of(portal) / corners["vm_session"]
    spool.mkdir(parents=True)
    (spool / left_over.OWNER_KEY).write_bytes(b"sealed")
    close(clinic)
    settle(clinic, monkeypatch)

    def state() -> str:
        with portal.database.read() as db:
            return db.exec(select(AccountClosing.state)).one()

    assert state() == "keyless" and spool.exists()
    with portal.database.write() as db:
        db.get(VmSession, corners["vm_session"]).state = "ended"
    settle(clinic, monkeypatch)
    assert not spool.exists()
    assert state() == "settled"


def test_what_a_request_on_its_way_put_back_is_destroyed_too(clinic: Clinic, corners: dict[str, str]) -> None:
    portal, account_id = clinic.portal, clinic.patient.account.id
    close(clinic)
    with portal.database.write() as db:
        db.add(ItemReading(item_id=corners["letter"], account_id=account_id, dek_for_worker=b"k" * 40))
        db.add(ItemPreview(item_id=corners["letter"], account_id=account_id, sealed_preview=b"p" * 40))
    round_of.run(portal)
    with portal.database.read() as db:
        assert db.exec(select(ItemReading)).all() == [] and db.exec(select(ItemPreview)).all() == []


def test_with_the_keyholder_away_nothing_is_half_closed(clinic: Clinic, corners: dict[str, str]) -> None:
    portal = clinic.portal
    away = portal.__dict__["keyholder"]
    portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/keyholder.sock")
    with pytest.raises(KeyholderUnavailable):
        close(clinic)
    with portal.database.read() as db:
        item = db.get(Item, corners["letter"])
    assert clinic.patient.login.ring().open_dek(item)
    closing.close(portal, clinic.stranger.login)  # who shares nothing need not wait
    with portal.database.read() as db:
        assert db.get(Account, clinic.stranger.account.id).name == ""
    portal.__dict__["keyholder"] = away
    assert closing.sweep(portal) == 1
    with portal.database.read() as db:
        assert db.exec(select(Certificate).where(Certificate.gid == gid_of_closed(db, clinic.stranger))).all() == []


def gid_of_closed(db, who: SignedIn) -> str:
    found = identities.of_account(db, who.account.id)
    assert found is not None
    return found.gid


@pytest.mark.parametrize("early", [True, False])
def test_a_copy_ordered_in_that_very_moment_is_not_made(clinic: Clinic, monkeypatch, early: bool) -> None:
    """Its order holds the keys of all files."""
    clinic.add_item()
    login, count, step = clinic.patient.login, export_orders.totals, export_orders.step
    ring = login.ring()
    monkeypatch.setattr(type(login), "ring", lambda _: ring)  # as in a request that began before

    def closed_meanwhile(work):
        def worked(*arguments):
            found = work(*arguments)
            close(clinic)
            return found

        return worked

    with monkeypatch.context() as patch:
        patch.setattr(export_orders, "totals" if early else "step", closed_meanwhile(count if early else step))
        if early:
            with pytest.raises(NotFound):
                exports.ask(clinic.portal, login)
        else:
            exports.ask(clinic.portal, login)
    assert list(clinic.portal.store.keys()) == []
    with clinic.portal.database.read() as db:
        assert [(row.state, row.sealed_key, row.key_for_worker) for row in db.exec(select(Export))] == [
            ("removed", b"", None)
        ] * (not early)
