"""Letters, health records, laboratory messages, ECGs, genomes, photos: what they say; and that markup does nothing."""

import base64
import gzip
import io
import json
import struct

import edfio
import hl7
import numpy
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from myphr.ingest.reading import FORMATS, child, hl7v2, kinds, safe_html, scp, sheets
from myphr.records import formats
from tests.unit.ingest.reading.conftest import Read

CDA = """<?xml version="1.0"?><?xml-stylesheet href="evil.xsl"?>
<ClinicalDocument xmlns="urn:hl7-org:v3"><typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
<code displayName="Discharge summary"/><title>Letter of the clinic</title><effectiveTime value="20240826101500+0200"/>
<recordTarget><patientRole><patient><name><given>Vera</given><family>Lindqvist</family></name>
<birthTime value="19700131"/></patient></patientRole></recordTarget>
<author><assignedAuthor><assignedPerson><name><prefix>Dr</prefix><given>Nils</given><family>Berger</family></name>
</assignedPerson><representedOrganization><name>Heart ward</name></representedOrganization></assignedAuthor></author>
<custodian><assignedCustodian><representedCustodianOrganization><name>Harbour Hospital</name>
</representedCustodianOrganization></assignedCustodian></custodian>
<component>{body}</component></ClinicalDocument>"""
SECTION = """<structuredBody><component><section><title>Findings {extra}</title><text>
<table><thead><tr><th colspan="2">What</th></tr></thead><tbody><tr><td><content styleCode="Bold">Pulse</content></td>
<td>62</td></tr></tbody></table><list listType="ordered"><item>first</item></list>
<linkHtml href="javascript:alert(1)">a link</linkHtml><paragraph onclick="x()">fine</paragraph>
<renderMultiMedia referencedObject="x"/></text><component><section><title>Inner</title><text>deeper</text></section>
</component></section></component></structuredBody>"""
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj "
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj "
    b"4 0 obj<</Length 56>>stream\nBT /F 24 Tf 72 700 Td (Discharge letter of Vera) Tj ET\nendstream endobj "
    b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj "
    b"6 0 obj<</Title(Letter)/Author(Dr Berger)/CreationDate(D:20240826101500)>>endobj\n"
    b"trailer<</Root 1 0 R/Info 6 0 R>>"
)


def harmless(markup: str | None) -> bool:
    """Judged by another parser than the one that cleaned: nothing but the elements and attributes that do nothing."""
    tags = BeautifulSoup(markup or "", "html5lib").find_all(True)
    return all(tag.name in safe_html.TAGS | {"html", "head", "body"} for tag in tags) and not any(
        set(tag.attrs) - {"colspan", "rowspan", "scope", "start"} for tag in tags
    )


def test_the_check_for_harmless_markup_can_fail():
    for markup in ("<script>x</script>", "<p onclick=x>", "<a href=x>y</a>", "<img src=x>", "<svg/onload=x>"):
        assert not harmless(markup)


def test_every_format_that_gets_an_order_has_a_reader_and_words():
    assert set(kinds.READERS) == FORMATS and set(formats.FORMATS) >= FORMATS


# -- letters --------------------------------------------------------------------------------------
def test_a_pdf_shows_its_first_page_and_says_who_and_when(read: Read):
    full = read(PDF)
    assert (full.reading.title, full.reading.author, full.reading.date) == ("Letter", "Dr Berger", "2024-08-26")
    assert "Discharge letter of Vera" in full.reading.text
    grey = numpy.asarray(Image.open(io.BytesIO(full.preview)).convert("L"))
    assert grey.shape[0] == 512 and grey.min() < 100 and grey[-50:].min() > 240  # words on top, paper below


@pytest.mark.parametrize("content", [PDF[:200], b"%PDF-1.7\n" + bytes(2000)])
def test_a_damaged_pdf_has_a_note_and_no_picture(read: Read, content: bytes):
    full = read(content, "pdf")
    assert full is not None and full.preview is None and full.reading.note


def test_a_text_document_of_an_office_has_words_and_core_properties(read: Read):
    from tests.hostile import zip_of

    docx = zip_of(
        ("[Content_Types].xml", b"<Types/>"),
        ("word/document.xml", b'<w:document xmlns:w="w"><w:p><w:t>Dear Vera,</w:t></w:p><w:p><w:t>all is well</w:t>'
                              b"</w:p></w:document>"),
        ("docProps/core.xml", b'<c xmlns:dc="d"><dc:title>A letter</dc:title><dc:creator>Dr Berger</dc:creator>'
                              b"<created>2024-08-26T10:00:00Z</created></c>"),
    )  # fmt: skip
    reading = read(docx, "docx").reading
    assert (reading.title, reading.author, reading.date) == ("A letter", "Dr Berger", "2024-08-26")
    assert "Dear Vera,\nall is well" in reading.text


