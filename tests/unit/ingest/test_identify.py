"""What a file is, by its content: a smallest example of each format from its standard, and what must not fool us."""

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable

import pytest

from myphr.ingest.formats import inflate
from myphr.ingest.identify import HEAD_BYTES, RULES, identify
from myphr.records import formats
from myphr.records.labels import TYPES
from tests.unit.ingest.compound_files import compound

HL7 = b"MSH|^~\\&|LAB|HOSPITAL|PHR|HOME|20260101||ORU^R01|1|P|2.5\rPID|1||4711\r"
VCF = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n1\t10\t.\tA\tC\t.\t.\t.\n"
SAM = b"@HD\tVN:1.6\tSO:coordinate\n@SQ\tSN:chr1\tLN:1000\n"
FASTQ = b"@read1\nACGT\n+\nIIII\n@read2\nTTTT\n+\nIIII\n"
GENOTYPES = b"# rsid\tchromosome\tposition\tgenotype\nrs1\t1\t101\tAA\nrs2\t1\t102\tCT\nrs3\tX\t103\tG\n"


def bgzf(inside: bytes) -> bytes:
    """One block and the empty one that ends a file (SAM, 4.1)."""
    blocks = b""
    for part in (inside, b""):
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        packed = deflate.compress(part) + deflate.flush()
        blocks += b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(packed) + 25)
        blocks += packed + struct.pack("<II", zlib.crc32(part), len(part))
    return blocks


def edf(first: bytes) -> bytes:
    return first.ljust(8) + b"patient".ljust(80) + b"recording".ljust(80) + b"01.01.2600.00.00" + b"512".ljust(8) + (
        bytes(44).replace(b"\0", b" ") + b"10".ljust(8) + b"1".ljust(8) + b"1".ljust(4) + b" " * 256
    )


def nifti(version: int) -> bytes:
    if version == 2:
        return struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(528)
    return struct.pack("<i", 348) + bytes(340) + b"n+1\0"


