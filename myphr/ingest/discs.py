"""The time capsule of a disc: what a CD brought beside its images, so that it can be opened later as it was meant.

Looks over the members of an archive before they are unpacked: autorun.inf, the viewer on the disc, the DICOMDIR; and
decides which files are that viewer's own. Those stay in the disc's image, which is kept whole; 118 of them in a list of
documents would hide the two letters that matter. Whatever looks medical is never one of them. Pure but for the bytes
that it is handed. Called by `archives`.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from myphr.ingest import dicom, dicomdir, identify, known_viewers
from myphr.ingest.packing import Contents, Member
from myphr.records import formats
from myphr.records.discs import PATHS_MAX, DiscNote, Program
from myphr.records.filing import PATH_CHARACTERS_MAX, shown_name

HEAD_BYTES = 64 * 1024
AUTORUN_BYTES_MAX = 64 * 1024
DIRECTORIES_MAX = 8  # DICOMDIRs of one archive that are read
VIEWERS_MAX = 8

_PROGRAMS = frozenset(
    {
        "exe", "dll", "ocx", "com", "bat", "cmd", "msi", "cab", "sys", "drv", "scr", "cpl", "pyd", "jar", "class", "so",
        "dylib", "lnk", "tlb", "ax", "manifest",
    }
)  # fmt: skip
_MEDICAL_TYPES = frozenset({"imaging", "ecg", "laboratory", "genome"})
_LETTERS = frozenset({"pdf", "docx", "doc", "odt", "rtf", "xlsx", "xls", "ods"})
_MANUAL = re.compile(r"(^|/)(HELP|DOCS?|MANUALS?|LICEN[CS]ES?|LEGAL)/|README|LICEN[CS]E|MANUAL|HELP|GUIDE|EULA")
_AUTORUN_KEYS = ("open", "shellexecute", "icon", "label", "action")
# What the first bytes of a program say.
_SYSTEMS = (
    (b"MZ", "windows"), (b"\x7fELF", "linux"), (b"\xcf\xfa\xed\xfe", "mac"), (b"\xce\xfa\xed\xfe", "mac"),
)  # fmt: skip
_BOTH_JAVA_AND_MAC = b"\xca\xfe\xba\xbe"  # a Java class, or a Mac program for several processors

Head = Callable[[Member, int], bytes]  # the member's first bytes; empty if it is damaged


@dataclasses.dataclass(frozen=True)
class Survey:
    """`stays`: places in `Contents.members` of what stays on the disc."""

    note: DiscNote
    stays: frozenset[int]


def survey(contents: Contents, read: Head) -> Survey:
    """What is known of the disc before it is unpacked. Reads the head of a file only where a program is near."""
    members = contents.members
    tables = [member for member in members if _name(member.path) == "DICOMDIR"]
    autorun_file = next((member for member in members if _is_top(member.path, "AUTORUN.INF")), None)
    is_disc = contents.is_image or autorun_file is not None or any(_is_top(t.path, "DICOMDIR") for t in tables)
    autorun = _autorun(read(autorun_file, AUTORUN_BYTES_MAX)) if autorun_file is not None else {}
    systems: collections.Counter[str] = collections.Counter()
    stays = _stays(members, read, systems, autorun_file, autorun) if is_disc else frozenset()
    programs = [_shown(members[place].path) for place in sorted(stays)]
    listing = _compare(tables[:DIRECTORIES_MAX], members, read)
    return Survey(
        DiscNote(
            is_image=contents.is_image,
            is_disc=is_disc,
            label=shown_name(contents.label),
            made_on=contents.made_on,
            autorun=autorun,
            starts=_starts(autorun, autorun_file, members, read),
            viewers=tuple(_viewers([members[place] for place in sorted(stays)], read)),
            systems=tuple(name for name, _ in systems.most_common()),
            programs_count=len(stays),
            programs=tuple(programs[:PATHS_MAX]),
            left_out=dict(contents.left_out),
            listed=listing.listed,
            listed_images=listing.images,
            found=listing.found,
            missing=listing.missing,
        ),
        stays,
    )


# -- autorun.inf --------------------------------------------------------------------------------------
def _autorun(raw: bytes) -> dict[str, str]:
    """The lines of its [autorun] sections that say what the disc is."""
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252", "replace")
    found: dict[str, str] = {}
    inside = False
    for line in text.splitlines()[:500]:
        line = line.strip()
        if line.startswith("["):
            inside = line.lower().startswith("[autorun")
        elif inside and "=" in line and not line.startswith(";"):
            key, _, value = line.partition("=")
            key = key.strip().lower()
            if key in _AUTORUN_KEYS and key not in found:
                found[key] = shown_name(value.strip().strip('"'))
    return found


def _starts(
    autorun: dict[str, str], autorun_file: Member | None, members: Sequence[Member], read: Head
) -> Program | None:
    command = autorun.get("open") or autorun.get("shellexecute")
    if not command or autorun_file is None:
        return None
    folder = autorun_file.path.rpartition("/")[0]
    by_path = {member.path.upper(): member for member in members}
    wanted = command.replace("\\", "/").lstrip("./").upper()
    # Arguments follow without a sign where the program's name ends: the longest name that is there.
    words = wanted.split(" ")
    for count in range(len(words), 0, -1):
        path = " ".join(words[:count]).strip('"')
        for name in (path, f"{path}.EXE"):
            member = by_path.get(f"{folder}/{name}".lstrip("/").upper())
            if member is not None:
                viewer = known_viewers.name_of(member.path) or ""
                return Program(viewer, _shown(member.path), _system(member.path, read(member, 8)))
    return Program("", _shown(words[0]), "")


# -- programs -----------------------------------------------------------------------------------------
def _stays(
    members: Sequence[Member], read: Head, systems: collections.Counter[str], autorun_file: Member | None,
    autorun: dict[str, str],
) -> frozenset[int]:  # fmt: skip
    """The programs themselves, and the folders that hold a program and nothing medical."""
    suspects = [place for place, member in enumerate(members) if _suffix(member.path) in _PROGRAMS]
    near = {folder for place in suspects for folder in _folders(members[place].path)}
    medical_folders: set[str] = set()
    medical: set[int] = set()
    letters: set[int] = set()
    suspected = set(suspects)
    for place, member in enumerate(members):
        folders = list(_folders(member.path))
        if place not in suspected and not near.intersection(folders):
            continue
        head = read(member, HEAD_BYTES)
        format_code = identify.identify(head).format
        if _is_medical(format_code):
            medical.add(place)
            medical_folders.update(folders)
        elif format_code in _LETTERS and not _MANUAL.search(member.path.upper()):
            letters.add(place)
        elif place in suspected and (system := _system(member.path, head)):
            systems[system] += 1
    pure = near - medical_folders
    # A recorder's own program beside data of a kind that we do not know: then what is no program may be the data.
    if suspects and not medical and not any(_is_medical_file(member, read) for member in members):
        pure = set()
    own = {_beside(autorun_file, value) for value in (autorun.get("icon", ""),)} if autorun_file else set()
    return frozenset(
        place
        for place, member in enumerate(members)
        if place not in medical and place not in letters
        and (
            place in suspected or member is autorun_file or member.path.upper() in own
            or not pure.isdisjoint(_folders(member.path))
        )
    )  # fmt: skip


def _is_medical(format_code: str) -> bool:
    one = formats.of(format_code)
    return one.type in _MEDICAL_TYPES or one.counted == ("health record", "health records")


def _is_medical_file(member: Member, read: Head) -> bool:
    return _suffix(member.path) not in _PROGRAMS and _is_medical(identify.identify(read(member, HEAD_BYTES)).format)


def _viewers(programs: Sequence[Member], read: Head) -> Iterator[Program]:
    """Known viewers among the disc's programs, each with the file that tells most: a program before its folder."""
    seen: dict[str, Member] = {}
    for member in programs:
        name = known_viewers.name_of(member.path)
        if name is None:
            continue
        if name not in seen or (_suffix(member.path) == "exe" and _suffix(seen[name].path) != "exe"):
            seen[name] = member
    for name, member in list(seen.items())[:VIEWERS_MAX]:
        yield Program(name, _shown(member.path), _system(member.path, read(member, 8)))