@pytest.mark.parametrize(
    ("creator", "author"), [("Un-named", ""), ("openpyxl", ""), ("Un-named person", "Un-named person")]
)
def test_what_a_library_writes_for_nobody_is_nobody(read: Read, creator: str, author: str):
    from tests.hostile import zip_of

    document = zip_of(
        ("[Content_Types].xml", b"<Types/>"),
        ("word/document.xml", b'<w:document xmlns:w="w"><w:p><w:t>x</w:t></w:p></w:document>'),
        ("docProps/core.xml", f'<c xmlns:dc="d"><dc:creator>{creator}</dc:creator></c>'.encode()),
    )
    assert read(document, "docx").reading.author == author


def test_a_binary_workbook_says_that_its_words_are_not_found(read: Read):
    from tests.hostile import zip_of

    core = b"<x xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:title>Doses</dc:title></x>"
    words = read(zip_of(("xl/workbook.bin", b"\x83\x01\0"), ("docProps/core.xml", core)), "xlsx").reading
    assert words.title == "Doses"
    assert ("Text", "None that can be searched") in words.facts


def test_a_workbook_shows_the_numbers_and_days_of_its_first_sheet(read: Read):
    from tests.hostile import zip_of

    xlsx = zip_of(
        ("[Content_Types].xml", b"<Types/>"),
        ("xl/workbook.xml", b'<w xmlns="m" xmlns:r="r"><sheets><sheet sheetId="1" r:id="rId7"/></sheets></w>'),
        ("xl/_rels/workbook.xml.rels", b'<R xmlns="p"><Relationship Id="rId7" Target="worksheets/sheet9.xml"/></R>'),
        ("xl/sharedStrings.xml",
         b'<sst xmlns="m"><si><t>Day</t></si><si><r><t>Wei</t></r><r><t>ght</t></r></si></sst>'),
        ("xl/styles.xml", b'<styleSheet xmlns="m"><numFmts><numFmt numFmtId="164" formatCode="[$-407]d. mmm yy;@"/>'
                          b'<numFmt numFmtId="165" formatCode="0.0 &quot;days&quot;"/></numFmts>'
                          b'<cellXfs><xf numFmtId="0"/>'
                          b'<xf numFmtId="164"/><xf numFmtId="22"/><xf numFmtId="10"/><xf numFmtId="165"/></cellXfs>'
                          b"</styleSheet>"),
        ("xl/worksheets/sheet9.xml",
         b'<worksheet xmlns="m"><sheetData>'
         b'<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>'
         b'<row r="2"><c r="A2" s="1"><v>46023</v></c><c r="B2"><v>70.5</v></c></row>'
         b'<row r="3"><c r="A3" s="2"><v>46023.5</v></c><c r="B3" s="3"><v>0.25</v></c>'
         b'<c r="D3" s="4"><v>3</v></c></row>'
         b'<row r="4"><c r="A4" s="1"><v>1</v></c><c r="B4" t="inlineStr"><is><t>&lt;b&gt;light</t></is></c></row>'
         b"</sheetData></worksheet>"),
    )  # fmt: skip
    full = read(xlsx, "xlsx")
    table = BeautifulSoup(full.narrative or "", "html.parser")
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
    assert rows == [["Day", "Weight", ""], ["2026-01-01", "70.5", ""], ["2026-01-01 12:00", "25 %", "3"],
                    ["1900-01-01", "<b>light", ""]]  # fmt: skip
    assert harmless(full.narrative)


@pytest.mark.parametrize(("number", "since_1904", "shown"), [
    (0.75, False, "18:00"), (59, False, "1900-02-28"), (61, False, "1900-03-01"), (44_561, True, "2026-01-01"),
    (1e300, False, "1e+300"),
])  # fmt: skip
def test_days_of_a_workbook_are_counted_as_its_program_counts(number: float, since_1904: bool, shown: str):
    assert sheets._day(number, since_1904) == shown


