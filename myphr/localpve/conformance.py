"""Replays what a real Proxmox VE 8.4 node was recorded to answer against localpve, and says where they differ.

`python -m myphr.localpve.conformance` prints a reason for each disagreement, the recorded calls that localpve does not
implement, and last `conformance: AGREE/TOTAL`. Status, reason phrase, error text and the shape of the body must be
equal; of values that differ by nature (times, ids, sizes of the host) only the type. Machines run as real QEMU without
a guest.
"""

import argparse
import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import os
import re
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from myphr.localpve.qemu import Forward
from myphr.localpve.schema import Schema
from myphr.localpve.server import Options, Server
from myphr.localpve.standin_agent import StandInAgent

VECTORS = Path(__file__).parents[2] / "tests/vectors/proxmox/transcripts.jsonl.gz"
PORTAL_PASSWORD = "portal password of the replay"  # noqa: S105 - of a server that lives for one minute
CONNECT_SECONDS = 1.0  # instead of 10, so that waiting out a screen's time does not take as long
LOCK_SECONDS = 0.5  # instead of 10, for the recording that waits for a held lock
# Values that differ between any two nodes or moments: only their type is compared.
VOLATILE = set(
    [
        "pid",
        "pstart",
        "starttime",
        "endtime",
        "digest",
        "uptime",
        "cpu",
        "mem",
        "maxmem",
        "disk",
        "maxdisk",
        "used",
        "avail",
        "total",
        "used_fraction",
        "ctime",
        "ticket",
        "CSRFPreventionToken",
        "ssl_fingerprint",
        "netin",
        "netout",
        "diskread",
        "diskwrite",
        "meta",
        "smbios1",
        "vmgenid",
        "repoid",
        "time",
        "localtime",
        "cert",
        "password",
        "port",
        "value",
        "maxcpu",
        "cpus",
        "free",
        "idle",
        "wait",
        "kversion",
        "content",
        "timezone",
        "cgroup-mode",
        "ip",
        "template",
        "snaptime",
        "running-qemu",
        "running-machine",
    ]
)
# Objects of the host or of QEMU: only that they are there.
OPAQUE = {
    "blockstat", "nics", "proxmox-support", "cap", "flags", "cpuinfo", "memory", "swap", "current-kernel", "boot-info",
    "loadavg",
}  # fmt: skip
OPTIONAL_ALWAYS = {
    "blockstat",
    "proxmox-support",
    "ballooninfo",
    "current-kernel",
    "boot-info",
    "loadavg",
    "rootfs",
    "wait",
}
_MAC = re.compile(r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_CTIME = re.compile(r"ctime=\d+")
_UPID = re.compile(r"UPID:pve:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:([^:]+):([^:]*):([^:]+):")


class RealServer:
    """A localpve in its own thread and folder, emptied of what a real new node does not have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        home = folder / "home"
        forward = Forward("vmbr1", "10.0.2.100", 564, str(folder / "{vmid}.sock"))
        self.server = Server(
            Options(
                home=home, port=0, accelerator="tcg", forwards=(forward,), unauthorised_seconds=0, sealing=False,
                console_connect_seconds=CONNECT_SECONDS,
            ),
            say=lambda text: None,
        )  # fmt: skip
        self.run(self.server.start())
        self.home = home
        self.call(self._make_empty)

    def run(self, work: Awaitable[Any]) -> Any:
        async def wrapped() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(60)

    def call(self, function: Callable[[], Any]) -> Any:
        """Runs a plain function in the server's thread."""

        async def wrapped() -> Any:
            return function()

        return self.run(wrapped())

    def _make_empty(self) -> None:
        node = self.server.node
        for kind in ("acl", "token", "role", "pool", "storage", "cluster-firewall"):
            for key in list(node.state.kind(kind)):
                node.state.remove(kind, key)
        node.state.remove("user", "portal@pve")
        folder = self.folder / "vz"
        content = "snippets,images,vztmpl,iso,backup,rootdir"
        node.state.put("storage", "local", {"path": str(folder), "content": content})
        node.machines.bridges = {"vmbr0"}

    def close(self) -> None:
        self.run(self.server.stop(end_machines=True))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)


