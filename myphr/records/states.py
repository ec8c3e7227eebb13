"""Lifecycles of exports and deletions. `move` is the only code that changes such a state."""

from myphr.records.models import Deletion, Export
from myphr.state_tables import StateTable

EXPORT = StateTable(
    "export", Export, "preparing",
    {
        ("preparing", "open"): ("keep one more piece of its order", "preparing"),
        ("preparing", "order"): ("keep the last piece, seal the key to the worker", "waiting"),
        ("preparing", "remove"): ("erase its key and its order", "removed"),
        ("preparing", "expire"): ("its owner never came back: erase its key and its order", "expired"),
        ("waiting", "begin"): ("open its order, write the first file", "running"),
        ("running", "begin"): ("the run before was cut off: throw away what it wrote, begin anew", "running"),
        ("running", "finish"): ("erase the worker's key and the order, start the day it is kept", "ready"),
        ("waiting", "fail"): ("erase its key, say why", "failed"),
        ("running", "fail"): ("erase its key, throw away what was written, say why", "failed"),
        ("waiting", "remove"): ("erase its key and its order", "removed"),
        ("running", "remove"): ("erase its key; the run stops at its next step", "removed"),
        ("ready", "remove"): ("erase its key and its file", "removed"),
        ("ready", "expire"): ("erase its key and its file", "expired"),
    },
)  # fmt: skip

DELETION = StateTable(
    "deletion", Deletion, "keyless",
    {("keyless", "remove_bytes"): ("no container of it is in the store any more", "erased")},
)  # fmt: skip
