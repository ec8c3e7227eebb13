"""Who gets in, and how a right taken back closes a screen: by news, by the clock, and without Redis."""

import datetime as dt
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import redis
import sqlalchemy
from sqlmodel import select
from websockets.exceptions import InvalidStatus

from myphr.audit.models import AuditEvent
from myphr.database import now
from myphr.machines.models import VmSession
from myphr.people.models import LoginSession
from myphr.sharing import live, tickets
from myphr.sharing.models import Share
from tests.integration.screen.browser import KEY_ESCAPE, UPDATE
from tests.integration.screen.conftest import PUBLIC_URL, Stage
from tests.integration.screen.machines import wait_for


# -- before the WebSocket is open -----------------------------------------------------------------
@pytest.mark.parametrize("origin", [
    None, "null", "http://evil.example", "https://portal.example:8000", "http://portal.example", "http://portal.example:80",
    "http://portal.example:8000.evil.example", "http://x@portal.example:8000x", "http://[", "",
])  # fmt: skip
def test_a_foreign_origin_is_refused(stage: Stage, origin):
    with pytest.raises(InvalidStatus) as refused:
        stage.connect(origin=origin)
    assert refused.value.response.status_code == 403


def test_a_second_origin_header_is_refused(stage: Stage):
    with pytest.raises(InvalidStatus) as refused:
        stage.connect(additional_headers={"Origin": "http://evil.example"})
    assert refused.value.response.status_code == 403


def test_our_origin_in_another_spelling_is_welcome(stage: Stage):
    stage.connect(origin="HTTP://Portal.Example:8000").open().__exit__()


@pytest.mark.parametrize("tickets_offered", [0, 2])
def test_no_ticket_or_two_are_refused(stage: Stage, tickets_offered):
    offered = ", ".join(["myphr.screen.1", *(f"ticket.{stage.owner_ticket()}" for _ in range(tickets_offered))])
    lines = [
        "GET / HTTP/1.1", f"Host: {stage.gateway.address}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Origin: {PUBLIC_URL}",
        f"Sec-WebSocket-Protocol: {offered}",
    ]  # fmt: skip
    host, port = stage.gateway.address.split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 400 ")


def test_an_empty_ticket_is_refused(stage: Stage):
    assert stage.connect("").close_code() == 4401


# -- tickets --------------------------------------------------------------------------------------
def test_a_ticket_opens_one_screen_only(stage: Stage):
    ticket = stage.owner_ticket()
    with stage.connect(ticket).open():
        assert stage.connect(ticket).close_code() == 4401
    assert stage.connect(ticket).close_code() == 4401


def test_an_expired_ticket_is_refused(stage: Stage):
    ticket = stage.owner_ticket(now=now() - dt.timedelta(seconds=31))
    assert stage.connect(ticket).close_code() == 4401


def test_a_ticket_of_another_portal_is_refused(stage: Stage):
    ticket = tickets.issue(
        bytes(32), vm_session_id=stage.vm_session_id, grant=stage.owner_grant, access="control", now=now()
    )
    assert stage.connect(ticket).close_code() == 4401


# -- rights ---------------------------------------------------------------------------------------
def test_a_stranger_with_a_signed_ticket_is_refused(stage: Stage, stranger):
    ticket = stage.owner_ticket(grant=f"owner:{stranger.login.login_session.id}")
    assert stage.connect(ticket).close_code() == 4403


def test_a_vm_session_that_is_not_there_is_refused(stage: Stage):
    assert stage.connect(stage.owner_ticket(vm_session_id="nothing")).close_code() == 4403


def test_a_visit_of_another_share_is_refused(stage: Stage):
    share, _ = stage.share()
    _, other_visit = stage.share()
    assert stage.connect(stage.share_ticket(share, other_visit)).close_code() == 4403


def test_a_share_of_another_vm_session_is_refused(stage: Stage):
    other = VmSession(account_id=stage.patient.account.id, viewer="probe", template="probe", state="live")
    with stage.portal.database.write() as db:
        db.add(other)
    share, visit = stage.share(vm_session_id=other.id)
    assert stage.connect(stage.share_ticket(share, visit)).close_code() == 4403


@pytest.mark.parametrize("state", ["requested", "starting", "connecting", "ending", "ended", "failed"])
def test_a_vm_session_without_a_screen_is_over(stage: Stage, state):
    stage.change(VmSession, stage.vm_session_id, state=state)
    assert stage.connect().close_code() == 4410


def test_a_signed_out_owner_is_refused(stage: Stage):
    stage.change(LoginSession, stage.patient.login.login_session.id, revoked_at=now())
    assert stage.connect().close_code() == 4403


