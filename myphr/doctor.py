"""`myphr doctor`: looks at the installation and the hypervisor, and says in plain words what to do about what it finds.

Changes nothing but for the isolation probe, which starts one machine without data and destroys it again. Every check
stands alone: one that cannot be made is a finding, not a crash. Called by the command line.
"""

import contextlib
import dataclasses
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import redis
from sqlalchemy import text

from myphr.crypto.certificates import Chain, ca_not_after
from myphr.database import new_id, now
from myphr.errors import (
    ConfigurationError,
    HypervisorRefused,
    HypervisorUnreachable,
    KeyholderUnavailable,
    PortalError,
)
from myphr.machines import addresses, placement, pool, vm_sessions
from myphr.machines.models import Machine
from myphr.machines.proxmox import Hypervisor
from myphr.portal import Portal
from myphr.sharing import mails

CLOCK_SECONDS_MAX = 5
FREE_BYTES_MIN = 2 * 1024**3
PROBE_SECONDS_MAX = 180
ISOLATION_SECONDS_MAX = 15

# What the portal's token must hold, by path. The agent's privilege has other names since 9.0.
MACHINE_PRIVILEGES = (
    "VM.Audit",
    "VM.Allocate",
    "VM.PowerMgmt",
    "VM.Console",
    "VM.Config.Network",
    "VM.Config.Options",
    "Pool.Audit",
)
AGENT_PRIVILEGES = {8: ("VM.Monitor",), 9: ("VM.GuestAgent.Audit", "VM.GuestAgent.FileRead", "VM.GuestAgent.FileWrite")}
TEMPLATE_PRIVILEGES = ("VM.Audit", "VM.Clone", "Pool.Audit")
STORAGE_PRIVILEGES = ("Datastore.AllocateSpace", "Datastore.Audit")
TOO_MUCH = ("Permissions.Modify", "Sys.Modify", "Sys.Console", "Datastore.Allocate", "Mapping.Modify", "User.Modify")


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding. `remedy` says what to do when it is not ok."""

    name: str
    ok: bool
    sentence: str
    remedy: str = ""


def run(parts: Portal, *, probe: bool = True) -> list[Check]:
    """All checks, cheap ones first. `probe` starts a machine and asks it what it can reach."""
    checks: list[Check] = []
    for group in (_database, _redis, _store, _keys, _keyholder, _mail, _ports, _hypervisor):
        checks += _guarded(group, parts)
    if probe and all(check.ok for check in checks if check.name in ("hypervisor", "templates")):
        checks += _guarded(_isolation, parts)
    return checks


def _guarded(group: Callable[[Portal], Iterator[Check]], parts: Portal) -> list[Check]:
    name = group.__name__.strip("_").replace("_", " ")
    checks: list[Check] = []
    try:
        for check in group(parts):
            checks.append(check)
    except PortalError as error:
        checks.append(Check(name, False, f"This check could not be made: {error.detail or error.message}"))
    except Exception as error:  # a doctor that crashes helps nobody
        checks.append(Check(name, False, f"This check could not be made: {type(error).__name__}"))
    return checks


# -- this host ----------------------------------------------------------------------------------------
def _database(parts: Portal) -> Iterator[Check]:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with parts.database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        current = MigrationContext.configure(connection).get_current_heads()
    folder = Path(__file__).parent / "migrations"
    wanted = tuple(ScriptDirectory(str(folder)).get_heads())
    yield Check(
        "database",
        current == wanted,
        "The database answers and its tables are of this version."
        if current == wanted
        else "The database answers, but its tables are of another version.",
        "Run `myphr init`: it brings the tables up to date.",
    )


def _redis(parts: Portal) -> Iterator[Check]:
    try:
        parts.redis.ping()
        persistence: dict = parts.redis.info("persistence")  # type: ignore[assignment]
        memory: dict = parts.redis.info("memory")  # type: ignore[assignment]
    except redis.exceptions.RedisError as error:
        yield Check(
            "redis", False, f"Redis does not answer ({type(error).__name__}).", "Is it running? See MYPHR_REDIS_URL."
        )
        return
    kept = bool(persistence.get("aof_enabled"))
    yield Check(
        "redis",
        kept,
        "Redis answers and keeps its queue on disk." if kept else "Redis answers but forgets all in a crash.",
        "Set `appendonly yes`: the portal repairs itself from its database, but starts are delayed.",
    )
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Check("redis memory", False, "Redis may throw jobs away when full.", "Set `maxmemory-policy noeviction`.")


def _store(parts: Portal) -> Iterator[Check]:
    key = f"doctor-{new_id()}"
    writer = parts.store.create(key)
    try:
        writer.write(b"doctor")
        writer.commit()
        reader = parts.store.open(key)
        try:
            same = reader.read_at(0, 6) == b"doctor"
        finally:
            reader.close()
    finally:
        with contextlib.suppress(Exception):
            parts.store.delete(key)
    yield Check(
        "store",
        same,
        "The object store takes and gives back bytes." if same else "The store gives back other bytes.",
        "Do not use this store: nothing in it can be trusted.",
    )
    url = urlsplit(parts.settings.store_url)
    if url.scheme == "file":
        usage = os.statvfs(url.path)
        free = usage.f_bavail * usage.f_frsize
        yield Check("store room", free >= FREE_BYTES_MIN, f"{free / 1e9:.1f} GB are free.", "Make room on this disk.")


def _keys(parts: Portal) -> Iterator[Check]:
    parts.keys.worker  # noqa: B018 - raises when a key file is missing, open to others or damaged
    mode = stat.S_IMODE(parts.settings.keys_dir.stat().st_mode)
    yield Check("keys", mode & 0o077 == 0, "The portal's keys are there, for its own user only.")


def _keyholder(parts: Portal) -> Iterator[Check]:
    settings = parts.settings
    folder = settings.home / "keyholder"
    if settings.embedded_keyholder and not folder.exists():
        yield Check("keyholder", False, "The keyholder was never set up.", "Run `myphr init`.")
        return
    if settings.embedded_keyholder and os.geteuid() == 0:
        apart = folder.stat().st_uid != 0
        yield Check("keyholder's user", True, "The keyholder has a unix user of its own." if apart else
                    "The keyholder runs as root, like the portal: docs/operations/keyholder.md, Its own user.")
    if (settings.home / "ca-root").exists():
        yield Check("root of the CA", True, "The root of the CA still lies in ca-root below the home: "
                    "take it away, as docs/operations/keyholder.md says.")
    try:
        hello = parts.keyholder.hello()
    except KeyholderUnavailable as error:
        # Like the portal's ports: what we start ourselves may be down while nothing runs.
        down = settings.embedded_keyholder and not Path(settings.keyholder_address.removeprefix("unix:")).exists()
        yield Check("keyholder", down, "The keyholder is not running; it starts with the portal." if down else
                    f"The keyholder does not answer ({error.detail}).",
                    "Its log is log/keyholder.log: a wrong passphrase and foreign file modes stop it.")
        return
    seconds = abs(hello.time - time.time())
    yield Check("keyholder", seconds <= CLOCK_SECONDS_MAX and hello.ca,
                "The keyholder answers and holds the CA." if hello.ca else "The keyholder answers but holds no CA.",
                "Its clock must be right, and the portal's own keyholder must be the CA's.")
    root, intermediates = parts.keyholder.ca_chain()
    Chain(root, intermediates, parts.keyholder.ca_crl())
    end = max(ca_not_after(der) for der in intermediates)
    days = (end - now()).days
    yield Check("intermediate of the CA", days > 60, f"It is valid for {days} days more.",
                "Renew it with the root: docs/operations/keyholder.md.")


def _mail(parts: Portal) -> Iterator[Check]:
    url = parts.settings.smtp_url
    if url.startswith("outbox:"):
        folder = Path(url.removeprefix("outbox:"))
        fine = os.access(folder if folder.exists() else folder.parent, os.W_OK)
        yield Check(
            "mail",
            fine,
            "Mails are kept in the local outbox folder; nothing is sent."
            if fine
            else "The outbox folder cannot be written.",
            "Set MYPHR_SMTP_URL to send real mails.",
        )
        return
    try:
        server = mails.smtp_connection(url)
    except (mails.MailDelayed, mails.MailRefused) as error:
        yield Check("mail", False, f"The mail server cannot be used: {error}.", "See MYPHR_SMTP_URL.")
        return
    server.quit()
    yield Check("mail", True, "The mail server answers, encrypted, and accepts the sign-in.")


def _ports(parts: Portal) -> Iterator[Check]:
    for name, bind in (("web", parts.settings.web_bind), ("screen gateway", parts.settings.screen_bind)):
        host, _, port = bind.rpartition(":")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.settimeout(1)
            answers = probe.connect_ex((host.strip("[]") or "127.0.0.1", int(port))) == 0
            if answers:
                yield Check(f"{name} port", True, f"Something answers on {bind}: the portal is running.")
                continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), int(port)))
                yield Check(f"{name} port", True, f"{bind} is free.")
            except OSError as error:
                yield Check(
                    f"{name} port", False, f"{bind} cannot be used: {error.strerror}.", "Choose another address."
                )


# -- the hypervisor -----------------------------------------------------------------------------------
def _hypervisor(parts: Portal) -> Iterator[Check]:
    hypervisor = parts.hypervisor
    try:
        version = hypervisor.version()
    except HypervisorUnreachable as error:
        yield Check(
            "hypervisor",
            False,
            f"The hypervisor does not answer ({error.detail}).",
            "Is it running? See MYPHR_PROXMOX_URL and MYPHR_PROXMOX_CA_FILE.",
        )
        return
    except HypervisorRefused as error:
        yield Check(
            "hypervisor",
            False,
            f"The hypervisor refuses us: {error.detail}.",
            "Check the API token: MYPHR_PROXMOX_TOKEN_ID and its secret file.",
        )
        return
    known = (8, 0) <= version < (10, 0)
    yield Check(
        "hypervisor",
        known,
        f"Proxmox VE API {version[0]}.{version[1]} answers.",
        "This portal knows versions 8.4 and 9.x.",
    )
    skew = hypervisor.server_time()
    if skew is not None:
        seconds = abs(skew - time.time())
        yield Check(
            "clocks",
            seconds <= CLOCK_SECONDS_MAX,
            f"The clocks differ by {seconds:.0f} s.",
            "Run NTP on both: tickets of the screen live 40 s.",
        )
    yield from _privileges(parts, hypervisor, version)
    yield from _storage(parts, hypervisor)
    yield from _templates(parts, hypervisor)
    yield from _network(parts, hypervisor)


def _privileges(parts: Portal, hypervisor: Hypervisor, version: tuple[int, int]) -> Iterator[Check]:
    held = hypervisor.permissions()
    settings = parts.settings
    agent = AGENT_PRIVILEGES[8 if version[0] < 9 else 9]
    needed = {
        f"/pool/{settings.proxmox_pool}": (*MACHINE_PRIVILEGES, *agent),
        f"/pool/{settings.proxmox_template_pool}": TEMPLATE_PRIVILEGES,
        f"/storage/{settings.proxmox_storage}": STORAGE_PRIVILEGES,
    }
    missing = []
    for path, privileges in needed.items():
        have = privileges_at(held, path)
        unrestricted = "VM.GuestAgent.Unrestricted" in have
        missing += [
            f"{privilege} on {path}"
            for privilege in privileges
            if privilege not in have and not (unrestricted and privilege.startswith("VM.GuestAgent."))
        ]
    bridge = [path for path in held if path.startswith("/sdn/zones") or path == "/"]
    if not any("SDN.Use" in held[path] for path in bridge):
        missing.append(f"SDN.Use on /sdn/zones/localnetwork/{settings.proxmox_bridge} (or your zone)")
    yield Check(
        "privileges",
        not missing,
        "The token may do what it must." if not missing else "The token lacks: " + ", ".join(missing) + ".",
        "Give the role to the user and to the token: docs/operations/proxmox.md.",
    )
    # The embedded hypervisor has one user, which is its administrator; a real node has others to protect.
    if not settings.embedded_hypervisor:
        excess = sorted({p for path in held for p in held[path] if p in TOO_MUCH})
        yield Check(
            "least privilege",
            not excess,
            "The token holds no power over the node."
            if not excess
            else "The token could harm the node: " + ", ".join(excess) + ".",
            "Take these from its role.",
        )


def privileges_at(held: dict[str, frozenset[str]], path: str) -> frozenset[str]:
    """What holds at a path: of its nearest listed ancestor (the API lists paths with their own result)."""
    while True:
        if path in held:
            return held[path]
        if path in ("", "/"):
            return frozenset()
        path = path.rpartition("/")[0] or "/"


def _storage(parts: Portal, hypervisor: Hypervisor) -> Iterator[Check]:
    try:
        storage = hypervisor.storage()
    except HypervisorRefused:
        yield Check(
            "storage",
            False,
            f"Storage {parts.settings.proxmox_storage} is not to be seen.",
            "See MYPHR_PROXMOX_STORAGE and Datastore.Audit on it.",
        )
        return
    missing = {"images", "import"} - storage.content
    yield Check(
        "storage",
        storage.active and not missing,
        f"Storage {parts.settings.proxmox_storage} is active, {storage.free_bytes / 1e9:.0f} GB free."
        if storage.active and not missing
        else f"Storage {parts.settings.proxmox_storage} "
        + ("is not active." if not storage.active else f"takes no {' or '.join(sorted(missing))}."),
        "Allow the contents Disk image and Import on it: templates are published through it.",
    )
    if storage.active and storage.free_bytes < FREE_BYTES_MIN:
        yield Check(
            "storage room", False, "The storage is nearly full.", "Make room: each machine writes its own overlay."
        )


def _templates(parts: Portal, hypervisor: Hypervisor) -> Iterator[Check]:
    templates = {template.name: template for template in hypervisor.templates()}
    wanted = set(parts.settings.warm_pool_sizes)
    missing = sorted(wanted - set(templates))
    there = bool(templates) and not missing
    yield Check(
        "templates",
        there,
        "Templates: "
        + (", ".join(sorted(templates)) or "none")
        + (f"; missing: {', '.join(missing)}" if missing else "")
        + ".",
        "Run `myphr template build` and `myphr template publish`.",
    )
    no_clone = [t.name for t in templates.values() if not hypervisor.can_clone(t.vmid, node=t.node)]
    if templates:
        yield Check(
            "linked clones",
            not no_clone,
            "Templates can be cloned in no time."
            if not no_clone
            else "No linked clones of: " + ", ".join(no_clone) + ".",
            "Use a storage with linked clones: dir, nfs, zfs, lvm-thin, rbd.",
        )


def _network(parts: Portal, hypervisor: Hypervisor) -> Iterator[Check]:
    if parts.settings.embedded_hypervisor:
        return  # there is no bridge: each guest is alone behind its emulated card, which the probe below checks
    if not parts.settings.guest_network:
        yield Check(
            "guest network",
            False,
            "MYPHR_GUEST_NETWORK is not set.",
            "Set it to the isolated bridge's network, such as 10.20.0.0/16.",
        )
    else:
        addresses.guest_address(parts.settings, parts.settings.vmid_first)
    on = hypervisor.cluster_firewall()
    yield Check(
        "cluster firewall",
        on is True,
        {
            True: "The cluster firewall is on.",
            False: "The cluster firewall is off: VM rules have no effect at all.",
            None: "The token may not see whether the cluster firewall is on.",
        }[on],
        "Turn it on under Datacenter, Firewall, Options; give Sys.Audit on / so that this can be seen.",
    )
    for template in hypervisor.templates():
        net0 = str(hypervisor.config(template.vmid, node=template.node).get("net0", ""))
        fine = f"bridge={parts.settings.proxmox_bridge}" in net0.split(",") and "firewall=1" in net0.split(",")
        if not fine:
            yield Check(
                "template network",
                False,
                f"Template {template.name} is not on {parts.settings.proxmox_bridge} with firewall=1.",
                "Publish it again: `myphr template publish`.",
            )


# -- what a guest can reach -----------------------------------------------------------------------------
def _isolation(parts: Portal) -> Iterator[Check]:
    """Start a machine without data, let its own agent try every way out, destroy it."""
    templates = parts.hypervisor.templates()
    template = next((t for t in templates if t.name == "probe"), templates[-1])
    with parts.database.write() as db:
        placement.one_at_a_time(db)
        if placement.alive(db) >= parts.settings.machines_max:
            raise ConfigurationError("all machines are in use: try again later")
        machine = placement.order(db, parts.settings, template, purpose="check")
    try:
        machine = pool.bring_up(parts, machine.id, lambda: None, time.monotonic() + PROBE_SECONDS_MAX)
        yield from _ask_guest(parts, machine)
    finally:
        pool.give_up(parts, machine.id)
        with contextlib.suppress(HypervisorRefused, HypervisorUnreachable):
            pool.run_destroy(parts, machine.id)


def _ask_guest(parts: Portal, machine: Machine) -> Iterator[Check]:
    import json
    import secrets

    host, port = addresses.files_address(parts.settings)
    claim: dict = {
        "version": 1,
        "vm_session": f"doctor-{machine.id}",
        "clock": int(time.time()),
        "entropy": "",
        # A made-up secret: the files gateway must refuse it, and the guest looks at its network all the same.
        "files": {"address": host, "port": port, "secret": secrets.token_urlsafe(32)},
        "viewer": {"name": "probe", "command": []},
        "open": ".",
    }
    guest = addresses.guest_address(parts.settings, machine.vmid)
    if guest is not None:
        claim["network"] = {"address": str(guest)}
        parts.hypervisor.plug_network(machine.vmid, node=machine.node)
    parts.hypervisor.write_file(machine.vmid, vm_sessions.CLAIM_FILE, json.dumps(claim).encode(), node=machine.node)
    deadline = time.monotonic() + ISOLATION_SECONDS_MAX
    status: dict = {}
    while time.monotonic() < deadline and not status.get("isolation"):
        status = pool.read_status(parts, machine) or {}
        time.sleep(0.3)
    found = vm_sessions.parse_isolation(status)
    open_ways = [entry.check for entry in found if not entry.blocked]
    yield Check(
        "isolation",
        bool(found) and not open_ways,
        f"A machine tried {len(found)} ways out; all were blocked."
        if found and not open_ways
        else "A machine could reach: " + ", ".join(open_ways) + "."
        if open_ways
        else "The machine did not say what it could reach.",
        "Do not let patients in before this is mended: docs/operations/proxmox.md, Network.",
    )
    refused = status.get("state") not in ("mounted", "opening", "ready")
    yield Check(
        "files gateway",
        refused,
        "A wrong secret opens no folder." if refused else "A WRONG SECRET OPENED A FOLDER.",
        "Stop the files gateway and report this.",
    )
