"""What a requestor of an association says, and what it is answered: association (PS3.8, 9.3.2 to 9.3.4), C-ECHO,
C-FIND, C-GET and C-MOVE (PS3.7, 9.1 and 9.3; PS3.4, annex C), role selection (PS3.7, D.3.3.4).

Bytes in, values out, and the other way round: no socket, clock or thread in it. Called by `ingest.pacs.requestor`.
Why our own: docs/decisions/0217-fetching-from-pacs.md.
"""

import dataclasses
import functools
import struct
from collections.abc import Iterable, Mapping, Sequence

from pydicom.uid import UID_dictionary

from myphr.ingest.dimse import upper_layer
from myphr.ingest.dimse.upper_layer import CONTEXTS_MAX, Context, Malformed, element, item, number_in

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
IMPLICIT_LE, EXPLICIT_LE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
C_GET_RQ, C_FIND_RQ, C_MOVE_RQ = 0x0010, 0x0020, 0x0021
C_ANSWER = 0x8000  # of a request's field
PENDING = frozenset({0xFF00, 0xFF01})
DESTINATION_UNKNOWN = 0xA801  # of a C-MOVE (PS3.4, table C.4-2)
_FIELDS = {STUDY_ROOT_FIND: C_FIND_RQ, STUDY_ROOT_GET: C_GET_RQ, STUDY_ROOT_MOVE: C_MOVE_RQ}
_HAS_DATA_SET = 0x0001
_PDU_BYTES_MAX = 16 * 1024  # of ours, if the other side would take more: what we send is small
# Each in a context of its own, beside one for what is not compressed: of several encodings in one context the other
# side picks one, and an image that it holds in another would not come.
COMPRESSED = tuple(f"1.2.840.10008.1.2.{ending}" for ending in (
    "4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.201", "4.202", "4.203", "5", "4.100", "4.102",
    "1.99",
))  # fmt: skip
CLASSES_PER_ASSOCIATION = (CONTEXTS_MAX - 1) // (1 + len(COMPRESSED))

