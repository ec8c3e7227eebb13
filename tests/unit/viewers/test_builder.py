"""The builder's arithmetic: recipes, driver order, archives and the first sector. Whole builds: tests/integration."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from myphr.errors import ConfigurationError
from myphr.viewers import builder, probe_picture


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch) -> Path:
    """A copy of the recipes that a test may change."""
    shutil.copytree(builder.HERE, tmp_path / "viewers", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(builder, "HERE", tmp_path / "viewers")
    monkeypatch.setattr(builder, "TEMPLATES", tmp_path / "viewers" / "templates")
    monkeypatch.setattr(builder, "GUEST", tmp_path / "viewers" / "guest")
    return tmp_path / "viewers"


@pytest.mark.parametrize("name", builder.names())
def test_every_recipe_is_whole_and_its_sources_are_there(name):
    recipe = builder.read_recipe(name)
    for source in [*recipe.programs.values(), *recipe.files.values()]:
        assert builder.source_of(recipe, source).is_file()
    assert {"sbin/init", "usr/lib/myphr/agent", "usr/lib/myphr/desk"} <= {*recipe.programs, *recipe.files}


@pytest.mark.parametrize("name", builder.names())
def test_a_template_carries_every_module_that_its_programs_import(name):
    files = builder.read_recipe(name).files
    folder = "usr/lib/myphr/"
    carried = {where.removeprefix(folder) for where in files if where.startswith(folder)}
    for source in files.values():
        path = builder.source_of(builder.read_recipe(name), source)
        if path.suffix == ".py":
            imports = re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.M)
            ours = {f"{module}.py" for module in imports if (builder.GUEST / f"{module}.py").exists()}
            assert ours <= carried, source


def test_an_unknown_template_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigurationError, match="probe"):
        builder.read_recipe("../../etc")


def test_a_misspelt_key_is_refused(recipes: Path):
    path = recipes / "templates" / "probe" / "recipe.toml"
    path.write_text("memry = 5\n" + path.read_text())
    with pytest.raises(ConfigurationError, match="memry"):
        builder.read_recipe("probe")


@pytest.mark.parametrize(
    "changed", ["guest/agent.c", "guest/json.h", "guest/init", "templates/probe/recipe.toml", "builder.py"]
)
def test_whatever_the_image_is_made_of_changes_the_revision(recipes: Path, changed: str):
    before = builder.revision(builder.read_recipe("probe"))
    with (recipes / changed).open("a") as file:
        file.write("\n")
    assert builder.revision(builder.read_recipe("probe")) != before


def test_another_templates_sources_do_not_change_the_revision(recipes: Path):
    before = builder.revision(builder.read_recipe("probe"))
    with (recipes / "guest" / "simple_images.py").open("a") as file:
        file.write("\n")
    assert builder.revision(builder.read_recipe("probe")) == before


def test_an_image_that_was_cut_is_not_reused(tmp_path: Path):
    revision = builder.revision(builder.read_recipe("probe"))
    (tmp_path / "probe.qcow2").write_bytes(b"12345")
    (tmp_path / "probe.json").write_text(f'{{"revision": "{revision}", "image_bytes": 5}}')
    assert builder.current("probe", tmp_path) is not None
    (tmp_path / "probe.qcow2").write_bytes(b"1234")
    assert builder.current("probe", tmp_path) is None


def test_drivers_come_after_those_they_need():
    text = "k/a.ko: k/b.ko k/c.ko\nk/b.ko: k/c.ko\nk/c.ko:\nk/d_e.ko:\n"
    assert builder.driver_order(text, ["d-e", "a", "missing"]) == ["k/d_e.ko", "k/c.ko", "k/b.ko", "k/a.ko"]


def test_initramfs_archive_is_read_by_a_foreign_program(tmp_path: Path):
    archive = builder.cpio([("bin", 0o040755, b""), ("bin/x", 0o100755, b"hello"), ("init", 0o100755, b"#!")])
    done = subprocess.run(["busybox", "cpio", "-i", "-d"], input=archive, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bin" / "x").read_bytes() == b"hello"
    assert (tmp_path / "bin" / "x").stat().st_mode & 0o111


def test_first_sector_names_both_partitions_and_starts_the_first():
    sector = builder.master_boot_record([(0x0E, 2048, 1000, True), (0x83, 3048, 500, False)])
    assert len(sector) == 512 and sector.endswith(b"\x55\xaa")
    assert struct.unpack_from("<I", sector, 440)[0] == builder.DISK_SIGNATURE
    first = struct.unpack_from("<B3sB3sII", sector, 446)
    assert (first[0], first[2], first[4], first[5]) == (0x80, 0x0E, 2048, 1000)


def test_proxmox_is_asked_for_a_machine_without_root_only_keys():
    config = builder.proxmox_config(builder.read_recipe("radiology"))
    assert not {"args", "lock", "hookscript", "affinity"} & set(config)
    assert config["agent"] == "enabled=1" and config["bios"] == "seabios"


def draw(width: int, height: int, files: int, digest: str) -> dict[tuple[int, int], tuple[int, int, int]]:
    """The probe's picture as its specification says, at any size."""
    rows = {6: files, 7: (3 << 16) | 4, **{8 + i: int(digest[8 * i : 8 * i + 8], 16) for i in range(8)}}
    picture = {}
    for y in range(height):
        row = y * probe_picture.ROWS // height
        for x in range(width):
            column = x * probe_picture.COLUMNS // width
            if row < 5:
                colour = probe_picture.BARS[column // 4]
            elif row == 5:
                colour = probe_picture.STATES["ready"]
            elif row in rows:
                colour = (255, 255, 255) if rows[row] >> (31 - column) & 1 else (32, 32, 32)
            else:
                colour = (48, 48, 72)
            picture[x, y] = colour
    return picture


@pytest.mark.parametrize(("width", "height"), [(320, 200), (211, 133)], ids=["a quarter", "an odd size"])
def test_probe_picture_is_read_back_at_any_size(width, height):
    digest = "0123456789abcdef" * 4
    picture = draw(width, height, 40, digest)
    found = probe_picture.read(lambda x, y: picture[x, y], width, height)
    assert found == probe_picture.ProbePicture("ready", 40, 3, 4, digest)


def test_a_screen_that_is_not_the_probes_is_not_read():
    assert probe_picture.read(lambda x, y: (0, 0, 0), 1280, 800) is None
