"""Builds a viewer template: a recipe and Debian packages become a bootable disk, NAME.qcow2, and what it is, NAME.json.

Needs no root, loop device or mount: packages are unpacked by mmdebstrap, file systems are written from tar streams.
The disk boots by plain BIOS (MBR, FAT with syslinux and kernel, read-only squashfs root), so that the embedded
hypervisor and a real Proxmox start it alike. Formats: docs/formats/recipe.md. Called by `python -m
myphr.viewers.builder` and `myphr template build`; knows nothing of machines or records.
"""

import argparse
import contextlib
import copy
import dataclasses
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from myphr.errors import ConfigurationError

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"
GUEST = HERE / "guest"

EPOCH = 1_767_225_600  # 2026-01-01: every time stamp in an image, so that the same input gives the same bytes
SECTOR = 512
FIRST_PARTITION_BYTES = 1024 * 1024  # the usual alignment; room for the boot code before it
DISK_SIGNATURE = 0x4D504852  # "MPHR"
FAT_ID = "4D504852"
VIEWER_UID = 1000

# Drivers of every device that localpve or a Proxmox node gives a machine, and of the folder (erofs needs libcrc32c,
# which asks for crc32c by name only). Loaded in this order, each after its needs.
DRIVERS = [
    "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "squashfs", "overlay", "virtio_console", "virtio-gpu", "bochs",
    "evdev", "virtio_input", "virtio_net", "virtio-rng", "9p", "9pnet_fd", "loop", "crc32c_generic", "erofs", "psmouse",
    "uhci-hcd", "ehci-pci", "xhci-pci", "hid-generic", "usbhid",
]  # fmt: skip

# Measured under software emulation: see docs/operations/templates.md.
KERNEL_OPTIONS = (
    "quiet loglevel=3 console=ttyS0 mitigations=off nokaslr no_timer_check random.trust_cpu=on cryptomgr.notests"
    " nowatchdog vt.global_cursor_default=0 panic=5"
)

# Never in a template: manuals, translations, package lists, caches.
DROPPED = re.compile(
    r"^(usr/share/(doc|man|info|locale|lintian|linda|bug|gtk-doc|help|gnome/help)/.+|var/(cache|log|lib/apt/lists|tmp)/.+"
    r"|var/lib/dpkg/.+|usr/lib/x86_64-linux-gnu/(gconv/(?!UTF|ISO8859-1\.so|gconv-modules)).+|boot/.+|dev/.+|proc/.+|sys/.+|run/.+|tmp/.+"
    r"|etc/(machine-id|hostname|resolv\.conf|mtab)|.*\.pyc|usr/share/i18n/.+|usr/lib/(udev|systemd)/.+|lib/(udev|systemd)/.+|.*/__pycache__)$"
)

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One template's recipe.toml: see docs/formats/recipe.md."""

    name: str
    title: str
    description: str
    memory_mib: int
    cores: int
    tags: tuple[str, ...]
    variant: str  # extract: unpack only, keep what `keep` names; minbase: a Debian root with its packages set up
    packages: tuple[str, ...]
    keep: tuple[str, ...]
    drop: tuple[str, ...]  # regular expressions of paths left out, beside DROPPED
    compile_python: tuple[str, ...]
    programs: dict[str, str]  # path in the guest: C source, built static
    files: dict[str, str]  # path in the guest: source file
    links: dict[str, str]  # path in the guest: what it points at
    setup: tuple[str, ...]  # shell commands run inside the root while it is made


def names() -> list[str]:
    """The templates that can be built."""
    return sorted(p.parent.name for p in TEMPLATES.glob("*/recipe.toml"))


