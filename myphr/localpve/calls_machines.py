"""Calls below /nodes/{node}/qemu: the machines, their guest agents, screens and firewall settings."""

import asyncio
import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import unquote

from myphr.localpve import formats, qemu
from myphr.localpve.agent import GuestAgent, agent_errors
from myphr.localpve.api import Call, TakenOver, call, subdirs, upgrade
from myphr.localpve.calls_cluster import firewall_digest, machine_summary
from myphr.localpve.console import new_password
from myphr.localpve.http import Reply
from myphr.localpve.machines import (
    DISK_OPTION,
    NET_OPTION,
    ROOT_ONLY,
    check_delete,
    disk_options,
    typed_config,
)
from myphr.localpve.qmp import QmpError
from myphr.localpve.replies import ApiError, ParameterErrors, failure, forbidden
from myphr.localpve.storage import CommandFailed, run
from myphr.localpve.tasks import Task

NOT_CONFIG = {
    "node", "vmid", "pool", "start", "storage", "archive", "force", "unique", "bwlimit", "live-restore", "digest",
    "delete",     "revert", "skiplock", "background_delay", "import-working-storage",
}  # fmt: skip
PRIVILEGE_OF = (
    (r"name|description|tags|onboot|protection|boot|bootdisk|agent|hotplug|ostype|startup|template|keyboard|localtime|"
     r"startdate|reboot|tablet|acpi|kvm|autostart|freeze|tdf|smbios1|vmgenid|migrate_.*|vmstatestorage|meta|hookscript|"
     r"args|lock|spice_enhancements|vga|serial\d|audio0|machine|bios|rng0|watchdog|scsihw|arch|parallel\d|usb\d+|"
     r"hostpci\d+|efidisk0|tpmstate0|ivshmem|virtiofs\d+|amd-sev", ""),
    (r"net\d+|nameserver|searchdomain", "VM.Config.Network"),
    (r"memory|balloon|shares|hugepages|keephugepages|numa\d*", "VM.Config.Memory"),
    (r"cores|sockets|cpu|vcpus|cpulimit|cpuunits|smp|affinity", "VM.Config.CPU"),
    (r"ci\w+|ipconfig\d+|sshkeys", "VM.Config.Cloudinit"),
    (r"(ide|sata|scsi|virtio|unused)\d+", "VM.Config.Disk"),
)  # fmt: skip
HARDWARE = re.compile(
    r"vga|serial\d|audio0|machine|bios|rng0|watchdog|scsihw|arch|parallel\d|usb\d+|hostpci\d+|kvm|acpi|tablet|keyboard|"
    r"efidisk0|tpmstate0|ivshmem|virtiofs\d+|smbios1|vmgenid|amd-sev"
)  # fmt: skip


# -- what may be set ----------------------------------------------------------------------------------
def _check_options(call: Call, options: dict[str, Any], vmid: int | None) -> None:
    """Rights on single options, bridges, storages. Raises as a real node does."""
    for option, value in options.items():
        if option in ROOT_ONLY and not call.identity.is_root:
            if option == "hookscript":
                raise ParameterErrors({"hookscript": f"script '{value}' does not exist\n"})
            raise failure(f"only root can set '{option}' config")
        if NET_OPTION.fullmatch(option) and value is not None:
            bridge = formats.parse_net(str(value)).get("bridge")
            if bridge:
                call.need(f"/sdn/zones/localnetwork/{bridge}", "SDN.Use")
        if option.startswith("virtiofs") and value is not None:
            directory = formats.parse_properties(str(value), "dirid").get("dirid", "")
            call.need(f"/mapping/dir/{directory}", "Mapping.Use")
        if DISK_OPTION.fullmatch(option) and value is not None:
            _check_drive(call, str(value))
        if vmid is not None:
            call.need(f"/vms/{vmid}", _privilege(option, str(value)))


def _privilege(option: str, value: str) -> str:
    if DISK_OPTION.fullmatch(option) and "media=cdrom" in value:
        return "VM.Config.CDROM"
    if HARDWARE.fullmatch(option):
        return "VM.Config.HWType"
    for pattern, privilege in PRIVILEGE_OF:
        if privilege and re.fullmatch(pattern, option):
            return privilege
    return "VM.Config.Options"


