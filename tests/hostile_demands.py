"""What must become of each of the forty hostile files: the sentence of the demand, and its check.

`FORTY` has them by number, each with a file of our own making (`tests.hostile`). `check` is for all of them: pages that
can do nothing, a download that is the file and no page, 300 MiB and 10 s. Called by test_hostile_forty and the bench.
"""

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path

from bs4 import BeautifulSoup
from PIL import Image
from werkzeug.test import TestResponse

from myphr.sharing import app_keys
from myphr.web.previews import NARRATIVE_STYLE
from tests.hostile_desk import Outcome
from tests.web.page_client import text_of

MIB_MAX = 300
CPU_SECONDS_MAX = 10
PAGE_SECONDS_MAX = 5  # beside other work; 0.1 alone
DOWNLOAD = re.compile(r"""attachment; filename="[\w. -]{1,100}"; filename\*=UTF-8''[\w.%~-]*""")
# What our archives and those of the given set would write beside the record, were a name a path
STRAYS = ("/tmp/outside", "/absolute", "/tmp/h_pwn_zip", "/tmp/h_pwn_abs", "/tmp/h_pwn_symlink", "/h_pwn_tar",
          "/etc/h_pwn")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Demand:
    file: str  # of ours, in hostile.FILES
    words: str
    check: Callable[[Outcome], None]


# -- of all ---------------------------------------------------------------------------------------
def check(outcome: Outcome) -> None:
    cost = outcome.cost
    assert cost.largest_mib <= MIB_MAX and cost.cpu_seconds <= CPU_SECONDS_MAX, cost
    assert cost.slowest_page_seconds <= PAGE_SECONDS_MAX, cost
    for address, answer in outcome.pages.items():
        if address.endswith("/download"):
            _is_only_saved(answer)
        elif address.endswith("/narrative"):
            _can_do_nothing(answer)
        elif address.endswith("/preview"):
            picture = Image.open(io.BytesIO(answer.data))
            assert max(picture.size) <= 512 and not picture.getexif() and b"Exif" not in answer.data
            assert answer.headers["X-Content-Type-Options"] == "nosniff" and "sandbox" in _policy(answer)
        else:
            _only_words(address, answer)
    if outcome.items:
        download = outcome.page("download")
        assert download is not None and download.data == outcome.content
    home = outcome.desk.home
    assert not any(Path(stray).exists() for stray in STRAYS)
    assert not any(path.is_symlink() or path.stat().st_mode & 0o6111 for path in home.rglob("*") if path.is_file())


def _policy(answer: TestResponse) -> str:
    return answer.headers["Content-Security-Policy"]


def _is_only_saved(answer: TestResponse) -> None:
    assert DOWNLOAD.fullmatch(answer.headers["Content-Disposition"]), answer.headers["Content-Disposition"]
    assert answer.mimetype == "application/octet-stream" and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in _policy(answer) and "no-store" in answer.headers["Cache-Control"]


def _can_do_nothing(answer: TestResponse) -> None:
    """A narrative: words and tables, and no style but ours; and it stands in a sandbox."""
    assert _policy(answer).startswith("default-src 'none'") and "; sandbox;" in _policy(answer)
    soup = BeautifulSoup(answer.text, "html5lib")
    assert [style.string for style in soup.select("style")] == [NARRATIVE_STYLE]
    assert not soup.select("script, iframe, img, form, input, button, object, embed, link, svg, a[href], base")
    for tag in soup.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on") or name in ("style", "src", "href", "action")]


def _only_words(address: str, answer: TestResponse) -> None:
    """The browser has checked it already (no inline script, handler, foreign file); here what hides in words."""
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]", answer.text), address
    for tag in BeautifulSoup(answer.text, "html5lib").find_all(True):
        for value in tag.attrs.values():
            assert "evil.example" not in str(value) and "javascript:" not in str(value).lower(), (address, tag.name)


# -- of one ---------------------------------------------------------------------------------------
def _words(outcome: Outcome) -> str:
    page = outcome.page()
    assert page is not None
    return text_of(page)


def _html(outcome: Outcome) -> list[str]:
    return [page.text for page in outcome.pages.values() if page.mimetype == "text/html"]


def _format(outcome: Outcome, *formats: str) -> None:
    assert outcome.items[0].format in formats


def _no_preview(outcome: Outcome) -> None:
    assert outcome.page("preview") is None


def _alone(outcome: Outcome) -> None:
    assert len(outcome.items) == 1


def refused(words: str) -> Callable[[Outcome], None]:
    """Kept as it is and not unpacked, saying why."""

    def check_refused(outcome: Outcome) -> None:
        _alone(outcome)
        assert [task.state for task in outcome.tasks] == ["refused"]
        assert re.search(f"Kept as it is, but not unpacked: {words}", _words(outcome))

    return check_refused