def read_recipe(name: str) -> Recipe:
    """Raises ConfigurationError when there is no such recipe or it has unknown or missing keys."""
    path = TEMPLATES / name / "recipe.toml"
    if name not in names():
        raise ConfigurationError(f"there is no template {name!r}; there are: {', '.join(names())}")
    text = tomllib.loads(path.read_text())
    root = text.pop("root", {})
    allowed = {"variant", "packages", "keep", "drop", "setup", "compile_python"}
    known = {"name", "title", "description", "memory_mib", "cores", "tags", "programs", "files", "links"}
    unknown = (set(text) - known) | (set(root) - allowed)
    if unknown:
        raise ConfigurationError(f"recipe {name}: unknown {', '.join(sorted(unknown))}")
    try:
        recipe = Recipe(
            name=text["name"],
            title=text["title"],
            description=text["description"],
            memory_mib=text["memory_mib"],
            cores=text["cores"],
            tags=tuple(text.get("tags", ())),
            variant=root["variant"],
            packages=tuple(root["packages"]),
            keep=tuple(root.get("keep", ())),
            drop=tuple(root.get("drop", ())),
            compile_python=tuple(root.get("compile_python", ())),
            programs=text.get("programs", {}),
            files=text.get("files", {}),
            links=text.get("links", {}),
            setup=tuple(root.get("setup", ())),
        )
    except KeyError as missing:
        raise ConfigurationError(f"recipe {name}: {missing} is missing") from None
    if recipe.name != name or recipe.variant not in ("extract", "minbase"):
        raise ConfigurationError(f"recipe {name}: name or variant is wrong")
    return recipe


def source_of(recipe: Recipe, source: str) -> Path:
    """A recipe's own file, else one that all templates share."""
    own = TEMPLATES / recipe.name / source
    path = own if own.exists() else GUEST / source
    if not path.is_file():
        raise ConfigurationError(f"recipe {recipe.name}: no file {source}")
    return path


def revision(recipe: Recipe) -> str:
    """Digest of all that decides what the image becomes: recipe, builder, guest sources and package names (hex, 16)."""
    h = hashlib.sha256()
    sources = {source_of(recipe, s) for s in [*recipe.programs.values(), *recipe.files.values()]}
    sources |= set(GUEST.glob("*.h")) | {
        GUEST / "initramfs-init",
        HERE / "builder.py",
        TEMPLATES / recipe.name / "recipe.toml",
    }
    for path in sorted(sources):
        body = path.read_bytes()
        h.update(f"{path.relative_to(HERE)}\0{len(body)}\0".encode() + body)
    return h.hexdigest()[:16]


# -- packages -------------------------------------------------------------------------------------------------------
def debian_sources(folder: Path) -> tuple[str, list[str]]:
    """Suite and source files for mmdebstrap: this machine's own Debian sources, third parties left out."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.M))
    suite = release.get("VERSION_CODENAME", "")
    kept: list[str] = []
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in lists:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text()
        parts = re.split(r"\n\s*\n", text) if path.suffix == ".sources" else text.splitlines()
        for part in parts:
            body = "\n".join(line for line in part.splitlines() if not line.lstrip().startswith("#"))
            foreign = re.search(r"signed-by", body, re.I) and "debian-archive" not in body
            if suite and re.search(rf"\b{suite}\b", body) and not foreign:
                kept.append(path.suffix + body)
    if not kept:
        raise ConfigurationError("this machine has no Debian package sources in /etc/apt")
    files = []
    for number, part in enumerate(kept):
        suffix, body = (".sources", part[8:]) if part.startswith(".sources") else (".list", part[5:])
        file = folder / f"{number:02}{suffix}"
        file.write_text(body + "\n")
        files.append(str(file))
    return suite, files


def apt_options() -> list[str]:
    """Proxy and date settings of this machine's apt, which mmdebstrap does not take over by itself."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(r'^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date|Retries|ForceIPv4) "[^"]+";$', re.M)
    return [f"--aptopt={m.group(0)}" for m in wanted.finditer(dump)]


@functools.cache
def mmdebstrap_mode() -> str:
    """`unshare` (an ordinary user in a user namespace), or `root` when we are root in a container."""
    if os.geteuid() == 0:
        return "root"  # unshare mode wants subordinate ids of root, which containers lack; root mode needs nothing else
    trial = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True)
    if trial.returncode == 0:
        return "unshare"
    raise ConfigurationError("building templates needs user namespaces or root")


