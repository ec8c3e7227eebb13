""" "Download everything": the page in each state, ranges, and that only its owner gets it."""

import io
import re
import zipfile

import pytest
from flask import Flask

from myphr.ingest import identify
from myphr.portal import Portal
from myphr.records import export_orders, exports
from myphr.records.models import Export
from tests.cast import PATIENT
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in


def account_of(portal: Portal) -> str:
    from sqlmodel import select

    from myphr.people.models import Account

    with portal.database.read() as db:
        return db.exec(select(Account.id).where(Account.email == PATIENT.email)).one()


@pytest.fixture
def filled(vera: PageClient, portal: Portal) -> PageClient:
    account_id = account_of(portal)
    put_in(portal, account_id, b"Dear Vera", "letter.txt")
    put_in(portal, account_id, bytes(range(256)) * 9000, "large.bin")
    return vera


def ask(client: PageClient, portal: Portal) -> str:
    from sqlmodel import select

    assert client.post("/everything", {}).headers["Location"] == "/everything"
    with portal.database.read() as db:
        return db.exec(select(Export.id).where(Export.state == "waiting")).one()


@pytest.fixture
def ready(filled: PageClient, portal: Portal) -> str:
    """The address of a finished zip."""
    export_id = ask(filled, portal)
    exports.run(portal, export_id, identify.pronom_of)
    return f"/everything/{export_id}/zip"


def test_the_record_leads_there(filled: PageClient) -> None:
    assert filled.page("/record").select_one('a[href="/everything"]')


def test_an_empty_record_says_so(vera: PageClient) -> None:
    answer = vera.post("/everything", {})
    assert answer.status_code == 422 and "nothing in your record yet" in text_of(answer)


def test_the_page_goes_from_asking_over_progress_to_the_file(filled: PageClient, portal: Portal) -> None:
    assert "Make my copy" in text_of(filled.get("/everything"))
    export_id = ask(filled, portal)
    page = filled.page("/everything")
    assert "2 files" in text_of(page) and page.select_one("#export")["data-hx-trigger"] == "every 2s"
    exports.run(portal, export_id, identify.pronom_of)
    page = filled.page("/everything")
    assert "Your copy is ready" in text_of(page) and page.select_one("#export")["data-hx-trigger"] == "none"
    assert "not sealed" in text_of(page) and page.select_one(f'a[href="/everything/{export_id}/zip"]')
    fragment = filled.get("/everything/progress", htmx=True).text
    assert fragment.lstrip().startswith("<div") and "Your copy is ready" in fragment


def test_a_large_record_is_looked_at_by_the_page_a_part_each_time(
    filled: PageClient, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_orders, "BATCH", 1)
    monkeypatch.setattr(exports, "STEP_SECONDS", 0)
    for number in range(3):
        put_in(portal, account_of(portal), b"one more %d" % number, f"{number}.txt")
    filled.post("/everything", {})  # one of five is opened
    page = filled.page("/everything")
    assert "2 of 5 files" in text_of(page) and page.select_one("#export")["data-hx-trigger"] == "every 1s"
    assert page.select_one("noscript a")["href"] == "/everything"
    assert "3 of 5 files" in filled.get("/everything/progress", htmx=True).text
    assert "4 of 5 files" in filled.get("/everything/progress", htmx=True).text
    page = filled.page("/everything")
    assert "Your copy is being made" in text_of(page) and page.select_one("#export")["data-hx-trigger"] == "every 2s"


def test_the_file_is_the_zip(filled: PageClient, ready: str) -> None:
    answer = filled.get(ready)
    assert answer.status_code == 200 and answer.mimetype == "application/zip"
    assert re.fullmatch(r'attachment; filename="My record \d{4}-\d\d-\d\d\.zip"', answer.headers["Content-Disposition"])
    archive = zipfile.ZipFile(io.BytesIO(answer.data))
    assert archive.read("files/letter.txt") == b"Dear Vera" and archive.testzip() is None
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    assert "You downloaded everything." in text_of(filled.get("/who-looked"))


@pytest.mark.parametrize(
    ("wanted", "start", "length"),
    [("bytes=0-0", 0, 1), ("bytes=100000-", 100_000, None), ("bytes=65535-65536", 65_535, 2), ("bytes=-7", -7, 7)],
)
def test_a_range_is_those_bytes(filled: PageClient, ready: str, wanted: str, start: int, length: int | None) -> None:
    whole = filled.get(ready).data
    part = filled.get(ready, headers={"Range": wanted})
    begin = start % len(whole)
    expected = whole[begin : len(whole) if length is None else begin + length]
    assert part.status_code == 206 and part.data == expected
    assert part.headers["Content-Range"] == f"bytes {begin}-{begin + len(expected) - 1}/{len(whole)}"


def test_a_broken_download_goes_on_where_it_was(filled: PageClient, ready: str) -> None:
    first = filled.get(ready)
    rest = filled.get(ready, headers={"Range": "bytes=70000-", "If-Range": first.headers["ETag"]})
    assert first.data[:70_000] + rest.data == first.data
    other = filled.get(ready, headers={"Range": "bytes=70000-", "If-Range": '"another"'})
    assert other.status_code == 200 and other.data == first.data


def test_a_range_behind_the_end_is_416_and_several_are_the_whole(filled: PageClient, ready: str) -> None:
    size = len(filled.get(ready).data)
    beyond = filled.get(ready, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    for odd in ("bytes=0-1,5-6", "lines=1-2", "bytes=x-y"):
        assert filled.get(ready, headers={"Range": odd}).status_code == 200


def test_a_head_tells_size_and_that_ranges_go(filled: PageClient, ready: str) -> None:
    answer = filled.request("HEAD", ready)
    assert answer.headers["Accept-Ranges"] == "bytes" and int(answer.headers["Content-Length"]) > 2_000_000
    assert "downloaded everything" not in text_of(filled.get("/who-looked"))


def test_going_on_makes_no_second_line_in_the_trail(filled: PageClient, ready: str) -> None:
    filled.get(ready)
    for start in (10, 20):
        filled.get(ready, headers={"Range": f"bytes={start}-"})
    words = text_of(filled.get("/who-looked"))
    assert words.count("downloaded everything") == 1 and "2 times" not in words


def test_nobody_else_gets_it(filled: PageClient, ready: str, nils: PageClient, app: Flask, oda: PageClient) -> None:
    for client in (nils, oda):
        assert client.get(ready).status_code == 404
        assert client.post(ready.replace("/zip", "/remove"), {}).status_code == 404
    assert PageClient(app).get(ready).status_code == 303
    assert filled.get(ready).status_code == 200


def test_it_is_deleted_on_request(filled: PageClient, ready: str) -> None:
    assert filled.post(ready.replace("/zip", "/remove"), {}).status_code == 303
    assert "The copy is deleted" in text_of(filled.get("/everything"))
    assert filled.get(ready).status_code == 404


def test_deleting_a_file_deletes_the_copy_with_it(filled: PageClient, ready: str) -> None:
    item = re.search(r"/item/[0-9a-f-]{36}", filled.get("/record").text)[0]
    filled.post(item + "/delete", {})
    assert filled.get(ready).status_code == 404


def test_a_failure_is_told_and_can_be_tried_again(filled: PageClient, portal: Portal) -> None:
    export_id = ask(filled, portal)
    with portal.database.write() as db:
        row = db.get(Export, export_id)
        row.state, row.error_code = "failed", "store-full"
        db.add(row)
    words = text_of(filled.get("/everything"))
    assert "storage is full" in words and "Make my copy" in words
    ask(filled, portal)