@pytest.mark.parametrize("state", ["withdrawn", "expired", "locked", "ended", "something new"])
def test_a_share_that_is_not_open_is_refused(stage: Stage, state):
    share, visit = stage.share()
    stage.change(Share, share.id, state=state)
    assert stage.connect(stage.share_ticket(share, visit)).close_code() == 4403


def test_a_ticket_made_before_a_withdrawal_opens_nothing_after_it(stage: Stage):
    share, visit = stage.share()
    ticket = stage.share_ticket(share, visit)
    stage.change(Share, share.id, closed_at=now())
    assert stage.connect(ticket).close_code() == 4403


def test_a_view_share_stays_view_whatever_the_ticket_says(stage: Stage, fake):
    share, visit = stage.share("view")
    with stage.connect(stage.share_ticket(share, visit, access="control")).open() as screen:
        screen.send(KEY_ESCAPE + UPDATE)
        wait_for("the update request", lambda: fake.received)
    assert fake.received == UPDATE


def test_a_view_ticket_stays_view_for_the_owner(stage: Stage, fake):
    with stage.connect(stage.owner_ticket(access="view")).open() as screen:
        screen.send(KEY_ESCAPE + UPDATE)
        wait_for("the update request", lambda: fake.received)
    assert fake.received == UPDATE


def test_the_fifth_screen_of_one_grant_is_refused(stage: Stage):
    open_screens = [stage.connect().open() for _ in range(4)]
    assert stage.connect().close_code() == 4429
    open_screens.pop().__exit__()
    wait_for("room", lambda: len(live.presence(stage.portal.redis, stage.vm_session_id)) == 3)
    stage.connect().open().__exit__()
    for screen in open_screens:
        screen.__exit__()


# -- taking back ----------------------------------------------------------------------------------
def test_a_withdrawn_share_closes_at_once_and_the_owner_stays(stage: Stage, fake):
    share, visit = stage.share()
    with stage.connect().open() as owner, stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        live.revoke(stage.portal.redis, f"share:{share.id}")
        assert viewer.close_code() == 4403
        owner.send(UPDATE)
        wait_for("the owner's request", lambda: fake.received == UPDATE)


def test_the_end_of_a_vm_session_closes_all_its_screens(stage: Stage):
    share, visit = stage.share()
    with stage.connect().open() as owner, stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        live.end_screens(stage.portal.redis, stage.vm_session_id)
        assert (owner.close_code(), viewer.close_code()) == (4410, 4410)


def test_a_share_that_runs_out_closes_the_open_screen(stage: Stage):
    share, visit = stage.share(seconds=5)
    with stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        assert viewer.close_code() == 4403
    assert now() >= share.expires_at


def test_a_share_that_was_prolonged_stays_open_until_then(stage: Stage, fake):
    share, visit = stage.share(seconds=5)
    until = now() + dt.timedelta(seconds=7)
    with stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        stage.change(Share, share.id, expires_at=until)
        assert viewer.close_code() == 4403
    assert now() >= until


def test_the_hard_limit_of_a_vm_session_closes_the_screen(stage: Stage):
    stage.change(VmSession, stage.vm_session_id, ends_at=now() + dt.timedelta(seconds=5))
    with stage.connect().open() as owner:
        assert owner.close_code() == 4410


def test_a_withdrawal_whose_news_was_lost_is_found_by_the_regular_check(stage: Stage):
    stage.start_gateway(CHECK_SECONDS=0.5, TICK_SECONDS=0.2)
    share, visit = stage.share()
    with stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        stage.change(Share, share.id, closed_at=now())
        assert viewer.close_code() == 4403


def test_control_taken_down_to_view_stops_input_of_the_open_screen(stage: Stage, fake):
    stage.start_gateway(CHECK_SECONDS=0.3, TICK_SECONDS=0.1)
    share, visit = stage.share("control")
    with stage.connect(stage.share_ticket(share, visit)).open() as caregiver:
        caregiver.send(KEY_ESCAPE)
        wait_for("the key", lambda: fake.received == KEY_ESCAPE)
        stage.change(Share, share.id, access="view")

        def key_is_dropped() -> bool:
            seen = len(fake.received)
            caregiver.send(KEY_ESCAPE + UPDATE)
            wait_for("the request", lambda: fake.received.endswith(UPDATE) and len(fake.received) > seen)
            return len(fake.received) - seen == len(UPDATE)

        wait_for("the key to be dropped", key_is_dropped)


