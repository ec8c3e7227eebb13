"""Lifecycles of shares and mails, in the same form as those of machines. `move` is the only way to change a state.

`python -m myphr.sharing.states > docs/states.md` writes the page of all lifecycles.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement
from sqlmodel import Session

from myphr.ingest.fhir.states import FETCH
from myphr.ingest.pacs.states import PACS_FETCH, PACS_LINK
from myphr.ingest.states import DROP_OFF, READING
from myphr.machines.states import MACHINE, VM_SESSION
from myphr.records.states import DELETION, EXPORT
from myphr.sharing.app_keys import APP_KEY
from myphr.sharing.closing_models import AccountClosing
from myphr.sharing.models import Mail, Share
from myphr.state_tables import StateTable, as_markdown

SHARE = StateTable(
    "share", Share, "offered",
    {
        ("offered", "open"): ("let this browser in, note the first opening", "opened"),
        ("opened", "open"): ("let one more browser in", "opened"),
        ("offered", "withdraw"): ("close its screens", "withdrawn"),
        ("opened", "withdraw"): ("close its screens", "withdrawn"),
        ("offered", "expire"): ("close its screens", "expired"),
        ("opened", "expire"): ("close its screens", "expired"),
        ("offered", "lock"): ("close its screens, tell the patient", "locked"),
        ("opened", "lock"): ("close its screens, tell the patient", "locked"),
        ("offered", "end"): ("its VM session is over", "ended"),
        ("opened", "end"): ("its VM session is over", "ended"),
    },
)  # fmt: skip

MAIL = StateTable(
    "mail", Mail, "waiting",
    {
        ("waiting", "take"): ("hand it to the mail server", "sending"),
        ("sending", "delivered"): ("erase its values", "sent"),
        ("sending", "put_back"): ("try again later", "waiting"),
        ("sending", "refuse"): ("erase its values", "failed"),
        ("waiting", "refuse"): ("erase its values: its share is closed, or it was tried too often", "failed"),
    },
)  # fmt: skip

CLOSING = StateTable(
    "closing of an account", AccountClosing, "keyless",
    {("keyless", "settle"): ("machines, certificates and bytes are gone, and nothing came back meanwhile", "settled")},
)  # fmt: skip

OPEN = ("offered", "opened")  # a share in one of these gives access

_TABLES: dict[type, StateTable] = {Share: SHARE, Mail: MAIL}
ALL = (
    VM_SESSION, MACHINE, SHARE, MAIL, DROP_OFF, READING, FETCH, PACS_LINK, PACS_FETCH, EXPORT, DELETION, APP_KEY,
    CLOSING,
)  # fmt: skip


def move(
    db: Session, row: Share | Mail, event: str, *, only_if: Sequence[ColumnElement[bool]] = (), **values: Any
) -> Any:
    """`StateTable.move` with the table of this row. Raises StateConflict."""
    return _TABLES[type(row)].move(db, row, event, only_if=only_if, **values)


if __name__ == "__main__":
    print(as_markdown(ALL), end="")
