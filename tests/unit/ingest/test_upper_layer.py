"""The upper layer against pynetdicom's own encoding and decoding, and against bytes that are cut or lie."""

import struct

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import build_context, build_role
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification

from myphr.ingest.dimse import upper_layer
from myphr.ingest.dimse.upper_layer import Malformed

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def request_pdu(*syntaxes: str, called: str = "PHRABC") -> bytes:
    """What pynetdicom sends: one context a syntax, each in two encodings, with a role for the first."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "PEER", called
    contexts = [build_context(one, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]) for one in syntaxes]
    for number, one in enumerate(contexts):
        one.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = 16382
    primitive.user_information = [length, build_role(syntaxes[0], scu_role=True, scp_role=True)]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def test_a_request_of_a_foreign_program_is_read() -> None:
    request = upper_layer.request_of(request_pdu(CTImageStorage, MRImageStorage)[6:])
    assert request.called == "PHRABC" and request.pdu_bytes_max == 16382
    assert [one.abstract_syntax for one in request.contexts] == [CTImageStorage, MRImageStorage]
    assert request.contexts[0].transfer_syntaxes == (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert request.roles == {CTImageStorage: (1, 1)}


def test_the_acceptance_is_read_by_a_foreign_program() -> None:
    request = upper_layer.request_of(request_pdu(CTImageStorage, FIND, "1.2.826.0.1.3680043.9.9")[6:])
    answer = A_ASSOCIATE_AC()
    answer.decode(upper_layer.acceptance(request, 131072, "1.2.3", "NAME"))
    found = {one.context_id: one.result for one in answer.presentation_context}
    assert found == {1: 0, 3: 3, 5: 0}  # a query is not for us, an unknown kind of object is
    assert upper_layer.agreed(request) == {1: ExplicitVRLittleEndian, 5: ExplicitVRLittleEndian}
    assert answer.user_information.maximum_length == 131072 and answer.calling_ae_title.strip() == "PEER"
    rejection = A_ASSOCIATE_RJ()
    rejection.decode(upper_layer.rejection(upper_layer.CALLED_AE_TITLE_NOT_RECOGNISED))
    assert (rejection.result, rejection.source, rejection.reason_diagnostic) == (1, 1, 7)


@pytest.mark.parametrize("field", ["store", "echo"])
def test_commands_of_a_foreign_program_are_read_and_answers_read_by_it(field: str) -> None:
    primitive: C_STORE | C_ECHO
    if field == "store":
        primitive, message = C_STORE(), C_STORE_RQ()
        primitive.AffectedSOPInstanceUID, primitive.Priority = "1.2.3.4.5", 0
        primitive.AffectedSOPClassUID = CTImageStorage
        primitive.MoveOriginatorApplicationEntityTitle, primitive.MoveOriginatorMessageID = "PORTAL7", 9
    else:
        primitive, message = C_ECHO(), C_ECHO_RQ()
        primitive.AffectedSOPClassUID = upper_layer.VERIFICATION
    primitive.MessageID = 7
    message.primitive_to_message(primitive)
    [sent] = list(message.encode_msg(3, 0))[:1]
    data = sent.presentation_data_value_list[0][1][1:]
    command = upper_layer.command_of(data)
    assert command.message_id == 7 and command.field == (1 if field == "store" else 0x30)
    assert command.sop_instance == (b"1.2.3.4.5" if field == "store" else b"")
    moved = ("PORTAL7", 9) if field == "store" else ("", 0)
    assert (command.move_originator, command.move_message_id) == moved
    answer = upper_layer.answer_to(3, command, 0xC000)
    [(context, is_command, is_last, value)] = upper_layer.values_of(memoryview(answer)[6:])
    assert (context, is_command, is_last) == (3, True, True)
    said = upper_layer.command_of(bytes(value).replace(b"\x00\x00\x20\x01", b"\x00\x00\x10\x01"))
    assert said.message_id == 7 and said.field == command.field | 0x8000 and not said.has_data_set
    assert struct.pack("<HHIH", 0, 0x0900, 2, 0xC000) in bytes(value)


def test_every_cut_of_a_request_is_malformed_or_a_shorter_request() -> None:
    body = request_pdu(CTImageStorage, MRImageStorage)[6:]
    for end in range(len(body)):
        try:
            request = upper_layer.request_of(body[:end])
        except Malformed:
            continue
        assert len(request.contexts) <= 2


@pytest.mark.parametrize("lie", [b"\xff\xff", b"\x00\x01", b"\x7f\xff"])
def test_lengths_that_lie_are_malformed(lie: bytes) -> None:
    body = request_pdu(CTImageStorage)[6:]
    for at in range(70, len(body) - 2):
        try:
            upper_layer.request_of(body[:at] + lie + body[at + 2 :])
        except Malformed:
            pass  # that it ends is the point


@pytest.mark.parametrize(
    "body", [b"\0", b"\0\0\0\1\1\3", b"\0\0\0\xff\1\3abc", b"\0\0\0\5\1\3abcd", b"\xff\xff\xff\xff\1\3"]
)
def test_data_values_that_end_elsewhere_are_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        list(upper_layer.values_of(memoryview(body)))


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, struct.pack("<HHI", 0, 0x100, 9), struct.pack("<HHIH", 8, 0x100, 2, 1),
             struct.pack("<HHIH", 0, 0x100, 2, 1)]
)  # fmt: skip
def test_commands_without_what_they_need_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        upper_layer.command_of(data)


def test_more_contexts_than_there_are_numbers_are_malformed() -> None:
    body = request_pdu(CTImageStorage)[6:]
    one = body[body.index(b"\x20\0") :]
    one = one[: 4 + struct.unpack_from(">H", one, 2)[0]]
    with pytest.raises(Malformed):
        upper_layer.request_of(body + one * 128)
