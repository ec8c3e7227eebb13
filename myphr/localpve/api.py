"""From an HTTP request to a call and back: authentication, permissions, schema, handler, formatter.

The calls themselves live in `calls_access`, `calls_cluster` and `calls_machines`, each a function in CALLS. Knows the
order in which a real node checks things, because clients see it. Called by `server`.
"""

import asyncio
import json
import re
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from myphr.localpve.access import Access, Identity
from myphr.localpve.console import Consoles
from myphr.localpve.http import Reply, Request
from myphr.localpve.machines import Machines
from myphr.localpve.replies import ApiError, ListReply, RawReply, failure
from myphr.localpve.schema import Schema
from myphr.localpve.state import State
from myphr.localpve.storage import Storages
from myphr.localpve.tasks import Tasks
from myphr.localpve.websocket import accept_key

JSON_TYPE = "application/json;charset=UTF-8"
UPLOAD_PATH = re.compile(r"/api2/(json|extjs)/nodes/[^/]+/storage/[^/]+/upload")


@dataclass
class Node:
    """The parts that calls work with."""

    name: str
    home: Path
    state: State
    access: Access
    storages: Storages
    machines: Machines
    tasks: Tasks
    consoles: Consoles
    certificate: str  # PEM, shown to clients of vncproxy
    fingerprint: str
    unauthorised_seconds: float = 3.0


@dataclass
class Call:
    """One checked call."""

    node: Node
    identity: Identity
    given: dict[str, Any]  # typed parameters, path variables included
    request: Request

    @property
    def vmid(self) -> int:
        return int(self.given["vmid"])

    def need(self, path: str, *privileges: str, any_of: bool = False) -> None:
        self.node.access.need(self.identity, path, *privileges, any_of=any_of)

    def may(self, path: str, *privileges: str) -> bool:
        return self.node.access.may(self.identity, path, privileges)

    def start(self, kind: str, subject: str, work: Callable[..., Awaitable[None]]) -> str:
        return self.node.tasks.start(kind, subject, self.identity, work)


Function = Callable[[Call], Awaitable[Any]]
CALLS: dict[str, Function] = {}


def call(name: str) -> Callable[[Function], Function]:
    """Registers the function that answers "METHOD /path"."""

    def register(function: Function) -> Function:
        CALLS[name] = function
        return function

    return register


class TakenOver(Exception):
    """The call answered on the connection itself."""


class Api:
    """Answers requests for one node."""

    def __init__(self, node: Node, schema: Schema) -> None:
        self._node = node
        self._schema = schema
        # Only calls with a function are known; a schema entry alone is not an implementation.
        for name in [n for n in schema.calls if n not in CALLS]:
            raise RuntimeError(f"no function for {name}")

    def streamed(self, method: str, path: str) -> bool:
        return method == "POST" and UPLOAD_PATH.fullmatch(path) is not None

    async def handle(self, request: Request) -> Reply:
        match = re.fullmatch(r"/api2/(\w+)(/.*)?", request.path)
        if not match:
            if request.path == "/":
                return Reply(200, "OK", _FRONT_PAGE, "text/html; charset=utf-8")
            text = f"no such file '{request.path}'"
            return Reply(500, text, f"{text}\n".encode(), "")
        form, path = match[1], (match[2] or "/").rstrip("/") or "/"
        if form not in ("json", "extjs"):
            text = f"no formatter for uri {path}, {form}"
            return Reply(501, text, text.encode(), "")
        try:
            return _success(await self._answer(request, path), form)
        except (ConnectionError, TimeoutError):
            raise
        except TakenOver:
            return Reply(101, "", taken_over=True)
        except ApiError as problem:
            if problem.status == 401:
                await asyncio.sleep(self._node.unauthorised_seconds)
            return _problem(problem, form)
        except Exception as fault:  # ours: the client gets an answer, the log where it happened, neither any values
            last = traceback.extract_tb(fault.__traceback__)[-1]
            print(f"localpve: {type(fault).__name__} at {Path(last.filename).name}:{last.lineno}", file=sys.stderr)
            return _problem(failure(f"internal error: {type(fault).__name__}"), form)

    async def _answer(self, request: Request, path: str) -> Any:
        node = self._node
        found = self._schema.find(request.method, path)
        name = f"{request.method} {found[0]}" if found else ""
        rule = self._schema.calls[name].get("permissions") if found else None
        world = bool(rule and rule.get("user") == "world")
        identity = Identity("") if world else node.access.identify(request.headers, request.method)
        if not found:
            index = _INDEXES.get(path)
            if index is not None and request.method == "GET":
                return index
            raise ApiError(501, f"Method '{request.method} {path}' not implemented")
        variables = found[1]
        given: dict[str, Any] = dict(variables)
        streamed = self.streamed(request.method, request.path)
        for key, value in _parameters(request, streamed).items():
            given.setdefault(key, value)
        if rule is None:
            if not identity.is_root:
                raise ApiError(403, "Permission check failed (user != root@pam)")
        else:
            node.access.check(identity, rule, given)
        self._check_node(variables.get("node"))
        if not streamed:
            given = self._schema.check(name, given)
        return await CALLS[name](Call(node, identity, given, request))

    def _check_node(self, name: str | None) -> None:
        if name is None or name in (self._node.name, "localhost"):
            return
        valid = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", name, re.ASCII)
        reason = "Temporary failure in name resolution" if valid else "Name or service not known"
        raise failure(f"hostname lookup '{name}' failed - failed to get address info for: {name}: {reason}")