def _system(path: str, head: bytes) -> str:
    """What a program runs on, by its first bytes."""
    if _suffix(path) == "jar" and head[:2] == b"PK":
        return "java"
    if head[:4] == _BOTH_JAVA_AND_MAC:
        return "java" if _suffix(path) == "class" else "mac"
    return next((system for magic, system in _SYSTEMS if head.startswith(magic)), "")


# -- DICOMDIR ------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Listing:
    listed: int | None = None
    images: int = 0
    found: int = 0
    missing: tuple[str, ...] = ()


def _compare(tables: Sequence[Member], members: Sequence[Member], read: Head) -> _Listing:
    """What the tables of contents list against what is there. Their names are compared, never opened."""
    if not tables:
        return _Listing()
    there = {_plain(member.path) for member in members}
    wanted: dict[str, str] = {}
    for table in tables:
        folder = table.path.rpartition("/")[0]
        for one in dicomdir.read(read(table, dicomdir.DIRECTORY_BYTES_MAX)):
            wanted.setdefault(_plain(f"{folder}/{one.path}" if folder else one.path), one.kind)
    missing = [path for path in wanted if path not in there]
    return _Listing(
        len(wanted), sum(kind == "IMAGE" for kind in wanted.values()), len(wanted) - len(missing),
        tuple(_shown(path) for path in missing[:PATHS_MAX]),
    )  # fmt: skip


def _plain(path: str) -> str:
    """A path as a DICOMDIR would write it: upper case, without version numbers and trailing dots."""
    return "/".join(part.split(";")[0].rstrip(".") if part.strip(".") else part for part in path.upper().split("/"))


# -- paths ---------------------------------------------------------------------------------------------
def _name(path: str) -> str:
    return _plain(path).rpartition("/")[2]


def _is_top(path: str, name: str) -> bool:
    """At the top of the disc, or in the one folder that somebody packed it in."""
    return _name(path) == name and path.count("/") <= 1


def _suffix(path: str) -> str:
    return _name(path).rpartition(".")[2].lower() if "." in _name(path) else ""


def _folders(path: str) -> Iterator[str]:
    """All folders around a file, without the top."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _beside(autorun_file: Member, value: str) -> str:
    """The path that a line of autorun.inf means, in upper case."""
    folder = autorun_file.path.rpartition("/")[0]
    return f"{folder}/{value.split(',')[0].replace(chr(92), '/')}".lstrip("/").upper()


def _shown(path: str) -> str:
    return dicom.clean(shown_name(path, PATH_CHARACTERS_MAX)) if len(path) <= 256 else shown_name(path, 256)
