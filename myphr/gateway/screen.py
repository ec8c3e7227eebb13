"""Screen gateway: carries one machine's display to one browser. Never sees records.

Speaks RFB only up to the security handshake on both sides (RFC 6143, 7.1 to 7.3); then pictures pass untouched and
what the browser says passes the filter of `myphr.gateway.rfb`. Asks `myphr.sharing.live` who may; a right taken back
closes its screens at once. Started by "python -m myphr.gateway screen". Format: docs/formats/ticket.md.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import logging
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import picows
import redis
import redis.asyncio
import uvloop
from redis.backoff import NoBackoff

from myphr.audit import trail
from myphr.database import Database, now
from myphr.errors import NotFound, PortalError, SessionOver, ShareClosed, TicketRefused
from myphr.gateway import rfb
from myphr.gateway.screen_dial import ConsoleSource, DialFailed, Dialled, dial
from myphr.gateway.screen_upstream import SharedBuffer, Upstream
from myphr.sharing import live, tickets

log = logging.getLogger("myphr.screen")

SUBPROTOCOL = "myphr.screen.1"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1")
SCREENS_MAX = 1000
SCREENS_PER_GRANT_MAX = 4  # one caregiver, a tablet and a computer, and a reconnection that overlaps
WRITE_HIGH_BYTES = 256 * 1024
FRAME_BYTES_MAX = 16 * 1024  # noVNC sends at most 10 KiB at once
OPEN_SECONDS_MAX = 60
DIAL_SECONDS_MAX = 20
DIALS_AT_ONCE = 16
TICK_SECONDS = 1.0
PING_SECONDS = 20
SILENT_SECONDS_MAX = 60
HEARTBEAT_SECONDS = 10
INPUT_SECONDS = 5
CHECK_SECONDS = 30
CHECK_SECONDS_WITHOUT_NEWS = 2  # while Redis is away nobody tells us of a withdrawal
LINGER_SECONDS = 2  # for the close frame to arrive, then the line is cut

# Close codes: docs/formats/ticket.md says what the page does with each.
LEFT, RESTARTING, TRY_LATER = 1000, 1012, 1013
MALFORMED, TICKET_REFUSED, WITHDRAWN, SILENT, OVER, TOO_MANY, NO_MACHINE = 4400, 4401, 4403, 4408, 4410, 4429, 4502


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a gateway needs, passed in by `main` or by a test."""

    database: Database
    redis_url: str
    ticket_key: bytes
    public_url: str
    consoles: ConsoleSource


