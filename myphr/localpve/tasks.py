"""Tasks: work that runs on after its call was answered, named by a UPID, with a log and an exit status.

A task's row is written before its work starts and closed when it ends, so one that a crash cut off is found and closed
as "unexpected status" at the next start. Knows nothing of what the work is. Called by `api` and `machines`.
"""

import asyncio
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from myphr.localpve.access import Identity
from myphr.localpve.replies import ApiError, ParameterErrors, TaskFailed
from myphr.localpve.state import State

KEPT_TASKS_MAX = 1000
LOG_LINES_MAX = 2000
_UPID = re.compile(r"UPID:([^:]+):([0-9A-F]{8}):([0-9A-F]{8,9}):([0-9A-F]{8}):([^:\s]+):([^:\s]*):([^:\s]+):")


class Task:
    """One running task, as its work sees it: `log(line)` and `fail(text)`."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.lines: list[str] = []
        self.running: asyncio.Task[None] | None = None

    @property
    def upid(self) -> str:
        return self.document["upid"]

    def log(self, text: str) -> None:
        if len(self.lines) < LOG_LINES_MAX:
            self.lines.extend(text.split("\n"))


Work = Callable[[Task], Awaitable[None]]


class Tasks:
    """Starts tasks and answers for them. `node` stands in every UPID."""

    def __init__(self, state: State, node: str) -> None:
        self._state = state
        self._node = node
        self._active: dict[str, Task] = {}
        self._number = 0
        self._close_dead()

    def _close_dead(self) -> None:
        for upid, document in list(self._state.kind("task").items()):
            if document.get("endtime") is None:
                document["endtime"] = int(time.time())
                document["status"] = "unexpected status"
                self._state.put("task", upid, document)

    def start(self, kind: str, subject: str, identity: Identity, work: Work) -> str:
        """Runs `work` in the background and returns its UPID."""
        self._number += 1
        now = int(time.time())
        # A real node's pid is the worker process; here a number that is unique while localpve runs.
        pid = 0x1000 + self._number
        pstart = int(time.monotonic() * 100) & 0xFFFFFFFF
        upid = f"UPID:{self._node}:{pid:08X}:{pstart:08X}:{now:08X}:{kind}:{subject}:{identity.full}:"
        document = {
            "upid": upid, "node": self._node, "pid": pid, "pstart": pstart, "starttime": now, "type": kind,
            "id": subject, "user": identity.user, "tokenid": identity.token, "endtime": None, "status": None, "log": [],
        }  # fmt: skip
        task = Task(document)
        self._state.put("task", upid, document)
        self._active[upid] = task
        task.running = asyncio.create_task(self._run(task, work))
        return upid

    async def _run(self, task: Task, work: Work) -> None:
        try:
            await work(task)
            outcome = "OK"
        except asyncio.CancelledError:
            outcome = "received interrupt"
        except (TaskFailed, ApiError) as problem:
            outcome = str(problem)
        except Exception as problem:  # a fault of ours must end as a task error, not as a task that runs forever
            traceback.print_exc()
            outcome = f"internal error: {type(problem).__name__}"
        task.log("TASK OK" if outcome == "OK" else f"TASK ERROR: {outcome}")
        document = task.document
        document.update(endtime=int(time.time()), status=outcome.replace("\n", " "), log=task.lines)
        self._state.put("task", task.upid, document)
        self._active.pop(task.upid, None)
        self._forget_old()

    def _forget_old(self) -> None:
        known = self._state.kind("task")
        finished = [upid for upid, d in known.items() if d["endtime"] is not None]
        for upid in finished[: max(0, len(known) - KEPT_TASKS_MAX)]:
            self._state.remove("task", upid)

    async def wait(self, upid: str) -> str:
        """The exit status, once the task has ended."""
        task = self._active.get(upid)
        if task and task.running:
            await asyncio.wait([task.running])
        return self._state.get("task", upid)["status"]

    async def stop_all(self) -> None:
        """At an orderly end: running work is interrupted and closed."""
        for task in list(self._active.values()):
            if task.running:
                task.running.cancel()
        running = [t.running for t in self._active.values() if t.running]
        if running:
            await asyncio.wait(running, timeout=5)

    def find(self, upid: str) -> dict[str, Any]:
        """Raises ParameterErrors for something that is no UPID or no known task."""
        if not _UPID.fullmatch(upid):
            raise ParameterErrors({"upid": "unable to parse worker upid"})
        document = self._state.get("task", upid)
        if document is None:
            raise ParameterErrors({"upid": "no such task"})
        return document

    def interrupt(self, upid: str) -> None:
        task = self._active.get(upid)
        if task and task.running:
            task.running.cancel()

    def log(self, upid: str) -> list[str]:
        task = self._active.get(upid)
        return task.lines if task else self.find(upid)["log"]

    def newest_first(self) -> list[dict[str, Any]]:
        return list(reversed(self._state.kind("task").values()))