class Replay:
    """Sends recorded calls in order and keeps score."""

    def __init__(self, real: RealServer, rows: list[dict[str, Any]], verbose: bool) -> None:
        self.real = real
        self.rows = rows
        self.verbose = verbose
        self.schema = Schema()
        self.lab = real.folder / "lab"
        self.root_password = (real.home / "root.password").read_text().strip()
        self.cookie = self.csrf = self.token = ""
        self.upids: dict[str, str] = {}
        self.screen: dict[str, Any] = {}
        self.screens: list[ScreenClient] = []
        self.agree = self.total = self.missing = 0
        self.reasons: list[str] = []
        self.not_implemented: dict[str, int] = {}
        self.context = ssl.create_default_context(cafile=str(real.home / "ca.pem"))
        self.early: dict[int, tuple[int, str, Any, bytes]] = {}
        self.agent_pids: dict[str, int] = {}
        self.agents: list[StandInAgent] = []

    # -- sending --------------------------------------------------------------------------------------
    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, Any, bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.real.server.port, context=self.context, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        try:
            parsed: Any = json.loads(raw)
        except ValueError:
            parsed = {"_raw": raw.decode("utf-8", "replace")}
        return answer.status, answer.reason, parsed, raw

    def as_root(self, method: str, path: str, **given: Any) -> Any:
        """A call of the replay's own, to make a state; fails loudly."""
        text = urlencode(given, doseq=True)
        query = f"?{text}" if method in ("GET", "DELETE") and text else ""
        body = text.encode() if method in ("POST", "PUT") else None
        status, reason, parsed, _raw = self.send(
            method, f"/api2/json{path}{query}", body, self._headers("cookie+csrf", bool(body))
        )
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {reason}")
        data = parsed["data"]
        if isinstance(data, str) and data.startswith("UPID:"):
            return self.finish(data)
        return data

    def finish(self, upid: str) -> str:
        return self.real.run(self.real.server.node.tasks.wait(upid))

    def sign_in(self) -> None:
        body = urlencode({"username": "root@pam", "password": self.root_password}).encode()
        _status, _reason, parsed, _raw = self.send("POST", "/api2/json/access/ticket", body, FORM)
        self.cookie, self.csrf = parsed["data"]["ticket"], parsed["data"]["CSRFPreventionToken"]

    def _headers(self, auth: str | None, has_form: bool) -> dict[str, str]:
        headers = dict(FORM) if has_form else {}
        if auth in ("cookie", "cookie+csrf"):
            headers["Cookie"] = "PVEAuthCookie=" + quote(self.cookie, safe="")
            if auth == "cookie+csrf":
                headers["CSRFPreventionToken"] = self.csrf
        elif auth == "token":
            headers["Authorization"] = f"PVEAPIToken=portal@pve!lab={self.token}"
        return headers

    # -- one recorded call ------------------------------------------------------------------------------
    def implemented(self, row: dict[str, Any]) -> str | None:
        """The call's name when localpve has it, or must answer for its absence itself."""
        path = urlsplit(row["path"]).path
        if not path.startswith(("/api2/json/", "/api2/extjs/")) or row.get("status") in (501, 595):
            return "refusal"
        plain = "/" + unquote(path, "latin-1").split("/", 3)[3].rstrip("/")
        if plain == "/":
            return "GET /"
        found = self.schema.find(row.get("method", "GET"), plain)
        return f"{row.get('method', 'GET')} {found[0]}" if found else None

    def run(self) -> None:
        self.sign_in()
        current = ""
        for number, row in enumerate(self.rows):
            if row["set"] != current:
                current = row["set"]
                self.before_set(current)
            if self.unaddressed(number, row):
                continue
            self.total += 1
            try:
                problem = self.replay(number, row)
            except Exception as fault:  # a fault of the replay is a disagreement, never a silent pass
                problem = f"{type(fault).__name__}: {fault}"
            if problem is None:
                self.agree += 1
            else:
                what = f"{row.get('method', 'websocket')} {short(row['path'])}"
                self.reasons.append(f"{row['set']} #{number} {what}{note_of(row)}: {problem}")
                if self.verbose:
                    print(self.reasons[-1], flush=True)

    def unaddressed(self, number: int, row: dict[str, Any]) -> bool:
        why = ""
        if self.implemented(row) is None:
            why = short(f"{row['method']} {urlsplit(row['path']).path.removeprefix('/api2/json')}")
        elif row.get("status") == 595:
            why = "answers while the node's second daemon is down (localpve has one process)"
        elif row.get("note") == "template with snapshots":
            why = "calls on a machine with snapshots"
        elif "%3Aqmstart%3A410%3A" in row["path"] and "3CF%3A0004DBB9" in row["path"]:
            why = "machines with directory mappings"
        elif row["path"].startswith(("/api2/html", "/api2/xml")) and row.get("status") == 200:
            why = "HTML pages"
        elif any(part in row["path"] for part in UNIMPLEMENTED_TASKS):
            why = "tasks of calls that are not implemented"
        if why:
            self.missing += 1
            self.not_implemented[why] = self.not_implemented.get(why, 0) + 1
            return True
        return False

    def replay(self, number: int, row: dict[str, Any]) -> str | None:
        self.before(number, row)
        if row["client"] == "websocket":
            return self.replay_screen(row)
        if row["client"] == "proxmoxer" and "params" not in row:
            row = {**row, **PROXMOXER.get(self.proxmoxer_index(number), {})}
        path, task = self.path_of(row)
        is_log = row["path"].partition("?")[0].endswith("/log")
        if task and is_log and task in self.real.server.node.state.kind("task"):
            self.finish(task)
        body, headers = self.body_of(row)
        recorded = row["body"]
        waits = task and row["path"].endswith("/status") and (recorded.get("data") or {}).get("status") == "stopped"
        if task and waits:
            self.finish(task)
        with self.around(row):
            answer = self.early.get(number) or self.send(row["method"], path, body, headers)
        status, reason, parsed, _raw = answer
        self.after(row, parsed)
        if status != row["status"]:
            return f"status {status} {reason!r}, recorded {row['status']} {row['reason']!r}"
        if self.plain(reason) != self.recorded_plain(row["reason"]):
            return f"reason {reason!r}, recorded {row['reason']!r}"
        return self.differ(recorded, parsed, row)

    def proxmoxer_index(self, number: int) -> int:
        return sum(1 for row in self.rows[:number] if row["client"] == "proxmoxer")

    def plain(self, text: str) -> str:
        text = text.replace(str(self.lab), "/var/lib/lab").replace(str(self.real.folder / "vz"), "/var/lib/vz")
        return self.recorded_plain(text)

    def recorded_plain(self, text: str) -> str:
        return _CTIME.sub("ctime=0", _UUID.sub("UUID", _MAC.sub("MAC", text)))

    def path_of(self, row: dict[str, Any]) -> tuple[str, str | None]:
        path = row["path"]
        plain = unquote(path)
        task = None
        match = _UPID.search(plain)
        if match and "nonexistent" not in row.get("note", ""):
            recorded = match[0]
            if recorded not in self.upids:
                self.imply(match, row)
            task = self.upids.get(recorded)
            if task:
                tail = plain.split(recorded, 1)[1]
                path = plain.split(recorded, 1)[0] + quote(task, safe="") + tail
        if pid := re.search(r"\?pid=(\d+)$", path):
            path = path.replace(pid[0], f"?pid={self.agent_pids.get(pid[1], pid[1])}")
        if "vncwebsocket" in path and "vncticket" in (row.get("params") or {}):
            path = (
                path.partition("?")[0]
                + "?"
                + urlencode({"port": self.screen["port"], "vncticket": self.screen["ticket"]})
            )
        return path, task

    def imply(self, match: re.Match[str], row: dict[str, Any]) -> None:
        """The recording kept only one of several equal calls: make the one that this task came from."""
        kind, subject, user = match.groups()
        auth = "token" if "!" in user else "cookie+csrf"
        machine = f"/api2/json/nodes/pve/qemu/{subject}"
        if kind in ("qmstart", "qmstop", "qmreset"):
            method, path, body = "POST", f"{machine}/status/{kind.removeprefix('qm')}", b""
        elif kind == "qmclone" and row["set"] in ("04c-minimal-acl", "13-firewall-effect"):
            target = "111" if subject == "100" else "401"
            if self.real.server.node.machines.exists(int(target)):
                self.as_root("DELETE", f"/nodes/pve/qemu/{target}")
            given = {"newid": target, "name": f"sess-{target}", "pool": "phr", "full": 0}
            method, path, body = "POST", f"{machine}/clone", urlencode(given).encode()
        elif kind == "qmdestroy":
            method, path, body = "DELETE", machine, b""
        elif kind == "resize":
            method, path, body = "PUT", f"{machine}/resize", b"disk=scsi0&size=%2B1G"
        else:
            return
        headers = self._headers(auth, method != "DELETE")
        status, reason, parsed, _raw = self.send(method, path, body or None, headers)
        if status != 200:
            raise RuntimeError(f"implied {method} {short(path)}: {status} {reason}")
        self.upids[match[0]] = parsed["data"]

    def body_of(self, row: dict[str, Any]) -> tuple[bytes | None, dict[str, str]]:
        params = row.get("params") or {}
        note = row.get("note", "")
        headers = self._headers(row.get("auth"), False)
        if "bad token secret" in note:
            headers["Authorization"] = "PVEAPIToken=portal@pve!lab=00000000-0000-4000-8000-00000000dead"
        elif "no such token" in note:
            headers["Authorization"] = "PVEAPIToken=portal@pve!nosuch=x"
        elif "malformed token" in note:
            headers["Authorization"] = "PVEAPIToken=portal@pve"
        elif note == "Bearer":
            headers["Authorization"] = "Bearer x"
        elif "bad ticket" in note:
            headers["Cookie"] = "PVEAuthCookie=" + quote(self.cookie[:-8] + "AAAAAA==", safe="")
        elif "without CSRF" in note:
            headers.pop("CSRFPreventionToken", None)
        elif "bad CSRF" in note:
            headers["CSRFPreventionToken"] = "deadbeef:AAAA"
        if "upload" in row["path"]:
            mark = "replay-boundary"
            parts = f'--{mark}\r\nContent-Disposition: form-data; name="content"\r\n\r\niso\r\n--{mark}\r\n'
            parts += 'Content-Disposition: form-data; name="filename"; filename="tiny.iso"\r\n\r\n'
            headers["Content-Type"] = f"multipart/form-data; boundary={mark}"
            return parts.encode() + b"\0" * 4096 + f"\r\n--{mark}--\r\n".encode(), headers
        if row["method"] in ("GET", "DELETE", "HEAD", "OPTIONS"):
            return None, headers
        if "_json" in params:
            headers["Content-Type"] = "application/json"
            return json.dumps(self.filled(params["_json"])).encode(), headers
        if not params:
            return None, headers
        headers.update(FORM)
        filled = {k: int(v) if isinstance(v, bool) else v for k, v in self.filled(params).items()}
        return urlencode(filled, doseq=True).encode(), headers

    def filled(self, params: dict[str, Any]) -> dict[str, Any]:
        def fill(value: Any) -> Any:
            if not isinstance(value, str):
                return value
            value = value.replace("<root password>", self.root_password).replace("<portal password>", PORTAL_PASSWORD)
            value = value.replace("/var/lib/lab", str(self.lab))
            if value.startswith("PVE:root@pam:<time>"):
                return self.cookie
            if more := re.search(r"<(\d+) more chars>$", value):
                return value[: more.start()] + value[0] * int(more[1])
            if value.startswith("-kernel"):
                return ARGS
            return value

        return {key: fill(value) for key, value in params.items()}

    # -- context ----------------------------------------------------------------------------------------
    def before_set(self, name: str) -> None:
        machines = self.real.server.node.machines
        self.close_screens()
        if name == "03b-vm-start":
            self.real.call(lambda: machines.bridges.update({"vmbr1", "phrnet1"}))
        if name == "04b-token-user":
            self.real.call(lambda: self.lab.mkdir(exist_ok=True))
        if name == "04c-minimal-acl":
            self.ensure_stopped(111)
        if name in ("05b-vnc-token", "05c-vnc-stale-port", "05e-vnc-idle", "05f-vnc-stale-port-libev"):
            self.ensure_running(101, name in ("05b-vnc-token", "05c-vnc-stale-port"))
        if name == "06-firewall-sdn-net":
            self.ensure_stopped(101)
        if name == "07-errors":
            self.ensure_running(101, True)
            self.make_agent_template()
        if name == "07b-errors-locks":
            self.ensure_running(101, True)
        if name == "10-guest-agent":
            self.as_root("POST", "/nodes/pve/qemu/400/clone", newid=401, name="sess-401", pool="phr")
            self.as_root("POST", "/nodes/pve/qemu/401/status/start")
        if name == "11-cloudinit-misc":
            self.as_root("POST", "/nodes/pve/qemu/101/status/stop")
        if name == "16-daemon-down-throughput":
            self.grant_portal()
            for vmid in range(620, 632):
                self.as_root("POST", "/nodes/pve/qemu/100/clone", newid=vmid, name=f"b{vmid}", full=0)
        if name == "18-pool-only-token":
            self.grant_portal()
        if name in ("12-unicode-errors", "13-firewall-effect"):
            self.ensure_stopped(401, destroy=True)

    def make_agent_template(self) -> None:
        if self.real.server.node.machines.exists(400):
            return
        given = {
            "vmid": 400, "name": "tpl-agent", "memory": 192, "cores": 1, "kvm": 0, "agent": "enabled=1",
            "serial0": "socket",
            "scsihw": "virtio-scsi-single", "scsi0": "lab:1,format=qcow2", "net0": "virtio,bridge=vmbr1,firewall=1",
            "ostype": "l26", "tags": "phr;tpl", "args": ARGS,
        }  # fmt: skip
        self.as_root("POST", "/nodes/pve/qemu", **given)
        self.as_root("POST", "/nodes/pve/qemu/400/template")

    def ensure_running(self, vmid: int, running: bool) -> None:
        machines = self.real.server.node.machines
        if machines.running(vmid) != running:
            self.as_root("POST", f"/nodes/pve/qemu/{vmid}/status/{'start' if running else 'stop'}")

    def ensure_stopped(self, vmid: int, destroy: bool = False) -> None:
        if self.real.server.node.machines.exists(vmid):
            self.ensure_running(vmid, False)
            if destroy:
                self.as_root("DELETE", f"/nodes/pve/qemu/{vmid}")

    def grant_portal(self) -> None:
        """The rights that the pool-only token was recorded with."""
        node = self.real.server.node

        def change() -> None:
            node.access.withdraw("/vms", "portal@pve", "PhrPortal")
            for path in ("/pool/phr", "/storage/lab", "/sdn/zones/localnetwork/vmbr1"):
                node.access.grant(path, "portal@pve", "PhrPortal")

        self.real.call(change)

    def set_role(self, without: str | None) -> None:
        node = self.real.server.node
        full = getattr(self, "full_role", None) or list(node.state.get("role", "PhrPortal"))
        self.full_role = full
        self.real.call(lambda: node.state.put("role", "PhrPortal", [p for p in full if p != without]))

    def before(self, number: int, row: dict[str, Any]) -> None:
        note, node = row.get("note", ""), self.real.server.node
        if row["set"] in ("04b-token-user", "04c-minimal-acl"):
            lacking = re.search(r"(?:minus|^no) ([\w.]+)$", note)
            self.set_role(lacking[1] if lacking else None)
            if note.startswith("pool ACL only") and row["path"].endswith("/100/config"):
                self.real.call(lambda: node.access.withdraw("/vms", "portal@pve", "PhrPortal"))
            if note.startswith("pool ACL + "):
                self.real.call(lambda: node.access.grant("/sdn/zones/localnetwork/vmbr1", "portal@pve", "PhrPortal"))
        if row["set"] == "08-proxmoxer" and self.proxmoxer_index(number) == 0:
            self.real.call(lambda: node.access.grant("/vms", "portal@pve", "PhrPortal"))
            self.real.call(lambda: node.access.grant("/sdn/zones/localnetwork/vmbr1", "portal@pve", "PhrPortal"))
        if row["set"] == "10-guest-agent" and note == "as token without VM.Monitor":
            self.real.call(lambda: node.access.grant("/vms", "portal@pve", "PhrPortal"))
        if row["set"] == "07-errors" and note == "localhost alias":
            self.as_root("PUT", "/nodes/pve/qemu/101/config", tags="x")
        if row["set"] in ("10-guest-agent", "13-firewall-effect") and "/agent/" in row["path"]:
            self.attach_agent(row)
        if row["set"] == "03c-vm-power" and (row.get("params") or {}).get("forceStop"):
            self.undo_resize()
        if note == "same newid concurrently" and not self.early:
            # Three clients asked at once; the one that won comes last in the recording.
            winner = next(
                n for n in range(number, number + 9) if (self.rows[n].get("params") or {}).get("name") == "same2"
            )
            body, headers = self.body_of(self.rows[winner])
            self.early[winner] = self.send("POST", self.rows[winner]["path"], body, headers)
        if row["set"] == "11-cloudinit-misc" and row["path"].endswith("/qemu/410?purge=1"):
            self.ensure_stopped(410)
        if row["set"] == "18-pool-only-token" and ":resize:" in unquote(row["path"]):
            self.ensure_running(190, True)

    def undo_resize(self) -> None:
        """The recorded resize of a running machine failed on that node; here it works, so the disk is made anew."""
        node = self.real.server.node
        document = node.machines.document(100)
        changed = str(document["config"]["scsi0"]).replace("size=2G", "size=1G")
        self.real.call(
            lambda: node.machines.save(100, {**document, "config": {**document["config"], "scsi0": changed}})
        )
        path = self.lab / "images/100/vm-100-disk-0.qcow2"
        path.unlink()
        self.real.run(node.storages.get("lab").create(100, 1 << 30, "qcow2", lambda line: None))

    def attach_agent(self, row: dict[str, Any]) -> None:
        """Puts the stand-in agent behind the machine's channel, as soon as the recorded guest had booted."""
        vmid = int(re.search(r"/qemu/(\d+)/", row["path"])[1])  # type: ignore[index]
        machine = self.real.server.node.machines.machine(vmid)
        if "right after start" in row.get("note", "") or machine.agent is None:
            return
        if not any(agent.vmid == vmid and agent.serves(machine.agent) for agent in self.agents):
            path = self.real.folder / f"agent-{vmid}-{len(self.agents)}.sock"
            agent = StandInAgent(vmid, path, lambda: self.real.server.node.machines.end_process(vmid))
            self.real.run(agent.start(machine.agent))
            self.agents.append(agent)

    @contextlib.contextmanager
    def around(self, row: dict[str, Any]) -> Iterator[None]:
        if "held by someone else" not in row.get("note", ""):
            yield
            return
        vmid = int(re.search(r"/qemu/(\d+)/", row["path"])[1])  # type: ignore[index]
        machines = self.real.server.node.machines
        lock, before = machines.machine(vmid).lock, machines.lock_seconds
        self.real.run(lock.acquire())
        machines.lock_seconds = LOCK_SECONDS
        try:
            yield
        finally:
            machines.lock_seconds = before
            self.real.call(lock.release)

    def after(self, row: dict[str, Any], parsed: Any) -> None:
        recorded, ours = (row["body"] or {}).get("data"), parsed.get("data") if isinstance(parsed, dict) else None
        if isinstance(recorded, dict) and isinstance(ours, dict):
            if str(ours.get("full-tokenid")) == "portal@pve!lab":
                self.token = ours["value"]
            if row["path"].endswith("/agent/exec"):
                self.agent_pids[str(recorded["pid"])] = ours["pid"]
            if "vncticket" not in row["path"] and "vncproxy" in row["path"]:
                self.screen = ours
                self.upids[recorded["upid"]] = ours["upid"]
        if isinstance(recorded, str) and recorded.startswith("UPID:") and isinstance(ours, str):
            self.upids[recorded] = ours
            # The recorded client waited for each task unless the set is about not waiting.
            waits = row["set"] not in ("17-races",) and "locked" not in row.get("note", "")
            if waits and ":vncproxy:" not in ours and "while start task" not in row.get("note", ""):
                self.finish(ours)

    # -- comparing --------------------------------------------------------------------------------------
    def differ(self, recorded: Any, ours: Any, row: dict[str, Any]) -> str | None:
        if isinstance(recorded, dict) and "_raw" in recorded:
            mine = ours.get("_raw", "") if isinstance(ours, dict) else ""
            if row["path"] == "/":
                return None if mine.startswith("<!DOCTYPE html>") else "front page is not HTML"
            if self.plain(mine) != recorded["_raw"].replace("/var/lib/lab", "/var/lib/lab"):
                return f"body {mine[:80]!r}, recorded {recorded['_raw'][:80]!r}"
            return None
        return self.compare(recorded, ours, "")

    def compare(self, recorded: Any, ours: Any, at: str) -> str | None:
        leaf = at.rsplit(".", 1)[-1]
        if isinstance(recorded, str) and recorded.startswith("<") and recorded.endswith(">"):
            return None if ours is not None else f"{at} is missing"
        if leaf in OPAQUE and type(recorded) is type(ours) and (leaf != "memory" or isinstance(ours, dict)):
            return None
        if isinstance(recorded, dict):
            return self.compare_objects(recorded, ours, at)
        if isinstance(recorded, list):
            return self.compare_lists(recorded, ours, at)
        if isinstance(recorded, str) and recorded.startswith("UPID:"):
            one, two = _UPID.fullmatch(recorded), _UPID.fullmatch(str(ours))
            return None if one and two and one.groups() == two.groups() else f"{at} {ours!r}, recorded {recorded!r}"
        by_nature = leaf in VOLATILE and leaf != "value" and not at.startswith("errors.")
        if by_nature or leaf.startswith(("rx-", "tx-")):
            same = type(recorded) is type(ours) or (
                isinstance(recorded, (int, float)) and isinstance(ours, (int, float))
            )
            return None if same else f"{at} is {type(ours).__name__}, recorded {type(recorded).__name__}"
        mine = self.plain(ours) if isinstance(ours, str) else ours
        theirs = self.recorded_plain(recorded) if isinstance(recorded, str) else recorded
        if leaf == "args" and isinstance(ours, str):
            return None
        return None if mine == theirs and type(mine) is type(theirs) else f"{at} {mine!r}, recorded {theirs!r}"

    def compare_objects(self, recorded: dict[str, Any], ours: Any, at: str) -> str | None:
        if not isinstance(ours, dict):
            return f"{at or 'body'} is {type(ours).__name__}, recorded object"
        timing = recorded.get("status") == "running" and "upid" in recorded
        allowed = set(OPTIONAL_ALWAYS)
        if timing:
            recorded = {k: v for k, v in recorded.items() if k != "status"}
            ours = {k: v for k, v in ours.items() if k not in ("status", "exitstatus")}
        if recorded.get("status") == "unknown":  # the recorded node's figures lag by up to 10 s
            return None if {"id", "vmid", "type"} <= set(ours) else f"{at} lacks an id"
        if "plugintype" in recorded or "prune-backups" in recorded:
            allowed |= {"prune-backups", "priority"}
        if set(recorded) >= {"vmid", "cpus"} or ("blockstat" in recorded):
            allowed |= {"nics", "pid", "running-qemu", "running-machine", "serial"} if "pid" not in recorded else set()
        if recorded.get("key") == "digest":
            return None if ours.get("key") == "digest" else f"{at} has no digest"
        missing = set(recorded) - set(ours) - allowed
        extra = set(ours) - set(recorded) - allowed
        if missing or extra:
            return f"{at or 'body'}: missing {sorted(missing)}, extra {sorted(extra)}"
        for key, value in recorded.items():
            if key in ours and (problem := self.compare(value, ours[key], f"{at}.{key}" if at else key)):
                return problem
        return None

    def compare_lists(self, recorded: list[Any], ours: Any, at: str) -> str | None:
        if not isinstance(ours, list):
            return f"{at} is {type(ours).__name__}, recorded list"
        cut = bool(recorded) and isinstance(recorded[-1], str) and "more>" in recorded[-1]
        items = recorded[:-1] if cut else recorded
        if not items or not ours:
            return None if bool(items) == bool(ours) else f"{at} has {len(ours)} entries, recorded {len(items)}"
        if not isinstance(items[0], dict):
            return None if items == ours else f"{at} {ours!r}, recorded {items!r}"
        if set(items[0]) == {"n", "t"}:
            return self.compare_logs(items, ours, at)
        if set(items[0]) <= {"subdir", "name"}:
            return self.compare(
                {k: "<any>" for k in items[0]}, ours[0], f"{at}[]"
            )  # an index lists what is implemented; its entries' shape must fit
        if "ugid" in items[0]:
            strange = [entry for entry in items if entry not in ours]
            return f"{at} lacks {strange}" if strange else None
        identity = next((k for k in IDENTITIES if k in items[0]), None)
        if identity in ("upid", None):
            return self.compare_shapes(items, ours, at)
        known = {entry.get(identity): entry for entry in ours}
        for entry in items:
            key = entry.get(identity)
            if key not in known:
                return f"{at}: {identity} {key!r} is missing"
            if problem := self.compare(entry, known[key], f"{at}[{key}]"):
                return problem
        if not cut and identity != "vmid" and len(ours) != len(items):
            return f"{at} has {len(ours)} entries, recorded {len(items)}"
        return None

    def compare_shapes(self, items: list[dict], ours: list[dict], at: str) -> str | None:
        allowed = set().union(*(set(i) for i in items)) | {"tokenid", "endtime", "saved"}
        needed = set.intersection(*(set(i) for i in items)) - {"endtime", "saved", "status", "tokenid"}
        for entry in ours[:5]:
            if set(entry) - allowed or needed - set(entry):
                return f"{at} entry has {sorted(set(entry) ^ needed)} beside or against the recorded keys"
        return None

    def compare_logs(self, items: list[dict], ours: list[dict], at: str) -> str | None:
        def lines(entries: list[dict]) -> list[str]:
            texts = [self.plain(str(entry["t"])) for entry in entries]
            # Waiting for a lock is a matter of timing; QEMU's own words name the real node's scripts.
            return [
                t for t in texts if t not in ("trying to acquire lock...", " OK") and not t.startswith("qemu-system")
            ]

        mine, theirs = lines(ours), lines(items)
        return None if mine == theirs else f"log {mine!r}, recorded {theirs!r}"

    # -- screens ----------------------------------------------------------------------------------------
    def replay_screen(self, row: dict[str, Any]) -> str | None:
        note, error = row.get("note", ""), row.get("error", "")
        vmid = int(re.search(r"/qemu/(\d+)/", row["path"])[1])  # type: ignore[index]
        machine_of_ticket = 101
        self.ensure_running(101, True)
        auth_made = "token" if note.startswith(("API token", "token-made")) else "cookie+csrf"
        auth_used = "token" if note.startswith(("API token", "root-made")) else "cookie"
        given = {} if "without websocket" in note else {"websocket": 1}
        if "generate-password" in note:
            given["generate-password"] = 1
        status, reason, parsed, _raw = self.send(
            "POST", f"/api2/json/nodes/pve/qemu/{machine_of_ticket}/vncproxy", urlencode(given).encode(),
            self._headers(auth_made, True),
        )  # fmt: skip
        if status != 200:
            return f"vncproxy {status} {reason}"
        screen = parsed["data"]
        self.screen = screen
        ticket, port = screen["ticket"], screen["port"]
        if note == "bad vncticket":
            plain, _, signature = ticket.rpartition("::")
            ticket = f"{plain}::{base64.b64encode(base64.b64decode(signature) + b'xx').decode()}"
        if note == "port out of range":
            port = "80"
        if "after the 10s" in note or note == "stale port":
            time.sleep(CONNECT_SECONDS + 0.3)
        headers = self._headers(None if "no auth" in note else auth_used, False)
        if "no binary subprotocol" not in note and "no subprotocol" not in note:
            headers["Sec-WebSocket-Protocol"] = "base64" if "base64" in note else "binary"
        client = ScreenClient(self.context, self.real.server.port)
        query = urlencode({"port": port, "vncticket": ticket})
        status, reason = client.upgrade(f"/api2/json/nodes/pve/qemu/{vmid}/vncwebsocket?{query}", headers)
        if wanted := re.search(r"Handshake status (\d+) (.*?) -\+-\+-", error):
            client.close()
            fits = (status, reason) == (int(wanted[1]), wanted[2])
            return None if fits else f"handshake {status} {reason!r}, recorded {wanted[1]} {wanted[2]!r}"
        if status != 101:
            return f"handshake {status} {reason!r}, recorded a connection"
        password = screen.get("password", screen["ticket"])
        if "but ticket used" in note:
            password = screen["ticket"]
        if "first 8 chars" in note:
            password = screen["ticket"][:8]
        outcome = client.open_screen(password, 1 if "security type 1" in note else 2, 0 if "shared=0" in note else 1)
        if "idle" in note or ("viewer" in note and "exclusive" not in note):
            self.screens.append(client)
        else:
            client.close()
        if "auth failed" in error:
            return None if outcome.startswith("auth failed") else f"{outcome}, recorded {error}"
        if error:
            return None if outcome.startswith("lost") else f"{outcome}, recorded {error}"
        if not outcome.startswith("ok "):
            return f"{outcome}, recorded a picture of {row['rfb'][2]}"
        seen = json.loads(outcome[3:])
        fits = (seen["version"], seen["types"], seen["name"]) == (row["rfb_version"], row["sec_types"], row["rfb"][2])
        return None if fits else f"{seen}, recorded {row['rfb_version']!r} {row['sec_types']} {row['rfb']}"

    def close_screens(self) -> None:
        for client in self.screens:
            client.close()
        self.screens.clear()


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
IDENTITIES = (
    "upid", "vmid", "roleid", "userid", "tokenid", "poolid", "storage", "key", "id", "node", "volid", "realm", "cidr",
    "pos", "name",
)  # fmt: skip
ARGS = "-msg timestamp=off"  # the recorded value names files of that node
UNIMPLEMENTED_TASKS = (
    "%3Aqmsnapshot%3A", "%3Aqmrollback%3A", "%3Aqmdelsnapshot%3A", "%3Areloadnetworkall%3A", "%3Aqmmove%3A",
)  # fmt: skip
ROOT, TOKEN = {"auth": "cookie+csrf"}, {"auth": "token"}
# The recordings of the proxmoxer client lack parameters; this is what its script sent, by position in the set.
PROXMOXER: dict[int, dict[str, Any]] = {
    0: {"params": {"username": "root@pam", "password": "<root password>"}, "auth": "none"}, 1: ROOT,
    2: {"params": {"username": "root@pam", "password": "wrong"}, "auth": "none"},
    3: {"note": "bad token secret"}, 4: TOKEN, 5: ROOT, 6: ROOT,
    7: {**ROOT, "params": {"vmid": 300, "nosuch": 1}}, 8: {**ROOT, "params": {"vmid": 101}},
    9: {**ROOT, "params": {"onboot": "True"}}, 10: {**ROOT, "params": {"onboot": 1}}, 11: ROOT, 12: ROOT,
    13: {**TOKEN, "params": {"newid": 130, "name": "pxm-130", "pool": "phr", "full": 0}}, 14: TOKEN, 15: TOKEN,
    16: TOKEN, 17: TOKEN, 18: {**TOKEN, "params": {"websocket": 1}}, 19: {**TOKEN, "params": {"enable": 1}}, 20: TOKEN,
    21: TOKEN, 22: ROOT, 23: ROOT, 24: ROOT, 25: ROOT,
}  # fmt: skip