def _check_drive(call: Call, text: str) -> None:
    drive = formats.parse_drive(text)
    file = drive["file"]
    if file in ("none", "cdrom"):
        return
    if file.startswith("/") or drive.get("import-from", "").startswith("/"):
        if not call.identity.is_root:
            raise failure("Only root can pass arbitrary filesystem paths.")
        raise failure("absolute paths are not implemented here: use a storage")
    storage = call.node.storages.of(file)
    call.need(f"/storage/{storage.name}", "Datastore.AllocateSpace")
    if "import-from" in drive:
        source = call.node.storages.of(drive["import-from"])
        privileges = ("Datastore.Audit", "Datastore.AllocateSpace")
        call.need(f"/storage/{source.name}", *privileges, any_of=True)
        source.path(drive["import-from"])
    elif not re.fullmatch(r"\d+(\.\d+)?", file.partition(":")[2]):
        storage.path(file)


def _need_pool(call: Call) -> str | None:
    pool = call.given.get("pool")
    if pool is not None and call.node.state.get("pool", pool) is None:
        raise forbidden(f"pool '{pool}' does not exist")
    return pool


def _skiplock(call: Call) -> bool:
    if call.given.get("skiplock") and not call.identity.is_root:
        raise ParameterErrors({"skiplock": "Only root may use this option."})
    return bool(call.given.get("skiplock"))


# -- list, create, configuration ----------------------------------------------------------------------
@call("GET /nodes/{node}/qemu")
async def machines(call: Call) -> list[dict[str, Any]]:
    found = []
    for vmid in call.node.machines.vmids():
        if call.may(f"/vms/{vmid}", "VM.Audit"):
            entry = machine_summary(call.node, vmid)
            if call.node.machines.running(vmid):
                entry |= await _running_details(call, vmid) if call.given.get("full") else _pid(call, vmid)
            found.append(entry)
    return found


@call("POST /nodes/{node}/qemu")
async def create(call: Call) -> str:
    node, vmid = call.node, call.vmid
    pool = _need_pool(call)
    if pool and not call.may(f"/vms/{vmid}", "VM.Allocate"):
        call.need(f"/pool/{pool}", "VM.Allocate")
    elif not pool:
        call.need(f"/vms/{vmid}", "VM.Allocate")
    options = typed_config({k: v for k, v in call.given.items() if k not in NOT_CONFIG})
    if "archive" in call.given:
        raise failure("restoring archives is not implemented here")
    for device in qemu.boot_order(options):
        if device not in options and not node.machines.exists(vmid):
            raise ParameterErrors({"boot": f"invalid bootorder: device '{device}' does not exist'\n"})
    _check_options(call, options, None)
    node.machines.check_new(vmid)
    node.machines.reserve(vmid, "create")
    start = call.given.get("start")

    async def work(task: Task) -> None:
        await node.machines.create(task, vmid, options, pool)
        if start:
            await node.machines.start(task, vmid)

    return call.start("qmcreate", str(vmid), work)


@call("GET /nodes/{node}/qemu/{vmid}")
async def machine_index(call: Call) -> list[dict[str, str]]:
    call.node.machines.config(call.vmid)
    return subdirs(
        "config", "pending", "unlink", "vncproxy", "vncwebsocket", "status", "agent", "clone", "template", "feature",
        "resize", "firewall",
    )  # fmt: skip


@call("GET /nodes/{node}/qemu/{vmid}/config")
async def config(call: Call) -> dict[str, Any]:
    return call.node.machines.shown_config(call.vmid, bool(call.given.get("current")))


@call("PUT /nodes/{node}/qemu/{vmid}/config")
async def put_config(call: Call) -> None:
    work = _change(call)
    await work(None)


@call("POST /nodes/{node}/qemu/{vmid}/config")
async def post_config(call: Call) -> str:
    work = _change(call)

    async def logged(task: Task) -> None:
        shown = {k: v for k, v in sorted(call.given.items()) if k not in ("node", "vmid")}
        task.log(f"update VM {call.vmid}: " + " ".join(f"-{k} {v}" for k, v in shown.items()))
        await work(task)

    return call.start("qmconfig", str(call.vmid), logged)


