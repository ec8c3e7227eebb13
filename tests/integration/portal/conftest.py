"""A whole portal with the probe template: one for each module, since a start takes seconds under emulation."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.portal import Portal
from myphr.settings import load
from tests.person import Person
from tests.running import RunningPortal


@pytest.fixture(scope="module")
def running():
    # Not below pytest's own folder: Unix socket paths have at most 107 bytes, and the machines' account must pass.
    folder = Path(tempfile.mkdtemp(prefix="myphr-portal-"))
    folder.chmod(0o711)
    try:
        with RunningPortal(folder, idle_warning_seconds=60) as portal:
            yield portal
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ada(running: RunningPortal) -> Person:
    """The patient of these tests, registered and signed in, with the sample studies in her record."""
    person = Person(running.url)
    person.register("ada@example.org")
    running.command("demo-data", "ada@example.org")
    return person


@pytest.fixture(scope="module")
def parts(running: RunningPortal) -> Iterator[Portal]:
    made = Portal(load({k: v for k, v in running.environ.items() if k.startswith("MYPHR_")}))
    yield made
    made.database.dispose()