# Of most studies: CT, MR, CR, digital X-ray and mammography, ultrasound, pictures, reports, enhanced CT and MR ...
_COMMON = tuple(f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in (
    "2", "4", "1", "1.1", "1.2", "6.1", "3.1", "7", "88.22", "88.33", "104.1", "2.1", "4.1", "128", "20", "12.1",
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """An A-ASSOCIATE-AC: transfer syntax by the number of each accepted context."""

    agreed: Mapping[int, str]
    pdu_bytes_max: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """The command of a response. What a C-GET or C-MOVE counts in it is not believed: we count what came."""

    field: int
    message_id: int
    status: int
    has_data_set: bool


# -- association ----------------------------------------------------------------------------------
def contexts_of(services: Sequence[str], classes: Sequence[str] = ()) -> list[Context]:
    """For the questions, and for `classes` of objects that shall come. At most CLASSES_PER_ASSOCIATION of them."""
    wanted: list[tuple[str, tuple[str, ...]]] = [(service, (IMPLICIT_LE,)) for service in services]
    for one in classes:
        wanted.append((one, (EXPLICIT_LE, IMPLICIT_LE)))
        wanted += [(one, (syntax,)) for syntax in COMPRESSED]
    if len(wanted) > CONTEXTS_MAX:
        raise ValueError("more presentation contexts than there are numbers")
    return [Context(2 * at + 1, *one) for at, one in enumerate(wanted)]


@functools.cache
def known_classes() -> tuple[str, ...]:
    """Every kind of object that there is a name for, the common ones first."""
    known = [uid for uid, said in UID_dictionary.items() if said[1] == "SOP Class" and upper_layer.takes(uid)]
    return tuple(dict.fromkeys((*_COMMON, *(uid for uid in known if uid != upper_layer.VERIFICATION))))


def request(
    called: str, calling: str, contexts: Sequence[Context], pdu_bytes_max: int, implementation: tuple[str, str],
    classes: Iterable[str] = (),
) -> bytes:  # fmt: skip
    """An A-ASSOCIATE-RQ in which we take objects of these classes, and send none."""
    items = item(0x10, upper_layer.APPLICATION_CONTEXT)
    for one in contexts:
        syntaxes = b"".join(item(0x40, syntax.encode()) for syntax in one.transfer_syntaxes)
        items += item(0x20, bytes([one.number, 0, 0, 0]) + item(0x30, one.abstract_syntax.encode()) + syntaxes)
    user = item(0x51, struct.pack(">I", pdu_bytes_max)) + item(0x52, implementation[0].encode())
    for uid in classes:
        user += item(0x54, struct.pack(">H", len(uid)) + uid.encode() + b"\0\1")
    user += item(0x55, implementation[1].encode())
    titles = called.ljust(16)[:16].encode("ascii") + calling.ljust(16)[:16].encode("ascii")
    head = struct.pack(">HH", 1, 0) + titles + bytes(32)
    return upper_layer.pdu(upper_layer.ASSOCIATE_RQ, head + items + item(0x50, user))


def acceptance_of(body: bytes, proposed: Sequence[Context]) -> Acceptance:
    """The body of an A-ASSOCIATE-AC (9.3.3). Raises Malformed, also for what was not proposed."""
    if len(body) < 68:
        raise Malformed("no association answer")
    offered = {one.number: one.transfer_syntaxes for one in proposed}
    agreed: dict[int, str] = {}
    pdu_bytes_max = 0
    for kind, value in upper_layer.items_in(body[68:]):
        if kind == 0x21:
            if len(value) < 4:
                raise Malformed("a presentation context that is cut off")
            if value[2] != 0:  # not accepted: what follows means nothing
                continue
            syntaxes = [upper_layer.uid_of(one) for part, one in upper_layer.items_in(value[4:]) if part == 0x40]
            if len(syntaxes) != 1 or syntaxes[0] not in offered.get(value[0], ()):
                raise Malformed("a context that was not proposed")
            agreed[value[0]] = syntaxes[0]
        elif kind == 0x50:
            for part, content in upper_layer.items_in(value):
                if part == 0x51 and len(content) == 4:
                    pdu_bytes_max = struct.unpack(">I", content)[0]
    return Acceptance(agreed, pdu_bytes_max)


def release() -> bytes:
    return upper_layer.pdu(upper_layer.RELEASE_RQ, bytes(4))


def abort() -> bytes:
    """An A-ABORT of the service user (9.3.8)."""
    return upper_layer.pdu(upper_layer.ABORT, bytes(4))


# -- messages -------------------------------------------------------------------------------------
def echo(context: int, message_id: int) -> bytes:
    return _command(context, upper_layer.VERIFICATION, upper_layer.C_ECHO_RQ, message_id, upper_layer.NO_DATA_SET)


def question(
    context: int, service: str, message_id: int, identifier: bytes, pdu_bytes_max: int, destination: str = ""
) -> bytes:
    """A C-FIND-RQ, C-GET-RQ or C-MOVE-RQ with its identifier, as P-DATA-TFs that the other side takes. `destination`:
    the AE title to which a C-MOVE sends."""
    sent = _command(context, service, _FIELDS[service], message_id, _HAS_DATA_SET, destination)
    size = min(pdu_bytes_max or _PDU_BYTES_MAX, _PDU_BYTES_MAX) - 6
    if size <= 0:
        raise Malformed("a PDU that has no room for a byte")
    for at in range(0, len(identifier), size):
        part = identifier[at : at + size]
        control = 2 if at + size >= len(identifier) else 0
        sent += upper_layer.pdu(upper_layer.DATA, struct.pack(">IBB", len(part) + 2, context, control) + part)
    return sent


def _command(
    context: int, service: str, field: int, message_id: int, data_set: int, destination: str = ""
) -> bytes:  # fmt: skip
    rest = (
        element(0x0002, service.encode()) + element(0x0100, struct.pack("<H", field))
        + element(0x0110, struct.pack("<H", message_id))
    )  # fmt: skip
    if destination:
        rest += element(0x0600, destination.encode("ascii").ljust(len(destination) + len(destination) % 2))
    if data_set != upper_layer.NO_DATA_SET:
        rest += element(0x0700, struct.pack("<H", 0))
    rest += element(0x0800, struct.pack("<H", data_set))
    value = element(0, struct.pack("<I", len(rest))) + rest
    return upper_layer.pdu(upper_layer.DATA, struct.pack(">IBB", len(value) + 2, context, 3) + value)


def identifier_of(values: Mapping[int, str]) -> bytes:
    """A data set of text values, implicit VR little endian. Tags 0020,000D and the like are UIDs: padded with NUL."""
    found = b""
    for tag in sorted(values):
        value = values[tag].encode("ascii")
        value += (b"\0" if tag in _UIDS else b" ") * (len(value) & 1)
        found += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
    return found


_UIDS = frozenset({0x00080016, 0x00080018, 0x0020000D, 0x0020000E})


def elements_of(command: bytes) -> dict[int, bytes]:
    """Those of the command group, as long as it says that it is: behind it Orthanc writes the list of what it could not
    send. Raises Malformed."""
    end = 12 + struct.unpack_from("<I", command, 8)[0] if len(command) >= 12 else 12
    if len(command) < end:
        raise Malformed("a command that is cut off")
    return upper_layer.elements_of(command[:end])


def is_failure(status: int) -> bool:
    """Of a C-GET or C-MOVE as a whole (PS3.7, annex C.4); some objects that did not get through are a warning."""
    return status >> 12 in (0xA, 0xC)


def answer_of(found: Mapping[int, bytes]) -> Answer:
    """Raises Malformed."""
    return Answer(
        number_in(found, 0x0100), number_in(found, 0x0120), number_in(found, 0x0900),
        number_in(found, 0x0800) != upper_layer.NO_DATA_SET,
    )  # fmt: skip
