"""One machine room for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests import cast
from tests.integration.machines.rig import Room
from tests.integration.machines.rig import room as open_room


@pytest.fixture(scope="session")
def room() -> Iterator[Room]:
    with open_room(machines_max=4) as found:
        yield found


@pytest.fixture(scope="session")
def owner(room) -> cast.SignedIn:
    return cast.enter(room.portal, cast.PATIENT)