class Screen(picows.WSListener):
    """One browser's WebSocket, from the upgrade to the end."""

    __slots__ = (
        "_gateway",
        "_heard_at",
        "_input_seen",
        "_input_told_at",
        "_pinged_at",
        "_reading",
        "_ticket_text",
        "_timer",
        "_writing_paused",
        "checked_at",
        "closed",
        "filter",
        "handshake",
        "noted_watched",
        "opened_at",
        "right",
        "since",
        "ticket",
        "transport",
        "upstream",
    )  # fmt: skip

    def __init__(self, gateway: "Gateway", ticket_text: str) -> None:
        super().__init__()
        self._gateway = gateway
        self._ticket_text = ticket_text
        self.ticket: tickets.ScreenTicket | None = None
        self.right: live.Right | None = None
        self.transport: Any = None
        self.upstream: Upstream | None = None
        self.handshake: rfb.BrowserHandshake | None = None
        self.filter: rfb.ClientMessages | None = None
        self.closed = False
        self._timer: asyncio.TimerHandle | None = None
        self.noted_watched = False
        self._reading, self._writing_paused = True, False
        self._input_seen = False
        self._input_told_at = 0.0
        self.since = time.time()
        self.opened_at = self.checked_at = self._heard_at = self._pinged_at = time.monotonic()

    # -- what picows tells ------------------------------------------------------------------------
    def on_ws_connected(self, transport: Any) -> None:
        self.transport = transport
        transport.underlying_transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._gateway.start(self)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if self.closed or transport.is_close_frame_sent:
            return  # picows parses on for some milliseconds after it has refused a frame
        self._heard_at = time.monotonic()
        kind = frame.msg_type
        if kind is picows.WSMsgType.BINARY or kind is picows.WSMsgType.CONTINUATION:
            self._receive(frame.get_payload_as_bytes())
        elif kind is picows.WSMsgType.CLOSE:
            self.close(LEFT, "")
        elif kind is picows.WSMsgType.TEXT:
            self.close(MALFORMED, "text")

    def on_ws_disconnected(self, _transport: Any) -> None:
        self.closed = True
        self._let_go()
        self._gateway.gone(self)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self.upstream is not None:
            self.upstream.pause()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self.upstream is not None and self.filter is not None:
            self.upstream.resume()

    # -- the stream -------------------------------------------------------------------------------
    def connect(self, dialled: Dialled, loop: asyncio.AbstractEventLoop, shared: SharedBuffer) -> None:
        """The right is checked and the hypervisor has answered: begin towards the browser."""
        self.upstream = Upstream(
            loop, dialled, shared, on_picture=self.transport.underlying_transport.write,
            on_room=self._input_wanted, on_lost=self._upstream_lost,
        )  # fmt: skip
        self.handshake = rfb.BrowserHandshake(dialled.server_init)
        self._send(self.handshake.begin())

    def _receive(self, data: bytes) -> None:
        try:
            if self.filter is None:
                if self.handshake is None:
                    raise rfb.RfbError("browser spoke first")
                answer = self.handshake.receive(data)
                if answer:
                    self._send(answer)
                if not self.handshake.done:
                    return
                assert self.right is not None and self.upstream is not None
                data, self.handshake = self.handshake.rest, None
                self.filter = rfb.ClientMessages(view_only=self.right.access != "control")
                self.upstream.deliver_early()
                if not self._writing_paused:
                    self.upstream.resume()
            passed = self.filter.feed(data)
        except rfb.RfbError as error:
            log.info("screen of %s refused: %s", self._name, error)
            self.close(MALFORMED, "protocol")
            return
        if passed and self.upstream is not None and not self.upstream.send(passed) and self._reading:
            self._reading = False
            self.transport.underlying_transport.pause_reading()
        self._input_seen = self.filter.take_input() or self._input_seen

    def _input_wanted(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self.transport.underlying_transport.resume_reading()

    def _upstream_lost(self) -> None:
        self.close(NO_MACHINE, "machine room")

    def _send(self, data: bytes) -> None:
        self.transport.send(picows.WSMsgType.BINARY, data)

    # -- the end ----------------------------------------------------------------------------------
    def close(self, code: int, reason: str) -> None:
        """Stops the picture at once, says why, and cuts the line soon, whether or not the browser listens."""
        if self.closed:
            return
        self.closed = True
        self._let_go()
        if self.transport is None or self.transport.is_disconnected:
            return
        underlying = self.transport.underlying_transport
        if not self._reading:
            underlying.resume_reading()  # the browser's own close frame must be able to arrive
        self.transport.send(picows.WSMsgType.CLOSE, struct.pack(">H", code) + reason.encode())
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, underlying.abort)
        self.transport.disconnect()

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None

    # -- time -------------------------------------------------------------------------------------
    @property
    def _name(self) -> str:
        return self.ticket.vm_session_id if self.ticket else "nobody"

    def tick(self, moment: float) -> None:
        if self.closed or self.transport is None:
            return
        if self.transport.is_close_frame_sent:  # picows refused a frame, and the browser takes no goodbye
            self.closed = True
            self._let_go()
            self.transport.underlying_transport.abort()
        elif self.filter is None and moment - self.opened_at > OPEN_SECONDS_MAX:
            self.close(NO_MACHINE, "too slow")
        elif self._reading and moment - self._heard_at > SILENT_SECONDS_MAX:
            self.close(SILENT, "silent")
        elif moment - self._pinged_at >= PING_SECONDS:
            self._pinged_at = moment
            self.transport.send_ping()

    def input_to_tell(self, moment: float) -> bool:
        """Whether there was input that is to be told now: at most every INPUT_SECONDS."""
        if not self._input_seen or moment - self._input_told_at < INPUT_SECONDS:
            return False
        self._input_seen, self._input_told_at = False, moment
        return True

    def grant_changed(self, right: live.Right) -> None:
        """A fresh answer of the database: follow a change of access, close on time."""
        narrowed = self._narrow(right)
        self.right = narrowed
        if self.filter is not None:
            self.filter.view_only = narrowed.access != "control"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if right.ends_at is not None and not self.closed:
            seconds = (right.ends_at - now()).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(
                min(max(seconds, 0) + 0.05, 86_400), self._gateway.check_soon, self
            )

    def _narrow(self, right: live.Right) -> live.Right:
        assert self.ticket is not None
        return right if self.ticket.access == "control" else dataclasses.replace(right, access="view")

    def ticket_text_once(self) -> str:
        text, self._ticket_text = self._ticket_text, ""
        return text


