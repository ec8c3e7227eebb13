"""What no honest client sends: localpve refuses it, stays up, and keeps its memory. No QEMU needed."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from myphr.localpve import websocket
from myphr.localpve.replies import ParameterErrors
from myphr.localpve.schema import Schema
from myphr.localpve.server import Options, Server


class Running:
    """A localpve in a thread, without any machine."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "h"
        options = Options(home=self.home, port=0, accelerator="tcg", unauthorised_seconds=0, run_dir=folder / "r")
        self.server = Server(options, say=lambda text: None)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self.server.start(), self.loop).result(30)
        self.context = ssl.create_default_context(cafile=str(self.home / "ca.pem"))
        self.secret = (self.home / "portal.token").read_text().strip()

    def send(self, raw: bytes) -> bytes:
        """Everything the server answers to these bytes until it closes or is silent."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):  # the server may answer and close before it has read all
                connection.sendall(raw)
            answer = b""
            connection.settimeout(8)
            with contextlib.suppress(TimeoutError, OSError):
                while data := connection.recv(65536):
                    answer += data
            return answer

    def do(self, function: Callable[[], None]) -> None:
        """Runs a function in the server's thread."""

        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.server.port), 10)
        return self.context.wrap_socket(plain, server_hostname="127.0.0.1")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("lp"))
    yield found
    found.close()


@pytest.mark.parametrize(
    ("raw", "first_line"),
    [
        (b"GET /api2/json/version\r\n\r\n", b"HTTP/1.1 400 bad request"),
        (b"GET  /api2/json/version HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 bad request"),
        (b"GET /api2/json/version HTTP/9.9\r\n\r\n", b"HTTP/1.1 400 bad request"),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 bad request"),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", b"HTTP/1.1 400 bad header"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", b"HTTP/1.1 400 bad header"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 65 + b"\r\n", b"HTTP/1.1 400 header too large"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 9000 + b"\r\n\r\n", b"HTTP/1.1 400 header too large"),
        (b"GET /" + b"b" * 80_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 header too large"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 400 bad header"),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 400 bad content length"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", b"HTTP/1.1 400 bad content length"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 501 chunked"),
        (b"POST / HTTP/1.1\r\nContent-Length: 524289\r\n\r\n", b"HTTP/1.1 501 for data too large"),
        (b"DELETE / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", b"HTTP/1.1 501 "),
        (b"TRACE / HTTP/1.1\r\n\r\n", b"HTTP/1.1 501 method 'TRACE' not available"),
    ],
)
def test_malformed_request_is_refused(running, raw, first_line):
    assert running.send(raw).startswith(first_line)


def api(
    running: Running, method: str, path: str, body: bytes = b"", kind: str = "application/x-www-form-urlencoded"
) -> bytes:
    head = f"{method} /api2/json{path} HTTP/1.1\r\nAuthorization: PVEAPIToken=portal@pve!web={running.secret}\r\n"
    head += f"Connection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return running.send(head.encode() + body).split(b"\r\n")[0]


def test_body_of_a_strange_kind_is_refused(running):
    assert api(running, "POST", "/nodes/pve/qemu", b"x", "text/plain").startswith(b"HTTP/1.1 506")
    assert api(running, "POST", "/nodes/pve/qemu", b"[1]", "application/json").startswith(b"HTTP/1.1 500")
    assert api(running, "POST", "/nodes/pve/qemu", b"{", "application/json").startswith(b"HTTP/1.1 500")


def test_portal_token_can_do_nothing_outside_its_pools(running):
    for method, path, body in [
        ("POST", "/access/roles", b"roleid=x"),
        ("POST", "/access/users", b"userid=x@pve"),
        ("PUT", "/access/acl", b"path=/&roles=Administrator&users=portal@pve"),
        ("POST", "/nodes/pve/qemu", b"vmid=500"),
        ("POST", "/storage", b"storage=x&type=dir&path=/etc"),
        ("GET", "/nodes/pve/status", b""),
        ("POST", "/nodes/pve/storage/local/upload", b"--b"),
    ]:
        answer = api(running, method, path, body)
        assert answer.startswith(b"HTTP/1.1 403"), (path, answer)


@pytest.mark.parametrize(
    "volume", ["local:iso/../../state.sqlite", "local:import/../ca.key", "local:../x", "local:iso/.."]
)
def test_volume_never_leaves_its_storage(running, volume):
    storage = running.server.node.storages.get("local")
    with pytest.raises(Exception, match="unable to parse directory volume name"):
        storage.path(volume)