def tiff(description: bytes, order: str = "<") -> bytes:
    """One directory with ImageDescription (270) behind it."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    entry = struct.pack(order + "HHII", 270, 2, len(description), 26)
    return start + struct.pack(order + "H", 1) + entry + bytes(4) + description


def scp() -> bytes:
    section = struct.pack("<HHIBB6s", 0, 0, 136, 20, 20, b"SCPECG") + bytes(120)
    return struct.pack("<HI", 0, 6 + len(section)) + section


def zipped(*names: bytes, first: bytes = b"") -> bytes:
    found = b""
    for name in names:
        body = first if name == b"mimetype" else b""
        found += b"PK\x03\x04" + bytes(14) + struct.pack("<IIHH", len(body), len(body), len(name), 0) + name + body
    return found


def iso() -> bytes:
    return bytes(32_768) + b"\x01CD001\x01" + bytes(2041)


def implicit(*elements: tuple[int, int, bytes]) -> bytes:
    """A data set without preamble, implicit VR little endian (PS3.5, 7.1.3)."""
    return b"".join(struct.pack("<HHI", group, element, len(value)) + value for group, element, value in elements)


def explicit(*elements: tuple[int, int, bytes, bytes]) -> bytes:
    """The same in explicit VR little endian, for the VRs with a short length (7.1.2)."""
    return b"".join(struct.pack("<HH2sH", group, element, vr, len(value)) + value
                    for group, element, vr, value in elements)  # fmt: skip


def box(kind: bytes, *inside: bytes) -> bytes:
    body = b"".join(inside)
    return struct.pack(">I", 8 + len(body)) + kind + body


def film(*handlers: bytes) -> bytes:
    """An MP4 with one track for each handler (ISO/IEC 14496-12, 8.4.3), its table of contents in front."""
    tracks = [box(b"trak", box(b"tkhd", bytes(84)), box(b"mdia", box(b"mdhd", bytes(24)), box(b"hdlr", bytes(8), one, bytes(13))))  # noqa: E501
              for one in handlers]  # fmt: skip
    return box(b"ftyp", b"mp42", bytes(4), b"mp42isom") + box(b"moov", box(b"mvhd", bytes(100)), *tracks)


def tar_v7(checksum: int | None = None) -> bytes:
    """One member in the tar of Unix version 7: no signature, a checksum."""
    head = bytearray(b"letter.txt".ljust(100, b"\0") + b"0000644\0000000000\0000000000\00000000000005\00014371573200\0")
    head += b" " * 8 + bytes(512 - len(head) - 8)
    head[148:156] = b"%06o\0 " % (sum(head) if checksum is None else checksum)
    return bytes(head) + b"hello".ljust(1536, b"\0")


def mp3_frames() -> bytes:
    frame = b"\xff\xfb\x90\x00" + bytes(413)  # MPEG 1 layer III, 128 kbit/s, 44.1 kHz: 417 bytes
    return frame * 3


EXAMPLES: dict[str, list[bytes]] = {
    "dicom": [b"DICM\x02\0\0\0UL\x04\0\x10\0\0\0",
              implicit((0x10, 0x10, b"Doe^Jane"), (0x10, 0x20, b"4711"), (0x10, 0x30, b"19700101")),
              implicit((9, 0x10, b"GEMS"), (9, 0x1001, b"AB"), (0x10, 0x10, b"Doe^Jane"), (0x10, 0x20, b"4711"),
                       (0x10, 0x40, b"F ")),
              explicit((0x10, 0x10, b"PN", b"Doe^Jane"), (0x10, 0x20, b"LO", b"4711"), (0x20, 0x10, b"SH", b"1 ")),
              bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\x00\x00\x00\x00",
              b"II*\0".ljust(128, b"\0") + b"DICM" + bytes(8),
              b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100\x08\x00\x16\x00UI\x04\x001.2\x00\x08\x00\x60\x00CS\x02\x00MR"],
    "dicomdir": [explicit((4, 0x1130, b"CS", b"DISC"), (4, 0x1200, b"UL", bytes(4)), (4, 0x1202, b"UL", bytes(4))),
                 bytes(128) + b"DICM\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10"],
    "dicom-json": [b'[{"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "00080060": {"vr": "CS"}}]'],
    "dicom-xml": [b'<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"/>'],
    "nifti": [nifti(1), nifti(2)],
    "nifti-gz": [gzip.compress(nifti(1) + bytes(100_000))],
    "analyze": [struct.pack("<i36x8h14xhh", 348, 4, 64, 64, 30, 1, 0, 0, 0, 4, 16).ljust(348, b"\0"),
                struct.pack("<i", 348) + bytes(34) + b"r\0" + struct.pack("<h", 4) + bytes(306)],
    "mgh": [struct.pack(">7i", 1, 256, 256, 256, 1, 0, 0) + bytes(300)],
    "mgh-gz": [gzip.compress(struct.pack(">7i", 1, 256, 256, 256, 1, 0, 0) + bytes(300))],
    "tck": [b"mrtrix tracks\ncount: 3\n"],
    "minc": [b"CDF\x01" + bytes(60) + b"xspace", b"\x89HDF\r\n\x1a\n" + bytes(300) + b"minc-2.0"],
    "nrrd": [b"NRRD0004\ntype: short\n"],
    "metaimage": [b"Comment = a brain\nObjectType  = Image\nNDims = 3\nDimSize = 4 4 4\nElementDataFile = LOCAL\n",
                  b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\n"],
    "par": [b"# === DATA DESCRIPTION FILE ====\r\n#\r\n# Dataset name: T1\r\n# CLINICAL TRYOUT Research image export tool V4.2\r\n"],  # noqa: E501
    "trk": [b"TRACK\0" + bytes(994)],
    "gifti": [b'<?xml version="1.0"?>\n<!DOCTYPE GIFTI SYSTEM "gifti.dtd">\n<GIFTI Version="1.0">'],
    "ome-tiff": [tiff(b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">', order)
                 for order in "<>"],
    "ome-xml": [b'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"></OME>'],
    "svs": [tiff(b"Aperio Image Library v11.2.1 46000x32914")],
    "ndpi": [b"II*\0" + struct.pack("<IHHHII", 8, 1, 65420, 4, 1, 1) + bytes(4)],
    "philips-tiff": [b"II*\0" + struct.pack("<IHHHII", 8, 1, 305, 2, 15, 26) + bytes(4) + b"Philips DP v1.0"],
    "jpeg": [b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01", b"\xff\xd8\xff\xe1\x00\x10Exif\0\0"],
    "png": [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"],
    "gif": [b"GIF87a", b"GIF89a"],
    "webp": [b"RIFF\x10\0\0\0WEBPVP8 "],
    "bmp": [b"BM" + bytes(8) + struct.pack("<II", 54, 40)],
    "tiff": [tiff(b"a scan of a letter"), b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0" + bytes(8)],
    "heif": [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"],
    "avif": [b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"],
    "jp2": [b"\0\0\0\x0cjP  \r\n\x87\n"],
    "j2k": [b"\xff\x4f\xff\x51\x00\x2f"],
    "jxl": [b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\n\xf8\x81~\x88\x80\x1f\xa0\xe8\x11\x87\x03\0\0\0\x40\x08\x04"],
    "svg": [b'<svg xmlns="http://www.w3.org/2000/svg"/>', b'<?xml version="1.0"?><!-- a plan --><svg:svg xmlns:svg="x">'],  # noqa: E501
    "pdf": [b"%PDF-1.7\n", b"\xef\xbb\xbf%PDF-1.4\n", b"\r\n\r\nfax\n%PDF-1.3\n",
            bytes(128) + b"%PDF-1.2\r", b"%!PS-Adobe-3.0 PDF-1.4\n"],
    "ps": [b"%!PS-Adobe-3.0\n", b"\xc5\xd0\xd3\xc6\x20\0\0\0"],
    "docx": [zipped(b"[Content_Types].xml", b"_rels/.rels", b"word/document.xml"),
             zipped(b"word/numbering.xml", b"word/styles.xml", b"word/document.xml")],
    "xlsx": [zipped(b"[Content_Types].xml", b"xl/workbook.xml"), zipped(b"[content_types].xml", b"xl\\workbook.xml")],
    "pptx": [zipped(b"_rels/.rels", b"ppt/presentation.xml")],
    "odt": [zipped(b"mimetype", b"content.xml", first=b"application/vnd.oasis.opendocument.text"),
            zipped(b"mimetype", b"content.xml", first=b"application/vnd.oasis.opendocument.text-template")],
    "ods": [zipped(b"mimetype", b"content.xml", first=b"application/vnd.oasis.opendocument.spreadsheet"),
            zipped(b"META-INF/manifest.xml", b"meta.xml", b"mimetype", b"content.xml",
                   first=b"application/vnd.oasis.opendocument.spreadsheet")],
    "odp": [zipped(b"mimetype", b"content.xml", first=b"application/vnd.oasis.opendocument.presentation")],
    "epub": [zipped(b"mimetype", b"META-INF/container.xml", first=b"application/epub+zip")],
    "doc": [compound("WordDocument"), compound("WordDocument", sector_bytes=4096, directory=(1,)),
            compound("1Table", "WordDocument", embedded=("Workbook", "CompObj")),
            b"\xdb\xa5\x2d\0" + bytes(28)],
    "xls": [compound("Workbook"), compound("BOOK"), b"\x09\x04\x06\0\0\0\x10\0" + bytes(24)],
    "ppt": [compound("PowerPoint Document"), compound("Pictures", "PowerPoint Document", embedded=("Workbook",))],
    "msg": [compound("__nameid_version1.0"), compound("__recip_version1.0_#00000000")],
    "ole2": [compound("Something"), compound("EncryptedPackage", "WordDocument"), compound("VisioDocument")],
    "rtf": [b"{\\rtf1\\ansi Dear doctor}", b"\xef\xbb\xbf{\\rtf1 Dear doctor}"],
    "eml": [b"Date: Wed, 9 Oct 2019 05:55:10 +0000\r\nFrom:a@b.example\r\nTo: c@d.example\r\nCc:\r\nMessage-Id:\r\n"
            b" <1@b.example>\r\nSubject: report\r\n\r\nhello\r\n",
            b"\xef\xbb\xbfFrom: a@b.example\rTo: c@d.example\rSubject: report\rDate: Mon\r\rhello\r",
            b"Subject: report\nMIME-Version: 1.0\nContent-Type: text/plain\n\nhello\n",
            b"Received: by mail\r\nFrom: a@b.example\r\nTo: c@d.example\r\nSubject: report\r\nDate: Mon\r\n\r\nhello"],
    "ics": [b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n"],
    "vcard": [b"BEGIN:VCARD\r\nVERSION:3.0\r\n"],
    "csv": [b"date,weight,pulse\n2026-01-01,70,60\n2026-01-02,71,61\n", b"Zeit;Wert\n1;2\n3;4\n5;6\n7;8\n",
            b"Body\nDate,Weight,BMI\n1,70,22\n2,71,22\n\nFoods\nDate,Calories In\n1,0\n\nSleep\nStart,End,Minutes\n",
            b"Name,Jane Doe\nSymptoms,\nDevice,\"Watch6,1\"\nSample Rate,512 hertz\n\nLead,Lead I\n\n-12.3\n-11.9\n",
            b"time,Do you smoke?,Remarks,Any questions.\n1,yes," + b"x" * 600 + b",no\n2,no,none,no\n",
            "\ufeffdate,weight,pulse\r\n1,2,3\r\n4,5,6\r\n".encode("utf-16-le"),
            b"Glucose Data,Generated on,01-01-2026\nDevice,Serial,Time,Type,Value\n" + b"a,b,c,d,1\n" * 12],
    "tsv": [b"Body\nDate\tWeight\n1\t70\n\nSleep\nDate\tHours\tNaps\n1\t7\t0\n",
            b"date\tweight\tpulse\n1\t2\t3\n4\t5\t6\n"],
    "text": [b"Dear Sir, I write to you, as agreed.\nBest wishes\n", "Ärztlicher Brief\n".encode()],
    "html": [b'<h2>Results</h2>\n<p class="x">all is well</p>',
             b"<!DOCTYPE html><html><body>", b"  <!-- saved --><HTML>", b"<html>%PDF-1.4"],
    "xml": [b'<?xml version="1.0"?><anything/>', b'<?xml version="1.0"?><!-- cut off'],
    "json": [b'{"glucose": [1, 2, 3]}', b"[1, 2, 3]", b'{"a": {"resourceType": "Patient"}}'],
    "cda-xml": [b'<ClinicalDocument title="a > b" xmlns="urn:hl7-org:v3">',
                b'\xef\xbb\xbf\r\n<ClinicalDocument xmlns="urn:hl7-org:v3"/>',
                b'<?xml version="1.0"?><ClinicalDocument><typeId extension="POCD_HD000040"/>',
                b'<?xml version="1.0"?>\n<?xml-stylesheet href="cda.xsl"?>\n<ClinicalDocument xmlns="urn:hl7-org:v3">',
                b'<n1:ClinicalDocument xmlns:n1="urn:hl7-org:v3" xmlns:xsi="x">',
                "\ufeff<?xml version='1.0'?><ClinicalDocument xmlns='urn:hl7-org:v3'/>".encode("utf-16-le"),
                b'<!DOCTYPE x [<!ENTITY y "]>"><!-- it\'s -->]><ClinicalDocument xmlns="urn:hl7-org:v3"/>'],
    "ccr-xml": [b'<ContinuityOfCareRecord xmlns="urn:astm-org:CCR"></ContinuityOfCareRecord>'],
    "fhir-json": [b'{"resourceType": "Bundle", "type": "document"}', b'\xef\xbb\xbf{"id":"1","resourceType":"Patient"}',
                  json.dumps({"text": {"div": "x" * 9000}, "resourceType": "Observation"}).encode(),
                  b'{"entry": [{"resource": {"resourceType": "Patient", "text": "' + b"x" * 70_000 + b'"}}]}'],
    "fhir-ndjson": [b'{"resourceType":"Patient","id":"1"}\n{"resourceType":"Patient","id":"2"}\n'],
    "fhir-xml": [b'<Bundle xmlns="http://hl7.org/fhir"><id value="1"/>'],
    "openehr-json": [b'{"_type": "COMPOSITION", "name": {"_type": "DV_TEXT"}}', b'{"ctx/language": "de", "a/b": 1}',
                     b'{"ctx": {"language": "de", "territory": "DE"}, "vitals": {}}'],
    "openehr-xml": [b'<composition xmlns="http://schemas.openehr.org/v1" archetype_node_id="openEHR-EHR-COMPOSITION.report.v1">'],  # noqa: E501
    "smart-health-card": [b'{"verifiableCredential": ["eyJ6aXAiOiJERUYi"]}', b"shc:/" + b"5676" * 20],
    "text-bluebutton": [b"------- MY HEALTHEVET PERSONAL INFORMATION REPORT -------\r\n",
                        b"-----\nMYMEDICARE.GOV PERSONAL HEALTH INFORMATION\n",
                        b"My Health Record\nProduced by the VA Blue Button (v12.6)\n",
                        b"Produced by the Blue Button (v2.0)\n\n03/16/2013 5:10 AM\n",
                        "VA Blue Button® report\r\n\r\nThis report includes".encode(),
                        b"******** BLUE BUTTON ********\n"],
    "hl7v2": [("\ufeff" + HL7.decode()).encode("utf-16-le"), HL7, HL7.replace(b"\\", b" "),
              b"\xef\xbb\xbf" + HL7, b"\x0b" + HL7, b"FHS|^~\\&|A\rBHS|^~\\&|B\r" + HL7, HL7.replace(b"\r",
        b"\r\n")],
    "scp-ecg": [scp()],
    "aecg-xml": [b'<AnnotatedECG xmlns="urn:hl7-org:v3" classCode="OBS">'],
    "philips-ecg-xml": [b'<restingecgdata xmlns="http://www3.medical.philips.com">'],
    "muse-ecg-xml": [b'<?xml version="1.0"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>'],
    "ge-ecg-xml": [b'<?xml version="1.0"?><CardiologyXML>'],
    "ishne-ecg": [b"ISHNE1.0" + bytes(514)],
    "mfer": [b"\x40\x20MFR Standard 12 leads ECG".ljust(40), b"\x40\x20 MFER".ljust(34) + b"\x17\4"],
    "edf": [edf(b"0"), edf(b"0").replace(b" ", b"\0")],
    "bdf": [edf(b"\xffBIOSEMI")],
    "fiff": [b"\0\0\0\x64\0\0\0\x1f\0\0\0\x14\0\0\0\0\0\x01\0\x01"],
    "gdf": [b"GDF 2.20"],
    "brainvision": [b"Brain Vision Data Exchange Header File Version 1.0\r\n"],
    "wfdb-hea": [b"100 2 360 650000\n100.dat 212 200 11 1024 995 -22131 0 MLII\n100.dat 212 200 11 1024 1011 20052 0 V5\n",  # noqa: E501
                 b"100\t1  360\n100.dat\t212\n",
                 b"# made by hand\nrec/2 2 360 1000\nrec_1 500\nrec_2 500\n"],
    "mat": [b"MATLAB 5.0 MAT-file, Platform: GLNXA64", b"MATLAB 5.0".ljust(124, b"\0") + b"\0\1IM",
            struct.pack("<5I", 30, 2, 100, 0, 4) + b"val\0" + bytes(400)],
    "vcf": [VCF, VCF[VCF.index(b"#CHROM") :], b"##FILTER=<ID=lq>\n" + VCF[VCF.index(b"#CHROM") :]],
    "vcf-gz": [bgzf(VCF), gzip.compress(VCF)],
    "bcf": [bgzf(b"BCF\x02\x02"), b"BCF\x02\x02", gzip.compress(b"BCF\x04\5\0\0\0")],
    "bam": [bgzf(b"BAM\x01")],
    "cram": [b"CRAM\x01\x00", b"CRAM\x03\x00"],
    "sam": [b"@HD\tSO:unsorted\tVN:1.5\n", SAM, b"read1\t0\tchr1\t10\t60\t4M\t*\t0\t0\tACGT\tIIII\n"],
    "sam-gz": [bgzf(SAM)],
    "bai": [b"BAI\x01"],
    "crai": [gzip.compress(b"0\t1\t100\t26\t200\t300\n")],
    "tabix-index": [bgzf(b"TBI\x01"), bgzf(b"CSI\x01"), b"CSI\x01\x0e\0\0\0"],
    "fasta": [b">one\nACGT", b">chr1\n" + b"ACGT" * 16_000, b"\xef\xbb\xbf>a\nacgtACGTNN\n",
              b">p\n" + b"mkvlaa" * 6,
              b">1\nACGT\n     \n",
              b">chr1 sample\nACGTNNACGT\nACGT\n>chr2\nTTTT\n", b">protein\nMKVLAA*\n"],
    "fasta-gz": [bgzf(b">chr1\nACGT\nACGT\n")],
    "fastq": [b"@solid\nT0123012.\n+\nIIIIIIIII\n", FASTQ, b"@read1\nACGT\nACG\n+read1\nIII\n@III\n",
              b"@nanopore\n" + b"ACGT" * 16_000],
    "fastq-gz": [gzip.compress(FASTQ)],
    "gff": [b"##gff-version 3\n", b"chr1\tsource\texon\t1\t10\t.\t+\t.\tID=1\n",
            b"4\tensembl\tgene\t-15\t64876\t.\t+\t.\tID=gene:1\n",
            b'chr1\tGeneDB\tCDS\t1\t5662\t.\t-\t.\tmRNA SPAC212.11a ; Alias "tlh1"\n'],
    "gff-gz": [bgzf(b"##gff-version 3\n")],
    "gtf": [b'chr1\tEnsEMBL\texon\t1\t10\t.\t-\t.\tgene_id "a"; transcript_id "b";\t\n',
            b'chr1\tsource\texon\t1\t10\t.\t+\t.\tgene_id "a";\n'],
    "gtf-gz": [gzip.compress(b'chr1\tsource\texon\t1\t10\t.\t+\t.\tgene_id "a";\n')],
    "bed": [b"chr1\t1\t10\nchr2\t20\t30\n", b"chr1\t1\t10\n", b"chr7 127471196 127472363 Pos1 0 +\n",
            b"browser position chr7:1-2\ntrack name=\"x\"\nscaffold_7\t10\t20\n", b"#chrom\tstart\tend\nctgA\t1\t2\n",
            b"GL000008.2\t118286\t119434\tpeak\t999\t.\n", b"# made by hand\n" * 100 + b"chr1\t0\t10\tname\t0.5\n"],
    "bed-gz": [gzip.compress(b"chr1\t1\t10\nchr2\t20\t30\n")],
    "bigwig": [b"\x26\xfc\x8f\x88"],
    "bigbed": [b"\xeb\xf2\x89\x87"],
    "genbank": [b"LOCUS       NC_005816               9609 bp    DNA     circular CON 26-JUL-2016\nDEFINITION  x\n"],
    "genbank-gz": [bgzf(b"LOCUS       AB000001                 12 bp    DNA\nORIGIN\n")],
    "embl": [b"ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\nXX\n"],
    "embl-gz": [gzip.compress(b"ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\nXX\n")],
    "abif": [b"ABIF\0\x65tdir"],
    "2bit": [b"\x43\x27\x41\x1a"],
    "dtc-genotype": [b"\xef\xbb\xbf" + GENOTYPES, ("\ufeff" + GENOTYPES.decode()).encode("utf-16-be"), GENOTYPES,
                     b'RSID,CHROMOSOME,POSITION,RESULT\n"rs1","1","101","AA"\n"rs2","1","102","CC"\n',
                     b"#AncestryDNA raw data download\nrsid\tchromosome\tposition\tallele1\tallele2\nrs1\t1\t82154\tT\tT\n",  # noqa: E501
                     b"rsid\tChromosome\tposition\tgenotype\n1:101\t1\t101\tAA\n1:102\t1\t102\t--\n",
                     b"[Header]\nGSGT Version\t2.0.4\n[Data]\nSample Name\tSNP Name\tChr\tPosition\tAllele1 - Forward"
                     b"\tAllele2 - Forward\n123\t1:101\t1\t101\tA\tA\n",
                     b"SNP Name\trsID\tSample.ID\tAllele1...Top\tAllele2...Top\nA\trs1\t1\tA\tC\n"],
    "dtc-genotype-gz": [gzip.compress(GENOTYPES)],
    "fit": [b"\x0e\x10\x64\x00\x10\x00\x00\x00.FIT\x00\x00"],
    "tcx": [b'<TrainingCenterDatabase xmlns="http://www.garmin.com/xmlschemas/TrainingCenterDatabase/v2">'],
    "gpx": [b'<gpx version="1.1" xmlns="http://www.topografix.com/GPX/1/1">'],
    "apple-health-xml": [b'<?xml version="1.0"?>\n<!DOCTYPE HealthData [\n<!ELEMENT HealthData (A|B)>\n<!-- isn\'t ] -->\n]>\n<HealthData locale="en">'],  # noqa: E501
    "aiff": [b"FORM\0\0\0\x2eAIFFCOMM", b"FORM\0\0\0\x2eAIFCFVER"],
    "mp3": [b"ID3\x04\x00\x00\x00\x00\x00\x00\xff\xfb", mp3_frames()],
    "wav": [b"RIFF\x00\x00\x00\x00WAVEfmt ", b"RF64\xff\xff\xff\xffWAVEds64", b"RIFX\0\0\0\x10WAVEfmt "],
    "m4a": [b"\0\0\0\x20ftypM4A \0\0\0\0", film(b"soun"), film(b"soun", b"text")],
    "aac": [b"ADIF\x10\0", b"\xff\xf1\x50\x80\x01\x1f\xfc" + b"\0" + b"\xff\xf1\x50\x80\x01\x1f\xfc"],
    "flac": [b"fLaC\0\0\0\x22", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + b"fLaC\0\0\0\x22"],
    "ogg": [b"OggS" + bytes(24) + b"\x01vorbis"],
    "amr": [b"#!AMR\n"],
    "mp4": [b"\0\0\0\x20ftypisom\0\0\x02\0", film(b"vide", b"soun"), film(b"soun")[:-20],
            b"\0\0\0\x18ftypNEW1\0\0\0\0NEW1isom"],
    "mov": [b"\0\0\0\x14ftypqt  \0\0\0\0", b"\0\0\x0f\x17moov\0\0\0\x6cmvhd", b"\0\0\0\x08wide\0\0\1\0mdat"],
    "3gp": [b"\0\0\0\x14ftyp3gp4\0\0\0\0", b"\0\0\0\x18ftypkddi\0\0\0\0kddi3g2a"],
    "avi": [b"RIFF\x00\x00\x00\x00AVI LIST"],
    "ogv": [b"OggS" + bytes(24) + b"\x80theora"],
    "mkv": [b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska"],
    "webm": [b"\x1a\x45\xdf\xa3\x93\x42\x82\x84webm"],
    "mpeg": [b"\0\0\x01\xba\x44", (b"\x47\x40\x11\x10" + bytes(184)) * 6,
             (bytes(4) + b"\x47\x40\x11\x10" + bytes(184)) * 6],
    "wmv": [b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"],
    "zip": [zipped(b"DICOM/IM1"), b"PK\x05\x06" + bytes(18)],
    "gzip": [gzip.compress(b"\x00\x01\x02 something else"), b"\x1f\x8b\x08\x00 broken"],
    "7z": [b"7z\xbc\xaf\x27\x1c"],
    "rar": [b"Rar!\x1a\x07\x00"],
    "xz": [b"\xfd7zXZ\0"],
    "bzip2": [b"BZh91AY&SY"],
    "zstd": [b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd\x28\xb5\x2f\xfd"],
    "tar": [b"file".ljust(257, b"\0") + b"ustar\x0000", tar_v7()],
    "tar-gz": [gzip.compress(b"file".ljust(257, b"\0") + b"ustar\x0000"), gzip.compress(tar_v7())],
    "iso9660": [iso()],
    "program": [b"MZ\x90\0", b"\x7fELF\x02"],
    "unknown": [b"", b"\x00\x01\x02\x03", b'{"x":' + b"[" * 5000],
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "head"), [(code, head) for code, heads in EXAMPLES.items() for head in heads],
    ids=[f"{code}-{at}" for code, heads in EXAMPLES.items() for at in range(len(heads))],
)  # fmt: skip
def test_each_format_is_told_by_its_content(code: str, head: bytes) -> None:
    found = identify(head)
    assert found.format == code, found
    assert found.confidence in ("certain", "likely", "guess") and found.rule


TEXTS = ("csv", "hl7v2", "dtc-genotype", "vcf", "sam", "fastq", "bed", "wfdb-hea", "brainvision", "ics", "eml")


@pytest.mark.parametrize("code", TEXTS)
@pytest.mark.parametrize(
    "saved",
    [
        lambda text: text.encode("utf-16"), lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"), lambda text: text.encode("utf-32"),
        lambda text: text.encode("utf-8-sig"), lambda text: text.replace("\n", "\r").encode(),
    ],
    ids=["utf-16", "little-endian without a mark", "big-endian without a mark", "utf-32", "utf-8 mark", "lone CRs"],
)  # fmt: skip
def test_text_is_told_however_it_was_saved(code: str, saved: Callable[[str], bytes]) -> None:
    heads = [head for head in EXAMPLES[code] if head.isascii() and b"\n" in head.replace(b"\r", b"\n")]
    assert heads
    for head in heads:
        assert identify(saved(head.decode().replace("\r\n", "\n"))).format == code


def test_every_format_has_words_and_every_word_its_format() -> None:
    assert set(EXAMPLES) == set(formats.FORMATS)
    assert {one.type for one in formats.FORMATS.values()} <= set(TYPES)


@pytest.mark.parametrize(
    ("head", "not_this"),
    [
        (b"Take two, with food.\nCall me, if it hurts.\n", "csv"),
        (b"He said: <LANG> is a name.\n", "xml"),
        (b"BMI and weight of the last year\n", "bmp"),
        (b"@home I felt better\nACGT\nnothing\n", "fastq"),
        (b"> quoted\n> from a mail\n", "fasta"),
        (b"From here on: To be read\nDate: none\nplain words\n", "eml"),
        (b"\xff\xfb\x90\x00 chance", "mp3"),
        (b"0       not an EDF header".ljust(300), "edf"),
        (b'{"a": "resourceType", "b": {"resourceType": "Patient"}}', "fhir-json"),
        (b"MSH is short for something|", "hl7v2"),
        (b"MSH|  |", "hl7v2"),
        (b"\xff\nplain text behind it, not a picture", "jxl"),
        (b"@read1\nACGT\n+\nIIIIII\n@read2\nACGT\n+\nIIII\n", "fastq"),
        (b"LOCUS of control is a term of psychology\n", "genbank"),
        (b"> quoted\nThanks\n", "fasta"),
        (b"chr1\t16\t6\t60\t61\nchr2\t16\t29\t60\t61\n", "wfdb-hea"),
        (b"\x10\0\x20\0" + bytes(200), "dicom"),
        (b"\t\0\x10\0\4\0\0\0four" + b"\x10\0\x10\0\2\0\0\0AB" * 2, "dicom"),
        (b"Dr Who\nStreet 1, Town\n\nJane Doe\nStreet 2, Town\n\nDear Jane,\nI saw you, and all is well.\n", "csv"),
        (b"Drugs\naspirin, 100 mg\nramipril, 5 mg\n\nAllergies\nnone, none\n", "csv"),
        (b"call(a, b);\ncall(c, d);\n\nint e, f;\nint g, h;\n", "csv"),
        (b"1\t80\t120\n2\t82\t125\n3\t81\t119\n", "bed"),  # a table of blood pressures
        (b"HTTP/1.1 200 OK\r\nDate: Mon\r\nContent-Type: text/plain\r\nSender: x\r\n\r\nhello", "eml"),
        (b'<a><b/></a>', "html"),
        (b"# Blue Button\n\nA library that reads Blue Button files.\n", "text-bluebutton"),
        (b"sections = ('MY HEALTHEVET PERSONAL INFORMATION REPORT',)\n", "text-bluebutton"),
        (b"VERSION = b'%PDF-1.4'\n", "pdf"),
        (b"ID3\x04\0\0\0\0\0\0MPCKSH", "mp3"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "mp4"),
        (b"chr1\t100000\t6\t60\t61\nchr2\t90000\t101673\t60\t61\n", "bed"),
        (b"track type=bedGraph\nchr1\t1\t10\t0.5\n", "bed"),
        (b"visit\t3\t10\nlab\t4\t11\n", "bed"),
        (b"@HD\tVN:1.6\n@SQ\tSN:1\tLN:100\n1\t5\t10\t+\ttarget\n", "sam"),
        (zipped(b"letter.odt", b"mimetype", b"content.xml", first=b"application/vnd.oasis.opendocument.text"), "odt"),
        (tar_v7(checksum=1), "tar"),
        (b"G" * 2000, "mpeg"),
        (b"MATLAB 5.0 is a program".ljust(200), "mat"),
        (struct.pack("<200h", *(-2, -1, 3, 0) * 50), "text"),  # samples that begin as a byte order mark does
        (struct.pack("<200h", *(65, 66, 67, 68) * 50), "text"),  # small samples: a zero beside each letter, no line
        (b'<note xmlns="urn:hl7-org:v3">ClinicalDocument</note>', "cda-xml"),
    ],
)
def test_what_only_looks_like_it_is_something_else(head: bytes, not_this: str) -> None:
    assert identify(head).format != not_this


def test_no_more_than_the_head_is_looked_at() -> None:
    beyond = b"letter\n" * (HEAD_BYTES // 7 + 1)
    assert identify(beyond[:HEAD_BYTES]) == identify(beyond[:HEAD_BYTES] + b"\0<ClinicalDocument/>")


def test_a_bigtiff_that_points_beyond_any_file_is_still_a_tiff() -> None:
    assert identify(b"II\x2b\0\x08\0\0\0" + b"\xff" * 8 + bytes(30)).format == "tiff"


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_break_it(seed: int) -> None:
    """Cut off, changed and mixed examples: whatever it says, it says something."""
    chance = random.Random(seed)
    heads = [head for many in EXAMPLES.values() for head in many]
    for head in heads:
        mutated = bytearray(head[: chance.randint(0, len(head))] + chance.choice(heads)[: chance.randint(0, 600)])
        for _ in range(chance.randint(0, 6)):
            if mutated:
                mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        assert identify(bytes(mutated)).format in formats.FORMATS


@pytest.mark.parametrize(
    "head",
    [
        b'{"resourceType": "Bundle", "a": ' + b"1 , " * 16_000, b'{"resourceType": "Bundle", "' + b'\\"' * 32_000,
        b'{"' + b'\\"' * 32_000, b'{"a":' + b'"\\' * 32_000, b"[" * 65_536, b'{"a":' * 13_000,
        b"<!DOCTYPE a [" + b"<!--" * 16_000,
        b"<!DOCTYPE a [" + b"'\"" * 32_000, b"<!-- -->" * 8_000, b"<a " + b"x" * 65_000, b"<?" * 32_000, b"\t" * 65_536,
        b"a\t" * 32_000, b"rs1," * 16_000, b"a:" * 32_000, b"A: \n" * 16_000, b">" * 65_536, b"@" * 65_536,
        b"," * 65_536,
        b'"' * 65_535, b"1 " * 32_000, b"#" * 65_536, b"MSH" * 20_000, b" " * 65_536, b"PK\x03\x04" * 16_000,
        b"\xff\xf1" * 32_000,
    ],
    ids=range(26),
)  # fmt: skip
def test_no_rule_takes_more_than_a_few_steps_a_byte(head: bytes) -> None:
    """What tries again at each byte takes hours here: the suite's own time limit ends it."""
    for rule in RULES:
        rule.test(head)


def test_a_bomb_is_opened_for_its_first_bytes_only() -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    assert len(inflate.first_bytes(bomb)) == inflate.INFLATED_BYTES_MAX
    assert len(inflate.first_bytes(gzip.compress(b"ab") * 1000, 50)) == 50