def test_a_blue_button_file_names_its_day_and_its_sections(read: Read):
    veterans = (
        b"------------------ MY HEALTHEVET PERSONAL INFORMATION REPORT -------------------\r\n"
        b"                    Produced by the VA Blue Button (v12.6)\r\n"
        b"                               09 Sep 2013 @ 0602\r\n\r\nName: ONE, PATIENT\r\n"
        b"------------------------------- VA DEMOGRAPHICS --------------------------------\r\n"
        b"--------------------------------------------------------------------------------\r\nWater: 4\r\n"
        b"--------------------------------------------------------------------------------\r\n"
    )
    insurer = (
        b"--------------------------------\nMYMEDICARE.GOV PERSONAL HEALTH INFORMATION\n\n"
        b"--------------------------------\n03/16/2013 5:10 AM\n\n--------------------------------\nDrugs\n\n"
        b"--------------------------------\n"
    )
    for content, day, sections in (
        (veterans, "2013-09-09", "MY HEALTHEVET PERSONAL INFORMATION REPORT, VA DEMOGRAPHICS"),
        (insurer, "2013-03-16", "MYMEDICARE.GOV PERSONAL HEALTH INFORMATION, Drugs"),
    ):
        reading = read(content, "text-bluebutton").reading
        assert (reading.date, dict(reading.facts)["Sections"]) == (day, sections)


def test_markup_in_a_web_page_a_mail_and_a_table_is_only_text(read: Read):
    hostile = b"<script>alert(1)</script><img src=x onerror=alert(1)><b>words</b>"
    for format_, content in (
        ("html", b"<html><title>T</title><body>" + hostile),
        ("eml", b"Subject: S\r\nContent-Type: text/html\r\n\r\n" + hostile),
        ("csv", b"a,b\n" + hostile + b",2"), ("text", hostile), ("rtf", b"{\\rtf1 " + hostile + b"}"),
    ):  # fmt: skip
        full = read(content, format_)
        assert harmless(full.narrative), format_
        assert "words" in full.reading.text


def test_an_rtf_letter_is_its_words(read: Read):
    rtf = (b"{\\rtf1\\ansi{\\fonttbl{\\f0 Arial;}}{\\info{\\title Brief}{\\author Dr Berger}"
           b"{\\creatim\\yr2024\\mo8\\dy26}}{\\*\\generator x}Gr\\'fc\\'dfe\\par zweite \\u8364?Zeile}")  # fmt: skip
    reading = read(rtf).reading
    assert (reading.title, reading.author, reading.date) == ("Brief", "Dr Berger", "2024-08-26")
    assert "Grüße\nzweite €Zeile" in reading.text and "Arial" not in reading.text


# -- health records -------------------------------------------------------------------------------
def test_a_cda_letter_says_who_when_where_and_its_sections_are_safe(read: Read):
    full = read(CDA.format(body=SECTION.format(extra="")).encode())
    reading = full.reading
    assert (reading.title, reading.date, reading.patient) == ("Letter of the clinic", "2024-08-26", "Vera Lindqvist")
    assert (reading.author, reading.place) == ("Dr Nils Berger", "Heart ward")
    facts = dict(reading.facts)
    assert facts["Kept by"] == "Harbour Hospital" and facts["Sections"] == "Findings"
    assert facts["Born"] == "31 January 1970"
    assert harmless(full.narrative) and "<b>Pulse</b>" in full.narrative and 'colspan="2"' in full.narrative
    assert "<ol><li>first</li></ol>" in full.narrative and "deeper" in full.narrative and "a link" in full.narrative


def test_a_cda_around_a_pdf_shows_the_page(read: Read):
    body = '<nonXMLBody><text mediaType="application/pdf" representation="B64">{}</text></nonXMLBody>'
    full = read(CDA.format(body=body.format(base64.b64encode(PDF).decode())).encode())
    assert full.preview and full.reading.title == "Letter of the clinic" and "Discharge letter" in full.reading.text


@pytest.mark.parametrize("before", [
    '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>', '<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd">',
    " " * 70_000 + "<!DOCTYPE x>",
])  # fmt: skip
def test_a_document_type_is_refused(read: Read, before: str):
    whole = CDA.format(body=SECTION.format(extra="")).replace("<ClinicalDocument", before + "<ClinicalDocument", 1)
    full = read(whole.encode(), "cda-xml")
    assert full.narrative is None and "document type" in full.reading.note


def test_what_a_cda_escapes_stays_escaped(read: Read):
    hostile = "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=y&gt;"
    full = read(CDA.format(body=SECTION.format(extra=hostile)).encode())
    assert "<script" not in full.narrative and "&lt;script&gt;" in full.narrative