def _change(call: Call) -> Any:
    """Checks a change of the configuration now; returns the work that makes it."""
    node, vmid, given = call.node, call.vmid, call.given
    skiplock = _skiplock(call)
    delete = [name for name in formats.split_list(str(given.get("delete", "")))]
    revert = [name for name in formats.split_list(str(given.get("revert", "")))]
    options = typed_config({k: v for k, v in given.items() if k not in NOT_CONFIG})
    if not options and not delete and not revert:
        raise failure("no options specified")
    schema_options = {k for k in _config_options(call) if k not in NOT_CONFIG}
    check_delete(delete, options, schema_options)
    if "sshkeys" in options:
        check_ssh_keys(options["sshkeys"])
    _check_options(call, {**options, **dict.fromkeys(delete + revert)}, vmid)
    config = node.machines.config(vmid)
    if given.get("digest") and given["digest"] != node.machines.digest(vmid):
        raise failure("checksum mismatch (file change by other user?)")
    if not (skiplock or "lock" in options or "lock" in delete) and not node.machines.machine(vmid).lock.locked():
        node.machines.need_unlocked(config)

    async def work(task: Task | None) -> None:
        async with node.machines.locked(vmid, task):
            if not (skiplock or "lock" in options or "lock" in delete):
                node.machines.need_unlocked(node.machines.config(vmid))
            await node.machines.change(task, vmid, options, delete, revert)

    return work


def check_ssh_keys(quoted: str) -> None:
    """Each line must be an OpenSSH public key (RFC 4253, 6.6: the blob repeats the type). Raises ApiError 500."""
    for line in unquote(quoted).splitlines():
        words = line.split()
        try:
            blob = base64.b64decode(words[1], validate=True)
            good = (
                blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode() == words[0] and len(blob) > 4 + len(words[0]) + 4
            )
        except (IndexError, ValueError):
            good = False
        if line.strip() and not good:
            raise failure("SSH public key validation error")


def _config_options(call: Call) -> set[str]:
    return CONFIG_OPTIONS


CONFIG_OPTIONS: set[str] = set()  # filled by the server from the schema of PUT config


@call("GET /nodes/{node}/qemu/{vmid}/pending")
async def pending(call: Call) -> list[dict[str, Any]]:
    document = call.node.machines.document(call.vmid)
    waiting = document["pending"]
    found: list[dict[str, Any]] = []
    for key, value in {**document["config"], "digest": call.node.machines.digest(call.vmid)}.items():
        entry = {"key": key, "value": value}
        if key in waiting:
            entry |= {"delete": 1} if waiting[key] is None else {"pending": waiting[key]}
        found.append(entry)
    found += [{"key": k, "pending": v} for k, v in waiting.items() if k not in document["config"] and v is not None]
    return found


@call("PUT /nodes/{node}/qemu/{vmid}/unlink")
async def unlink(call: Call) -> None:
    node, vmid = call.node, call.vmid
    names = formats.split_list(call.given["idlist"])
    async with node.machines.locked(vmid):
        config = node.machines.config(vmid)
        node.machines.need_unlocked(config)
        running = node.machines.running(vmid)
        await node.machines.change(None, vmid, {}, [n for n in names if n in config], [])
        if running:
            boot = qemu.boot_order(config)[:1]
            kind = "bootdisk" if names[:1] == boot else "disk"
            raise ParameterErrors({n: f"hotplug problem - can't unplug {kind} '{n}'\n" for n in names})


@call("POST /nodes/{node}/qemu/{vmid}/template")
async def template(call: Call) -> str:
    node, vmid = call.node, call.vmid
    config = node.machines.config(vmid)
    node.machines.need_unlocked(config)
    if config.get("template"):
        raise failure("you can't convert a template to a template")
    if node.machines.running(vmid):
        raise failure("you can't convert a VM to template if VM is running")
    return call.start("qmtemplate", str(vmid), lambda task: node.machines.make_template(task, vmid))


@call("GET /nodes/{node}/qemu/{vmid}/feature")
async def feature(call: Call) -> dict[str, Any]:
    problem = call.node.machines.linked_clone_problem(call.vmid)
    available = call.given["feature"] == "clone" and problem is None
    return {"hasFeature": int(available), "nodes": [call.node.name]}


