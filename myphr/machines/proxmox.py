"""The one client of the Proxmox VE HTTP API (8.4 and 9.x), also spoken by the embedded localpve.

Wraps proxmoxer, the only import of it in the tree: booleans as 0/1, own timeouts, the CA checked, one connection a
thread (and a fresh one after a fork), errors mapped to ours, tasks judged by their exit status, at most two calls
at once per node and one clone at once per storage. Knows hypervisor ids and texts; knows no patient and no database.
"""

import base64
import contextlib
import dataclasses
import logging
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import redis as redis_client
import requests
from proxmoxer import ProxmoxAPI  # type: ignore[import-untyped]
from proxmoxer.core import AuthenticationError, ResourceException  # type: ignore[import-untyped]

from myphr.errors import ConfigurationError, HypervisorRefused, HypervisorUnreachable, ViewerNotInstalled
from myphr.settings import Settings

TIMEOUT_SECONDS = (3, 35)  # connect, read: pveproxy itself gives up on a call after 30 s
UPLOAD_TIMEOUT_SECONDS = (3, 900)  # the node copies the whole file before it answers
IDLE_SECONDS_MAX = 4  # the server closes idle connections after 5 s; a POST on a dead one may not be repeated
CALLS_AT_ONCE_MAX = 2  # pvedaemon has 3 workers, each serves one call: with 3 taken, health checks wait for seconds
CALL_LEASE_SECONDS = 45
CLONE_LEASE_SECONDS = 20
LOCK_TRIES_MAX = 4
FILE_WRITE_BYTES_MAX = 61_440  # of base64 text: the API's limit for `content`
FILE_READ_BYTES_MAX = 65_536  # what we accept from a guest; Proxmox would hand over 16 MiB

_LOCKED = re.compile(r"can't lock file|cfs-lock|got lock request timeout|VM is locked \((clone|create)\)")
_GONE = re.compile(r"Configuration file '[^']*' does not exist|unable to find configuration file for VM")
_EXISTS = re.compile(r"config file already exists|already exists on node|VM \d+ already exists|File exists")
_AGENT_AWAY = re.compile(r"guest agent is not running|No QEMU guest agent configured|qga command")
_STOPPED = re.compile(r"VM \d+ (is )?not running")
_NO_FILE = re.compile(r"failed to open file")
_TEMPLATE_NAME = re.compile(r"([a-z][a-z0-9]*(?:-[a-z0-9]+)*?)(?:-r-([0-9a-f]{6,16}))?")

Tick = Callable[[], None]
_RANDOM = random.SystemRandom()  # jitter

# proxmoxer logs request bodies (tokens, the claim) at INFO.
logging.getLogger("proxmoxer").setLevel(logging.WARNING)


class MachineGone(HypervisorRefused):
    """There is no such virtual machine (any more), or it is out of our pool."""


class MachineExists(HypervisorRefused):
    """The id is taken."""


class MachineStopped(HypervisorRefused):
    """The virtual machine exists but does not run."""


class AgentAway(HypervisorRefused):
    """The guest agent does not answer (yet)."""


class TaskFailed(HypervisorRefused):
    """A task ended with something other than OK. `detail` is its exit status."""

    @property
    def locked(self) -> bool:
        return bool(_LOCKED.search(self.detail))


@dataclasses.dataclass(frozen=True)
class Console:
    """Where and how the screen gateway connects: at once (the listener dies after 10 s), and only once."""

    url: str = dataclasses.field(repr=False)
    headers: dict[str, str] = dataclasses.field(repr=False)
    ca_file: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Template:
    """A template in the template pool. `revision` is "" for one that was not published by us."""

    name: str
    vmid: int
    node: str
    revision: str = ""


@dataclasses.dataclass(frozen=True)
class ListedMachine:
    """A virtual machine of our pool, in our range of ids. The list lags some seconds behind: ask `status` for truth."""

    vmid: int
    node: str
    name: str