def kept_without_picture(words: str, *formats: str) -> Callable[[Outcome], None]:
    def check_kept(outcome: Outcome) -> None:
        _alone(outcome)
        _format(outcome, *formats)
        _no_preview(outcome)
        assert words in _words(outcome)

    return check_kept


def nested(outcome: Outcome) -> None:
    assert len(outcome.tasks) == 1 and outcome.tasks[0].state == "done"
    assert {item.format for item in outcome.items} == {"zip"} and len(outcome.items) >= 2


def members_by_name_only(outcome: Outcome) -> None:
    assert outcome.tasks[0].state == "done" and len(outcome.items) >= 2
    assert outcome.tasks[0].members_damaged == 0


def links_left_out(outcome: Outcome) -> None:
    assert outcome.tasks[0].state == "done" and len(outcome.items) == 2
    assert re.search("Left out [12] links? to other places", _words(outcome))
    download = outcome.page("download", item=1)
    assert download is not None and b"root:" not in download.data


def names_escaped(outcome: Outcome) -> None:
    assert outcome.tasks[0].state == "done" and len(outcome.items) >= 11
    listed = text_of(outcome.pages["/record"])
    for name in ("-rf", ".htaccess", "CON"):
        assert name in listed
    assert "<script>alert" not in outcome.pages["/record"].text


def tar_without_links(outcome: Outcome) -> None:
    _alone(outcome)
    assert outcome.tasks[0].members_done == 0
    for words in ("2 links to other places", "entries that are no files"):
        assert words in _words(outcome)


def preamble_zeroed(outcome: Outcome) -> None:
    """Byte for byte to its owner, as a file to save; for an app that takes DICOM, without what is no DICOM."""
    _alone(outcome)
    _format(outcome, "dicom")
    assert outcome.page("preview") is not None and outcome.content[:2] in (b"MZ", b"\x7fE", b"<h")
    token = app_keys.create(outcome.desk.portal, outcome.owner.login, "My viewer", 3600, None).token
    client = outcome.desk.app.test_client(use_cookies=False)
    said = {"Authorization": f"Bearer {token}"}
    [study] = client.get("/dicom-web/studies", headers=said).get_json()
    answer = client.get(f"/dicom-web/studies/{study['0020000D']['Value'][0]}", headers=said)
    assert answer.status_code == 200 and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.mimetype == "multipart/related" and bytes(128) + outcome.content[128:] in answer.data
    assert outcome.content[:16] not in answer.data


def dicom_script(outcome: Outcome) -> None:
    preamble_zeroed(outcome)
    for told in ("<script>alert(1)</script>", "';DROP TABLE study;--{{7*7}}"):
        assert told in _words(outcome) and not any(told in html for html in _html(outcome))


def table_of_contents(outcome: Outcome) -> None:
    _alone(outcome)
    _format(outcome, "dicomdir")
    assert re.search("lists [1-9] images?, in your record are 0", _words(outcome))
    assert not any("root:" in html for html in _html(outcome))


def frame_of_a_bomb(outcome: Outcome) -> None:
    """Read as far as its first frame goes, so that it has a picture like any other."""
    _alone(outcome)
    assert outcome.page("preview") is not None and outcome.cost.fork_mib < 100


def document_type_refused(outcome: Outcome) -> None:
    kept_without_picture("It asks for a document type, which no health record needs", "cda-xml")(outcome)
    assert outcome.page("narrative") is None and "root:" not in _words(outcome) and "lollol" not in _words(outcome)


def no_narrative(*formats: str) -> Callable[[Outcome], None]:
    def check_kept(outcome: Outcome) -> None:
        kept_without_picture("in your record since", *formats)(outcome)
        assert outcome.page("narrative") is None

    return check_kept


def cda_cleaned(outcome: Outcome) -> None:
    narrative = outcome.page("narrative")
    assert narrative is not None and "<table>" in narrative.text and "evil.example" not in narrative.text
    assert "T<script>alert(1)</script>" in _words(outcome) and "alert(5)" not in narrative.text


def fhir_cleaned(outcome: Outcome) -> None:
    _alone(outcome)  # the Binary in it is no file of the record
    assert "<img src=x onerror=alert(2)>" in _words(outcome)
    narrative = outcome.page("narrative")
    assert narrative is None or "evil.example" not in narrative.text


def page_named_pdf(outcome: Outcome) -> None:
    kept_without_picture("in your record since", "html")(outcome)
    narrative = outcome.page("narrative")
    assert narrative is None or "alert" not in narrative.text


def photo_without_place(outcome: Outcome) -> None:
    _alone(outcome)
    _format(outcome, "jpeg")
    preview = outcome.page("preview")  # that there is no Exif in it is checked of all
    assert preview is not None and preview.mimetype == "image/jpeg" and not outcome.tasks
    assert "<script>alert(1)</script>" in _words(outcome) and "HYPERLINK" in _words(outcome)


def pdf_as_picture(outcome: Outcome) -> None:
    preview = outcome.page("preview")
    assert preview is not None and preview.mimetype in ("image/jpeg", "image/png") and len(outcome.items) == 1


