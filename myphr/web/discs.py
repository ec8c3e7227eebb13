""" "What is on this disc": what the page of an archive, of a disc's image or of its table of contents says.

No views: `study` asks for the words."""

import dataclasses

from myphr.errors import ContainerError, EnvelopeError, NotFound
from myphr.ingest import dicomdir
from myphr.records import discs, duplicates, summaries
from myphr.records import items as records
from myphr.records.discs import DiscNote, Program
from myphr.records.models import ArchiveTask, Item
from myphr.web.login import portal, this_login

SYSTEMS = {"windows": "Windows program", "mac": "Mac program", "linux": "Linux program", "java": "Java program"}
_LEFT_OUT = {
    "empty": "empty files", "link": "links to other places", "device": "entries that are no files",
    "leftover": "files that an operating system left behind", "folder-damaged": "folders that were damaged",
}  # fmt: skip
MISSING_SHOWN = 200


@dataclasses.dataclass(frozen=True)
class DiscWords:
    """`sentences`: in plain words, the most important first. `technical`: names and values, for the details."""

    heading: str
    sentences: list[str]
    warnings: list[str]
    technical: list[tuple[str, str]]


def of(item: Item) -> DiscWords | None:
    """Of one of the signed-in owner's items; None if there is nothing to say."""
    if item.format == "dicomdir":
        return _of_table(item)
    known = discs.of_item(portal().database, this_login().ring(), item.id)
    return None if known is None else _of_archive(*known)


def origin(item: Item) -> tuple[str, str] | None:
    """Id and name of the disc or archive that this item came from, if it is still here."""
    if item.source != "archive" or not item.source_id:
        return None
    login = this_login()
    try:
        thing = records.item_view(portal().database, login.ring(), login.account.id, item.source_id)
    except (NotFound, EnvelopeError):
        return None
    return thing.id, thing.name


# -- an archive or a disc -------------------------------------------------------------------------------
def _of_archive(task: ArchiveTask, note: DiscNote | None) -> DiscWords:
    sentences: list[str] = []
    warnings: list[str] = []
    if task.state in ("waiting", "running"):
        sentences.append("Its files are being taken out at the moment.")
    elif task.state == "refused":
        warnings.append(f"Kept as it is, but not unpacked: {task.error_reason or 'it could not be read'}.")
    if task.state != "done" or note is None:
        return DiscWords("What is in it", sentences, warnings, [])
    sentences.append(_unpacked(task))
    if task.members_damaged:
        warnings.append(f"{_count(task.members_damaged, 'file')} in it could not be read.")
    if note.listed is not None:
        (warnings if note.missing_count else sentences).append(
            _listing("The disc", note.listed, note.listed_images, note.found, "we found")
        )
    if note.is_disc:
        sentences += _viewer(note)
    if task.members_left:
        where = "disc" if note.is_image else "archive"
        sentences.append(f"{_count(task.members_left, 'program file')} stay on the {where}, which is kept whole.")
    return DiscWords("What is on this disc" if note.is_disc else "What is in it", sentences, warnings, _technical(note))


def _unpacked(task: ArchiveTask) -> str:
    new = task.members_done - task.members_duplicate - task.members_damaged
    if new == 0 and task.members_duplicate:
        return f"Nothing in it was new: you had {_count(task.members_duplicate, 'file')} of it already."
    text = f"{_count(new, 'file')} of it went into your record"
    if task.members_duplicate:
        text += f", {_count(task.members_duplicate, 'file')} you had already"
    return text + "."


def _listing(what: str, listed: int, images: int, found: int, how: str) -> str:
    noun = "image" if images == listed else "file"
    if found == listed:
        return f"{what} lists {_count(listed, noun)}, and all of them are here."
    return f"{what} lists {_count(listed, noun)}, {how} {found:,}."


def _viewer(note: DiscNote) -> list[str]:
    keeping = "It is kept with the disc, so that it can be opened later with the original software."
    program = next(iter(note.viewers), None) or note.starts
    if program is None:
        return []
    label = program.name or note.autorun.get("label") or program.path
    return [f"This disc brought its own viewer: {label}{_system(program)}. {keeping}"]


def _system(program: Program) -> str:
    return f" ({SYSTEMS[program.system]})" if program.system in SYSTEMS else ""


def _technical(note: DiscNote) -> list[tuple[str, str]]:
    found = [("Label of the disc", note.label), ("Made on", note.made_on)]
    if note.starts is not None:
        found.append(("Starts by itself", note.starts.path + _system(note.starts)))
    found += [("Viewer", f"{viewer.name}: {viewer.path}{_system(viewer)}") for viewer in note.viewers]
    found += [(f"autorun.inf: {key}", value) for key, value in note.autorun.items()]
    found += [("Listed and not found", path) for path in note.missing]
    if note.missing_count > len(note.missing):
        found.append(("Listed and not found", f"and {note.missing_count - len(note.missing):,} more"))
    found += [("Could not be read", path) for path in note.damaged]
    found += [("Left out", f"{count:,} {_LEFT_OUT.get(why, why)}") for why, count in note.left_out.items()]
    found += [("Stays on the disc", path) for path in note.programs]
    if note.programs_count > len(note.programs):
        found.append(("Stays on the disc", f"and {note.programs_count - len(note.programs):,} more"))
    return [(name, value) for name, value in found if value]


# -- a table of contents, wherever it came from ----------------------------------------------------------
def _of_table(item: Item) -> DiscWords | None:
    """What it lists against what is in the record: by the images' own numbers, so that it does not matter how they
    came."""
    login, parts = this_login(), portal()
    try:
        opened = records.open_item(parts.store, item, records.dek_of(login.ring(), item))
    except (NotFound, ContainerError, EnvelopeError):
        return None  # opening it says what is wrong
    try:
        listed = dicomdir.read(opened.read_at(0, dicomdir.DIRECTORY_BYTES_MAX))
    except ContainerError:
        return None
    finally:
        opened.close()
    if not listed:
        return None
    keys = {
        one: duplicates.identifier_key(
            parts.keys.index_key, item.account_id, duplicates.DICOM_INSTANCE, one.instance_uid
        )
        for one in listed
        if one.instance_uid
    }
    with parts.database.read() as db:
        here = duplicates.holders(db, item.account_id, duplicates.DICOM_INSTANCE, set(keys.values()))
    missing = [one for one in listed if keys.get(one) not in here]
    images = sum(one.kind == "IMAGE" for one in listed)
    sentence = _listing(
        "This table of contents of a disc", len(listed), images, len(listed) - len(missing), "in your record are"
    )
    return DiscWords(
        "What it lists", [] if missing else [sentence], [sentence] if missing else [],
        [("Listed and not here", one.path) for one in missing[:MISSING_SHOWN]],
    )  # fmt: skip


def _count(number: int, noun: str) -> str:
    return summaries.count_words(number, noun)