@dataclasses.dataclass(frozen=True)
class StorageStatus:
    active: bool
    free_bytes: int
    content: frozenset[str]


class Turns:
    """Bounds how many calls run at once, over all processes with Redis, else within this one. A process that dies
    in a call blocks its place for at most `CALL_LEASE_SECONDS`."""

    def __init__(self, redis: redis_client.Redis | None, scope: str) -> None:
        self._redis = redis
        self._scope = scope
        self._local = threading.BoundedSemaphore(CALLS_AT_ONCE_MAX)
        self._local_clone = threading.Lock()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        with self._local:
            lock = self._take_place()
            try:
                yield
            finally:
                if lock is not None:
                    # Not ours any more when the call outlived the lease: nothing to give back then.
                    with contextlib.suppress(redis_client.exceptions.LockError, redis_client.exceptions.RedisError):
                        lock.release()

    def _take_place(self) -> Any:
        if self._redis is None:
            return None
        deadline = time.monotonic() + CALL_LEASE_SECONDS
        while time.monotonic() < deadline:
            for place in range(CALLS_AT_ONCE_MAX):
                lock = self._redis.lock(f"myphr:hypervisor:{self._scope}:call:{place}", timeout=CALL_LEASE_SECONDS)
                try:
                    if lock.acquire(blocking=False):
                        return lock
                except redis_client.exceptions.RedisError:
                    return None  # without Redis no job starts either; finish this one
            time.sleep(_RANDOM.uniform(0.005, 0.03))
        return None

    @contextlib.contextmanager
    def clone(self, storage: str, seconds_max: float) -> Iterator[Tick]:
        """One clone at once per storage. Call what is yielded at least every `CLONE_LEASE_SECONDS` / 2."""
        if self._redis is None:
            with self._local_clone:
                yield lambda: None
            return
        lock = self._redis.lock(f"myphr:hypervisor:{self._scope}:clone:{storage}", timeout=CLONE_LEASE_SECONDS)
        if not lock.acquire(blocking=True, blocking_timeout=seconds_max):
            raise HypervisorUnreachable("no turn to clone")

        def renew() -> None:
            with contextlib.suppress(redis_client.exceptions.LockError, redis_client.exceptions.RedisError):
                lock.reacquire()

        try:
            yield renew
        finally:
            with contextlib.suppress(redis_client.exceptions.LockError, redis_client.exceptions.RedisError):
                lock.release()


def _no_tick() -> None:
    pass


def _plain(value: Any) -> Any:
    """Proxmox accepts only 0 and 1 as booleans in forms; proxmoxer would send True."""
    if isinstance(value, bool):
        return int(value)
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


