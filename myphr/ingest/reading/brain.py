"""Research images of the brain: NIfTI-1 and -2, also packed. The slice in the middle of the first volume.

Offsets and sizes are the file's claims: a slice is read only where the file has its bytes.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy
from PIL import Image

from myphr.ingest.reading import pictures
from myphr.ingest.reading.content import Content, NotRead
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"nifti", "nifti-gz"})
UNPACKED_BYTES_MAX = 128 * 1024**2
SLICE_PIXELS_MAX = 16_000_000
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


def warm_up() -> None:
    pass


def read(content: Content) -> Iterator[FullReading]:
    head = _bytes(content, 0, 540)
    order = next((mark for mark in "<>" if struct.unpack_from(mark + "i", head)[0] in (348, 540)), None)
    if order is None:
        raise NotRead("The file is damaged")
    if struct.unpack_from(order + "i", head)[0] == 348:
        dims = struct.unpack_from(order + "8h", head, 40)
        [code] = struct.unpack_from(order + "h", head, 70)
        spacing = struct.unpack_from(order + "8f", head, 76)
        at = int(struct.unpack_from(order + "f", head, 108)[0])
        told = head[148:228]
        separate = head[344:347] == b"ni1"
    else:
        dims = struct.unpack_from(order + "8q", head, 16)
        [code] = struct.unpack_from(order + "h", head, 12)
        spacing = struct.unpack_from(order + "8d", head, 104)
        [at] = struct.unpack_from(order + "q", head, 168)
        told = head[240:320]
        separate = head[4:7] == b"ni2"
    count = dims[0]
    if not 1 <= count <= 7 or any(size < 1 for size in dims[1 : count + 1]):
        raise NotRead("The file is damaged")
    sizes = " × ".join(f"{size:,}" for size in dims[1 : min(count, 3) + 1])
    volumes = dims[4] if count > 3 else 1
    millimetres = " × ".join(f"{abs(size):.3g}" for size in spacing[1 : min(count, 3) + 1])
    title = told.split(b"\0")[0].decode("latin-1").strip()
    times = f"{volumes:,}" if volumes > 1 else ""
    facts = [("Size", f"{sizes} points, {millimetres} mm each"), ("Points in time", times)]
    words = Reading(
        kind_words="Research image", title="Research image", text=title,
        facts=tuple((name, value) for name, value in (*facts, ("Notes", title)) if value),
    )  # fmt: skip
    yield FullReading(words)
    kind = _TYPES.get(code)
    if kind is None or count < 2 or separate or dims[1] * dims[2] > SLICE_PIXELS_MAX:
        return
    width, height, depth = dims[1], dims[2], dims[3] if count > 2 else 1
    size = width * height * int(kind[1])
    start = at + depth // 2 * size
    raw = _bytes(content, start, size)
    if len(raw) < size:
        raise NotRead("The file is shorter than it says")
    values = numpy.frombuffer(raw, numpy.dtype(order + kind)).reshape(height, width).astype("float32")
    values = numpy.nan_to_num(values[::-1])  # rows run towards the front of the head: it stands on top
    low, high = numpy.percentile(values, (1, 99.5))
    grey = (numpy.clip((values - low) / ((high - low) or 1), 0, 1) * 255).astype("uint8")
    image = Image.fromarray(grey)
    if spacing[1] > 0 and spacing[2] > 0 and 0.2 < spacing[2] / spacing[1] < 5:
        image = image.resize((width, max(1, round(height * spacing[2] / spacing[1]))))
    yield FullReading(words, pictures.jpeg_of(image))


def _bytes(content: Content, start: int, length: int) -> bytes:
    """From the file, or from its unpacked stream, of which no more than is asked for is kept."""
    if content.format == "nifti":
        return content.data[start : start + length]
    if start < 0 or start + length > UNPACKED_BYTES_MAX:
        raise NotRead("The file is too large for a preview")
    inflate = zlib.decompressobj(31)
    seen, kept, rest = 0, bytearray(), content.data
    try:
        while seen < start + length and rest:
            block = inflate.decompress(rest, 1024**2)
            rest = inflate.unconsumed_tail
            if not block:
                break
            kept += block[max(0, start - seen) : max(0, start + length - seen)]
            seen += len(block)
    except zlib.error:
        raise NotRead("The file is damaged") from None
    return bytes(kept)
