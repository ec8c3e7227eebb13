"""Calls about the node as a whole: version, resources, tasks, storages, uploads, the cluster's firewall options."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from myphr.localpve import formats, qemu, storage
from myphr.localpve.api import Call, Node, call, subdirs
from myphr.localpve.replies import ApiError, ListReply, ParameterErrors, RawReply, failure
from myphr.localpve.tasks import Task

VERSION = {"version": "8.4.1", "release": "8.4", "repoid": "localpve"}
UPLOAD_BYTES_MAX = 1 << 40
_MULTIPART_HEAD_BYTES_MAX = 64 * 1024


@call("GET /version")
async def version(call: Call) -> dict[str, str]:
    return VERSION


@call("GET /nodes/{node}/version")
async def node_version(call: Call) -> dict[str, str]:
    return VERSION


@call("GET /nodes/{node}/time")
async def node_time(call: Call) -> dict[str, Any]:
    local = time.localtime()
    return {"time": int(time.time()), "localtime": int(time.time()) + local.tm_gmtoff, "timezone": time.tzname[0]}


@call("GET /nodes/{node}/network")
async def network(call: Call) -> list[dict[str, Any]]:
    """The bridges that machines may be plugged into. They live inside QEMU, not on the host."""
    return [
        {"iface": name, "type": "bridge", "active": 1, "autostart": 1, "method": "manual"}
        for name in sorted(call.node.machines.bridges)
        if call.may(f"/sdn/zones/localnetwork/{name}", "SDN.Use")
    ]


# -- figures of the host ------------------------------------------------------------------------------
def _memory() -> tuple[int, int, int]:
    figures = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        figures[key] = int(rest.split()[0]) * 1024
    return figures["MemTotal"], figures["MemFree"], figures["MemTotal"] - figures["MemAvailable"]


def _uptime() -> int:
    return int(float(Path("/proc/uptime").read_text().split()[0]))


def _node_entry(node: Node, full: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": f"node/{node.name}",
        "node": node.name,
        "type": "node",
        "status": "online",
        "level": "",
    }
    if full:
        total, _free, used = _memory()
        disk = shutil.disk_usage(node.home)
        entry |= {
            "cpu": min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), "maxcpu": os.cpu_count() or 1, "mem": used,
            "maxmem": total, "disk": disk.used, "maxdisk": disk.total, "uptime": _uptime(),
        }  # fmt: skip
    return entry


@call("GET /nodes")
async def nodes(call: Call) -> list[dict[str, Any]]:
    entry = _node_entry(call.node, call.may(f"/nodes/{call.node.name}", "Sys.Audit"))
    return [{**entry, "ssl_fingerprint": call.node.fingerprint}]


@call("GET /nodes/{node}")
async def node_index(call: Call) -> list[dict[str, str]]:
    return subdirs("qemu", "status", "storage", "tasks", "time", "version", "network", key="name")


@call("GET /nodes/{node}/status")
async def node_status(call: Call) -> dict[str, Any]:
    total, free, used = _memory()
    root = shutil.disk_usage("/")
    system = os.uname()
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    cpus = os.cpu_count() or 1
    return {
        "pveversion": f"pve-manager/{VERSION['version']}/{VERSION['repoid']}",
        "kversion": f"{system.sysname} {system.release} {system.version}",
        "current-kernel": {
            "sysname": system.sysname, "release": system.release, "version": system.version, "machine": system.machine,
        },
        "boot-info": {"mode": "legacy-bios"},
        "uptime": _uptime(), "idle": 0, "wait": 0, "cpu": min(1.0, os.getloadavg()[0] / cpus),
        "loadavg": [f"{value:.2f}" for value in os.getloadavg()],
        "cpuinfo": {
            "cpus": cpus, "cores": cpus, "sockets": 1, "user_hz": os.sysconf("SC_CLK_TCK"), "hvm": "",
            "model": fields.get("model name", ""), "mhz": fields.get("cpu MHz", ""), "flags": fields.get("flags", ""),
        },
        "memory": {"total": total, "free": free, "used": used}, "swap": {"total": 0, "free": 0, "used": 0},
        "ksm": {"shared": 0},
        "rootfs": {"total": root.total, "used": root.used, "free": root.free, "avail": root.free},
    }  # fmt: skip


@call("GET /cluster/status")
async def cluster_status(call: Call) -> list[dict[str, Any]]:
    name = call.node.name
    entry = {"type": "node", "id": f"node/{name}", "name": name, "nodeid": 0, "ip": "127.0.0.1", "local": 1}
    return [{**entry, "online": 1, "level": ""}]


# -- resources ----------------------------------------------------------------------------------------
def machine_summary(node: Node, vmid: int) -> dict[str, Any]:
    """The figures that lists and status share."""
    machines = node.machines
    config = machines.config(vmid)
    machine = machines.machine(vmid)
    running = machines.running(vmid)
    disk = 0
    for device in qemu.boot_order(config)[:1]:
        if device in config and "size" in (drive := formats.parse_drive(str(config[device]))):
            disk = formats.parse_size(drive["size"])
    entry: dict[str, Any] = {
        "vmid": vmid, "name": machines.name_of(vmid), "status": "running" if running else "stopped",
        "maxmem": qemu.memory_mib(config) << 20, "maxdisk": disk, "cpus": qemu.cores(config),
        "uptime": int(time.time() - machine.started_at) if running else 0, "cpu": 0, "mem": 0, "disk": 0,
        "netin": 0, "netout": 0, "diskread": 0, "diskwrite": 0,
    }  # fmt: skip
    if running and machine.process:
        entry["mem"] = machine.process.memory_bytes()
        entry["cpu"] = round(machine.process.cpu_seconds() / max(1.0, time.time() - machine.started_at), 4)
    for key in ("tags", "template", "lock"):
        if config.get(key):
            entry[key] = config[key]
    if any(re.fullmatch(r"serial\d", o) for o in config):
        entry["serial"] = 1
    return entry


def machine_resource(node: Node, vmid: int) -> dict[str, Any]:
    summary = machine_summary(node, vmid)
    pool = node.machines.pool_of(vmid)
    entry = {k: v for k, v in summary.items() if k not in ("cpus", "serial")}
    entry |= {
        "id": f"qemu/{vmid}", "type": "qemu", "node": node.name, "maxcpu": summary["cpus"],
        "template": summary.get("template", 0),
    }  # fmt: skip
    return {**entry, "pool": pool} if pool else entry


def storage_resource(node: Node, name: str) -> dict[str, Any]:
    found = node.storages.get(name)
    usage = found.usage()
    return {
        "id": f"storage/{node.name}/{name}", "type": "storage", "storage": name, "node": node.name, "plugintype": "dir",
        "status": "available", "shared": 0, "content": ",".join(found.content), "disk": usage["used"],
        "maxdisk": usage["total"],
    }  # fmt: skip


@call("GET /cluster/resources")
async def resources(call: Call) -> list[dict[str, Any]]:
    wanted, node = call.given.get("type"), call.node
    found: list[dict[str, Any]] = []
    if wanted in (None, "vm"):
        for vmid in node.machines.vmids():
            if call.may(f"/vms/{vmid}", "VM.Audit"):
                found.append(machine_resource(node, vmid))
    if wanted in (None, "node"):
        full = call.may(f"/nodes/{node.name}", "Sys.Audit")
        found.append({**_node_entry(node, full), **({"cgroup-mode": 2} if full else {})})
    if wanted in (None, "storage"):
        for name in node.storages.names():
            if call.node.access.may(
                call.identity, f"/storage/{name}", ("Datastore.Audit", "Datastore.AllocateSpace"), True
            ):
                found.append(storage_resource(node, name))
    if wanted in (None, "sdn") and call.may("/sdn/zones/localnetwork", "SDN.Audit"):
        zone = {"id": f"sdn/{node.name}/localnetwork", "sdn": "localnetwork", "type": "sdn", "status": "ok"}
        found.append({**zone, "node": node.name})
    return found


@call("GET /cluster/nextid")
async def nextid(call: Call) -> str:
    machines = call.node.machines
    if "vmid" in call.given:
        if machines.exists(call.vmid):
            raise ParameterErrors({"vmid": f"VM {call.vmid} already exists"})
        return str(call.vmid)
    vmid = 100
    while machines.exists(vmid):
        vmid += 1
    return str(vmid)


# -- tasks --------------------------------------------------------------------------------------------
def _finished(document: dict[str, Any]) -> dict[str, Any]:
    entry = {
        k: document[k]
        for k in ("upid", "node", "pid", "pstart", "starttime", "type", "id", "user", "endtime", "status")
    }
    return {**entry, "tokenid": document["tokenid"]} if document["tokenid"] else entry


def _active(document: dict[str, Any]) -> dict[str, Any]:
    user = document["user"] + (f"!{document['tokenid']}" if document["tokenid"] else "")
    entry = {k: document[k] for k in ("upid", "node", "pid", "pstart", "starttime", "type", "id")}
    if document["endtime"] is not None:
        return {**entry, "user": user, "endtime": document["endtime"], "status": document["status"], "saved": "1"}
    return {**entry, "user": user, "status": "RUNNING", "saved": "0"}


def _may_see(call: Call, document: dict[str, Any]) -> bool:
    own = (document["user"], document["tokenid"]) == (call.identity.user, call.identity.token)
    # A user sees the tasks of its tokens; a token only its own.
    own = own or (document["user"] == call.identity.user and not call.identity.token)
    return own or call.may(f"/nodes/{call.node.name}", "Sys.Audit")


@call("GET /cluster/tasks")
async def cluster_tasks(call: Call) -> list[dict[str, Any]]:
    found = []
    for document in call.node.tasks.newest_first()[:25]:
        own = document["user"] == call.identity.full  # a token is nobody's own user here: it sees nothing
        if own or call.may(f"/nodes/{call.node.name}", "Sys.Audit"):
            entry = _active(document)
            found.append(
                {k: v for k, v in entry.items() if k not in ("pid", "pstart") and (k, v) != ("status", "RUNNING")}
            )
    return found


@call("GET /nodes/{node}/tasks")
async def tasks(call: Call) -> ListReply:
    given = call.given
    source = given.get("source", "archive")
    found = []
    for document in call.node.tasks.newest_first():
        running = document["endtime"] is None
        failed = not running and document["status"] != "OK"
        kinds = formats.split_list(given.get("statusfilter", ""))
        kind = (
            "ok" if document["status"] == "OK" else "unknown" if document["status"] == "unexpected status" else "error"
        )
        skipped = (
            not _may_see(call, document)
            or (source == "archive" and running)
            or (source == "active" and not running)
            or (given.get("errors") and not failed)
            or (kinds and (running or kind not in kinds))
            or ("vmid" in given and document["id"] != str(given["vmid"]))
            or ("typefilter" in given and document["type"] != given["typefilter"])
            or ("userfilter" in given and given["userfilter"].lower() not in document["user"].lower())
            or ("since" in given and document["starttime"] < given["since"])
            or ("until" in given and document["starttime"] > given["until"])
        )
        if not skipped:
            found.append(_finished(document) if source == "archive" else _active(document))
    start, limit = given.get("start", 0), given.get("limit", 50)
    return ListReply(found[start : start + limit], len(found))


def _own_task(call: Call, privilege: str = "Sys.Audit") -> dict[str, Any]:
    document = call.node.tasks.find(call.given["upid"])
    own = (document["user"], document["tokenid"]) == (call.identity.user, call.identity.token)
    if not own and not (document["user"] == call.identity.user and not call.identity.token):
        call.need(f"/nodes/{call.node.name}", privilege)
    return document


@call("GET /nodes/{node}/tasks/{upid}/status")
async def task_status(call: Call) -> dict[str, Any]:
    document = _own_task(call)
    entry = {k: document[k] for k in ("upid", "node", "pid", "pstart", "starttime", "type", "id", "user")}
    if document["tokenid"]:
        entry["tokenid"] = document["tokenid"]
    if document["endtime"] is None:
        return {**entry, "status": "running"}
    return {**entry, "status": "stopped", "exitstatus": document["status"]}


@call("GET /nodes/{node}/tasks/{upid}/log")
async def task_log(call: Call) -> Any:
    _own_task(call)
    lines = call.node.tasks.log(call.given["upid"])
    if call.given.get("download"):
        return RawReply("".join(f"{line}\n" for line in lines).encode(), "text/plain")
    start, limit = call.given.get("start", 0), call.given.get("limit", 50)
    numbered = [{"n": number, "t": line} for number, line in enumerate(lines, 1)]
    part = numbered[start : start + limit] if limit else numbered[start:]
    if not lines:
        part = [{"n": 1, "t": "no content"}]
    return ListReply(part, len(lines))


@call("DELETE /nodes/{node}/tasks/{upid}")
async def stop_task(call: Call) -> None:
    _own_task(call, "Sys.Modify")
    call.node.tasks.interrupt(call.given["upid"])


# -- storages -----------------------------------------------------------------------------------------
_STORAGE_PRIVILEGES = ("Datastore.Audit", "Datastore.AllocateSpace")


def _may_use(call: Call, name: str) -> bool:
    return call.node.access.may(call.identity, f"/storage/{name}", _STORAGE_PRIVILEGES, any_of=True)


@call("GET /storage")
async def storage_definitions(call: Call) -> list[dict[str, Any]]:
    found = []
    documents = call.node.state.kind("storage")
    digest = hashlib.sha1(json.dumps(documents).encode(), usedforsecurity=False).hexdigest()
    for name, document in documents.items():
        if _may_use(call, name):
            found.append({"storage": name, "type": "dir", **document, "digest": digest})
    return found


@call("POST /storage")
async def new_storage(call: Call) -> dict[str, str]:
    given, node = call.given, call.node
    name = given["storage"]
    if node.state.get("storage", name):
        raise failure(f"create storage failed: storage ID '{name}' already defined")
    if given["type"] != "dir":
        raise ParameterErrors({"type": "only storages of type 'dir' are implemented here"})
    if not str(given.get("path", "")).startswith("/"):
        raise ParameterErrors({"path": "property is missing and it is not optional"})
    node.state.put("storage", name, {"path": given["path"], "content": given.get("content", "images,iso,import")})
    try:
        node.storages.get(name)
    except OSError as problem:
        node.state.remove("storage", name)
        raise failure(f"create storage failed: mkdir {given['path']}: {problem.strerror}") from None
    return {"storage": name, "type": "dir"}


def _storage_entry(found: storage.Storage) -> dict[str, Any]:
    usage = found.usage()
    return {"type": "dir", "content": ",".join(found.content), "active": 1, "enabled": 1, "shared": 0, **usage}


@call("GET /nodes/{node}/storage")
async def storages(call: Call) -> list[dict[str, Any]]:
    found = []
    wanted = formats.split_list(call.given.get("content", ""))
    for name in call.node.storages.names():
        if ("storage" in call.given and call.given["storage"] != name) or not _may_use(call, name):
            continue
        one = call.node.storages.get(name)
        if wanted and not set(wanted) & set(one.content):
            continue
        entry = _storage_entry(one)
        found.append({"storage": name, **entry, "used_fraction": entry["used"] / max(1, entry["total"])})
    return found


@call("GET /nodes/{node}/storage/{storage}/status")
async def storage_status(call: Call) -> dict[str, Any]:
    return _storage_entry(call.node.storages.get(call.given["storage"]))


@call("GET /nodes/{node}/storage/{storage}/content")
async def storage_content(call: Call) -> list[dict[str, Any]]:
    found = call.node.storages.get(call.given["storage"])
    kinds = formats.split_list(call.given.get("content", "")) or list(found.content)
    entries = await found.list(kinds, call.given.get("vmid"))
    full = call.node.access.may(call.identity, f"/storage/{found.name}", ("Datastore.Audit",))
    # Without the right to audit, only volumes of machines that the caller may see.
    return [e for e in entries if full or ("vmid" in e and call.may(f"/vms/{e['vmid']}", "VM.Audit"))]


@call("DELETE /nodes/{node}/storage/{storage}/content/{volume}")
async def remove_volume(call: Call) -> str:
    found = call.node.storages.get(call.given["storage"])
    volume = call.given["volume"]
    if ":" not in volume:
        volume = f"{found.name}:{volume}"
    if volume.partition(":")[0] != found.name:
        raise failure("storage/volume mismatch")
    path = found.path(volume)
    owner = path.parent.name
    if owner.isdigit() and call.node.machines.exists(int(owner)):
        call.need(f"/vms/{owner}", "VM.Config.Disk")
    else:
        call.need(f"/storage/{found.name}", "Datastore.Allocate")

    async def work(task: Task) -> None:
        if owner.isdigit():
            for config in (call.node.machines.config(v) for v in call.node.machines.vmids()):
                if any(
                    formats.parse_drive(str(config[o]))["file"] == volume for o in config if qemu.DISK_KEY.fullmatch(o)
                ):
                    raise failure(f"volume '{volume}' is used by a VM")
        if not path.exists():
            task.log(f"Removed volume '{volume}'")
            return
        found.remove(volume)
        task.log(f"Removed volume '{volume}'")

    return call.start("imgdel", found.name if not owner.isdigit() else f"{owner}@{found.name}", work)


@call("POST /nodes/{node}/storage/{storage}/upload")
async def upload(call: Call) -> str:
    """The file goes straight to a draft in its target folder, so that it is never held in memory or stored twice."""
    found = call.node.storages.get(str(call.given["storage"]))
    fields, draft = await _receive(call, found)
    target = found.upload_path(fields["content"], fields["filename"])
    algorithm = fields.get("checksum-algorithm")
    if algorithm and algorithm not in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512"):
        draft.unlink(missing_ok=True)
        raise ParameterErrors({"checksum-algorithm": f"value '{algorithm}' does not have a value in the enumeration"})

    async def work(task: Task) -> None:
        try:
            task.log("starting file import from: upload")
            task.log(f"target node: {call.node.name}")
            task.log(f"target file: {target}")
            task.log(f"file size is: {draft.stat().st_size}")
            if algorithm:
                digest = await asyncio.to_thread(_digest, draft, algorithm)
                if digest != fields.get("checksum", "").lower():
                    raise failure(f"checksum mismatch: got '{digest}' != expect '{fields.get('checksum', '')}'")
            await storage.publish(draft, target)
            task.log("finished file import successfully")
        finally:
            draft.unlink(missing_ok=True)

    return call.start("imgcopy", "", work)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


async def _receive(call: Call, found: storage.Storage) -> tuple[dict[str, str], Path]:
    """Reads a multipart body (RFC 7578): text fields first, then the part named `filename`, which is the last."""
    request = call.request
    match = re.search(r'boundary="?([^";,\s]{1,70})"?', request.headers.get("content-type", ""))
    if "multipart/form-data" not in request.headers.get("content-type", "") or not match:
        raise ApiError(506, "upload needs multipart/form-data", body=False)
    if not 0 < request.content_length <= UPLOAD_BYTES_MAX:
        raise ApiError(501, "for data too large", body=False)
    if request.content_length > found.usage()["avail"]:
        raise failure("unable to receive upload - No space left on device")
    mark = b"--" + match[1].encode("latin-1")
    head = bytearray()
    fields: dict[str, str] = {}
    while True:  # until the head of the file's part is complete
        part = await request.read(64 * 1024)
        if not part:
            raise ParameterErrors({"filename": "property is missing and it is not optional"})
        head += part
        fields, file_at = _parse_fields(bytes(head), mark)
        if file_at:
            break
        if len(head) > _MULTIPART_HEAD_BYTES_MAX:
            raise ApiError(501, "for data too large", body=False)
    if "content" not in fields:
        raise ParameterErrors({"content": "property is missing and it is not optional"})
    found.upload_path(fields["content"], fields["filename"])  # refuse before anything is written
    folder = found.root / ".uploads"
    folder.mkdir(mode=0o700, exist_ok=True)
    draft = folder / f"{time.time_ns()}.part"
    ending = b"\r\n" + mark
    try:
        with draft.open("xb") as out:
            rest = bytes(head[file_at:])
            ended = False
            while not ended:
                at = rest.find(ending)
                if at >= 0:
                    await asyncio.to_thread(out.write, rest[:at])
                    ended = True
                    break
                keep = min(len(rest), len(ending))
                if len(rest) > keep:
                    await asyncio.to_thread(out.write, rest[: len(rest) - keep])
                    rest = rest[len(rest) - keep :]
                part = await request.read(1024 * 1024)
                if not part:
                    raise ApiError(400, "upload ended before its last boundary", body=False)
                rest += part
        while await request.read(64 * 1024):
            pass
    except OSError as problem:
        draft.unlink(missing_ok=True)
        raise failure(f"unable to receive upload - {problem.strerror}") from None
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return fields, draft


def _parse_fields(head: bytes, mark: bytes) -> tuple[dict[str, str], int]:
    """Fields so far, and where the file's content begins (0: its head is not complete yet)."""
    fields: dict[str, str] = {}
    at = head.find(mark)
    while at >= 0:
        end = head.find(b"\r\n\r\n", at)
        if end < 0:
            return fields, 0
        lines = head[at:end].decode("utf-8", "replace")
        name = re.search(r'[; ]name="([^"]*)"', lines)
        filename = re.search(r'filename="([^"]*)"', lines)
        if filename:
            if not name or name[1] != "filename":
                raise ParameterErrors({"filename": "property is missing and it is not optional"})
            fields["filename"] = filename[1]
            return fields, end + 4
        following = head.find(b"\r\n" + mark, end)
        if following < 0:
            return fields, 0
        if name:
            fields[name[1]] = head[end + 4 : following].decode("utf-8", "replace")
        at = following + 2
    return fields, 0


# -- cluster firewall ---------------------------------------------------------------------------------
def firewall_digest(document: Any) -> str:
    text = json.dumps(document, sort_keys=True) if document else ""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@call("GET /cluster/firewall/options")
async def cluster_firewall(call: Call) -> dict[str, Any]:
    document = call.node.state.get("cluster-firewall", "options") or {}
    return {**document, "digest": firewall_digest(document)}


@call("PUT /cluster/firewall/options")
async def change_cluster_firewall(call: Call) -> None:
    document = dict(call.node.state.get("cluster-firewall", "options") or {})
    given = dict(call.given)
    for name in formats.split_list(given.pop("delete", "")):
        document.pop(name, None)
    given.pop("digest", None)
    document.update(given)
    call.node.state.put("cluster-firewall", "options", document)


def remove_old_drafts(node: Node) -> None:
    """Uploads that a crash cut off."""
    for name in node.storages.names():
        with contextlib.suppress(OSError):
            shutil.rmtree(node.storages.get(name).root / ".uploads")
