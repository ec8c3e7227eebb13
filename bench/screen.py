"""The screen gateway against websockify 0.13 and nginx, in front of the same fake VNC server.

Same machine, same run, turns interleaved. Three parts: memory per open screen (fresh processes), bytes per processor
second (rounds, ratios within a round, median), added round trip of an input event (hundreds of short turns in changing
order, so that whatever else the machine does meets everybody alike). Unix-socket upstream (as websockify has it; nginx
speaks WebSocket to the same server) and WebSocket over TLS (as Proxmox has it; websockify cannot). Two references say
what is nobody's fault: "direct" has no gateway at all, "bare relay" only receives and sends.

Prints figures, ratios and which targets are met; asserts nothing. A target for p99 is called met or missed only if the
95 % interval of its ratio lies on one side; otherwise it says "open". Under each target that is missed stands the
profile of our gateway under the same load; `--profile` prints it for all. nginx does not verify the upstream's
certificate, the gateway does. `python -m bench.screen [rounds] [memory] [bytes] [events] [--profile]`: all three
parts unless some are named.
"""

import asyncio
import dataclasses
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

import numpy
import uvloop

from bench.profile import profile
from bench.screen_line import BLOCK, Client
from bench.screen_stage import Target, opened, stage

SCREENS = (1, 50, 200)
VOLUME = 1024 * 1024 * 1024
PARTS = ("memory", "bytes", "events")
TURNS = 100
EVENTS = {1: 60, 50: 6, 200: 2}  # per screen and turn
SPREAD_SECONDS = {1: 0.008, 50: 0.06, 200: 0.12}  # between two events of a screen, at most: people do not act in step
DRAWS = 1000
LEAST_MS = 0.05  # an added p99 below this is taken as this: a ratio of two nothings says nothing
ALL = slice(None)


@dataclasses.dataclass
class Figures:
    """`rates` in MB per processor second, one a round; `turns` in ms, one list a turn."""

    rates: list[float] = dataclasses.field(default_factory=list)
    turns: list[list[float]] = dataclasses.field(default_factory=list)
    on_cpu: float = 0.0
    waited: float = 0.0
    kib: float = 0.0
    kib_later: float = 0.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    what: str
    text: str
    met: bool | None  # None: the interval lies on both sides
    target: Target
    screens: int
    kind: str  # "bytes", "events" or "memory"


# -- what a browser does ------------------------------------------------------------------------------
async def open_all(target: Target, screens: int) -> list[Client]:
    clients = [await opened(target) for _ in range(screens)]
    await asyncio.gather(*(client.take(8) for client in clients))  # every screen has shown a picture
    return clients


def hang_up(clients: list[Client]) -> None:
    for client in clients:
        client.transport.abort()