@call("POST /nodes/{node}/qemu/{vmid}/clone")
async def clone(call: Call) -> str:
    node, source, given = call.node, call.vmid, call.given
    target = int(given["newid"])
    pool = _need_pool(call)
    if not node.machines.exists(source):
        raise failure(f"unable to find configuration file for VM {source} on node '{node.name}'")
    original = node.machines.config(source)
    node.machines.need_unlocked(original)
    if "snapname" in given:
        for option in disk_options(original):
            volume = formats.parse_drive(str(original[option]))["file"]
            if not given.get("full"):
                raise failure(f"Linked clone feature is not supported for a snapshot of '{volume}' ({option})")
        raise failure("clones of snapshots are not implemented here")
    full = bool(given["full"]) if "full" in given else not original.get("template")
    if not full:
        for option in ("storage", "format"):
            if option in given:
                raise failure(f"parameter '{option}' not allowed for linked clones")
        if problem := node.machines.linked_clone_problem(source):
            raise failure(problem)
    for option in disk_options(original):
        drive = formats.parse_drive(str(original[option]))
        if drive.get("media") != "cdrom":
            call.need(f"/storage/{given.get('storage') or drive['file'].partition(':')[0]}", "Datastore.AllocateSpace")
    for option in [o for o in original if NET_OPTION.fullmatch(o)]:
        if bridge := formats.parse_net(str(original[option])).get("bridge"):
            call.need(f"/sdn/zones/localnetwork/{bridge}", "SDN.Use")
    if node.machines.exists(target):
        raise failure(f"unable to create VM {target}: config file already exists")
    changes: dict[str, Any] = {k: v for k, v in given.items() if k in ("name", "description")}
    node.machines.reserve(target, "clone")
    return call.start(
        "qmclone", str(source),
        lambda task: node.machines.clone(
            task, source, target, changes, full, given.get("storage"), given.get("format"), pool
        ),
    )  # fmt: skip


@call("PUT /nodes/{node}/qemu/{vmid}/resize")
async def resize(call: Call) -> str:
    node, vmid, option = call.node, call.vmid, call.given["disk"]
    config = node.machines.config(vmid)
    node.machines.need_unlocked(config)
    if option not in config:
        raise failure(f"disk '{option}' does not exist")
    drive = formats.parse_drive(str(config[option]))
    old = formats.parse_size(drive.get("size", "0"))
    text = str(call.given["size"])
    try:
        new = old + formats.parse_size(text[1:]) if text.startswith("+") else formats.parse_size(text)
    except ValueError:
        raise ParameterErrors({"size": "value does not match the regex pattern '\\+?\\d+(\\.\\d+)?[KMGT]?'"}) from None
    if new < old:
        raise failure("shrinking disks is not supported")

    async def work(task: Task) -> None:
        async with node.machines.locked(vmid, task):
            path = node.storages.of(drive["file"]).path(drive["file"])
            if node.machines.running(vmid):
                try:
                    control = await node.machines.control(vmid)
                    await control.execute("block_resize", {"node-name": f"drive-{option}", "size": new}, seconds=60)
                except QmpError as problem:
                    raise failure(f"VM {vmid} qmp command 'block_resize' failed - {problem}") from None
            else:
                try:
                    await run("qemu-img", "resize", "-f", path.suffix.lstrip("."), str(path), str(new))
                except CommandFailed as problem:
                    raise failure(str(problem)) from None
            changed = formats.print_drive({**drive, "size": formats.print_size(new)})
            document = node.machines.document(vmid)
            node.machines.save(vmid, {**document, "config": {**document["config"], option: changed}})

    return call.start("resize", str(vmid), work)


@call("DELETE /nodes/{node}/qemu/{vmid}")
async def destroy(call: Call) -> str:
    node, vmid = call.node, call.vmid
    skiplock = _skiplock(call)
    node.machines.check_destroyable(vmid)
    purge = bool(call.given.get("purge"))
    return call.start(
        "qmdestroy", str(vmid),
        lambda task: node.machines.destroy(task, vmid, skiplock, purge, node.access.forget_path),
    )  # fmt: skip


# -- status -------------------------------------------------------------------------------------------
@call("GET /nodes/{node}/qemu/{vmid}/status")
async def status_index(call: Call) -> list[dict[str, str]]:
    return subdirs("current", "start", "stop", "reset", "shutdown", "suspend", "resume", "reboot")[:7]


def _pid(call: Call, vmid: int) -> dict[str, Any]:
    process = call.node.machines.machine(vmid).process
    return {"pid": process.pid} if process else {}


