"""Samples of letters, pictures and text that are made when they are wanted, all with the same chart of dark bars: wide
enough that a page without it is not like a page with it, even when both are compared at 320 by 200 points. True files
of their formats. LETTER, TABLE and SLIDE are OpenDocument (ISO/IEC 26300); the office files beside this module are
these, saved by LibreOffice.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping

from PIL import Image, ImageDraw

from myphr.viewers.samples import made

BARS = (9, 3, 7, 1, 5, 8, 2, 6)  # of ten: no two neighbours alike
NAME = "Sample letter"
DAYS = [f"2026-01-{day:02}" for day in range(1, 9)]


# -- pictures ---------------------------------------------------------------------------------------------------------
def picture(kind: str, ending: str) -> Callable[[], Mapping[str, bytes]]:
    def load() -> Mapping[str, bytes]:
        image = Image.new("RGB", (720, 480), (236, 232, 220))
        pen = ImageDraw.Draw(image)
        for row, wide in enumerate(BARS):
            pen.rectangle((30, 30 + 54 * row, 30 + 44 * wide, 66 + 54 * row), fill=(40 + 20 * row, 60, 150 - 12 * row))
        pen.ellipse((500, 60, 690, 250), fill=(180, 40, 40))
        pen.ellipse((555, 115, 635, 195), fill=(250, 240, 120))
        body = io.BytesIO()
        image.save(body, kind)
        return {f"photo.{ending}": body.getvalue()}

    return load


# -- text -------------------------------------------------------------------------------------------------------------
def text() -> Mapping[str, bytes]:
    lines = [NAME, "", *(line for wide in BARS for line in ["#" * 9 * wide] * 3 + [""]), "The end of this letter."]
    return {"letter.txt": "\n".join(lines).encode()}


def csv() -> Mapping[str, bytes]:
    rows = [f"{day};{wide};{'#' * 8 * wide}" for day, wide in zip(DAYS, BARS, strict=True) for _ in range(4)]
    return {"steps.csv": "\n".join(["Day;Hours;Chart", *rows, ""]).encode()}


def xml() -> Mapping[str, bytes]:
    rows = "".join(f'  <day date="{d}">{"#" * 7 * w}</day>\n' * 4 for d, w in zip(DAYS, BARS, strict=True))
    return {"steps.xml": f'<?xml version="1.0" encoding="UTF-8"?>\n<steps>\n{rows}</steps>\n'.encode()}


def json_() -> Mapping[str, bytes]:
    rows = [{"day": day, "chart": "#" * 8 * wide} for day, wide in zip(DAYS, BARS, strict=True) for _ in range(2)]
    return {"steps.json": json.dumps({"steps": rows}, indent=1).encode()}


def html() -> Mapping[str, bytes]:
    bar = '<table width="{}%"><tr><td bgcolor="#203870"><font size="6">&nbsp;</font></td></tr></table>\n'
    bars = "".join(bar.format(10 * wide) for wide in BARS)
    return {"letter.html": f"<!DOCTYPE html>\n<html><body><h1>{NAME}</h1>\n{bars}</body></html>\n".encode()}


# -- pages ------------------------------------------------------------------------------------------------------------
def pdf() -> Mapping[str, bytes]:
    return {"letter.pdf": _pdf()}


def _pdf() -> bytes:
    """PDF 1.4 with one page, words in a font that every reader has (ISO 32000-1, 9.6.2.2)."""
    bars = "".join(f"60 {700 - 40 * row} {45 * wide} 26 re f\n" for row, wide in enumerate(BARS))
    page = f"BT /F1 40 Tf 60 760 Td ({NAME}) Tj ET\n0.12 0.2 0.45 rg\n{bars}"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold >> >> >> >>",
        f"<< /Length {len(page)} >>\nstream\n{page}\nendstream",
    ]
    body, places = "%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{one}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    count = len(objects) + 1
    trailer = f"trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 {count}\n0000000000 65535 f \n{table}{trailer}".encode()


def postscript() -> Mapping[str, bytes]:
    bars = "".join(f"60 {700 - 40 * row} {45 * wide} 26 rectfill\n" for row, wide in enumerate(BARS))
    head = "%!PS-Adobe-3.0\n%%BoundingBox: 0 0 595 842\n%%Pages: 1\n%%EndComments\n%%Page: 1 1\n"
    words = f"/Helvetica-Bold findfont 40 scalefont setfont 60 760 moveto ({NAME}) show\n0.12 0.2 0.45 setrgbcolor\n"
    return {"letter.ps": f"{head}{words}{bars}showpage\n%%EOF\n".encode()}


def wrapped_pdf() -> Mapping[str, bytes]:
    """The letter as a hospital wraps it in DICOM (PS3.3, A.45.1)."""
    dataset = made.dataset_of("1.2.840.10008.5.1.4.1.1.104.1", f"{made.ROOT}.5.1", "DOC", f"{made.ROOT}.1.5")
    dataset.DocumentTitle, dataset.MIMETypeOfEncapsulatedDocument = NAME, "application/pdf"
    dataset.BurnedInAnnotation, dataset.ConceptNameCodeSequence = "NO", []
    dataset.EncapsulatedDocument = _pdf() + b"\0" * (len(_pdf()) % 2)
    return {"letter.dcm": made.written(dataset)}


# -- OpenDocument -----------------------------------------------------------------------------------------------------
_SPACES = " ".join(
    f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
    for short, long in {
        "office": "office", "style": "style", "text": "text", "table": "table", "draw": "drawing",
        "fo": "xsl-fo-compatible", "svg": "svg-compatible",
    }.items()
)  # fmt: skip
_TITLE = '<style:style style:name="T" style:family="paragraph"><style:text-properties fo:font-size="40pt" \
fo:font-weight="bold"/></style:style>'


def letter() -> Mapping[str, bytes]:
    styles = _TITLE + "".join(
        f'<style:style style:name="B{wide}" style:family="paragraph"><style:paragraph-properties '
        f'fo:background-color="#203870" fo:margin-right="{16 - 1.6 * wide:.1f}cm" fo:margin-bottom="0.3cm"/>'
        '<style:text-properties fo:font-size="22pt"/></style:style>'
        for wide in BARS
    )
    bars = "".join(f'<text:p text:style-name="B{wide}"> </text:p>' for wide in BARS)
    body = f'<office:text><text:p text:style-name="T">{NAME}</text:p>{bars}</office:text>'
    return {"letter.odt": _opendocument("text", styles, body)}


def table() -> Mapping[str, bytes]:
    styles = (
        '<style:style style:name="D" style:family="table-cell"><style:table-cell-properties '
        'fo:background-color="#203870"/></style:style><style:style style:name="R" style:family="table-row">'
        '<style:table-row-properties style:row-height="1cm" style:use-optimal-row-height="false"/></style:style>'
    )
    rows = "".join(
        f'<table:table-row table:style-name="R"><table:table-cell office:value-type="float" office:value="{wide}">'
        f"<text:p>{wide}</text:p></table:table-cell>"
        + '<table:table-cell table:style-name="D"/>' * wide
        + "</table:table-row>"
        for wide in BARS
    )
    body = f'<office:spreadsheet><table:table table:name="Sample">{rows}</table:table></office:spreadsheet>'
    return {"table.ods": _opendocument("spreadsheet", styles, body)}


def slide() -> Mapping[str, bytes]:
    styles = (
        '<style:style style:name="G" style:family="graphic"><style:graphic-properties draw:fill="solid" '
        'draw:fill-color="#203870" draw:stroke="none"/></style:style>' + _TITLE
    )
    bars = "".join(
        f'<draw:rect draw:style-name="G" svg:x="2cm" svg:y="{4.5 + 1.3 * row:.1f}cm" svg:width="{2.4 * wide:.1f}cm" '
        'svg:height="0.9cm"/>'
        for row, wide in enumerate(BARS)
    )
    title = (
        '<draw:frame svg:x="2cm" svg:y="1.5cm" svg:width="22cm" svg:height="2.4cm"><draw:text-box>'
        f'<text:p text:style-name="T">{NAME}</text:p></draw:text-box></draw:frame>'
    )
    page = f'<draw:page draw:name="Sample" draw:master-page-name="Default">{title}{bars}</draw:page>'
    return {
        "slide.odp": _opendocument("presentation", styles, f"<office:presentation>{page}</office:presentation>")
    }


_LAYOUT = f"""<?xml version="1.0" encoding="UTF-8"?>
<office:document-styles {_SPACES} office:version="1.2"><office:automatic-styles><style:page-layout style:name="L">
<style:page-layout-properties fo:page-width="28cm" fo:page-height="15.75cm" fo:margin="0cm"/></style:page-layout>
</office:automatic-styles><office:master-styles><style:master-page style:name="Default" style:page-layout-name="L"/>
</office:master-styles></office:document-styles>"""


def _opendocument(kind: str, styles: str, body: str) -> bytes:
    mimetype = f"application/vnd.oasis.opendocument.{kind}"
    parts = {
        "mimetype": mimetype,
        "content.xml": f'<?xml version="1.0" encoding="UTF-8"?>\n<office:document-content {_SPACES} '
        f'office:version="1.2"><office:automatic-styles>{styles}</office:automatic-styles>'
        f"<office:body>{body}</office:body></office:document-content>",
        **({"styles.xml": _LAYOUT} if kind == "presentation" else {}),
    }
    entries = [("/", mimetype), *((name, "text/xml") for name in parts if name != "mimetype")]
    listed = "".join(f'<m:file-entry m:full-path="{name}" m:media-type="{media}"/>' for name, media in entries)
    parts["META-INF/manifest.xml"] = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<m:manifest xmlns:m='
        f'"urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" m:version="1.2">{listed}</m:manifest>'
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in parts.items():
            file.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)  # stored: mimetype must be
    return archive.getvalue()
