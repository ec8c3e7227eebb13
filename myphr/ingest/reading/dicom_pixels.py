"""One frame of a DICOM image as it is looked at: decoded, rescaled, windowed (PS3.3, C.7.6.3, C.7.6.16, C.11).

Takes the middle frame, and only its bytes: a film of a thousand frames costs what one costs. Without a window in the
file, grey is spread over what the frame uses. Decoders: pydicom with Pillow, openjpeg, RLE, JPEG-LS, GDCM.
"""

import copy
import io
import resource
import shutil
import struct
import subprocess
import time
import zlib

import numpy
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import pixel_array
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from myphr.ingest.reading.content import NotRead
from myphr.ingest.reading.dicom_values import number, sequence

PIXELS_MAX = 64_000_000  # of one frame; the largest mammogram has 20 million
PROGRAM_BYTES_MAX = 256 * 1024**2
USED_SAMPLES = 50_000
WORKED_SIDE_MAX = 1024  # rescaling and windowing more than this would be thrown away
NO_DECODER = "Its way of packing pictures is not known here, so there is no preview"
_UNDEFINED = 0xFFFFFFFF
_FILMS = ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101", "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.103",
          "1.2.840.10008.1.2.4.104", "1.2.840.10008.1.2.4.105", "1.2.840.10008.1.2.4.106", "1.2.840.10008.1.2.4.107",
          "1.2.840.10008.1.2.4.108")  # fmt: skip
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"


def warm_up() -> None:
    """Decode one small frame, so that the decoders' own imports are done."""
    dataset = Dataset()
    dataset.Rows = dataset.Columns = 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    body = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 8) + bytes(range(8))
    image_of(dataset, body, 0)
    for name in ("pylibjpeg", "openjpeg", "rle", "jpeg_ls", "gdcm"):
        try:
            __import__(name)
        except ImportError:  # one decoder less: its files get no picture
            continue


def why_not(dataset: Dataset) -> str | None:
    """Why there is no frame to decode, in words, or None. Judged before anything is allocated."""
    rows, columns = number(dataset, "Rows") or 0, number(dataset, "Columns") or 0
    if rows <= 0 or columns <= 0:
        return ""
    if rows * columns * (number(dataset, "SamplesPerPixel") or 1) > PIXELS_MAX:
        return "The picture is too large for a preview"
    if str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", "")) in _FILMS:
        return "It is a film: open it to see it"
    return None


def native_bytes_max(dataset: Dataset) -> int:
    """How many bytes of native pixel data the frame that we show may need, with what stands before it."""
    bits = number(dataset, "BitsAllocated") or 8
    pixels = (number(dataset, "Rows") or 0) * (number(dataset, "Columns") or 0)
    frames = max(1, number(dataset, "NumberOfFrames") or 1) // 2 + 1
    return pixels * (number(dataset, "SamplesPerPixel") or 1) * bits * frames // 8 + 1024


