"""The DICOM upper layer as an acceptor of objects needs it: PS3.8, 9.3 (PDUs), PS3.7, 6.3.1 and 9.3 (commands).

Bytes in, values out, and the other way round: no socket, clock, thread or drop-off in it. Every length is checked
before it is believed. Called by `receiver.association`, and by `asking` for what both sides share. Why our own:
docs/decisions/0215-own-upper-layer.md.
"""

import dataclasses
import struct
from collections.abc import Iterator, Mapping

from pydicom.uid import UID_dictionary

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
HEADER_BYTES = 6
VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
CONTEXTS_MAX = 128
UID_CHARACTERS_MAX = 64
C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030
NO_DATA_SET = 0x0101
# (result, source, reason): PS3.8 table 9-21
CALLED_AE_TITLE_NOT_RECOGNISED = (1, 1, 7)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
TEMPORARY_CONGESTION = (2, 3, 1)
NO_REASON_GIVEN = (1, 1, 1)
_ACCEPTED, _ABSTRACT_SYNTAX_NOT_SUPPORTED = 0, 3


class Malformed(Exception):
    """Bytes that are not what PS3.8 describes; the association cannot go on."""


@dataclasses.dataclass(frozen=True)
class Context:
    """One presentation context as proposed: what kind of object, in which encodings."""

    number: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Request:
    """An A-ASSOCIATE-RQ. `roles`: SCP/SCU roles that the requestor proposed, by SOP class, as sent."""

    called: str
    calling: bytes = dataclasses.field(repr=False)
    contexts: tuple[Context, ...]
    pdu_bytes_max: int  # 0: any
    roles: Mapping[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command set. UIDs are empty where there are none."""

    field: int
    message_id: int
    sop_class: bytes
    sop_instance: bytes
    has_data_set: bool
    # Of a C-STORE within somebody's C-MOVE (PS3.7, 9.1.1.1.7 and 9.1.1.1.8); "" and 0 otherwise, or if it is not said.
    move_originator: str = ""
    move_message_id: int = 0


# -- reading --------------------------------------------------------------------------------------
def request_of(body: bytes) -> Request:
    """The body of an A-ASSOCIATE-RQ (PS3.8, 9.3.2). Raises Malformed."""
    if len(body) < 68 or not struct.unpack_from(">H", body)[0] & 1:
        raise Malformed("no association request of a version we know")
    contexts: list[Context] = []
    roles: dict[str, tuple[int, int]] = {}
    pdu_bytes_max = 0
    for kind, value in items_in(body[68:]):
        if kind == 0x20:
            contexts.append(_context(value))
            if len(contexts) > CONTEXTS_MAX:
                raise Malformed("more presentation contexts than there are numbers")
        elif kind == 0x50:
            for part, content in items_in(value):
                if part == 0x51 and len(content) == 4:
                    pdu_bytes_max = struct.unpack(">I", content)[0]
                elif part == 0x54 and len(content) >= 4:
                    size = struct.unpack_from(">H", content)[0]
                    if len(content) != size + 4:
                        raise Malformed("a role that ends elsewhere")
                    roles[uid_of(content[2 : 2 + size])] = content[-2], content[-1]
    called = body[4:20].decode("ascii", "replace").strip(" \0")
    return Request(called, body[20:36], tuple(contexts), pdu_bytes_max, roles)


def _context(value: bytes) -> Context:
    if len(value) < 4 or not value[0] & 1:
        raise Malformed("a presentation context without a number")
    abstract, transfer = "", []
    for kind, content in items_in(value[4:]):
        if kind == 0x30:
            abstract = uid_of(content)
        elif kind == 0x40:
            transfer.append(uid_of(content))
    if not abstract or not transfer:
        raise Malformed("a presentation context without syntaxes")
    return Context(value[0], abstract, tuple(transfer))


def items_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise Malformed("an item that is cut off")
        kind, _, size = struct.unpack_from(">BBH", data, at)
        at += 4
        if at + size > len(data):
            raise Malformed("an item that ends elsewhere")
        yield kind, data[at : at + size]
        at += size


def uid_of(value: bytes) -> str:
    text = value.rstrip(b"\0 ").decode("ascii", "replace")
    if len(text) > UID_CHARACTERS_MAX:
        raise Malformed("a UID that is too long")
    return text


def values_of(body: memoryview) -> Iterator[tuple[int, bool, bool, memoryview]]:
    """The presentation data values of a P-DATA-TF (9.3.5): context, whether command, whether last, fragment.

    Raises Malformed."""
    at, end = 0, len(body)
    while at < end:
        if at + 6 > end:
            raise Malformed("a data value that is cut off")
        size, context, control = struct.unpack_from(">IBB", body, at)
        if size < 2 or at + 4 + size > end:
            raise Malformed("a data value that ends elsewhere")
        yield context, bool(control & 1), bool(control & 2), body[at + 6 : at + 4 + size]
        at += 4 + size


def command_of(data: bytes) -> Command:
    """A request's command set. Raises Malformed."""
    found = elements_of(data)
    return Command(
        number_in(found, 0x0100), number_in(found, 0x0110), found.get(0x0002, b"").rstrip(b"\0 "),
        found.get(0x1000, b"").rstrip(b"\0 "), number_in(found, 0x0800) != NO_DATA_SET,
        found.get(0x1030, b"").decode("ascii", "replace").strip("\0 "),
        number_in(found, 0x1031) if 0x1031 in found else 0,
    )  # fmt: skip


def elements_of(data: bytes) -> dict[int, bytes]:
    """The elements of group 0000, implicit VR little endian (PS3.7, 6.3.1). Raises Malformed."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise Malformed("a command that is cut off")
        group, element, size = struct.unpack_from("<HHI", data, at)
        at += 8
        if group or at + size > len(data):
            raise Malformed("a command that ends elsewhere")
        found[element] = data[at : at + size]
        at += size
    return found


def number_in(found: Mapping[int, bytes], element: int) -> int:
    value = found.get(element, b"")
    if len(value) != 2:
        raise Malformed("a command without its numbers")
    return struct.unpack("<H", value)[0]


def takes(abstract_syntax: str) -> bool:
    """C-ECHO, and every kind of object: an unknown kind of image must not cost the others of its study. What is known
    and no object (a query, a print, a commitment) is not for us."""
    known = UID_dictionary.get(abstract_syntax)
    if known is None or abstract_syntax == VERIFICATION:
        return True
    return "Storage" in known[0] and not known[0].startswith("Storage Commitment")


# -- writing --------------------------------------------------------------------------------------
def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def acceptance(request: Request, pdu_bytes_max: int, implementation_uid: str, implementation_name: str) -> bytes:
    """An A-ASSOCIATE-AC (9.3.3): of each context the first encoding, as proposed, where we take its kind."""
    items = item(0x10, APPLICATION_CONTEXT)
    for one in request.contexts:
        result = _ACCEPTED if takes(one.abstract_syntax) else _ABSTRACT_SYNTAX_NOT_SUPPORTED
        syntax = item(0x40, one.transfer_syntaxes[0].encode("ascii", "replace"))
        items += item(0x21, bytes([one.number, 0, result, 0]) + syntax)
    user = item(0x51, struct.pack(">I", pdu_bytes_max)) + item(0x52, implementation_uid.encode())
    for uid, (as_scu, _) in request.roles.items():  # the requestor sends; we are not asked for anything
        name = uid.encode("ascii", "replace")
        user += item(0x54, struct.pack(">H", len(name)) + name + bytes([as_scu, 0]))
    user += item(0x55, implementation_name.encode())
    # The AE titles come back as they were sent (table 9-17).
    head = struct.pack(">HH", 1, 0) + request.called.ljust(16)[:16].encode("ascii", "replace") + request.calling
    return pdu(ASSOCIATE_AC, head + bytes(32) + items + item(0x50, user))


def agreed(request: Request) -> dict[int, str]:
    """Transfer syntax by the number of each accepted context."""
    return {one.number: one.transfer_syntaxes[0] for one in request.contexts if takes(one.abstract_syntax)}


def rejection(answer: tuple[int, int, int]) -> bytes:
    return pdu(ASSOCIATE_RJ, bytes([0, *answer]))


def abort(reason: int = 0) -> bytes:
    """An A-ABORT of the service provider (9.3.8)."""
    return pdu(ABORT, bytes([0, 0, 2, reason]))


def release_answer() -> bytes:
    return pdu(RELEASE_RP, bytes(4))


def answer_to(context: int, command: Command, status: int) -> bytes:
    """The P-DATA-TF with the response to a C-STORE or C-ECHO (PS3.7, 9.3.1.2 and 9.3.5.2)."""
    rest = (
        element(0x0002, command.sop_class) + element(0x0100, struct.pack("<H", command.field | 0x8000))
        + element(0x0120, struct.pack("<H", command.message_id)) + element(0x0800, struct.pack("<H", NO_DATA_SET))
        + element(0x0900, struct.pack("<H", status))
    )  # fmt: skip
    if command.field == C_STORE_RQ:
        rest += element(0x1000, command.sop_instance)
    value = element(0, struct.pack("<I", len(rest))) + rest
    return pdu(DATA, struct.pack(">IBB", len(value) + 2, context, 3) + value)


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def element(number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) & 1)
    return struct.pack("<HHI", 0, number, len(value)) + value