class Gateway:
    """All screens of one process. `serve` accepts, `drain` ends."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._origins = origins_of(parts.public_url)
        self._loop = asyncio.get_running_loop()
        # No silent retries: losing Redis is an event we act on (docs/decisions/0141).
        self._redis = redis.asyncio.Redis.from_url(
            parts.redis_url, socket_timeout=5, socket_connect_timeout=2, health_check_interval=10,
            retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
        )  # fmt: skip
        self._questions = concurrent.futures.ThreadPoolExecutor(4, "database")
        self._dials = concurrent.futures.ThreadPoolExecutor(DIALS_AT_ONCE, "dial")
        self._turns: dict[int, asyncio.Lock] = {}
        self._shared = SharedBuffer()
        self._connections: set[Screen] = set()
        self._by_grant: dict[str, set[Screen]] = collections.defaultdict(set)
        self._by_vm_session: dict[str, set[Screen]] = collections.defaultdict(set)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hears_news = asyncio.Event()
        self._checks_owed = 0.0
        self._draining = False
        self._server: asyncio.AbstractServer | None = None

    # -- accepting --------------------------------------------------------------------------------
    async def serve(self, host: str, port: int) -> tuple[str, int]:
        """Listens once the news of revocations is heard. Returns the address it got."""
        self._spawn(self._listen_for_news())
        self._spawn(self._watch_the_clock())
        await self._hears_news.wait()
        self._server = await picows.ws_create_server(
            self.admit, host, port, websocket_handshake_timeout=10, max_frame_size=FRAME_BYTES_MAX,
            read_buffer_init_size=2048, enable_auto_pong=True, logger_name="screen",
        )  # fmt: skip
        address = self._server.sockets[0].getsockname()  # type: ignore[attr-defined]
        return address[0], address[1]

    def admit(self, request: Any) -> Any:
        """Before the WebSocket is open: Origin, room, a ticket at all. What the ticket says is asked afterwards,
        because a page learns only close codes, not statuses."""
        headers = request.headers
        sent_origin = headers.get("Origin")
        if sent_origin is None or origin_of(sent_origin) not in self._origins or len(headers.getall("Origin")) != 1:
            return _refusal(403)
        if self._draining or len(self._connections) >= SCREENS_MAX:
            return _refusal(503)
        offered = [part.strip() for part in ",".join(headers.getall("Sec-WebSocket-Protocol", [])).split(",")]
        texts = [part.removeprefix("ticket.") for part in offered if part.startswith("ticket.")]
        if SUBPROTOCOL not in offered or len(texts) != 1:
            return _refusal(400)
        response = picows.WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": SUBPROTOCOL})
        return picows.WSUpgradeResponseWithListener(response, Screen(self, texts[0]))

    def start(self, screen: Screen) -> None:
        self._connections.add(screen)
        self._spawn(self._open(screen))

    async def _open(self, screen: Screen) -> None:
        try:
            await self._let_in(screen)
        except (TicketRefused, NotFound, ShareClosed, SessionOver) as error:
            screen.close(*_code_of(error))
        except (DialFailed, PortalError) as error:
            log.warning("screen of %s not opened: %s", screen._name, error)
            screen.close(NO_MACHINE, "machine room")
        except Exception as error:
            # Database or Redis away, or a fault of ours: nobody gets in unchecked.
            log.error("screen of %s not opened: %s", screen._name, type(error).__name__)
            screen.close(TRY_LATER, "cannot check")

    async def _let_in(self, screen: Screen) -> None:
        ticket = tickets.verify(self._parts.ticket_key, screen.ticket_text_once(), now())
        if not self._hears_news.is_set():
            raise redis.ConnectionError("no news")
        if not await self._redis.set(f"myphr:ticket:{ticket.jti}", b"1", nx=True, ex=60):
            raise TicketRefused("used before")
        if screen.closed:
            return
        if len(self._by_grant[ticket.grant]) >= SCREENS_PER_GRANT_MAX:
            screen.close(TOO_MANY, "too many")
            return
        # Known by its grant before the database is asked: a withdrawal in between finds it.
        screen.ticket = ticket
        self._by_grant[ticket.grant].add(screen)
        self._by_vm_session[ticket.vm_session_id].add(screen)
        right = await self._ask(ticket)
        if screen.closed:
            return
        screen.grant_changed(right)
        dialled = await self._dial(right)
        if screen.closed:
            dialled.sock.close()
            return
        # "Who looked" is written before the first picture, or there is no picture.
        assert screen.right is not None
        try:
            await self._in_thread(_note_watched, self._parts.database, ticket, right, screen.right.access)
        except BaseException:
            dialled.sock.close()
            raise
        screen.noted_watched = True
        if screen.closed:
            dialled.sock.close()
            await self._say_left(screen)
            return
        screen.connect(dialled, self._loop, self._shared)
        with contextlib.suppress(redis.RedisError, OSError):  # said again at the next heartbeat
            await self._tell_presence([screen])

    async def _dial(self, right: live.Right) -> Dialled:
        """One console at a time per machine, in this process and in all."""
        turn = self._turns.setdefault(right.vmid, asyncio.Lock())
        try:
            async with turn:
                lock = self._redis.lock(
                    f"myphr:console:{right.vmid}", timeout=DIAL_SECONDS_MAX + 10, sleep=0.05, blocking_timeout=30
                )
                if not await lock.acquire():
                    raise DialFailed("no turn at the console")
                try:
                    return await self._loop.run_in_executor(
                        self._dials,
                        functools.partial(
                            dial, self._parts.consoles, right.vmid, node=right.node, seconds_max=DIAL_SECONDS_MAX
                        ),
                    )
                finally:
                    with contextlib.suppress(redis.RedisError):  # expires by itself
                        await lock.release()
        finally:
            if not turn.locked():
                self._turns.pop(right.vmid, None)

    def gone(self, screen: Screen) -> None:
        """The socket is closed. Called once for each screen that was started."""
        self._connections.discard(screen)
        if screen.ticket is None:
            return
        for index, key in ((self._by_grant, screen.ticket.grant), (self._by_vm_session, screen.ticket.vm_session_id)):
            index[key].discard(screen)
            if not index[key]:
                del index[key]
        if screen.noted_watched:
            self._spawn(self._say_left(screen))

    # -- rights -----------------------------------------------------------------------------------
    async def _ask(self, ticket: tickets.ScreenTicket) -> live.Right:
        return await self._in_thread(
            functools.partial(
                live.right, self._parts.database, vm_session_id=ticket.vm_session_id, grant=ticket.grant,
                visit=ticket.visit, now=now(),
            )
        )  # fmt: skip

    def check_soon(self, screen: Screen) -> None:
        self._spawn(self._check(screen))

    async def _check(self, screen: Screen) -> None:
        """Asks the database again; whoever cannot be confirmed is closed."""
        if screen.closed or screen.ticket is None:
            return
        screen.checked_at = time.monotonic()
        try:
            right = await self._ask(screen.ticket)
        except (NotFound, ShareClosed, SessionOver) as error:
            screen.close(*_code_of(error))
        except Exception as error:
            log.error("right of %s cannot be checked: %s", screen._name, type(error).__name__)
            screen.close(TRY_LATER, "cannot check")
        else:
            if not screen.closed:
                screen.grant_changed(right)

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check(screen) for screen in list(self._connections)))

    async def _check_some(self, moment: float, passed: float) -> None:
        """The regular check of this tick: each screen once in every interval, not all at once."""
        interval = CHECK_SECONDS if self._hears_news.is_set() else CHECK_SECONDS_WITHOUT_NEWS
        due, self._checks_owed = due_for_check(list(self._connections), self._checks_owed, moment, passed, interval)
        await asyncio.gather(*(self._check(screen) for screen in due))

    async def _listen_for_news(self) -> None:
        pause = 0.1
        while True:
            try:
                async with self._redis.pubsub() as news:
                    await news.subscribe(live.REVOKED_CHANNEL)
                    while (await news.get_message(timeout=5) or {}).get("type") != "subscribe":
                        pass
                    # What was said while we did not listen is in the database.
                    self._hears_news.set()
                    await self._check_all()
                    pause = 0.1
                    while True:
                        message = await news.get_message(ignore_subscribe_messages=True, timeout=5)
                        if message and message["type"] == "message":
                            self._hear(message["data"].decode(errors="replace"))
            except (redis.RedisError, OSError) as error:
                if self._hears_news.is_set():
                    log.warning("Redis is away (%s): asking the database instead", type(error).__name__)
                    self._hears_news.clear()
                    await self._check_all()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    def _hear(self, news: str) -> None:
        if news.startswith("vm:"):
            for screen in list(self._by_vm_session.get(news.removeprefix("vm:"), ())):
                screen.close(OVER, "over")
        else:
            for screen in list(self._by_grant.get(news, ())):
                screen.close(WITHDRAWN, "withdrawn")

    # -- time -------------------------------------------------------------------------------------
    async def _watch_the_clock(self) -> None:
        ticked_at = told_at = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            moment = time.monotonic()
            passed, ticked_at = moment - ticked_at, moment
            for screen in list(self._connections):
                screen.tick(moment)
            await self._check_some(moment, passed)
            with contextlib.suppress(redis.RedisError, OSError):  # the news task sees to it
                await self._tell_input([screen for screen in self._connections if screen.input_to_tell(moment)])
                if moment - told_at >= HEARTBEAT_SECONDS:
                    told_at = moment
                    await self._tell_presence([screen for screen in self._connections if screen.noted_watched])

    async def _tell_input(self, screens: list[Screen]) -> None:
        for vm_session_id in {screen.ticket.vm_session_id for screen in screens if screen.ticket}:
            await self._redis.set(live.input_key(vm_session_id), int(time.time()), ex=86_400)

    async def _tell_presence(self, screens: list[Screen]) -> None:
        if not screens:
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            for screen in screens:
                if screen.ticket is None or screen.right is None or screen.closed:
                    continue
                key = live.presence_key(screen.ticket.vm_session_id)
                value = live.presence_value(screen.ticket.grant, screen.right.access, screen.since, time.time())
                pipe.hset(key, screen.ticket.jti, value)
                pipe.expire(key, 2 * live.PRESENCE_SECONDS)
            await pipe.execute()

    async def _say_left(self, screen: Screen) -> None:
        ticket, right = screen.ticket, screen.right
        if ticket is None or right is None or not screen.noted_watched:
            return
        screen.noted_watched = False
        with contextlib.suppress(redis.RedisError, OSError):
            await self._redis.hdel(live.presence_key(ticket.vm_session_id), ticket.jti)
        seconds = int(time.time() - screen.since)
        try:
            await self._in_thread(_note_left, self._parts.database, ticket, right, right.access, seconds)
        except Exception as error:
            log.error("screen of %s: leaving not noted: %s", screen._name, type(error).__name__)

    # -- the end ----------------------------------------------------------------------------------
    async def drain(self) -> None:
        """Stops accepting, tells every browser to come back, and waits until that is said and noted."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        for screen in list(self._connections):
            screen.close(RESTARTING, "restarting")
        deadline = time.monotonic() + LINGER_SECONDS + 3
        while self._connections and time.monotonic() < deadline:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.02)
        endless = {task for task in self._tasks if task.get_name() in ("_listen_for_news", "_watch_the_clock")}
        for task in endless:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        await self._redis.aclose()
        self._questions.shutdown(wait=False)
        self._dials.shutdown(wait=False)

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine, name=coroutine.__name__)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A dead news or clock task would leave rights unchecked: end the process, the supervisor starts another.
            log.critical("task %s failed", task.get_name(), exc_info=task.exception())
            signal.raise_signal(signal.SIGTERM)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._questions, function, *arguments)


