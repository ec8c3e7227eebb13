"""The catalogue: which viewers there are, what they open, and how the claim asks for them. One TOML file per viewer
beside this module, checked when loaded. Called by the web pages, `machines` (for the claim) and `suggest`.
"""

import dataclasses
import functools
import re
import tomllib
from pathlib import Path
from types import MappingProxyType
from typing import Any

from myphr.errors import ConfigurationError
from myphr.viewers.contents import FAMILIES, family_of

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A program in a template that opens certain formats."""

    name: str  # the file's name; stored with the VM session, so never reused for another program
    title: str
    description: str
    opens: str  # "shows these ...": the second half of a suggestion's reason
    template: str
    formats: frozenset[str]  # codes of myphr.ingest.identify
    modalities: frozenset[str]  # of DICOM (PS3.3 C.7.3.1.1.1); "*": all
    command: tuple[str, ...]  # words for the guest: see docs/formats/claim.md
    touch: bool  # made for a finger
    prewarmed: bool  # kept running before the claim
    rank: int  # among viewers that open the same, the higher comes first
    fallback: bool = False  # offered when nothing fits
    internal: bool = False  # never suggested beside others
    # Sorts of DICOM objects it is made for (viewers.contents.FAMILIES); unless said, those of its modalities.
    families: frozenset[str] = frozenset({"image"})
    partly: frozenset[str] = frozenset()  # sorts of which it shows the pictures alone
    cannot: frozenset[str] = frozenset()  # transfer syntaxes (PS3.6, A) that it cannot read
    items_max: int = 0  # how much fits in the memory of its machine; 0: no limit known
    bytes_max: int = 0
    file_bytes_max: int = 0


_KINDS: dict[str, type] = {
    "title": str,
    "description": str,
    "opens": str,
    "template": str,
    "formats": list,
    "modalities": list,
    "command": list,
    "touch": bool,
    "prewarmed": bool,
    "rank": int,
    "fallback": bool,
    "internal": bool,
    "families": list,
    "partly": list,
    "cannot": list,
    "items_max": int,
    "bytes_max": int,
    "file_bytes_max": int,
}
_SETS = ("formats", "modalities", "families", "partly", "cannot")
_OPTIONAL = {"fallback", "internal", "families", "partly", "cannot", "items_max", "bytes_max", "file_bytes_max"}


def read(path: Path) -> Viewer:
    """One viewer. Raises ConfigurationError with file and key when something is missing, unknown or of a wrong kind."""
    try:
        text: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path.name}: {error}") from None
    for key, kind in _KINDS.items():
        if key not in text:
            if key in _OPTIONAL:
                continue
            raise ConfigurationError(f"{path.name}: {key} is missing")
        if not isinstance(text[key], kind) or (kind is int and isinstance(text[key], bool)):
            raise ConfigurationError(f"{path.name}: {key} must be {kind.__name__}")
    unknown = set(text) - set(_KINDS)
    if unknown:
        raise ConfigurationError(f"{path.name}: unknown {', '.join(sorted(unknown))}")
    words = [word for key in (*_SETS, "command") for word in text.get(key, ())]
    if not all(isinstance(word, str) for word in words) or not text["command"]:
        raise ConfigurationError(f"{path.name}: {', '.join(_SETS)} and command are lists of words")
    if strange := {*text.get("families", ()), *text.get("partly", ())} - set(FAMILIES):
        raise ConfigurationError(f"{path.name}: unknown family {', '.join(sorted(strange))}")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", path.stem):
        raise ConfigurationError(f"{path.name}: a viewer's name is lower-case letters, digits and dashes")
    if "families" not in text and (named := set(text["modalities"]) - {"*"}):
        text["families"] = sorted({family_of("", modality) for modality in named})
    return Viewer(
        name=path.stem,
        **{
            **text,
            **{key: frozenset(text[key]) for key in _SETS if key in text},
            "command": tuple(text["command"]),
        },
    )


@functools.cache
def load(folder: Path = FOLDER) -> MappingProxyType[str, Viewer]:
    """All viewers by name. Read once per process: a catalogue changes with a release, not while running."""
    viewers = {viewer.name: viewer for viewer in (read(path) for path in sorted(folder.glob("*.toml")))}
    if not viewers:
        raise ConfigurationError("the catalogue of viewers is empty")
    if not any(viewer.fallback for viewer in viewers.values()) and not all(v.internal for v in viewers.values()):
        raise ConfigurationError("the catalogue needs a viewer to fall back on")
    return MappingProxyType(viewers)
