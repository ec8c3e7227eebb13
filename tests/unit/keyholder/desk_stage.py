"""A desk on a store of its own with a clock that the test turns, and people who speak to it through the real client."""

import datetime as dt
import socket
import threading
from pathlib import Path

from myphr.crypto import proofs
from myphr.keyholder import setup
from myphr.keyholder.__main__ import CALLS
from myphr.keyholder.desk import Desk, Peer
from myphr.keyholder.master import load
from myphr.keyholder.server import Server
from myphr.keyholder.store import Store
from myphr.people.keyholder import Keyholder, read_reply
from tests.running_keyholder import Somebody, somebody

PASSPHRASE = "a passphrase of the tests"
BEGIN = 1_800_000_000


class Stage:
    """`stage.client` is the product's client; its bytes go straight to the desk instead of through a socket."""

    def __init__(self, folder: Path) -> None:
        self.time = float(BEGIN)
        self.folder = folder / "keyholder"
        now = dt.datetime.fromtimestamp(BEGIN, dt.timezone.utc)
        setup.initialise(self.folder, folder / "root", PASSPHRASE, now=now, memory_kib=64, passes=1)
        self.peer = Peer(local=True, machine=True)
        self.client: Keyholder = DirectClient(self)
        self.open()

    def open(self) -> None:
        """The desk as after a start: what it had in memory is gone."""
        self.store = Store(self.folder, load(self.folder, PASSPHRASE))
        self.desk = Desk(self.store, CALLS, clock=lambda: self.time)
        self.server = Server(self.desk)

    def restart(self) -> None:
        self.store.close()
        self.open()

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.time, dt.timezone.utc)

    def round(self) -> None:
        self.server.round()

    def somebody(self) -> Somebody:
        return somebody(self.client)

    def operator(self) -> Somebody:
        person = somebody(self.client)
        self.client.operator_appoint(person.gid)
        return person

    def renewed(self, person: Somebody) -> Somebody:
        """The person with a certificate of today."""
        from myphr.crypto.certificates import new_request

        person.certificate = self.client.ca_issue(new_request(person.signing_key, person.gid))
        return person


class DirectClient(Keyholder):
    def __init__(self, stage: Stage) -> None:
        super().__init__("unix:/nowhere", clock=lambda: stage.time)
        self._stage = stage

    def _send(self, request: proofs.Request) -> dict:
        return read_reply(self._stage.desk.handle(request.to_bytes(), self._stage.peer))


def raw(path: Path, data: bytes, *, seconds: float = 5, half_close: bool = True) -> bytes:
    """Everything a socket answers to these bytes, as they are."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(seconds)
        stream.connect(str(path))
        stream.sendall(data)
        if half_close:
            stream.shutdown(socket.SHUT_WR)
        found = b""
        while part := stream.recv(65536):
            found += part
        return found


def together(count: int, run) -> list:
    """`run(number)` in `count` threads at once; their results, or the exceptions they raised."""
    results: list = [None] * count
    barrier = threading.Barrier(count)

    def one(number: int) -> None:
        barrier.wait()
        try:
            results[number] = run(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
