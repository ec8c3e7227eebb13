"""Drop-offs by mail: one link lets a practice hand files over on a page, without an account.

The link's secret is the drop-off's token and stands behind the "#", so no server log and no mail scanner that merely
follows links sends it. Called by web; `ingest.drop_offs` decides what the token may do.
"""

import dataclasses
from collections.abc import Iterable
from typing import Protocol

from sqlmodel import Session, col, select

from myphr.crypto import envelope
from myphr.ingest import drop_offs
from myphr.ingest.models import DropOff
from myphr.machines.parts import Parts as MachineParts
from myphr.people.accounts import normal_name
from myphr.people.login_sessions import Login
from myphr.records import summaries
from myphr.records.filing import RecordParts
from myphr.sharing import mails
from myphr.sharing.models import Mail

TEMPLATE = "drop-off-invitation"


class Parts(MachineParts, RecordParts, Protocol):
    """What an invitation needs of the portal."""


@dataclasses.dataclass(frozen=True)
class Invitation:
    """A new drop-off, the link to its page, and where that was sent (None: nowhere, the patient hands it over)."""

    created: drop_offs.Created
    link: str = dataclasses.field(repr=False)
    address: str | None = dataclasses.field(repr=False)


def invite(
    parts: Parts, login: Login, name: str, address: str, for_name: str, seconds: int, files_max: int
) -> Invitation:
    """A drop-off with the link to its page; with an address the mail is on its way when this returns.

    Raises FormRefused."""
    to = mails.checked_address(address) if address.strip() else None
    sent: list[str] = []

    def also(db: Session, row: DropOff, token: str) -> None:
        if to is None:
            return
        until = f"{summaries.date_words(row.expires_at)}, {row.expires_at:%H:%M} UTC"
        values = {
            "for_name": normal_name(for_name or login.account.name), "practice": normal_name(name),
            "link": link_of(parts, row.id, token), "expires_at": until,
            "files": summaries.count_words(files_max, "file"),
        }  # fmt: skip
        mail = mails.add(db, parts, TEMPLATE, to, values)
        row.mail_id = mail.id
        row.sealed_address = envelope.seal_to(
            login.ring().public_key, to.encode(), context=drop_offs.address_context(row.id)
        )
        db.add(row)
        sent.append(mail.id)

    created = drop_offs.create(parts, login, name, seconds, files_max, for_name=for_name, also=also)
    for mail_id in sent:
        mails.enqueue(parts, mail_id)
    return Invitation(created, link_of(parts, created.drop_off_id, created.token), to)


def link_of(parts: Parts, drop_off_id: str, token: str) -> str:
    return f"{parts.settings.public_url.rstrip('/')}/d/{drop_off_id}#{token}"


def mail_states(parts: Parts, mail_ids: Iterable[str | None]) -> dict[str, str]:
    """waiting, sending, sent or failed, by mail."""
    wanted = {mail_id for mail_id in mail_ids if mail_id}
    with parts.database.read() as db:
        return {mail.id: mail.state for mail in db.exec(select(Mail).where(col(Mail.id).in_(wanted)))}