BUNDLE = {
    "resourceType": "Bundle", "type": "document", "timestamp": "2024-08-27", "entry": [
        {"fullUrl": "urn:uuid:1", "resource": {
            "resourceType": "Composition", "title": "Patient summary", "date": "2024-08-26T10:00:00+02:00",
            "subject": {"reference": "urn:uuid:2"}, "author": [{"reference": "urn:uuid:3"}],
            "custodian": {"reference": "urn:uuid:4"}, "section": [
                {"title": "Allergies", "text": {"div": "<div><p onclick='x()'>Nuts<script>alert(1)</script>"
                                                       "<a href='http://evil.example'>more</a><img src=x></p></div>"}},
                {"title": "Illnesses", "entry": [{"reference": "urn:uuid:5"}]}]}},
        {"fullUrl": "urn:uuid:2", "resource": {"resourceType": "Patient", "birthDate": "1970-01-31",
                                               "name": [{"given": ["Vera"], "family": "Lindqvist"}]}},
        {"fullUrl": "urn:uuid:3", "resource": {"resourceType": "Practitioner", "name": [{"text": "Dr Berger"}]}},
        {"fullUrl": "urn:uuid:4", "resource": {"resourceType": "Organization", "name": "Harbour Hospital"}},
        {"fullUrl": "urn:uuid:5", "resource": {"resourceType": "Condition", "onsetDateTime": "2019-05",
                                               "code": {"coding": [{"display": "Asthma"}]}}},
    ],
}  # fmt: skip


def test_a_fhir_document_says_who_when_where_and_its_narratives_are_safe(read: Read):
    full = read(json.dumps(BUNDLE).encode())
    reading = full.reading
    assert (reading.title, reading.date, reading.patient) == ("Patient summary", "2024-08-26", "Vera Lindqvist")
    assert (reading.author, reading.place) == ("Dr Berger", "Harbour Hospital")
    assert harmless(full.narrative) and "Nuts" in full.narrative and "Asthma" in full.narrative
    assert "May 2019" in full.narrative and "1 illness" in dict(reading.facts)["In it"]


def test_fhir_as_xml_and_one_a_line_are_read_alike(read: Read):
    xml = b"""<Observation xmlns="http://hl7.org/fhir"><status value="final"/><code><text value="Pulse"/></code>
      <subject><display value="Vera"/></subject><effectiveDateTime value="2024-08-26"/>
      <valueQuantity><value value="62"/><unit value="/min"/></valueQuantity></Observation>"""
    full = read(xml)
    assert (full.reading.title, full.reading.date) == ("Pulse", "2024-08-26")
    assert dict(full.reading.facts)["Result"] == "62 /min"
    vaccination = {"resourceType": "Immunization", "vaccineCode": {"text": "Measles"}, "occurrenceDateTime": "2001"}
    line = json.dumps(vaccination)
    assert "Measles" in read(f"{line}\n{line}\n".encode(), "fhir-ndjson").narrative


@pytest.mark.parametrize("content", [
    b'{"resourceType":"Bundle","entry":' + b"[" * 50_000, b'{"resourceType":"Patient","x":' + b"9" * 200_000 + b"}",
    b'{"resourceType":"Bundle","entry":[{"resource":3},{},null,{"resource":{"resourceType":7,"code":[[]]}}]}',
    b'{"resourceType":"Observation","code":"x","valueQuantity":[{"value":{}}],"subject":[],"component":{"a":1}}',
    b'{"resourceType":"Bundle","entry":{"resource":{"resourceType":"Composition","section":{"section":{"text":4}}}}}',
])  # fmt: skip
def test_a_strange_resource_never_ends_in_nothing_said(read: Read, content: bytes):
    full = read(content, "fhir-json")
    assert full is not None and harmless(full.narrative)


def test_a_laboratory_message_is_a_table_of_results(read: Read):
    message = (
        "MSH|^~\\&|LIS|Lab at the Bridge|||20240826101500||ORU^R01|1|P|2.5\r"
        "PID|1||4711||Lindqvist^Vera^M||19700131\r"
        "OBR|1|||GLU^Glucose^L|||20240825080000|||||||||7^Berger^Nils^^^Dr\r"
        "OBX|1|NM|GLU^Glucose^L||182|mg/dl|70-105|H|||F\r"
        "OBX|2|TX|X^Note||One line\\.br\\another \\T\\ more, long enough to be a text of its own <script>|||||||F\r"
    )
    full = read(b"\xef\xbb\xbf" + message.encode())
    reading = full.reading
    assert (reading.title, reading.date, reading.place) == ("Glucose", "2024-08-25", "Lab at the Bridge")
    assert reading.patient == "Vera M Lindqvist" and dict(reading.facts)["Asked for by"] == "Dr Nils Berger"
    for words in ("182 mg/dl", "high", "70-105"):
        assert f"<td>{words}</td>" in full.narrative
    assert "One line<br>another &amp; more" in full.narrative and harmless(full.narrative)