def told_as_words(*told: str) -> Callable[[Outcome], None]:
    def check_told(outcome: Outcome) -> None:
        _alone(outcome)
        for words in told:
            assert words in _words(outcome)

    return check_told


def no_table_of_ours(outcome: Outcome) -> None:
    """We write no CSV at all (test_nothing_of_ours_writes_csv): the file is given back as it came, cells are text."""
    narrative = outcome.page("narrative")
    assert narrative is not None and "@SUM(1+1)*cmd" in text_of(narrative)


def untouched(outcome: Outcome) -> None:
    _alone(outcome)
    _format(outcome, "text")


def empty_refused(outcome: Outcome) -> None:
    assert outcome.answer.status_code == 400 and "the file is empty" in outcome.answer.text and not outcome.items
    assert "Your record is empty" in text_of(outcome.pages["/record"])


BOMB = "(its files would be far larger than any real record|its files overlap)"
FORTY: dict[int, Demand] = {
    1: Demand("zip_bomb.zip", "refused before anything is unpacked", refused(BOMB)),
    2: Demand("zip_nested.zip", "inner archives stay closed", nested),
    3: Demand("zip_overlap.zip", "refused", refused(BOMB)),
    4: Demand("zip_traversal.zip", "names are names, nothing outside", members_by_name_only),
    5: Demand("zip_symlinks.zip", "links left out", links_left_out),
    6: Demand("zip_many.zip", "refused, pages answer", refused("it holds more than 20,000 files")),
    7: Demand("zip_names.zip", "names shown as words", names_escaped),
    8: Demand("tar_traversal.tar.gz", "links and devices left out", tar_without_links),
    9: Demand("gzip_bomb.nii.gz", "kept, not unpacked", no_narrative("gzip")),
    10: Demand("dicom_pe_preamble.dcm", "preamble zeroed for apps", preamble_zeroed),
    11: Demand("dicom_elf_preamble.dcm", "preamble zeroed for apps", preamble_zeroed),
    12: Demand("dicom_script.dcm", "escaped on every page", dicom_script),
    13: Demand("dicom_huge.dcm", "no preview, says so", kept_without_picture("too large for a preview", "dicom")),
    14: Demand("dicom_jpeg2000_bomb.dcm", "no preview, kept", kept_without_picture("Medical image", "dicom")),
    15: Demand("dicom_deep_sequences.dcm", "says it is damaged", kept_without_picture("is damaged", "dicom")),
    16: Demand("dicom_bad_length.dcm", "kept, no picture", kept_without_picture("in your record since", "dicom")),
    17: Demand("DICOMDIR", "its paths are words", table_of_contents),
    18: Demand("dicom_deflate_bomb.dcm", "inflated for its frame only", frame_of_a_bomb),
    19: Demand("cda_entities.xml", "document type refused", document_type_refused),
    20: Demand("cda_laughs.xml", "document type refused", document_type_refused),
    21: Demand("cda_deep.xml", "kept, no text", no_narrative("cda-xml")),
    22: Demand("cda_script.xml", "text cleaned", cda_cleaned),
    23: Demand("fhir_script.json", "text cleaned, Binary stays inside", fhir_cleaned),
    24: Demand("fhir_deep.json", "kept as unknown", no_narrative("unknown", "json")),
    25: Demand("fhir_big_number.json", "says it is damaged", kept_without_picture("is damaged", "fhir-json")),
    26: Demand("active.svg", "to save only", no_narrative("svg")),
    27: Demand("many_pixels.png", "no preview", kept_without_picture("in your record since", "png")),
    28: Demand("loop.tif", "no preview", kept_without_picture("in your record since", "tiff")),
    29: Demand("photo_with_place.jpg", "preview without Exif", photo_without_place),
    30: Demand("script.pdf", "a picture of its page", pdf_as_picture),
    31: Demand("report.pdf", "a web page, cleaned", page_named_pdf),
    32: Demand("one_line.vcf.gz", "read for 4 MiB", told_as_words("Gene variants")),
    33: Demand("script.vcf", "escaped", told_as_words("<script>alert(1)</script>")),
    34: Demand("formula.csv", "cells are text, no CSV written", no_table_of_ours),
    35: Demand("lies.edf", "says it is damaged", kept_without_picture("The recording is damaged", "edf")),
    36: Demand("lies.nii", "no preview", kept_without_picture("in your record since", "nifti")),
    37: Demand("script.hl7", "escaped", told_as_words("<script>alert(1)</script>", "<svg onload=alert(1)>")),
    38: Demand("virus_test.txt", "stored untouched (no scanner)", untouched),
    39: Demand("dicom_empty_frame.dcm", "no preview, says so", kept_without_picture("no preview", "dicom")),
    40: Demand("empty.dcm", "refused in words", empty_refused),
}  # fmt: skip