async def pour(clients: list[Client], volume: int = VOLUME) -> None:
    await asyncio.gather(*(client.take(volume // BLOCK // len(clients)) for client in clients))


async def act(clients: list[Client], events: int) -> list[float]:
    """Round trips in ms."""
    spread = SPREAD_SECONDS[len(clients)]

    async def one(client: Client) -> list[float]:
        times = []
        for _ in range(events):
            await asyncio.sleep(random.uniform(0, spread))
            times.append(await client.echo() * 1000)
        return times

    return [each for times in await asyncio.gather(*(one(client) for client in clients)) for each in times]


# -- the three parts ----------------------------------------------------------------------------------
async def measure_memory(target: Target, figures: Figures) -> None:
    """What one more screen costs: 200 of them, after a few have come and gone (threads, pools, imports)."""
    screens = max(SCREENS)
    hang_up(await open_all(target, 4))
    await asyncio.sleep(1.5)
    before = target.memory()
    clients = await open_all(target, screens)
    try:
        await asyncio.sleep(0.5)
        figures.kib = (target.memory() - before) / screens / 1024
        await pour(clients)
        await asyncio.sleep(0.5)
        figures.kib_later = (target.memory() - before) / screens / 1024
    finally:
        hang_up(clients)
        await asyncio.sleep(0.5)


async def measure_rate(target: Target, screens: int, figures: Figures) -> None:
    clients = await open_all(target, screens)
    try:
        used = target.cpu()
        await pour(clients)
        used = target.cpu() - used
        figures.rates.append(VOLUME // BLOCK // screens * screens * BLOCK / 1e6 / max(used, 0.01))
    finally:
        hang_up(clients)
        await asyncio.sleep(0.3)


async def measure_events(targets: list[Target], screens: int, found: dict[tuple[str, int], Figures]) -> None:
    """All lines stay open; in each turn every one of them is used, one after the other, in an order of its own."""
    lines: list[tuple[Target, list[Client]]] = []
    try:
        for target in targets:
            lines.append((target, await open_all(target, screens)))
        for clients in (clients for _, clients in lines):
            await act(clients, 2)
        for _ in range(TURNS):
            for target, clients in random.sample(lines, len(lines)):
                figures = found[target.name, screens]
                on, waited = target.waiting()
                figures.turns.append(await act(clients, EVENTS[screens]))
                on_after, waited_after = target.waiting()
                figures.on_cpu += on_after - on
                figures.waited += waited_after - waited
    finally:
        for _, clients in lines:
            hang_up(clients)
        await asyncio.sleep(0.5)


# -- what the figures say -----------------------------------------------------------------------------
def point(turns: numpy.ndarray, share: float) -> float:
    times = turns.ravel()
    place = min(int(times.size * share), times.size - 1)
    return float(numpy.partition(times, place)[place])


def added(figures: Figures, direct: Figures, picked: numpy.ndarray | slice = ALL) -> float:
    """How much later the 99th of 100 events is answered than without a gateway, in ms."""
    with_it, without = (numpy.array(each.turns)[picked] for each in (figures, direct))
    return max(point(with_it, 0.99) - point(without, 0.99), LEAST_MS)


def ratio_of_added(ours: Figures, theirs: Figures, direct: Figures) -> tuple[float, float, float]:
    """The ratio and its 95 % interval: whole turns are drawn again (bootstrap), the same ones for all three."""
    drawn = []
    generator = numpy.random.default_rng()
    for _ in range(DRAWS):
        picked = generator.integers(0, TURNS, TURNS)
        drawn.append(added(ours, direct, picked) / added(theirs, direct, picked))
    drawn.sort()
    return added(ours, direct) / added(theirs, direct), drawn[int(DRAWS * 0.025)], drawn[int(DRAWS * 0.975)]


def judge(targets: list[Target], found: dict[tuple[str, int], Figures], parts: list[str]) -> list[Verdict]:
    by_name = {target.name: target for target in targets}
    verdicts = []
    ours = by_name["gateway"]
    for screens in SCREENS if "bytes" in parts else ():
        pairs = zip(found["gateway", screens].rates, found["websockify", screens].rates, strict=True)
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        middle = statistics.median(ratios)
        verdicts.append(Verdict(
            f"bytes per CPU second against websockify, {screens} screens",
            f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), target >= 3", middle >= 3, ours, screens, "bytes",
        ))  # fmt: skip
    for name in ("gateway", "gateway, TLS") if "memory" in parts else ():
        figures = found[name, max(SCREENS)]
        worst = max(figures.kib, figures.kib_later)
        verdicts.append(Verdict(
            f"KiB per screen, {name}, {max(SCREENS)} screens",
            f"{figures.kib:.0f}, after 1 GiB of pictures {figures.kib_later:.0f}, target <= 40", worst <= 40,
            by_name[name], max(SCREENS), "memory",
        ))  # fmt: skip
    comparisons = [
        ("gateway", "websockify", "<", 1.0),
        ("gateway", "nginx", "<=", 2.0),
        ("gateway, TLS", "nginx, TLS", "<=", 2.0),
    ]
    for screens in SCREENS if "events" in parts else ():
        for mine, peer, sign, limit in comparisons:
            if peer not in by_name:
                continue
            value, low, high = ratio_of_added(*(found[name, screens] for name in (mine, peer, "direct")))
            verdicts.append(Verdict(
                f"added p99 of {mine} against {peer}, {screens} screens",
                f"{value:.2f} (95 % between {low:.2f} and {high:.2f}), target {sign} {limit:.0f}",
                True if high < limit else False if low > limit else None, by_name[mine], screens, "events",
            ))  # fmt: skip
    return verdicts


def print_table(targets: list[Target], found: dict[tuple[str, int], Figures]) -> None:
    head = f"{'':13}{'screens':>8}{'MB/CPU s':>10}{'p50 ms':>8}{'p99 ms':>8}{'added p99':>10}"
    print(f"{head}{'us/event':>10}{'waited us':>10}{'KiB/screen':>11}{'later':>7}")

    def cell(value: float | None, width: int, digits: int = 0) -> str:
        return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"

    for target in targets:
        for screens in SCREENS:
            figures, own = found[target.name, screens], target.pid is not None
            turns = numpy.array(figures.turns) if figures.turns else None
            print(
                f"{target.name:13}{screens:>8}"
                + cell(statistics.median(figures.rates) if figures.rates else None, 10)
                + cell(point(turns, 0.5) if turns is not None else None, 8, 2)
                + cell(point(turns, 0.99) if turns is not None else None, 8, 2)
                + cell(added(figures, found["direct", screens]) if own and turns is not None else None, 10, 2)
                + cell(figures.on_cpu / turns.size * 1e6 if own and turns is not None else None, 10)
                + cell(figures.waited / turns.size * 1e6 if own and turns is not None else None, 10)
                + cell(figures.kib or None, 11)
                + cell(figures.kib_later or None, 7)
            )


async def explain(verdict: Verdict) -> list[str]:
    """The profile of our gateway under the load of that target."""
    pids = [process.pid for process in verdict.target.processes()]
    if verdict.kind == "memory":
        early = mapped(pids)
        clients = await open_all(verdict.target, verdict.screens)
        await pour(clients)
        late = mapped(pids)
        hang_up(clients)
        shares = (f"{kind} {(late[kind] - early.get(kind, 0)) / verdict.screens:.1f}" for kind in late)
        return [f"KiB a screen, by kind of mapping: {', '.join(shares)}"]
    clients = await open_all(verdict.target, verdict.screens)
    try:
        if verdict.kind == "bytes":
            return await profile(pids, lambda: pour(clients, 2 * VOLUME))
        return await profile(pids, lambda: act(clients, 10 * EVENTS[verdict.screens]))
    finally:
        hang_up(clients)
        await asyncio.sleep(0.3)


def mapped(pids: list[int]) -> dict[str, int]:
    """KiB in memory: of the heap, of other anonymous memory (arenas of threads, pools of Python), of files."""
    found: dict[str, int] = {}
    kind = ""
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            parts = line.split()
            if not parts[0].endswith(":"):
                name = parts[5] if len(parts) > 5 else ""
                kind = "heap" if name == "[heap]" else "file" if name.startswith("/") else "anonymous"
            elif parts[0] == "Pss:":
                found[kind] = found.get(kind, 0) + int(parts[1])
    return found


def main() -> None:
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    parts = [part for part in PARTS if part in sys.argv[1:]] or list(PARTS)
    rounds = numbers[0] if numbers else 3
    print(f"load at the start {os.getloadavg()[0]:.1f}, {VOLUME >> 20} MiB a measurement, median of {rounds} rounds; "
          f"{TURNS} turns of round trips", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="myphr-bench-") as name, stage(Path(name)) as targets:
        found = {(target.name, screens): Figures() for target in targets for screens in SCREENS}

        async def run() -> None:
            for target in targets if "memory" in parts else ():
                if not target.reference:
                    await measure_memory(target, found[target.name, max(SCREENS)])
            for _ in range(rounds if "bytes" in parts else 0):
                for screens in SCREENS:
                    for target in targets:
                        if target.pid is not None:
                            await measure_rate(target, screens, found[target.name, screens])
            for screens in SCREENS if "events" in parts else ():
                await measure_events(targets, screens, found)
            print_table(targets, found)
            print(f"load at the end {os.getloadavg()[0]:.1f}")
            for verdict in judge(targets, found, parts):
                word = {True: "met   ", False: "MISSED", None: "open  "}[verdict.met]
                print(f"{word} {verdict.what}: {verdict.text}", flush=True)
                if verdict.met is False or "--profile" in sys.argv:
                    for line in await explain(verdict):
                        print(f"         {line}", flush=True)

        uvloop.run(run())


if __name__ == "__main__":
    main()
