"""Attributes and policies: who may open, as a tree, as bytes and as text.

Spec: docs/formats/policy.md. Knows no curve, key or person. Called by the two schemes beside it, and by `sharing` for
its linter. Whatever is wrong with bytes or text from outside is a PolicyError, never another exception.
"""

import dataclasses
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias, Union

from myphr.errors import PolicyError

VERSION = 1
LEAVES_MAX = 64
DEPTH_MAX = 8
NAME_MAX = 64
EPOCH_MAX = 2**32 - 1
POLICY_BYTES_MAX = 10_000
TEXT_MAX = 16_384
PARENTHESES_MAX = 32

_LEAF = 1
_GATE = 2
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_NAME = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)
_VALUE = re.compile(r"[a-z0-9._-]{0,64}", re.ASCII)
_ALIAS = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_LEAF_WORD = re.compile(r"([a-z0-9._-]+)(?::([a-z0-9._-]+))?@([A-Za-z0-9._-]+)", re.ASCII)
_WORD = re.compile(r"[ \t\r\n]*([A-Za-z0-9._:@-]+|[(),])", re.ASCII)
_COUNT = re.compile(r"[1-9][0-9]?", re.ASCII)


def check_uuid(text: object) -> str:
    """`text` if it is a UUID in canonical lower-case text. Raises PolicyError."""
    if not isinstance(text, str) or not _UUID.fullmatch(text):
        raise PolicyError(reason="an id in it is not of the right form")
    return text


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID in canonical text. Raises PolicyError."""
    return bytes.fromhex(check_uuid(text).replace("-", ""))


def uuid_text(data: bytes) -> str:
    """The canonical text of 16 bytes. (`uuid.UUID` does the same in four times the time, once per leaf.)"""
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclasses.dataclass(frozen=True, order=True)
class Attribute:
    """What the authority `authority` (UUID text) says: `name`, or `name:value`, in its epoch `epoch`.

    Raises PolicyError for anything outside the alphabets and sizes of the spec."""

    authority: str
    name: str
    value: str = ""
    epoch: int = 0

    def __post_init__(self) -> None:
        check_uuid(self.authority)
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PolicyError(reason="a name may have small letters, digits, dot, dash and underscore, at most 64")
        if not isinstance(self.value, str) or not _VALUE.fullmatch(self.value):
            raise PolicyError(reason="a value may have small letters, digits, dot, dash and underscore, at most 64")
        if type(self.epoch) is not int or not 0 <= self.epoch <= EPOCH_MAX:
            raise PolicyError(reason="an epoch is out of range")

    def to_bytes(self) -> bytes:
        """The canonical bytes, 23 to 151 of them."""
        name, value = self.name.encode(), self.value.encode()
        return b"".join((b"\x10", uuid_bytes(self.authority), bytes((len(name),)), name,
                         bytes((len(value),)), value, struct.pack(">I", self.epoch)))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Attribute":
        """Reads exactly one attribute. Raises PolicyError."""
        reader = _Reader(data)
        found = reader.attribute()
        reader.end()
        return found


@dataclasses.dataclass(frozen=True)
class Gate:
    """At least `k` of `children` must hold. Raises PolicyError beyond the limits of the spec."""

    k: int
    children: tuple["Policy", ...]
    leaves: int = dataclasses.field(init=False, repr=False, compare=False)
    depth: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.children, tuple) or not all(isinstance(c, Attribute | Gate) for c in self.children):
            raise PolicyError(reason="it is not made of attributes")
        n = len(self.children)
        if not 2 <= n <= LEAVES_MAX or type(self.k) is not int or not 1 <= self.k <= n:
            raise PolicyError(reason="a group needs at least two parts, and asks for one to all of them")
        object.__setattr__(self, "leaves", sum(leaf_count(child) for child in self.children))
        object.__setattr__(self, "depth", 1 + max(depth_of(child) for child in self.children))
        if self.leaves > LEAVES_MAX:
            raise PolicyError(reason=f"it has more than {LEAVES_MAX} parts")
        if self.depth > DEPTH_MAX:
            raise PolicyError(reason="its groups are nested too deeply")


Policy: TypeAlias = Union[Attribute, Gate]  # noqa: UP007 - the names are not yet known to `|`
Epochs: TypeAlias = (
    Callable[[str, str, str], int] | Mapping[tuple[str, str, str], int] | Mapping[str, int] | int
)


def leaf_count(policy: Policy) -> int:
    return policy.leaves if isinstance(policy, Gate) else 1


def depth_of(policy: Policy) -> int:
    return policy.depth if isinstance(policy, Gate) else 1


def leaves_of(policy: Policy) -> Iterator[Attribute]:
    """All leaves in the order of the canonical bytes, repeated ones too."""
    if isinstance(policy, Attribute):
        yield policy
    else:
        for child in policy.children:
            yield from leaves_of(child)


def authorities_of(policy: Policy) -> list[str]:
    """The authorities named in the policy, each once, ascending."""
    return sorted({leaf.authority for leaf in leaves_of(policy)})


# -- making policies ------------------------------------------------------------------------------
def at_least(k: int, parts: Sequence[Policy]) -> Policy:
    """At least `k` of `parts`; a single part with k = 1 is itself. Raises PolicyError."""
    if len(parts) == 1 and k == 1 and isinstance(parts[0], Attribute | Gate):
        return parts[0]
    return Gate(k, tuple(parts))


def all_of(*parts: Policy) -> Policy:
    """Every part must hold. Raises PolicyError."""
    return at_least(len(parts), parts)


def any_of(*parts: Policy) -> Policy:
    """One part suffices. Raises PolicyError."""
    return at_least(1, parts)


# -- asking policies ------------------------------------------------------------------------------
def satisfied(policy: Policy, attributes: Collection[Attribute]) -> bool:
    """Whether someone with these attributes may open. Plain logic; the cryptography does not ask this function."""
    if isinstance(policy, Attribute):
        return policy in attributes
    return sum(satisfied(child, attributes) for child in policy.children) >= policy.k


def authorities_sufficient(policy: Policy) -> list[str]:
    """The authorities, ascending, each of which alone could let anyone in: its own attributes satisfy the policy."""
    leaves = set(leaves_of(policy))
    return [authority for authority in authorities_of(policy)
            if satisfied(policy, {leaf for leaf in leaves if leaf.authority == authority})]


# -- bytes ----------------------------------------------------------------------------------------
def canonical(policy: Policy) -> bytes:
    """The one byte string of this policy, at most POLICY_BYTES_MAX bytes. Raises PolicyError for no policy."""
    if not isinstance(policy, Attribute | Gate):
        raise PolicyError(reason="it is not made of attributes")
    out = bytearray((VERSION,))
    _write(policy, out)
    return bytes(out)


def _write(policy: Policy, out: bytearray) -> None:
    if isinstance(policy, Attribute):
        out.append(_LEAF)
        out += policy.to_bytes()
        return
    out += bytes((_GATE, policy.k, len(policy.children)))
    for child in policy.children:
        _write(child, out)


def from_canonical(data: bytes) -> Policy:
    """The policy with exactly these canonical bytes. Raises PolicyError for all other bytes."""
    if len(data) > POLICY_BYTES_MAX:
        raise PolicyError(reason="it is too long")
    reader = _Reader(data)
    if reader.byte() != VERSION:
        raise PolicyError(reason="its version is not known")
    found = reader.node(DEPTH_MAX)
    reader.end()
    return found


def attributes_from_bytes(data: bytes, count: int) -> tuple[Attribute, ...]:
    """Exactly `count` attributes one behind the other. Raises PolicyError."""
    reader = _Reader(data)
    found = tuple(reader.attribute() for _ in range(count))
    reader.end()
    return found


class _Reader:
    """Reads canonical bytes front to back; every lack is a PolicyError."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._at = 0
        self._leaves = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise PolicyError(reason="it ends too early")
        self._at += size
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def end(self) -> None:
        if self._at != len(self._data):
            raise PolicyError(reason="something follows its end")

    def attribute(self) -> Attribute:
        if self.byte() != 16:
            raise PolicyError(reason="an id in it is not of the right form")
        authority = uuid_text(self.take(16))
        # latin-1 never fails; what is not in the alphabet is refused by Attribute itself.
        name = self.take(self.byte()).decode("latin-1")
        value = self.take(self.byte()).decode("latin-1")
        return Attribute(authority, name, value, struct.unpack(">I", self.take(4))[0])

    def node(self, depth_left: int) -> Policy:
        if depth_left == 0:
            raise PolicyError(reason="its groups are nested too deeply")
        kind = self.byte()
        if kind == _LEAF:
            self._leaves += 1
            if self._leaves > LEAVES_MAX:
                raise PolicyError(reason=f"it has more than {LEAVES_MAX} parts")
            return self.attribute()
        if kind != _GATE:
            raise PolicyError(reason="it has a part of unknown kind")
        k, n = self.byte(), self.byte()
        if not 2 <= n <= LEAVES_MAX or not 1 <= k <= n:
            raise PolicyError(reason="a group needs at least two parts, and asks for one to all of them")
        return Gate(k, tuple(self.node(depth_left - 1) for _ in range(n)))


