"""Storages of kind "dir": disk images, uploaded images and ISO files, made and changed with qemu-img.

Knows volume ids and files, nothing of machines' life. Image files belong to localpve alone; machines get open file
descriptors, never paths. Called by `api` and `machines`.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from myphr.localpve.replies import ParameterErrors, TaskFailed, failure
from myphr.localpve.state import State

IMAGE_SECONDS_MAX = 600
_DISK_FILE = re.compile(r"(vm|base)-(\d+)-disk-(\d+)\.(qcow2|raw)")
_UPLOAD_NAMES = {
    "iso": re.compile(r"[^/\0]+\.(iso|img)", re.I),
    "import": re.compile(r"[^/\0]+\.(qcow2|raw|img)", re.I),
}
_FOLDERS = {"iso": "template/iso", "import": "import", "images": "images"}
Log = Callable[[str], None]


class CommandFailed(Exception):
    """A program ended with an error; carries its last words."""

    def __init__(self, command: str, code: int | str, output: str) -> None:
        super().__init__(
            f"command '{command}' failed: exit code {code}" if isinstance(code, int) else f"{command}: {code}"
        )
        self.output = output.strip()


async def run(*command: str, cwd: Path | None = None, seconds: float = IMAGE_SECONDS_MAX) -> str:
    """Output of a program, without blocking the loop. Raises CommandFailed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise CommandFailed(command[0], "No such file or directory", "") from None
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    text = output.decode("utf-8", "replace")
    if process.returncode:
        raise CommandFailed(" ".join(command), process.returncode, text)
    return text


