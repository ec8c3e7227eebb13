"""A real QEMU behind a Proxmox-like endpoint: the right picture, real keys, and a view-only that cannot type."""

from collections.abc import Iterator

import pytest

from tests.integration.screen.browser import KEY_ESCAPE, POINTER
from tests.integration.screen.conftest import Stage
from tests.integration.screen.machines import Qemu, wait_for

pytestmark = pytest.mark.qemu


@pytest.fixture
def ready(qemu_stage: Stage, qemu: Qemu) -> Iterator[tuple[Stage, Qemu]]:
    yield qemu_stage, qemu


def test_the_browser_gets_the_picture_that_the_machine_shows(ready):
    stage, qemu = ready
    with stage.connect().open() as screen:
        assert screen.picture() == qemu.picture()


def test_the_machines_name_stays_behind(ready):
    stage, _ = ready
    with stage.connect().open() as screen:
        assert screen.server_init[24:] == b"screen"


def test_a_key_pressed_with_control_reaches_the_machine(ready):
    stage, qemu = ready
    before = qemu.picture()
    with stage.connect().open() as screen:
        screen.send(KEY_ESCAPE)
        wait_for("another picture", lambda: qemu.picture() != before)


def test_a_hostile_viewer_cannot_type_and_a_controller_beside_them_can(ready):
    stage, qemu = ready
    share, visit = stage.share("view")
    before = qemu.picture()
    with stage.connect(stage.share_ticket(share, visit)).open() as viewer, stage.connect().open() as owner:
        for place in range(1, len(KEY_ESCAPE)):
            viewer.send(KEY_ESCAPE[:place])
            viewer.send(KEY_ESCAPE[place:] + POINTER)
            assert viewer.picture() == before  # the round trip shows that what was sent before it has been handled
        assert qemu.picture() == before
        owner.send(KEY_ESCAPE)
        wait_for("another picture", lambda: qemu.picture() != before)
        wait_for("the viewer to see it", lambda: viewer.picture() == qemu.picture())


def test_an_unshared_newcomer_throws_nobody_out(ready):
    stage, _ = ready
    with stage.connect().open(client_init=b"\x00") as first, stage.connect().open(client_init=b"\x00") as second:
        assert first.picture() == second.picture()


def test_every_connection_takes_a_console_of_its_own(ready):
    stage, _ = ready
    for _ in range(3):
        with stage.connect().open() as screen:
            screen.picture()
    assert (stage.pve.consoles, stage.pve.connections) == (3, 3)