def test_fields_of_a_message_are_those_of_another_parser():
    text = (
        "MSH|^~\\&|LIS|Lab^1|||20240826||ORU^R01|1|P|2.5\rPID|1||4711^^^A~4712||Lindqvist^Vera^M^^Dr\r"
        "OBX|1|CE|GLU^Glucose^L||H^high&very^X||70-105\\T\\more|H\r"
    )
    ours, theirs = hl7v2.Message(text), hl7.parse(text)
    for segment, field, component in (("MSH", 4, 1), ("MSH", 9, 2), ("PID", 3, 1), ("PID", 5, 1), ("PID", 5, 5),
                                      ("OBX", 3, 2), ("OBX", 5, 2), ("OBX", 7, 1)):  # fmt: skip
        expected = theirs.unescape(theirs.extract_field(segment, 1, field, 1, component, 1))
        assert ours.get(segment, field, component) == expected, (segment, field, component)


def test_a_document_in_a_message_is_shown(read: Read):
    pdf = base64.b64encode(PDF).decode()
    message = f"MSH|^~\\&|A|B|||20240826||MDM^T02|1|P|2.5\rOBX|1|ED|PDF^Letter||^application^pdf^Base64^{pdf}||||||F\r"
    full = read(message.encode())
    assert full.preview and "Discharge letter" in full.reading.text


# -- signals --------------------------------------------------------------------------------------
def edf(seconds: int = 12, label: str = "ECG II", unit: str = "mV") -> bytes:
    wave = numpy.sin(numpy.arange(seconds * 200) / 200 * 2 * numpy.pi)
    out = io.BytesIO()
    edfio.Edf([edfio.EdfSignal(wave, 200, label=label, physical_dimension=unit, physical_range=(-2, 2))]).write(out)
    return out.getvalue()


def test_an_ecg_is_drawn_ten_millimetres_a_millivolt(read: Read):
    full = read(edf())
    assert full.reading.kind_words == "ECG" and dict(full.reading.facts)["Length"] == "12 seconds"
    ink = numpy.asarray(Image.open(io.BytesIO(full.preview)).convert("L")) < 90
    rows = numpy.nonzero(ink[:, 200:].any(axis=1))[0]  # right of the name
    assert 38 <= rows.max() - rows.min() <= 44  # 2 mV from peak to peak, 2 pixels a millimetre: 40


def test_signals_without_known_units_are_drawn_without_ecg_paper(read: Read):
    full = read(edf(label="EEG Fp1", unit="uV"))
    assert full.reading.kind_words == "Signal recording" and full.preview


def test_a_recording_shorter_than_it_says_is_drawn_as_far_as_it_goes(read: Read):
    whole = edf()
    full = read(whole[: 512 + 2 * 200 * 5], "edf")
    assert full.preview and dict(full.reading.facts)["Length"] == "5 seconds"
    assert read(whole[:300], "edf").reading.note