class Hypervisor:
    """One Proxmox VE node or cluster, as the portal's token sees it. Safe for threads; made anew after a fork.

    All methods raise HypervisorUnreachable (no answer; the action may or may not have happened), MachineGone, or
    HypervisorRefused (an answer we did not expect; `detail` has the text for the log)."""

    def __init__(
        self, settings: Settings, redis: redis_client.Redis | None = None, *, sign_in: tuple[str, str] | None = None
    ) -> None:
        """`sign_in` is a user with its password, instead of the portal's token: to publish templates."""
        url = urlsplit(settings.proxmox_url)
        if url.scheme != "https" or not url.hostname:
            raise ConfigurationError("MYPHR_PROXMOX_URL must be https://host:port")
        self._settings = settings
        self._host, self._port = url.hostname, url.port or 8006
        self._prefix = url.path.strip("/") or None
        self.node = settings.proxmox_node
        self.pool = settings.proxmox_pool
        self._user, _, self._token_name = settings.proxmox_token_id.partition("!")
        self._sign_in = sign_in
        self._mine = threading.local()
        self._turns = Turns(redis, f"{self._host}:{self._port}")

    # -- calls ----------------------------------------------------------------------------------
    def _token_secret(self) -> str:
        try:
            return Path(self._settings.proxmox_token_secret_file).read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"the Proxmox token secret cannot be read: {error.strerror}") from None

    def _connect(self, timeout: tuple[int, int]) -> Any:
        host = f"[{self._host}]" if ":" in self._host else self._host
        who: dict[str, str]
        if self._sign_in:
            who = {"user": self._sign_in[0], "password": self._sign_in[1]}
        else:
            who = {"user": self._user, "token_name": self._token_name, "token_value": self._token_secret()}
        try:
            api = ProxmoxAPI(
                host, port=self._port, verify_ssl=self._settings.proxmox_ca_file, timeout=timeout,
                path_prefix=self._prefix, **who,
            )  # fmt: skip
        except AuthenticationError:
            raise HypervisorRefused("401 sign-in refused") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise HypervisorUnreachable(type(error).__name__) from None
        # No proxy and no CA bundle from the environment: this traffic goes to this node and nowhere else.
        api._store["session"].trust_env = False
        return api

    def _api(self) -> Any:
        mine = self._mine
        if getattr(mine, "process", None) != os.getpid():
            mine.api, mine.process, mine.used = self._connect(TIMEOUT_SECONDS), os.getpid(), time.monotonic()
        elif time.monotonic() - mine.used > IDLE_SECONDS_MAX:
            mine.api._store["session"].close()
        mine.used = time.monotonic()
        return mine.api

    def _call(self, method: str, path: str, /, **parameters: Any) -> Any:
        """One call, with lock texts retried. `path` may hold {} of our own ids only."""
        parameters = {key: _plain(value) for key, value in parameters.items() if value is not None}
        for attempt in range(LOCK_TRIES_MAX):
            try:
                with self._turns.call():
                    return self._once(method, path, parameters)
            except HypervisorRefused as error:
                if attempt == LOCK_TRIES_MAX - 1 or not _LOCKED.search(error.detail):
                    raise
            time.sleep(_RANDOM.uniform(0.2, 0.6) * 2**attempt)
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, parameters: dict[str, Any]) -> Any:
        for attempt in (1, 2):
            try:
                return self._send(self._api(), method, path, dict(parameters))
            except HypervisorUnreachable:
                # A GET may have met a connection that the server was just closing; a POST may have been done.
                if method != "GET" or attempt == 2:
                    raise
                self._mine.process = None
        raise AssertionError("unreachable")

    @staticmethod
    def _send(api: Any, method: str, path: str, parameters: dict[str, Any]) -> Any:
        resource = api(path)
        try:
            body = {"params": parameters} if method in ("GET", "DELETE") else {"data": parameters}
            answer = resource._request(method, **body)
        except ResourceException as error:
            raise _translated(error) from None
        except (requests.exceptions.RequestException, OSError) as error:
            # The text of a requests error can hold the URL with its parameters: the class says enough.
            raise HypervisorUnreachable(type(error).__name__) from None
        if isinstance(answer, dict) and isinstance(answer.get("errors"), bytes):
            raise HypervisorRefused("the answer is not JSON: is this a Proxmox API?")
        return answer

    def _vm(self, vmid: int, node: str | None, rest: str) -> str:
        return f"nodes/{node or self.node}/qemu/{int(vmid)}/{rest}".rstrip("/")

    def _vm_call(self, method: str, vmid: int, node: str | None, rest: str, /, **parameters: Any) -> Any:
        try:
            return self._call(method, self._vm(vmid, node, rest), **parameters)
        except HypervisorRefused as error:
            if isinstance(error, MachineGone):
                raise
            # To a token with rights on the pool only, a destroyed machine looks like a forbidden one.
            if f"Permission check failed (/vms/{int(vmid)}," in error.detail and not self._in_pool(vmid):
                raise MachineGone(error.detail) from None
            raise

    def _in_pool(self, vmid: int) -> bool:
        pools = (self.pool, self._settings.proxmox_template_pool)
        return any(member.get("vmid") == vmid for pool in pools for member in self._members(pool))

    def _members(self, pool: str) -> list[dict[str, Any]]:
        try:
            found = self._call("GET", "pools", poolid=pool)
        except HypervisorRefused as error:
            if "does not exist" in error.detail or "no such pool" in error.detail:
                return []
            raise
        return [m for entry in found or [] for m in entry.get("members", []) if m.get("type") == "qemu"]

    # -- what is there ----------------------------------------------------------------------------
    def version(self) -> tuple[int, int]:
        """For example (8, 4)."""
        text = str(self._call("GET", "version")["version"])
        numbers = re.findall(r"\d+", text)
        if not numbers:
            raise HypervisorRefused("no version in the answer")
        return int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0

    def server_time(self) -> float | None:
        """The node's clock in Unix seconds (from its Date header), or None if it does not tell."""
        from email.utils import parsedate_to_datetime

        try:
            answer = self._api()._store["session"].request("GET", self._api()._store["base_url"] + "/version")
            return parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except requests.exceptions.RequestException as error:
            raise HypervisorUnreachable(type(error).__name__) from None
        except (KeyError, ValueError, TypeError):
            return None

    def permissions(self) -> dict[str, frozenset[str]]:
        """Path -> privileges of the portal's token."""
        found = self._call("GET", "access/permissions") or {}
        return {path: frozenset(name for name, _ in privileges.items()) for path, privileges in found.items()}

    def storage(self) -> StorageStatus:
        for entry in self._call("GET", f"nodes/{self.node}/storage") or []:
            if entry.get("storage") == self._settings.proxmox_storage:
                content = frozenset(str(entry.get("content", "")).split(","))
                return StorageStatus(bool(int(entry.get("active", 0))), int(entry.get("avail", 0)), content)
        raise HypervisorRefused("storage not visible")

    def cluster_firewall(self) -> bool | None:
        """Is the cluster firewall on? None when the token may not know (needs Sys.Audit on /)."""
        try:
            return bool(int((self._call("GET", "cluster/firewall/options") or {}).get("enable", 0)))
        except HypervisorRefused as error:
            if "Permission check failed" in error.detail:
                return None
            raise

    def templates(self) -> list[Template]:
        """All templates of the template pool, oldest first. A template is named `<name>` or `<name>-r-<revision>`."""
        found = []
        for member in self._members(self._settings.proxmox_template_pool):
            matched = _TEMPLATE_NAME.fullmatch(str(member.get("name", "")))
            # `template` and `name` come from a list that lags up to 10 s behind: ask the configuration when in doubt.
            if matched is None or not int(member.get("template", 0) or 0):
                config = self.config(member["vmid"], node=member.get("node"))
                matched = _TEMPLATE_NAME.fullmatch(str(config.get("name", "")))
                if matched is None or not int(config.get("template", 0) or 0):
                    continue
            found.append(Template(matched[1], int(member["vmid"]), member.get("node") or self.node, matched[2] or ""))
        return sorted(found, key=lambda template: template.vmid)

    def find_template(self, name: str) -> Template:
        """The newest revision. Raises ViewerNotInstalled if there is none."""
        found = [template for template in self.templates() if template.name == name]
        if not found:
            raise ViewerNotInstalled(f"template {name} is not in the pool {self._settings.proxmox_template_pool}")
        return found[-1]

    def list_machines(self) -> list[ListedMachine]:
        """The machines in our pool whose id is in our range: nothing else is ever touched."""
        first, last = self._settings.vmid_first, self._settings.vmid_last
        return [
            ListedMachine(int(m["vmid"]), m.get("node") or self.node, str(m.get("name", "")))
            for m in self._members(self.pool)
            if first <= int(m["vmid"]) <= last
        ]

    def config(self, vmid: int, *, node: str | None = None) -> dict[str, Any]:
        return self._vm_call("GET", vmid, node, "config")

    def can_clone(self, vmid: int, *, node: str | None = None) -> bool:
        """Does the storage of this template allow linked clones?"""
        return bool(int(self._vm_call("GET", vmid, node, "feature", feature="clone").get("hasFeature", 0)))

    # -- the life of a machine ----------------------------------------------------------------------
    def clone_turn(self, seconds_max: float = 60) -> contextlib.AbstractContextManager[Tick]:
        """Hold this around `clone` and the wait for its task."""
        return self._turns.clone(self._settings.proxmox_storage, seconds_max)

    def clone(self, template_vmid: int, vmid: int, name: str, *, node: str | None = None) -> str:
        """Ask for a linked clone into our pool; returns the task. It enters the pool only at its end: until then a
        token with rights on the pool cannot see it. Raises MachineExists if the id is taken."""
        return self._vm_call("POST", template_vmid, node, "clone", newid=vmid, name=name, pool=self.pool, full=False)

    def start(self, vmid: int, *, node: str | None = None) -> str:
        return self._vm_call("POST", vmid, node, "status/start")

    def stop(self, vmid: int, *, node: str | None = None) -> str:
        """Pull the plug. Stopping a stopped machine is no error."""
        return self._vm_call("POST", vmid, node, "status/stop")

    def delete(self, vmid: int, *, node: str | None = None) -> str:
        return self._vm_call("DELETE", vmid, node, "", **{"purge": True, "destroy-unreferenced-disks": True})

    def status(self, vmid: int, *, node: str | None = None) -> str:
        """ "running" or "stopped". Raises MachineGone."""
        return str(self._vm_call("GET", vmid, node, "status/current")["status"])

    def exists(self, vmid: int, *, node: str | None = None) -> bool:
        try:
            self.config(vmid, node=node)
        except MachineGone:
            return False
        return True

    def destroy(self, vmid: int, *, node: str | None = None, seconds_max: float = 90, tick: Tick = _no_tick) -> None:
        """Stop, delete, and see that it is gone. Safe to repeat, and on a machine that never was."""
        deadline = time.monotonic() + seconds_max
        while True:
            try:
                # Straight to the stop: asking for the status first costs a slow call and proves nothing a moment later.
                self.wait_task(self.stop(vmid, node=node), seconds_max, tick)
                self.wait_task(self.delete(vmid, node=node), seconds_max, tick)
            except MachineGone:
                return
            except HypervisorRefused as error:
                if time.monotonic() > deadline or "protection mode" in error.detail:
                    raise
            if not self.exists(vmid, node=node):
                return
            if time.monotonic() > deadline:
                raise HypervisorRefused(f"machine {vmid} is still there")
            tick()
            time.sleep(_RANDOM.uniform(0.3, 0.8))

    def wait_task(self, upid: str, seconds_max: float, tick: Tick = _no_tick) -> None:
        """Until the task has ended well. Raises TaskFailed with its exit status, HypervisorUnreachable in time-out.

        "WARNINGS: n" is success. `tick` is called at every look, to renew leases."""
        node = upid.split(":")[1] if upid.startswith("UPID:") and upid.count(":") >= 8 else self.node
        deadline = time.monotonic() + seconds_max
        pause = 0.02
        while True:
            state = self._once("GET", f"nodes/{node}/tasks/{quote(upid, safe=':@!')}/status", {})
            if state.get("status") != "running":
                break
            tick()
            if time.monotonic() > deadline:
                raise HypervisorUnreachable("a task does not end")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        text = str(state.get("exitstatus", "no exit status"))
        if text == "OK" or text.startswith("WARNINGS"):
            return
        if _GONE.search(text):
            raise MachineGone(text)
        if _EXISTS.search(text):
            raise MachineExists(text)
        raise TaskFailed(text)

    # -- the guest --------------------------------------------------------------------------------
    def agent_ping(self, vmid: int, *, node: str | None = None) -> bool:
        try:
            self._vm_call("POST", vmid, node, "agent/ping")
        except AgentAway:
            return False
        return True

    def write_file(self, vmid: int, path: str, content: bytes, *, node: str | None = None) -> None:
        """Raises ValueError above 60 KiB of base64, AgentAway, MachineStopped."""
        # Sent as base64 that is written decoded: other text is re-encoded on the way and may die of wide characters.
        text = base64.b64encode(content).decode()
        if len(text) > FILE_WRITE_BYTES_MAX:
            raise ValueError("too large for the guest agent")
        self._vm_call("POST", vmid, node, "agent/file-write", file=path, content=text, encode=False)

    def read_file(self, vmid: int, path: str, *, node: str | None = None) -> bytes | None:
        """None if there is no such file. What a guest says is hostile: more than 64 KiB raises HypervisorRefused."""
        try:
            answer = self._vm_call("GET", vmid, node, "agent/file-read", file=path)
        except HypervisorRefused as error:
            if _NO_FILE.search(error.detail):
                return None
            raise
        text = answer.get("content", "")
        if len(text) > FILE_READ_BYTES_MAX or answer.get("truncated"):
            raise HypervisorRefused("a guest's file is too large")
        # Proxmox hands each byte as one character.
        return text.encode("latin-1", errors="replace")

    def console(self, vmid: int, *, node: str | None = None) -> Console:
        """A fresh way to the screen, for one connection now. One at a time per machine: the password is the VM's,
        so hold a lock by machine until the RFB handshake is through."""
        node = node or self.node
        answer = self._vm_call("POST", vmid, node, "vncproxy", **{"websocket": True, "generate-password": True})
        prefix = f"/{self._prefix}" if self._prefix else ""
        host = f"[{self._host}]" if ":" in self._host else self._host
        path = f"{prefix}/api2/json/{self._vm(vmid, node, 'vncwebsocket')}"
        query = f"port={int(answer['port'])}&vncticket={quote(answer['ticket'], safe='')}"
        return Console(
            url=f"wss://{host}:{self._port}{path}?{query}",
            headers={"Authorization": f"PVEAPIToken={self._user}!{self._token_name}={self._token_secret()}"},
            ca_file=self._settings.proxmox_ca_file,
            # Servers before April 2026 make the ticket's first 8 characters the password unless asked for one.
            password=answer.get("password") or answer["ticket"],
        )

    # -- the network --------------------------------------------------------------------------------
    def set_firewall(
        self, vmid: int, guest_address: str, files_address: str, files_port: int, *, node: str | None = None
    ) -> None:
        """Second wall around a machine: everything dropped but TCP from its own address to the files gateway.
        Safe to repeat. Has no effect while the cluster firewall is off."""
        self._vm_call(
            "PUT", vmid, node, "firewall/options", enable=True, dhcp=False, ndp=False, radv=False, macfilter=True,
            ipfilter=True, policy_in="DROP", policy_out="DROP",
        )  # fmt: skip
        sets = {entry.get("name") for entry in self._vm_call("GET", vmid, node, "firewall/ipset") or []}
        if "ipfilter-net0" not in sets:
            self._vm_call("POST", vmid, node, "firewall/ipset", name="ipfilter-net0")
        members = self._vm_call("GET", vmid, node, "firewall/ipset/ipfilter-net0") or []
        if not any(entry.get("cidr") == guest_address for entry in members):
            self._vm_call("POST", vmid, node, "firewall/ipset/ipfilter-net0", cidr=guest_address)
        rules = self._vm_call("GET", vmid, node, "firewall/rules") or []
        if not any(rule.get("dest") == files_address and rule.get("type") == "out" for rule in rules):
            self._vm_call(
                "POST", vmid, node, "firewall/rules", type="out", action="ACCEPT", proto="tcp", dest=files_address,
                dport=str(files_port), enable=1,
            )  # fmt: skip

    def plug_network(self, vmid: int, *, node: str | None = None) -> None:
        """Put the cable in, if the template was published with it out (`link_down=1`). Keeps the MAC address: a net0
        written without it would make Proxmox swap the whole card."""
        config = self.config(vmid, node=node)
        net0 = str(config.get("net0", ""))
        if "link_down=1" not in net0:
            return
        net0 = net0.replace("link_down=1", "link_down=0")
        self._vm_call("PUT", vmid, node, "config", net0=net0, digest=config.get("digest"))

    # -- templates --------------------------------------------------------------------------------
    def publish_template(
        self, name: str, revision: str, image: Path, vmid: int, *, config: dict[str, Any], link_down: bool = False,
        report: Callable[[str], None] = lambda _: None,
    ) -> Template:  # fmt: skip
        """Upload a qcow2 image and make it a template in the template pool. Undone as far as it came on failure.

        `config` are the builder's keys for the virtual machine: everything but its name, disk and network."""
        storage, file_name = self._settings.proxmox_storage, f"{name}-r-{revision}.qcow2"
        report(f"{name}: sending the image ({image.stat().st_size // 2**20} MiB)")
        self.wait_task(self._upload(image, file_name), 900)
        volume = f"{storage}:import/{file_name}"
        net0 = f"virtio,bridge={self._settings.proxmox_bridge},firewall=1" + (",link_down=1" if link_down else "")
        try:
            report(f"{name}: making the template")
            wanted = config | {
                "name": f"{name}-r-{revision}", "pool": self._settings.proxmox_template_pool, "net0": net0,
                "virtio0": f"{storage}:0,import-from={volume}", "boot": "order=virtio0", "agent": "enabled=1",
            }  # fmt: skip
            created = self._call("POST", f"nodes/{self.node}/qemu", vmid=vmid, **wanted)
            self.wait_task(created, 900)
            try:
                task = self._vm_call("POST", vmid, None, "template")
                if isinstance(task, str) and task.startswith("UPID:"):
                    self.wait_task(task, 300)
            except HypervisorRefused:
                with contextlib.suppress(HypervisorRefused, HypervisorUnreachable):
                    self.destroy(vmid)
                raise
        finally:
            # The disk was copied out of it. Deleting needs Datastore.Allocate on some versions: then it just stays.
            with contextlib.suppress(HypervisorRefused, HypervisorUnreachable):
                self._call("DELETE", f"nodes/{self.node}/storage/{storage}/content/{quote(volume, safe=':')}")
        return Template(name, vmid, self.node, revision)

    def _upload(self, image: Path, file_name: str) -> str:
        with tempfile.TemporaryDirectory(prefix="myphr-publish-") as folder:
            # The API takes the stored name from the file's own name.
            link = Path(folder) / file_name
            link.symlink_to(image.resolve())
            with open(link, "rb") as content, self._turns.call():
                path = f"nodes/{self.node}/storage/{self._settings.proxmox_storage}/upload"
                api = self._connect(UPLOAD_TIMEOUT_SECONDS)
                return self._send(api, "POST", path, {"content": "import", "filename": content})


def _translated(error: ResourceException) -> HypervisorRefused | HypervisorUnreachable:
    text = str(error.content or "")
    # The status line is UTF-8 that requests read as Latin-1.
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    if isinstance(error.errors, dict) and error.status_code == 400:
        bad = sorted((key, value) for key, value in error.errors.items() if isinstance(value, str))
        text += " " + "; ".join(f"{key}: {value.strip()}" for key, value in bad)
    detail = f"{error.status_code} {text}".strip()[:500]
    if error.status_code >= 595:
        return HypervisorUnreachable(detail)
    if _GONE.search(text):
        return MachineGone(detail)
    if _EXISTS.search(text):
        return MachineExists(detail)
    if _AGENT_AWAY.search(text):
        return AgentAway(detail)
    if _STOPPED.search(text):
        return MachineStopped(detail)
    return HypervisorRefused(detail)
