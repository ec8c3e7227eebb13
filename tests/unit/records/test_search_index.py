"""The index in memory: what is found by what was typed, what is counted, and what is gone when it is gone."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from myphr.records.search_index import (
    TERMS_MAX,
    DamagedIndex,
    Doc,
    Entry,
    Question,
    SearchIndex,
    pieces,
    terms_of,
)

ROOT = Path(__file__).parents[3]


def put(
    index: SearchIndex, number: int, title: str, text: str = "", *, study: int = 0, day: str = "", **kinds: str
) -> None:
    key = f"study:{study}" if study else f"item:{number}"
    with index.changing():
        if not study:
            index.put_entry(Entry(key, title, day=day, added="2026-01-01T00:00:00+00:00"))
        index.settle(index.put([Doc(str(number), key, b"1", title, "", text, **kinds)]))


@pytest.fixture
def index() -> SearchIndex:
    index = SearchIndex()
    tibia = "Fracture of the left tibia, Dr Müller, Charité"
    put(index, 1, "Knee report", tibia, day="2004-03-01", type="document", format="pdf")
    put(index, 2, "Blood test", "Hämoglobin 14.2 g/dl; Straße 5", day="2011-02", type="laboratory", format="hl7v2")
    put(index, 3, "Wound", "", type="photo", format="jpeg")
    with index.changing():
        index.put_entry(Entry("study:9", "MR scan, knee", day="2004-03-01", place="Charité", added="2026-02-01"))
        index.settle(index.put([Doc("9", "study:9", b"1", "MR scan, knee", "Charité 1 March 2004")]))
    put(index, 10, "IM0001", "", study=9, type="imaging", modality="mr", format="dicom")
    put(index, 11, "report.pdf", "Meniscus torn", study=9, type="document", format="pdf")
    return index


def found(index: SearchIndex, words: str, **chosen: str) -> list[str]:
    return [hit.entry.key for hit in index.find(Question(words, chosen), 50).hits]


@pytest.mark.parametrize(("words", "wanted"), [
    ("KNEE", {"item:1", "study:9"}), ("kne", {"item:1", "study:9"}), ("nee", set()), ("muller", {"item:1"}),
    ("müller", {"item:1"}), ("hamoglobin", {"item:2"}), ("hämo", {"item:2"}), ("charite", {"item:1", "study:9"}),
    ('"left tibia"', {"item:1"}), ('"tibia left"', set()), ("tibia left", {"item:1"}), ("“left tibia”", {"item:1"}),
    ("meniscus charité", {"study:9"}), ("meniscus knee im0001", {"study:9"}), ("14.2", {"item:2"}),
    ("knee wound", set()),
    ("2004", {"study:9"}), ('"kne"', set()), ("left-tibia", {"item:1"}), ("tibia-left", set()),
    ("tibia,", {"item:1"}), ("!!!", set()), ("knee !!!", {"item:1", "study:9"}),
])  # fmt: skip
def test_words_are_found_whatever_their_accents_and_case(index: SearchIndex, words: str, wanted: set[str]) -> None:
    assert set(found(index, words)) == wanted


def test_what_has_the_words_in_its_title_comes_first(index: SearchIndex) -> None:
    put(index, 4, "Letter", "nothing of a tibia " * 3)
    put(index, 5, "Tibia", "x")
    assert found(index, "tibia")[0] == "item:5"


def test_without_words_the_newest_day_comes_first_and_what_has_none_last(index: SearchIndex) -> None:
    assert found(index, "") == ["item:2", "study:9", "item:1", "item:3"]


def test_results_are_counted_by_study_not_by_file(index: SearchIndex) -> None:
    for number in range(20, 30):
        put(index, number, f"IM{number}", "", study=9, type="imaging", modality="mr", format="dicom")
    counts = index.find(Question("knee"), 50).counts
    assert dict(counts["type"]) == {"document": 2, "imaging": 1} and dict(counts["modality"]) == {"mr": 1}
    assert dict(counts["year"]) == {"2004": 2} and dict(counts["format"]) == {"pdf": 2, "dicom": 1}


def test_facets_cut_the_results_and_are_counted_within_them(index: SearchIndex) -> None:
    assert set(found(index, "", format="pdf")) == {"item:1", "study:9"}
    assert found(index, "knee", format="pdf", type="imaging") == ["study:9"]
    assert found(index, "", year="none") == ["item:3"] and found(index, "", year="2011") == ["item:2"]
    assert found(index, "", format="poem") == [] and found(index, "", **{"no such facet": "x"}) == found(index, "")
    assert dict(index.find(Question("", {"year": "2004"}), 50).counts["format"]) == {"pdf": 2, "dicom": 1}


def test_an_excerpt_marks_what_was_looked_for_and_nothing_else(index: SearchIndex) -> None:
    put(index, 6, "a \x02b\x03", "pre \x02<i>post</i>\x03 tibia \x00 end")
    [hit] = index.find(Question("tibia end"), 50).hits
    assert "".join(text for text, _ in hit.excerpt) == "pre  <i>post</i>  tibia   end"
    assert [text for text, is_found in hit.excerpt if is_found] == ["tibia", "end"]
    assert pieces("a \x02b\x03 c") == (("a ", False), ("b", True), (" c", False))


def test_a_study_is_shown_by_its_own_title_though_its_file_was_found(index: SearchIndex) -> None:
    [hit] = index.find(Question("meniscus"), 50).hits
    assert hit.title == (("MR scan, knee", False),) and ("Meniscus", True) in hit.excerpt


@pytest.mark.parametrize("words", [
    "AND", "a AND b OR NOT c", 'title : "x', "NEAR(a b, 3)", "(((", "^a", "a*b*", "{title}: x", "\0", "a\0b", "\ud800",
    '"', '""', "+", "a + b",
    "x" * 10_000, "a " * 10_000, '"a" ' * 500, "\x02\x03", "-- '; DROP TABLE entry", "é" * 5000, "\u202e", "　", "𝕜𝕟𝕖𝕖",
])  # fmt: skip
def test_nothing_that_can_be_typed_is_an_error(index: SearchIndex, words: str) -> None:
    index.find(Question(words), 50)
    assert len(terms_of(words)) <= TERMS_MAX and set(found(index, "knee")) == {"item:1", "study:9"}


def test_replacing_a_document_forgets_its_old_words(index: SearchIndex) -> None:
    put(index, 1, "Hip report", "new")
    assert found(index, "tibia") == [] and found(index, "hip") == ["item:1"]


def test_what_is_removed_is_found_no_more_and_its_words_are_in_no_byte_of_the_index(index: SearchIndex) -> None:
    put(index, 7, "Zyxwvutsrq", "Marker7f3a91plaintext of a diagnosis " * 50)
    assert b"Marker7f3a91plaintext" in index.to_bytes() and b"zyxwvutsrq" in index.to_bytes().lower()
    with index.changing():
        index.settle(index.remove(["7"]))
    left = index.to_bytes().lower()
    assert found(index, "zyxwvutsrq") == [] and "item:7" not in found(index, "")
    assert b"marker7f3a91" not in left and b"zyxwvutsrq" not in left and b"arker7f3a91plain" not in left


def test_a_study_stays_until_its_last_document_goes(index: SearchIndex) -> None:
    for keys, there in ((["11"], True), (["10", "9"], False)):
        with index.changing():
            index.settle(index.remove(keys))
        assert ("study:9" in found(index, "")) is there
    assert index.years().counts == ((2011, 1), (2004, 1))


def test_a_document_without_its_row_is_left_out(index: SearchIndex) -> None:
    with index.changing():
        assert index.put([Doc("99", "study:nowhere", b"1", "ghost")]) == set()
    assert found(index, "ghost") == [] and "99" not in index.stamps()


def test_the_bytes_of_an_index_make_the_same_index(index: SearchIndex) -> None:
    again = SearchIndex(index.to_bytes())
    assert found(again, "knee") == found(index, "knee") and again.stamps() == index.stamps()
    put(again, 8, "More", "words")
    assert found(again, "more") == ["item:8"] and found(index, "more") == []


@pytest.mark.parametrize("damage", [
    lambda kept: b"", lambda kept: b"no database", lambda kept: kept[:4096], lambda kept: kept[: len(kept) // 2],
    lambda kept: kept[:18] + b"\xff" * 40 + kept[58:], lambda kept: kept[:60] + b"\0\0\0\x63" + kept[64:],
    lambda kept: bytes(len(kept)),
])  # fmt: skip
def test_bytes_that_are_no_index_are_refused(index: SearchIndex, damage) -> None:
    with pytest.raises(DamagedIndex):
        SearchIndex(damage(index.to_bytes()))


def test_years_and_days(index: SearchIndex) -> None:
    assert index.years().counts == ((2011, 1), (2004, 2)) and index.years().unknown == 1
    shown, total = index.by_day(before_year=2004, start=0, most=1)
    assert total == 2 and shown[0].day == "2004-03-01"
    assert index.by_day(before_year=None, start=0, most=9)[0][0].key == "item:2"
    assert [entry.key for entry in index.without_day(start=0, most=9)[0]] == ["item:3"]


_NO_FILES = """
    import os, resource, sys
    from myphr.records import search_index
    from myphr.records.search_index import Doc, Entry, Question, SearchIndex
    index = SearchIndex()
    if sys.argv[1] == "file":
        index._db.execute("PRAGMA temp_store = FILE")
    index._db.execute("PRAGMA cache_size = 10")
    with index.changing():
        for n in range(3000):
            index.put_entry(Entry(f"item:{n}", f"letter {n}", about="x" * 300, day="2004"))
            index.settle(index.put([Doc(str(n), f"item:{n}", b"1", f"letter {n}", "y " * 100, "words " * 200)]))
    used = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
    for descriptor in range(used):  # every number is taken: who opens a file now fails
        try:
            os.dup(0)
        except OSError:
            break
    index._db.execute("SELECT group_concat(about) FROM (SELECT * FROM entry ORDER BY about || title)").fetchall()
    for words in ("", "letter", "words y"):
        assert index.find(Question(words), 50).total == 3000
    SearchIndex(index.to_bytes())
"""


@pytest.mark.parametrize(("where", "fails"), [("memory", False), ("file", True)])
def test_a_large_sort_opens_no_temporary_file(where: str, fails: bool) -> None:
    """In a process that can open none; with SQLite's own setting it does fail there."""
    command = [sys.executable, "-c", textwrap.dedent(_NO_FILES), where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode != 0) is fails, done.stderr[-2000:]
    if fails:
        assert "unable to open database file" in done.stderr
