"""One guest's connection to the files gateway: bytes of a socket into `ninep.Core`, its work into threads.

Every queue is bounded: when a bound is reached we stop reading, and the guest waits. A connection takes turns with
all others, so a flood from one machine costs the others nothing but their share. Started by `files_hub`, which says
what a machine may see; knows no database and no key.
"""

import asyncio
import concurrent.futures
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from myphr.errors import PortalError, StoreFull
from myphr.gateway import ninep

log = logging.getLogger("myphr.files")

STEPS_PER_TURN = 32  # messages handled before the others have their turn
WORKS_MAX = 4  # pieces of work of one connection in the threads at once
REPLY_BYTES_MAX = 2 * 1024 * 1024  # of replies being made; four full reads
SEND_BYTES_MAX = 1024 * 1024  # unsent, then nothing more is made
_SO_SNDBUFFORCE = 32  # socket(7)
HALF_MESSAGE_SECONDS_MAX = 30  # a message whose rest does not come: a guest that was cut off, or a hostile one

Attach = Callable[[str, str], Awaitable[ninep.Node | None]]
"""Shows a secret: (uname, aname) -> the root that may be seen; None to hang up; OSError to refuse."""


class Connection(asyncio.Protocol):
    """Belongs to one event loop."""

    def __init__(
        self, attach: Attach, threads: concurrent.futures.Executor, on_lost: Callable[["Connection"], None]
    ) -> None:
        self._core = ninep.Core()
        self._attach = attach
        self._threads = threads
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._running = 0
        self._reply_bytes = 0
        self._send_paused = False
        self._read_paused = False
        self._scheduled = False
        self._half_since: float | None = None
        self.spoke_nonsense = False
        self._hung_up = False
        self._attaching: set[asyncio.Task[None]] = set()

    # -- asyncio ------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._hung_up:  # one too many: decided before there was anything to hang up
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=SEND_BYTES_MAX)
        try:  # a whole reply at once, not three pieces with waits between; only root may pass the system's limit
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BYTES_MAX)
        except OSError:
            pass

    def data_received(self, received: bytes) -> None:
        if self._transport is None:
            return
        self._core.receive(received)
        self._half_since = None
        if not self._scheduled:
            self._pump()

    def eof_received(self) -> None:
        return None  # closes

    def pause_writing(self) -> None:
        self._send_paused = True

    def resume_writing(self) -> None:
        self._send_paused = False
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for task in self._attaching:
            task.cancel()
        for work in self._core.close():
            self._start(work)
        self._on_lost(self)

    # -- towards the hub ------------------------------------------------------------------------------------
    def hang_up(self) -> None:
        """At once, unsent replies and all."""
        self._hung_up = True
        if self._transport is not None:
            self._transport.abort()

    def tick(self, now: float) -> None:
        """Called about once a second with the loop's time."""
        if self._transport is None or self._read_paused or not self._core.mid_message:
            self._half_since = None
        elif self._half_since is None:
            self._half_since = now
        elif now - self._half_since > HALF_MESSAGE_SECONDS_MAX:
            self.hang_up()

    @property
    def held_bytes(self) -> int:
        """Memory that this connection makes us hold: for tests and the log."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._core.waiting_bytes + self._reply_bytes + unsent

    # -- messages -------------------------------------------------------------------------------------------
    def _blocked(self) -> bool:
        return (
            self._send_paused or self._running >= WORKS_MAX or self._reply_bytes >= REPLY_BYTES_MAX
            or self._core.outstanding >= ninep.REQUESTS_MAX
        )  # fmt: skip

    def _pump(self) -> None:
        self._scheduled = False
        transport = self._transport
        if transport is None:
            return
        replies: list[Any] = []
        steps = 0
        try:
            while not self._blocked():
                if steps == STEPS_PER_TURN:
                    self._scheduled = True
                    break
                output = self._core.step()
                if output is None:
                    break
                steps += 1
                if isinstance(output, ninep.Work):
                    self._start(output)
                else:
                    replies.extend(output)
        except ninep.ProtocolError:
            self.spoke_nonsense = True
            transport.abort()
            return
        if replies:
            transport.writelines(replies)
        if self._scheduled:
            self._loop.call_soon(self._pump)
        self._read(paused=self._scheduled or self._blocked())

    def _read(self, *, paused: bool) -> None:
        if paused != self._read_paused and self._transport is not None and not self._transport.is_closing():
            self._read_paused = paused
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # -- work -----------------------------------------------------------------------------------------------
    def _start(self, work: ninep.Work) -> None:
        self._running += 1
        self._reply_bytes += work.reply_bytes
        if isinstance(work, ninep.Attach):
            task = self._loop.create_task(self._do_attach(work))
            self._attaching.add(task)
            task.add_done_callback(self._attaching.discard)
            return
        future = self._loop.run_in_executor(self._threads, work.run)
        future.add_done_callback(lambda done: self._done(work, done))

    def _done(self, work: ninep.Work, done: "asyncio.Future[Any]") -> None:
        if done.cancelled():
            outputs = self._core.fail(work, errno.EIO)
        else:
            failure = done.exception()
            if failure is None:
                outputs = self._core.finish(work, done.result())
            else:
                outputs = self._core.fail(work, _errno_of(failure))
        self._after(work, outputs)

    async def _do_attach(self, work: ninep.Attach) -> None:
        try:
            root = await self._attach(work.uname, work.aname)
        except asyncio.CancelledError:
            self._after(work, self._core.fail(work, errno.EIO))
            raise
        except Exception as failure:
            self._after(work, self._core.fail(work, _errno_of(failure)))
            return
        if root is None:
            self._after(work, [])
            self.hang_up()
            return
        self._after(work, self._core.finish(work, root))

    def _after(self, work: ninep.Work, outputs: list[ninep.Output]) -> None:
        self._running -= 1
        self._reply_bytes -= work.reply_bytes
        replies: list[Any] = []
        for output in outputs:
            if isinstance(output, ninep.Work):
                self._start(output)
            else:
                replies.extend(output)
        if self._transport is not None:
            if replies:
                self._transport.writelines(replies)
            if not self._scheduled:
                self._pump()


def _errno_of(failure: BaseException) -> int:
    if isinstance(failure, OSError) and failure.errno:
        return failure.errno
    if isinstance(failure, StoreFull):
        return errno.ENOSPC
    if not isinstance(failure, PortalError):
        log.error("unexpected %s while serving a guest", type(failure).__name__)
    return errno.EIO
