"""docs/errors.md tells every error, and no error has two meanings."""

import re
from collections import Counter
from pathlib import Path

from myphr.web.error_reference import error_classes, markdown

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def test_the_page_of_errors_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m myphr.web.error_reference > docs/errors.md"


def test_every_code_stands_for_one_error() -> None:
    assert [code for code, count in Counter(kind.code for kind in error_classes()).items() if count > 1] == []


def test_every_error_is_a_plain_sentence_with_a_status() -> None:
    for kind in error_classes():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
        assert kind.sentence[0].isupper() or kind.sentence[0] == "{"
        assert kind.sentence.rstrip().endswith(".")
        assert 400 <= kind.status < 600