def image_of(dataset: Dataset, data: bytes, at: int) -> Image.Image:
    """The middle frame, or the first of a film that is cut or larger than we were given. `at`: where the pixel data
    element begins in `data`. Raises whatever the decoders do."""
    frames = max(1, number(dataset, "NumberOfFrames") or 1)
    try:
        return _frame(dataset, data, at, frames // 2, frames)
    except Exception:  # of whatever decoder; if the first frame fails too, that is raised and noted with the file
        if frames == 1:
            raise
    return _frame(dataset, data, at, 0, frames)


def _frame(dataset: Dataset, data: bytes, at: int, index: int, frames: int) -> Image.Image:
    if (numbers := _floating(dataset, data, at, index)) is not None:
        return Image.fromarray(_spread(_thinned(numbers), *_used(numbers, numbers, dataset)))
    one = _frame_alone(dataset, data, at, index, frames)
    _hoist_functional_groups(dataset, one, index)
    samples = int(one.get("SamplesPerPixel") or 1)
    pixels = pixel_array(one)
    if pixels.ndim == 3 and samples == 1:
        pixels = pixels[0]
    pixels = _thinned(pixels)
    if samples > 1:
        return Image.fromarray(_eight_bits(pixels, one)[..., :3])
    if str(one.PhotometricInterpretation) == "PALETTE COLOR":
        return Image.fromarray(_scaled_to_eight(apply_color_lut(pixels, one))[..., :3])
    return Image.fromarray(_grey(pixels, one))


def by_dcmtk(dataset: Dataset, data: bytes) -> Image.Image:
    """The middle frame by dcmtk's dcmj2pnm, where it is installed: 12-bit JPEG and retired ways of packing, which no
    library of ours unpacks. It runs within our limits, reads a pipe and writes a pipe. Raises OSError, ValueError."""
    if (program := shutil.which("dcmj2pnm")) is None:
        raise NotRead(NO_DECODER)
    frame = max(1, number(dataset, "NumberOfFrames") or 1) // 2 + 1
    window = ["--use-window", "1"] if _window(dataset) is not None else ["--min-max-window"]
    seconds_left = resource.getrlimit(resource.RLIMIT_CPU)[0] - int(time.process_time())
    done = subprocess.run(
        [program, "--quiet", "--frame", str(frame), *window, "--write-raw-pnm", "-"], input=data,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        preexec_fn=lambda: _lower_limits(seconds_left),
    )  # fmt: skip
    if done.returncode or not done.stdout:
        raise NotRead(NO_DECODER)
    image = Image.open(io.BytesIO(done.stdout), formats=("PPM",))
    image.load()
    return image


def _lower_limits(seconds_left: int) -> None:
    """For a program that we start: the CPU time that we have left, and less memory, for it shares none of ours."""
    for what, most in ((resource.RLIMIT_CPU, seconds_left), (resource.RLIMIT_DATA, PROGRAM_BYTES_MAX)):
        soft, hard = resource.getrlimit(what)
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(what, (max(1, most), hard))


# -- one frame ------------------------------------------------------------------------------------
def _frame_alone(dataset: Dataset, data: bytes, at: int, index: int, frames: int) -> Dataset:
    """The data set as if this frame were all of it."""
    _tag, vr, start, length = _element_at(dataset, data, at)
    one = Dataset()
    for element in dataset.group_dataset(0x0028):
        one[element.tag] = copy.copy(element)
    one.pop("NumberOfFrames", None)
    one.NumberOfFrames = 1
    meta = FileMetaDataset()
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    little = dataset.original_encoding[1] is not False
    if length != _UNDEFINED or syntax is None:  # native, whatever the file claims
        syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    meta.TransferSyntaxUID = syntax
    one.file_meta = meta
    one.set_original_encoding(False, little, "iso8859")
    if "SOPClassUID" in dataset:
        one.SOPClassUID = dataset.SOPClassUID
    if length == _UNDEFINED:
        tables = None
        if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
            tables = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
        packed = io.BytesIO(data)  # shares the bytes: a slice would copy them
        packed.seek(start)
        frame = get_frame(packed, index, extended_offsets=tables, number_of_frames=frames)
        if (raw := _bits_unpacked(frame, one, str(syntax))) is not None:
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one.PixelData = raw + b"\0" * (len(raw) % 2)
            one["PixelData"].VR = "OW" if int(one.BitsAllocated) > 8 else "OB"
            return one
        one.PixelData = encapsulate([frame])
        one["PixelData"].VR = "OB"
        one["PixelData"].is_undefined_length = True
        return one
    bits = int(one.get("BitsAllocated") or 8) * int(one.get("SamplesPerPixel") or 1)
    per_frame_bits = int(one.Rows) * int(one.Columns) * bits
    if str(one.get("PhotometricInterpretation")) == "YBR_FULL_422":
        per_frame_bits = per_frame_bits * 2 // 3
    offset_bits = index * per_frame_bits
    if start + (offset_bits + per_frame_bits + 7) // 8 > len(data):
        index, offset_bits = 0, 0  # cut off, or more than we were given: the first one may be there
    first = start + offset_bits // 8
    raw = data[first : first + (per_frame_bits + 7) // 8 + 1]
    if offset_bits % 8:  # 1-bit frames are packed without a gap (PS3.5, 8.1.1)
        bit_array = numpy.unpackbits(numpy.frombuffer(raw, dtype="uint8"), bitorder="little")
        raw = numpy.packbits(bit_array[offset_bits % 8 :][:per_frame_bits], bitorder="little").tobytes()
    raw = raw[: (per_frame_bits + 7) // 8]
    raw += bytes((per_frame_bits + 7) // 8 - len(raw))  # what is missing at the end of a damaged file is black
    one.PixelData = raw + b"\0" * (len(raw) % 2)
    one["PixelData"].VR = vr if vr in ("OB", "OW") else "OW" if bits > 8 else "OB"
    return one


def _bits_unpacked(frame: bytes, one: Dataset, syntax: str) -> bytes | None:
    """The native bytes of a frame that pydicom cannot unpack: deflated (PS3.5, A.4.13), and RLE of single bits."""
    if syntax == _DEFLATED_FRAMES:
        size = int(one.Rows) * int(one.Columns) * int(one.BitsAllocated) * int(one.get("SamplesPerPixel") or 1)
        return zlib.decompressobj(-15).decompress(frame, size // 8 + 2)
    if syntax != str(RLELossless) or int(one.get("BitsAllocated") or 8) != 1:
        return None
    segments, first = struct.unpack_from("<II", frame)
    if segments != 1:
        return None
    out, at, wanted = bytearray(), first, (int(one.Rows) * int(one.Columns) + 7) // 8
    while at < len(frame) and len(out) < wanted:  # PackBits: PS3.5, G.3.1
        head = frame[at]
        if head < 128:
            out += frame[at + 1 : at + 2 + head]
            at += 2 + head
        else:
            if head > 128:
                out += frame[at + 1 : at + 2] * (257 - head)
            at += 2 if head > 128 else 1
    return bytes(out[:wanted]).ljust(wanted, b"\0")


def _floating(dataset: Dataset, data: bytes, at: int, index: int) -> NDArray | None:
    """A frame of a parametric map, which has numbers with a point instead of pixels (PS3.3, C.7.6.24)."""
    group_element, _vr, start, _length = _element_at(dataset, data, at)
    kind = {0x7FE00008: "f4", 0x7FE00009: "f8"}.get(group_element)
    if kind is None:
        return None
    count = int(dataset.Rows) * int(dataset.Columns)
    order = ">" if dataset.original_encoding[1] is False else "<"
    offset = start + index * count * int(kind[1])
    numbers = numpy.frombuffer(data, numpy.dtype(order + kind), count, offset)
    return numbers.reshape(int(dataset.Rows), int(dataset.Columns))


def _element_at(dataset: Dataset, data: bytes, at: int) -> tuple[int, str, int, int]:
    """Tag, VR, start and length of the pixel data element."""
    encoding: tuple[bool | None, bool | None] = dataset.original_encoding
    implicit, little = encoding
    order = "<" if little is not False else ">"
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax == ImplicitVRLittleEndian and implicit is None:
        implicit = True
    group, element = struct.unpack_from(order + "HH", data, at)
    vr = data[at + 4 : at + 6].decode("latin-1")
    if implicit and not (vr in ("OB", "OW") and data[at + 6 : at + 8] == b"\0\0"):
        [length] = struct.unpack_from(order + "I", data, at + 4)
        return group << 16 | element, "OW", at + 8, length
    [length] = struct.unpack_from(order + "I", data, at + 8)
    return group << 16 | element, vr, at + 12, length


def _hoist_functional_groups(dataset: Dataset, one: Dataset, index: int) -> None:
    """Enhanced objects say window and rescaling per frame or for all frames (PS3.3, C.7.6.16)."""
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = sequence(dataset, keyword)
        if not groups:
            continue
        group = groups[0] if keyword.startswith("Shared") else groups[min(index, len(groups) - 1)]
        for macro in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
            for inner in sequence(group, macro)[:1]:
                for element in inner:
                    one[element.tag] = copy.copy(element)
    for name in ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTShape"):
        if name in dataset and name not in one:
            one[name] = copy.copy(dataset[name])


# -- grey and colour ------------------------------------------------------------------------------
def _thinned(pixels: NDArray) -> NDArray:
    rows, columns, *_ = pixels.shape
    step = max(1, max(rows, columns) // WORKED_SIDE_MAX)
    return pixels[::step, ::step]


def _grey(pixels: NDArray, one: Dataset) -> NDArray:
    if int(one.get("BitsAllocated") or 8) == 1:
        grey = (pixels > 0).astype("uint8") * 255
        return grey
    values = _rescaled(pixels, one)
    if "VOILUTSequence" in one and "WindowCenter" not in one and len(one.VOILUTSequence):
        looked_up = apply_voi(values.astype("int32"), one)
        grey = _spread(numpy.asarray(looked_up, dtype="float32"), looked_up.min(), looked_up.max())
    elif (window := _window(one)) is not None:
        grey = _windowed(values, *window)
    else:
        grey = _spread(values, *_used(values, pixels, one))
    # MONOCHROME1 is shown inverted; its presentation LUT shape INVERSE says the same once more (C.8.11.3.1.2).
    return 255 - grey if str(one.PhotometricInterpretation) == "MONOCHROME1" else grey


def _rescaled(pixels: NDArray, one: Dataset) -> NDArray:
    """Modality values (C.7.6.3.1.1, C.11.1), in place where that is all: each copy of a picture costs as much as its
    decoding."""
    if "ModalityLUTSequence" in one and len(one.ModalityLUTSequence):
        return numpy.asarray(apply_modality_lut(pixels, one), dtype="float32")
    values = pixels.astype("float32")
    try:
        slope, intercept = float(one.get("RescaleSlope") or 1), float(one.get("RescaleIntercept") or 0)
    except (TypeError, ValueError):
        return values
    if slope != 1:
        values *= slope
    if intercept:
        values += intercept
    return values


def _window(one: Dataset) -> tuple[float, float, str] | None:
    """The first window of the file, if it is one."""
    try:
        center, width = one.get("WindowCenter"), one.get("WindowWidth")
        center = center[0] if type(center).__name__ == "MultiValue" else center
        width = width[0] if type(width).__name__ == "MultiValue" else width
        if center is None or width is None:
            return None
        function = str(one.get("VOILUTFunction") or "LINEAR")
        center, width = float(center), float(width)
    except (TypeError, ValueError, IndexError):
        return None
    smallest = 1.0 if function == "LINEAR" else 0.0
    if not numpy.isfinite([center, width]).all() or width < smallest or (width == 0):
        return None
    return center, width, function


def _windowed(values: NDArray, center: float, width: float, function: str) -> NDArray:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        with numpy.errstate(over="ignore"):
            return (255 / (1 + numpy.exp(-4 * (values - center) / width))).astype("uint8")
    if function == "LINEAR_EXACT":
        low, high = center - width / 2, center + width / 2
    else:
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    if high <= low:
        return numpy.where(values > low, 255, 0).astype("uint8")
    return _spread(values, low, high)


def _used(values: NDArray, pixels: NDArray, one: Dataset) -> tuple[float, float]:
    """Where the frame's values lie, without padding (C.7.5.1.1.2) and a few that stick out."""
    kept = values
    padding = one.get("PixelPaddingValue")
    if isinstance(padding, int):
        limit = one.get("PixelPaddingRangeLimit")
        ends = sorted((padding, limit if isinstance(limit, int) else padding))
        inside = values[(pixels < ends[0]) | (pixels > ends[1])]
        kept = inside if inside.size else values
    kept = kept.ravel()[:: max(1, kept.size // USED_SAMPLES)]  # sorting all of them takes longer than all the rest
    kept = kept[numpy.isfinite(kept)]
    if not kept.size:
        return 0.0, 1.0
    low, high = numpy.percentile(kept, (0.5, 99.5))
    return (low, high) if high > low else (float(kept.min()), float(kept.max()))


def _spread(values: NDArray, low: float, high: float) -> NDArray:
    """`values` from low to high as 0 to 255. Takes them over: they are another's no more."""
    if not numpy.isfinite(values.min() + values.max()):
        values = numpy.nan_to_num(values)
    values = values.astype("float32", copy=False) if values.flags.writeable else values.astype("float32")
    values -= low
    values *= 255 / ((high - low) or 1)
    return numpy.clip(values, 0, 255, out=values).astype("uint8")


def _eight_bits(pixels: NDArray, one: Dataset) -> NDArray:
    stored = int(one.get("BitsStored") or 8)
    if pixels.dtype == numpy.uint8 and stored <= 8:
        return numpy.ascontiguousarray(pixels)
    return (pixels.astype("float32") * (255 / ((1 << stored) - 1))).clip(0, 255).astype("uint8")


def _scaled_to_eight(colours: NDArray) -> NDArray:
    return numpy.ascontiguousarray(colours if colours.dtype == numpy.uint8 else (colours >> 8).astype("uint8"))
