"""LibreOffice is told how a CSV is written, so that it need not ask. That it then does not ask is seen in its template
(`tests/integration/portal/test_still_opens_viewers.py`)."""

from pathlib import Path

import pytest

from myphr.viewers import catalogue, samples
from tests.unit.viewers.guest_modules import guest_module


@pytest.fixture(scope="module")
def window():
    with guest_module("office_window") as module:
        yield module


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("Day;Weight\n2026-01-01;81,5\n2026-01-02;80,9\n", ";"),  # decimal commas divide the lines as well
        ("Day,Note\n2026-01-01,good\n2026-01-02,\"tired; slept badly\"\n", ","),
        ("Day,Note\n2026-01-01,\"a; b\nc; d\"\n2026-01-02,\"e\"\n", ","),  # a line break within quotation marks
        ("Day\tSteps\tNote\n2026-01-01\t9000\twalk, long\n2026-01-02\t200\till\n", "\t"),
        ("a|b|c\n1|2|3\n", "|"),
        ("words alone\nand more\n", ";"),
        ("", ";"),
    ],
)  # fmt: skip
def test_what_separates_the_columns_is_seen(window, text: str, separator: str) -> None:
    assert window.separator_of(text) == separator


@pytest.mark.parametrize(
    ("encoding", "number"), [("utf-8", 76), ("utf-8-sig", 76), ("cp1252", 1), ("utf-16", 65535)]
)
def test_how_it_is_written_is_seen(window, tmp_path: Path, encoding: str, number: int) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("Größe;Datum\n1;2\n".encode(encoding))
    assert window.options_of(str(path)) == f"Text - txt - csv (StarCalc):59,34,{number},1"


def test_a_letter_cut_where_reading_ends_is_still_utf_8(window) -> None:
    assert window.letters_of("é;é\né".encode()[:-1]) == ("utf-8-sig", 76)


def test_each_kind_of_table_is_a_call_of_its_own_and_other_files_come_first(window, tmp_path: Path) -> None:
    written = {"a.csv": b"1;2\n", "b.CSV": b"1,2\n", "c.csv": b"3;4\n", "letter.odt": b"PK"}
    for name, body in written.items():
        (tmp_path / name).write_bytes(body)
    calls = window.calls_of([str(tmp_path / name) for name in written])
    assert all(call[: len(window.PROGRAM)] == window.PROGRAM for call in calls)
    said = [[Path(word).name if "/" in word else word for word in call[len(window.PROGRAM) :]] for call in calls]
    table = "--infilter=Text - txt - csv (StarCalc)"
    assert said == [["letter.odt"], [f"{table}:59,34,76,1", "a.csv", "c.csv"], [f"{table}:44,34,76,1", "b.CSV"]]


def test_our_sample_is_read_as_its_columns(window, tmp_path: Path) -> None:
    (name, body), *_ = samples.of("csv").items()
    (tmp_path / name).write_bytes(body)
    assert window.options_of(str(tmp_path / name)).startswith("Text - txt - csv (StarCalc):59,")


def test_the_viewer_of_office_files_starts_by_this(window) -> None:
    assert catalogue.load()["office"].command[0] == "/usr/lib/myphr/office-window"
