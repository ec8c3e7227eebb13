"""What a requestor says and understands, against pynetdicom's own decoding, and against bytes that are cut or lie."""

import io
import struct

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage
from pynetdicom.dimse_messages import C_FIND_RQ, C_GET_RQ, C_GET_RSP, C_MOVE_RQ
from pynetdicom.dimse_primitives import C_GET
from pynetdicom.pdu import A_ASSOCIATE_RQ, P_DATA_TF

from myphr.ingest import dicom
from myphr.ingest.dimse import asking, upper_layer
from myphr.ingest.dimse.upper_layer import Malformed

SERVICES = [asking.STUDY_ROOT_GET]


def request(classes: tuple[str, ...] = (CTImageStorage,), called: str = "ARCHIVE") -> bytes:
    contexts = asking.contexts_of(SERVICES, classes)
    return asking.request(called, "MYPHR", contexts, 131_072, ("1.2.3", "PROGRAM"), classes)


def acceptance(*contexts: tuple[int, int, str], pdu_bytes_max: int = 16_384) -> bytes:
    """The body of an A-ASSOCIATE-AC: number, result, syntax of each context."""
    items = upper_layer.item(0x10, upper_layer.APPLICATION_CONTEXT)
    for number, result, syntax in contexts:
        items += upper_layer.item(0x21, bytes([number, 0, result, 0]) + upper_layer.item(0x40, syntax.encode()))
    user = upper_layer.item(0x51, struct.pack(">I", pdu_bytes_max))
    return struct.pack(">HH", 1, 0) + bytes(64) + items + upper_layer.item(0x50, user)


def test_a_foreign_program_reads_the_request_as_it_is_meant() -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(request())
    assert (pdu.called_ae_title, pdu.calling_ae_title) == ("ARCHIVE", "MYPHR")
    contexts = pdu.presentation_context
    assert contexts[0].abstract_syntax == asking.STUDY_ROOT_GET and contexts[0].transfer_syntax == [asking.IMPLICIT_LE]
    assert {one.abstract_syntax for one in contexts[1:]} == {CTImageStorage}
    assert [one.context_id for one in contexts] == list(range(1, 2 * len(contexts), 2))
    [role] = pdu.user_information.role_selection.values()
    assert (role.sop_class_uid, role.scu_role, role.scp_role) == (CTImageStorage, False, True)


def test_as_many_kinds_as_there_are_numbers_and_no_more() -> None:
    kinds = asking.known_classes()
    assert len(asking.contexts_of(SERVICES, kinds[: asking.CLASSES_PER_ASSOCIATION])) <= upper_layer.CONTEXTS_MAX
    with pytest.raises(ValueError, match="more presentation contexts"):
        asking.contexts_of(SERVICES, kinds[: asking.CLASSES_PER_ASSOCIATION + 1])
    assert len(kinds) == len(set(kinds)) > 150 and upper_layer.VERIFICATION not in kinds


def test_what_was_accepted_is_what_counts() -> None:
    contexts = asking.contexts_of(SERVICES, [CTImageStorage])
    body = acceptance((1, 0, asking.IMPLICIT_LE), (3, 0, asking.EXPLICIT_LE), (5, 3, "whatever"), pdu_bytes_max=20_000)
    found = asking.acceptance_of(body, contexts)
    assert found.agreed == {1: asking.IMPLICIT_LE, 3: asking.EXPLICIT_LE} and found.pdu_bytes_max == 20_000


@pytest.mark.parametrize("lie", [(2, 0, asking.IMPLICIT_LE), (99, 0, asking.IMPLICIT_LE), (1, 0, asking.EXPLICIT_LE),
                                 (1, 0, "")])  # fmt: skip
def test_what_was_not_proposed_is_not_accepted(lie: tuple[int, int, str]) -> None:
    with pytest.raises(Malformed):
        asking.acceptance_of(acceptance(lie), asking.contexts_of(SERVICES))


def test_a_cut_acceptance_is_none() -> None:
    whole = acceptance((1, 0, asking.IMPLICIT_LE))
    contexts = asking.contexts_of(SERVICES)
    for at in range(len(whole)):
        try:
            assert asking.acceptance_of(whole[:at], contexts).agreed in ({}, {1: asking.IMPLICIT_LE})
        except Malformed:
            continue


