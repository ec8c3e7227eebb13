"""What the page of a file says of a viewer that was tried with our own sample of its kind."""

from myphr.machines import viewer_checks
from myphr.portal import Portal
from myphr.viewers import samples
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in


def test_the_card_says_when_such_a_file_was_opened_and_when_it_was_not(
    browser: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vera = sign_in(browser, PATIENT)
    eeg = f"/item/{put_in(portal, patient.account.id, samples.of('edf')['eeg.edf'], 'eeg.edf').id}"
    assert "We tried it with such a file" not in text_of(vera.get(eeg))
    viewer_checks.note(portal.database, "edfbrowser", "edf", 7, None)
    viewer_checks.note(portal.database, "simple-signals", "edf", 7, "not-like-before")
    words = text_of(vera.get(eeg))
    assert "We tried it with such a file on" in words and "it opened." in words
    assert "When we last tried it with such a file on" in words and "it did not open." in words
    assert words.index("EDFbrowser") < words.index("Simple signals")  # what failed comes behind


def test_a_kind_of_image_that_was_not_tried_says_nothing(
    browser: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vera = sign_in(browser, PATIENT)
    heart = f"/item/{put_in(portal, patient.account.id, samples.of('dicom ECG')['waveform_ecg.dcm'], 'ecg.dcm').id}"
    viewer_checks.note(portal.database, "simple-signals", "dicom EEG", 7, None)
    assert "We tried it" not in text_of(vera.get(heart))
    viewer_checks.note(portal.database, "simple-signals", "dicom ECG", 7, None)
    assert "We tried it with such a file on" in text_of(vera.get(heart))