# -- text -----------------------------------------------------------------------------------------
def parse(text: str, aliases: Mapping[str, str], epochs: Epochs) -> Policy:
    """The policy a person wrote, in the language of the spec.

    `aliases`: short name of an authority -> UUID text. `epochs`: the current epoch, as one number, by authority, by
    (authority, name, value), or as a function of these three. Raises PolicyError, with the place in the text."""
    if not isinstance(text, str) or len(text) > TEXT_MAX:
        raise PolicyError(reason="it is too long")
    words: list[tuple[str, int]] = []
    at = 0
    end = len(text.rstrip(" \t\r\n"))
    while at < end:
        match = _WORD.match(text, at, end)
        if match is None:
            raise PolicyError(reason=f"there is a sign it cannot have near character {at + 1}")
        words.append((match[1], match.start(1) + 1))
        at = match.end()
    parser = _Parser(words, aliases, epochs)
    found = parser.policy(0)
    parser.end()
    return found


class _Parser:
    """Recursive descent; the depth of recursion is bounded by PARENTHESES_MAX."""

    def __init__(self, words: list[tuple[str, int]], aliases: Mapping[str, str], epochs: Epochs) -> None:
        self._words = words
        self._at = 0
        self._leaves = 0
        self._aliases = aliases
        self._epochs = epochs

    def _next(self) -> str:
        return self._words[self._at][0] if self._at < len(self._words) else ""

    def _fail(self, what: str) -> PolicyError:
        if self._at < len(self._words):
            return PolicyError(reason=f"{what} near character {self._words[self._at][1]}")
        return PolicyError(reason=f"{what} at its end")

    def _expect(self, word: str) -> None:
        if self._next() != word:
            raise self._fail(f"“{word}” is missing")
        self._at += 1

    def end(self) -> None:
        if self._at < len(self._words):
            raise self._fail("something is left over")

    def policy(self, parentheses: int) -> Policy:
        parts = [self._conjunction(parentheses)]
        while self._next() == "OR":
            self._at += 1
            parts.append(self._conjunction(parentheses))
        return any_of(*parts)

    def _conjunction(self, parentheses: int) -> Policy:
        parts = [self._term(parentheses)]
        while self._next() == "AND":
            self._at += 1
            parts.append(self._term(parentheses))
        return all_of(*parts)

    def _term(self, parentheses: int) -> Policy:
        word = self._next()
        if parentheses > PARENTHESES_MAX:
            raise self._fail("it has too many parentheses")
        if word == "(":
            self._at += 1
            inner = self.policy(parentheses + 1)
            self._expect(")")
            return inner
        if _COUNT.fullmatch(word) and self._at + 1 < len(self._words) and self._words[self._at + 1][0] == "of":
            self._at += 2
            self._expect("(")
            parts = [self.policy(parentheses + 1)]
            while self._next() == ",":
                self._at += 1
                parts.append(self.policy(parentheses + 1))
            self._expect(")")
            return at_least(int(word), parts)
        return self._leaf(word)

    def _leaf(self, word: str) -> Attribute:
        match = _LEAF_WORD.fullmatch(word)
        if match is None:
            raise self._fail("“name:value@authority” is missing")
        self._leaves += 1
        if self._leaves > LEAVES_MAX:
            raise PolicyError(reason=f"it has more than {LEAVES_MAX} parts")
        name, value, alias = match[1], match[2] or "", match[3]
        authority = alias if _UUID.fullmatch(alias) else self._aliases.get(alias)
        if authority is None or len(alias) > NAME_MAX:
            raise self._fail("an authority is not known")
        attribute = Attribute(check_uuid(authority), name, value)
        self._at += 1
        return dataclasses.replace(attribute, epoch=_epoch(self._epochs, attribute))