def unpack(target: Path, variant: str, packages: Iterable[str], setup: Iterable[str], report: Report) -> None:
    """A tar of a Debian root with these packages. Kept and reused for the same request."""
    with tempfile.TemporaryDirectory(prefix="myphr-apt-") as scratch:
        suite, sources = debian_sources(Path(scratch))
        command = ["mmdebstrap", f"--mode={mmdebstrap_mode()}", f"--variant={variant}", "--format=tar", *apt_options()]
        command += [f"--include={','.join(packages)}", '--aptopt=APT::Install-Recommends "false"']
        if variant != "extract":
            for path in ("doc", "man", "info", "locale", "lintian", "help"):
                command.append(f"--dpkgopt=path-exclude=/usr/share/{path}/*")
            # Java's set-up links manual pages that are not there; without their folder it fails, and all with it.
            command.append('--essential-hook=mkdir -p "$1/usr/share/man/man1"')
        command += [f"--customize-hook=chroot \"$1\" sh -c '{line}'" for line in setup]
        unfinished = target.with_suffix(".part")
        command += [suite, str(unfinished), *sources]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "DEBIAN_FRONTEND": "noninteractive"}
        steps = {
            "downloading": "downloading packages",
            "extracting": "unpacking packages",
            "installing": "setting packages up",
        }
        tail: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        ) as run:
            assert run.stderr is not None
            for line in run.stderr:
                tail = [*tail[-30:], line]
                for word, sentence in steps.items():
                    if line.startswith(f"I: {word}"):
                        report(sentence)
        if run.returncode:
            unfinished.unlink(missing_ok=True)
            raise ConfigurationError("mmdebstrap failed:\n" + "".join(tail))
        unfinished.rename(target)


def cached_root(
    cache: Path, variant: str, packages: Iterable[str], setup: Iterable[str], report: Report, what: str
) -> Path:
    packages, setup = sorted(packages), list(setup)
    key = hashlib.sha256(json.dumps([variant, packages, setup, EPOCH]).encode()).hexdigest()[:16]
    path = cache / f"{what}-{key}.tar"
    if path.exists():
        report(f"{what}: packages of an earlier build reused")
    else:
        report(f"{what}: fetching {len(packages)} packages and what they need")
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{what}-*.tar"):
            old.unlink()
        unpack(path, variant, packages, setup, report)
    return path


def package_versions(tar: Path) -> dict[str, str]:
    """What was put in, as dpkg recorded it (empty for `extract`, which keeps no record)."""
    with tarfile.open(tar) as source:
        for member in source:
            if member.name.removeprefix("./") == "var/lib/dpkg/status":
                body = source.extractfile(member)
                assert body is not None
                found = re.findall(r"^Package: (\S+)\n(?:.*\n)*?Version: (\S+)$", body.read().decode(), re.M)
                return dict(sorted(found))
    return {}


# -- kernel and initramfs -------------------------------------------------------------------------------------------
def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An initramfs archive ("newc", kernel Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = io.BytesIO()

    def one(name: str, mode: int, body: bytes, number: int) -> None:
        fields = [number, mode, 0, 0, 1, EPOCH, len(body), 0, 0, 0, 0, len(name) + 1, 0]
        out.write(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4) + body)
        out.write(b"\0" * (-out.tell() % 4))

    for number, (name, mode, body) in enumerate(entries, 1):
        one(name, mode, body, number)
    one("TRAILER!!!", 0, b"", 0)
    return out.getvalue()


def driver_order(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """Module paths, each after those it needs. `dependencies` is the text of modules.dep."""
    needs = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(p).name.split(".ko")[0].replace("_", "-"): p for p in needs}
    order: list[str] = []

    def add(path: str) -> None:
        if path not in order:
            for need in reversed(needs[path]):
                add(need)
            order.append(path)

    for name in wanted:
        found = by_name.get(name.replace("_", "-"))
        if found:  # else it is built into this kernel
            add(found)
    return order


@dataclasses.dataclass(frozen=True)
class Kernel:
    version: str
    image: bytes
    modules: dict[str, bytes]  # path below lib/modules/<version>: body
    order: list[str]


def read_kernel(tar: Path) -> Kernel:
    """The newest kernel in the tar, with the drivers we load."""
    image, version = b"", ""
    modules: dict[str, bytes] = {}
    with tarfile.open(tar) as source:
        members = {m.name.removeprefix("./"): m for m in source if m.isfile()}

        def body(name: str) -> bytes:
            file = source.extractfile(members[name])
            assert file is not None
            return file.read()

        version = max(n.removeprefix("boot/vmlinuz-") for n in members if n.startswith("boot/vmlinuz-"))
        image = body(f"boot/vmlinuz-{version}")
        base = f"lib/modules/{version}/"
        if base + "modules.dep" in members:
            text = body(base + "modules.dep").decode()
        else:  # not made yet when packages are only unpacked
            text = _depmod(source, members, base, version)
        order = driver_order(text, DRIVERS)
        modules = {path: body(base + path) for path in order}
    return Kernel(version, image, modules, order)


