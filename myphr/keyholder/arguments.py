"""What the arguments of a call may be: one checker each, strict, bounded. Anything else is a KeyholderProtocolError."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from myphr.crypto import certificates, proofs
from myphr.crypto.abe.policy import EPOCH_MAX, Attribute
from myphr.errors import CertificateRefused, KeyholderProtocolError, PolicyError

Checker = Callable[[Any], Any]
OFFICERS_MAX = 50
WANTED_MAX = 256
PEOPLE_MAX = 2000
HOLDERS_MAX = 64
WINDOW_MINUTES_MAX = 24 * 60
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}|\[[0-9a-f:]{2,39}\]:[0-9]{1,5}", re.ASCII)


class Optional:
    """Marks an argument that may be left out or null."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker


Schema = Mapping[str, Checker | Optional]


def check(schema: Schema, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments as values. Raises KeyholderProtocolError for one that is missing, unknown or not right."""
    if unknown := set(given) - set(schema):
        raise KeyholderProtocolError(f"unknown argument {sorted(unknown)[0][:40]!r}")
    found = {}
    for name, checker in schema.items():
        value = given.get(name)
        if isinstance(checker, Optional):
            found[name] = None if value is None else _one(name, checker.checker, value)
        elif name not in given:
            raise KeyholderProtocolError(f"argument {name} is missing")
        else:
            found[name] = _one(name, checker, value)
    return found


def _one(name: str, checker: Checker, value: Any) -> Any:
    try:
        return checker(value)
    except (CertificateRefused, KeyholderProtocolError, PolicyError, ValueError, TypeError):
        raise KeyholderProtocolError(f"argument {name} is not of the right form") from None


def gid(value: Any) -> str:
    return certificates.check_gid(value)


def uuid(value: Any) -> str:
    return _match(_UUID, value)


def serial(value: Any) -> str:
    return _match(_SERIAL, value)


def address(value: Any) -> str:
    return _match(_ADDRESS, value)


def _match(form: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError
    return value


def epoch(value: Any) -> int:
    return number(value, EPOCH_MAX)


def seconds(value: Any) -> int:
    return number(value, 2**40)


def number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError
    return value


def blob(most: int, least: int = 1) -> Checker:
    """base64 of `least` to `most` bytes."""

    def checked(value: Any) -> bytes:
        data = proofs.from_base64(value)
        if not least <= len(data) <= most:
            raise ValueError
        return data

    return checked


def many(checker: Checker, most: int, *, least: int = 0) -> Checker:
    """A list of `least` to `most` different things."""

    def checked(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError
        found = tuple(checker(one) for one in value)
        if len(set(found)) != len(found):
            raise ValueError
        return found

    return checked


_SOME_AUTHORITY: Final = "00000000-0000-4000-8000-000000000000"


def name(value: Any) -> str:
    return Attribute(_SOME_AUTHORITY, value).name


def value(given: Any) -> str:
    return Attribute(_SOME_AUTHORITY, "x", given).value


def held(given: Any) -> tuple[str, str, str]:
    """[authority, name, value]"""
    authority, its_name, its_value = _list(given, 3)
    return gid(authority), name(its_name), value(its_value)


def wanted(given: Any) -> tuple[str, str, int]:
    """[name, value, epoch]"""
    its_name, its_value, its_epoch = _list(given, 3)
    return name(its_name), value(its_value), epoch(its_epoch)


def _list(given: Any, size: int) -> list[Any]:
    if not isinstance(given, list) or len(given) != size:
        raise ValueError
    return given


def rule(given: Any) -> dict[str, Any]:
    """{"people": [gid ...], "holders": [[[authority, name, value] ...] ...], "window_minutes": n}, in one order."""
    if not isinstance(given, dict) or set(given) != {"people", "holders", "window_minutes"}:
        raise ValueError
    every = many(held, HOLDERS_MAX, least=1)
    return {
        "people": sorted(many(gid, PEOPLE_MAX)(given["people"])),
        "holders": sorted(sorted(list(one) for one in part) for part in many(every, HOLDERS_MAX)(given["holders"])),
        "window_minutes": number(given["window_minutes"], WINDOW_MINUTES_MAX),
    }


def block(given: Any) -> tuple[str, str]:
    """["gid", gid] | ["attribute", authority, name, value] | ["authority", gid] | ["all"]: (kind, target as text)."""
    if not isinstance(given, list) or not given:
        raise ValueError
    kind, rest = given[0], given[1:]
    if kind == "gid" and len(rest) == 1:
        return kind, gid(rest[0])
    if kind == "authority" and len(rest) == 1:
        return kind, gid(rest[0])
    if kind == "attribute":
        return kind, held_text(*held(rest))
    if kind == "all" and not rest:
        return kind, ""
    raise ValueError


def held_text(authority: str, its_name: str, its_value: str) -> str:
    """One text for an attribute without epoch. None of its parts can hold a colon or an @."""
    return f"{its_name}:{its_value}@{authority}"
