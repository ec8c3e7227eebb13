"""The files gateway itself: which machine is on which socket, which folder it sees, and until when.

The database is the truth and is asked every second; Redis only brings the news sooner. A folder ends at once for its
guest, then its results become items, then its keys are forgotten. Built and run by `files_server`.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Protocol

import redis

from myphr.errors import EnvelopeError, NotFound
from myphr.gateway import files_folder, ninep
from myphr.gateway.files import Connection
from myphr.gateway.files_access import Access, AttachRefused, Claimed
from myphr.gateway.files_folder import Folder
from myphr.gateway.files_tree import MemoryBudget
from myphr.gateway.results import Results
from myphr.gateway.results_spool import SpoolDamaged
from myphr.machines import left_over

log = logging.getLogger("myphr.files")

CONNECTIONS_MAX = 4  # per machine; localpve's network carries one
THREADS = 8
READ_AHEAD_BYTES_MAX = 64 * 1024 * 1024
WRONG_SECRETS_MAX = 3  # on one connection; then it is dropped
REFUSAL_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # how long a refusal takes, by number of refusals so far
QUIET_SECONDS = 5  # a saved file that nobody touched for so long becomes an item
COLLECT_AGAIN_SECONDS = 15  # after a failure (a full store, an absent database)
NONSENSE_LOG_SECONDS = 60  # a guest must not be able to fill the log
SIGNAL_SECONDS = 86_400
DRAINED, LEFT_OVER = "drained", "left-over"


def results_key(vm_session_id: str) -> str:
    """The Redis key that tells the end job that results are safe: see docs/formats/folder.md."""
    return f"myphr:results:{vm_session_id}"


class Doors(Protocol):
    """Where guests come in: one per machine."""

    async def open(self, vmid: int, connect: Callable[[], Connection]) -> None: ...
    async def close(self, vmid: int) -> None: ...


@dataclasses.dataclass(eq=False)
class _Caller:
    """One machine that may call."""

    vmid: int
    machine_id: str
    connections: set[Connection] = dataclasses.field(default_factory=set)
    one_at_a_time: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    refusals: int = 0
    noted: set[str] = dataclasses.field(default_factory=set)
    vm_session_id: str | None = None
    nonsense_again_at: float = 0.0


@dataclasses.dataclass(eq=False)
class _Shown:
    """A folder that is open, or whose results are still being saved."""

    claimed: Claimed
    folder: Folder
    busy: bool = False
    again_at: float = 0.0
    over: bool = False


class Hub:
    """Belongs to one event loop."""

    def __init__(
        self, access: Access, doors: Doors, redis_client: redis.Redis, *,
        quiet_seconds: float = QUIET_SECONDS, refusal_seconds: tuple[float, ...] = REFUSAL_SECONDS,
    ) -> None:  # fmt: skip
        self._access = access
        self._doors = doors
        self._redis = redis_client
        self._quiet_ns = int(quiet_seconds * 10**9)
        self._refusal_seconds = refusal_seconds
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, "files")
        # Sealing results, and the database, never wait behind reads, nor reads behind them.
        self._side = concurrent.futures.ThreadPoolExecutor(4, "files-side")
        self._budget = MemoryBudget(READ_AHEAD_BYTES_MAX)
        self._callers: dict[int, _Caller] = {}
        self._shown: dict[str, _Shown] = {}
        self._saving: set[str] = set()  # left over, being saved
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what others see ------------------------------------------------------------------------------------
    @property
    def callers(self) -> Iterable[int]:
        return self._callers.keys()

    @property
    def shown(self) -> Iterable[str]:
        return self._shown.keys()

    @property
    def held_bytes(self) -> int:
        return sum(c.held_bytes for caller in self._callers.values() for c in caller.connections)

    def news(self) -> None:
        """Something may have changed: look now instead of within the second."""
        self._wake.set()

    # -- the life of the gateway ------------------------------------------------------------------------------
    async def run(self, *, every_seconds: float = 1.0) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except Exception as error:  # the database is away: go on with what is known, ask again
                log.error("cannot ask the database: %s", type(error).__name__)
            # Not wait_for: in Python 3.11 it swallows the end when news comes in the same moment, and we never stop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_seconds):
                    await self._wake.wait()

    async def look(self) -> None:
        """Compare what is open with what should be."""
        machines = await self._in_thread(self._access.machines)
        for vmid in [v for v, caller in self._callers.items() if machines.get(v) != caller.machine_id]:
            await self._remove(vmid)
        for vmid in machines.keys() - self._callers.keys():
            caller = self._callers[vmid] = _Caller(vmid, machines[vmid])
            try:
                await self._doors.open(vmid, functools.partial(self._connect, caller))
            except OSError as error:  # of this machine only; tried again in a second
                log.error("no door for machine %d: %s", vmid, error.strerror or type(error).__name__)
                del self._callers[vmid]
        over = await self._in_thread(self._access.over, [i for i, shown in self._shown.items() if not shown.over])
        for vm_session_id in over:
            self._end(vm_session_id)
        now = self._loop.time()
        for caller in self._callers.values():
            for connection in list(caller.connections):
                connection.tick(now)
        for shown in list(self._shown.values()):
            self._collect(shown, now)
        await self._signal()

    async def stop(self) -> None:
        """In good order: what guests wrote is made durable; they present their secret again afterwards."""
        for vmid in list(self._callers):
            await self._remove(vmid)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for shown in self._shown.values():
            if shown.folder.results is not None:
                await self._in_thread(shown.folder.results.settle)
            await self._in_thread(shown.folder.forget)
        self._threads.shutdown(wait=True)
        self._side.shutdown(wait=True)

    async def _remove(self, vmid: int) -> None:
        caller = self._callers.pop(vmid)
        for connection in list(caller.connections):
            connection.hang_up()
        await self._doors.close(vmid)

    def _later(self, work: Callable[[], None]) -> None:
        self._side.submit(work)

    def _in_thread(self, function: Callable, *args: object) -> "asyncio.Future":
        return self._loop.run_in_executor(self._side, function, *args)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- a guest calls ------------------------------------------------------------------------------------------
    def _connect(self, caller: _Caller) -> Connection:
        wrong = 0

        async def attach(uname: str, aname: str) -> ninep.Node | None:
            nonlocal wrong
            async with caller.one_at_a_time:
                try:
                    return await self._attach(caller, uname, aname)
                except AttachRefused as refused:
                    wrong += 1
                    await self._refuse(caller, refused)
                    if wrong >= WRONG_SECRETS_MAX:
                        return None
                    raise OSError(errno.EACCES, "refused") from None

        def lost(connection: Connection) -> None:
            caller.connections.discard(connection)
            now = self._loop.time()
            if connection.spoke_nonsense and now >= caller.nonsense_again_at:
                caller.nonsense_again_at = now + NONSENSE_LOG_SECONDS
                log.warning("machine %d spoke no 9P2000.L and was disconnected", caller.vmid)

        connection = Connection(attach, self._threads, lost)
        caller.connections.add(connection)
        if len(caller.connections) > CONNECTIONS_MAX or self._callers.get(caller.vmid) is not caller:
            connection.hang_up()
        return connection

    async def _refuse(self, caller: _Caller, refused: AttachRefused) -> None:
        """Slower each time, and one line in the trail for each kind: a guest must not be able to fill it."""
        delay = self._refusal_seconds[min(caller.refusals, len(self._refusal_seconds) - 1)]
        caller.refusals += 1
        if refused.reason not in caller.noted:
            caller.noted.add(refused.reason)
            try:
                await self._in_thread(self._access.note_refused, refused, caller.vmid)
            except Exception as error:
                log.error("a refusal could not be noted: %s", type(error).__name__)
        await asyncio.sleep(delay)

    async def _attach(self, caller: _Caller, uname: str, aname: str) -> ninep.Node:
        claimed: Claimed = await self._in_thread(self._access.claim, caller.vmid, uname, aname)
        shown = self._shown.get(claimed.vm_session_id)
        if shown is None:

            def open_folder() -> Folder:
                return self._access.open_folder(claimed, aname, budget=self._budget, later=self._later)

            folder = await self._in_thread(open_folder)
            # Nothing else opens this folder meanwhile: one machine, one attach at a time.
            shown = self._shown[claimed.vm_session_id] = _Shown(claimed, folder)
        caller.vm_session_id = claimed.vm_session_id
        if shown.over or self._callers.get(caller.vmid) is not caller:
            raise AttachRefused("not-open", claimed.machine_id, claimed.account_id)
        return shown.folder.root

    # -- a session ends -----------------------------------------------------------------------------------------
    def _end(self, vm_session_id: str) -> None:
        shown = self._shown[vm_session_id]
        shown.over = True
        shown.again_at = 0.0
        if shown.folder.results is not None:
            shown.folder.results.freeze()
        for caller in self._callers.values():
            if caller.vm_session_id == vm_session_id:
                for connection in list(caller.connections):
                    connection.hang_up()

    def _collect(self, shown: _Shown, now: float) -> None:
        results = shown.folder.results
        if shown.busy or now < shown.again_at:
            return
        if not shown.over and (results is None or not (results.due(self._quiet_ns) or results.withdrawn)):
            return
        shown.busy = True
        self._spawn(self._collecting(shown, results))

    async def _collecting(self, shown: _Shown, results: Results | None) -> None:
        vm_session_id = shown.claimed.vm_session_id
        try:
            if results is not None:
                await self._in_thread(self._save, shown.claimed, results, None if shown.over else self._quiet_ns)
            if shown.over:
                await self._in_thread(shown.folder.forget)
                if results is not None:
                    await self._in_thread(files_folder.remove_spool, self._access.spool, vm_session_id)
                del self._shown[vm_session_id]
                self.news()
        except NotFound:  # the account is closed: there is no record to save to, and none will come
            shown.folder.forget()
            files_folder.remove_spool(self._access.spool, vm_session_id)
            self._shown.pop(vm_session_id, None)
        except Exception as error:
            # Nothing is lost: the spool keeps it, the keys are still here, and it is tried again.
            log.error("results of VM session %s are not saved yet: %s", vm_session_id, type(error).__name__)
            shown.again_at = self._loop.time() + COLLECT_AGAIN_SECONDS
        finally:
            shown.busy = False

    async def left_over(self, vm_session_id: str, key: bytes) -> dict[str, object]:
        """Save what a session left whose guest never came back, with the key that its owner opened."""
        if vm_session_id in self._shown or vm_session_id in self._saving:
            return {"error": "not-over"}
        self._saving.add(vm_session_id)
        try:
            return await self._in_thread(self._left_over_now, vm_session_id, key)
        except Exception as error:
            log.error("left-over results of VM session %s are not saved: %s", vm_session_id, type(error).__name__)
            return {"error": "not-saved"}
        finally:
            self._saving.discard(vm_session_id)

    def _left_over_now(self, vm_session_id: str, key: bytes) -> dict[str, object]:
        """In a thread."""
        claimed = self._access.ended(vm_session_id)
        if claimed is None:
            return {"error": "not-over"}
        try:
            results = files_folder.open_left_over(self._access.spool, vm_session_id, key)
        except FileNotFoundError:
            files_folder.remove_spool(self._access.spool, vm_session_id)  # opened once, and nothing was ever written
            return {"error": "no-spool"}
        except (EnvelopeError, ValueError):
            return {"error": "key-refused"}
        except SpoolDamaged:
            return {"error": "spool-damaged"}
        try:
            saved = self._save(claimed, results, None)
        finally:
            results.forget()
        if results.due(None):
            return {"error": "not-saved"}
        files_folder.remove_spool(self._access.spool, vm_session_id)
        return {"items": saved}

    def _save(self, claimed: Claimed, results: Results, quiet_ns: int | None) -> int:
        """In a thread: results into items. How many."""

        def make_item(path: str, chunks: Iterator[bytes]) -> str:
            return self._access.make_item(claimed, path, chunks)

        def withdraw(item_ids: list[str]) -> None:
            self._access.withdraw(claimed, item_ids)

        saved = saved_bytes = 0
        for file in results.due(quiet_ns):
            size = file.sealed.size
            if results.collect(file, make_item, withdraw):
                saved += 1
                saved_bytes += size
        results.withdraw(withdraw)
        if saved:
            self._access.note_saved(claimed, saved, saved_bytes)
        return saved

    async def _signal(self) -> None:
        """Tell the end job of each ending session whether its results are in the record."""
        ending = await self._in_thread(self._access.ending)
        for vm_session_id in ending:
            if vm_session_id in self._shown:
                continue
            left = await self._in_thread(left_over.has_spool, self._access.spool, vm_session_id)
            try:
                # Each round anew while the session ends: a Redis killed within a second of the first forgets it.
                await self._in_thread(self._set_signal, vm_session_id, LEFT_OVER if left else DRAINED)
            except redis.RedisError as error:
                log.warning("cannot tell that results are saved: %s", type(error).__name__)
                return
            if not left:  # opened, but nothing was ever written
                await self._in_thread(files_folder.remove_spool, self._access.spool, vm_session_id)

    def _set_signal(self, vm_session_id: str, value: str) -> None:
        self._redis.set(results_key(vm_session_id), value, ex=SIGNAL_SECONDS)
