"""Attributes, policies and dates by docs/formats/policy.md, a second time. Everything refused is a ValueError."""

import dataclasses
import datetime
import re
import uuid
from collections.abc import Callable, Mapping

PART = re.compile(rb"[a-z0-9._-]*")
ALIAS = re.compile(r"[A-Za-z0-9._-]{1,64}")
LEAVES_MAX, DEPTH_MAX, TEXT_MAX, NESTING_MAX = 64, 8, 16_384, 32


@dataclasses.dataclass(frozen=True)
class Attribute:
    authority: bytes  # 16
    name: str
    value: str
    epoch: int

    def encode(self) -> bytes:
        name, value = self.name.encode("ascii"), self.value.encode("ascii")
        if not (len(self.authority) == 16 and 1 <= len(name) <= 64 and len(value) <= 64 and 0 <= self.epoch < 2**32
                and PART.fullmatch(name) and PART.fullmatch(value)):
            raise ValueError("not an attribute")
        return (b"\x10" + self.authority + bytes([len(name)]) + name + bytes([len(value)]) + value
                + self.epoch.to_bytes(4, "big"))


@dataclasses.dataclass(frozen=True)
class Gate:
    needed: int
    inputs: "tuple[Policy, ...]"


Policy = Attribute | Gate


class Reader:
    """Takes bytes from the front; never past the end."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.content):
            raise ValueError("too short")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def end(self) -> None:
        if self.at != len(self.content):
            raise ValueError("bytes left over")


def read_attribute(reader: Reader) -> Attribute:
    if reader.take(1) != b"\x10":
        raise ValueError("not an attribute")
    authority, name = reader.take(16), reader.take(reader.number(1))
    attribute = Attribute(authority, name.decode("ascii"), reader.take(reader.number(1)).decode("ascii"),
                          reader.number(4))
    attribute.encode()
    return attribute


def decode(content: bytes) -> Policy:
    reader = Reader(content)
    if reader.take(1) != b"\x01":
        raise ValueError("version")

    def node(depth: int) -> Policy:
        if depth > DEPTH_MAX:
            raise ValueError("too deep")
        kind = reader.number(1)
        if kind == 1:
            return read_attribute(reader)
        if kind != 2:
            raise ValueError("neither leaf nor gate")
        needed, count = reader.number(1), reader.number(1)
        if not (2 <= count <= 64 and 1 <= needed <= count):
            raise ValueError("gate")
        return Gate(needed, tuple(node(depth + 1) for _ in range(count)))

    policy = node(1)
    reader.end()
    check_limits(policy)
    return policy


def check_limits(policy: Policy) -> None:
    if len(leaves(policy)) > LEAVES_MAX or depth(policy) > DEPTH_MAX:
        raise ValueError("too many leaves or too deep")


def encode(policy: Policy) -> bytes:
    def node(tree: Policy) -> bytes:
        if isinstance(tree, Attribute):
            return b"\x01" + tree.encode()
        return b"\x02" + bytes([tree.needed, len(tree.inputs)]) + b"".join(map(node, tree.inputs))

    return b"\x01" + node(policy)


def leaves(policy: Policy) -> list[Attribute]:
    if isinstance(policy, Attribute):
        return [policy]
    return [leaf for tree in policy.inputs for leaf in leaves(tree)]


def depth(policy: Policy) -> int:
    return 1 if isinstance(policy, Attribute) else 1 + max(depth(tree) for tree in policy.inputs)


def satisfied(policy: Policy, held: set[Attribute]) -> bool:
    if isinstance(policy, Attribute):
        return policy in held
    return sum(satisfied(tree, held) for tree in policy.inputs) >= policy.needed


# ------------------------------------------------------------------------------------------------------- text
def parse(text: str, aliases: Mapping[str, uuid.UUID], epoch_of: Callable[[bytes, str, str], int]) -> Policy:
    """The policy of a text; `epoch_of(authority, name, value)` gives the current epoch."""
    if len(text) > TEXT_MAX:
        raise ValueError("text too long")
    words = re.findall(r"[(),]|[^(), \t\r\n]+", text)
    at = 0
    nesting = 0

    def peek(ahead: int = 0) -> str | None:
        return words[at + ahead] if at + ahead < len(words) else None

    def expect(word: str) -> None:
        nonlocal at
        if peek() != word:
            raise ValueError(f"{word} expected")
        at += 1

    def chain(keyword: str, below: Callable[[], Policy]) -> Policy:
        nonlocal at
        inputs = [below()]
        while peek() == keyword:
            at += 1
            inputs.append(below())
        return inputs[0] if len(inputs) == 1 else gate(len(inputs) if keyword == "AND" else 1, inputs)

    def gate(needed: int, inputs: list[Policy]) -> Policy:
        if len(inputs) == 1 and needed == 1:
            return inputs[0]
        if not (1 <= needed <= len(inputs) <= 64):
            raise ValueError("k of n")
        return Gate(needed, tuple(inputs))

    def disjunction() -> Policy:
        return chain("OR", lambda: chain("AND", term))

    def opened(inside: Callable[[], Policy]) -> Policy:
        nonlocal nesting
        nesting += 1
        if nesting > NESTING_MAX:
            raise ValueError("nested too deeply")
        expect("(")
        tree = inside()
        expect(")")
        nesting -= 1
        return tree

    def term() -> Policy:
        nonlocal at
        word = peek()
        if word == "(":
            return opened(disjunction)
        if word is not None and re.fullmatch(r"[1-9][0-9]?", word) and int(word) <= 64 and peek(1) == "of":
            at += 2

            def several() -> Policy:
                nonlocal at
                inputs = [disjunction()]
                while peek() == ",":
                    at += 1
                    inputs.append(disjunction())
                return gate(int(word), inputs)

            return opened(several)
        at += 1
        return leaf(word)

    def leaf(word: str | None) -> Attribute:
        found = re.fullmatch(r"([a-z0-9._-]{1,64})(?::([a-z0-9._-]{1,64}))?@([A-Za-z0-9._-]{1,64})", word or "")
        if not found:
            raise ValueError("not a leaf")
        name, value, alias = found[1], found[2] or "", found[3]
        if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", alias):
            authority = uuid.UUID(alias).bytes
        elif alias in aliases:
            authority = uuid.UUID(str(aliases[alias])).bytes
        else:
            raise ValueError("unknown authority")
        return Attribute(authority, name, value, epoch_of(authority, name, value))

    policy = disjunction()
    if at != len(words):
        raise ValueError("words left over")
    check_limits(policy)
    return policy


def write(policy: Policy, alias_of: Mapping[bytes, str]) -> str:
    if isinstance(policy, Attribute):
        value = f":{policy.value}" if policy.value else ""
        return f"{policy.name}{value}@{alias_of.get(policy.authority, str(uuid.UUID(bytes=policy.authority)))}"
    texts = [write(tree, alias_of) for tree in policy.inputs]
    if policy.needed not in (1, len(texts)):
        return f"{policy.needed} of ({', '.join(texts)})"
    word = " AND " if policy.needed == len(texts) else " OR "
    return word.join(f"({text})" if isinstance(tree, Gate) else text
                     for tree, text in zip(policy.inputs, texts, strict=True))


# ------------------------------------------------------------------------------------------------------ dates
def day_number(day: datetime.date) -> int:
    number = (day - datetime.date(1900, 1, 1)).days
    if not 0 <= number < 2**16:
        raise ValueError("day")
    return number


def day_values(day: datetime.date) -> list[str]:
    """The 17 values of a record's day."""
    digits = f"{day_number(day):016b}"
    return [f"p{digits[:count]}" for count in range(17)]


def range_values(first: datetime.date, last: datetime.date) -> list[str]:
    """The fewest prefixes that cover these days exactly, by halving: a block inside the range is taken whole."""
    start, end = day_number(first), day_number(last)
    if start > end:
        raise ValueError("range")

    def cover(prefix: str) -> list[str]:
        size = 2 ** (16 - len(prefix))
        block = int(prefix or "0", 2) * size
        if block > end or block + size - 1 < start:
            return []
        if start <= block and block + size - 1 <= end:
            return [f"p{prefix}"]
        return cover(prefix + "0") + cover(prefix + "1")

    return cover("")
