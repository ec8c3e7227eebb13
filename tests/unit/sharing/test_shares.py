"""Shares: the link, the passcode, taking back, running out; and that nothing of it can be read from the rows."""

import dataclasses
import datetime as dt
import json
import re
import threading
import time

import pytest
from sqlmodel import select

from myphr.audit import trail
from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.errors import EnvelopeError, FormRefused, NotFound, PasscodeRefused, SessionOver, ShareClosed
from myphr.machines.models import Machine, VmSession
from myphr.sharing import live, mails, shares
from myphr.sharing.models import Mail, Share, ShareVisit

EMAIL = "tomas@family.example"


@pytest.fixture
def vm_session(portal, patient) -> VmSession:
    machine = Machine(vmid=100_000, node="pve", template="probe", state="claimed")
    found = VmSession(
        account_id=patient.account.id, viewer="probe", template="probe", state="live", machine_id=machine.id,
        live_at=now(), ends_at=now() + dt.timedelta(hours=4),
    )  # fmt: skip
    with portal.database.write() as db:
        db.add(machine)
        db.flush()
        db.add(found)
    return found


@pytest.fixture
def share(portal, patient, vm_session):
    """(share, secret, passcode)"""
    found, link, passcode = shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 1800)
    return found, link.partition("#")[2], passcode


def stored(portal, table, row_id):
    with portal.database.read() as db:
        return db.get(table, row_id)


def events(portal) -> list[str]:
    with portal.database.read() as db:
        return list(db.exec(select(trail.AuditEvent.event).order_by(trail.AuditEvent.number)).all())


def revoked(portal):
    listener = portal.redis.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(live.REVOKED_CHANNEL)
    deadline = time.monotonic() + 2
    while listener.get_message(timeout=0.1) is None and not listener.subscribed and time.monotonic() < deadline:
        pass

    def read() -> str | None:
        for _ in range(20):
            message = listener.get_message(timeout=0.1)
            if message:
                return message["data"].decode()
        return None

    return read


# -- giving
def test_the_links_secret_stands_in_the_fragment_only_and_nowhere_in_the_database(portal, patient, vm_session) -> None:
    share, link, passcode = shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 1800)
    before, _, secret = link.partition("#")
    assert before == f"{portal.settings.public_url}/s/{share.id}" and len(secret) == 43
    assert re.fullmatch(r"\d{6}", passcode)
    folder = portal.settings.home / "db"
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    assert share.id.encode() in everything
    assert secret.encode() not in everything
    row = stored(portal, Share, share.id)
    assert passcode not in (row.passcode_mac, row.secret_sha256)


def test_the_passcode_is_kept_under_the_portals_key_not_as_a_plain_hash(portal, patient, vm_session) -> None:
    import hashlib

    share, _, passcode = shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 1800)
    mac = stored(portal, Share, share.id).passcode_mac
    for guess in (passcode, share.id + passcode, passcode + share.id):
        assert hashlib.sha256(guess.encode()).hexdigest() != mac


def test_the_mail_is_on_the_queue_with_an_id_and_nothing_else(portal, share) -> None:
    [job] = portal.queue.rq.get_jobs()
    with portal.database.read() as db:
        [mail] = db.exec(select(Mail)).all()
    assert (job.func_name, job.args) == ("jobs.mail.send", [mail.id])
    assert share[1].encode() not in mail.sealed_values


def test_only_the_worker_opens_what_a_mail_says(portal, share) -> None:
    with portal.database.read() as db:
        [mail] = db.exec(select(Mail)).all()
    opened = envelope.open_with(
        portal.keys.worker.private, mail.sealed_values, context=envelope.context_for("mail", mail.id)
    )
    assert share[1].encode() in opened
    with pytest.raises(EnvelopeError):
        envelope.open_with(portal.keys.worker.private, mail.sealed_values, context=envelope.context_for("mail", "x"))


@pytest.mark.parametrize("email", [
    "", "a", "a@b", "a@b.example\nBcc: x@y.example", "a b@c.example", "a@b.example,c@d.example", "<a@b.example>",
    "a@-b.example", "a" * 65 + "@b.example", 'x"y@b.example',
])  # fmt: skip
def test_anything_but_one_plain_address_is_refused(portal, patient, vm_session, email) -> None:
    with pytest.raises(FormRefused):
        shares.create(portal, patient.login, vm_session.id, email, "view", 1800)