def _parameters(request: Request, streamed: bool) -> dict[str, Any]:
    """Parameters of the query, or of a form or JSON body. A repeated form key is a list."""
    found: dict[str, Any] = {}
    pairs = parse_qsl(request.query, keep_blank_values=True)
    if request.body and not streamed:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            try:
                parsed = json.loads(request.body)
            except ValueError:
                raise ApiError(500, "malformed JSON string", body=False) from None
            if not isinstance(parsed, dict):
                raise ApiError(500, "malformed JSON string", body=False)
            found.update(parsed)
        elif kind == "application/x-www-form-urlencoded":
            pairs += parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        else:
            raise ApiError(506, f"upload '{kind}' not allowed", body=False)
    for key, value in pairs:
        if key in found:
            before = found[key]
            found[key] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            found[key] = value
    return found


def _success(data: Any, form: str) -> Reply:
    if isinstance(data, RawReply):
        return Reply(200, "OK", data.content, data.content_type)
    document: dict[str, Any] = {"data": data}
    if isinstance(data, ListReply):
        document = {"data": data.data, "total": data.total}
    if form == "extjs":
        document["success"] = 1
    return Reply(200, "OK", json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"), JSON_TYPE)


def _problem(problem: ApiError, form: str) -> Reply:
    reason = problem.message.split("\n")[0].replace("\r", " ")
    if not problem.body:
        return Reply(problem.status, reason, close=True)
    ending = "" if problem.status == 501 else "\n"
    document: dict[str, Any] = {"data": None, "message": problem.message.rstrip("\n") + ending}
    if problem.errors:
        document["errors"] = problem.errors
    status = problem.status
    if form == "extjs" and status != 401:
        document |= {"success": 0, "status": status}
        status, reason = 200, "OK"
    content = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return Reply(status, reason, content, JSON_TYPE)


def upgrade(request: Request) -> None:
    """Writes the 101 of a websocket. Raises ApiError 400 for a request that is no good upgrade."""
    key = request.headers.get("sec-websocket-key", "")
    if "websocket" not in request.headers.get("upgrade", "").lower() or not key:
        raise ApiError(400, "unable to upgrade to websocket")
    if request.headers.get("sec-websocket-version") != "13":
        raise ApiError(400, "unsupported websocket version")
    lines = [
        "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key)}",
    ]  # fmt: skip
    if protocol := request.headers.get("sec-websocket-protocol", "").split(",")[0].strip():
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")  # whatever is asked, as a real node does
    request.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


def subdirs(*names: str, key: str = "subdir") -> list[dict[str, str]]:
    return [{key: name} for name in names]


_INDEXES = {"/": subdirs("version", "cluster", "nodes", "storage", "access", "pools")}
_FRONT_PAGE = (
    b"<!DOCTYPE html>\n<html lang=en><title>localpve</title><h1>localpve</h1>"
    b"<p>The embedded hypervisor of MyPHRMachines. It has no pages, only the API below /api2/json.</html>\n"
)
