"""Mails on their way out: written by whoever has something to say, sent by the worker.

What a mail says is sealed to the worker in its row and erased once sent. Sent at least once: a row leaves `waiting` by
one conditional UPDATE, so no two workers send it, but a worker killed between the mail server's yes and the note of
it lets the mail go again. Both carry the same Message-ID. Called by `shares`, jobs/mail.py and the sweep.
"""

import datetime as dt
import email.message
import email.policy
import email.utils
import functools
import json
import logging
import os
import re
import smtplib
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jinja2
from sqlmodel import Session, col, select

from myphr.audit.trail import SYSTEM, record
from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.errors import ConfigurationError, EnvelopeError, FormRefused
from myphr.ingest import drop_offs
from myphr.ingest.models import DropOff
from myphr.machines.parts import Parts
from myphr.machines.states import StateConflict
from myphr.records import deletions
from myphr.records.models import Deletion
from myphr.settings import Settings
from myphr.sharing.models import Mail, Share
from myphr.sharing.states import MAIL, OPEN, move

TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "emails"
SMTP_TIMEOUT_SECONDS = 30
ATTEMPTS_MAX = 8
SENDING_SECONDS_MAX = 120  # a mail that is "sending" for longer has lost its worker
ADDRESS_CHARACTERS_MAX = 254  # RFC 5321, 4.5.3.1.3
# One plain address: RFC 5322 dot-atoms and a domain with a dot (or localhost); no quotes, comments or routes.
_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:localhost|(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9])",
    re.ASCII,
)

log = logging.getLogger(__name__)


class MailRefused(Exception):
    """The mail server will not take this mail, now or later."""


class MailDelayed(Exception):
    """Not now: try again."""


def checked_address(text: str) -> str:
    """The address, without spaces around it. Raises FormRefused for anything but one plain address."""
    text = text.strip()
    if len(text) > ADDRESS_CHARACTERS_MAX or len(text.partition("@")[0]) > 64 or not _ADDRESS.fullmatch(text):
        raise FormRefused("address", reason="the e-mail address is not complete")
    return text


def add(
    db: Session, parts: Parts, template: str, recipient: str, values: dict[str, Any], share_id: str | None = None, *,
    forget_recipient: bool = False,
) -> Mail:  # fmt: skip
    """Note a mail in the caller's unit of work; `enqueue` it after the commit. With `forget_recipient` the address
    stands sealed among the values only, and goes with them. Raises FormRefused for the address."""
    recipient = checked_address(recipient)
    if forget_recipient:
        values, recipient = values | {"recipient": recipient}, ""
    mail = Mail(id=new_id(), template=template, recipient=recipient, share_id=share_id, sealed_values=None,
                state=MAIL.first)  # fmt: skip
    mail.sealed_values = envelope.seal_to(
        parts.keys.worker.public, json.dumps(values).encode(), context=envelope.context_for("mail", mail.id)
    )
    db.add(mail)
    return mail


def enqueue(parts: Parts, mail_id: str) -> None:
    parts.queue.enqueue("jobs.mail.send", mail_id, seconds_max=SENDING_SECONDS_MAX)


def retry_wait(attempts: int) -> dt.timedelta:
    """How long a mail rests after so many tries: 0, 10 s, 20 s ... at most half an hour."""
    return dt.timedelta(seconds=0 if attempts == 0 else min(10 * 2 ** (attempts - 1), 1800))


def sweep(parts: Parts) -> None:
    """Put back what lost its worker, and send again what is due. Safe to run twice."""
    with parts.database.read() as db:
        open_mails = db.exec(select(Mail).where(col(Mail.state).in_(("waiting", "sending")))).all()
    for mail in open_mails:
        if mail.state == "sending":
            if mail.changed_at > now() - dt.timedelta(seconds=SENDING_SECONDS_MAX + 10):
                continue
            try:
                with parts.database.write() as db:
                    move(db, mail, "put_back")
            except StateConflict:
                continue
        if mail.changed_at + retry_wait(mail.attempts) <= now():
            enqueue(parts, mail.id)


