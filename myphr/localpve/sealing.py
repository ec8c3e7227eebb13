"""Sealed machines: a template booted once, kept as memory and device state, from which its linked clones resume.

Memory lies in a file of the template; for running it is copied once into a sealed memory file that machines map
privately (copy on write), so that they share untouched pages and none can write what another will read. Device state
goes through a unix socket (QEMU's migration stream with x-ignore-shared). If anything does not fit, the machine boots
cold. Called by `machines`; towards the API it does not exist.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from myphr.localpve import formats, qemu
from myphr.localpve.agent import AgentAway, AgentRefused, GuestAgent
from myphr.localpve.machines import DISK_OPTION, Machine, Machines, disk_options
from myphr.localpve.qmp import Qmp, QmpError
from myphr.localpve.replies import ApiError, TaskFailed
from myphr.localpve.storage import CommandFailed, run

TAG = "sealable"
STATUS_FILE = "/run/myphr/status.json"
BOOT_SECONDS_MAX = 300
STATE_BYTES_MAX = 512 * 1024 * 1024
RESUME_SECONDS = 20
SETTLE_SECONDS = 1.0  # after "waiting", so that what the guest starts last is done
# In the background a boot that fails is tried again after these pauses: one hiccup of a busy host must not leave
# every machine of the template with a slow start until somebody asks for the next one.
RETRY_SECONDS = (2.0, 30.0, 300.0)
_BLOCK = 1 << 20
_READ_ONLY = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# What of a configuration shapes the virtual hardware: a clone that differs in any of it boots cold.
_NAMES_ONLY = re.compile(r"name|description|tags|onboot|protection|meta|template|lock|smbios1|vmgenid|startup|digest")


@dataclasses.dataclass
class Seal:
    """A template's sealed machine, ready to resume from."""

    folder: Path
    shape: str
    memory: int  # descriptor of the sealed memory file
    state: Path