def scp_record(samples: list[int], differences: int) -> bytes:
    """An SCP-ECG record with lead II, default Huffman table (EN 1064, annex C)."""
    bits = ""
    for value in samples:
        if value == 0:
            bits += "0"
        elif abs(value) <= 8:
            bits += "1" * abs(value) + "0" + ("1" if value < 0 else "0")
        else:
            bits += "1" * 10 + f"{value & 0xFFFF:016b}" if abs(value) > 127 else "1" * 9 + "0" + f"{value & 0xFF:08b}"
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "1"), 2).to_bytes(-(-len(bits) // 8), "big")
    bodies = {
        1: b"\x00\x0a\x00Lindqvist\0\x01\x05\x00Vera\0\x19\x04\x00" + struct.pack("<HBB3s", 2024, 8, 26, b"\xff\0\0"),
        2: struct.pack("<H", 19999), 3: bytes([1, 0]) + struct.pack("<IIB", 1, len(samples), 2),
        6: struct.pack("<HHBBH", 1000, 2000, differences, 0, len(packed)) + packed,
    }  # fmt: skip
    at = 6 + 16 + 10 * len(bodies)
    pointers = content = b""
    for number, body in bodies.items():
        section = bytes(2) + struct.pack("<HI", number, 16 + len(body)) + bytes([20, 20]) + bytes(6) + body
        pointers += struct.pack("<HII", number, len(section), at + len(content) + 1)
        content += section
    head = bytes(2) + struct.pack("<HI", 0, 16 + len(pointers)) + bytes([20, 20]) + b"SCPECG" + pointers
    return bytes(2) + struct.pack("<I", 6 + len(head) + len(content)) + head + content


@pytest.mark.parametrize(("packed", "differences", "expected"), [
    ([5, -3, 0, 100, -400, 8, -8], 0, [5, -3, 0, 100, -400, 8, -8]), ([5, 1, 1, -2], 1, [5, 6, 7, 5]),
    ([5, 7, 1, 0, -3], 2, [5, 7, 10, 13, 13]),
])  # fmt: skip
def test_an_scp_ecg_is_unpacked_as_the_standard_says(packed, differences, expected):
    record = scp.read(scp_record(packed, differences))
    assert record.leads["II"][: len(expected)].round(6).tolist() == [value / 1000 for value in expected]
    assert (record.patient, record.date) == ("Vera Lindqvist", "20240826")


def test_an_scp_ecg_is_drawn(read: Read):
    full = read(scp_record([3, -2, 1, -2] * 600, 0))
    assert full.preview and full.reading.date == "2024-08-26"


def test_an_aecg_is_drawn_with_its_scale(read: Read):
    digits = " ".join(str(int(200 * numpy.sin(at / 40))) for at in range(2500))
    xml = f"""<AnnotatedECG xmlns="urn:hl7-org:v3"><effectiveTime><low value="20240826101500"/></effectiveTime>
      <component><series><component><sequenceSet>
      <component><sequence><code code="TIME_ABSOLUTE"/><value><increment value="0.004" unit="s"/></value></sequence>
      </component><component><sequence><code code="MDC_ECG_LEAD_II"/><value><origin value="0" unit="uV"/>
      <scale value="5" unit="uV"/><digits>{digits}</digits></value></sequence></component>
      </sequenceSet></component></series></component></AnnotatedECG>"""
    full = read(xml.encode(), "aecg-xml")
    assert full.preview and dict(full.reading.facts) == {"Lead": "II", "Length": "10 seconds", "Time": "10:15"}


# -- genomes, watches, brains, photos ---------------------------------------------------------------
def test_a_genome_file_tells_its_sample_and_reference_and_no_variant(read: Read):
    vcf = (b"##fileformat=VCFv4.2\n##fileDate=20240826\n##reference=file:///x/GRCh38.fa\n"
           b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tVERA1\n"
           b"1\t5\trs7\tA\tG\t.\t.\t.\tGT\t0/1\n")  # fmt: skip
    for content in (vcf, gzip.compress(vcf)):
        full = read(content, "vcf" if content is vcf else "vcf-gz")
        facts = dict(full.reading.facts)
        assert facts == {"Samples": "VERA1", "Compared with": "GRCh38 (2013)", "Differences listed": "1"}
        assert "rs7" not in full.reading.text and full.reading.date == "2024-08-26"


def test_a_gene_test_names_its_company(read: Read):
    text = (b"# This data file generated by 23andMe at: Thu Aug 26 10:00:00 2021\n"
            b"# rsid\tchromosome\tposition\tgenotype\n"
            b"rs1\t1\t5\tAA\nrs2\t1\t6\tAG\n")  # fmt: skip
    reading = read(text, "dtc-genotype").reading
    assert reading.title == "Home gene test of 23andMe" and reading.date == "2021-08-26"
    assert dict(reading.facts)["Places in the genome"] == "2"


SAVED = ("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig")


@pytest.mark.parametrize("encoding", SAVED)
@pytest.mark.parametrize("text", [
    "# This data file generated by 23andMe at: Thu Aug 26 10:00:00 2021\n# rsid\tchromosome\tposition\tgenotype\n"
    "rs1\t1\t5\tAA\nrs2\t1\t6\tAG\nrs3\t1\t7\tAG\n",
    "##fileformat=VCFv4.2\n##fileDate=20240826\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tVERA1\n"
    "1\t5\t.\tA\tG\t.\t.\t.\tGT\t0/1\n",
    "MSH|^~\\&|LAB|X|Y|Z|20210203||ORU^R01|1|P|2.5\rPID|1||7||Muster^Vera||19700102|F\r"
    "OBX|1|NM|718-7^Hb^LN||13.1|g/dL|12-16|N\r",
    "From: a@b.example\nTo: d@e.example\nSubject: Findings\nDate: Mon, 01 Feb 2021 10:00:00 +0100\n\nHello\n",
    "@HD\tVN:1.6\n@SQ\tSN:1\tLN:100\n@RG\tID:a\tSM:VERA1\n",
], ids=["genotypes", "vcf", "hl7v2", "mail", "sam"])
def test_what_a_text_says_does_not_hang_on_how_it_was_saved(read: Read, text: str, encoding: str):
    plain, other = read(text.encode()), read(text.encode(encoding))
    assert plain.reading.facts and plain == other


def test_the_head_of_a_gene_test_is_no_place_in_the_genome(read: Read):
    text = b"# 23andMe\nrsid,chromosome,pos,genotype\n" + b"rs1,1,5,AA\nrs2,X,6,AG\nrs3,1,7,GG\n"
    assert dict(read(text, "dtc-genotype").reading.facts)["Places in the genome"] == "3"


def test_a_table_with_the_line_ends_of_old_macs_has_rows(read: Read):
    reading = read(b"date,weight,pulse\r2026-01-01,70,60\r2026-01-02,71,61\r").reading
    assert dict(reading.facts) == {"Rows": "2", "Columns": "date, weight, pulse"}


def test_a_row_of_numbers_is_no_head_of_a_table(read: Read):
    reading = read(b"70,60,1\n71,61,2\n72,62,3\n", "csv").reading
    assert "Columns" not in dict(reading.facts)


def test_bcf_that_is_not_packed_is_read(read: Read):
    header = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tVERA1\n\0"
    reading = read(b"BCF\2\2" + struct.pack("<I", len(header)) + header).reading
    assert dict(reading.facts) == {"Samples": "VERA1"} and not reading.note


def test_the_day_of_a_way_is_that_of_its_points_and_not_of_the_file(read: Read):
    points = "".join(f'<trkpt lat="52" lon="5"><time>2024-08-26T18:{minute}:00Z</time></trkpt>' for minute in (10, 55))
    way = f"<trk><trkseg>{points}</trkseg></trk></gpx>"
    for made in ("<metadata><time>2026-11-27T10:00:00Z</time></metadata>", "<time>2026-11-27T10:00:00Z</time>"):
        reading = read(f'<gpx xmlns="http://www.topografix.com/GPX/1/1">{made}{way}'.encode(), "gpx").reading
        assert reading.date == "2024-08-26" and dict(reading.facts)["Length"] == "45 min"
    turned = points[len(points) // 2 :] + points[: len(points) // 2]
    reading = read(f"<gpx><trk><trkseg>{turned}</trkseg></trk></gpx>".encode(), "gpx").reading
    assert "Length" not in dict(reading.facts)


def test_a_way_walked_is_told_and_not_shown(read: Read):
    gpx = (b'<gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><name>Evening</name><trkseg>'
           b'<trkpt lat="52.1234" lon="5.1"><time>2024-08-26T18:00:00Z</time></trkpt>'
           b'<trkpt lat="52.2" lon="5.2"><time>2024-08-26T18:45:00Z</time>'
           b"</trkpt></trkseg></trk></gpx>")  # fmt: skip
    full = read(gpx, "gpx")
    assert dict(full.reading.facts)["Length"] == "45 min" and full.preview is None
    assert "52.1" not in str(full)


def nifti(shape=(20, 30, 10), data: bytes | None = None) -> bytes:
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, 4, 16)
    struct.pack_into("<8f", head, 76, 1, 2, 2, 3, 1, 1, 1, 1)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    return bytes(head) + (numpy.arange(numpy.prod(shape), dtype="<i2").tobytes() if data is None else data)


def test_a_brain_image_shows_its_middle_slice(read: Read):
    for content, format_ in ((nifti(), "nifti"), (gzip.compress(nifti()), "nifti-gz")):
        full = read(content, format_)
        assert Image.open(io.BytesIO(full.preview)).size == (20, 30)
        assert "2 × 2 × 3 mm each" in dict(full.reading.facts)["Size"]
    lying = read(nifti((32767, 300, 300), b""), "nifti")
    assert lying.preview is None and lying.reading.note == "The file is shorter than it says"


def test_the_header_of_a_pair_misses_nothing(read: Read):
    head = bytearray(540)
    struct.pack_into("<i8s", head, 0, 540, b"ni2\0\r\n\x1a\n")
    struct.pack_into("<hh8q", head, 12, 4, 16, 3, 20, 30, 10, 1, 1, 1, 1)
    struct.pack_into("<8d", head, 104, 1, 2, 2, 3, 1, 1, 1, 1)
    full = read(bytes(head))
    assert "20 × 30 × 10 points" in dict(full.reading.facts)["Size"] and not full.reading.note


def test_words_between_programs_are_no_title_of_a_picture(read: Read):
    def tiff(description: str) -> bytes:
        out = io.BytesIO()
        Image.new("L", (8, 8)).save(out, "TIFF", description=description)
        return out.getvalue()

    assert read(tiff("Left hand")).reading.title == "Left hand"
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "TIFF", date_time="2024:08:26 10:00:00")
    assert read(out.getvalue()).reading.kind_words == "Picture"  # what a program wrote, though it has a time
    for words in ('{"shape": [8, 8]}', "ImageJ=1.53t\nimages=2", "<scn xmlns='x'/>"):
        assert read(tiff(words)).reading.title == ""


def test_a_name_in_a_photo_may_be_utf_8(read: Read):
    exif = Image.Exif()
    exif[315] = "Jörg Müller".encode()
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG", exif=exif)
    assert read(out.getvalue()).reading.author == "Jörg Müller"


def test_a_photo_stands_upright_and_its_place_is_told_not_shown(read: Read):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Nikon", "Nikon D70"
    exif.get_ifd(0x8769)[0x9003] = "2024:08:26 10:15:00"
    exif.get_ifd(0x8825)[2] = (52.0, 7.0, 24.6)
    out = io.BytesIO()
    Image.new("RGB", (60, 40)).save(out, "JPEG", exif=exif)
    full = read(out.getvalue())
    picture = Image.open(io.BytesIO(full.preview))
    assert picture.size == (40, 60) and not picture.getexif()
    facts = dict(full.reading.facts)
    assert facts["Taken with"] == "Nikon D70" and facts["Time"] == "10:15" and full.reading.date == "2024-08-26"
    assert "tells where it was taken" in facts["Where"] and "52" not in facts["Where"]


# -- the hostile ones -------------------------------------------------------------------------------
# Two grey pictures of 1024 by 64 and 32 by 48 pixels, made for this test (x265, by pillow-heif).
TWO_PICTURES = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAiptZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAACTgABAAAAAAAAACUAAgAAAAACcwABAAAAAAAAABIAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAAACAABodmMxAAAAAA5waXRtAAAAAAABAAABg2lwcnAAAAFcaXBjbwAAAHNodmNDAQQIAAAA"
    "n/gAAAAAP/AA/Pz4+AAADwNgAAEAF0ABDAH//wQIAAADAJ/4AAADAAA/ugJAYQABACdCAQEECAAAAwCf+AAAAwAAP8AIAgQWW6kk"
    "prmwIAAAAwMgAAADACFiAAEAB0QBwXKwIkAAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAEAAAAAEAAAAAOcGl4aQAA"
    "AAABCAAAAHBodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEAF0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACVCAQEECAAA"
    "AwCf+AAAAwAAHsCCBBZbq5Ka5sCAAAAMgAAAAwCEYgABAAZEAcFzwIkAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAIAAA"
    "AAEAAAAwAAAAAf///+AAAAAC////8AAAAAIAAAAfaXBtYQAAAAAAAAACAAEEgQIDBAACBYUCBgSHAAAAP21kYXQAAAAhKAGuCDDx"
    "KhT5bovBa4YQbB+iHF+aAAADAAADAAADAB6wAAAADigBrggw2x6V//ZTlIpY"
)


