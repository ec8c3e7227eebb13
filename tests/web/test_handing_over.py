"""The page where a practice hands files over by an emailed link: who gets there, what comes in, what it never tells."""

import base64
import datetime as dt
import json
import re
from typing import Any

import pytest
from flask import Flask
from sqlmodel import select

from myphr.audit import trail
from myphr.audit.models import AuditEvent
from myphr.database import now
from myphr.ingest.models import DropOff
from myphr.portal import Portal
from myphr.records.items import details_of
from myphr.records.models import ArchiveTask, Item, Upload
from myphr.sharing import mails
from myphr.sharing.models import Mail
from tests.cast import PATIENT, SignedIn
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in

FORM = {"name": "Dr Berger", "email": "desk@berger.example", "for_name": "V. Lindqvist", "days": "7", "files": "50"}
TUS = {"Tus-Resumable": "1.0.0"}
BODY = TUS | {"Content-Type": "application/offset+octet-stream"}
KIB64 = 64 * 1024


def link_of(answer) -> tuple[str, str]:
    """(address, secret) of a new drop-off's link."""
    found = re.search(r'id="drop-off-link">[^<]*(/d/[0-9a-f-]{36})#([\w-]{43})<', answer.text)
    assert found
    return found[1], found[2]


@pytest.fixture
def link(vera: PageClient) -> tuple[str, str]:
    return link_of(vera.post("/drop-offs", FORM))


@pytest.fixture
def desk(browser: PageClient, link: tuple[str, str]) -> PageClient:
    """The practice's browser, which opened the link."""
    return open_it(browser, link)


def open_it(client: PageClient, link: tuple[str, str]) -> PageClient:
    answer = client.post(link[0] + "/open", {"secret": link[1]})
    assert (answer.status_code, answer.headers["Location"]) == (303, link[0] + "/files")
    return client