def send(parts: Parts, mail_id: str) -> None:
    """Send this mail if it waits. Safe to run twice: only one run takes it, and a sent mail is never taken again."""
    with parts.database.read() as db:
        mail = db.get(Mail, mail_id)
        share = db.get(Share, mail.share_id) if mail and mail.share_id else None
        if mail is not None and mail.template == "account-closed" and not _bytes_are_gone(parts, db, mail):
            return  # the proof names both halves; the sweep comes again
        stopped = mail is not None and mail.template == "drop-off-invitation" and not _drop_off_is_open(db, mail.id)
    if mail is None or mail.state != "waiting" or mail.changed_at + retry_wait(mail.attempts) > now():
        return
    no_longer_wanted = mail.template == "share-invitation" and share is not None and share.state not in OPEN
    no_longer_wanted = no_longer_wanted or stopped
    try:
        with parts.database.write() as db:
            if no_longer_wanted or mail.attempts >= ATTEMPTS_MAX:
                _give_up(db, mail)
                return
            move(db, mail, "take", attempts=mail.attempts + 1)
    except StateConflict:
        return
    try:
        deliver(parts.settings, compose(parts, mail))
    except (MailRefused, EnvelopeError, jinja2.TemplateError) as error:
        log.error("mail %s was refused: %s", mail.id, _short(error))
        with parts.database.write() as db:
            _give_up(db, mail)
        return
    except MailDelayed as error:
        log.warning("mail %s, try %s: %s", mail.id, mail.attempts, _short(error))
        with parts.database.write() as db:
            move(db, mail, "put_back")
        return
    with parts.database.write() as db:
        move(db, mail, "delivered", sent_at=now(), sealed_values=None)
        if share is not None and mail.template == "share-invitation":
            record(db, "share-mailed", account_id=share.account_id, actor=SYSTEM, share=share.id, mail=mail.id)


def _drop_off_is_open(db: Session, mail_id: str) -> bool:
    row = db.exec(select(DropOff).where(DropOff.mail_id == mail_id)).first()
    return row is not None and row.state in drop_offs.LIVE and row.expires_at > now()


def _bytes_are_gone(parts: Parts, db: Session, mail: Mail) -> bool:
    deletion = db.get(Deletion, _values(parts, mail)["deletion"]) if mail.sealed_values else None
    return deletion is None or deletion.state != "keyless"


def _give_up(db: Session, mail: Mail) -> None:
    move(db, mail, "refuse", sealed_values=None)
    share = db.get(Share, mail.share_id) if mail.share_id else None
    if share is not None and mail.template == "share-invitation":
        record(db, "share-mail-failed", account_id=share.account_id, actor=SYSTEM, share=share.id, mail=mail.id)


def _short(error: Exception) -> str:
    """The kind of failure for the log: a server's words may repeat the address."""
    return str(error) if isinstance(error, MailRefused | MailDelayed) else type(error).__name__


# -- the text -----------------------------------------------------------------------------------------
@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=jinja2.select_autoescape(["html"], default_for_string=True, default=False),
    )  # fmt: skip