class Checked(Protocol):
    checked_at: float


AnyChecked = TypeVar("AnyChecked", bound=Checked)


def due_for_check(
    screens: list[AnyChecked], owed: float, moment: float, passed: float, interval: float
) -> tuple[list[AnyChecked], float]:
    """Which screens to ask the database about in a tick `passed` seconds after the last, and the checks still owed.

    Each gets its turn at least every `interval` seconds, spread evenly over the ticks: to ask about 200 at once takes
    0.24 s of the processor, and all pictures wait for it."""
    owed = min(owed + passed / interval * len(screens), len(screens))
    turn = int(owed)
    oldest_first = sorted(screens, key=lambda screen: screen.checked_at)
    late = [screen for screen in oldest_first[turn:] if moment - screen.checked_at >= interval]
    return [*oldest_first[:turn], *late], max(owed - turn - len(late), 0.0)


def origin_of(url: str) -> str:
    """Scheme, host and port as browsers write an Origin (RFC 6454): lower case, no default port."""
    try:
        parts = urlsplit(url.strip())
        default = {"http": 80, "https": 443}.get(parts.scheme)
        port = f":{parts.port}" if parts.port is not None and parts.port != default else ""
        return f"{parts.scheme}://{(parts.hostname or '').lower()}{port}"
    except ValueError:
        return ""


