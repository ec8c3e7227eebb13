"""Kinds of files as attributes and policies: what a delegation lets through, and the label hashes of FABEO-KP. No I/O.

Each label is hashed with the owner's label key, for one compartment and one epoch: neither the database nor the holder
of a key reads in a header what it labels. Spec: docs/formats/compartment.md, "Labels". Called by `delegations`.
"""

import dataclasses
import datetime as dt
import hmac
import uuid
from collections.abc import Iterable
from typing import Any

from myphr.crypto.abe import dates
from myphr.crypto.abe.policy import Attribute, Policy, all_of, any_of
from myphr.errors import FormRefused
from myphr.records import labels as record_labels
from myphr.records.labels import TYPES, Labels
from myphr.records.summaries import date_words, modality_words

LABEL = "label"
MODALITIES_MAX = 16  # with 8 types and a range of 30 prefixes this stays below the 64 leaves of a policy
_NORMAL, _SENSITIVE = "normal", "sensitive"


@dataclasses.dataclass(frozen=True)
class Filter:
    """What one person may open. No `types`: every type. `modalities` narrow imaging alone. Days included; None is open.
    Raises FormRefused."""

    types: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    first: dt.date | None = None
    last: dt.date | None = None
    also_sensitive: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", tuple(sorted(set(self.types) & set(TYPES))))
        object.__setattr__(self, "modalities", tuple(sorted(set(self.modalities)))[:MODALITIES_MAX])
        if self.types == tuple(sorted(TYPES)):
            object.__setattr__(self, "types", ())
        if self.first and self.last and self.first > self.last:
            raise FormRefused("days", reason="the first day is after the last")

    def matches(self, labels: Labels) -> bool:
        if self.types and labels.type not in self.types:
            return False
        if self.modalities and labels.type == "imaging" and labels.modality not in self.modalities:
            return False
        if labels.sensitive and not self.also_sensitive:
            return False
        return (self.first is None or self.first <= labels.day) and (self.last is None or labels.day <= self.last)

    def words(self) -> str:
        """ "Lab results from 2024"; sensitive files are not mentioned."""
        types = [self._type_words(one) for one in TYPES if one in self.types] or ["Everything"]
        text = types[0] if len(types) == 1 else f"{', '.join(types[:-1])} and {types[-1]}"
        if not self.types and self.modalities:
            text = f"Everything, of scans only {_joined(self.modalities)}"
        return f"{text[:1].upper()}{text[1:]}{self._days()}"

    def _type_words(self, type: str) -> str:
        if type == "imaging" and self.modalities:
            return _joined(self.modalities)
        return TYPES[type][1]

    def _days(self) -> str:
        first, last = self.first, self.last
        if first and last:
            if first == last:
                return f" of {date_words(first)}"
            whole = (first.month, first.day, last.month, last.day) == (1, 1, 12, 31)
            if whole:
                return f" from {first.year}" if first.year == last.year else f" from {first.year} to {last.year}"
            return f" from {date_words(first)} to {date_words(last)}"
        if first:
            return f" since {date_words(first)}"
        return f" up to {date_words(last)}" if last else ""

    def to_json(self) -> dict[str, Any]:
        first, last = (day.isoformat() if day else None for day in (self.first, self.last))
        return {"types": list(self.types), "modalities": list(self.modalities), "first": first, "last": last,
                "also_sensitive": self.also_sensitive}  # fmt: skip

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Filter":
        first, last = (dt.date.fromisoformat(kept[key]) if kept[key] else None for key in ("first", "last"))
        return cls(tuple(kept["types"]), tuple(kept["modalities"]), first, last, bool(kept["also_sensitive"]))


def _joined(modalities: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(f"{modality_words(code)}s" for code in modalities))


@dataclasses.dataclass(frozen=True)
class Hasher:
    """The labels of one owner in one compartment and epoch. `key`: the owner's label key, 32 bytes."""

    key: bytes = dataclasses.field(repr=False)
    owner_gid: str
    compartment_id: str
    epoch: int

    def attributes(self, labels: Labels) -> list[Attribute]:
        """The 20 attributes that a header carries."""
        plain = [("type", labels.type), ("modality", labels.modality), ("sensitivity", _sensitivity(labels.sensitive))]
        plain += [(one.name, one.value) for one in dates.date_attributes(labels.day, authority=self.owner_gid)]
        return [self._hashed(*one) for one in plain]

    def policy(self, wanted: Filter) -> Policy:
        """Holds for exactly the labels that the filter matches; at most 56 leaves."""
        parts: list[Policy] = []
        if wanted.types or wanted.modalities:
            imaging = self._hashed("type", "imaging")
            if wanted.modalities:
                some = any_of(*(self._hashed("modality", code) for code in wanted.modalities))
                kinds: list[Policy] = [all_of(imaging, some)] if not wanted.types or "imaging" in wanted.types else []
            else:
                kinds = [imaging] if "imaging" in wanted.types else []
            others = wanted.types or tuple(TYPES)
            kinds += [self._hashed("type", one) for one in others if one != "imaging"]
            parts.append(any_of(*kinds))
        if wanted.first or wanted.last or not parts:
            span = dates.date_range(wanted.first or dates.FIRST_DAY, wanted.last or dates.LAST_DAY,
                                    authority=self.owner_gid)  # fmt: skip
            leaves = [span] if isinstance(span, Attribute) else span.children
            parts.append(any_of(*(self._hashed(one.name, one.value) for one in leaves)))  # type: ignore[union-attr]
        if not wanted.also_sensitive:
            parts.append(self._hashed("sensitivity", _NORMAL))
        return all_of(*parts)

    def _hashed(self, name: str, value: str) -> Attribute:
        text = f"myphr/label/1|{self.compartment_id}|{self.epoch}|{name}:{value}".encode()
        return Attribute(self.owner_gid, LABEL, hmac.digest(self.key, text, "sha256").hex()[:32], self.epoch)


def _sensitivity(sensitive: bool) -> str:
    return _SENSITIVE if sensitive else _NORMAL


def class_id(key: bytes, compartment_id: str, labels: Labels) -> str:
    """The id of the class of these labels: two browsers at once make the same, and nobody else can tell which it is."""
    text = "|".join(str(part) for part in record_labels.to_json(labels).values())
    return _id(key, f"myphr/label-class/1|{compartment_id}|{text}")


def vault_id(key: bytes, compartment_id: str, epoch: int) -> str:
    """The vault's compartment of one epoch. Of its own in every epoch: somebody who may open one kind less is shut out
    of the old ones at once, and comes back with the new one."""
    return _id(key, f"myphr/label-vault/1|{compartment_id}|{epoch}")


def _id(key: bytes, text: str) -> str:
    return str(uuid.UUID(bytes=hmac.digest(key, text.encode(), "sha256")[:16], version=4))