@pytest.mark.parametrize("name", ["../../x.qcow2", "..\\x.qcow2", ".x.qcow2", "x.sh", "", "x.qcow2\0.iso"])
def test_upload_name_never_leaves_its_folder(running, name):
    storage = running.server.node.storages.get("local")
    folder = storage.root / "import"
    with contextlib.suppress(ParameterErrors):
        assert storage.upload_path("import", name).parent == folder


def test_client_that_leaves_in_the_middle_of_an_upload_leaves_no_file(running):
    node = running.server.node
    for who in ("portal@pve", "portal@pve!web"):
        running.do(lambda who=who: node.access.grant("/storage/local", who, "PVEDatastoreAdmin"))
    body = b'--b\r\nContent-Disposition: form-data; name="content"\r\n\r\nimport\r\n--b\r\n'
    body += b'Content-Disposition: form-data; name="filename"; filename="x.qcow2"\r\n\r\n' + b"x" * 100_000
    head = "POST /api2/json/nodes/pve/storage/local/upload HTTP/1.1\r\n"
    head += f"Authorization: PVEAPIToken=portal@pve!web={running.secret}\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n"
    with running.connect() as connection:
        connection.sendall(head.encode() + body)
    running.send(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    left = list((node.storages.get("local").root / ".uploads").glob("*"))
    for _ in range(100):
        if not left:
            break
        running.send(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        left = list((node.storages.get("local").root / ".uploads").glob("*"))
    assert not left
    assert not list((node.storages.get("local").root / "import").glob("*"))


def frame(head: bytes, payload: bytes = b"") -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(head + payload)
    reader.feed_eof()
    return reader


@pytest.mark.parametrize(
    "head",
    [
        b"\x82\x01",  # not masked
        b"\xc2\x81\0\0\0\0",  # reserved bit
        b"\x02\x81\0\0\0\0",  # first fragment
        b"\x80\x81\0\0\0\0",  # continuation
        b"\x82\xff" + (131073).to_bytes(8, "big") + b"\0\0\0\0",  # 128 KiB + 1
        b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0",
        b"\x89\xfe\x00\x7e\0\0\0\0",  # a ping of 126 bytes
    ],
)
def test_frame_that_would_break_a_real_node_ends_the_connection(head):
    async def read() -> None:
        with pytest.raises(websocket.ProtocolBroken):
            await websocket.read_frame(frame(head, b"x"))

    asyncio.run(read())


def test_largest_frame_is_read_and_unmasked():
    async def read() -> None:
        payload = bytes(range(256)) * 512
        mask = b"\x01\x02\x03\x04"
        head = b"\x82\xff" + (131072).to_bytes(8, "big") + mask
        assert await websocket.read_frame(frame(head, websocket.unmask(mask, payload))) == (2, payload)

    asyncio.run(read())


def test_relay_stops_reading_a_screen_whose_viewer_does_not_read():
    """100 MiB wait behind a viewer that reads nothing; what the relay took in is bounded."""

    async def run() -> int:
        here, viewer = socket.socketpair()
        screen, there = socket.socketpair()
        client_reader, client_writer = await asyncio.open_connection(sock=here, limit=65536)
        screen_reader, screen_writer = await asyncio.open_connection(sock=screen, limit=65536)
        there.setblocking(False)
        work = asyncio.create_task(websocket.relay(client_reader, client_writer, screen_reader, screen_writer))
        sent = 0
        silent = 0
        while silent < 50 and sent < 100 << 20:
            try:
                sent += there.send(b"x" * 65536)
                silent = 0
            except BlockingIOError:
                silent += 1
            await asyncio.sleep(0)
        viewer.close()
        there.close()
        await work
        return sent

    assert asyncio.run(run()) < 4 << 20


def test_schema_texts_for_the_edges_of_a_number():
    schema = Schema()
    for given, text in [
        ("15", "memory.current: value must have a minimum value of 16"),
        ("16", None),
        ("x", "type check"),
    ]:
        parameters = {"node": "pve", "vmid": "100", "memory": given}
        if text is None:
            assert schema.check("POST /nodes/{node}/qemu", parameters)["memory"] == "16"
            continue
        with pytest.raises(ParameterErrors) as refused:
            schema.check("POST /nodes/{node}/qemu", parameters)
        assert text in (refused.value.errors or {})["memory"]
