"""The life of machines: create, clone, template, start, stop, destroy, each as the work of a task.

Holds the truth about configurations (in `state`) and running processes (found again after a crash). Speaks to QEMU
through `qemu`, `qmp` and `agent`, to disks through `storage`. Called by `api`; texts of errors are those of a real
node.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from myphr.localpve import formats, qemu
from myphr.localpve.agent import AgentAway, AgentRefused, GuestAgent
from myphr.localpve.forwarding import ForwardRelay, reachable_by
from myphr.localpve.qmp import Qmp, QmpError
from myphr.localpve.replies import ApiError, ParameterErrors, TaskFailed, failure
from myphr.localpve.state import State
from myphr.localpve.storage import Storages
from myphr.localpve.tasks import Task

LOCK_SECONDS = 10.0
START_SECONDS = 20.0
STOP_SECONDS = 10.0  # for QEMU to end by itself before SIGTERM, and again before SIGKILL
SHUTDOWN_SECONDS = 60
DISK_OPTION = re.compile(r"(ide|sata|scsi|virtio)\d+")
NET_OPTION = re.compile(r"net\d+")
# Changes that a running machine takes at once; all others wait for the next start.
LIVE_OPTIONS = {
    "name",
    "description",
    "tags",
    "onboot",
    "protection",
    "lock",
    "startup",
    "hookscript",
    "template",
    "boot",
}
ROOT_ONLY = ("args", "lock", "affinity", "arch", "hugepages", "ivshmem", "keephugepages", "vmgenid", "hookscript")
INTEGERS = {
    "acpi", "autostart", "balloon", "ciupgrade", "cores", "cpuunits", "freeze", "keephugepages", "kvm", "localtime",
    "migrate_speed", "numa", "onboot", "protection", "reboot", "shares", "smp", "sockets", "tablet", "tdf", "template",
    "vcpus",
}  # fmt: skip


class Machine:
    """What is known of one machine beyond its configuration: its lock, process and channels."""

    def __init__(self, vmid: int) -> None:
        self.vmid = vmid
        self.lock = asyncio.Lock()
        self.process: qemu.Process | None = None
        self.qmp: Qmp | None = None
        self.agent: GuestAgent | None = None
        self.errors: int | None = None
        self.ended = asyncio.Event()
        self.relays: list[ForwardRelay] = []
        self.started_at = 0.0


class Machines:
    """All machines of this node."""

    def __init__(
        self, state: State, storages: Storages, node: str, run_dir: Path, user: qemu.VmUser, accelerator: str,
        forwards: list[qemu.Forward], bridges: set[str], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.state = state
        self.storages = storages
        self.node = node
        self.run_dir = run_dir
        self.user = user
        self.accelerator = accelerator
        self.forwards = {f.bridge: f for f in forwards}
        self.bridges = bridges | set(self.forwards)
        self.say = say
        self.lock_seconds = LOCK_SECONDS
        self.sealer: Any = None  # myphr.localpve.sealing.Sealer, set by the server unless sealing is off
        self._machines: dict[int, Machine] = {}

    # -- configurations -----------------------------------------------------------------------
    def vmids(self) -> list[int]:
        return [int(key) for key in self.state.kind("vm")]

    def exists(self, vmid: int) -> bool:
        return str(vmid) in self.state.kind("vm")

    def document(self, vmid: int) -> dict[str, Any]:
        """Raises ApiError 500 for an unknown machine: there is no 404 on a real node."""
        document = self.state.get("vm", str(vmid))
        if document is None:
            raise failure(f"Configuration file 'nodes/{self.node}/qemu-server/{vmid}.conf' does not exist")
        return document

    def config(self, vmid: int) -> dict[str, Any]:
        return self.document(vmid)["config"]

    def save(self, vmid: int, document: dict[str, Any]) -> None:
        self.state.put("vm", str(vmid), document)

    def digest(self, vmid: int) -> str:
        document = self.document(vmid)
        text = repr((sorted(document["config"].items()), sorted(document["pending"].items())))
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def shown_config(self, vmid: int, current: bool) -> dict[str, Any]:
        document = self.document(vmid)
        shown = dict(document["config"])
        if not current:
            for key, value in document["pending"].items():
                if value is None:
                    shown.pop(key, None)
                else:
                    shown[key] = value
        return {**shown, "digest": self.digest(vmid)}

    def name_of(self, vmid: int) -> str:
        return str(self.config(vmid).get("name", f"VM {vmid}"))

    def pool_of(self, vmid: int) -> str | None:
        for pool, document in self.state.kind("pool").items():
            if str(vmid) in document["vms"]:
                return pool
        return None

    def put_in_pool(self, vmid: int, pool: str) -> None:
        document = self.state.get("pool", pool)
        if document is not None and str(vmid) not in document["vms"]:
            document["vms"].append(str(vmid))
            self.state.put("pool", pool, document)

    # -- processes ----------------------------------------------------------------------------
    def machine(self, vmid: int) -> Machine:
        return self._machines.setdefault(vmid, Machine(vmid))

    def running(self, vmid: int) -> bool:
        process = self.machine(vmid).process
        return process is not None and process.alive()

    def running_count(self) -> int:
        return sum(self.running(vmid) for vmid in self.vmids())

    @contextlib.asynccontextmanager
    async def locked(self, vmid: int, task: Task | None = None, seconds: float | None = None) -> AsyncIterator[Machine]:
        """The machine's configuration lock. Raises the text of a real node after `seconds`."""
        machine = self.machine(vmid)
        contended = machine.lock.locked()
        if contended and task:
            task.log("trying to acquire lock...")
        try:
            await asyncio.wait_for(machine.lock.acquire(), seconds or self.lock_seconds)
        except TimeoutError:
            raise failure(f"can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout") from None
        try:
            if contended and task:
                task.log(" OK")
            yield machine
        finally:
            machine.lock.release()

    def need_unlocked(self, config: dict[str, Any], skiplock: bool = False) -> None:
        if "lock" in config and not skiplock:
            raise failure(f"VM is locked ({config['lock']})")

    # -- create -------------------------------------------------------------------------------
    def check_new(self, vmid: int) -> None:
        if self.exists(vmid):
            raise failure(f"unable to create VM {vmid} - VM {vmid} already exists on node '{self.node}'")

    def reserve(self, vmid: int, lock: str) -> None:
        """The id is taken from here on, even across a crash (which then clears it)."""
        self.save(vmid, {"config": {"lock": lock}, "pending": {}})

    async def create(self, task: Task, vmid: int, options: dict[str, Any], pool: str | None) -> None:
        made: list[str] = []
        try:
            async with self.locked(vmid, task):
                config = await self._with_disks(task, vmid, options, made)
                self._complete(vmid, config)
                with self.state.together():
                    self.save(vmid, {"config": config, "pending": {}})
                    if pool:
                        self.put_in_pool(vmid, pool)
        except BaseException as problem:
            for volume in made:
                self.storages.of(volume).remove(volume)
            self.state.remove("vm", str(vmid))
            if isinstance(problem, TaskFailed):
                raise TaskFailed(f"unable to create VM {vmid} - {problem}") from None
            raise

    async def _with_disks(self, task: Task, vmid: int, options: dict[str, Any], made: list[str]) -> dict[str, Any]:
        """Options with `storage:size` replaced by real new disks and `import-from` by imported ones."""
        config: dict[str, Any] = {}
        for option, value in options.items():
            if not DISK_OPTION.fullmatch(option):
                config[option] = value
                continue
            drive = formats.parse_drive(str(value))
            storage_name, colon, name = drive["file"].partition(":")
            if not colon or drive.get("media") == "cdrom" or not re.fullmatch(r"\d+(\.\d+)?", name):
                config[option] = value
                continue
            storage = self.storages.get(storage_name)
            form = drive.pop("format", "qcow2")
            if source := drive.pop("import-from", None):
                source_path = self.storages.of(source).path(source)
                volume = await storage.import_image(source_path, vmid, form, task.log)
            else:
                volume = await storage.create(vmid, int(float(name) * (1 << 30)), form, task.log)
            made.append(volume)
            size = int((await storage.info(storage.path(volume), form))["virtual-size"])
            drive.update(file=volume, size=formats.print_size(size))
            config[option] = formats.print_drive(drive)
            task.log(f"{option}: successfully created disk '{config[option]}'")
        return config

    def _complete(self, vmid: int, config: dict[str, Any]) -> None:
        """What a real node adds to a new configuration."""
        for option in [o for o in config if NET_OPTION.fullmatch(o)]:
            config[option] = with_mac(str(config[option]))
        if "boot" not in config:
            disks = [
                o for o in ("ide0", "sata0", "scsi0", "virtio0") if o in config and "media=cdrom" not in str(config[o])
            ]
            devices = disks[:1] + [o for o in sorted(config) if NET_OPTION.fullmatch(o)][:1]
            config["boot"] = "order=" + ";".join(devices) if devices else " "
        config.setdefault("smbios1", f"uuid={uuid.uuid4()}")
        config.setdefault("vmgenid", str(uuid.uuid4()))
        config["meta"] = f"creation-qemu=7.2.22,ctime={int(time.time())}"

    # -- change -------------------------------------------------------------------------------
    async def change(
        self, task: Task | None, vmid: int, changes: dict[str, Any], delete: list[str], revert: list[str]
    ) -> None:
        """Applies changed, deleted and reverted options. Under the machine's lock."""
        document = self.document(vmid)
        running = self.running(vmid)
        pending = dict(document["pending"])
        config = dict(document["config"])
        made: list[str] = []
        for option in revert:
            pending.pop(option, None)
        for option in delete:
            if running and option not in LIVE_OPTIONS and option in config:
                pending[option] = None
            else:
                config.pop(option, None)
                pending.pop(option, None)
        quiet = task or Task({"upid": ""})
        new = await self._with_disks(quiet, vmid, changes, made)
        for option, value in new.items():
            if NET_OPTION.fullmatch(option):
                value = with_mac(str(value))
                if running and await self._change_link(vmid, option, str(config.get(option, "")), value):
                    config[option] = value
                    continue
            if running and option not in LIVE_OPTIONS:
                if config.get(option) == value:
                    pending.pop(option, None)
                else:
                    pending[option] = value
            else:
                config[option] = value
                pending.pop(option, None)
        self.save(vmid, {**document, "config": config, "pending": pending})

    async def _change_link(self, vmid: int, option: str, old: str, new: str) -> bool:
        """True when only the link state differs and QEMU took it."""
        if not old:
            return False
        before, after = formats.parse_net(old), formats.parse_net(new)
        up = after.pop("link_down", "0") != "1"
        before.pop("link_down", None)
        for line in (before, after):
            line.pop("firewall", None)
        if before != after:
            return False
        with contextlib.suppress(QmpError):
            await (await self.control(vmid)).execute("set_link", {"name": f"{option}-dev", "up": up})
            return True
        return False

    # -- template and clone -------------------------------------------------------------------
    async def make_template(self, task: Task, vmid: int) -> None:
        async with self.locked(vmid, task):
            document = self.document(vmid)
            config = dict(document["config"])
            for option in disk_options(config):
                drive = formats.parse_drive(str(config[option]))
                name = drive["file"].rsplit("/", 1)[-1]
                if drive.get("media") != "cdrom" and name.startswith("vm-"):
                    drive["file"] = self.storages.of(drive["file"]).to_base(drive["file"])
                    config[option] = formats.print_drive(drive)
                    # Each rename is saved at once, so that a crash leaves no volume id without a file.
                    self.save(vmid, {**document, "config": {**config}})
            config["template"] = 1
            self.save(vmid, {**document, "config": config})
        if self.sealer and self.sealer.wanted(vmid):
            await self.sealer.seal(vmid, task.log)

    def linked_clone_problem(self, vmid: int) -> str | None:
        config = self.config(vmid)
        for option in disk_options(config):
            drive = formats.parse_drive(str(config[option]))
            if drive.get("media") == "cdrom":
                continue
            if not drive["file"].rsplit("/", 1)[-1].startswith("base-"):
                return f"Linked clone feature is not supported for '{drive['file']}' ({option})"
        return None

    async def clone(
        self, task: Task, source: int, target: int, changes: dict[str, Any], full: bool, storage: str | None,
        form: str | None, pool: str | None,
    ) -> None:  # fmt: skip
        """Copies the configuration and makes the disks; the new machine is unlocked only when all is there."""
        made: list[str] = []
        try:
            async with self.locked(target, task):
                original = self.config(source)
                config = {k: v for k, v in original.items() if k not in ("template", "lock", "parent", "vmstate")}
                for option in disk_options(original):
                    drive = formats.parse_drive(str(original[option]))
                    if drive.get("media") == "cdrom":
                        continue
                    owner = self.storages.of(drive["file"])
                    if full:
                        task.log(f"create full clone of drive {option} ({drive['file']})")
                        place = self.storages.get(storage) if storage else owner
                        path = owner.path(drive["file"])
                        kind = path.suffix.lstrip(".")
                        volume = await place.copy_to(path, kind, target, form or kind, task.log)
                    else:
                        task.log(f"create linked clone of drive {option} ({drive['file']})")
                        volume = await owner.create_over(drive["file"], target, task.log)
                    made.append(volume)
                    drive["file"] = volume
                    config[option] = formats.print_drive(drive)
                for option in [o for o in config if NET_OPTION.fullmatch(o)]:
                    line = formats.parse_net(str(config[option]))
                    config[option] = formats.print_net({**line, "macaddr": new_mac()})
                smbios = formats.parse_properties(str(config.get("smbios1", "")) or "uuid=x", "")
                config["smbios1"] = ",".join(f"{k}={v}" for k, v in {**smbios, "uuid": str(uuid.uuid4())}.items())
                if "vmgenid" in config:
                    config["vmgenid"] = str(uuid.uuid4())
                config["name"] = f"Copy-of-VM-{original.get('name', source)}"
                config.update(changes)
                document: dict[str, Any] = {"config": config, "pending": {}}
                if not full:
                    document["template"] = source
                    document["fresh"] = True  # never started: its disk is still exactly the template's
                with self.state.together():
                    self.save(target, document)
                    if pool:
                        self.put_in_pool(target, pool)
        except BaseException:
            for volume in made:
                self.storages.of(volume).remove(volume)
            self.state.remove("vm", str(target))
            raise

    # -- start and stop -----------------------------------------------------------------------
    async def start(self, task: Task, vmid: int, skiplock: bool = False) -> None:
        async with self.locked(vmid, task) as machine:
            config = self.config(vmid)
            if config.get("template"):
                raise TaskFailed("you can't start a vm if it's a template")
            self.need_unlocked(config, skiplock)
            if self.running(vmid):
                raise TaskFailed(f"VM {vmid} already running")
            self._apply_pending(vmid)
            config = self.config(vmid)
            for option in sorted(o for o in config if NET_OPTION.fullmatch(o)):
                bridge = formats.parse_net(str(config[option])).get("bridge", "")
                if bridge not in self.bridges:
                    task.log(f"bridge '{bridge}' does not exist")
                    raise TaskFailed("start failed: QEMU exited with code 1")
            for option in sorted(o for o in config if o.startswith("virtiofs")):
                directory = formats.parse_properties(str(config[option]), "dirid").get("dirid")
                raise TaskFailed(f"Directory ID {directory} does not exist.")
            self._need_room(config)
            if self.sealer and await self.sealer.resume(vmid, task.log):
                return
            await self.launch(machine, self.launch_plan(vmid), task.log)
            self._mark_started(vmid)

    def _mark_started(self, vmid: int) -> None:
        document = self.document(vmid)
        if document.pop("fresh", None):
            self.save(vmid, document)

    def _apply_pending(self, vmid: int) -> None:
        document = self.document(vmid)
        if not document["pending"]:
            return
        config = dict(document["config"])
        for key, value in document["pending"].items():
            if value is None:
                config.pop(key, None)
            else:
                config[key] = value
        self.save(vmid, {**document, "config": config, "pending": {}})

    def _need_room(self, config: dict[str, Any]) -> None:
        """A machine that would push the host into swapping or the OOM killer is refused like QEMU refuses it."""
        wanted = qemu.memory_mib(config) << 20
        available = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/meminfo").read_text().splitlines()
            if "MemAvailable" in line
        )
        if wanted > available:
            raise TaskFailed("start failed: cannot set up guest memory 'pc.ram': Cannot allocate memory")

    def launch_plan(self, vmid: int) -> qemu.Launch:
        document = self.document(vmid)
        config = document["config"]
        disks: dict[str, list[tuple[Path, str]]] = {}
        for option in disk_options(config):
            drive = formats.parse_drive(str(config[option]))
            if drive["file"] in ("none", "cdrom"):
                continue
            storage = self.storages.of(drive["file"])
            path = storage.path(drive["file"])
            chain = [(path, "raw" if drive.get("media") == "cdrom" else path.suffix.lstrip("."))]
            if base := storage.base_of(drive["file"]):
                if seal := document.get("seal"):
                    chain.append((Path(seal) / f"disk-{option}.qcow2", "qcow2"))
                base_path = storage.path(base)
                chain.append((base_path, base_path.suffix.lstrip(".")))
            disks[option] = chain
        return qemu.Launch(
            vmid=vmid, config=config, run_dir=self.run_dir / str(vmid), disks=disks, accelerator=self.accelerator,
            user=self.user, forwards=self.forwards, forward_paths={},
        )  # fmt: skip

    async def launch(self, machine: Machine, plan: qemu.Launch, log: Callable[[str], None]) -> Qmp:
        """Starts QEMU and returns when its control socket answers. Raises TaskFailed with QEMU's own words."""
        self._clean_run_dir(plan.run_dir)
        self._make_run_dir(plan.run_dir)
        await self._open_forwards(machine, plan)
        try:
            process, errors = await asyncio.to_thread(qemu.spawn, plan)
        except OSError as problem:
            raise TaskFailed(f"start failed: {problem.strerror}") from None
        machine.process, machine.errors, machine.started_at = process, errors, time.time()
        machine.ended.clear()
        if self._machines.get(machine.vmid) is machine:
            run = {"pid": process.pid, "started": process.started, "at": machine.started_at}
            self.state.put("run", str(machine.vmid), run)
        self._watch(machine)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                machine.qmp = await Qmp.connect(plan.run_dir / "qmp.sock", seconds=5)
                machine.agent = GuestAgent(plan.run_dir / "qga.sock")
                return machine.qmp
            except QmpError:
                if not process.alive():
                    await machine.ended.wait()
                    code = process.popen.returncode if process.popen else "unknown"
                    for line in qemu.complaint(errors).splitlines()[:20]:
                        log(line)
                    raise TaskFailed(f"start failed: QEMU exited with code {code}") from None
                if time.monotonic() > deadline:
                    process.signal(signal.SIGKILL)
                    raise TaskFailed("start failed: got timeout") from None
                await asyncio.sleep(0.05)

    async def launch_apart(self, machine: Machine, plan: qemu.Launch, log: Callable[[str], None]) -> Qmp:
        """Starts a process that is no machine of the API (the one boot of a template). Found as ownerless after a
        crash."""
        return await self.launch(machine, plan, log)

    async def end_apart(self, machine: Machine) -> None:
        process = machine.process
        if process is not None:
            if machine.qmp:
                with contextlib.suppress(QmpError):
                    await machine.qmp.execute("quit", seconds=2)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(machine.ended.wait(), 2)
            process.signal(signal.SIGKILL)
            await asyncio.wait_for(machine.ended.wait(), STOP_SECONDS)
        await asyncio.to_thread(self._clean_run_dir, self.run_dir / f"seal-{machine.vmid}")

    def _make_run_dir(self, run_dir: Path) -> None:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.user.uid is not None:
            os.chown(run_dir, self.user.uid, self.user.gid or 0)

    def _clean_run_dir(self, run_dir: Path) -> None:
        shutil.rmtree(run_dir, ignore_errors=True)

    async def _open_forwards(self, machine: Machine, plan: qemu.Launch) -> None:
        """QEMU dials the far socket itself where it may; where only localpve may, localpve passes the bytes on."""
        await self._close_forwards(machine)
        for option in [o for o in plan.config if NET_OPTION.fullmatch(o)]:
            forward = self.forwards.get(formats.parse_net(str(plan.config[option])).get("bridge", ""))
            if not forward:
                continue
            far = Path(forward.socket_path.replace("{vmid}", str(machine.vmid)))
            if reachable_by(far, self.user.uid, self.user.gid):
                plan.forward_paths[option] = far
                continue
            near = plan.run_dir / f"forward-{option}.sock"
            relay = ForwardRelay(near, far, self.user.uid)
            await relay.start()
            machine.relays.append(relay)
            plan.forward_paths[option] = near

    async def _close_forwards(self, machine: Machine) -> None:
        for relay in machine.relays:
            await relay.close()
        machine.relays.clear()

    def _watch(self, machine: Machine) -> None:
        """Notices the end of the process, ours or adopted, without polling."""
        process = machine.process
        assert process is not None
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            loop.call_soon(self._on_end, machine, process, None)
            return
        loop.add_reader(descriptor, self._on_end, machine, process, descriptor)

    def _on_end(self, machine: Machine, process: qemu.Process, descriptor: int | None) -> None:
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        if process.popen is not None:
            process.popen.wait()
        if machine.process is not process:
            return
        if machine.qmp:
            machine.qmp.close()
        if machine.errors is not None:
            # Kept readable until the starter has read it; the descriptor itself is closed with the next start.
            errors, machine.errors = machine.errors, None
            asyncio.get_running_loop().call_later(10, os.close, errors)
        machine.process = machine.qmp = machine.agent = None
        for relay in machine.relays:
            asyncio.get_running_loop().create_task(relay.close())
        machine.relays = []
        if self._machines.get(machine.vmid) is machine:
            self.state.remove("run", str(machine.vmid))
        machine.ended.set()

    async def control(self, vmid: int) -> Qmp:
        """The machine's QMP connection, opened again if it was lost. Raises QmpError."""
        machine = self.machine(vmid)
        if machine.process is None:
            raise QmpError("not running")
        if machine.qmp is None or machine.qmp.closed.is_set():
            machine.qmp = await Qmp.connect(self.run_dir / str(vmid) / "qmp.sock")
        return machine.qmp

    async def stop(self, task: Task, vmid: int, skiplock: bool = False, seconds: float | None = None) -> None:
        if not self.exists(vmid):
            raise TaskFailed(f"unable to find configuration file for VM {vmid} on node '{self.node}'")
        async with self.locked(vmid, task, 60):
            if not self.running(vmid):
                return
            self.need_unlocked(self.config(vmid), skiplock)
            await self.end_process(vmid, seconds)

    async def end_process(self, vmid: int, seconds: float | None = None) -> None:
        """QMP quit, then SIGTERM, then SIGKILL; returns when the process is gone."""
        machine = self.machine(vmid)
        process = machine.process
        if process is None:
            return
        with contextlib.suppress(QmpError):
            await (await self.control(vmid)).execute("quit", seconds=3)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                process.signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(machine.ended.wait(), seconds or STOP_SECONDS)
                return
        raise TaskFailed(f"VM {vmid} still running after SIGKILL")

    async def shutdown(
        self, task: Task, vmid: int, seconds: int | None, force: bool, skiplock: bool, reboot: bool = False
    ) -> None:
        """Asks the guest to end (agent, else ACPI). With `force` pulls the plug after the time."""
        if not self.exists(vmid):
            raise TaskFailed(f"unable to find configuration file for VM {vmid} on node '{self.node}'")
        async with self.locked(vmid, task):
            machine = self.machine(vmid)
            if not self.running(vmid):
                if reboot:
                    raise TaskFailed("VM is not running")
                return
            config = self.config(vmid)
            self.need_unlocked(config, skiplock)
            asked = False
            if qemu.agent_enabled(config) and machine.agent:
                with contextlib.suppress(AgentAway, AgentRefused):
                    await machine.agent.call("guest-shutdown", {"mode": "powerdown"}, answers=False)
                    asked = True
            if not asked:
                with contextlib.suppress(QmpError):
                    await (await self.control(vmid)).execute("system_powerdown")
            try:
                await asyncio.wait_for(machine.ended.wait(), SHUTDOWN_SECONDS if seconds is None else seconds)
            except TimeoutError:
                if not force:
                    raise TaskFailed("VM quit/powerdown failed - got timeout") from None
                task.log("VM still running - terminating now with SIGTERM")
                await self.end_process(vmid)
        if reboot:
            await self.start(task, vmid, skiplock)

    async def command(self, task: Task, vmid: int, command: str, skiplock: bool) -> None:
        """A plain QMP command as a task: system_reset, stop, cont."""
        async with self.locked(vmid, task):
            self.need_unlocked(self.config(vmid), skiplock)
            if not self.running(vmid):
                raise TaskFailed(f"VM {vmid} not running")
            try:
                await (await self.control(vmid)).execute(command)
            except QmpError as problem:
                raise TaskFailed(f"VM {vmid} qmp command '{command}' failed - {problem}") from None

    # -- destroy ------------------------------------------------------------------------------
    def check_destroyable(self, vmid: int) -> None:
        config = self.config(vmid)
        if config.get("protection"):
            raise failure(f"can't remove VM {vmid} - protection mode enabled")
        if self.running(vmid):
            raise failure(f"VM {vmid} is running - destroy failed")

    async def destroy(
        self, task: Task, vmid: int, skiplock: bool, purge: bool, forget_path: Callable[[str], None]
    ) -> None:
        async with self.locked(vmid, task):
            self.check_destroyable(vmid)
            config = self.config(vmid)
            self.need_unlocked(config, skiplock)
            for option in disk_options(config):
                drive = formats.parse_drive(str(config[option]))
                is_base = drive["file"].rsplit("/", 1)[-1].startswith("base-") and drive["file"].count("/") == 1
                if is_base and self.storages.of(drive["file"]).users_of(drive["file"]):
                    raise TaskFailed(f"base volume '{drive['file']}' is still in use by linked cloned")
            if purge:
                task.log(f"purging VM {vmid} from related configurations..")
            await self.forget(vmid, config, forget_path)

    async def forget(self, vmid: int, config: dict[str, Any], forget_path: Callable[[str], None]) -> None:
        """Removes everything of a machine. The configuration goes last: a crash before leaves it to be destroyed
        again."""
        storages = {self.storages.of(formats.parse_drive(str(config[o]))["file"]) for o in own_disks(config, vmid)}
        for storage in storages:
            await asyncio.to_thread(storage.remove_all, vmid)
        await asyncio.to_thread(self._clean_run_dir, self.run_dir / str(vmid))
        if self.sealer:
            await self.sealer.forget(vmid)
        with self.state.together():
            pool = self.pool_of(vmid)
            if pool:
                document = self.state.get("pool", pool)
                document["vms"].remove(str(vmid))
                self.state.put("pool", pool, document)
            self.state.remove("firewall", str(vmid))
            forget_path(f"/vms/{vmid}")
            self.state.remove("vm", str(vmid))
        if not self.machine(vmid).lock.locked() or self.machine(vmid).process is None:
            self._machines.pop(vmid, None)

    # -- after a crash ------------------------------------------------------------------------
    async def recover(self) -> None:
        """Finds running machines again, ends what nobody owns, clears what dead tasks left half done."""
        for key, run in list(self.state.kind("run").items()):
            process = qemu.Process(run["pid"], run["started"])
            if not process.alive() or not self.exists(int(key)):
                process.signal(signal.SIGKILL)
                self.state.remove("run", key)
                continue
            machine = self.machine(int(key))
            machine.process, machine.started_at = process, run["at"]
            self._watch(machine)
            try:
                machine.qmp = await Qmp.connect(self.run_dir / key / "qmp.sock", seconds=5)
                status = await machine.qmp.execute("query-status")
                if status["status"] in ("inmigrate", "prelaunch"):
                    raise QmpError("was being resumed")
                machine.agent = GuestAgent(self.run_dir / key / "qga.sock")
                await self._reopen_forwards(machine)
                self.say(f"found machine {key} again")
            except QmpError:
                process.signal(signal.SIGKILL)
                await asyncio.wait_for(machine.ended.wait(), STOP_SECONDS)
                self.say(f"ended machine {key}, which no longer answered")
        known = {run["pid"] for run in self.state.kind("run").values()}
        for pid in _processes_below(self.run_dir):
            if pid not in known:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for vmid in self.vmids():
            config = self.config(vmid)
            lock = config.get("lock")
            if lock in ("create", "clone") and set(config) <= {"lock"}:
                # The configuration is written last, so this machine was never finished.
                for name in self.storages.names():
                    await asyncio.to_thread(self.storages.get(name).remove_all, vmid)
                self.state.remove("vm", str(vmid))
                self.say(f"removed half-made machine {vmid}")
        self._remove_ownerless_disks()

    async def _reopen_forwards(self, machine: Machine) -> None:
        plan = self.launch_plan(machine.vmid)
        await self._open_forwards(machine, plan)

    def _remove_ownerless_disks(self) -> None:
        known = set(self.vmids())
        for name in self.storages.names():
            folder = self.storages.get(name).root / "images"
            for entry in folder.iterdir() if folder.exists() else ():
                if entry.name.isdigit() and int(entry.name) not in known:
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.is_dir():
                    for part in entry.glob(".*.part"):
                        part.unlink(missing_ok=True)
        for entry in self.run_dir.iterdir() if self.run_dir.exists() else ():
            if entry.name.startswith("seal-") or (entry.name.isdigit() and entry.name not in self.state.kind("run")):
                shutil.rmtree(entry, ignore_errors=True)

    async def stop_all(self) -> None:
        """Ends every machine: only for an operator who asks for it; an ordinary end leaves them running."""
        await asyncio.gather(*(self.end_process(v) for v in self.vmids() if self.running(v)), return_exceptions=True)