class Storage:
    """One storage folder. A volume id is `<storage>:<name>`; `name` never leaves the folder."""

    def __init__(self, name: str, document: dict[str, Any]) -> None:
        self.name = name
        self.root = Path(document["path"])
        self.content = document["content"].split(",")
        for kind in ("images", "iso", "import"):
            if kind in self.content:
                (self.root / _FOLDERS[kind]).mkdir(parents=True, exist_ok=True)

    def path(self, volume: str) -> Path:
        """File of a volume id. Raises ApiError 500 for something that is not a volume of this storage."""
        name = volume.partition(":")[2]
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise failure(f"unable to parse directory volume name '{name}'")
        if parts[0] == "iso" and len(parts) == 2:
            return self.root / "template/iso" / parts[1]
        if parts[0] == "import" and len(parts) == 2:
            return self.root / "import" / parts[1]
        owner, file = parts[-2:] if len(parts) in (2, 4) else ("", "")
        if owner.isdigit() and _DISK_FILE.fullmatch(file):
            return self.root / "images" / owner / file
        raise failure(f"unable to parse directory volume name '{name}'")

    def base_of(self, volume: str) -> str | None:
        """Volume id of the template disk that a linked clone's disk lies over."""
        parts = volume.partition(":")[2].split("/")
        return f"{self.name}:{parts[0]}/{parts[1]}" if len(parts) == 4 else None

    def free_disk_name(self, vmid: int, form: str, prefix: str = "vm") -> str:
        folder = self.root / "images" / str(vmid)
        number = 0
        while any(
            (folder / f"{p}-{vmid}-disk-{number}.{f}").exists() for p in ("vm", "base") for f in ("qcow2", "raw")
        ):
            number += 1
        return f"{prefix}-{vmid}-disk-{number}.{form}"

    async def create(self, vmid: int, size: int, form: str, log: Log) -> str:
        """A new empty disk; its volume id."""
        folder = self.root / "images" / str(vmid)
        folder.mkdir(parents=True, exist_ok=True)
        file = self.free_disk_name(vmid, form)
        options = ["-o", "preallocation=metadata"] if form == "qcow2" else []
        try:
            log((await run("qemu-img", "create", *options, "-f", form, str(folder / file), str(size))).strip())
        except BaseException as problem:
            (folder / file).unlink(missing_ok=True)
            if isinstance(problem, CommandFailed):
                raise TaskFailed(f"unable to create image: {_last_line(problem)}") from None
            raise
        return f"{self.name}:{vmid}/{file}"

    async def create_over(self, base: str, vmid: int, log: Log) -> str:
        """An empty overlay over a template's disk (a linked clone); its volume id."""
        base_path = self.path(base)
        folder = self.root / "images" / str(vmid)
        folder.mkdir(parents=True, exist_ok=True)
        file = self.free_disk_name(vmid, "qcow2")
        base_name = base.partition(":")[2]
        owner = base_name.split("/")[0]
        relative = f"../{owner}/{base_path.name}"
        log(f"clone {base_name}: images, {file}, {vmid} to {file} (base={relative})")
        form = base_path.suffix.lstrip(".")
        try:
            log(
                (
                    await run(
                        "qemu-img", "create", "-b", relative, "-F", form, "-f", "qcow2", str(folder / file), cwd=folder
                    )
                ).strip()
            )
        except BaseException as problem:
            (folder / file).unlink(missing_ok=True)
            if isinstance(problem, CommandFailed):
                raise TaskFailed(f"clone failed: unable to create image: {_last_line(problem)}") from None
            raise
        return f"{self.name}:{base_name}/{vmid}/{file}"

    async def copy_to(self, source: Path, source_form: str, vmid: int, form: str, log: Log) -> str:
        """A new disk with the content of `source` (a file of ours); its volume id. Raises TaskFailed."""
        size = int((await self.info(source, source_form))["virtual-size"])
        volume = await self.create(vmid, size, form, log)
        target = self.path(volume)
        log(f"transferred 0.0 B of {_human(size)} (0.00%)")
        draft = target.with_name(f".{target.name}.part")
        try:
            await run("qemu-img", "convert", "-f", source_form, "-O", form, str(source), str(draft), seconds=3600)
            draft.replace(target)
        except BaseException as problem:
            draft.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            if isinstance(problem, CommandFailed):
                raise TaskFailed(f"copy failed: {_last_line(problem)}") from None
            raise
        log(f"transferred {_human(size)} of {_human(size)} (100.00%)")
        return volume

    async def import_image(self, source: Path, vmid: int, form: str, log: Log) -> str:
        """A disk from an uploaded image, which is not trusted: one that points at other files is refused."""
        source_form = "qcow2" if source.suffix.lower() == ".qcow2" else "raw"
        if not source.exists():
            raise TaskFailed(f"import failed: no such file '{source.name}'")
        details = await self.info(source, source_form)
        special = details.get("format-specific", {}).get("data", {})
        if details.get("backing-filename") or special.get("data-file"):
            raise TaskFailed("import failed: image refers to another file")
        return await self.copy_to(source, source_form, vmid, form, log)

    async def info(self, path: Path, form: str) -> dict[str, Any]:
        try:
            return json.loads(await run("qemu-img", "info", "-U", "--output=json", "-f", form, str(path), seconds=30))
        except CommandFailed as problem:
            raise TaskFailed(_last_line(problem)) from None

    def to_base(self, volume: str) -> str:
        """Makes a disk a template's disk: renamed, read-only. Its new volume id."""
        old = self.path(volume)
        new = old.with_name(old.name.replace("vm-", "base-", 1))
        old.chmod(0o400)
        old.rename(new)
        owner = old.parent.name
        return f"{self.name}:{owner}/{new.name}"

    def users_of(self, base: str) -> list[str]:
        """Overlay files that lie over a template's disk, from the images themselves."""
        name = self.path(base)
        found = []
        for file in (self.root / "images").glob("*/vm-*-disk-*.qcow2"):
            if _backing_name(file) == f"../{name.parent.name}/{name.name}":
                found.append(str(file))
        return found

    def remove(self, volume: str) -> None:
        path = self.path(volume)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir() if path.parent.parent == self.root / "images" else None

    def remove_all(self, vmid: int) -> None:
        """Every file below the machine's own folder."""
        shutil.rmtree(self.root / "images" / str(vmid), ignore_errors=True)

    async def list(self, kinds: list[str], vmid: int | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if "images" in kinds and "images" in self.content:
            for file in sorted((self.root / "images").glob("*/*-disk-*")):
                match = _DISK_FILE.fullmatch(file.name)
                if not match or (vmid is not None and int(match[2]) != vmid):
                    continue
                details = await self.info(file, match[4])
                entry = {
                    "content": "images", "format": match[4], "vmid": int(match[2]), "size": details["virtual-size"],
                    "used": details["actual-size"], "ctime": int(file.stat().st_ctime),
                    "volid": f"{self.name}:{match[2]}/{file.name}",
                }  # fmt: skip
                if backing := _backing_name(file):
                    entry["parent"] = backing
                    owner, base = backing.split("/")[-2:]
                    entry["volid"] = f"{self.name}:{owner}/{base}/{match[2]}/{file.name}"
                found.append(entry)
        for kind in ("iso", "import"):
            if kind in kinds and kind in self.content and vmid is None:
                for file in sorted((self.root / _FOLDERS[kind]).iterdir()):
                    if _UPLOAD_NAMES[kind].fullmatch(file.name) and not file.name.startswith("."):
                        stat = file.stat()
                        form = "iso" if kind == "iso" else file.suffix.lstrip(".").lower()
                        volume = f"{self.name}:{kind}/{file.name}"
                        entry = {"content": kind, "format": form, "size": stat.st_size, "ctime": int(stat.st_ctime)}
                        found.append({**entry, "volid": volume})
        return found

    def upload_path(self, kind: str, filename: str) -> Path:
        """Where an uploaded file goes. Raises ParameterErrors, ApiError 500."""
        if kind not in _UPLOAD_NAMES:
            raise ParameterErrors({"content": f"upload content type '{kind}' not allowed"})
        if kind not in self.content:
            raise failure(f"storage '{self.name}' does not support '{kind}' content")
        name = re.sub(r"[^-a-zA-Z0-9_.]", "_", filename.replace("\\", "/").rsplit("/", 1)[-1])
        if name.startswith(".") or not _UPLOAD_NAMES[kind].fullmatch(name):
            raise ParameterErrors({"filename": "wrong file extension"})
        return self.root / _FOLDERS[kind] / name

    def usage(self) -> dict[str, Any]:
        usage = shutil.disk_usage(self.root)
        return {"total": usage.total, "used": usage.used, "avail": usage.free}


class Storages:
    """All storages of the state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, name: str) -> Storage:
        """Raises ApiError 500 for an unknown one."""
        document = self._state.get("storage", name)
        if document is None:
            raise failure(f"storage '{name}' does not exist")
        return Storage(name, document)

    def of(self, volume: str) -> Storage:
        return self.get(volume.partition(":")[0])

    def names(self) -> list[str]:
        return list(self._state.kind("storage"))


def _backing_name(file: Path) -> str | None:
    """Backing file name from a qcow2 header (big-endian offset at 8, length at 16), without starting a program."""
    try:
        with file.open("rb") as image:
            head = image.read(20)
            if head[:4] != b"QFI\xfb":
                return None
            offset, length = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
            if not offset or length > 1023:
                return None
            image.seek(offset)
            return image.read(length).decode("utf-8", "replace")
    except OSError:
        return None


def _last_line(problem: CommandFailed) -> str:
    return problem.output.splitlines()[-1] if problem.output else str(problem)


def _human(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size}.0 B"


async def publish(draft: Path, target: Path) -> None:
    """Makes an uploaded file visible: durable first, then renamed over whatever was there."""

    def sync() -> None:
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)

    await asyncio.to_thread(sync)
