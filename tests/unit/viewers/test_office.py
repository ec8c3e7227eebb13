"""The process in which LibreOffice is kept, seen from "Simple documents". LibreOffice itself is in the template only;
what stands in for it here speaks the same lines, and crashes, hangs and refuses as told by the file's content."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.viewers.guest_modules import guest_module

STAND_IN = """
import json, os, sys, time
print("warm", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    said = open(order["from"]).read()
    if said == "crash":
        open(order["to"], "w").write("half")
        os.abort()
    if said == "hang":
        open(order["to"], "w").write("half")
        time.sleep(600)
    if said == "refuse":
        print("failed", flush=True)
        continue
    open(order["to"], "w").write(f"{os.getpid()} {said}")
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def pages():
    with guest_module("document_pages") as module:
        yield module


@pytest.fixture
def office(pages, tmp_path: Path) -> Iterator:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    one = pages.Office([sys.executable, str(tmp_path / "stand_in.py")], seconds_max=2)
    yield one
    one._end()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    def write(content: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.docx"
        path.write_text(content)
        return str(path)

    return write


def wait_for(office) -> str:
    """The content of the PDF."""
    while True:
        made = office.result()
        if made is not None:
            return Path(made).read_text()
        time.sleep(0.01)


def test_it_is_warm_before_anything_is_asked(office):
    office.start()
    assert office.wait_until_warm(30)


def test_a_program_that_ends_at_once_is_not_waited_for(pages):
    one = pages.Office([sys.executable, "-c", ""])
    one.start()
    assert not one.wait_until_warm(60)


def test_one_process_makes_all_pdfs(office, file):
    made = []
    for words in ("first", "second"):
        office.begin(file(words))
        made.append(wait_for(office).split())
    assert [one[1] for one in made] == ["first", "second"]
    assert made[0][0] == made[1][0]


def test_a_file_that_was_left_is_forgotten_and_the_next_one_is_shown(office, file):
    office.begin(file("left"))
    office.forget()
    office.begin(file("wanted"))
    assert wait_for(office).endswith("wanted")
    assert len(list(Path(office.folder.name).iterdir())) == 1


@pytest.mark.parametrize("how", ["refuse", "crash"])
def test_a_bad_file_gives_a_sentence_and_the_next_one_is_shown(pages, office, file, how):
    office.begin(file(how))
    with pytest.raises(pages.CannotShow, match="damaged"):
        wait_for(office)
    office.begin(file("good"))
    assert wait_for(office).endswith("good")


def test_after_a_crash_it_is_loaded_again_before_it_is_asked(pages, office, file):
    office.start()
    assert office.wait_until_warm(30)
    office.begin(file("crash"))
    with pytest.raises(pages.CannotShow):
        wait_for(office)
    assert office.wait_until_warm(30)


def test_a_file_that_hangs_is_given_up(pages, office, file):
    office.start()
    assert office.wait_until_warm(30)
    office.begin(file("hang"))
    with pytest.raises(pages.CannotShow, match="too long"):
        wait_for(office)
    assert list(Path(office.folder.name).iterdir()) == []
    office.begin(file("good"))
    assert wait_for(office).endswith("good")


@pytest.mark.parametrize("how", ["hang", "crash"])
def test_the_file_that_was_left_takes_the_blame_and_not_the_one_after_it(office, file, how):
    office.begin(file(how))
    office.forget()
    office.begin(file("good"))
    assert wait_for(office).endswith("good")
