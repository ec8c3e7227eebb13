"""Lifecycles of machines and VM sessions. `move` is the only code that changes such a state."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement
from sqlmodel import Session

from myphr.machines.models import Machine, VmSession
from myphr.state_tables import StateConflict, StateTable

__all__ = ["ACTIVE", "COMING_UP", "MACHINE", "STARTING", "VM_SESSION", "StateConflict", "StateTable", "move"]


MACHINE = StateTable(
    "machine", Machine, "ordered",
    {
        ("ordered", "clone"): ("ask for a linked clone of the template, into our pool", "cloning"),
        ("cloning", "cloned"): ("close its firewall but for the files gateway", "cloned"),
        ("cloned", "start"): ("ask for the start", "starting"),
        ("starting", "started"): ("wait for the guest agent", "booting"),
        ("booting", "booted"): ("keep it ready, without data", "warm"),
        ("warm", "claim"): ("give it to one VM session, for good", "claimed"),
        ("claimed", "release"): ("pull the plug, delete it, see that it is gone", "destroying"),
        ("ordered", "give_up"): ("see that nothing was made", "destroying"),
        ("cloning", "give_up"): ("delete what the clone left", "destroying"),
        ("cloned", "give_up"): ("delete it", "destroying"),
        ("starting", "give_up"): ("pull the plug, delete it", "destroying"),
        ("booting", "give_up"): ("pull the plug, delete it", "destroying"),
        ("warm", "give_up"): ("pull the plug, delete it", "destroying"),
        ("claimed", "give_up"): ("pull the plug, delete it", "destroying"),
        ("destroying", "gone"): ("keep the row: its number is never used again", "destroyed"),
    },
)  # fmt: skip

VM_SESSION = StateTable(
    "VM session", VmSession, "requested",
    {
        ("requested", "assign"): ("note which machine it will be", "starting"),
        ("starting", "claim"): ("tell the guest its folder and secret", "connecting"),
        ("connecting", "mounted"): ("erase the worker's copy of the secret", "opening"),
        ("opening", "ready"): ("show the screen, start the clocks", "live"),
        ("starting", "retry"): ("destroy the machine, wait for another", "requested"),
        ("connecting", "retry"): ("destroy the machine, wait for another", "requested"),
        ("requested", "fail"): ("erase the secret and the manifest", "failed"),
        ("starting", "fail"): ("erase the secret and the manifest, destroy the machine", "failed"),
        ("connecting", "fail"): ("erase the secret and the manifest, destroy the machine", "failed"),
        ("opening", "fail"): ("erase the manifest, destroy the machine", "failed"),
        ("requested", "end"): ("nothing was given out", "ending"),
        ("starting", "end"): ("close screens", "ending"),
        ("connecting", "end"): ("close screens", "ending"),
        ("opening", "end"): ("close screens, fetch results", "ending"),
        ("live", "end"): ("close screens, fetch results", "ending"),
        ("ending", "ended"): ("erase the secret and the manifest; the machine is gone", "ended"),
    },
)  # fmt: skip

_TABLES: dict[type, StateTable] = {Machine: MACHINE, VmSession: VM_SESSION}

# A machine in one of these is on its way to be warm.
COMING_UP = ("ordered", "cloning", "cloned", "starting", "booting")
# A VM session in one of these has, or will have, a machine of its own.
ACTIVE = ("requested", "starting", "connecting", "opening", "live", "ending")
STARTING = ("requested", "starting", "connecting", "opening")


def move(
    db: Session, row: Machine | VmSession, event: str, *, only_if: Sequence[ColumnElement[bool]] = (), **values: Any
) -> Any:
    """`StateTable.move` with the table of this row. Raises StateConflict."""
    return _TABLES[type(row)].move(db, row, event, only_if=only_if, **values)
