"""What is opened, told apart by DICOM's own classes, and put into coarse kinds."""

from collections import Counter

import pytest

from myphr.viewers import contents
from myphr.viewers.contents import Part, family_of

STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize(
    ("sop_class", "modality", "family"),
    [
        (STORAGE + "2", "CT", "image"),
        (STORAGE + "6.1", "US", "image"),
        (STORAGE + "7", "SEG", "image"),  # a picture of marked areas: the class is what the file is
        (STORAGE + "66.4", "SEG", "seg"),
        (STORAGE + "66", "OT", "other"),
        (STORAGE + "481.2", "RTDOSE", "rt"),
        (STORAGE + "481.5", "RTPLAN", "rt"),
        (STORAGE + "88.33", "SR", "sr"),
        (STORAGE + "9.1.1", "ECG", "waveform"),
        (STORAGE + "104.1", "DOC", "encapsulated"),
        (STORAGE + "11.1", "PR", "state"),
        (STORAGE + "1", "CR", "image"),
        (STORAGE + "1.1", "DX", "image"),
        (STORAGE + "90", "", "image"),  # not yet known: most new classes are images
        ("1.2.840.10008.5.1.4.39.1", "", "state"),
        ("1.3.12.2.99.7", "RTSTRUCT", "rt"),  # a private class
        ("", "ECG", "waveform"),
        ("", "", "image"),
    ],
)
def test_objects_are_told_apart_by_their_class(sop_class, modality, family):
    assert family_of(sop_class, modality) == family and family in contents.FAMILIES


def test_a_study_of_slices_with_one_plan_is_of_the_kind_of_the_plan():
    parts = Counter({Part("dicom", "CT"): 200, Part("dicom", "RTPLAN"): 1, Part("dicom", "SR"): 2})
    assert contents.kind_of(parts) == "dicom/CT/rt"


def test_a_report_beside_the_slices_changes_no_kind():
    assert contents.kind_of(Counter({Part("dicom", "CT"): 200, Part("dicom", "SR"): 2})) == "dicom/CT/image"


def test_packed_and_unpacked_files_are_of_one_kind():
    assert contents.kind_of({Part("vcf-gz"): 1}) == contents.kind_of({Part("vcf"): 1}) == "vcf"


def test_a_tie_is_decided_the_same_way_each_time():
    one, other = Part("pdf"), Part("jpeg")
    assert contents.kind_of({one: 2, other: 2}) == contents.kind_of({other: 2, one: 2})


def test_a_study_counts_the_slices_that_its_summary_does_not_know_yet():
    what = contents.of_study([["MR", "", "", 5]], 7, 700)
    assert what.parts == {Part("dicom", "MR"): 7} and what.file_bytes_max == 100 and what.kind == "dicom/MR/image"
    assert contents.of_study([], 2, 0).parts == {Part("dicom"): 2}


def test_single_files_are_counted_with_their_headers_and_the_largest_size():
    slice_ = {"modality": "CT", "sop_class": STORAGE + "2"}
    what = contents.of_files([("dicom", slice_, 5), ("dicom", None, 9), ("pdf", None, 3)])
    assert what.parts == {Part("dicom", "CT", STORAGE + "2"): 1, Part("dicom"): 1, Part("pdf"): 1}
    assert (what.bytes_total, what.file_bytes_max) == (17, 9)


def test_reports_are_not_called_images():
    assert contents.words(contents.counted({"dicom": 1}, {"SR": 1})) == "1 report"
    both = contents.counted({"dicom": 11}, {"CT": 10, "SEG": 1})
    assert contents.words(both) == "10 CT images and 1 set of marked areas"


def test_the_contents_of_a_cd_are_not_counted_as_a_file_of_their_own():
    assert contents.words(contents.counted({"dicom": 2, "dicomdir": 1}, {"MR": 2})) == "2 MR images"
