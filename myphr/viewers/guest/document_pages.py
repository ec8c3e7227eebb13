"""What "Simple documents" shows, without a screen: a file becomes pages, a page an image of the width asked for.
PDF by MuPDF, pictures by Pillow, text by itself, office files turned into PDF by LibreOffice first. Runs in the guest;
knows no window system. A file that cannot be shown raises CannotShow with a sentence that helps.
"""

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

from folder_files import CannotShow, first_bytes
from PIL import Image, ImageDraw, ImageFont, ImageOps

PICTURES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}
PLAIN = {".txt", ".text", ".log", ".json", ".xml", ".md", ".csv", ".hl7", ".ics", ".vcf", ".yaml", ".yml"}
OFFICE = {".docx", ".doc", ".odt", ".rtf", ".xlsx", ".xls", ".ods", ".pptx", ".ppt", ".odp", ".html", ".htm"}
KINDS = {
    "pdf": "PDF document", "picture": "Picture", "text": "Text", "office": "Office file", "unknown": "Unknown kind",
}  # fmt: skip
OFFICE_SECONDS_MAX = 150
OFFICE_WARM_SECONDS_MAX = 60  # a machine is given up when it does not wait for a claim 180 s after its start
PIXELS_MAX = 60_000_000  # of one picture or page
TEXT_BYTES_MAX = 4_000_000
WRAPPING_BYTES_MAX = 65_536  # of DICOM headers before a PDF
LINES_PER_PAGE, COLUMNS_PER_LINE = 60, 100
TEXT_FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"
Image.MAX_IMAGE_PIXELS = PIXELS_MAX


def kind_of(path: str) -> str:
    """By the first bytes, then by the name: patients rename files."""
    head = first_bytes(path, 1024)
    ending = Path(path).suffix.lower()
    if b"%PDF-" in head or pdf_in_dicom(path):
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


def pdf_in_dicom(path: str) -> int:
    """Where the PDF begins that a hospital wrapped in DICOM (PS3.3, A.45.1); 0 for anything else. Its headers come
    before it, and MuPDF looks for a beginning in the first KiB alone."""
    head = first_bytes(path, WRAPPING_BYTES_MAX)
    return max(0, head.find(b"%PDF-")) if head[128:132] == b"DICM" else 0


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
            if begin := pdf_in_dicom(path):
                self.file = fitz.open(stream=Path(path).read_bytes()[begin:], filetype="pdf")
            else:
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


class Office:
    """LibreOffice in a process that is kept (office_to_pdf.py): one file after the other becomes a PDF.

    A file that was chosen and then left is finished and forgotten: loading LibreOffice anew takes longer. One that
    takes longer than `seconds_max` costs the process."""

    def __init__(self, program: list[str], seconds_max: float = OFFICE_SECONDS_MAX) -> None:
        self.program, self.seconds_max = program, seconds_max
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = tempfile.TemporaryDirectory(prefix="office-")
        self.is_warm = False
        self.unread = b""
        self.count = 0
        self.sent: list[tuple[str, str]] = []  # (path, the PDF to be) that are not answered yet
        self.wanted: tuple[str, str] | None = None
        self.since = 0.0

    def start(self) -> None:
        """Loads it, unless that is done; returns at once."""
        if self.process is not None and self.process.poll() is None:
            return
        self._end()
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.program, stdin=pipe, stdout=pipe)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.since = time.monotonic()

    def wait_until_warm(self, seconds_max: float) -> bool:
        """False if it did not come up in this time; it may yet."""
        deadline = time.monotonic() + seconds_max
        while not self.is_warm and self.process is not None and time.monotonic() < deadline:
            select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            self._read()
        return self.is_warm

    def begin(self, path: str) -> None:
        """Asks for a PDF of this file."""
        self.count += 1
        self.wanted = (path, os.path.join(self.folder.name, f"{self.count}.pdf"))
        self._send(self.wanted)

    def forget(self) -> None:
        """What was asked for is not wanted any more."""
        self.wanted = None

    def result(self) -> str | None:
        """The PDF that was asked for last, or None while it is made. Raises CannotShow."""
        assert self.wanted is not None
        self._read()
        wanted = self.wanted
        if wanted not in self.sent:
            self.wanted = None
            if os.path.exists(wanted[1]):
                return wanted[1]
            raise CannotShow("This office file is damaged or of a kind that cannot be shown here.")
        if time.monotonic() - self.since > self.seconds_max:
            mine = self.sent[0] == wanted
            self._end()
            if mine:
                self.wanted = None
                self.start()  # for the next one
                raise CannotShow("This file took too long to prepare. Open it with LibreOffice.")
            self._send(wanted)  # the one before it was to blame
        return None

    def _send(self, one: tuple[str, str]) -> None:
        self.start()
        assert self.process is not None and self.process.stdin is not None
        if not self.sent:
            self.since = time.monotonic()
        self.sent.append(one)
        order = json.dumps({"from": one[0], "to": one[1]})
        with contextlib.suppress(OSError):  # it has just ended: the next look says so
            self.process.stdin.write(order.encode() + b"\n")
            self.process.stdin.flush()

    def _read(self) -> None:
        if self.process is None or self.process.stdout is None:
            return
        piece = b""
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self.process.stdout.fileno(), 4096)
            if not piece:  # it crashed, on the file that it was asked first
                waiting, was_warm = self.sent[1:], self.is_warm
                self._end()
                if self.wanted is not None and self.wanted in waiting:
                    self._send(self.wanted)
                elif was_warm:
                    self.start()
                return
        *lines, self.unread = (self.unread + piece).split(b"\n")
        for line in lines:
            self.since = time.monotonic()
            if line == b"warm":
                self.is_warm = True
            elif self.sent:
                done = self.sent.pop(0)
                if done != self.wanted:
                    with contextlib.suppress(OSError):
                        os.unlink(done[1])

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
        for _, target in self.sent:
            with contextlib.suppress(OSError):
                os.unlink(target)  # half written, if at all
        self.process, self.is_warm, self.unread, self.sent = None, False, b"", []


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
