"""Templates for these tests: built once below build/templates and reused while nothing they are made of has changed."""

import shutil
from pathlib import Path

import pytest

from myphr.viewers import builder

TEMPLATES = Path(__file__).parents[3] / "build" / "templates"


@pytest.fixture(scope="session")
def probe_template() -> builder.Built:
    missing = [
        tool for tool in ("mmdebstrap", "gcc", "syslinux", "mksquashfs", "qemu-system-x86_64") if not shutil.which(tool)
    ]
    if missing:
        pytest.fail(f"these tests need {', '.join(missing)}: see .ci/packages.txt")
    return builder.build("probe", TEMPLATES, print)