class ScreenClient:
    """A viewer: websocket, RFB 3.8 (RFC 6143) with VNC authentication, up to the first server message."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self._socket = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), 20), server_hostname="127.0.0.1"
        )
        self._buffer = b""

    def upgrade(self, path: str, headers: dict[str, str]) -> tuple[int, str]:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *(f"{k}: {v}" for k, v in headers.items())]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = self._socket.recv(4096)
            if not data:
                return 0, "connection lost"
            head += data
        first, _, self._frames = head.partition(b"\r\n\r\n")
        _version, status, reason = first.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
        return int(status), reason

    def _raw(self, count: int) -> bytes:
        while len(self._frames) < count:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError
            self._frames += data
        part, self._frames = self._frames[:count], self._frames[count:]
        return part

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            _opcode, length = self._raw(2)
            if length == 126:
                (length,) = struct.unpack("!H", self._raw(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self._raw(8))
            self._buffer += self._raw(length)
        part, self._buffer = self._buffer[:count], self._buffer[count:]
        return part

    def _send(self, data: bytes) -> None:
        self._socket.sendall(bytes((0x82, 0x80 | len(data))) + b"\0\0\0\0" + data)

    def open_screen(self, password: str, security: int, shared: int) -> str:
        """ "ok {json}", "auth failed: ..." or "lost"."""
        try:
            version = self._read(12).decode()
            self._send(version.encode())
            types = list(self._read(self._read(1)[0]))
            self._send(bytes((security,)))
            if security == 2:
                self._send(answer_challenge(self._read(16), password))
            if struct.unpack("!I", self._read(4))[0]:
                return "auth failed: " + self._read(struct.unpack("!I", self._read(4))[0]).decode("latin-1")
            self._send(bytes((shared,)))
            width, height = struct.unpack("!HH", self._read(4))
            self._read(16)
            name = self._read(struct.unpack("!I", self._read(4))[0]).decode()
            return "ok " + json.dumps({"version": version, "types": types, "size": [width, height], "name": name})
        except (EOFError, OSError):
            return "lost"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def answer_challenge(challenge: bytes, password: str) -> bytes:
    """VNC authentication (RFC 6143, 7.2.2): DES with the bits of each password byte reversed."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode("latin-1")[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305 - what VNC authentication is
    return encryptor.update(challenge) + encryptor.finalize()