def origins_of(public_url: str) -> frozenset[str]:
    """Where browsers may have our pages from. A portal on this very computer answers to its name and to its number, and
    people type either: passkeys send them to the name (myphr.people.second_factor)."""
    own = origin_of(public_url)
    scheme, _, rest = own.partition("://")
    host, colon, port = rest.partition(":")
    if host not in LOOPBACK_HOSTS:
        return frozenset({own})
    return frozenset(f"{scheme}://{one}{colon}{port}" for one in LOOPBACK_HOSTS)


def _refusal(status: int) -> Any:
    response = picows.WSUpgradeResponse.create_error_response(status)
    return picows.WSUpgradeResponseWithListener(response, None)


def _code_of(error: Exception) -> tuple[int, str]:
    if isinstance(error, TicketRefused):
        return TICKET_REFUSED, "ticket"
    if isinstance(error, SessionOver):
        return OVER, "over"
    return WITHDRAWN, "withdrawn"  # also for what never was: a stranger learns no difference


# -- "Who looked" -----------------------------------------------------------------------------------
def _who(ticket: tickets.ScreenTicket, right: live.Right) -> tuple[trail.Actor, str | None]:
    kind, _, grant_id = ticket.grant.partition(":")
    if kind == "share":
        return trail.Actor("caregiver", grant_id), grant_id
    return trail.Actor("patient", right.account_id), None


