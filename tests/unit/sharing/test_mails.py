"""Mails against a real SMTP server and the outbox: what they say, what they never say, and that none goes twice."""

import dataclasses
import datetime as dt
import email
import email.policy
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from myphr.database import now
from myphr.sharing import mails
from myphr.sharing.models import Mail

VALUES = {
    "from_name": "Vera <script>alert(1)</script>\r\nBcc: thief@x.example", "access": "view",
    "link": "http://127.0.0.1:8000/s/1#secret-of-the-link", "long": "30 minutes",
    "expires_at": "22 November 2026, 18:00 UTC",
    "passcode": True,
}  # fmt: skip


def add(portal, template: str = "share-invitation", **changes) -> Mail:
    values = VALUES if template == "share-invitation" else {"name": "Vera", "portal": "http://127.0.0.1:8000/"}
    with portal.database.write() as db:
        return mails.add(db, portal, template, "tomas@family.example", values | changes)


def stored(portal, mail: Mail) -> Mail:
    with portal.database.read() as db:
        return db.get(Mail, mail.id)


def use(portal, url: str) -> None:
    portal.settings = dataclasses.replace(portal.settings, smtp_url=url)


def due(portal, mail: Mail) -> None:
    with portal.database.write() as db:
        row = db.get(Mail, mail.id)
        row.changed_at = now() - dt.timedelta(hours=1)
        db.add(row)


class Box:
    """Keeps what an SMTP server took; answers what it is told to."""

    def __init__(self) -> None:
        self.taken: list = []
        self.answer = "250 taken"
        self.recipient_answer = "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.recipient_answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return self.recipient_answer

    async def handle_DATA(self, server, session, envelope):
        if self.answer.startswith("2"):
            self.taken.append((envelope, session.ssl is not None))
        return self.answer


@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    from tests.unit.sharing.certificate import make

    return make(tmp_path)


class Server(Controller):
    tls: ssl.SSLContext | None = None

    def factory(self):
        return SMTP(self.handler, tls_context=self.tls, require_starttls=self.tls is not None, enable_SMTPUTF8=True)


@pytest.fixture
def smtp():
    """smtp(tls=None) -> (box, port); plain by default."""
    running = []

    def start(tls: ssl.SSLContext | None = None):
        box = Box()
        server = Server(box, hostname="127.0.0.1", port=0)
        server.tls = tls
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            server.port = free.getsockname()[1]
        server.start()
        running.append(server)
        return box, server.port

    yield start
    for server in running:
        server.stop()


# -- what they say
def test_an_invitation_says_who_how_long_and_the_link_and_no_health_data(portal) -> None:
    message = mails.compose(portal, add(portal, from_name="Vera Lindqvist"))
    text = message.get_body(("plain",)).get_content()
    html = message.get_body(("html",)).get_content()
    assert message["Subject"] == "Vera Lindqvist wants to show you a screen"
    for body in (text, html):
        assert "30 minutes" in body and VALUES["link"] in body and "passcode" in body
        assert not {"MRI", "CT", "study", "DICOM", "scan", "diagnosis", "patient"} & set(body.split())


def test_no_value_becomes_a_header_or_markup(portal) -> None:
    message = mails.compose(portal, add(portal))
    raw = message.as_bytes()
    parsed = email.message_from_bytes(raw, policy=email.policy.SMTP)
    assert parsed["Bcc"] is None and set(parsed.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
    }  # fmt: skip
    assert "<script>" not in message.get_body(("html",)).get_content()
    assert "&lt;script&gt;" in message.get_body(("html",)).get_content()


def test_a_mail_without_passcode_does_not_speak_of_one(portal) -> None:
    message = mails.compose(portal, add(portal, passcode=False))
    assert "passcode" not in message.get_body(("plain",)).get_content()


def test_the_locked_mail_carries_no_link_to_the_share(portal) -> None:
    message = mails.compose(portal, add(portal, "share-locked"))
    assert "/s/" not in message.as_string() and message["Subject"] == "A link that you shared was locked"