def short(path: str) -> str:
    path = _UPID.sub(lambda m: f"{{{m[1]}:{m[2]}}}", unquote(path))
    return path.removeprefix("/api2/json")[:100]


def note_of(row: dict[str, Any]) -> str:
    return f" ({row['note']})" if row.get("note") else ""


def measure(vectors: Path = VECTORS, verbose: bool = False) -> Replay:
    """Runs the whole replay in a temporary folder; needs QEMU."""
    rows = [json.loads(line) for line in gzip.decompress(vectors.read_bytes()).splitlines()]
    with tempfile.TemporaryDirectory(prefix="localpve-conformance-") as folder:
        real = RealServer(Path(folder))
        replay = Replay(real, rows, verbose)
        try:
            replay.run()
        finally:
            replay.close_screens()
            for agent in replay.agents:
                real.run(agent.close())
            real.close()
    return replay


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m myphr.localpve.conformance", description=__doc__)
    parser.add_argument("--vectors", type=Path, default=VECTORS)
    given = parser.parse_args()
    replay = measure(given.vectors)
    for reason in replay.reasons:
        print("disagrees:", reason[:600])
    for what, count in sorted(replay.not_implemented.items()):
        print(f"not implemented: {what} ({count})")
    print(f"recorded calls that address nothing implemented: {replay.missing} of {len(replay.rows)}")
    print(f"conformance: {replay.agree}/{replay.total}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