async def _running_details(call: Call, vmid: int) -> dict[str, Any]:
    """What only QEMU knows: block and version figures. Left out when it does not answer."""
    details: dict[str, Any] = _pid(call, vmid)
    try:
        control = await call.node.machines.control(vmid)
        version = (await control.execute("query-version"))["qemu"]
        blocks = await control.execute("query-blockstats")
        balloon = await control.execute("query-status")
    except (QmpError, KeyError):
        return details
    number = f"{version['major']}.{version['minor']}"
    stats = {}
    for block in blocks:
        name = str(block.get("qdev", "")).split("/")
        option = next((part for part in name if DISK_OPTION.fullmatch(part)), None)
        if option:
            stats[option] = block["stats"]
    config = call.node.machines.config(vmid)
    nics = {
        f"tap{vmid}i{option.removeprefix('net')}": {"netin": 0, "netout": 0}
        for option in sorted(config)
        if NET_OPTION.fullmatch(option)
    }
    return details | {
        "qmpstatus": balloon["status"], "running-machine": f"pc-i440fx-{number}",
        "running-qemu": f"{number}.{version['micro']}", "blockstat": stats, "nics": nics, "proxmox-support": {},
        "diskread": sum(s.get("rd_bytes", 0) for s in stats.values()),
        "diskwrite": sum(s.get("wr_bytes", 0) for s in stats.values()),
    }  # fmt: skip


@call("GET /nodes/{node}/qemu/{vmid}/status/current")
async def current(call: Call) -> dict[str, Any]:
    node, vmid = call.node, call.vmid
    entry = machine_summary(node, vmid)
    entry |= {"ha": {"managed": 0}, "qmpstatus": entry["status"]}
    if qemu.agent_enabled(node.machines.config(vmid)):
        entry["agent"] = 1
    if entry["status"] == "running":
        entry |= await _running_details(call, vmid)
    return entry


@call("POST /nodes/{node}/qemu/{vmid}/status/start")
async def start(call: Call) -> str:
    skiplock = _skiplock(call)
    return call.start("qmstart", str(call.vmid), lambda task: call.node.machines.start(task, call.vmid, skiplock))


@call("POST /nodes/{node}/qemu/{vmid}/status/stop")
async def stop(call: Call) -> str:
    skiplock, timeout = _skiplock(call), call.given.get("timeout")
    return call.start(
        "qmstop", str(call.vmid), lambda task: call.node.machines.stop(task, call.vmid, skiplock, timeout)
    )


@call("POST /nodes/{node}/qemu/{vmid}/status/shutdown")
async def shutdown(call: Call) -> str:
    skiplock = _skiplock(call)
    timeout, force = call.given.get("timeout"), bool(call.given.get("forceStop"))
    return call.start(
        "qmshutdown", str(call.vmid),
        lambda task: call.node.machines.shutdown(task, call.vmid, timeout, force, skiplock),
    )  # fmt: skip


@call("POST /nodes/{node}/qemu/{vmid}/status/reboot")
async def reboot(call: Call) -> str:
    timeout = call.given.get("timeout")
    return call.start(
        "qmreboot", str(call.vmid),
        lambda task: call.node.machines.shutdown(task, call.vmid, timeout, False, False, reboot=True),
    )  # fmt: skip


def _simple(call: Call, kind: str, command: str) -> str:
    skiplock = _skiplock(call)
    call.node.machines.config(call.vmid)
    if not call.node.machines.running(call.vmid):
        raise failure(f"VM {call.vmid} not running")
    return call.start(kind, str(call.vmid), lambda task: call.node.machines.command(task, call.vmid, command, skiplock))


@call("POST /nodes/{node}/qemu/{vmid}/status/reset")
async def reset(call: Call) -> str:
    return _simple(call, "qmreset", "system_reset")


@call("POST /nodes/{node}/qemu/{vmid}/status/suspend")
async def suspend(call: Call) -> str:
    if call.given.get("todisk"):
        raise failure("suspend to disk is not implemented here")
    return _simple(call, "qmpause", "stop")


@call("POST /nodes/{node}/qemu/{vmid}/status/resume")
async def resume(call: Call) -> str:
    return _simple(call, "qmresume", "cont")


# -- guest agent --------------------------------------------------------------------------------------
def _agent(call: Call) -> GuestAgent:
    machines = call.node.machines
    if not qemu.agent_enabled(machines.config(call.vmid)):
        raise failure("No QEMU guest agent configured")
    agent = machines.machine(call.vmid).agent
    if not machines.running(call.vmid) or agent is None:
        raise failure(f"VM {call.vmid} is not running")
    return agent


