"""Suggestions are ranked, honest and never empty."""

from collections import Counter
from pathlib import Path

import pytest

from myphr.errors import ConfigurationError
from myphr.viewers import builder, catalogue
from myphr.viewers.suggest import suggest

VIEWERS = catalogue.load()


def names(formats, modalities=()):
    return [one.viewer.name for one in suggest(VIEWERS, Counter(formats), Counter(modalities))]


def test_mr_images_go_to_the_viewer_for_fingers_first_and_to_the_specialists_second():
    assert names({"dicom": 12}, {"MR": 12}) == ["simple-images", "aeskulap"]


def test_reason_says_how_many_of_what_and_who_opens_them():
    best = suggest(VIEWERS, Counter(dicom=12), Counter(MR=12))[0]
    assert best.reason == "12 MR images: Simple images shows these with large buttons, ready at once"


def test_one_image_is_not_called_images():
    assert suggest(VIEWERS, Counter(dicom=1), Counter(CR=1))[0].reason.startswith("1 X-ray image: ")


def test_images_of_several_kinds_are_just_images():
    assert suggest(VIEWERS, Counter(dicom=9), Counter(CT=4, MR=5))[0].reason.startswith("9 images: ")


def test_x_rays_stored_in_two_ways_are_still_x_rays():
    assert suggest(VIEWERS, Counter(dicom=2), Counter(CR=1, DX=1))[0].reason.startswith("2 X-ray images: ")


def test_a_letter_goes_to_the_documents_viewer():
    assert names({"pdf": 1})[0] == "simple-documents"


def test_a_table_also_offers_the_office_program():
    assert names({"xlsx": 1}) == ["simple-documents", "office"]


def test_photos_and_tables_are_counted_apart():
    assert suggest(VIEWERS, Counter(jpeg=3, xlsx=1), Counter())[0].reason.startswith("3 photos and 1 table: ")


def test_mixed_files_say_how_many_of_them_a_viewer_opens():
    reasons = {one.viewer.name: one.reason for one in suggest(VIEWERS, Counter(dicom=8, pdf=2), Counter(CT=8))}
    assert "opens 8 of the 10" in reasons["simple-images"]
    assert "opens 2 of the 10" in reasons["simple-documents"]


def test_more_of_the_files_wins():
    assert names({"dicom": 1, "pdf": 9}, {"CT": 1})[0] == "simple-documents"
    assert names({"dicom": 9, "pdf": 1}, {"CT": 9})[0] == "simple-images"


def test_a_kind_that_the_specialists_viewer_does_not_know_is_not_promised_to_it():
    assert names({"dicom": 1}, {"SR": 1}) == ["simple-images"]


@pytest.mark.parametrize("formats", [{}, {"unknown": 3}, {"exe": 1}, {"dicom": 0}, {"pdf": -1}])
def test_there_is_always_an_answer(formats):
    found = suggest(VIEWERS, Counter(formats), Counter())
    assert found and all(one.reason for one in found)


def test_nothing_that_fits_is_said_and_not_hidden():
    assert "no viewer of ours is made for this" in suggest(VIEWERS, Counter(unknown=3), Counter())[0].reason


def test_the_probe_is_never_suggested_beside_real_viewers():
    for formats in ({"dicom": 1}, {"pdf": 1}, {"unknown": 1}, {}):
        assert "probe" not in names(formats)


def test_a_catalogue_of_the_probe_alone_suggests_the_probe():
    assert suggest({"probe": VIEWERS["probe"]}, Counter(pdf=1), Counter())[0].viewer.name == "probe"


def test_an_empty_catalogue_is_a_mistake():
    with pytest.raises(ValueError):
        suggest({}, Counter(pdf=1), Counter())


def test_every_viewer_has_a_template_that_can_be_built():
    assert {viewer.template for viewer in VIEWERS.values()} <= set(builder.names())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("colour = 'red'\n", "unknown colour"),
        ("rank = 'high'\n", "rank must be int"),
        ("rank = true\n", "rank must be int"),
        ("rank = \n", "viewer.toml"),
    ],
)
def test_a_mistake_in_a_viewers_file_is_named(tmp_path: Path, change, complaint):
    good = (catalogue.FOLDER / "simple-images.toml").read_text()
    key = change.split(" ")[0]
    lines = [line for line in good.splitlines() if not line.startswith(f"{key} ")]
    path = tmp_path / "viewer.toml"
    path.write_text("\n".join(lines) + "\n" + change)
    with pytest.raises(ConfigurationError, match=complaint):
        catalogue.read(path)


def test_a_missing_key_is_named(tmp_path: Path):
    path = tmp_path / "viewer.toml"
    path.write_text("title = 'X'\n")
    with pytest.raises(ConfigurationError, match="description is missing"):
        catalogue.read(path)


def test_thousands_are_easy_to_read():
    assert suggest(VIEWERS, Counter(dicom=2000), Counter(MR=2000))[0].reason.startswith("2,000 MR images: ")