def shape_of(config: dict[str, Any], accelerator: str) -> str:
    """Digest of the virtual hardware. Addresses of network cards and names of disk files do not count."""
    parts: dict[str, Any] = {"accelerator": accelerator, "version": 1}
    for option, value in config.items():
        if _NAMES_ONLY.fullmatch(option):
            continue
        if DISK_OPTION.fullmatch(option):
            drive = formats.parse_drive(str(value))
            value = {k: v for k, v in drive.items() if k != "file"}
        elif re.fullmatch(r"net\d+", option):
            value = {
                k: v for k, v in formats.parse_net(str(value)).items() if k not in ("macaddr", "firewall", "link_down")
            }
        parts[option] = value
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Sealer:
    """Makes, checks and uses the sealed machines of all templates."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._open: dict[int, Seal] = {}
        # Apart from each other, so that machines boot cold while the seal is made, instead of waiting for it.
        self._making: dict[int, asyncio.Lock] = {}
        self._loading: dict[int, asyncio.Lock] = {}
        self._refreshing: dict[int, asyncio.Task[None]] = {}

    def _folder(self, vmid: int) -> Path:
        config = self._machines.config(vmid)
        for option in disk_options(config):
            drive = formats.parse_drive(str(config[option]))
            if drive.get("media") != "cdrom":
                return self._machines.storages.of(drive["file"]).root / "seals" / str(vmid)
        raise TaskFailed("a machine without a disk cannot be sealed")

    def wanted(self, vmid: int) -> bool:
        """A template that says so by its tag, and has an agent to say when it is ready."""
        config = self._machines.config(vmid)
        tags = formats.split_list(str(config.get("tags", "")))
        return bool(TAG in tags and config.get("template") and qemu.agent_enabled(config))

    # -- making -------------------------------------------------------------------------------
    async def seal(self, vmid: int, log: Callable[[str], None]) -> bool:
        """Boots the template once and keeps it. A failure leaves a template that boots cold (False); it is no error of
        the task."""
        try:
            async with self._making.setdefault(vmid, asyncio.Lock()):
                await self._seal(vmid, log)
        except (
            TaskFailed,
            ApiError,
            QmpError,
            AgentAway,
            AgentRefused,
            CommandFailed,
            OSError,
            TimeoutError,
        ) as problem:
            log(f"not sealed, machines will boot cold: {problem or type(problem).__name__}")
            return False
        return True

    async def _seal(self, vmid: int, log: Callable[[str], None]) -> None:
        machines = self._machines
        config = machines.config(vmid)
        started = time.monotonic()
        base = await asyncio.to_thread(self._new_folder, vmid)
        machine = Machine(vmid)
        plan = machines.launch_plan(vmid)
        plan = dataclasses.replace(plan, run_dir=machines.run_dir / f"seal-{vmid}")
        memory = os.memfd_create(f"memory-{vmid}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, qemu.memory_mib(config) << 20)
            for option, chain in plan.disks.items():
                # The guest may write while it boots: into an overlay that stays with the sealed memory.
                top, form = chain[0]
                overlay = base / f"disk-{option}.qcow2"
                await run("qemu-img", "create", "-f", "qcow2", "-b", str(top), "-F", form, str(overlay))
                chain.insert(0, (overlay, "qcow2"))
            plan = dataclasses.replace(
                plan, memory_path=f"/proc/self/fd/{memory}", memory_shared=True, extra_descriptors=(memory,)
            )
            log("booting once to seal")
            control = await machines.launch_apart(machine, plan, log)
            await self._wait_ready(machine, plan.run_dir / "qga.sock")
            await control.execute("stop")
            await self._keep_state(control, plan.run_dir, base / "state")
            await machines.end_apart(machine)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _READ_ONLY)
            facts: dict[str, Any] = {"shape": shape_of(config, machines.accelerator), "made": int(time.time())}
            facts |= await asyncio.to_thread(_write_memory, memory, base / "memory", base / "state")
            (base / "seal.json").write_text(json.dumps(facts))
            self._replace(vmid, Seal(base, str(facts["shape"]), memory, base / "state"))
            os.symlink(base.name, draft := base.parent / f".current-{base.name}")
            draft.replace(base.parent / "current")
            used = os.fstat(memory).st_blocks * 512
            sizes = f"{used >> 20} MiB of memory, {facts['state_bytes'] >> 20} MiB of state"
            log(f"sealed in {time.monotonic() - started:.1f} s, {sizes}")
        except BaseException:
            await machines.end_apart(machine)
            os.close(memory)
            shutil.rmtree(base, ignore_errors=True)
            raise

    def _new_folder(self, vmid: int) -> Path:
        base = self._folder(vmid) / f"{time.time_ns():x}"
        base.mkdir(mode=0o700, parents=True)
        return base

    async def _wait_ready(self, machine: Machine, agent_socket: Path) -> None:
        """Until the guest's own agent says that it waits for a claim."""
        agent = GuestAgent(agent_socket)
        deadline = time.monotonic() + BOOT_SECONDS_MAX
        while time.monotonic() < deadline:
            if machine.process is None:
                raise TaskFailed("the guest ended while it booted")
            with contextlib.suppress(AgentAway, AgentRefused, ValueError, KeyError, TypeError, AttributeError):
                content, _cut = await agent.read_file(STATUS_FILE, 65536)
                if json.loads(content)["state"] == "waiting":
                    await asyncio.sleep(SETTLE_SECONDS)
                    return
            await asyncio.sleep(0.3)
        raise TaskFailed(f"the guest did not say that it waits within {BOOT_SECONDS_MAX} s")

    async def _keep_state(self, control: Qmp, run_dir: Path, path: Path) -> None:
        """Receives QEMU's migration stream, without the memory that lies in the shared file, into `path`."""
        await control.execute("migrate-set-capabilities", _CAPABILITIES)
        received = asyncio.get_running_loop().create_future()

        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                size = 0
                with path.open("xb") as out:
                    while data := await reader.read(_BLOCK):
                        size += len(data)
                        if size > STATE_BYTES_MAX:
                            raise TaskFailed("device state too large")
                        await asyncio.to_thread(out.write, data)
                received.set_result(size)
            except Exception as problem:
                received.set_exception(problem)
            finally:
                writer.close()

        near = run_dir / "state.sock"
        server = await asyncio.start_unix_server(receive, str(near))
        if self._machines.user.uid is not None:
            os.chown(near, self._machines.user.uid, -1)
        try:
            await control.execute("migrate-set-parameters", {"max-bandwidth": 1 << 34})
            await control.execute("migrate", {"uri": f"unix:{near}"})
            deadline = time.monotonic() + 60
            while (status := (await control.execute("query-migrate")).get("status")) != "completed":
                if status in ("failed", "cancelled") or time.monotonic() > deadline:
                    raise TaskFailed(f"saving the device state ended as {status}")
                await asyncio.sleep(0.05)
            await asyncio.wait_for(received, 30)
        finally:
            server.close()

    # -- using --------------------------------------------------------------------------------
    async def resume(self, vmid: int, log: Callable[[str], None]) -> bool:
        """Starts a fresh linked clone from its template's sealed machine. False: boot it cold."""
        machines = self._machines
        document = machines.document(vmid)
        template = document.get("template")
        if not document.get("fresh") or template is None or not machines.exists(template) or not self.wanted(template):
            return False
        async with self._loading.setdefault(template, asyncio.Lock()):
            seal = await self._load(template)
        if seal is None:
            self._refresh_later(template)
            return False
        if seal.shape != shape_of(document["config"], machines.accelerator):
            return False
        machine = machines.machine(vmid)
        memory = os.dup(seal.memory)  # the seal may be replaced, and its descriptor closed, while QEMU is started
        try:
            # From the first moment on the clone's disk is one over the sealed machine's disk, also after a crash.
            document = {k: v for k, v in document.items() if k != "fresh"} | {"seal": str(seal.folder)}
            machines.save(vmid, document)
            plan = dataclasses.replace(
                machines.launch_plan(vmid), memory_path=f"/proc/self/fd/{memory}", incoming=True,
                extra_descriptors=(memory,),
            )  # fmt: skip
            control = await machines.launch(machine, plan, log)
            async with asyncio.timeout(RESUME_SECONDS):
                await self._send_state(control, plan.run_dir, seal.state)
            return True
        except (TaskFailed, QmpError, OSError, TimeoutError) as problem:
            machines.say(f"machine {vmid} did not resume ({type(problem).__name__}: {problem}), booting it cold")
            await machines.end_process(vmid)
            await asyncio.to_thread(self._renew_overlay, vmid)
            document = {k: v for k, v in machines.document(vmid).items() if k != "seal"} | {"fresh": True}
            machines.save(vmid, document)
            if self._open.get(template) is seal:
                self._drop(template)
            await asyncio.to_thread(shutil.rmtree, seal.folder, True)
            self._refresh_later(template)
            return False
        finally:
            os.close(memory)

    async def _send_state(self, control: Qmp, run_dir: Path, state: Path) -> None:
        near = run_dir / "incoming.sock"
        await control.execute("migrate-set-capabilities", _CAPABILITIES)
        await control.execute("migrate-incoming", {"uri": f"unix:{near}"})
        _reader, writer = await asyncio.open_unix_connection(str(near))
        try:
            with state.open("rb") as source:
                while data := await asyncio.to_thread(source.read, _BLOCK):
                    writer.write(data)
                    await writer.drain()
            writer.write_eof()
            while True:
                status = (await control.execute("query-status"))["status"]
                if status in ("paused", "postmigrate", "running"):
                    break
                if status != "inmigrate":
                    raise TaskFailed(f"resuming ended as {status}")
                await asyncio.sleep(0.01)
            migration = (await control.execute("query-migrate")).get("status")
            if migration not in ("completed", None):
                raise TaskFailed(f"resuming ended as {migration}")
            await control.execute("cont")
        finally:
            writer.close()

    def _renew_overlay(self, vmid: int) -> None:
        """An overlay that a failed resume may have written to is emptied."""
        config = self._machines.config(vmid)
        for option in disk_options(config):
            drive = formats.parse_drive(str(config[option]))
            storage = self._machines.storages.of(drive["file"])
            if base := storage.base_of(drive["file"]):
                path, base_path = storage.path(drive["file"]), storage.path(base)
                relative = f"../{base_path.parent.name}/{base_path.name}"
                form = base_path.suffix.lstrip(".")
                command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", relative, "-F", form, path.name]
                subprocess.run(command, cwd=path.parent, check=True, stdin=subprocess.DEVNULL)

    async def _load(self, template: int) -> Seal | None:
        """The template's sealed machine, read and checked once per life of localpve."""
        if template in self._open:
            seal = self._open[template]
            # Someone may have removed the files to have them made anew.
            if seal.state.exists() and (seal.folder / "memory").exists():
                return seal
            self._drop(template)
            return None
        folder = self._folder(template) / "current"
        if not (folder / "seal.json").exists():
            return None
        try:
            seal = await asyncio.to_thread(_read_seal, folder.resolve())
        except (OSError, ValueError, KeyError) as problem:
            self._machines.say(f"sealed machine of template {template} is damaged ({problem}), making it anew")
            return None
        if template in self._open:  # made anew meanwhile
            os.close(seal.memory)
        return self._open.setdefault(template, seal)

    def _replace(self, vmid: int, seal: Seal) -> None:
        self._drop(vmid)
        self._open[vmid] = seal

    def _drop(self, vmid: int) -> None:
        if old := self._open.pop(vmid, None):
            os.close(old.memory)

    # -- keeping ------------------------------------------------------------------------------
    def _refresh_later(self, template: int) -> None:
        """Makes a missing or damaged sealed machine anew in the background; until then machines boot cold."""
        current = self._refreshing.get(template)
        if current is None or current.done():
            self._refreshing[template] = asyncio.create_task(self._refresh(template))

    async def _refresh(self, template: int) -> None:
        def say(text: str) -> None:
            self._machines.say(f"template {template}: {text}")

        for pause in (*RETRY_SECONDS, None):
            if await self.seal(template, say) or pause is None:
                return
            say(f"tried again in {pause:.0f} s")
            await asyncio.sleep(pause)

    async def recover(self) -> None:
        """At start: seals what a crash left unsealed, removes generations that nobody uses."""
        used = {document.get("seal") for document in self._machines.state.kind("vm").values()}
        for vmid in self._machines.vmids():
            if not self.wanted(vmid):
                continue
            folder = self._folder(vmid)
            current = (folder / "current").resolve() if (folder / "current").exists() else None
            for entry in folder.iterdir() if folder.exists() else ():
                if entry.is_dir() and not entry.is_symlink() and entry != current and str(entry) not in used:
                    await asyncio.to_thread(shutil.rmtree, entry, True)
            if current is None or not (current / "seal.json").exists():
                self._refresh_later(vmid)

    async def close(self) -> None:
        """At an orderly end: boots that were under way are ended; the next start makes them anew."""
        for refreshing in self._refreshing.values():
            refreshing.cancel()
        await asyncio.gather(*self._refreshing.values(), return_exceptions=True)

    async def forget(self, vmid: int) -> None:
        """A template is destroyed (no linked clones are left then), or a clone, which has nothing of its own here."""
        if refreshing := self._refreshing.pop(vmid, None):
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
        self._drop(vmid)
        with contextlib.suppress(TaskFailed, ApiError):
            if self._machines.config(vmid).get("template"):
                await asyncio.to_thread(shutil.rmtree, self._folder(vmid), True)