@call("GET /nodes/{node}/qemu/{vmid}/agent")
async def agent_index(call: Call) -> list[dict[str, str]]:
    names = ("exec", "exec-status", "file-read", "file-write", "get-osinfo", "info", "network-get-interfaces", "ping")
    return subdirs(*names, key="name")


async def _ask(call: Call, command: str) -> dict[str, Any]:
    agent = _agent(call)
    async with agent_errors():
        return {"result": await agent.call(command)}


@call("POST /nodes/{node}/qemu/{vmid}/agent/ping")
async def agent_ping(call: Call) -> dict[str, Any]:
    return await _ask(call, "guest-ping")


@call("GET /nodes/{node}/qemu/{vmid}/agent/network-get-interfaces")
async def agent_interfaces(call: Call) -> dict[str, Any]:
    return await _ask(call, "guest-network-get-interfaces")


@call("GET /nodes/{node}/qemu/{vmid}/agent/get-osinfo")
async def agent_osinfo(call: Call) -> dict[str, Any]:
    return await _ask(call, "guest-get-osinfo")


@call("GET /nodes/{node}/qemu/{vmid}/agent/info")
async def agent_info(call: Call) -> dict[str, Any]:
    return await _ask(call, "guest-info")


@call("POST /nodes/{node}/qemu/{vmid}/agent/exec")
async def agent_exec(call: Call) -> dict[str, Any]:
    agent = _agent(call)
    words = [str(word) for word in call.given["command"]]
    arguments: dict[str, Any] = {"path": words[0], "arg": words[1:], "capture-output": True}
    if "input-data" in call.given:
        arguments["input-data"] = base64.b64encode(call.given["input-data"].encode()).decode()
    async with agent_errors():
        return {"pid": int((await agent.call("guest-exec", arguments))["pid"])}


@call("GET /nodes/{node}/qemu/{vmid}/agent/exec-status")
async def agent_exec_status(call: Call) -> dict[str, Any]:
    agent = _agent(call)
    async with agent_errors():
        answer = dict(await agent.call("guest-exec-status", {"pid": call.given["pid"]}))
        found: dict[str, Any] = {"exited": int(bool(answer.get("exited")))}
        for key in ("exitcode", "signal"):
            if key in answer:
                found[key] = answer[key]
        for key in ("out", "err"):
            if f"{key}-data" in answer:
                found[f"{key}-data"] = base64.b64decode(answer[f"{key}-data"]).decode("utf-8", "replace")
                found[f"{key}-truncated"] = int(bool(answer.get(f"{key}-truncated")))
        return found


@call("POST /nodes/{node}/qemu/{vmid}/agent/file-write")
async def agent_file_write(call: Call) -> None:
    agent = _agent(call)
    text = call.given["content"]
    if call.given.get("encode", 1):
        try:
            content = text.encode("latin-1")
        except UnicodeEncodeError:
            raise failure("Wide character in subroutine entry at <server source> line <n>.") from None
    else:
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError:
            raise failure("Agent error: Failed to decode base64 string") from None
    async with agent_errors():
        await agent.write_file(call.given["file"], content)


@call("GET /nodes/{node}/qemu/{vmid}/agent/file-read")
async def agent_file_read(call: Call) -> dict[str, Any]:
    agent = _agent(call)
    async with agent_errors():
        content, cut = await agent.read_file(call.given["file"])
    answer: dict[str, Any] = {"content": content.decode("latin-1"), "bytes-read": len(content)}
    return {**answer, "truncated": 1} if cut else answer


# -- screen -------------------------------------------------------------------------------------------
@call("POST /nodes/{node}/qemu/{vmid}/vncproxy")
async def vncproxy(call: Call) -> dict[str, Any]:
    node, vmid = call.node, call.vmid
    node.machines.config(vmid)
    ticket = await asyncio.to_thread(node.access.new_console_ticket, call.identity, f"/vms/{vmid}")
    password = new_password() if call.given.get("generate-password") else ticket[:8]
    port = node.consoles.reserve(vmid, password)
    upid = call.start("vncproxy", str(vmid), lambda task: node.consoles.work(task, port))
    answer = {
        "user": call.identity.full, "ticket": ticket, "port": str(port), "upid": upid, "cert": node.certificate,
    }  # fmt: skip
    return {**answer, "password": password} if call.given.get("generate-password") else answer