@pytest.mark.parametrize(
    ("access", "seconds"), [("write", 1800), ("", 1800), ("view", 59), ("view", 10**9), ("view", -1)]
)
def test_odd_access_or_time_is_refused(portal, patient, vm_session, access, seconds) -> None:
    with pytest.raises(FormRefused):
        shares.create(portal, patient.login, vm_session.id, EMAIL, access, seconds)


def test_a_stranger_cannot_share_list_withdraw_or_change(portal, stranger, vm_session, share) -> None:
    with pytest.raises(NotFound):
        shares.create(portal, stranger.login, vm_session.id, EMAIL, "view", 1800)
    with pytest.raises(NotFound):
        shares.list_for(portal, stranger.login, vm_session.id)
    with pytest.raises(NotFound):
        shares.withdraw(portal, stranger.login, share[0].id)
    with pytest.raises(NotFound):
        shares.change_access(portal, stranger.login, share[0].id, "control")
    assert stored(portal, Share, share[0].id).state == "offered"


def test_a_share_never_outlives_its_vm_session(portal, patient, vm_session) -> None:
    share, _, _ = shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 604_800)
    assert share.expires_at == vm_session.ends_at


@pytest.mark.parametrize(("seconds", "words"), [(900, "15 minutes"), (3600, "1 hour"), (7200, "2 hours")])
def test_the_mail_says_how_long_in_words_and_until_when_with_its_zone(
    portal, patient, vm_session, seconds, words
) -> None:
    share, _, _ = shares.create(portal, patient.login, vm_session.id, EMAIL, "view", seconds)
    with portal.database.read() as db:
        [mail] = db.exec(select(Mail)).all()
    context = envelope.context_for("mail", mail.id)
    told = json.loads(envelope.open_with(portal.keys.worker.private, mail.sealed_values, context=context))
    assert told["long"] == words
    assert told["expires_at"] == f"{share.expires_at.day} {share.expires_at:%B %Y, %H:%M} UTC"


def test_a_session_that_is_over_cannot_be_shared(portal, patient, vm_session) -> None:
    with portal.database.write() as db:
        row = db.get(VmSession, vm_session.id)
        row.state = "ended"
        db.add(row)
    with pytest.raises(SessionOver):
        shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 1800)


def test_one_session_has_a_bounded_number_of_open_shares(portal, patient, vm_session) -> None:
    for _ in range(shares.OPEN_SHARES_MAX):
        shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 1800)
    with pytest.raises(FormRefused):
        shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 1800)


# -- opening
def test_the_right_passcode_opens_again_and_again_inside_the_time(portal, share) -> None:
    found, secret, passcode = share
    cookies = {shares.open_link(portal, found.id, secret, passcode, "Safari on iPad") for _ in range(2)}
    assert len(cookies) == 2
    for cookie in cookies:
        seen, visit = shares.resolve_visit(portal, cookie)
        assert (seen.id, visit.device) == (found.id, "Safari on iPad")
    row = stored(portal, Share, found.id)
    assert row.state == "opened" and row.first_opened_at is not None
    assert live.right(portal.database, vm_session_id=found.vm_session_id, grant=f"share:{found.id}",
                      visit=cookie.partition(".")[0], now=now()).access == "view"  # fmt: skip


def test_looking_at_the_landing_page_changes_nothing(portal, share) -> None:
    before = stored(portal, Share, share[0].id).model_dump()
    assert shares.landing(portal, share[0].id) is True
    assert shares.landing(portal, new_id()) is True, "a share that never was looks like any other"
    assert stored(portal, Share, share[0].id).model_dump() == before


def test_a_share_without_passcode_opens_by_its_link_alone(portal, patient, vm_session) -> None:
    login = patient.login
    found, link, passcode = shares.create(portal, login, vm_session.id, EMAIL, "view", 1800, with_passcode=False)
    assert passcode is None and shares.landing(portal, found.id) is False
    assert shares.open_link(portal, found.id, link.partition("#")[2])


