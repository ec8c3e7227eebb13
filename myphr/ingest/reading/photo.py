"""Photos and pictures: the picture itself, upright, and what its camera noted (Exif 2.32, TIFF tags).

Where it was taken is told, never shown: a map would have to be asked for. Read by Pillow, HEIC by pi-heif.
"""

import datetime as dt
import io
from collections.abc import Iterator

import pi_heif
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from myphr.ingest.reading import pictures
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import Moment, moment_of
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"jpeg", "png", "gif", "webp", "bmp", "tiff", "heif", "jp2", "j2k", "ome-tiff"})
_PILLOW = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "HEIF")
_TOO_LARGE = "The picture is too large for a preview"


def warm_up() -> None:
    pi_heif.options.DECODE_THREADS = 1
    pi_heif.register_heif_opener()
    Image.init()
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    list(read(Content("jpeg", out.getvalue(), out.tell())))


def read(content: Content) -> Iterator[FullReading]:
    try:
        image: Image.Image = Image.open(io.BytesIO(content.data), formats=_PILLOW)
    except Image.DecompressionBombError:
        raise NotRead(_TOO_LARGE) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, TypeError, EOFError):
        raise NotRead from None
    words = _words(image)
    yield FullReading(words)
    if image.width * image.height > pictures.PIXELS_MAX:
        raise NotRead(_TOO_LARGE)
    if image.format == "HEIF" and getattr(image, "is_animated", False):
        image = image.copy()  # its plug-in decodes one of several pictures anew at each look, in the first size
    image.draft("RGB", (pictures.SIDE_PIXELS_MAX * 2, pictures.SIDE_PIXELS_MAX * 2))  # JPEG: decode small at once
    ImageOps.exif_transpose(image, in_place=True)  # or an upright one would be copied: 200 MB of 50 megapixels
    yield FullReading(words, pictures.jpeg_of(image))


def _words(image: Image.Image) -> Reading:
    facts = [("Size", f"{image.width:,} × {image.height:,} pixels")]
    try:
        exif = image.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        places = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, EOFError, RuntimeError):
        exif, inner, places = Image.Exif(), {}, {}
    taken = _moment(inner.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime))
    camera = _text(exif.get(ExifTags.Base.Model))
    maker = _text(exif.get(ExifTags.Base.Make))
    if maker and not camera.lower().startswith(maker.lower().split()[0]):
        camera = f"{maker} {camera}".strip()
    if camera:
        facts.append(("Taken with", camera))
    if taken and taken.time_words:
        facts.append(("Time", taken.time_words))
    if places.get(ExifTags.GPS.GPSLatitude) is not None:
        facts.append(("Where", "The photo tells where it was taken. Whoever gets the file can read the place."))
    pages = int(getattr(image, "n_frames", 1) or 1) if image.format in ("TIFF", "GIF", "WEBP", "HEIF") else 1
    if pages > 1:
        facts.append(("Pages" if image.format == "TIFF" else "Pictures in it", f"{min(pages, 9999):,}"))
    title = _text(exif.get(ExifTags.Base.ImageDescription))
    if image.format == "TIFF" and title.startswith(_FOR_PROGRAMS):
        title = ""
    return Reading(
        kind_words="Photo" if camera or (taken and image.format != "TIFF") else "Picture",  # a TIFF's time: of its file
        title=title,
        date=taken.iso if taken else "",
        date_words=taken.words if taken else "",
        author=_text(exif.get(ExifTags.Base.Artist)),
        facts=tuple(facts),
        text="\n".join(filter(None, (title, camera, _text(inner.get(ExifTags.Base.UserComment))))),
    )


def _moment(value: object) -> Moment | None:
    """Exif writes 2019:07:03 12:04:59."""
    try:
        return moment_of(dt.datetime.strptime(_text(value)[:19], "%Y:%m:%d %H:%M:%S"))
    except ValueError:
        return None


# What microscopes and libraries write into the description of a TIFF for each other
_FOR_PROGRAMS = ("<", "{", "ImageJ=", "SCANIMAGE", "Converted DICOM Image", "converted PNM file")


def _text(value: object) -> str:
    """Exif says ASCII, Pillow reads Latin-1, and most programs write UTF-8."""
    if isinstance(value, bytes):
        value = value.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace")
    if isinstance(value, str) and not value.isascii():
        try:
            value = value.encode("latin-1").decode("utf-8")
        except UnicodeError:
            pass
    return str(value).strip("\0 ") if isinstance(value, str) else ""