def _note_watched(database: Database, ticket: tickets.ScreenTicket, right: live.Right, access: str) -> None:
    actor, share = _who(ticket, right)
    with database.write() as db:
        trail.record(
            db, "screen-watched", account_id=right.account_id, actor=actor,
            vm_session=ticket.vm_session_id, share=share, access=access,
        )  # fmt: skip


def _note_left(database: Database, ticket: tickets.ScreenTicket, right: live.Right, access: str, seconds: int) -> None:
    actor, share = _who(ticket, right)
    with database.write() as db:
        trail.record(
            db, "screen-left", account_id=right.account_id, actor=actor,
            vm_session=ticket.vm_session_id, share=share, access=access, seconds=seconds,
        )  # fmt: skip


# -- the process ------------------------------------------------------------------------------------
async def run(parts: Parts, bind: str, *, ready: Callable[[str, int], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(parts)
    # What was imported stays: a full collection would walk all of it (70 ms) while every picture waits.
    gc.collect()
    gc.freeze()
    host, _, port = bind.rpartition(":")
    serving = loop.create_task(gateway.serve(host.strip("[]"), int(port)))
    stopping = loop.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        address = serving.result()
        log.info("listening on %s:%d", *address)
        if ready is not None:
            ready(*address)
        await stopping
    else:
        serving.cancel()
    await gateway.drain()


def main() -> None:
    """`python -m myphr.gateway screen`."""
    from myphr import settings
    from myphr.portal import Portal

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("picows").setLevel(logging.CRITICAL)  # would log request lines and peers
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(0.0005)  # database threads must not hold up pictures for the usual 5 ms
    portal = Portal(settings.load())
    parts = Parts(
        database=portal.database, redis_url=portal.settings.redis_url, ticket_key=portal.keys.ticket_key,
        public_url=portal.settings.public_url, consoles=portal.hypervisor,
    )  # fmt: skip
    uvloop.run(run(parts, portal.settings.screen_bind))