_CAPABILITIES = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}


def _write_memory(memory: int, path: Path, state: Path) -> dict[str, Any]:
    """Copies the memory file to disk, leaving out pages that are empty. Returns sizes and digests."""
    digest, size = hashlib.sha256(), os.fstat(memory).st_size
    empty = bytes(_BLOCK)
    with path.open("xb") as out:
        for at in range(0, size, _BLOCK):
            block = os.pread(memory, _BLOCK, at)
            digest.update(block)
            if block != empty:
                os.pwrite(out.fileno(), block, at)
        os.ftruncate(out.fileno(), size)
        os.fsync(out.fileno())
    with state.open("rb") as file:
        state_digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "memory_bytes": size, "memory_sha256": digest.hexdigest(), "state_sha256": state_digest,
        "state_bytes": state.stat().st_size,
    }  # fmt: skip


def _read_seal(folder: Path) -> Seal:
    """Copies memory from disk into a sealed memory file, checking every byte. Raises ValueError for a damaged one."""
    facts = json.loads((folder / "seal.json").read_text())
    with (folder / "state").open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != facts["state_sha256"]:
            raise ValueError("state differs")
    memory = os.memfd_create("sealed-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        digest, empty = hashlib.sha256(), bytes(_BLOCK)
        os.ftruncate(memory, facts["memory_bytes"])
        with (folder / "memory").open("rb", buffering=0) as source:
            at = 0
            while block := source.read(_BLOCK):
                digest.update(block)
                if block.strip(b"\0") or len(block) != len(empty):
                    os.pwrite(memory, block, at)
                at += len(block)
        if digest.hexdigest() != facts["memory_sha256"]:
            raise ValueError("memory differs")
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _READ_ONLY)
    except BaseException:
        os.close(memory)
        raise
    return Seal(folder, facts["shape"], memory, folder / "state")
