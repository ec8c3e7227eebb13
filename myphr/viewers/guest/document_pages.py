"""What "Simple documents" shows, without a screen: a file becomes pages, a page an image of the width asked for.
PDF by MuPDF, pictures by Pillow, text by itself, office files by LibreOffice turned into PDF first. Runs in the guest;
knows no window system. A file that cannot be shown raises CannotShow with a sentence that helps.
"""

import dataclasses
import os
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

PICTURES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}
PLAIN = {".txt", ".text", ".log", ".json", ".xml", ".md", ".csv", ".hl7", ".ics", ".vcf", ".yaml", ".yml"}
OFFICE = {".docx", ".doc", ".odt", ".rtf", ".xlsx", ".xls", ".ods", ".pptx", ".ppt", ".odp", ".html", ".htm"}
KINDS = {
    "pdf": "PDF document", "picture": "Picture", "text": "Text", "office": "Office file", "unknown": "Unknown kind",
}  # fmt: skip
OFFICE_SECONDS_MAX = 150
PIXELS_MAX = 60_000_000  # of one picture or page
TEXT_BYTES_MAX = 4_000_000
LINES_PER_PAGE, COLUMNS_PER_LINE = 60, 100
TEXT_FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"
Image.MAX_IMAGE_PIXELS = PIXELS_MAX


class CannotShow(Exception):
    """One sentence for the person in front of the screen."""


def kind_of(path: str) -> str:
    """By the first bytes, then by the name: patients rename files."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return "unknown"
    ending = Path(path).suffix.lower()
    if b"%PDF-" in head:
        return "pdf"
    signatures = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM")
    if head.startswith(signatures) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "picture"
    if head.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0", b"{\\rtf")) or ending in OFFICE:
        return "office" if ending in OFFICE or not head.startswith(b"PK") else "unknown"
    if ending in PICTURES:
        return "picture"
    if ending in PLAIN or (head and b"\0" not in head and ending not in (".dcm",)):
        return "text"
    return "unknown"


@dataclasses.dataclass
class Document:
    """An opened file. `page` gives one page as an image that is `width` pixels wide."""

    pages: int

    def start_width(self, width: int, height: int) -> int:
        """Width to begin with in a window of this size: a text is read from its top, a picture is seen whole."""
        return width

    def page(self, number: int, width: int, turns: int) -> Image.Image:
        raise NotImplementedError


class Pdf(Document):
    def __init__(self, path: str) -> None:
        import fitz

        try:
            self.file = fitz.open(path, filetype="pdf")
        except Exception as reason:  # MuPDF's own errors
            raise CannotShow("This PDF is damaged and cannot be shown.") from reason
        if self.file.needs_pass:
            raise CannotShow("This PDF asks for a password. Open it with qpdfview, which can ask you for it.")
        super().__init__(self.file.page_count)
        if self.pages < 1:
            raise CannotShow("This PDF has no pages.")

    def page(self, number: int, width: int, turns: int) -> Image.Image:
        import fitz

        try:
            page = self.file.load_page(number)
            wide = page.rect.height if turns % 2 else page.rect.width
            high = page.rect.width if turns % 2 else page.rect.height
            scale = width / max(wide, 1)
            scale = min(scale, (PIXELS_MAX / max(wide * high, 1)) ** 0.5)
            pixels = page.get_pixmap(matrix=fitz.Matrix(scale, scale).prerotate(90 * turns), alpha=False)
            return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples)
        except Exception as reason:
            raise CannotShow("This page is damaged and cannot be shown.") from reason


class Photo(Document):
    def __init__(self, path: str) -> None:
        try:
            self.image = Image.open(path)
            super().__init__(getattr(self.image, "n_frames", 1))
        except Exception as reason:  # Pillow raises many kinds
            raise CannotShow("This picture is damaged, too large, or of a kind that cannot be shown here.") from reason

    def start_width(self, width: int, height: int) -> int:
        whole = min(width, height * self.image.width // max(self.image.height, 1), 3 * self.image.width)
        return max(whole, 64)

    def page(self, number: int, width: int, turns: int) -> Image.Image:
        try:
            self.image.seek(number)
            image = ImageOps.exif_transpose(self.image.convert("RGB"))
            image = image.rotate(-90 * turns, expand=True) if turns else image
            return image.resize((width, max(1, round(image.height * width / image.width))), Image.BILINEAR)
        except Exception as reason:
            raise CannotShow("This picture is damaged and cannot be shown.") from reason


class Text(Document):
    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            body = file.read(TEXT_BYTES_MAX)
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = body.decode("utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252", errors="replace")
        self.lines: list[str] = []
        for line in text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4).split("\n"):
            self.lines += [line[i : i + COLUMNS_PER_LINE] for i in range(0, max(len(line), 1), COLUMNS_PER_LINE)]
        super().__init__(max(1, -(-len(self.lines) // LINES_PER_PAGE)))

    def page(self, number: int, width: int, turns: int) -> Image.Image:
        size = max(8, int(width / (COLUMNS_PER_LINE + 8) / 0.602))  # 0.602: a column's width over the font's size
        font = ImageFont.truetype(TEXT_FONT, size)
        step, margin = int(size * 1.4), 4 * size
        image = Image.new("RGB", (width, step * LINES_PER_PAGE + 2 * margin), "white")
        draw = ImageDraw.Draw(image)
        for i, line in enumerate(self.lines[number * LINES_PER_PAGE : (number + 1) * LINES_PER_PAGE]):
            draw.text((margin, margin + i * step), line, font=font, fill="#101418")
        return image.rotate(-90 * turns, expand=True) if turns else image


class Conversion:
    """An office file on its way to a PDF, in a process of its own."""

    def __init__(self, path: str, profile: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="office-")
        command = ["soffice", f"-env:UserInstallation=file://{profile}", "--headless", "--norestore", "--nologo"]
        command += ["--convert-to", "pdf", "--outdir", self.folder.name, path]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)

    def result(self) -> Pdf | None:
        """None while it runs."""
        if self.process.poll() is None:
            return None
        made = [os.path.join(self.folder.name, name) for name in os.listdir(self.folder.name) if name.endswith(".pdf")]
        if not made:
            raise CannotShow("This office file is damaged or of a kind that cannot be shown here.")
        return Pdf(made[0])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def open_document(path: str) -> Document:
    """Everything but office files, which take a Conversion."""
    kind = kind_of(path)
    if os.path.getsize(path) == 0:
        raise CannotShow("This file is empty.")
    if kind == "pdf":
        return Pdf(path)
    if kind == "picture":
        return Photo(path)
    if kind == "text":
        return Text(path)
    raise CannotShow("This viewer does not know this kind of file. It is kept safe in your record.")
