"""Suggestions are ranked, honest and never empty."""

from collections import Counter
from pathlib import Path

import pytest

from myphr.errors import ConfigurationError
from myphr.viewers import builder, catalogue, contents
from myphr.viewers import suggest as ranking
from myphr.viewers.belief import PEOPLE_MIN, Tally
from myphr.viewers.catalogue import Viewer
from myphr.viewers.contents import Contents, Part
from myphr.viewers.suggest import Check, Known

# Not of the template for research images, which opens slices too: what comes with it must not change what is asked.
VIEWERS = {name: one for name, one in catalogue.load().items() if one.template != "research"}
HTJ2K = "1.2.840.10008.1.2.4.201"
MR_IMAGE, SEGMENTATION = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.66.4"


def suggest(catalogue_, formats, modalities):
    return ranking.suggest(catalogue_, contents.counted(formats, modalities))


def names(formats, modalities=()):
    return [one.viewer.name for one in suggest(VIEWERS, Counter(formats), Counter(modalities))]


def test_mr_images_go_to_the_viewer_for_fingers_first_and_to_the_specialists_second():
    assert names({"dicom": 12}, {"MR": 12}) == ["simple-images", "aeskulap"]


def test_reason_says_how_many_of_what_and_who_opens_them():
    best = suggest(VIEWERS, Counter(dicom=12), Counter(MR=12))[0]
    assert best.reason == "12 MR images: Simple images shows these with large buttons, ready at once"


def test_one_image_is_not_called_images():
    reason = suggest(VIEWERS, Counter(dicom=1), Counter(CR=1))[0].reason
    assert reason == "1 X-ray image: Simple images shows it with large buttons, ready at once"


@pytest.mark.parametrize("name", [name for name, viewer in VIEWERS.items() if not viewer.internal])
def test_of_one_file_no_viewer_speaks_as_of_several(name):
    said = ranking._of_one(VIEWERS[name].opens)
    assert said != VIEWERS[name].opens and not {"these", "their", "them"} & set(said.replace(",", "").split())


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
    assert names({"dicom": 1}, {"ES": 1}) == ["simple-images"]


def test_a_report_in_dicom_is_not_promised_to_a_viewer_of_pictures():
    found = suggest(VIEWERS, Counter(dicom=1), Counter(SR=1))
    assert "simple-images" not in [one.viewer.name for one in found] and "no viewer of ours" in found[0].reason


def test_a_discs_table_of_contents_alone_is_promised_to_nobody():
    reasons = [one.reason for one in suggest(VIEWERS, Counter(dicomdir=1), Counter())]
    assert "no viewer of ours" in reasons[0] and not any("opens 0" in reason for reason in reasons)


@pytest.mark.parametrize("formats", [{}, {"unknown": 3}, {"exe": 1}, {"dicom": 0}, {"pdf": -1}])
def test_there_is_always_an_answer(formats):
    found = suggest(VIEWERS, Counter(formats), Counter())
    assert found and all(one.reason for one in found)


def test_nothing_that_fits_is_said_and_not_hidden():
    found = suggest(VIEWERS, Counter(unknown=3), Counter())
    assert "no viewer of ours is made for this" in found[0].reason and not found[0].fits
    assert all(one.fits for one in suggest(VIEWERS, Counter(pdf=1), Counter()))


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


# -- what images are like ---------------------------------------------------------------------------
def viewer_of(**changes: object) -> Viewer:
    """A viewer of some template for DICOM, made for fingers."""
    facts: dict = {
        "name": "volumes", "title": "Volumes", "description": "", "opens": "shows these in layers",
        "template": "research", "formats": frozenset({"dicom", "nifti"}), "modalities": frozenset({"*"}),
        "command": ("volumes",), "touch": True, "prewarmed": True, "rank": 2,
        "families": frozenset({"image", "seg", "rt"}),
    }  # fmt: skip
    return Viewer(**(facts | changes))


def ranked(what: Contents, known: Known = ranking.NOTHING, *more: Viewer) -> list[ranking.Suggestion]:
    return ranking.suggest({**VIEWERS, **{one.name: one for one in more}}, what, known)


