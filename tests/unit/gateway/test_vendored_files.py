"""The front-end files we ship are byte for byte those of the recorded packages."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

VENDOR = Path(__file__).resolve().parents[3] / "static" / "vendor"
_spec = importlib.util.spec_from_file_location("vendor", VENDOR / "vendor.py")
assert _spec is not None and _spec.loader is not None
vendor = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vendor)
RECORD = json.loads((VENDOR / "CHECKSUMS.json").read_text())


def test_committed_files_are_the_recorded_ones():
    assert vendor.differences(VENDOR, RECORD) == []


def test_every_package_brings_its_licence():
    for package, entry in RECORD.items():
        assert any("LICENSE" in name for name in entry["files"]), package


@pytest.mark.parametrize("change", ["flip", "remove", "add"])
def test_a_changed_file_is_noticed(tmp_path, change):
    shutil.copytree(VENDOR, tmp_path / "vendor")
    victim = tmp_path / "vendor" / "novnc" / "core" / "rfb.js"
    if change == "flip":
        victim.write_bytes(victim.read_bytes() + b" ")
    elif change == "remove":
        victim.unlink()
    else:
        victim.with_name("extra.js").write_text("alert(1)")
    assert len(vendor.differences(tmp_path / "vendor", RECORD)) == 1
