"""One VM session's folder as the gateway holds it: the tree, the keys behind it, the results. In memory only.

A folder is opened with the secret that the guest presents and forgotten when the session ends; after a kill -9 the
guest's secret opens it again, results included. Knows no socket and no database. Called by `files_access`, `files_hub`.
"""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from myphr.crypto import envelope
from myphr.errors import EnvelopeError
from myphr.gateway import files_image, files_tree, ninep
from myphr.gateway.files_tree import Directory, MemoryBudget, Reading, Source
from myphr.gateway.results import Results, ResultsLimits
from myphr.gateway.results_spool import SpoolDamaged, sync_directory
from myphr.machines.left_over import OWNER_KEY, has_spool

log = logging.getLogger("myphr.files")

_SESSION_KEY = "key.session"
_ROOT_SPACE = ninep.Space(0, 0, 0, 0)


class Folder:
    """What one machine may see. Threads may read from it while the event loop serves names."""

    def __init__(self, vm_session_id: str, root: Directory, reading: Reading, results: Results | None) -> None:
        self.vm_session_id = vm_session_id
        self.root = root
        self.results = results
        self._reading = reading

    def forget(self) -> None:
        """Keys and opened bytes go; whoever still holds a file of it gets ESTALE. What is on disk stays sealed."""
        self._reading.opened.close()
        if self.results is not None:
            self.results.forget()


def open_folder(
    vm_session_id: str, secret: bytes, sources: Sequence[Source], *, created_ns: int, budget: MemoryBudget,
    damaged: Callable[[str], None], spool: Path, owner_public_key: bytes, results_bytes_max: int,
    later: Callable[[Callable[[], None]], None], clock_ns: Callable[[], int] = time.time_ns,
) -> Folder:  # fmt: skip
    """The folder of a VM session whose secret was found right. Blocks for the disk.

    Results that cannot be opened (damaged, or a full disk) leave the folder without a results/ directory: the study
    can be seen, nothing can be lost by writing, and the spool is kept as it is."""
    results = None
    if owner_public_key:
        try:
            key = _spool_key(spool / vm_session_id, secret, vm_session_id, owner_public_key)
            results = Results(
                spool / vm_session_id, key, vm_session_id, limits=ResultsLimits(results_bytes_max), clock_ns=clock_ns,
                later=later,
            )  # fmt: skip
        except (SpoolDamaged, EnvelopeError, OSError) as error:
            log.error("results of VM session %s cannot be opened: %s", vm_session_id, type(error).__name__)
    reading = Reading(budget, damaged)

    def results_root(parent: Directory, _qid: int) -> ninep.Node:
        assert results is not None
        results.above = parent
        return results.root

    root = files_tree.build(
        sources, reading=reading, times_ns=created_ns,
        space=results.space if results is not None else lambda: _ROOT_SPACE,
        results=results_root if results is not None else None,
    )  # fmt: skip
    try:
        root.add(files_image.NAME, files_image.Image(root), listed=False)
    except files_image.ImageTooBig:
        log.warning("the folder of VM session %s has no image: its guest asks for each file", vm_session_id)
    return Folder(vm_session_id, root, reading, results)


def _spool_key(directory: Path, secret: bytes, vm_session_id: str, owner_public_key: bytes) -> bytes:
    """The key of this session's spool: made once, wrapped under the session's secret, and sealed to the owner, who
    can so get at results whose machine was gone before the portal could make items of them."""
    wrapping = envelope.derive(secret, "myphr/results/1", vm_session_id.encode())
    context = envelope.context_for("results-key", vm_session_id)
    stored = directory / _SESSION_KEY
    if stored.exists():
        return envelope.unwrap(wrapping, stored.read_bytes(), context=context)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = os.urandom(32)
    sealed = envelope.seal_to(owner_public_key, key, context=envelope.context_for("results-owner", vm_session_id))
    _write(directory / OWNER_KEY, sealed)
    _write(stored, envelope.wrap(wrapping, key, context=context))
    sync_directory(directory)
    return key


def _write(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fdatasync(fd)
    new.replace(path)


def open_left_over(spool: Path, vm_session_id: str, key: bytes) -> Results:
    """The results of a session that ended without its gateway, with the spool key that their owner opened. Raises
    EnvelopeError for another key, SpoolDamaged, FileNotFoundError."""
    directory = spool / vm_session_id
    if not has_spool(spool, vm_session_id):
        raise FileNotFoundError(errno.ENOENT, "no results wait")
    results = Results(directory, key, vm_session_id, limits=ResultsLimits(0), clock_ns=time.time_ns)
    results.freeze()
    return results


def remove_spool(spool: Path, vm_session_id: str) -> None:
    """Every result is an item now."""
    shutil.rmtree(spool / vm_session_id, ignore_errors=True)
