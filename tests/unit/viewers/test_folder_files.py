"""Which files a viewer of ours opens, and which one it shows first."""

from pathlib import Path

import pytest

from tests.unit.viewers.guest_modules import guest_module


@pytest.fixture(scope="module")
def files():
    with guest_module("folder_files") as module:
        yield module


def test_the_middle_of_the_largest_series_comes_first_and_the_rest_in_order(files):
    paths = [
        *(f"/data/CT/1 - Scout/{n:04}.dcm" for n in range(2)),
        *(f"/data/CT/2 - Head/{n:04}.dcm" for n in range(9)),
    ]
    ordered = files.middle_first(paths)
    assert ordered[0] == "/data/CT/2 - Head/0004.dcm"
    assert ordered[1:] == [path for path in paths if path != ordered[0]]


def test_of_two_series_as_large_the_first_one_is_shown(files):
    assert files.middle_first(["/a/1", "/a/2", "/a/3", "/b/1", "/b/2", "/b/3"])[0] == "/a/2"


@pytest.mark.parametrize("paths", [[], ["/a/1"]])
def test_nothing_and_one_file_stay_what_they_are(files, paths):
    assert files.middle_first(paths) == paths


def test_files_come_in_the_order_of_their_paths_without_results_and_hidden_ones(files, tmp_path: Path):
    for name in ("b/2", "b/1", "a/1", "results/kept.png", "a/results/scan", ".hidden", "z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [str(Path(path).relative_to(tmp_path)) for path in files.files_below(str(tmp_path))]
    assert found == ["z", "a/1", "a/results/scan", "b/1", "b/2"]


def test_whatever_goes_wrong_in_a_file_becomes_one_of_its_sentences(files):
    def told(error: Exception, *sentences: str) -> str:
        with pytest.raises(files.CannotShow) as said, files.said_in_a_sentence(*sentences):
            raise error
        return str(said.value)

    assert told(ZeroDivisionError(), "Damaged.", "Large.") == "Damaged."
    assert told(MemoryError(), "Damaged.", "Large.") == "Large."
    assert told(MemoryError(), "Damaged.") == "Damaged."
    assert told(files.CannotShow("It asks for a password."), "Damaged.") == "It asks for a password."


def test_a_single_file_is_itself(files, tmp_path: Path):
    (tmp_path / "one").write_bytes(b"x")
    assert list(files.files_below(str(tmp_path / "one"))) == [str(tmp_path / "one")]
