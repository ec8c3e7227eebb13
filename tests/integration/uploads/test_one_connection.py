"""Where one request ends and the next begins on a connection that the portal keeps, whatever it thought of the first.

A proxy sends the requests of several people over one connection: bytes of a refused body that are counted twice would
let one of them write into another's request."""

import socket

import pytest

from tests.integration.uploads.conftest import Server

PLAIN = "Host: portal\r\nTus-Resumable: 1.0.0\r\n"
BODY = b"x" * 64
NEXT = f"OPTIONS /uploads HTTP/1.1\r\n{PLAIN}X-Long: {'a' * 100}\r\n\r\n".encode()
CREATE = "POST /uploads HTTP/1.1\r\n" + PLAIN + "Content-Type: application/offset+octet-stream\r\n"
REFUSED = {  # each is refused with the body unread
    "a body larger than told": CREATE + "Upload-Length: 3\r\n",
    "more than a portal takes": CREATE + "Upload-Length: 99999999999999999\r\n",
    "no upload of that name": f"PATCH /uploads/{'a' * 36}/{'A' * 43} HTTP/1.1\r\n{PLAIN}"
    "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n",
}


def request(head: str, body: bytes, account_id: str) -> bytes:
    return f"{head}X-Account: {account_id}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def answer(connection: socket.socket) -> bytes:
    """One whole answer, or what came before the connection was closed."""
    received = b""
    while b"\r\n\r\n" not in received and (piece := connection.recv(1)):
        received += piece
    length = next((int(one[16:]) for one in received.split(b"\r\n") if one.lower().startswith(b"content-length: ")), 0)
    while length and (piece := connection.recv(length)):
        received += piece
        length -= len(piece)
    return received


@pytest.mark.parametrize("what", REFUSED)
def test_what_follows_a_refused_body_is_the_next_request_from_its_first_byte(patient, server: Server, what: str):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(10)
        connection.sendall(request(REFUSED[what], BODY, patient.account.id))
        assert answer(connection).startswith(b"HTTP/1.1 4")
        for _ in range(2):
            connection.sendall(NEXT)
            assert answer(connection).startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize("what", REFUSED)
def test_behind_a_refused_body_that_is_large_the_connection_closes(patient, server: Server, what: str) -> None:
    """Requests that stand in its bytes are never read as such: one answer comes, and the end."""
    body = NEXT * (8 * 1024**2 // len(NEXT))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(10)
        received = b""
        try:
            connection.sendall(request(REFUSED[what], body, patient.account.id))
        except OSError:
            pass  # closed while we were sending
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    assert received.count(b"HTTP/1.1 ") <= 1 and b" 204 " not in received