# -- without Redis --------------------------------------------------------------------------------
class OwnRedis:
    """A Redis that this test may kill."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="myphr-r-")
        self.path = Path(self._folder.name) / "r.sock"
        self.url = f"unix://{self.path}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(self.path), "--save", "", "--appendonly", "no",
             "--dir", self._folder.name], stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for("Redis", self._answers)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def own_redis():
    server = OwnRedis()
    server.start()
    yield server
    server.kill()


def test_without_redis_nobody_gets_in_and_a_withdrawn_share_still_closes(stage: Stage, own_redis, fake):
    gateway = stage.start_gateway(own_redis.url, CHECK_SECONDS_WITHOUT_NEWS=0.3, TICK_SECONDS=0.1)
    share, visit = stage.share()
    with stage.connect().open() as owner, stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        own_redis.kill()
        wait_for("the loss to be noticed", lambda: "Redis is away" in gateway.log)
        assert stage.connect().close_code() == 1013
        stage.change(Share, share.id, closed_at=now())
        assert viewer.close_code() == 4403
        owner.send(UPDATE)  # what the database confirms goes on
        wait_for("the owner's request", lambda: fake.received == UPDATE)


def test_without_redis_and_database_every_screen_closes(stage: Stage, own_redis):
    stage.start_gateway(own_redis.url, CHECK_SECONDS_WITHOUT_NEWS=0.3, TICK_SECONDS=0.1)
    with stage.connect().open() as owner:
        with stage.portal.database.engine.begin() as connection:
            connection.execute(sqlalchemy.text("ALTER TABLE login_session RENAME TO away"))
        own_redis.kill()
        assert owner.close_code() == 1013


def test_what_was_said_while_redis_was_away_is_made_up_for(stage: Stage, own_redis):
    gateway = stage.start_gateway(own_redis.url, CHECK_SECONDS_WITHOUT_NEWS=3600, TICK_SECONDS=0.1)
    share, visit = stage.share()
    with stage.connect().open() as owner, stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        own_redis.kill()
        wait_for("the loss to be noticed", lambda: "Redis is away" in gateway.log)
        stage.change(Share, share.id, closed_at=now())
        own_redis.start()
        assert viewer.close_code() == 4403
        with redis.Redis.from_url(own_redis.url) as client:
            wait_for("the gateway to listen", lambda: client.publish(live.REVOKED_CHANNEL, stage.owner_grant))
        assert owner.close_code() == 4403


# -- what others learn ----------------------------------------------------------------------------
def test_presence_names_who_watches_and_forgets_who_left(stage: Stage):
    share, visit = stage.share()

    def watching():
        return sorted((w.grant, w.access) for w in live.presence(stage.portal.redis, stage.vm_session_id))

    with stage.connect().open():
        wait_for("the owner", lambda: watching() == [(stage.owner_grant, "control")])
        with stage.connect(stage.share_ticket(share, visit)).open():
            both = [(stage.owner_grant, "control"), (f"share:{share.id}", "view")]
            wait_for("both", lambda: watching() == both)
        wait_for("the caregiver to be gone", lambda: len(watching()) == 1)
    wait_for("nobody", lambda: watching() == [])


def test_input_is_told_and_looking_is_not(stage: Stage, fake):
    stage.start_gateway(TICK_SECONDS=0.1)
    key = live.input_key(stage.vm_session_id)
    with stage.connect().open() as owner:
        owner.send(UPDATE)
        wait_for("the request", lambda: fake.received == UPDATE)
        assert stage.portal.redis.get(key) is None
        owner.send(KEY_ESCAPE)
        wait_for("the input to be told", lambda: stage.portal.redis.get(key))


def test_who_looked_is_written_before_the_picture_and_when_they_left(stage: Stage):
    share, visit = stage.share()

    def events():
        with stage.portal.database.read() as db:
            rows = db.exec(select(AuditEvent).where(AuditEvent.event.startswith("screen-"))).all()  # type: ignore[attr-defined]
        return [(row.event, row.actor_kind, row.actor_id) for row in rows]

    with stage.connect(stage.share_ticket(share, visit)).open():
        wait_for("the note", lambda: events() == [("screen-watched", "caregiver", share.id)])
    wait_for("the second note", lambda: len(events()) == 2)
    assert events()[1] == ("screen-left", "caregiver", share.id)


def test_no_picture_when_who_looked_cannot_be_written(stage: Stage, fake):
    with stage.portal.database.engine.begin() as connection:
        connection.execute(sqlalchemy.text("ALTER TABLE audit_event RENAME TO away"))
    screen = stage.connect()
    assert screen.close_code() == 1013
    assert fake.received == b""