@call("GET /nodes/{node}/qemu/{vmid}/vncwebsocket")
async def vncwebsocket(call: Call) -> Any:
    node, request = call.node, call.request
    node.access.check_console_ticket(call.given["vncticket"], call.identity, f"/vms/{call.vmid}")
    port = int(call.given["port"])
    if "upgrade" not in request.headers.get("connection", "").lower():
        return {"port": str(port)}
    upgrade(request)
    await request.writer.drain()
    await node.consoles.connect(port, call.vmid, request.reader, request.writer)
    raise TakenOver


# -- firewall settings: kept, shown, cloned away with the machine; QEMU's own network already isolates ------
def _firewall(call: Call) -> dict[str, Any]:
    # A real node answers firewall calls of a machine from its .fw file, whether or not the machine exists.
    stored = call.node.state.get("firewall", str(call.vmid)) or {}
    return {"options": {}, "rules": [], "ipset": {}, **stored}


def _save_firewall(call: Call, document: dict[str, Any]) -> None:
    call.node.machines.config(call.vmid)
    call.node.state.put("firewall", str(call.vmid), document)


@call("GET /nodes/{node}/qemu/{vmid}/firewall")
async def firewall_index(call: Call) -> list[dict[str, str]]:
    return subdirs("rules", "aliases", "ipset", "refs", "options", key="name")


@call("GET /nodes/{node}/qemu/{vmid}/firewall/options")
async def firewall_options(call: Call) -> dict[str, Any]:
    document = _firewall(call)
    stored = call.node.state.get("firewall", str(call.vmid))
    return {**document["options"], "digest": firewall_digest(stored)}


@call("PUT /nodes/{node}/qemu/{vmid}/firewall/options")
async def change_firewall_options(call: Call) -> None:
    document = _firewall(call)
    options = dict(document["options"])
    given = {k: v for k, v in call.given.items() if k not in ("node", "vmid", "digest")}
    for name in formats.split_list(str(given.pop("delete", ""))):
        options.pop(name, None)
    _save_firewall(call, {**document, "options": {**options, **given}})


def _rules(call: Call) -> list[dict[str, Any]]:
    rules = _firewall(call)["rules"]
    digest = hashlib.sha1(json.dumps(rules).encode(), usedforsecurity=False).hexdigest()
    shown = []
    for position, rule in enumerate(rules):
        entry = {**rule, "pos": position, "digest": digest}
        address = rule.get("dest") or rule.get("source")
        if address:
            entry["ipversion"] = 6 if ":" in address else 4
        shown.append(entry)
    return shown


def _rule_at(call: Call) -> tuple[int, dict[str, Any]]:
    position = int(call.given["pos"])
    rules = _firewall(call)["rules"]
    if not 0 <= position < len(rules):
        raise failure(f"no rule at position {position}")
    return position, rules[position]


def _check_rule(given: dict[str, Any]) -> dict[str, Any]:
    rule = {k: v for k, v in given.items() if k not in ("node", "vmid", "digest", "pos", "moveto", "delete")}
    for key in ("source", "dest"):
        if key in rule:
            for address in formats.split_list(rule[key]):
                if not re.fullmatch(r"\+.+|[0-9a-fA-F.:/-]+", address):
                    raise ParameterErrors({key: f"no such alias '{address}'"})
    for key in ("dport", "sport"):
        if key in rule and "proto" not in rule and "macro" not in rule:
            raise ParameterErrors({"proto": f"missing property - '{key}' requires this property"})
    if "iface" in rule and not re.fullmatch(r"net\d+", rule["iface"]):
        raise ParameterErrors({"iface": "value does not match the regex pattern 'net\\d+'"})
    return rule


@call("GET /nodes/{node}/qemu/{vmid}/firewall/rules")
async def firewall_rules(call: Call) -> list[dict[str, Any]]:
    return _rules(call)


@call("POST /nodes/{node}/qemu/{vmid}/firewall/rules")
async def new_firewall_rule(call: Call) -> None:
    document = _firewall(call)
    rule = {"enable": 0, **_check_rule(call.given)}  # a new rule is off unless it says otherwise
    position = min(int(call.given.get("pos", 0)), len(document["rules"]))
    rules = list(document["rules"])
    rules.insert(position, rule)
    _save_firewall(call, {**document, "rules": rules})


