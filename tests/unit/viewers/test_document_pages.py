"""What Simple documents makes of a file, by its bytes. MuPDF itself is in the guest only."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.viewers.guest_modules import guest_module

PDF = b"%PDF-1.4\n1 0 obj\n"


@pytest.fixture(scope="module")
def pages() -> Iterator[ModuleType]:
    with guest_module("document_pages") as module:
        yield module


def wrapped(header_bytes: int) -> bytes:
    """A PDF in DICOM, as far as its beginning matters."""
    return (bytes(128) + b"DICM").ljust(header_bytes, b"\0") + PDF


@pytest.mark.parametrize("header_bytes", [200, 818, 3000, 65_000])
def test_a_pdf_in_dicom_is_found_behind_its_headers(pages: ModuleType, tmp_path: Path, header_bytes: int) -> None:
    path = tmp_path / "letter.dcm"
    path.write_bytes(wrapped(header_bytes))
    assert pages.kind_of(str(path)) == "pdf" and pages.pdf_in_dicom(str(path)) == header_bytes


@pytest.mark.parametrize("content", [PDF, b"", bytes(5000), b"\0" * 128 + b"DICM" + bytes(900), wrapped(70_000)])
def test_everything_else_is_no_pdf_in_dicom(pages: ModuleType, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thing.dcm"
    path.write_bytes(content)
    assert pages.pdf_in_dicom(str(path)) == 0


def test_a_file_that_is_gone_is_no_pdf_in_dicom(pages: ModuleType, tmp_path: Path) -> None:
    assert pages.pdf_in_dicom(str(tmp_path / "gone")) == 0
