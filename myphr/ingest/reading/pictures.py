"""Pictures as we keep them: at most 512 pixels, at most 100 KiB, nothing in them but pixels."""

import io

from PIL import Image

from myphr.records.reading import PREVIEW_BYTES_MAX

SIDE_PIXELS_MAX = 512
PIXELS_MAX = 100_000_000  # a whole-slide thumbnail and any camera fit; grey takes 1 byte each, RGB 4
QUALITIES = (82, 70, 55, 40)

Image.MAX_IMAGE_PIXELS = PIXELS_MAX // 2  # Pillow refuses above twice that


def jpeg_of(image: Image.Image) -> bytes:
    """The picture in the size and form that we keep. Raises ValueError if it cannot be made small enough."""
    image = _flat(image)
    image.thumbnail((SIDE_PIXELS_MAX, SIDE_PIXELS_MAX), Image.Resampling.LANCZOS, reducing_gap=2.0)
    for quality in QUALITIES:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if out.tell() <= PREVIEW_BYTES_MAX:
            return out.getvalue()
    raise ValueError("a picture that no quality makes small")


def png_of(image: Image.Image) -> bytes:
    """For line drawings: sharp and small. Falls back to JPEG."""
    out = io.BytesIO()
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=32).save(out, "PNG", optimize=True)
    return out.getvalue() if out.tell() <= PREVIEW_BYTES_MAX else jpeg_of(image)


def _flat(image: Image.Image) -> Image.Image:
    """RGB or grey, on white where it is transparent; 16-bit grey stretched over what it uses."""
    if image.mode not in ("L", "RGB"):  # a conversion copies it: not all of 50 megapixels
        image.thumbnail((SIDE_PIXELS_MAX * 8, SIDE_PIXELS_MAX * 8), Image.Resampling.NEAREST)
    if image.mode in ("I", "F", "I;16", "I;16B", "I;16L", "I;16N"):
        import numpy

        values = numpy.asarray(image, dtype="float32")
        low, high = float(values.min()), float(values.max())
        return Image.fromarray(((values - low) * (255 / ((high - low) or 1))).astype("uint8"))
    if image.mode in ("La", "RGBa"):  # colours that are multiplied already
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode == "LAB":
        return image.getchannel("L")  # without a profile there are no right colours
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        over = image.convert("RGBA")
        paper = Image.new("RGB", over.size, "white")
        paper.paste(over, mask=over.getchannel("A"))
        return paper
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
