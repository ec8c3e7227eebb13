"""Lifecycle of drop-offs. `DROP_OFF.move` is the only code that changes such a state."""

from myphr.ingest.models import DropOff
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
