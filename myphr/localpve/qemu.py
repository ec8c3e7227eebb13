"""One QEMU process: its command line from a machine's configuration, its start, and finding it again.

The process runs as an unprivileged user in QEMU's own sandbox. It is given open file descriptors for its disks and
control sockets, so the folders of localpve stay closed to it; it opens nothing by name but its own run directory and
the forward. Called by `machines` and `sealing`.
"""

import contextlib
import dataclasses
import fcntl
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from myphr.localpve import formats
from myphr.localpve.replies import TaskFailed

BINARY = "qemu-system-x86_64"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
OVERHEAD_BYTES = 3 << 30  # address space above the guest's memory: code, translation cache, display, threads
DISK_KEY = re.compile(r"(ide|sata|scsi|virtio)(\d+)")


@dataclasses.dataclass(frozen=True)
class VmUser:
    """Who QEMU runs as. `uid` None: whoever localpve runs as."""

    uid: int | None
    gid: int | None

    @classmethod
    def find(cls, name: str | None) -> "VmUser":
        """`name`, else myphr-vm, else nobody; only root can change user. Raises KeyError for an unknown name."""
        if os.geteuid() != 0:
            return cls(None, None)
        if name:
            entry = pwd.getpwnam(name)
            return cls(entry.pw_uid, entry.pw_gid)
        for candidate in ("myphr-vm", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(candidate)
                return cls(entry.pw_uid, entry.pw_gid)
        raise KeyError("no unprivileged user for machines")


@dataclasses.dataclass(frozen=True)
class Forward:
    """The one address that guests on a bridge can reach, and the unix socket behind it ({vmid} is filled in)."""

    bridge: str
    address: str
    port: int
    socket_path: str

    @classmethod
    def parse(cls, text: str) -> "Forward":
        """`vmbr1=10.0.2.100:564=unix:/run/files/{vmid}.sock`. Raises ValueError."""
        match = re.fullmatch(r"([\w.-]+)=(\d+\.\d+\.\d+\.\d+):(\d+)=unix:(.+)", text)
        if not match:
            raise ValueError("forward must look like vmbr1=10.0.2.100:564=unix:/path/{vmid}.sock")
        return cls(match[1], match[2], int(match[3]), match[4])


@dataclasses.dataclass
class Launch:
    """Everything one start needs. Paths are of files that localpve may open."""

    vmid: int
    config: dict[str, Any]
    run_dir: Path
    disks: dict[str, list[tuple[Path, str]]]  # option -> chain of (file, format), the writable top first
    accelerator: str
    user: VmUser
    forwards: dict[str, Forward]
    forward_paths: dict[str, Path]  # net option -> socket that QEMU connects to
    memory_path: str = ""  # sealed machines: file behind the guest's memory
    memory_shared: bool = False
    incoming: bool = False
    extra_descriptors: tuple[int, ...] = ()


def memory_mib(config: dict[str, Any]) -> int:
    return int(formats.parse_properties(str(config.get("memory", "512")), "current")["current"])


def cores(config: dict[str, Any]) -> int:
    return int(config.get("cores", 1)) * int(config.get("sockets", 1))


def agent_enabled(config: dict[str, Any]) -> bool:
    return formats.parse_properties(str(config.get("agent", "0")), "enabled").get("enabled") == "1"


def boot_order(config: dict[str, Any]) -> list[str]:
    order = str(config.get("boot", ""))
    return [d for d in order.removeprefix("order=").split(";") if d] if order.startswith("order=") else []


def command_line(launch: Launch, descriptors: "Descriptors") -> list[str]:
    """QEMU's arguments. `descriptors` opens the files and remembers what must be passed on."""
    config = launch.config
    run_dir = launch.run_dir
    memory = memory_mib(config)
    machine = "pc,usb=off,vmport=off"
    if launch.memory_path:
        machine += ",memory-backend=mem"
    if launch.accelerator == "tcg":
        accelerator, cpu = "tcg,thread=multi,tb-size=256", "max,la57=off"
    else:
        accelerator, cpu = "kvm", "host"
    arguments = [
        BINARY, "-name", f"{config.get('name', f'VM {launch.vmid}')},debug-threads=on", "-uuid", _uuid(config),
        "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", SANDBOX,
        "-machine", machine, "-accel", accelerator, "-cpu", cpu, "-smp", str(cores(config)), "-m", f"{memory}M",
        "-rtc", "base=utc", "-boot", "menu=off,strict=on",
        "-chardev", f"socket,id=qmp,fd={descriptors.listen(run_dir / 'qmp.sock')},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        "-vnc", f"unix:{_option_value(run_dir / 'vnc.sock')},password=on",
    ]  # fmt: skip
    if launch.memory_path:
        share = "on" if launch.memory_shared else "off"
        backend = f"memory-backend-file,id=mem,size={memory}M,mem-path={launch.memory_path},share={share},prealloc=off"
        arguments += ["-object", backend]
    if re.fullmatch(r"[0-9a-f-]{36}", str(config.get("vmgenid", ""))):
        arguments += ["-device", f"vmgenid,guid={config['vmgenid']}"]
    vga = formats.parse_properties(str(config.get("vga", "virtio")), "type").get("type", "virtio")
    if vga == "std":
        arguments += ["-device", "VGA,id=vga,xres=1280,yres=800"]
    elif vga != "none":
        arguments += ["-device", "virtio-vga,id=vga,xres=1280,yres=800"]
    arguments += ["-device", "virtio-tablet-pci,id=tablet", "-device", "virtio-keyboard-pci,id=keyboard"]
    arguments += ["-device", "virtio-rng-pci,id=rng,rng=rng0", "-object", "rng-random,id=rng0,filename=/dev/urandom"]
    if agent_enabled(config):
        arguments += [
            "-device", "virtio-serial-pci,id=serial",
            "-chardev", f"socket,id=qga,fd={descriptors.listen(run_dir / 'qga.sock')},server=on,wait=off",
            "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
        ]  # fmt: skip
    for option in sorted(config):
        if re.fullmatch(r"serial\d", option) and config[option] == "socket":
            listener = descriptors.listen(run_dir / f"{option}.sock")
            arguments += ["-chardev", f"socket,id={option},fd={listener},server=on,wait=off"]
            arguments += ["-device", f"isa-serial,chardev={option}"]
    arguments += _disks(launch, descriptors)
    arguments += _nets(launch)
    if launch.incoming:
        arguments += ["-incoming", "defer", "-S"]
    if extra := config.get("args"):
        arguments += shlex.split(str(extra))
    return arguments


def _uuid(config: dict[str, Any]) -> str:
    return formats.parse_properties(
        str(config.get("smbios1", "")) or "uuid=00000000-0000-4000-8000-000000000000", ""
    ).get("uuid", "00000000-0000-4000-8000-000000000000")


def _option_value(path: Path) -> str:
    return str(path).replace(",", ",,")


def _disks(launch: Launch, descriptors: "Descriptors") -> list[str]:
    config = launch.config
    order = {device: number for number, device in enumerate(boot_order(config), 1)}
    arguments: list[str] = []
    scsi_type = str(config.get("scsihw", "lsi"))
    seen: set[str] = set()
    for option in sorted(
        (o for o in config if DISK_KEY.fullmatch(o)), key=lambda o: (o.rstrip("0123456789"), len(o), o)
    ):
        kind, number = DISK_KEY.fullmatch(option).groups()  # type: ignore[union-attr]
        drive = formats.parse_drive(str(config[option]))
        is_cdrom = drive.get("media") == "cdrom"
        node = f"drive-{option}"
        chain = launch.disks.get(option, [])
        for depth, (path, form) in reversed(list(enumerate(chain))):
            writable = depth == 0 and not is_cdrom
            name = node if depth == 0 else f"{node}-base{depth}"
            fdset = descriptors.file(path, writable)
            read_only = "off" if writable else "on"
            cache = "cache.direct=off,cache.no-flush=on" if depth == 0 else "cache.direct=off"
            arguments += ["-add-fd", f"fd={fdset},set={fdset}"]
            arguments += [
                "-blockdev",
                f"driver=file,filename=/dev/fdset/{fdset},node-name={name}-file,read-only={read_only},{cache}",
            ]
            text = f"driver={form},file={name}-file,node-name={name},read-only={read_only},{cache},discard=unmap"
            if form == "qcow2":
                text += f",backing={node}-base{depth + 1}" if depth + 1 < len(chain) else ",backing="
                text = text.removesuffix(",backing=")
            arguments += ["-blockdev", text]
        device_tail = f",id={option}" + (f",drive={node}" if chain else "")
        if option in order:
            device_tail += f",bootindex={order[option] * 100}"
        if kind == "virtio":
            arguments += ["-device", f"virtio-blk-pci{device_tail}"]
        elif kind == "scsi":
            controller = f"virtioscsi{number}" if scsi_type == "virtio-scsi-single" else "scsihw0"
            model = "lsi" if scsi_type in ("lsi", "lsi53c810") else "virtio-scsi-pci"
            if controller not in seen:
                seen.add(controller)
                arguments += ["-device", f"{model},id={controller}"]
            lun = "scsi-id=0,lun=0" if scsi_type == "virtio-scsi-single" else f"scsi-id={number}"
            disk = "scsi-cd" if is_cdrom else "scsi-hd"
            arguments += ["-device", f"{disk},bus={controller}.0,{lun}{device_tail}"]
        elif kind == "sata":
            if "ahci" not in seen:
                seen.add("ahci")
                arguments += ["-device", "ahci,id=ahci"]
            arguments += ["-device", f"{'ide-cd' if is_cdrom else 'ide-hd'},bus=ahci.{number}{device_tail}"]
        else:
            bus, unit = divmod(int(number), 2)
            disk = "ide-cd" if is_cdrom else "ide-hd"
            arguments += ["-device", f"{disk},bus=ide.{bus},unit={unit}{device_tail}"]
    return arguments


def _nets(launch: Launch) -> list[str]:
    order = {device: number for number, device in enumerate(boot_order(launch.config), 1)}
    arguments: list[str] = []
    for option in sorted(o for o in launch.config if re.fullmatch(r"net\d+", o)):
        line = formats.parse_net(str(launch.config[option]))
        # restrict=on: nothing of the host, no DNS, no gateway; only the forwarded address answers.
        text = f"user,id={option},restrict=on,ipv6=off"
        forward = launch.forwards.get(line.get("bridge", ""))
        if forward and option in launch.forward_paths:
            path = _option_value(launch.forward_paths[option])
            arguments += ["-chardev", f"socket,id=forward-{option},path={path},reconnect=1"]
            text += f",guestfwd=tcp:{forward.address}:{forward.port}-chardev:forward-{option}"
        arguments += ["-netdev", text]
        model = "virtio-net-pci" if line["model"] == "virtio" else line["model"]
        tail = f",bootindex={order[option] * 100}" if option in order else ""
        rom = ",romfile=" if model == "virtio-net-pci" or model.startswith("e1000") else ""
        arguments += ["-device", f"{model},id={option}-dev,netdev={option},mac={line['macaddr']}{rom}{tail}"]
    return arguments


class Descriptors:
    """Files and listening sockets that a QEMU process inherits; closed on our side once it has them."""

    def __init__(self, user: VmUser) -> None:
        self.numbers: list[int] = []
        self._user = user

    def listen(self, path: Path) -> int:
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        self.numbers.append(number := listener.detach())
        return number

    def file(self, path: Path, writable: bool) -> int:
        try:
            number = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            raise TaskFailed(f"volume file '{path.name}' does not exist") from None
        self.numbers.append(number)
        return number

    def close(self) -> None:
        for number in self.numbers:
            with contextlib.suppress(OSError):
                os.close(number)
        self.numbers.clear()


@dataclasses.dataclass
class Process:
    """A running QEMU, ours or one found again. `started` is its start time in clock ticks after boot."""

    pid: int
    started: int
    popen: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        if self.popen is not None and self.popen.poll() is not None:
            return False
        return start_ticks(self.pid) == self.started

    def signal(self, number: int) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def memory_bytes(self) -> int:
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def cpu_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            return 0.0


def start_ticks(pid: int) -> int | None:
    """Start time of a live process (a zombie counts as gone)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def spawn(launch: Launch) -> tuple[Process, int]:
    """Starts QEMU and returns it with a descriptor of what it writes to its error output. Blocks shortly: call it in a
    thread. Raises TaskFailed when QEMU is missing."""
    descriptors = Descriptors(launch.user)
    # Error output goes to a sealed 64 KiB memory file: a guest that makes QEMU complain cannot fill the disk.
    errors = os.memfd_create(f"qemu-{launch.vmid}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(errors, 65536)
    _seal_size(errors)
    try:
        if shutil.which(BINARY) is None:
            raise FileNotFoundError
        # Limits are lowered by a program in between: no dump of a guest's memory, no more address space than it needs.
        space = (memory_mib(launch.config) << 20) + OVERHEAD_BYTES
        limits = ["prlimit", "--core=0:0", f"--as={space}:{space}", "--"]
        arguments = limits + command_line(launch, descriptors)
        options: dict[str, Any] = {}
        if launch.user.uid is not None:
            options = {"user": launch.user.uid, "group": launch.user.gid, "extra_groups": []}
        popen = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, cwd="/", start_new_session=True,
            pass_fds=(*descriptors.numbers, *launch.extra_descriptors),
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"},
            **options,
        )  # fmt: skip
    except FileNotFoundError:
        os.close(errors)
        raise TaskFailed(
            "start failed: command '/usr/bin/qemu-system-x86_64' failed: No such file or directory"
        ) from None
    except BaseException:
        os.close(errors)
        raise
    finally:
        descriptors.close()
    started = start_ticks(popen.pid)
    return Process(popen.pid, started or 0, popen), errors


def _seal_size(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)


def complaint(errors: int) -> str:
    """What QEMU wrote to its error output so far."""
    return os.pread(errors, 65536, 0).rstrip(b"\0").decode("utf-8", "replace").strip()


SIGTERM, SIGKILL = signal.SIGTERM, signal.SIGKILL
