"""A strict replay of a real node: a TLS server that answers exactly the calls of a script with recorded answers.

Each step names one call; anything else, anything out of order, or parameters that the published schema refuses make
the test fail. Answers come from tests/vectors/proxmox (a real 8.4.1 node) unless a step says `made_up`.
"""

import dataclasses
import gzip
import http.server
import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from myphr.localpve.schema import Schema

TRANSCRIPTS = Path(__file__).parents[2] / "vectors" / "proxmox" / "transcripts.jsonl.gz"


def _lines() -> list[dict[str, Any]]:
    with gzip.open(TRANSCRIPTS, "rt") as lines:
        return [json.loads(line) for line in lines]


_RECORDED = _lines()


@dataclasses.dataclass
class Step:
    """One expected call and its answer."""

    method: str
    path: str  # a regular expression below /api2/json
    status: int
    reason: str
    body: Any
    note: Callable[[dict[str, str]], None] | None = None


def recorded(method: str, path: str, *, status: int = 200, reason: str = "", auth: str = "", where: str = "") -> Step:
    """The first recorded answer to such a call. `where` is a text that its body must hold."""
    for line in _RECORDED:
        if (
            line.get("method") == method
            and line.get("status") == status
            and re.fullmatch(r"/api2/json/" + path + r"(\?.*)?", unquote(line.get("path") or ""))
            and reason in (line.get("reason") or "")
            and (not auth or line.get("auth") == auth)
            and where in json.dumps(line.get("body"))
        ):
            return Step(method, path, status, line["reason"], line["body"])
    raise AssertionError(f"nothing recorded for {method} {path} {status} {reason}")


def made_up(method: str, path: str, body: Any = None, *, status: int = 200, reason: str = "OK") -> Step:
    return Step(method, path, status, reason, {"data": body} if status == 200 else body)


class Replay:
    """`steps` are taken one by one; `loose` answers any number of calls in any order instead."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.steps: list[Step] = []
        self.loose: Callable[[str, str], Step] | None = None
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.wrong: list[str] = []
        self.drop_next = 0
        self.delay_seconds = 0.0
        self.at_once = self.most_at_once = 0
        self.connections = 0
        self._schema = Schema()
        self._lock = threading.Lock()
        replay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with replay._lock:
                    replay.connections += 1

            def do_any(self) -> None:
                replay._answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_any

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with self._lock:
            if self.drop_next:
                self.drop_next -= 1
                request.close_connection = True
                request.connection.close()
                return
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.delay_seconds)
        with self._lock:
            self.at_once -= 1
            step = self._step(request, body)
        raw = step.body if isinstance(step.body, str) else (step.body or {}).get("_raw")
        content = (json.dumps(step.body) if raw is None else raw).encode()
        request.send_response(step.status, step.reason)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _step(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> Step:
        parsed = urlsplit(request.path)
        path = unquote(parsed.path).removeprefix("/api2/json/").rstrip("/")
        parameters = dict(parse_qsl(parsed.query))
        if "multipart" in request.headers.get("Content-Type", ""):
            parameters |= _multipart(request.headers["Content-Type"], body)
        else:
            parameters |= dict(parse_qsl(body.decode()))
        self.calls.append((request.command, path, parameters))
        self._check_schema(request.command, path, parameters)
        if self.loose is not None:
            return self.loose(request.command, path)
        if not self.steps:
            self.wrong.append(f"one call too many: {request.command} {path}")
            return Step("", "", 501, "not in the script", {})
        step = self.steps.pop(0)
        if request.command != step.method or not re.fullmatch(step.path, path):
            self.wrong.append(f"{request.command} {path} instead of {step.method} {step.path}")
        return step

    def _check_schema(self, method: str, path: str, parameters: dict[str, str]) -> None:
        found = self._schema.find(method, "/" + path)
        if found is None:
            self.wrong.append(f"no such call: {method} /{path}")
            return
        template, variables = found
        try:
            self._schema.check(f"{method} {template}", {**variables, **parameters})
        except Exception as error:
            self.wrong.append(f"{method} {path}: {error} {getattr(error, 'errors', '')}")

    def done(self) -> None:
        assert not self.wrong, self.wrong
        assert not self.steps, [f"{step.method} {step.path}" for step in self.steps]


def _multipart(content_type: str, body: bytes) -> dict[str, str]:
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    found = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        found[str(name)] = part.get_filename() or part.get_payload(decode=True).decode()
    return found
