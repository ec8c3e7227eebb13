"""Settings: unknown keys are refused, defaults live below home."""

from pathlib import Path

import pytest

from myphr.errors import ConfigurationError
from myphr.settings import load


def test_misspelt_setting_is_refused():
    with pytest.raises(ConfigurationError, match="MYPHR_HOEM"):
        load({"MYPHR_HOEM": "x"})


def test_number_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="MYPHR_MACHINES_MAX"):
        load({"MYPHR_MACHINES_MAX": "many"})


def test_defaults_live_below_home(tmp_path: Path):
    settings = load({"MYPHR_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path}/db/myphr.sqlite"
    assert settings.files_listen == f"unix:{tmp_path}/run/files/{{vmid}}.sock"
    assert settings.embedded_hypervisor


def test_a_named_node_is_not_the_embedded_hypervisor():
    assert not load({"MYPHR_PROXMOX_URL": "https://pve.example:8006"}).embedded_hypervisor


def test_other_programs_variables_are_left_alone():
    assert load({"PATH": "/bin", "HOME": "/"}).machines_max == load({}).machines_max


def test_warm_pool_reads_as_sizes():
    assert load({"MYPHR_WARM_POOL": "radiology=2, documents=0"}).warm_pool_sizes == {"radiology": 2, "documents": 0}


@pytest.mark.parametrize("text", ["radiology", "radiology=x", "=1", "radiology=-1"])
def test_a_warm_pool_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigurationError, match="MYPHR_WARM_POOL"):
        load({"MYPHR_WARM_POOL": text})


def test_a_home_whose_sockets_would_not_fit_is_refused_and_the_longest_that_fits_is_told(tmp_path: Path) -> None:
    load({}, home=Path("/srv/myphr")).need_short_home()
    with pytest.raises(ConfigurationError, match="at most 78 letters"):
        load({}, home=Path("/srv/" + 60 * "ü")).need_short_home()  # 65 letters, but bytes count
    load({}, home=Path("/" + 77 * "x")).need_short_home()
    with pytest.raises(ConfigurationError):
        load({}, home=Path("/" + 78 * "x")).need_short_home()
