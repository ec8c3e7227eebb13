"""Lifecycles of drop-offs and of readings. `DROP_OFF.move` and `READING.move` are the only code that changes them."""

from myphr.ingest.models import DropOff
from myphr.records.models import ItemReading
from myphr.state_tables import StateTable

DROP_OFF = StateTable(
    "drop-off", DropOff, "open",
    {
        ("open", "take"): ("count one more file of the provider", "open"),
        ("open", "fill"): ("count the last file that was agreed", "full"),
        ("open", "revoke"): ("let nothing in any more, also what is on its way", "revoked"),
        ("full", "revoke"): ("take it off the list", "revoked"),
        ("open", "expire"): ("let nothing in any more, also what is on its way", "expired"),
        ("full", "expire"): ("take it off the list", "expired"),
    },
)  # fmt: skip

READING = StateTable(
    "reading", ItemReading, "waiting",
    {
        ("waiting", "take"): ("count the attempt and read the file", "running"),
        ("running", "keep"): ("keep what was read under the file's key, erase the worker's", "done"),
        ("running", "give_up"): ("erase the worker's key: the file cannot be read", "failed"),
        ("running", "put_back"): ("whoever read it is gone: try again", "waiting"),
        ("waiting", "give_up"): ("erase the worker's key: it was tried too often, or the file is gone", "failed"),
    },
)  # fmt: skip
