"""Compound files (MS-CFB) for tests: a header, one sector of the allocation table, a directory that goes where it is
told. It lists the root, then what is asked for; what is embedded hangs below a storage of its own."""

import struct

END, FREE, TABLE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD
NONE = 0xFFFFFFFF


def entry(name: str, kind: int, *, right: int = NONE, child: int = NONE) -> bytes:
    """One directory entry (2.6.1)."""
    encoded = name.encode("utf-16-le") + b"\0\0" if name else b""
    return struct.pack("<64sHBBIII16sIQQIQ", encoded, len(encoded), kind, 1, NONE, right, child, b"", 0, 0, 0, 0, 0)


def compound(
    *streams: str, embedded: tuple[str, ...] = (), first: bytes = b"", directory: tuple[int, ...] = (1, 2, 3, 4),
    sector_bytes: int = 512,
) -> bytes:  # fmt: skip
    """`directory`: the sectors that hold it, in the order of their chain. `first`: what the streams begin with, from
    sector 5 on. The allocation table is sector 0."""
    entries = [entry("Root Entry", 5, child=1)]
    entries += [entry(one, 2, right=at + 2) for at, one in enumerate(streams)]
    pool = len(entries)
    entries.append(entry("ObjectPool", 1, child=pool + 1 if embedded else NONE))
    entries += [entry(one, 2, right=pool + 2 + at if at + 1 < len(embedded) else NONE)
                for at, one in enumerate(embedded)]  # fmt: skip
    listed = b"".join(entries)
    listed += entry("", 0) * ((len(directory) * sector_bytes - len(listed)) // 128)
    assert len(listed) == len(directory) * sector_bytes, "the directory does not fit"
    table = [FREE] * (sector_bytes // 4)
    table[0] = TABLE
    for here, following in zip(directory, (*directory[1:], END), strict=True):
        if here < len(table):
            table[here] = following
    sectors = {0: struct.pack(f"<{len(table)}I", *table)}
    for at, number in enumerate(directory):
        sectors[number] = listed[at * sector_bytes : (at + 1) * sector_bytes]
    for at in range(0, len(first), sector_bytes):
        sectors[5 + at // sector_bytes] = first[at : at + sector_bytes].ljust(sector_bytes, b"\0")
    shift = 12 if sector_bytes == 4096 else 9
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + struct.pack(
        "<16sHHHHH6sIIIIIIIII", b"", 0x3E, 3, 0xFFFE, shift, 6, b"", 0, 1, directory[0], 0, 4096, END, 0, END, 0
    )
    header += struct.pack("<109I", 0, *([FREE] * 108))
    last = max(sectors)
    body = b"".join(sectors.get(number, b"").ljust(sector_bytes, b"\0") for number in range(last + 1))
    return header.ljust(sector_bytes, b"\0") + body
