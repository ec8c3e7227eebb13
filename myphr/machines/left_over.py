"""Results that a session left behind, because the files gateway had died and the guest never came back: found and
handed over while their owner is signed in, for only the owner's ring opens the spool's key (docs/formats/folder.md).

The keys are opened within the request; a thread of its own hands them to the gateway and holds no ring. Nothing here
ever raises towards the page, and asking twice is harmless. Called by web; the gateway takes the names from here.
"""

import base64
import json
import logging
import socket
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sqlmodel import col, select

from myphr.crypto import envelope
from myphr.errors import EnvelopeError
from myphr.machines.models import VmSession
from myphr.machines.parts import Parts
from myphr.machines.states import VM_SESSION

DOOR = "left-over.sock"  # below the run folder: the files gateway listens
OWNER_KEY = "key.owner"  # in each session's spool: its key, sealed to the owner
SEALED_BYTES_MAX = 8192  # a key sealed to the owner is 1.2 KiB
ANSWER_SECONDS_MAX = 600  # sealing 1 GiB of results on a slow disk; nobody waits for it

log = logging.getLogger(__name__)


class Ring(Protocol):
    """What of the owner's key ring is needed (`people.keyring.KeyRing`)."""

    def open(self, sealed: bytes, *, context: bytes) -> bytes: ...


def spool_of(parts: Parts) -> Path:
    return parts.settings.spool_dir / "results"


def has_spool(spool: Path, vm_session_id: str) -> bool:
    """Whether results of this session wait on disk."""
    try:
        return (spool / vm_session_id / "journal").stat().st_size > 0
    except FileNotFoundError:
        return False


def owner_opens(spool: Path, vm_session_id: str, ring: Ring) -> bytes:
    """The spool's key. Raises EnvelopeError when it is sealed to somebody else, OSError when it is not there."""
    with open(spool / vm_session_id / OWNER_KEY, "rb") as file:
        sealed = file.read(SEALED_BYTES_MAX)
    return ring.open(sealed, context=envelope.context_for("results-owner", vm_session_id))


def bring_in(parts: Parts, account_id: str, ring: Ring) -> threading.Thread | None:
    """Start saving what sessions of this account left over; the thread that does, or None if nothing waits. Never
    raises: signing in must not fail for it, and what waits goes on waiting for the next time."""
    try:
        found = _keys(parts, account_id, ring)
    except Exception as error:
        log.error("left-over results could not be looked for: %s", type(error).__name__)
        return None
    if not found:
        return None
    door = parts.settings.run_dir / DOOR
    thread = threading.Thread(target=_hand_over, args=(door, found), name="left-over", daemon=True)
    thread.start()
    return thread


def _keys(parts: Parts, account_id: str, ring: Ring) -> list[tuple[str, bytes]]:
    spool = spool_of(parts)
    if not spool.is_dir():
        return []
    names = [path.name for path in spool.iterdir() if _is_id(path.name)]
    if not names:
        return []
    with parts.database.read() as db:
        own = db.exec(
            select(VmSession.id).where(
                VmSession.account_id == account_id, col(VmSession.state).in_(("ending", *VM_SESSION.final))
            )
        ).all()
    found = []
    for vm_session_id in set(own).intersection(names):
        try:
            found.append((vm_session_id, owner_opens(spool, vm_session_id, ring)))
        except FileNotFoundError:
            continue  # saved just now
        except (EnvelopeError, OSError) as error:
            log.error("left-over results of VM session %s do not open: %s", vm_session_id, type(error).__name__)
    return found


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _hand_over(door: Path, found: Sequence[tuple[str, bytes]]) -> None:
    for vm_session_id, key in found:
        try:
            answer = ask(door, vm_session_id, key)
        except (OSError, ValueError) as error:
            log.warning("left-over results of VM session %s still wait: %s", vm_session_id, type(error).__name__)
        else:
            # "no-spool" and "not-over": it is being saved by itself, or has been just now.
            log.info("left-over results of VM session %s: %s", vm_session_id, answer.get("error", "saved"))


def ask(door: Path, vm_session_id: str, key: bytes) -> dict[str, object]:
    """Hand one key to the files gateway; its answer. Raises OSError when it is away, ValueError for no answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS_MAX)
        connection.connect(str(door))
        line = json.dumps({"vm_session": vm_session_id, "key": base64.b64encode(key).decode()})
        connection.sendall(line.encode() + b"\n")
        with connection.makefile("rb") as reader:
            return json.loads(reader.readline(4096))