@pytest.mark.parametrize("template", ["share-invitation", "share-locked", "emergency-opened"])
def test_every_mail_has_three_files(template) -> None:
    for part in ("subject.txt", "body.txt", "body.html"):
        assert (mails.TEMPLATES / f"{template}.{part}").is_file()


# -- the outbox
def test_the_outbox_keeps_one_file_for_the_operator_alone(portal, tmp_path) -> None:
    use(portal, f"outbox:{tmp_path}/outbox")
    mail = add(portal)
    mails.send(portal, mail.id)
    [path] = (tmp_path / "outbox").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "outbox").stat().st_mode) == 0o700
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert VALUES["link"] in message.get_body(("plain",)).get_content()
    sent = stored(portal, mail)
    assert (sent.state, sent.sealed_values) == ("sent", None)


def test_a_sent_mail_is_never_sent_again(portal, smtp) -> None:
    box, port = smtp()
    use(portal, f"smtp://127.0.0.1:{port}?plain=1")
    mail = add(portal)
    for _ in range(3):
        mails.send(portal, mail.id)
        mails.sweep(portal)
    assert len(box.taken) == 1


def test_two_workers_send_one_mail_once(portal, smtp) -> None:
    import threading

    box, port = smtp()
    use(portal, f"smtp://127.0.0.1:{port}?plain=1")
    mail = add(portal)
    threads = [threading.Thread(target=mails.send, args=(portal, mail.id)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(box.taken) == 1 and stored(portal, mail).attempts == 1


# -- a real server
def test_with_starttls_and_a_known_certificate_the_mail_goes_encrypted(portal, smtp, certificate, monkeypatch) -> None:
    chain, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    box, port = smtp(context)
    use(portal, f"smtp://127.0.0.1:{port}")
    mail = add(portal)
    mails.send(portal, mail.id)
    [(envelope, encrypted)] = box.taken
    assert encrypted and envelope.rcpt_tos == ["tomas@family.example"]
    assert stored(portal, mail).state == "sent"


def test_an_unknown_certificate_gets_no_mail(portal, smtp, certificate) -> None:
    chain, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    box, port = smtp(context)
    use(portal, f"smtp://127.0.0.1:{port}")
    mail = add(portal)
    mails.send(portal, mail.id)
    assert not box.taken and stored(portal, mail).state == "waiting"


def test_a_server_without_starttls_gets_no_mail(portal, smtp) -> None:
    box, port = smtp()
    use(portal, f"smtp://127.0.0.1:{port}")
    mail = add(portal)
    mails.send(portal, mail.id)
    waiting = stored(portal, mail)
    assert not box.taken and (waiting.state, waiting.attempts) == ("waiting", 1)
    assert waiting.sealed_values is not None


def test_plain_smtp_to_another_host_is_refused(portal) -> None:
    use(portal, "smtp://mail.example:25?plain=1")
    with pytest.raises(mails.ConfigurationError):
        mails.smtp_connection(portal.settings.smtp_url)


def test_a_server_that_is_down_delays_the_mail_and_the_sweep_sends_it_later(portal, smtp) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = free.getsockname()[1]
    use(portal, f"smtp://127.0.0.1:{dead}?plain=1")
    mail = add(portal)
    mails.send(portal, mail.id)
    assert stored(portal, mail).state == "waiting"
    mails.sweep(portal)
    assert not portal.queue.rq.get_jobs(), "tried again without a rest"
    box, port = smtp()
    use(portal, f"smtp://127.0.0.1:{port}?plain=1")
    due(portal, mail)
    mails.sweep(portal)
    [job] = portal.queue.rq.get_jobs()
    assert job.args == [mail.id]
    mails.send(portal, mail.id)
    assert len(box.taken) == 1


@pytest.mark.parametrize(
    ("recipient", "data", "state"),
    [("550 no such mailbox", "250 OK", "failed"), ("450 later", "250 OK", "waiting"), ("250 OK", "554 no", "failed"),
     ("250 OK", "451 later", "waiting")],
)  # fmt: skip
def test_a_final_no_fails_the_mail_and_a_later_waits(portal, smtp, recipient, data, state) -> None:
    box, port = smtp()
    box.recipient_answer, box.answer = recipient, data
    use(portal, f"smtp://127.0.0.1:{port}?plain=1")
    mail = add(portal)
    mails.send(portal, mail.id)
    after = stored(portal, mail)
    assert after.state == state
    assert (after.sealed_values is None) == (state == "failed")


def test_a_mail_is_given_up_after_its_last_try(portal) -> None:
    use(portal, "smtp://127.0.0.1:9?plain=1")
    mail = add(portal)
    for _ in range(mails.ATTEMPTS_MAX + 1):
        due(portal, mail)
        mails.send(portal, mail.id)
    after = stored(portal, mail)
    assert (after.state, after.attempts, after.sealed_values) == ("failed", mails.ATTEMPTS_MAX, None)


def test_a_worker_killed_in_the_middle_of_sending_loses_no_mail(portal, tmp_path) -> None:
    """The server hangs in the dialogue; the worker is killed there; the sweep puts the mail back and it is sent."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        mail = add(portal)
        environment = os.environ | {
            "MYPHR_HOME": str(portal.settings.home), "MYPHR_REDIS_URL": portal.settings.redis_url,
            "MYPHR_SMTP_URL": f"smtp://127.0.0.1:{port}?plain=1",
        }  # fmt: skip
        code = f"import jobs.mail; jobs.mail.send({mail.id!r})"
        worker = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[3])
        try:
            connection, _ = listening.accept()  # connected, and now it waits for our greeting for ever
            assert stored(portal, mail).state == "sending"
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            connection.close()
    mails.sweep(portal)
    assert stored(portal, mail).state == "sending", "taken back from a worker that may still be at it"
    due(portal, mail)
    mails.sweep(portal)
    assert stored(portal, mail).state == "waiting"
    use(portal, f"outbox:{tmp_path}/outbox")
    due(portal, mail)
    mails.send(portal, mail.id)
    assert stored(portal, mail).state == "sent" and len(list((tmp_path / "outbox").iterdir())) == 1


def test_both_copies_of_a_mail_that_went_twice_carry_one_message_id(portal) -> None:
    mail = add(portal)
    assert mails.compose(portal, mail)["Message-ID"] == mails.compose(portal, mail)["Message-ID"]


def test_an_invitation_to_a_closed_share_is_not_sent(portal, patient, smtp) -> None:
    from myphr.machines.models import VmSession
    from myphr.sharing.models import Share

    box, port = smtp()
    use(portal, f"smtp://127.0.0.1:{port}?plain=1")
    vm_session = VmSession(account_id=patient.account.id, viewer="probe", template="probe", state="live")
    with portal.database.write() as db:
        db.add(vm_session)
        db.flush()
        share = Share(
            account_id=patient.account.id, vm_session_id=vm_session.id, email="a@b.example", access="view",
            state="withdrawn", secret_sha256="", expires_at=now(),
        )  # fmt: skip
        db.add(share)
        db.flush()
        mail = mails.add(db, portal, "share-invitation", "a@b.example", VALUES, share_id=share.id)
    mails.send(portal, mail.id)
    assert not box.taken and stored(portal, mail).state == "failed"


def test_the_rest_between_tries_grows_and_is_bounded() -> None:
    rests = [mails.retry_wait(attempts).total_seconds() for attempts in range(20)]
    assert rests[0] == 0 and rests == sorted(rests) and max(rests) == 1800


def test_nothing_of_a_mail_is_in_the_log(portal, smtp, caplog) -> None:
    box, port = smtp()
    box.recipient_answer = "550 tomas@family.example does not exist"
    use(portal, f"smtp://127.0.0.1:{port}?plain=1")
    mails.send(portal, add(portal).id)
    text = caplog.text
    assert text and "tomas" not in text and "secret-of-the-link" not in text