@pytest.mark.parametrize("secret", ["", "x", "A" * 43, "é" * 43])
def test_a_wrong_secret_is_not_found_and_costs_no_try(portal, share, secret) -> None:
    with pytest.raises(NotFound):
        shares.open_link(portal, share[0].id, secret, share[2])
    with pytest.raises(NotFound):
        shares.open_link(portal, new_id(), share[1], share[2])
    assert stored(portal, Share, share[0].id).attempts_left == shares.ATTEMPTS_MAX


def wrong(passcode: str) -> str:
    return f"{(int(passcode) + 1) % 10**6:06}"


def test_five_wrong_passcodes_lock_the_share_and_tell_the_patient(portal, share, patient) -> None:
    found, secret, passcode = share
    left = []
    read = revoked(portal)
    for _ in range(4):
        with pytest.raises(PasscodeRefused) as refused:
            shares.open_link(portal, found.id, secret, wrong(passcode))
        left.append(refused.value.facts["remaining_attempts"])
    with pytest.raises(ShareClosed):
        shares.open_link(portal, found.id, secret, wrong(passcode))
    assert left == [4, 3, 2, 1]
    assert stored(portal, Share, found.id).state == "locked"
    assert read() == f"share:{found.id}"
    with pytest.raises(ShareClosed):
        shares.open_link(portal, found.id, secret, passcode)
    with portal.database.read() as db:
        [mail] = db.exec(select(Mail).where(Mail.template == "share-locked")).all()
    assert mail.recipient == patient.account.email
    assert "share-locked" in events(portal)


def test_many_guesses_at_once_are_still_five(portal, share) -> None:
    found, secret, passcode = share
    outcomes: list[str] = []

    def guess(number: int) -> None:
        try:
            shares.open_link(portal, found.id, secret, f"{(int(passcode) + 1 + number) % 10**6:06}")
            outcomes.append("in")
        except PasscodeRefused:
            outcomes.append("refused")
        except ShareClosed:
            outcomes.append("closed")

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 4 and outcomes.count("closed") == 16


@pytest.mark.parametrize("typed", ["", "12345", "123456789", "abcdef", "١٢٣٤٥٦", "12 34 56"])
def test_what_is_no_passcode_at_all_costs_no_try(portal, share, typed) -> None:
    with pytest.raises(PasscodeRefused):
        shares.open_link(portal, share[0].id, share[1], typed)
    assert stored(portal, Share, share[0].id).attempts_left == shares.ATTEMPTS_MAX


def test_a_right_passcode_gives_all_tries_back(portal, share) -> None:
    found, secret, passcode = share
    with pytest.raises(PasscodeRefused):
        shares.open_link(portal, found.id, secret, wrong(passcode))
    shares.open_link(portal, found.id, secret, passcode)
    assert stored(portal, Share, found.id).attempts_left == shares.ATTEMPTS_MAX


@pytest.mark.parametrize("cookie", ["", "x", "." * 80, f"{new_id()}.{'A' * 43}", f"{new_id()}.short"],
                         ids=["empty", "letter", "dots", "token", "short"])
def test_a_made_up_cookie_is_nobodys(portal, share, cookie) -> None:
    with pytest.raises(NotFound):
        shares.resolve_visit(portal, cookie)


def test_another_visits_token_does_not_fit(portal, share) -> None:
    found, secret, passcode = share
    one, other = (shares.open_link(portal, found.id, secret, passcode) for _ in range(2))
    with pytest.raises(NotFound):
        shares.resolve_visit(portal, f"{one.partition('.')[0]}.{other.partition('.')[2]}")


def test_a_link_that_was_passed_on_cannot_fill_the_table(portal, patient, vm_session, monkeypatch) -> None:
    monkeypatch.setattr(shares, "VISITS_MAX", 3)
    found, link, _ = shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 1800, with_passcode=False)
    for _ in range(3):
        shares.open_link(portal, found.id, link.partition("#")[2], device="x" * 500)
    with pytest.raises(ShareClosed):
        shares.open_link(portal, found.id, link.partition("#")[2])
    with portal.database.read() as db:
        assert all(len(visit.device) <= shares.DEVICE_CHARACTERS_MAX for visit in db.exec(select(ShareVisit)))


