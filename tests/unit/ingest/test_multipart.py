"""Bodies of several parts, as scripts: receive these bytes, expect these events, wherever the pieces are cut."""

import itertools

import pytest

from myphr.ingest import multipart
from myphr.ingest.multipart import Broken, Parser, PartData, PartEnd, PartStart

# "--bad" and "--b" start like the delimiter: the boundary may not stand in the data, but a part of it may
SCRIPT = (
    b"--bnd\r\nContent-Type: application/dicom\r\nX: 1\r\n\r\nfirst\r\n--bad\r--b \r\n-\r\n\r\n--bnd\t \r\n\r\n"
    b"\r\n--bnd\r\n\r\nlast\r\n--bnd--\r\nepilogue\r\n--bnd"
)
PARTS = [({"content-type": "application/dicom", "x": "1"}, b"first\r\n--bad\r--b \r\n-\r\n"), ({}, b""), ({}, b"last")]


def parts_of(pieces, boundary: str = "b", parts_max: int = 10) -> list[tuple[dict, bytes]]:
    """The parts of a whole body, fed in these pieces. Raises Broken."""
    parser = Parser(boundary, parts_max)
    found: list[tuple[dict, bytes]] = []
    open_part = False
    for event in itertools.chain.from_iterable(parser.feed(piece) for piece in pieces):
        if isinstance(event, PartStart):
            assert not open_part
            found.append((event.headers, b""))
            open_part = True
        elif isinstance(event, PartData):
            assert open_part and event.data
            found[-1] = (found[-1][0], found[-1][1] + event.data)
        else:
            assert open_part and isinstance(event, PartEnd)
            open_part = False
    parser.finish()
    assert not open_part
    return found


def test_a_body_gives_its_parts() -> None:
    assert parts_of([SCRIPT], "bnd") == PARTS


@pytest.mark.parametrize("cut", range(1, len(SCRIPT)))
def test_it_does_not_matter_where_the_body_is_cut(cut: int) -> None:
    assert parts_of([SCRIPT[:cut], SCRIPT[cut:]], "bnd") == PARTS


def test_it_does_not_matter_that_bytes_come_one_by_one() -> None:
    assert parts_of([bytes([byte]) for byte in SCRIPT], "bnd") == PARTS


@pytest.mark.parametrize("end", range(SCRIPT.rindex(b"--bnd--") + 7))
def test_a_body_cut_off_anywhere_is_broken(end: int) -> None:
    with pytest.raises(Broken):
        parts_of([SCRIPT[:end]], "bnd")


def test_what_stands_before_the_first_part_is_left_out() -> None:
    assert parts_of([b"This is a message.\r\n--b\r\n\r\nx\r\n--b--"]) == [({}, b"x")]


def test_a_body_without_parts_has_none() -> None:
    assert parts_of([b"--b--"]) == []


def test_data_is_handed_on_before_its_part_is_whole() -> None:
    parser = Parser("b", 1)
    list(parser.feed(b"--b\r\n\r\n"))
    [data] = parser.feed(bytes(100_000))
    assert isinstance(data, PartData) and len(data.data) > 99_990


@pytest.mark.parametrize(("length", "fits"), [(1, True), (73, True), (200, True), (201, False), (0, False)])
def test_a_boundary_has_a_largest_length(length: int, fits: bool) -> None:
    boundary = "x" * length
    body = f"--{boundary}\r\n\r\ny\r\n--{boundary}--".encode()
    if fits:
        assert parts_of([body], boundary) == [({}, b"y")]
    else:
        with pytest.raises(Broken):
            parts_of([body], boundary)


@pytest.mark.parametrize("boundary", ["a\r\nb", "a\0b", "ä", "a ", 'a"b'])
def test_a_boundary_of_other_characters_is_refused(boundary: str) -> None:
    with pytest.raises(Broken):
        Parser(boundary, 1)


@pytest.mark.parametrize(("extra", "fits"), [(0, True), (1, False)])
def test_the_preamble_has_a_largest_size(extra: int, fits: bool) -> None:
    # two bytes of it are the line end that may be missing before the first delimiter
    body = b"p" * (multipart.PREAMBLE_BYTES_MAX - 2 + extra) + b"\r\n--b\r\n\r\nx\r\n--b--"
    if fits:
        assert parts_of([body]) == [({}, b"x")]
    else:
        with pytest.raises(Broken):
            parts_of([body])


@pytest.mark.parametrize("piece_bytes", [1000, 1 << 20])
def test_a_body_that_never_starts_is_not_collected(piece_bytes: int) -> None:
    parser = Parser("b", 1)
    with pytest.raises(Broken):
        for _ in range(20):
            list(parser.feed(b"p" * piece_bytes))


@pytest.mark.parametrize(("extra", "fits"), [(0, True), (1, False)])
def test_the_headers_of_a_part_have_a_largest_size(extra: int, fits: bool) -> None:
    line = b"X: " + b"y" * (multipart.HEADER_BYTES_MAX - 5 + extra)
    body = b"--b\r\n" + line + b"\r\n\r\nx\r\n--b--"
    if fits:
        assert parts_of([body])[0][1] == b"x"
    else:
        with pytest.raises(Broken):
            parts_of([body])


def test_headers_that_never_end_are_not_collected() -> None:
    parser = Parser("b", 1)
    with pytest.raises(Broken):
        for _ in range(20):
            list(parser.feed(b"--b\r\nX: " + b"y" * 1000 if not _ else b"y" * 1000))


@pytest.mark.parametrize(("count", "fits"), [(3, True), (4, False)])
def test_a_body_has_a_largest_number_of_parts(count: int, fits: bool) -> None:
    body = b"".join(b"--b\r\n\r\nx\r\n" for _ in range(count)) + b"--b--"
    if fits:
        assert len(parts_of([body], parts_max=3)) == 3
    else:
        with pytest.raises(Broken):
            parts_of([body], parts_max=3)


@pytest.mark.parametrize(("spaces", "fits"), [(256, True), (257, False)])
def test_white_space_behind_a_delimiter_has_a_largest_size(spaces: int, fits: bool) -> None:
    body = b"--b" + b" " * spaces + b"\r\n\r\nx\r\n--b--"
    if fits:
        assert parts_of([body]) == [({}, b"x")]
    else:
        with pytest.raises(Broken):
            parts_of([body])


@pytest.mark.parametrize("body", [
    b"--bx\r\n\r\ny\r\n--b--", b"--b-\r\n", b"--b\n\nx\n--b--\n", b"--b\r\nno colon\r\n\r\nx\r\n--b--",
    b"--b\r\n: no name\r\n\r\nx\r\n--b--",
])  # fmt: skip
def test_what_is_no_such_body_is_refused(body: bytes) -> None:
    with pytest.raises(Broken):
        parts_of([body])