def test_a_few_marked_areas_among_many_slices_go_to_the_viewer_that_shows_both():
    what = Contents(Counter({Part("dicom", "MR", MR_IMAGE): 300, Part("dicom", "SEG", SEGMENTATION): 1}))
    assert ranked(what)[0].viewer.name == "simple-images"
    assert ranked(what, ranking.NOTHING, viewer_of())[0].viewer.name == "volumes"
    plain = Contents(Counter({Part("dicom", "MR", MR_IMAGE): 300}))
    assert ranked(plain, ranking.NOTHING, viewer_of())[0].viewer.name == "simple-images"


def test_a_dose_alone_says_that_only_pictures_are_shown():
    assert "shows only the pictures in it" in ranked(contents.counted({"dicom": 1}, {"RTDOSE": 1}))[0].reason


def test_what_is_packed_in_a_way_the_viewer_cannot_read_is_said():
    what = Contents(Counter({Part("dicom", "CT", "", HTJ2K): 4, Part("dicom", "CT", "", "1.2.840.10008.1.2.1"): 6}))
    best = ranked(what)[0]
    assert best.reason.endswith("opens 6 of the 10; the others are packed in a way it cannot read")
    alone = ranked(Contents(Counter({Part("dicom", "CT", "", HTJ2K): 4})))
    assert "no viewer of ours reads how they are packed" in alone[0].reason


def test_more_than_a_machine_holds_is_said_and_ranked_last():
    what = Contents(Counter({Part("dicom", "CT"): 6_000}), 3_000_000_000, 500_000)
    found = ranked(what)
    assert [one.viewer.name for one in found] == ["simple-images", "aeskulap"]
    assert found[0].notes == () and "it takes 5,000 files at once" in found[1].notes[0]
    huge = ranked(Contents(Counter({Part("dicom", "CT"): 40_000})))
    assert "it takes 20,000 files at once" in huge[0].notes[0]
    film = ranked(Contents(Counter({Part("dicom", "US"): 1}), 5_000_000_000, 5_000_000_000))
    assert "it takes up to 250 MB" in film[0].notes[0]


def test_a_large_file_just_within_the_limit_is_not_warned_of():
    limit = VIEWERS["simple-images"].file_bytes_max
    for size, warned in ((limit, False), (limit + 1, True)):
        found = {one.viewer.name: one for one in ranked(Contents(Counter({Part("dicom", "US"): 1}), size, size))}
        assert bool(found["simple-images"].notes) is warned


# -- what is known beside the items ------------------------------------------------------------------
def test_a_viewer_that_is_not_installed_comes_after_all_that_are_and_says_so():
    found = ranked(contents.counted({"dicom": 3}, {"MR": 3}), Known(installed=frozenset({"research"})), viewer_of())
    assert [one.viewer.name for one in found] == ["volumes", "simple-images", "aeskulap"]
    assert [one.installed for one in found] == [True, False, False]
    assert "It is not installed on this portal." in found[1].notes


def test_when_only_a_missing_viewer_would_open_it_the_one_that_takes_anything_comes_first():
    found = ranked(contents.counted({"nifti": 1}), Known(installed=frozenset({"documents"})), viewer_of())
    assert [one.viewer.name for one in found][:2] == ["simple-documents", "volumes"]
    assert "not installed here" in found[0].reason and found[0].installed and not found[1].installed


def test_while_nobody_knows_what_is_installed_everything_counts_as_installed():
    assert all(one.installed for one in ranked(contents.counted({"dicom": 3})))


def test_where_no_viewer_at_all_is_installed_none_is_left_out():
    found = ranked(contents.counted({"dicom": 3}), Known(installed=frozenset({"probe"})))
    assert [one.installed for one in found] == [True, True] and found[0].notes == ()


def test_a_failed_check_puts_a_viewer_behind_and_a_passed_one_is_said():
    checks = {("simple-images", "dicom"): Check(False, "3 October 2026"), ("aeskulap", "dicom"): Check(True)}
    found = ranked(contents.counted({"dicom": 3}, {"MR": 3}), Known(checks=checks))
    assert [one.viewer.name for one in found] == ["aeskulap", "simple-images"]
    assert found[1].notes == ("When we last tried it with such a file on 3 October 2026, it did not open.",)
    assert found[0].notes == ("We tried it with such a file: it opened.",)