def _epoch(epochs: Epochs, attribute: Attribute) -> int:
    parts = (attribute.authority, attribute.name, attribute.value)
    found: object
    if isinstance(epochs, int):
        found = epochs
    elif isinstance(epochs, Mapping):
        by_any: Mapping[object, int] = epochs  # type: ignore[assignment]  # keys of either kind
        found = by_any.get(parts, by_any.get(attribute.authority))
    else:
        found = epochs(*parts)
    if type(found) is not int:
        raise PolicyError(reason="the epoch of an attribute is not known")
    return found


def to_text(policy: Policy, aliases: Mapping[str, str]) -> str:
    """The policy in words, without epochs. An authority without alias is its UUID. Raises PolicyError if an alias has
    signs that could not be read back."""
    names: dict[str, str] = {}
    for alias in sorted(aliases):
        if not _ALIAS.fullmatch(alias) or _UUID.fullmatch(alias):
            raise PolicyError(reason="the short name of an authority has signs it cannot have")
        names.setdefault(aliases[alias], alias)
    return _text(policy, names)


def _text(policy: Policy, names: Mapping[str, str]) -> str:
    if isinstance(policy, Attribute):
        value = f":{policy.value}" if policy.value else ""
        return f"{policy.name}{value}@{names.get(policy.authority, policy.authority)}"
    n = len(policy.children)
    if policy.k not in (1, n):
        return f"{policy.k} of ({', '.join(_text(child, names) for child in policy.children)})"
    word = " AND " if policy.k == n else " OR "
    return word.join(f"({_text(child, names)})" if isinstance(child, Gate) else _text(child, names)
                     for child in policy.children)