def _depmod(source: tarfile.TarFile, members: dict[str, tarfile.TarInfo], base: str, version: str) -> str:
    with tempfile.TemporaryDirectory(prefix="myphr-depmod-") as scratch:
        for name, member in members.items():
            if name.startswith(base):
                target = Path(scratch) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                file = source.extractfile(member)
                assert file is not None
                target.write_bytes(file.read())
        subprocess.run(["busybox", "depmod", "-b", scratch, version], check=True, capture_output=True, cwd=scratch)
        text = (Path(scratch) / base / "modules.dep").read_text()
    return re.sub(rf"(?<![^\s])/?lib/modules/{re.escape(version)}/", "", text)


def initramfs(kernel: Kernel, busybox: bytes) -> bytes:
    directories = ["bin", "dev", "proc", "sys", "lower", "upper", "root", "drivers.d"]
    entries: list[tuple[str, int, bytes]] = [(d, 0o040755, b"") for d in directories]
    entries.append(("init", 0o100755, (GUEST / "initramfs-init").read_bytes()))
    entries.append(("bin/busybox", 0o100755, busybox))
    flat = [Path(p).name for p in kernel.order]
    entries.append(("drivers", 0o100644, "".join(f"{n}\n" for n in flat).encode()))
    entries += [(f"drivers.d/{n}", 0o100644, kernel.modules[p]) for n, p in zip(flat, kernel.order, strict=True)]
    archive = cpio(entries)
    return subprocess.run(
        ["zstd", "-q", "-9", "-c", "--no-check"], input=archive, stdout=subprocess.PIPE, check=True
    ).stdout


