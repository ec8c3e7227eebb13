"""A guest agent without a guest, for the conformance run: answers the agent protocol on a unix socket.

It has a small file tree in memory and runs nothing: its programs are the three that the recordings started. Never used
outside the conformance run; a real qemu-guest-agent in a real guest is tested in tests/integration/localpve.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from myphr.localpve.agent import GuestAgent


class Refusal(Exception):
    """An error answer of the agent."""


class StandInAgent:
    """Serves one machine's agent calls until closed."""

    def __init__(self, vmid: int, path: Path, power_off: Callable[[], Awaitable[None]]) -> None:
        self.vmid = vmid
        self._path = path
        self._power_off = power_off
        self._server: asyncio.Server | None = None
        self._files: dict[str, bytes] = {}
        self._handles: dict[int, tuple[str, str, int]] = {}
        self._processes: dict[int, dict[str, Any]] = {}
        self._next = 160
        self._agent: GuestAgent | None = None

    async def start(self, agent: GuestAgent) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=1 << 20)
        agent._path = self._path
        self._agent = agent

    def serves(self, agent: GuestAgent) -> bool:
        return self._agent is agent

    async def close(self) -> None:
        if self._server:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            request = json.loads(line.lstrip(b"\xff"))
            command, given = request["execute"], request.get("arguments", {})
            if command == "guest-shutdown":
                await self._power_off()
                break
            mark = b"\xff" if command == "guest-sync-delimited" else b""
            try:
                answer: dict[str, Any] = {"return": self._answer(command, given)}
            except Refusal as refusal:
                answer = {"error": {"class": "GenericError", "desc": str(refusal)}}
            writer.write(mark + json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _answer(self, command: str, given: dict[str, Any]) -> Any:
        if command == "guest-sync-delimited":
            return given["id"]
        if command == "guest-ping":
            return {}
        if command == "guest-network-get-interfaces":
            return [
                _interface("lo", "00:00:00:00:00:00", "127.0.0.1", 8),
                _interface("eth0", "bc:24:11:00:00:01", "10.99.0.50", 24),
            ]
        if command == "guest-get-osinfo":
            return {
                "id": "labguest", "name": "labguest", "pretty-name": "Lab guest", "version-id": "1",
                "machine": "x86_64",
                "kernel-release": "6.1.0-56-cloud-amd64",
                "kernel-version": "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
            }  # fmt: skip
        if command == "guest-info":
            names = (
                "guest-get-cpustats", "guest-get-diskstats", "guest-ssh-remove-authorized-keys",
                "guest-ssh-add-authorized-keys", "guest-ssh-get-authorized-keys", "guest-get-devices", "guest-exec",
            )  # fmt: skip
            commands = [{"name": n, "enabled": n != "guest-get-devices", "success-response": True} for n in names]
            return {"version": "7.2.22", "supported_commands": commands}
        return self._files_and_programs(command, given)

    def _files_and_programs(self, command: str, given: dict[str, Any]) -> Any:
        if command == "guest-exec":
            return {"pid": self._execute([given["path"], *given.get("arg", [])], given.get("input-data", ""))}
        if command == "guest-exec-status":
            if given["pid"] not in self._processes:
                raise Refusal("Invalid parameter 'pid'")
            status = self._processes[given["pid"]]
            return self._processes.pop(given["pid"]) if status["exited"] else status
        if command == "guest-file-open":
            path, mode = given["path"], given.get("mode", "r")
            if mode == "r" and path not in self._files:
                raise Refusal(f"failed to open file '{path}' (mode: 'r'): No such file or directory")
            if mode != "r":
                self._files[path] = b""
            self._next += 1
            self._handles[self._next] = (path, mode, 0)
            return self._next
        path, mode, at = self._handles[given["handle"]]
        if command == "guest-file-close":
            del self._handles[given["handle"]]
            return {}
        if command == "guest-file-write":
            content = base64.b64decode(given["buf-b64"])
            self._files[path] += content
            return {"count": len(content), "eof": False}
        if command == "guest-file-read":
            part = self._files[path][at : at + given["count"]]
            self._handles[given["handle"]] = (path, mode, at + len(part))
            return {"count": len(part), "buf-b64": base64.b64encode(part).decode(), "eof": len(part) < given["count"]}
        raise Refusal(f"The command {command} has not been found")

    def _execute(self, words: list[str], given_input: str) -> int:
        def text(value: str) -> str:
            return base64.b64encode(value.encode()).decode()

        self._next += 1
        if words[0] == "/bin/sh" and "exit 3" in words[-1]:
            self._processes[self._next] = {
                "exited": True, "exitcode": 3, "out-data": text("hi\n"), "err-data": text("err\n"),
                "out-truncated": False, "err-truncated": False,
            }  # fmt: skip
        elif words[0] == "/bin/cat":
            self._processes[self._next] = {
                "exited": True,
                "exitcode": 0,
                "out-data": given_input,
                "out-truncated": False,
            }
        elif words[0] == "/bin/sleep":
            self._processes[self._next] = {"exited": False}
        else:
            raise Refusal(f"Failed to execute child process \u201c{words[0]}\u201d (No such file or directory)")
        return self._next


def _interface(name: str, hardware: str, address: str, prefix: int) -> dict[str, Any]:
    counters = ("rx-bytes", "rx-packets", "rx-errs", "rx-dropped", "tx-bytes", "tx-packets", "tx-errs", "tx-dropped")
    addresses = [{"ip-address-type": "ipv4", "ip-address": address, "prefix": prefix}]
    return {
        "name": name, "hardware-address": hardware, "ip-addresses": addresses, "statistics": dict.fromkeys(counters, 0),
    }  # fmt: skip