def told(name: str, path: str = "") -> dict[str, str]:
    """Upload-Metadata as the browser says it."""
    def said(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    return {"Upload-Metadata": f"filename {said(name)},relativePath {said(path or name)}"}


def hand_over(client: PageClient, link: tuple[str, str], content: bytes, name: str = "letter.txt", **options):
    headers = BODY | {"Upload-Length": str(len(content))} | told(name, options.pop("path", ""))
    return client.browser.post(link[0] + "/uploads", data=content, headers=headers | options.pop("headers", {}))


def begin(client: PageClient, link: tuple[str, str], total: int) -> str:
    answer = client.browser.post(link[0] + "/uploads", headers=TUS | {"Upload-Length": str(total)} | told("scan.bin"))
    assert answer.status_code == 201
    return answer.headers["Location"]


def go_on(client: PageClient, address: str, offset: int, content: bytes):
    return client.browser.patch(address, data=content, headers=BODY | {"Upload-Offset": str(offset)})


def items(portal: Portal) -> list[Item]:
    with portal.database.read() as db:
        return list(db.exec(select(Item)).all())


def objects(portal: Portal) -> list:
    return [*portal.store.keys(), *portal.store.partial_dir.iterdir()]


def change(portal: Portal, **values) -> None:
    with portal.database.write() as db:
        row = db.exec(select(DropOff)).one()
        for key, value in values.items():
            setattr(row, key, value)
        db.add(row)


def stop(vera: PageClient, link: tuple[str, str]) -> None:
    assert vera.post(f"/drop-offs/{link[0].split('/')[2]}/stop", {}).status_code == 303


# -- the mail and the page ------------------------------------------------------------------------
def test_the_practice_gets_one_mail_with_the_link_and_the_page_names_whose_record(
    vera: PageClient, portal: Portal, browser: PageClient
) -> None:
    answer = vera.post("/drop-offs", FORM)
    link = link_of(answer)
    assert "on its way to desk@berger.example" in text_of(answer)
    with portal.database.read() as db:
        mail = db.exec(select(Mail)).one()
    message = mails.compose(portal, mail)
    body = message.get_body(("plain",)).get_content()
    assert message["To"] == "desk@berger.example" and message["Subject"] == "V. Lindqvist asks you for files"
    assert f"{link[0]}#{link[1]}" in body and "50 files at most" in body and "Dr Berger" in body
    page = text_of(open_it(browser, link).get(link[0] + "/files"))
    assert "Hand over files for V. Lindqvist" in page and "From Dr Berger" in page and "50 files" in page
    assert PATIENT.name not in page and PATIENT.email not in page


def test_without_an_address_no_mail_goes_and_the_link_is_handed_over_by_hand(
    vera: PageClient, portal: Portal, browser: PageClient
) -> None:
    link = link_of(vera.post("/drop-offs", FORM | {"email": ""}))
    with portal.database.read() as db:
        assert db.exec(select(Mail)).all() == []
    assert open_it(browser, link).get(link[0] + "/files").status_code == 200


@pytest.mark.parametrize(
    "wrong", [{"email": "desk"}, {"email": "a@b.example\nBcc: x@y.example"}, {"for_name": "x" * 300}]
)
def test_a_wrong_address_or_name_makes_no_drop_off(vera: PageClient, portal: Portal, wrong: dict) -> None:
    assert vera.post("/drop-offs", FORM | wrong).status_code == 422
    with portal.database.read() as db:
        assert db.exec(select(DropOff)).all() == [] and db.exec(select(Mail)).all() == []


def test_the_list_says_where_the_link_went(vera: PageClient, link, portal: Portal) -> None:
    assert "is on its way to desk@berger.example" in text_of(vera.get("/drop-offs"))
    with portal.database.write() as db:
        mail = db.exec(select(Mail)).one()
        mail.state = "failed"
        db.add(mail)
    assert "could not be sent to desk@berger.example" in text_of(vera.get("/drop-offs"))


def test_a_mail_of_a_stopped_drop_off_is_not_sent(vera: PageClient, link, portal: Portal) -> None:
    stop(vera, link)
    with portal.database.read() as db:
        mail_id = db.exec(select(Mail.id)).one()
    mails.send(portal, mail_id)
    with portal.database.read() as db:
        assert db.get(Mail, mail_id).state == "failed"
    assert not list((portal.settings.home / "outbox").glob("*.eml"))


def test_neither_address_nor_names_stand_in_clear_beside_the_drop_off(vera: PageClient, link, portal: Portal) -> None:
    with portal.database.read() as db:
        row = db.exec(select(DropOff)).one()
    stored = repr(row.model_dump()).encode()
    assert b"berger" not in stored.lower() and b"Lindqvist" not in stored and link[1].encode() not in stored


# -- who gets there -------------------------------------------------------------------------------
def test_the_landing_page_is_the_same_for_every_id_and_changes_nothing(
    browser: PageClient, link, portal: Portal
) -> None:
    other = "/d/6a1b0000-0000-4000-8000-000000000000"
    assert browser.get(link[0]).text.replace(link[0], "") == browser.get(other).text.replace(other, "")
    with portal.database.read() as db:
        assert "drop-off-link-opened" not in db.exec(select(AuditEvent.event)).all()


@pytest.mark.parametrize("secret", ["", "x", "A" * 43, "A" * 5000])
def test_the_id_without_the_secret_is_404(browser: PageClient, link, secret: str) -> None:
    answer = browser.post(link[0] + "/open", {"secret": secret})
    assert answer.status_code == 404 and "myphr-drop-off" not in browser.cookies()
    assert browser.get(link[0] + "/files").status_code == 404
    assert hand_over(browser, link, b"x").status_code == 404


def test_the_secret_of_one_opens_no_other(vera: PageClient, browser: PageClient, link) -> None:
    other = link_of(vera.post("/drop-offs", FORM | {"name": "Dr Other"}))
    assert browser.post(other[0] + "/open", {"secret": link[1]}).status_code == 404
    browser.browser.set_cookie("myphr-drop-off", link[1], path=other[0])
    assert browser.get(other[0] + "/files").status_code == 404
    assert hand_over(browser, other, b"x").status_code == 404


def test_opening_needs_our_form(app: Flask, link) -> None:
    client = app.test_client()
    assert client.post(link[0] + "/open", data={"secret": link[1]}).status_code == 400
    assert client.get(link[0] + "/open").status_code == 405


def test_an_upload_started_by_another_site_is_refused(desk: PageClient, link) -> None:
    answer = hand_over(desk, link, b"x", headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 400
    assert desk.browser.post(link[0] + "/uploads", data=b"x").status_code == 412  # a form cannot say Tus-Resumable


def test_the_cookie_is_kept_from_scripts_and_other_sites_and_pages(browser: PageClient, link) -> None:
    answer = browser.post(link[0] + "/open", {"secret": link[1]})
    cookie = next(value for value in answer.headers.getlist("Set-Cookie") if value.startswith("myphr-drop-off"))
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and f"Path={link[0]}" in cookie
    assert "Max-Age" not in cookie and "Expires" not in cookie


def test_done_takes_the_cookie_back(desk: PageClient, link) -> None:
    answer = desk.post(link[0] + "/done", {})
    assert answer.status_code == 200 and "Thank you" in text_of(answer)
    assert desk.get(link[0] + "/files").status_code == 404


def test_nothing_of_the_record_can_be_read_with_it(desk: PageClient, link, portal: Portal, vera: PageClient) -> None:
    hand_over(desk, link, b"a letter")
    [item] = items(portal)
    for address in ("/record", f"/items/{item.id}", f"/items/{item.id}/download", "/who-looked", "/drop-offs"):
        answer = desk.get(address)
        assert answer.status_code in (303, 404) and "letter" not in answer.text


@pytest.mark.parametrize("end", ["stop", "expire"])
def test_a_link_that_is_over_shows_a_plain_page_and_takes_nothing(
    desk: PageClient, vera: PageClient, link, portal: Portal, end: str
) -> None:
    stop(vera, link) if end == "stop" else change(portal, expires_at=now() - dt.timedelta(seconds=1))
    answer = desk.get(link[0] + "/files")
    assert answer.status_code == 410 and "This link takes no files" in text_of(answer)
    assert "Lindqvist" not in answer.text
    assert hand_over(desk, link, b"late").status_code == 410 and items(portal) == []


# -- what comes in --------------------------------------------------------------------------------
def test_what_is_handed_over_is_in_the_record_sealed_to_its_owner_and_told_there(
    desk: PageClient, link, portal: Portal, vera: PageClient, enter
) -> None:
    assert hand_over(desk, link, b"Dear Vera", "letter.txt", path="2026/letter.txt").status_code == 201
    [item] = items(portal)
    assert (item.source, item.source_id) == ("drop-off", link[0].split("/")[2])
    assert "Dr Berger sent 1 file" in text_of(vera.get("/record")) and "letter.txt" in vera.get("/record").text
    words = text_of(vera.get("/who-looked"))
    assert "Dr Berger sent a file." in words and "Dr Berger opened the page for sending you files." in words
    assert trail.verify(portal.database) > 0
    assert "49 more files" in text_of(desk.get(link[0] + "/files"))


def test_pressing_the_link_again_makes_no_second_line(browser: PageClient, link, portal: Portal) -> None:
    for _ in range(3):
        open_it(browser, link)
    with portal.database.read() as db:
        assert db.exec(select(AuditEvent.event)).all().count("drop-off-link-opened") == 1


def test_a_large_file_comes_in_pieces_and_goes_on_where_it_broke(desk: PageClient, link, portal: Portal) -> None:
    content = bytes(range(256)) * 1024 + b"end"
    address = begin(desk, link, len(content))
    assert address.startswith(link[0] + "/uploads/")
    assert go_on(desk, address, 0, content[: 2 * KIB64]).headers["Upload-Offset"] == str(2 * KIB64)
    head = desk.browser.head(address, headers=TUS)
    assert head.headers["Upload-Offset"] == str(2 * KIB64)
    last = go_on(desk, address, 2 * KIB64, content[2 * KIB64 :])
    assert last.status_code == 204 and last.headers["Upload-Offset"] == str(len(content))
    [item] = items(portal)
    assert (item.plain_bytes, item.source) == (len(content), "drop-off")
    done = desk.browser.head(address, headers=TUS)
    assert done.headers["Upload-Offset"] == str(len(content)) and "MyPHR-Item" not in done.headers


def test_the_answer_is_the_same_for_a_file_that_the_record_had(
    desk: PageClient, link, portal: Portal, vera: PageClient
) -> None:
    with portal.database.read() as db:
        owner = db.exec(select(DropOff.account_id)).one()
    had = b"what Vera had before" * KIB64
    put_in(portal, owner, b"short and known", "known.txt")
    put_in(portal, owner, had, "known.bin")

    def answers(short: bytes, long: bytes) -> list:
        whole = hand_over(desk, link, short)
        address = begin(desk, link, len(long))
        parts = go_on(desk, address, 0, long)
        again = desk.browser.head(address, headers=TUS)
        page = re.search(r"(\d+) more files", text_of(desk.get(link[0] + "/files")))
        return [
            [a.status_code, sorted(k for k, _ in a.headers), a.data, a.headers["Upload-Offset"]]
            for a in (whole, parts, again)
        ] + [page is not None]

    assert answers(b"short and known", had) == answers(b"short, unknown.", had[:-1] + b"!")
    with portal.database.read() as db:
        assert db.exec(select(DropOff.files_count)).one() == 4
    assert len(items(portal)) == 4


def hand_over_together(client: PageClient, link: tuple[str, str], *contents: bytes):
    told = json.dumps([{"name": f"{n}.txt", "size": len(one)} for n, one in enumerate(contents)]).encode()
    body = len(told).to_bytes(4, "big") + told + b"".join(contents)
    headers = TUS | {"Content-Type": "application/vnd.myphr.files"}
    return client.browser.post(link[0] + "/uploads/together", data=body, headers=headers)


def test_small_files_together_are_counted_and_not_told_whether_they_were_there(
    desk: PageClient, vera: PageClient, link, portal: Portal
) -> None:
    with portal.database.read() as db:
        owner = db.exec(select(DropOff.account_id)).one()
    put_in(portal, owner, b"known", "known.txt")
    answer = hand_over_together(desk, link, b"known", b"new")
    assert answer.json == [{"stored": True}, {"stored": True}]
    assert "48 more files" in text_of(desk.get(link[0] + "/files"))
    assert sorted(item.plain_bytes for item in items(portal)) == [3, 5]
    stop(vera, link)
    assert hand_over_together(desk, link, b"late").status_code == 410
    assert len(items(portal)) == 2


def test_stopping_ends_an_upload_under_way_and_leaves_nothing(
    desk: PageClient, vera: PageClient, link, portal: Portal
) -> None:
    content = bytes(4 * KIB64)
    address = begin(desk, link, len(content))
    go_on(desk, address, 0, content[:KIB64])
    stop(vera, link)
    assert go_on(desk, address, KIB64, content[KIB64:]).status_code == 410
    with portal.database.read() as db:
        row = db.exec(select(Upload)).one()
        assert (row.state, row.wrapped_dek, row.sealed_metadata) == ("abandoned", None, b"")
    assert items(portal) == []


@pytest.mark.parametrize("whole", [True, False])
def test_stopping_between_the_last_byte_and_the_commit_files_nothing(
    desk: PageClient, link, portal: Portal, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    from myphr.ingest import identify

    describe = identify.describe

    def stopped_now(*file: Any):
        change(portal, state="revoked")
        return describe(*file)

    content = bytes(3 * KIB64)
    address = "" if whole else begin(desk, link, len(content))
    monkeypatch.setattr(identify, "describe", stopped_now)
    answer = hand_over(desk, link, content) if whole else go_on(desk, address, 0, content)
    assert answer.status_code == 401 and items(portal) == []
    assert [one for one in objects(portal) if not str(one).endswith(".lock")] == []


def test_no_more_files_than_agreed_come_also_not_begun_side_by_side(desk: PageClient, link, portal: Portal) -> None:
    change(portal, files_max=2)
    first, _ = begin(desk, link, KIB64), begin(desk, link, KIB64)
    third = desk.browser.post(link[0] + "/uploads", headers=TUS | {"Upload-Length": "5"})
    assert (third.status_code, third.headers["MyPHR-Error"]) == (413, "drop-off-full")
    assert hand_over(desk, link, b"x").status_code == 413
    assert go_on(desk, first, 0, bytes(KIB64)).status_code == 204 and len(items(portal)) == 1


def test_when_all_have_come_the_page_says_so(desk: PageClient, link, portal: Portal) -> None:
    change(portal, files_max=1)
    assert hand_over(desk, link, b"the only one").status_code == 201
    page = desk.get(link[0] + "/files")
    assert page.status_code == 200 and "As many files have come this way" in text_of(page)
    assert 'id="drop"' not in page.text
    assert hand_over(desk, link, b"one more").status_code == 413 and len(items(portal)) == 1


def test_no_more_bytes_than_agreed_come(desk: PageClient, link, portal: Portal) -> None:
    change(portal, bytes_max=2 * KIB64)
    begin(desk, link, KIB64)
    assert hand_over(desk, link, bytes(KIB64 + 1)).status_code == 413
    assert hand_over(desk, link, bytes(KIB64)).status_code == 201


def test_nobody_goes_on_with_the_upload_of_another(
    desk: PageClient, vera: PageClient, link, app: Flask, portal: Portal
) -> None:
    address = begin(desk, link, 2 * KIB64)
    other = link_of(vera.post("/drop-offs", FORM | {"name": "Dr Other"}))
    elsewhere = open_it(PageClient(app), other)
    moved = address.replace(link[0], other[0])
    assert go_on(elsewhere, moved, 0, bytes(KIB64)).status_code == 404
    assert elsewhere.browser.delete(moved, headers=TUS).status_code == 404
    as_owner = address.replace(link[0], "")
    assert go_on(vera, as_owner, 0, bytes(KIB64)).status_code == 404
    mine = vera.browser.post("/uploads", headers=TUS | {"Upload-Length": str(KIB64)}).headers["Location"]
    assert go_on(desk, link[0] + mine, 0, bytes(KIB64)).status_code == 404
    assert go_on(desk, address, 0, bytes(2 * KIB64)).status_code == 204


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..\\..\\boot.ini", "<img src=x onerror=alert(1)>.txt",
                                  "a\x00b\n.txt", "x" * 4000, "\u202etxt.exe", "/", ""])  # fmt: skip
def test_a_hostile_name_is_a_label_and_no_more(
    desk: PageClient, link, portal: Portal, vera: PageClient, name: str, enter
) -> None:
    assert hand_over(desk, link, b"content", name, path="../" * 50 + name).status_code == 201
    page = vera.get("/record")  # the page client checks it: valid, nothing inline
    assert "<img src=x" not in page.text and len(items(portal)) == 1
    assert all(len(str(key)) < 80 and ".." not in str(key) for key in [*portal.store.keys()])


def test_a_zip_is_unpacked_as_the_owners_own_is(desk: PageClient, link, portal: Portal) -> None:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "one")
    assert hand_over(desk, link, out.getvalue(), "disc.zip").status_code == 201
    with portal.database.read() as db:
        assert db.exec(select(ArchiveTask)).one().state == "waiting"


def test_the_owner_opens_what_came(enter, portal: Portal, browser: PageClient, patient: SignedIn) -> None:
    from myphr.sharing import drop_off_links

    made = drop_off_links.invite(portal, patient.login, "Dr Berger", "", "Vera", 3600, 3)
    link = (f"/d/{made.created.drop_off_id}", made.created.token)
    hand_over(open_it(browser, link), link, b"for Vera", "scan 1.txt", path="disc/scan 1.txt")
    [item] = items(portal)
    details = details_of(patient.login.ring(), item)
    assert (details["name"], details["path"]) == ("scan 1.txt", "disc/scan 1.txt")
