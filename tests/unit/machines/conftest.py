"""A portal with the fake hypervisor, a viewer that needs no catalogue, and items in the patient's record."""

import dataclasses
from collections.abc import Callable

import pytest
from sqlmodel import select

from myphr.machines import vm_sessions
from myphr.machines.models import Machine, VmSession
from tests.contract.hypervisor.fake import FakeHypervisor


@dataclasses.dataclass(frozen=True)
class ProbeViewer:
    name: str = "probe"
    template: str = "probe"
    command: tuple[str, ...] = ()
    internal: bool = False


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    return FakeHypervisor()


@pytest.fixture
def viewer(monkeypatch) -> ProbeViewer:
    found = ProbeViewer()
    from myphr.viewers import catalogue

    monkeypatch.setattr(catalogue, "load", lambda: {"probe": found}, raising=False)
    return found


@pytest.fixture
def fake_portal(portal, hypervisor):
    """The portal of tests/conftest.py whose machines live in memory. Jobs stay on the queue: tests run them."""
    portal.__dict__["hypervisor"] = hypervisor
    return portal


@pytest.fixture
def item_id(fake_portal, patient) -> str:
    return add_item(fake_portal, patient)


def add_item(portal, person, name: str = "letter.txt", content: bytes = b"Dear patient\n") -> str:
    from myphr.records.items import Facts, ItemWriter

    writer = ItemWriter(
        portal, person.account.id, owner_public_key=person.login.ring().public_key, source="upload", source_id=None,
        describe=lambda head: Facts("text", "text/plain"),
    )  # fmt: skip
    writer.write(content)
    return writer.finish(name, name).id


@pytest.fixture
def request_one(fake_portal, patient, item_id, viewer) -> Callable[[], VmSession]:
    return lambda: vm_sessions.request(fake_portal, patient.login, viewer, item_ids=[item_id])


def row(portal, table, row_id):
    with portal.database.read() as db:
        return db.get(table, row_id)


def machines(portal) -> list[Machine]:
    with portal.database.read() as db:
        return list(db.exec(select(Machine).order_by(Machine.vmid)).all())


def queued(portal) -> list[tuple[str, tuple[str, ...]]]:
    """What waits on the queue, in order."""
    return [(job.func_name, tuple(job.args)) for job in portal.queue.rq.get_jobs()]