@pytest.mark.parametrize(("service", "message"), [(asking.STUDY_ROOT_FIND, C_FIND_RQ),
                                                  (asking.STUDY_ROOT_GET, C_GET_RQ),
                                                  (asking.STUDY_ROOT_MOVE, C_MOVE_RQ)])  # fmt: skip
@pytest.mark.parametrize("pdu_bytes_max", [0, 20, 131_072])
def test_a_foreign_program_reads_the_question(service: str, message: type, pdu_bytes_max: int) -> None:
    keys = {0x00080052: "STUDY", 0x00100020: "4711", 0x0020000D: "1.2.3", 0x00100021: ""}
    destination = "PORTAL7" if message is C_MOVE_RQ else ""
    sent = asking.question(5, service, 7, asking.identifier_of(keys), pdu_bytes_max, destination)
    received, at = message(), 0
    while at < len(sent):
        size = 6 + struct.unpack_from(">I", sent, at + 2)[0]
        pdu = P_DATA_TF()
        pdu.decode(sent[at : at + size])
        assert at == 0 or not pdu_bytes_max or size - 6 <= pdu_bytes_max
        done = received.decode_msg(pdu.to_primitive())
        at += size
    assert done and received.command_set.MessageID == 7 and received.command_set.AffectedSOPClassUID == service
    asked = dcmread(io.BytesIO(received.data_set.getvalue()), force=True)
    assert (asked.QueryRetrieveLevel, asked.PatientID, asked.StudyInstanceUID) == ("STUDY", "4711", "1.2.3")
    assert asked.IssuerOfPatientID in ("", None)
    assert str(received.command_set.get("MoveDestination", "")).strip() == destination


@pytest.mark.parametrize(("status", "failure"), [(0x0000, False), (0xB000, False), (0xFF00, False), (0xA702, True),
                                                 (0xA801, True), (0xC001, True)])  # fmt: skip
def test_what_is_a_failure_of_the_whole(status: int, failure: bool) -> None:
    assert asking.is_failure(status) is failure


def test_a_pdu_without_room_is_not_split_for_ever() -> None:
    with pytest.raises(Malformed):
        asking.question(1, asking.STUDY_ROOT_FIND, 1, b"abcd", 6)


def test_an_answer_of_a_foreign_program_is_read() -> None:
    primitive = C_GET()
    primitive.MessageIDBeingRespondedTo, primitive.Status = 7, 0xB000
    primitive.AffectedSOPClassUID = asking.STUDY_ROOT_GET
    primitive.NumberOfFailedSuboperations, primitive.NumberOfCompletedSuboperations = 3, 4
    message = C_GET_RSP()
    message.primitive_to_message(primitive)
    [pdv] = message.encode_msg(1, 16_384)
    fragment = pdv.presentation_data_value_list[0][1][1:]
    found = asking.answer_of(asking.elements_of(fragment))
    assert (found.message_id, found.status, found.has_data_set) == (7, 0xB000, False)
    # What Orthanc appends is left out; what is cut off is not read.
    assert asking.answer_of(asking.elements_of(fragment + b"\x08\0\x58\0\x02\0\0\0x\0")) == found
    for at in range(len(fragment)):
        with pytest.raises(Malformed):
            asking.answer_of(asking.elements_of(fragment[:at]))


def test_values_of_an_answer_end_where_they_stop_making_sense() -> None:
    whole = asking.identifier_of({0x00100020: "4711", 0x0020000D: "1.2.3"})
    assert dicom.values_of(whole) == {0x00100020: b"4711", 0x0020000D: b"1.2.3\0"}
    assert dicom.text_in(dicom.values_of(whole), 0x00100020) == "4711" and dicom.text_in({}, 0x00100020) == ""
    lies = whole + struct.pack("<HHI", 0x0040, 1, 0xFFFFFFF0) + b"x"
    assert dicom.values_of(lies) == dicom.values_of(whole)
    for at in range(len(whole)):
        dicom.values_of(whole[:at])