# -- the root file system -------------------------------------------------------------------------------------------
class Root:
    """The guest's root as tar members in memory order: filtered, completed, sorted, with fixed times."""

    def __init__(self, tar: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.source = tarfile.open(tar)  # noqa: SIM115 - closed by close()
        self.members: dict[str, tarfile.TarInfo] = {}
        self.bodies: dict[str, bytes] = {}
        drop = [re.compile(d) for d in recipe.drop]
        for member in self.source:
            name = member.name.removeprefix("./").rstrip("/")
            if not name or name == "." or DROPPED.match(name) or any(d.match(name) for d in drop):
                continue
            if member.ischr() or member.isblk():
                continue
            self.members[name] = member

    def close(self) -> None:
        self.source.close()

    def read(self, name: str) -> bytes:
        if name in self.bodies:
            return self.bodies[name]
        member = self.members[self.resolve(name)]
        if member.islnk():
            return self.read(member.linkname.removeprefix("./"))
        file = self.source.extractfile(member)
        assert file is not None
        return file.read()

    def resolve(self, name: str) -> str:
        """Follows symbolic links of the last part and of the folders (lib -> usr/lib)."""
        for _ in range(16):
            done = True
            parts = name.split("/")
            for i in range(1, len(parts) + 1):
                head = "/".join(parts[:i])
                member = self.members.get(head)
                if member is not None and member.issym():
                    to = member.linkname
                    base = "" if to.startswith("/") else os.path.dirname(head)
                    name = os.path.normpath("/".join(filter(None, [base, to.lstrip("/"), *parts[i:]])))
                    done = False
                    break
            if done:
                return name
        raise ConfigurationError("links go in circles")

    def add(self, name: str, body: bytes, mode: int, uid: int = 0) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.uid, member.gid = len(body), mode, uid, uid
        self.members[name], self.bodies[name] = member, body

    def folder(self, name: str, mode: int = 0o755, uid: int = 0) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, mode, uid, uid
        self.members[name] = member

    def link(self, name: str, to: str) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, to, 0o777
        self.members[name] = member

    def keep_only(self, wanted: Iterable[str]) -> None:
        """Leaves the named programs and the libraries they need (readelf), nothing else."""
        libraries: dict[str, str] = {}
        for name, member in self.members.items():
            if re.match(r"(usr/)?lib(64)?/", name) and ".so" in name and not member.isdir():
                libraries.setdefault(Path(name).name, name)
        kept: dict[str, tarfile.TarInfo] = {}
        bodies: dict[str, bytes] = {}
        todo = list(wanted)
        while todo:
            name = todo.pop()
            if name in kept:
                continue
            real = self.resolve(name)
            if real not in self.members:
                raise ConfigurationError(f"recipe {self.recipe.name}: {name} is in none of the packages")
            body = self.read(real)
            fresh = tarfile.TarInfo(name)
            fresh.size, fresh.mode = len(body), 0o755
            kept[name], bodies[name] = fresh, body
            if body.startswith(b"\x7fELF"):
                for needed in elf_needs(body):
                    loader = needed.startswith("/")
                    place = needed.lstrip("/") if loader else libraries.get(needed)
                    if place is None:
                        raise ConfigurationError(f"recipe {self.recipe.name}: library {needed} is missing")
                    todo.append(place)
        self.members, self.bodies = kept, bodies

    def stream(self) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
        for name in list(self.members):
            for i in range(1, name.count("/") + 1):
                parent = "/".join(name.split("/")[:i])
                if parent not in self.members:
                    self.folder(parent)
        for name in sorted(self.members):
            member = self.members[name]
            body = None
            if member.isfile() or member.islnk():
                body = self.read(name)
            member = copy.copy(member)
            member.name, member.mtime, member.uname, member.gname, member.pax_headers = name, EPOCH, "", "", {}
            if body is not None:
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", len(body)
            yield member, body


def elf_needs(body: bytes) -> list[str]:
    """Loader and libraries an ELF file names."""
    with tempfile.NamedTemporaryFile(prefix="myphr-elf-") as file:
        file.write(body)
        file.flush()
        text = subprocess.run(["readelf", "-ld", file.name], capture_output=True, text=True, check=True).stdout
    needs = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
    return needs + re.findall(r"program interpreter: (/.+)\]", text)


def compile_static(source: Path) -> bytes:
    """A C source as a static program, the same bytes for the same compiler."""
    with tempfile.TemporaryDirectory(prefix="myphr-cc-") as scratch:
        out = Path(scratch) / "program"
        command = ["gcc", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong"]
        command += [
            "-Wl,--build-id=none",
            f"-ffile-prefix-map={source.parent}=.",
            f"-I{GUEST}",
            "-o",
            str(out),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ConfigurationError(f"{source.name} does not compile:\n{done.stderr}")
        return out.read_bytes()


def squashfs(root: Root, target: Path) -> None:
    # Not sqfstar: 4.5.1 refuses every option of a compressor.
    command = ["mksquashfs", "-", str(target), "-tar", "-comp", "zstd", "-Xcompression-level", "15", "-b", "131072"]
    command += ["-mkfs-time", str(EPOCH), "-all-time", str(EPOCH), "-no-progress", "-quiet"]
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    target.unlink(missing_ok=True)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as run:
        assert run.stdin is not None
        with tarfile.open(fileobj=run.stdin, mode="w|", format=tarfile.GNU_FORMAT) as out:
            for member, body in root.stream():
                out.addfile(member, io.BytesIO(body) if body is not None else None)
        run.stdin.close()
    if run.returncode:
        raise ConfigurationError("writing the root file system failed")


# -- the disk -------------------------------------------------------------------------------------------------------
SYSLINUX_CONFIG = (
    "DEFAULT viewer\nPROMPT 0\nTIMEOUT 0\nLABEL viewer\n  LINUX /vmlinuz\n  INITRD /initrd\n  APPEND {options}\n"
)


def boot_partition(folder: Path, kernel: bytes, initrd: bytes) -> Path:
    """A FAT file system with syslinux, kernel and initramfs; made by mtools, without root."""
    path = folder / "boot.fat"
    mebibytes = (len(kernel) + len(initrd)) // 1024**2 + 4
    path.write_bytes(b"")
    os.truncate(path, mebibytes * 1024**2)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
    run = functools.partial(subprocess.run, check=True, capture_output=True, env=environment)
    kind = "16" if mebibytes < 32 else "32" if mebibytes >= 64 else "16"
    run(["mkfs.fat", "-F", kind, "-i", FAT_ID, "-n", "VIEWER", "--invariant", str(path)])
    contents = {
        "vmlinuz": kernel,
        "initrd": initrd,
        "syslinux.cfg": SYSLINUX_CONFIG.format(options=KERNEL_OPTIONS).encode(),
    }
    run(["syslinux", "--install", str(path)])
    for name, body in contents.items():
        file = folder / name
        file.write_bytes(body)
        os.utime(file, (EPOCH, EPOCH))
        run(["mcopy", "-m", "-i", str(path), str(file), f"::{name}"])
    return path


def master_boot_record(parts: list[tuple[int, int, int, bool]]) -> bytes:
    """The first sector: boot code and partition table. Parts are (type, first sector, sectors, active)."""
    for place in ("/usr/lib/syslinux/mbr/mbr.bin", "/usr/lib/SYSLINUX/mbr.bin", "/usr/share/syslinux/mbr.bin"):
        if Path(place).exists():
            code = Path(place).read_bytes()[:440]
            break
    else:
        raise ConfigurationError("syslinux' mbr.bin is missing (package syslinux-common)")
    table = b""
    for kind, first, sectors, active in parts:
        # CHS is unused: FE FF FF means "beyond", as every tool writes it.
        table += struct.pack("<B3sB3sII", 0x80 if active else 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", first, sectors)
    return code.ljust(440, b"\0") + struct.pack("<IH", DISK_SIGNATURE, 0) + table.ljust(64, b"\0") + b"\x55\xaa"


def write_disk(folder: Path, boot: Path, root: Path, target: Path) -> None:
    raw = folder / "disk.raw"
    align = FIRST_PARTITION_BYTES
    boot_sectors = -(-boot.stat().st_size // align) * align // SECTOR
    root_sectors = -(-root.stat().st_size // align) * align // SECTOR
    first = FIRST_PARTITION_BYTES // SECTOR
    parts = [(0x0E, first, boot_sectors, True), (0x83, first + boot_sectors, root_sectors, False)]
    with raw.open("wb") as out:
        out.write(master_boot_record(parts))
        for source, (_, start, _, _) in zip((boot, root), parts, strict=True):
            out.seek(start * SECTOR)
            with source.open("rb") as body:
                shutil.copyfileobj(body, out, 1024**2)
        out.truncate((first + boot_sectors + root_sectors) * SECTOR)
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)], check=True, capture_output=True
    )
    raw.unlink()


def proxmox_config(recipe: Recipe) -> dict[str, str | int]:
    """Keys for `POST /nodes/{node}/qemu`; disk and network are left to whoever knows storage and bridge."""
    return {
        "name": f"tpl-{recipe.name}",
        "memory": recipe.memory_mib,
        "balloon": 0,
        "cores": recipe.cores,
        "sockets": 1,
        "cpu": "x86-64-v2-AES",
        "ostype": "l26",
        "bios": "seabios",
        "vga": "virtio",
        "agent": "enabled=1",
        "tablet": 1,
        "scsihw": "virtio-scsi-single",
        "serial0": "socket",
        "boot": "order=virtio0",
        "onboot": 0,
        "tags": ";".join(sorted({"myphr", "template", *recipe.tags})),
    }


# -- all together ---------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Built:
    """A template on disk, as NAME.json describes it."""

    name: str
    image: Path
    description: Path
    revision: str
    reused: bool


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def current(name: str, out_dir: Path) -> Built | None:
    """The template in `out_dir` when it is what the recipe asks for now and is whole; else None."""
    recipe = read_recipe(name)
    image, description = out_dir / f"{name}.qcow2", out_dir / f"{name}.json"
    try:
        told = json.loads(description.read_text())
        whole = image.stat().st_size == told["image_bytes"] and told["revision"] == revision(recipe)
    except (OSError, ValueError, KeyError):
        return None
    return Built(name, image, description, told["revision"], True) if whole else None


def build(name: str, out_dir: Path, report: Report = lambda line: None, *, refresh: bool = False) -> Built:
    """Builds or reuses one template. `report` gets one plain line per stage; `refresh` fetches packages anew.

    Raises ConfigurationError when a tool or package is missing. A build that is stopped leaves the old image as it was.
    """
    recipe = read_recipe(name)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with _alone(out_dir, lambda: report(f"{name}: waiting for another build to end")):
        ready = None if refresh else current(name, out_dir)
        if ready:
            report(f"{name}: nothing changed, reused")
            return ready
        return _build(recipe, out_dir, report, refresh)


@contextlib.contextmanager
def _alone(out_dir: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """One build at a time per folder: they share what they fetch, and tests in parallel want the same template."""
    with (out_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(recipe: Recipe, out_dir: Path, report: Report, refresh: bool) -> Built:
    name = recipe.name
    cache = out_dir / ".packages"
    if refresh and cache.exists():
        shutil.rmtree(cache)

    def stage(line: str) -> None:
        report(f"{name}: {line}")

    kernel_tar = cached_root(cache, "extract", ["linux-image-amd64", "busybox-static"], [], stage, "kernel")
    root_tar = cached_root(cache, recipe.variant, recipe.packages, recipe.setup, stage, name)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out_dir) as scratch:
        work = Path(scratch)
        stage("picking kernel and drivers")
        kernel = read_kernel(kernel_tar)
        with tarfile.open(kernel_tar) as source:
            file = source.extractfile("./bin/busybox")
            assert file is not None
            busybox = file.read()
        stage("compiling the guest agent")
        root = Root(root_tar, recipe)
        try:
            _complete(root, recipe, busybox)
            stage("writing the root file system")
            squashfs(root, work / "root.squashfs")
        finally:
            root.close()
        stage("writing the boot disk")
        boot = boot_partition(work, kernel.image, initramfs(kernel, busybox))
        image = work / f"{name}.qcow2"
        write_disk(work, boot, work / "root.squashfs", image)
        told = {
            "name": name,
            "title": recipe.title,
            "description": recipe.description,
            "revision": revision(recipe),
            "image": f"{name}.qcow2",
            "image_bytes": image.stat().st_size,
            "image_sha256": _fingerprint(image),
            "memory_mib": recipe.memory_mib,
            "cores": recipe.cores,
            "sealable": "sealable" in recipe.tags,
            "kernel": kernel.version,
            "proxmox": proxmox_config(recipe),
            "packages": package_versions(root_tar),
        }
        text = work / f"{name}.json"
        text.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        # The description goes first away and last in, so that a half-done exchange never looks whole.
        (out_dir / f"{name}.json").unlink(missing_ok=True)
        image.replace(out_dir / f"{name}.qcow2")
        text.replace(out_dir / f"{name}.json")
    stage(f"done, {(out_dir / f'{name}.qcow2').stat().st_size / 1e6:.0f} MB")
    return Built(name, out_dir / f"{name}.qcow2", out_dir / f"{name}.json", str(told["revision"]), False)


def _complete(root: Root, recipe: Recipe, busybox: bytes) -> None:
    if recipe.keep:
        root.keep_only(recipe.keep)
    for folder in ("dev", "proc", "sys", "run", "root", "etc", "home", "mnt", "usr/lib/myphr"):
        root.folder(folder)
    root.folder("tmp", 0o1777)
    root.folder("var/tmp", 0o1777)
    root.folder("mnt/data", 0o755, VIEWER_UID)
    root.link("data", "mnt/data")
    root.folder("home/viewer", 0o700, VIEWER_UID)
    for where, source in recipe.programs.items():
        root.add(where, compile_static(source_of(recipe, source)), 0o755)
    for where, source in recipe.files.items():
        body = source_of(recipe, source).read_bytes()
        executable = body.startswith(b"#!") or where == "sbin/init"
        if recipe.variant == "minbase" and where.startswith(("sbin/", "bin/", "lib/")):
            where = f"usr/{where}" if root.members.get(where.split("/")[0], tarfile.TarInfo()).issym() else where
        uid = VIEWER_UID if where.startswith("home/viewer/") else 0
        root.add(where, body, 0o755 if executable else 0o644, uid)
    for where, to in recipe.links.items():
        root.link(where, to)
    if recipe.variant == "extract":
        root.add("bin/busybox", busybox, 0o755)
        root.link("bin/sh", "busybox")
        root.add(
            "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nviewer:x:1000:1000:viewer:/home/viewer:/bin/sh\n", 0o644
        )
        root.add("etc/group", b"root:x:0:\nviewer:x:1000:\n", 0o644)
    else:
        root.add("etc/passwd", root.read("etc/passwd") + b"viewer:x:1000:1000:viewer:/home/viewer:/bin/sh\n", 0o644)
        root.add("etc/group", root.read("etc/group") + b"viewer:x:1000:\n", 0o644)
    root.folder("etc/myphr")
    root.add("etc/myphr/template", f"{recipe.name} {revision(recipe)}\n".encode(), 0o644)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myphr.viewers.builder", description="Build viewer templates.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("build", help="build or reuse one template")
    one.add_argument("name", choices=names())
    one.add_argument("--out", type=Path, required=True, metavar="DIR")
    one.add_argument("--refresh", action="store_true", help="fetch the packages anew")
    commands.add_parser("list", help="the templates there are")
    args = parser.parse_args(words)
    if args.command == "list":
        print("\n".join(names()))
        return 0
    try:
        built = build(args.name, args.out, lambda line: print(line, flush=True), refresh=args.refresh)
    except ConfigurationError as error:
        print(error.detail, file=sys.stderr)
        return 1
    print(built.image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
