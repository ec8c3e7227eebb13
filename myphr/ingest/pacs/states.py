"""Lifecycles of a link to a PACS and of a fetch from it. `move` is the only code that changes such a state."""

from myphr.ingest.pacs.models import PacsFetch, PacsLink
from myphr.state_tables import StateTable

PACS_LINK = StateTable(
    "link to a PACS", PacsLink, "asked",
    {
        ("asked", "confirm"): ("seal to the owner who she is there", "confirmed"),
        ("asked", "end"): ("forget the code", "ended"),
        ("asked", "expire"): ("forget the code", "expired"),
        ("confirmed", "end"): ("forget the number; stop what is being fetched", "ended"),
    },
)  # fmt: skip

PACS_FETCH = StateTable(
    "fetch from a PACS", PacsFetch, "waiting",
    {
        ("waiting", "look"): ("ask which studies there are of this patient", "looking"),
        ("looking", "look"): ("ask again: an earlier run was cut off", "looking"),
        ("looking", "list"): ("seal the list to the owner, erase what the worker knew", "listed"),
        ("listed", "choose"): ("seal what was chosen to the worker and queue the job", "chosen"),
        ("listed", "lapse"): ("forget the list: it is old", "lapsed"),
        ("chosen", "begin"): ("ask for the first study", "fetching"),
        ("fetching", "begin"): ("go on where the row says: an earlier run was cut off", "fetching"),
        ("fetching", "step"): ("file some images in one commit", "fetching"),
        ("fetching", "finish"): ("erase what the worker knew; say what did not come", "done"),
        ("waiting", "fail"): ("erase what the worker knew", "failed"),
        ("looking", "fail"): ("erase what the worker knew", "failed"),
        ("chosen", "fail"): ("erase what the worker knew", "failed"),
        ("fetching", "fail"): ("erase what the worker knew; what came stays", "failed"),
        ("waiting", "withdraw"): ("erase what the worker knew", "withdrawn"),
        ("looking", "withdraw"): ("erase what the worker knew", "withdrawn"),
        ("listed", "withdraw"): ("forget the list", "withdrawn"),
        ("chosen", "withdraw"): ("erase what the worker knew", "withdrawn"),
        ("fetching", "withdraw"): ("erase what the worker knew; what came stays", "withdrawn"),
    },
)  # fmt: skip