def _one_line(text: str) -> str:
    """Without line ends and control characters: nothing in a value can become a header of its own."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _values(parts: Parts, mail: Mail) -> dict[str, Any]:
    """Raises EnvelopeError."""
    if mail.sealed_values is None:
        raise EnvelopeError("no values")
    context = envelope.context_for("mail", mail.id)
    return json.loads(envelope.open_with(parts.keys.worker.private, mail.sealed_values, context=context))


def compose(parts: Parts, mail: Mail) -> email.message.EmailMessage:
    """The message of this row. Raises EnvelopeError when its values are gone or not for this worker."""
    values = _values(parts, mail)
    values = {key: _one_line(value) if isinstance(value, str) else value for key, value in values.items()}
    environment = _environment()
    name, address = email.utils.parseaddr(parts.settings.mail_from)
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = email.utils.formataddr((_one_line(name), address))
    message["To"] = mail.recipient or values["recipient"]
    message["Subject"] = _one_line(environment.get_template(f"{mail.template}.subject.txt").render(values))[:200]
    message["Date"] = email.utils.format_datetime(mail.created_at)
    # The same in every try, so that a mailbox shows a mail that was sent twice once.
    message["Message-ID"] = f"<{mail.id}@{address.rpartition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(environment.get_template(f"{mail.template}.body.txt").render(values) + "\n")
    html = environment.get_template(f"{mail.template}.body.html").render(values)
    message.add_alternative(html + "\n", subtype="html")
    if mail.template == "account-closed":
        proof = deletions.certificate_of_account(parts.database, values["deletion"])
        message.add_attachment(
            (json.dumps(proof, ensure_ascii=False, indent=1) + "\n").encode(), maintype="application", subtype="json",
            filename="Proof of deletion.json",
        )  # fmt: skip
    return message


# -- the way out --------------------------------------------------------------------------------------
def deliver(settings: Settings, message: email.message.EmailMessage) -> None:
    """Hand over to the mail server or the outbox folder. Raises MailRefused, MailDelayed, ConfigurationError."""
    scheme, _, rest = settings.smtp_url.partition(":")
    if scheme == "outbox":
        _to_outbox(Path(rest), message)
    elif scheme in ("smtp", "smtps"):
        _by_smtp(settings.smtp_url, message)
    else:
        raise ConfigurationError("MYPHR_SMTP_URL is outbox:FOLDER, smtp://host:port or smtps://host:port")


def _to_outbox(folder: Path, message: email.message.EmailMessage) -> None:
    """One .eml a mail, for the operator's eyes only. The name comes from the mail's id: twice is once."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{str(message['Message-ID']).strip('<>').partition('@')[0]}.eml"
        draft = path.with_suffix(".new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:
            file.write(message.as_bytes())
            file.flush()
            os.fsync(handle)
        draft.replace(path)
    except OSError as error:
        raise MailDelayed(f"outbox: {error.strerror}") from None


def smtp_connection(url: str) -> smtplib.SMTP:
    """An open connection to the mail server, encrypted with a checked certificate, signed in if the URL says how.

    smtp:// speaks STARTTLS and refuses a server without it; smtp://...?plain=1 allows none, for a relay on this very
    host. Raises MailDelayed, MailRefused."""
    parsed = urlsplit(url)
    host, plain = parsed.hostname or "localhost", "plain=1" in parsed.query.split("&")
    if plain and host not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigurationError("MYPHR_SMTP_URL: plain=1 is for a mail server on this host only")
    context = ssl.create_default_context()
    try:
        server: smtplib.SMTP
        if parsed.scheme == "smtps":
            server = smtplib.SMTP_SSL(host, parsed.port or 465, timeout=SMTP_TIMEOUT_SECONDS, context=context)
        else:
            server = smtplib.SMTP(host, parsed.port or 587, timeout=SMTP_TIMEOUT_SECONDS)
    except (OSError, smtplib.SMTPException) as error:
        raise MailDelayed(f"no mail server: {type(error).__name__}") from None
    try:
        if parsed.scheme == "smtp" and not plain:
            server.starttls(context=context)
        if parsed.username:
            server.login(unquote(parsed.username), unquote(parsed.password or ""))
    except smtplib.SMTPNotSupportedError as error:
        server.close()
        raise MailDelayed("the mail server does not offer what the settings ask for (STARTTLS, sign-in)") from error
    except (OSError, smtplib.SMTPException) as error:
        # A wrong password or certificate is the operator's to mend: the mail waits for it.
        server.close()
        raise MailDelayed(f"mail server: {type(error).__name__}") from None
    return server


def _by_smtp(url: str, message: email.message.EmailMessage) -> None:
    server = smtp_connection(url)
    try:
        server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        raise (MailRefused if all(code >= 500 for code in codes) else MailDelayed)(f"recipient: {codes}") from None
    except smtplib.SMTPResponseException as error:
        kind = MailRefused if error.smtp_code >= 500 else MailDelayed
        raise kind(f"mail server: {error.smtp_code}") from None
    except (OSError, smtplib.SMTPException) as error:
        raise MailDelayed(f"mail server: {type(error).__name__}") from None
    # The mail is taken: what the server says to our good-bye changes nothing.
    try:
        server.quit()
    except (OSError, smtplib.SMTPException):
        server.close()