def _processes_below(run_dir: Path) -> list[int]:
    """Processes whose command line names a socket in our run directory: QEMU, and nothing else does."""
    mark = f"unix:{run_dir}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if line.startswith(qemu.BINARY.encode()) and mark in line:
                    found.append(int(entry.name))
    return found


def disk_options(config: dict[str, Any]) -> list[str]:
    return sorted(o for o in config if DISK_OPTION.fullmatch(o))


def own_disks(config: dict[str, Any], vmid: int) -> list[str]:
    """Options whose volume lies in the machine's own folder."""
    owned = []
    for option in disk_options(config):
        parts = formats.parse_drive(str(config[option]))["file"].partition(":")[2].split("/")
        if len(parts) >= 2 and parts[-2] == str(vmid):
            owned.append(option)
    return owned


def new_mac() -> str:
    """A random address under the vendor prefix that a real node uses."""
    return "BC:24:11:" + ":".join(f"{byte:02X}" for byte in secrets.token_bytes(3))


def with_mac(text: str) -> str:
    line = formats.parse_net(text)
    line.setdefault("macaddr", new_mac())
    line["macaddr"] = line["macaddr"].upper()
    return formats.print_net(line)


def typed_config(options: dict[str, Any]) -> dict[str, Any]:
    """Options as they are kept: numbers and booleans as integers, the rest as text."""
    return {k: int(v) if k in INTEGERS else (v if isinstance(v, (int, float)) else str(v)) for k, v in options.items()}


def check_delete(names: list[str], changes: dict[str, Any], known: set[str]) -> None:
    """Raises ParameterErrors for `delete` of something unknown or also set."""
    for name in names:
        if name in changes:
            raise ParameterErrors({"delete": f"you can't use '-{name}' and -delete {name}' at the same time"})
        if name not in known:
            raise ParameterErrors({"delete": f"unknown option '{name}'"})


__all__ = ["ApiError", "Machine", "Machines"]