def test_a_photo_file_with_several_pictures_shows_its_first(read: Read):
    full = read(TWO_PICTURES, "heif")
    assert ("Pictures in it", "2") in full.reading.facts
    assert full.preview is not None and Image.open(io.BytesIO(full.preview)).size == (512, 32)


@pytest.mark.parametrize(("mode", "extra"), [("La", 2), ("LAB", None)])
def test_a_scan_in_rare_colours_is_shown(read: Read, mode: str, extra: int | None):
    """Associated alpha (TIFF 6.0, section 18) and CIE L*a*b* (section 23)."""
    out = io.BytesIO()
    image = Image.new("LA", (60, 40), (120, 255)) if mode == "La" else Image.new("LAB", (60, 40), (120, 0, 0))
    image.save(out, "TIFF")
    content = out.getvalue()
    if extra:  # ExtraSamples (338): 1 is what is multiplied already, Pillow writes 2
        content = content.replace(struct.pack("<HHII", 338, 3, 1, 2), struct.pack("<HHII", 338, 3, 1, 1))
    assert Image.open(io.BytesIO(content)).mode == mode
    full = read(content, "tiff")
    assert full.preview is not None


def test_every_hostile_file_costs_at_most_its_own_preview(read: Read):
    """Each within the limits of the child, and the next one is read as if nothing had been."""
    import time

    from tests import hostile

    for name, (make, expected) in hostile.FILES.items():
        if expected not in FORMATS:
            continue
        began = time.monotonic()
        full = read(make(), expected)
        assert time.monotonic() - began < child.WALL_SECONDS + 5, name
        assert full is None or harmless(full.narrative), name
    assert read(PDF).preview