def test_what_did_not_open_for_this_person_comes_last_and_says_so():
    found = ranked(contents.counted({"dicom": 3}, {"MR": 3}), Known(own={"simple-images": False}))
    assert [one.viewer.name for one in found] == ["aeskulap", "simple-images"]
    assert found[1].notes == ("It did not open for you last time.",)
    assert ranked(contents.counted({"dicom": 3}), Known(own={"aeskulap": True}))[0].viewer.name == "aeskulap"


def test_the_sentence_says_for_how_many_people_it_opened():
    what = contents.counted({"dicom": 12}, {"MR": 12})

    def said(*numbers: int) -> tuple[str, ...]:
        return ranked(what, Known(tallies={"simple-images": Tally(*numbers)}))[0].notes

    assert said(37, 3) == ("It opened for 37 of 40 people with such files who told us.",)
    assert said(40, 0) == ("It opened for all 40 people with such files who told us.",)
    assert said(PEOPLE_MIN - 1, PEOPLE_MIN - 1) == () and said(0, 1) == ()


def test_many_for_whom_it_did_not_open_turn_the_order_round():
    found = ranked(contents.counted({"dicom": 9}, {"MR": 9}), Known(tallies={"simple-images": Tally(0, 9)}))
    assert [one.viewer.name for one in found] == ["aeskulap", "simple-images"]
    assert found[1].notes == ("It did not open for any of 9 people with such files who told us.",)


def test_a_family_that_does_not_exist_is_a_mistake_in_a_viewers_file(tmp_path: Path):
    path = tmp_path / "viewer.toml"
    path.write_text((catalogue.FOLDER / "aeskulap.toml").read_text() + "families = ['films']\n")
    with pytest.raises(ConfigurationError, match="unknown family films"):
        catalogue.read(path)


def test_a_viewer_of_curves_is_not_promised_pictures_that_do_not_say_what_they_are():
    assert VIEWERS["simple-signals"].families == {"waveform"}
    assert names({"dicom": 2}) == ["simple-images", "aeskulap"]
    assert names({"dicom": 1}, {"ECG": 1})[0] == "simple-signals"


def test_a_plan_has_no_pictures_to_show():
    assert "simple-images" not in names({"dicom": 1}, {"RTPLAN": 1})
    assert not Part("dicom", "RTPLAN").has_pictures and Part("dicom", "RTDOSE").has_pictures


@pytest.mark.parametrize(
    ("formats", "modalities", "first"),
    [
        ({"nifti": 1}, {}, "simple-volumes"),
        ({"dicom": 1}, {"RTSTRUCT": 1}, "simple-volumes"),
        ({"dicom": 1}, {"RTDOSE": 1}, "simple-volumes"),
        ({"dicom": 1}, {"SEG": 1}, "simple-volumes"),
        ({"dicom": 121}, {"CT": 120, "SEG": 1}, "simple-volumes"),
        ({"dicom": 121}, {"CT": 120, "SR": 1}, "simple-images"),
        ({"dicom": 120}, {"CT": 120}, "simple-images"),
        ({"dicom": 1}, {"ECG": 1}, "simple-signals"),
        ({"dicom": 1}, {"DOC": 1}, "simple-documents"),
        ({"edf": 1}, {}, "simple-signals"),
        ({"aecg-xml": 2}, {}, "simple-signals"),
        ({"vcf": 1}, {}, "simple-genome"),
        ({"dtc-genotype": 1}, {}, "simple-genome"),
        ({"bam": 1, "bai": 1}, {}, "igv"),
        ({"pdf": 3}, {}, "simple-documents"),
    ],
)
def test_each_kind_of_file_goes_to_the_viewer_made_for_it(formats, modalities, first):
    assert suggest(catalogue.load(), Counter(formats), Counter(modalities))[0].viewer.name == first