@call("GET /nodes/{node}/qemu/{vmid}/firewall/rules/{pos}")
async def firewall_rule(call: Call) -> dict[str, Any]:
    position, _rule = _rule_at(call)
    return {**_rules(call)[position], "pos": str(position)}


@call("PUT /nodes/{node}/qemu/{vmid}/firewall/rules/{pos}")
async def change_firewall_rule(call: Call) -> None:
    position, rule = _rule_at(call)
    document = _firewall(call)
    changed = {**rule, **_check_rule({**rule, **call.given})}
    for name in formats.split_list(str(call.given.get("delete", ""))):
        changed.pop(name, None)
    rules = list(document["rules"])
    rules[position] = changed
    if "moveto" in call.given:
        rules.insert(min(int(call.given["moveto"]), len(rules)), rules.pop(position))
    _save_firewall(call, {**document, "rules": rules})


@call("DELETE /nodes/{node}/qemu/{vmid}/firewall/rules/{pos}")
async def remove_firewall_rule(call: Call) -> None:
    position, _rule = _rule_at(call)
    document = _firewall(call)
    rules = list(document["rules"])
    del rules[position]
    _save_firewall(call, {**document, "rules": rules})


def _ipset(call: Call) -> list[dict[str, Any]]:
    sets = _firewall(call)["ipset"]
    if call.given["name"] not in sets:
        raise failure(f"no such IPSet '{call.given['name']}'")
    return sets[call.given["name"]]["entries"]


@call("GET /nodes/{node}/qemu/{vmid}/firewall/ipset")
async def ipsets(call: Call) -> list[dict[str, Any]]:
    found = []
    for name, document in _firewall(call)["ipset"].items():
        comment = {"comment": document["comment"]} if document.get("comment") else {}
        found.append({"name": name, "digest": firewall_digest(document), **comment})
    return found


@call("POST /nodes/{node}/qemu/{vmid}/firewall/ipset")
async def new_ipset(call: Call) -> None:
    document = _firewall(call)
    sets = dict(document["ipset"])
    name = call.given["name"]
    if name in sets and "rename" not in call.given:
        raise failure(f"IPSet '{name}' already exists")
    entries = sets.pop(call.given["rename"], {}).get("entries", []) if "rename" in call.given else []
    sets[name] = {"comment": call.given.get("comment"), "entries": entries}
    _save_firewall(call, {**document, "ipset": sets})


@call("GET /nodes/{node}/qemu/{vmid}/firewall/ipset/{name}")
async def ipset(call: Call) -> list[dict[str, Any]]:
    entries = _ipset(call)
    return [{**entry, "digest": firewall_digest(entries)} for entry in entries]


@call("POST /nodes/{node}/qemu/{vmid}/firewall/ipset/{name}")
async def new_ipset_entry(call: Call) -> None:
    entries = _ipset(call)
    if any(entry["cidr"] == call.given["cidr"] for entry in entries):
        raise failure(f"address '{call.given['cidr']}' already exists")
    new: dict[str, Any] = {k: v for k, v in call.given.items() if k in ("cidr", "comment", "nomatch")}
    _save_ipset(call, [*entries, new])


def _save_ipset(call: Call, entries: list[dict[str, Any]]) -> None:
    document = _firewall(call)
    name = call.given["name"]
    _save_firewall(
        call, {**document, "ipset": {**document["ipset"], name: {**document["ipset"][name], "entries": entries}}}
    )


@call("DELETE /nodes/{node}/qemu/{vmid}/firewall/ipset/{name}")
async def remove_ipset(call: Call) -> None:
    if _ipset(call) and not call.given.get("force"):
        raise failure(f"IPSet '{call.given['name']}' is not empty")
    document = _firewall(call)
    _save_firewall(call, {**document, "ipset": {k: v for k, v in document["ipset"].items() if k != call.given["name"]}})


@call("DELETE /nodes/{node}/qemu/{vmid}/firewall/ipset/{name}/{cidr}")
async def remove_ipset_entry(call: Call) -> None:
    entries = _ipset(call)
    left = [entry for entry in entries if entry["cidr"] != call.given["cidr"]]
    if len(left) == len(entries):
        raise failure(f"no such IPSet entry '{call.given['cidr']}'")
    _save_ipset(call, left)


__all__ = ["ApiError", "Reply"]