# -- taking back
def test_withdrawn_closes_the_screen_at_once_and_opens_nothing_more(portal, patient, share) -> None:
    found, secret, passcode = share
    cookie = shares.open_link(portal, found.id, secret, passcode)
    read = revoked(portal)
    shares.withdraw(portal, patient.login, found.id)
    shares.withdraw(portal, patient.login, found.id)
    assert read() == f"share:{found.id}"
    with pytest.raises(ShareClosed):
        shares.resolve_visit(portal, cookie)
    with pytest.raises(ShareClosed):
        shares.open_link(portal, found.id, secret, passcode)
    with pytest.raises(ShareClosed):
        live.right(portal.database, vm_session_id=found.vm_session_id, grant=f"share:{found.id}",
                   visit=cookie.partition(".")[0], now=now())  # fmt: skip
    assert events(portal).count("share-withdrawn") == 1


def test_the_end_of_a_session_closes_its_shares(portal, patient, share) -> None:
    shares.close_for_vm_session(portal, share[0].vm_session_id)
    row = stored(portal, Share, share[0].id)
    assert row.state == "ended" and row.closed_at is not None


def test_the_sweep_closes_what_ran_out_and_what_lost_its_session(portal, patient, vm_session, share) -> None:
    other, _, _ = shares.create(portal, patient.login, vm_session.id, EMAIL, "control", 1800)
    with portal.database.write() as db:
        row = db.get(Share, share[0].id)
        row.expires_at = now() - dt.timedelta(seconds=1)
        db.add(row)
    shares.sweep(portal)
    assert stored(portal, Share, share[0].id).state == "expired"
    assert stored(portal, Share, other.id).state == "offered"
    with portal.database.write() as db:
        row = db.get(VmSession, vm_session.id)
        row.state = "ended"
        db.add(row)
    shares.sweep(portal)
    assert stored(portal, Share, other.id).state == "ended"


def test_an_expired_share_opens_nothing_even_before_the_sweep(portal, share) -> None:
    found, secret, passcode = share
    cookie = shares.open_link(portal, found.id, secret, passcode)
    with portal.database.write() as db:
        row = db.get(Share, found.id)
        row.expires_at = now() - dt.timedelta(seconds=1)
        db.add(row)
    with pytest.raises(ShareClosed):
        shares.open_link(portal, found.id, secret, passcode)
    with pytest.raises(ShareClosed):
        shares.resolve_visit(portal, cookie)


def test_changing_access_makes_screens_reconnect_with_the_new_right(portal, patient, share) -> None:
    found, secret, passcode = share
    cookie = shares.open_link(portal, found.id, secret, passcode)
    read = revoked(portal)
    shares.change_access(portal, patient.login, found.id, "control")
    assert read() == f"share:{found.id}"
    seen, _ = shares.resolve_visit(portal, cookie)
    assert seen.access == "control"
    with pytest.raises(FormRefused):
        shares.change_access(portal, patient.login, found.id, "everything")
    shares.withdraw(portal, patient.login, found.id)
    with pytest.raises(ShareClosed):
        shares.change_access(portal, patient.login, found.id, "view")


# -- looking
def test_who_has_access_shows_visits_mail_and_who_watches(portal, patient, share) -> None:
    found, secret, passcode = share
    shares.open_link(portal, found.id, secret, passcode)
    moment = time.time()
    portal.redis.hset(
        live.presence_key(found.vm_session_id), "a", live.presence_value(f"share:{found.id}", "view", moment, moment)
    )
    [view] = shares.list_for(portal, patient.login, found.vm_session_id)
    assert view.is_open and len(view.visits) == 1 and view.mail == "waiting"
    assert [watcher.access for watcher in view.watching] == ["view"]


def test_redis_being_away_does_not_keep_a_share_from_being_withdrawn(portal, patient, share) -> None:
    import redis

    portal.__dict__["redis"] = redis.Redis(unix_socket_path="/nonexistent.sock")
    shares.withdraw(portal, patient.login, share[0].id)
    assert stored(portal, Share, share[0].id).state == "withdrawn"


def test_settings_bound_the_time_of_a_share(portal, patient, vm_session) -> None:
    portal.settings = dataclasses.replace(portal.settings, share_seconds_max=600)
    with pytest.raises(FormRefused):
        shares.create(portal, patient.login, vm_session.id, EMAIL, "view", 601)
    assert mails.checked_address(" a@b.example ") == "a@b.example"
