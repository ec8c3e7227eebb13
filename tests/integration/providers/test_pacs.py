"""Images fetched from real PACS (Orthanc, dcmtk's dcmqrscp): what comes, what is not asked for, cut-offs, TLS."""

import io
from collections.abc import Iterator

import pytest
from pydicom import dcmread

from myphr import cli
from myphr.database import now
from myphr.ingest.pacs import fetches
from myphr.portal import Portal
from myphr.records.items import dek_of, details_of, open_item
from myphr.sharing.search_around import Around
from myphr.web.application import create_app
from tests.cast import SignedIn
from tests.integration.providers.conftest import items_of, partial
from tests.pacs import NILS, VERA, Dcmqrscp, Orthanc, fetched, linked, looked, study_of
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of

Archive = Orthanc | Dcmqrscp


@pytest.fixture(scope="module", params=[Orthanc, Dcmqrscp])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with request.param(tmp_path_factory.mktemp("pacs") / "archive") as running:
        yield running


@pytest.fixture(scope="module")
def studies(archive: Archive) -> dict[str, str]:
    """Two of Vera, one of Nils; a number that begins like hers, and one that a wildcard would find."""
    return {
        "knee": archive.put(study_of(VERA, 5)), "head": archive.put(study_of(VERA, 3, StudyDescription="Head")),
        "nils": archive.put(study_of(NILS, 2)), "longer": archive.put(study_of(VERA + "0", 1)),
    }  # fmt: skip


def test_what_there_is_of_her_is_listed_and_nothing_of_anybody_else(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Archive, studies: dict[str, str]
) -> None:
    there = looked(portal, patient, linked(portal, patient, operator, archive.port))
    assert there.state == "listed", there.reason
    assert {one.uid for one in there.studies} == {studies["knee"], studies["head"]}
    knee = next(one for one in there.studies if one.uid == studies["knee"])
    assert (str(knee.date), knee.here) == ("2024-08-26", 0)
    assert knee.title in ("MR scan: Knee left", "Images: Knee left")  # dcmqrscp does not tell modalities
    assert items_of(portal) == []


def test_a_study_comes_whole_and_as_it_is(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Archive, studies: dict[str, str]
) -> None:
    link_id = linked(portal, patient, operator, archive.port)
    done = fetched(portal, patient, link_id, studies["knee"])
    assert (done.state, done.items_count, done.missing_count, done.refused_count) == ("done", 5, 0, 0), done.reason
    found = items_of(portal)
    ring = patient.login.ring()
    assert len(found) == 5 and {item.source for item in found} == {"pacs"} and len({i.study_id for i in found}) == 1
    assert {item.source_id for item in found} == {done.id}
    details = [details_of(ring, item) for item in found]
    assert sorted(one["name"] for one in details) == [f"MR-2-{number}.dcm" for number in range(1, 6)]
    assert all(one["path"].startswith(f"Knee Clinic {now():%Y-%m-%d}/") for one in details)
    opened = open_item(portal.store, found[0], dek_of(ring, found[0]))
    image = dcmread(io.BytesIO(opened.read_at(0, found[0].plain_bytes)))
    assert image.PatientID == VERA and image.PixelData == bytes(16) and partial(portal) == []
    again = looked(portal, patient, link_id)
    here = {one.uid: one for one in again.studies}
    assert here[studies["knee"]].here == 5 and here[studies["knee"]].is_here and not here[studies["head"]].is_here


def test_fetched_again_nothing_is_stored_twice(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Archive, studies: dict[str, str]
) -> None:
    link_id = linked(portal, patient, operator, archive.port)
    fetched(portal, patient, link_id, studies["knee"])
    again = fetched(portal, patient, link_id)
    assert (again.state, again.items_count, again.known_count) == ("done", 3, 5)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 8
    with portal.database.read() as db:
        assert fetches.names(db, patient.login, [again.id]) == {again.id: "Knee Clinic"}
        assert fetches.names(db, operator.login, [again.id]) == {}
    senders = Around(portal, patient.login).senders(items_of(portal))
    assert set(senders.values()) == {"Knee Clinic"} and len(senders) == 8
    client = sign_in(PageClient(create_app(portal)), patient.person)
    came_again = next(item.id for item in items_of(portal) if item.source_id != again.id)
    assert "Came again on" in (page := text_of(client.get(f"/item/{came_again}"))) and "from Knee Clinic" in page


def test_the_command_line_adds_asks_lists_and_removes(
    portal: Portal, archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MYPHR_HOME", str(portal.settings.home))
    monkeypatch.setenv("MYPHR_REDIS_URL", portal.settings.redis_url)

    def myphr(*words: str) -> tuple[int, str]:
        code = cli.main(["pacs", *words])
        return code, "".join(capsys.readouterr())

    code, said = myphr("add", "Knee Clinic", "127.0.0.1", str(archive.port), "ARCHIVE", "--plain")
    assert code == 0 and "is on the list" in said
    pacs_id = said.split()[0]
    code, said = myphr("list")
    assert f"ARCHIVE@127.0.0.1:{archive.port} in clear, as MYPHR, 0 connected: Knee Clinic" in said
    assert myphr("echo", pacs_id)[0] == 0
    for name in ("Knee Clinic", "Another name"):
        assert myphr("add", name, "127.0.0.1", str(archive.port), "ARCHIVE", "--plain")[0] == 1
    assert myphr("remove", pacs_id)[0] == 0
    assert myphr("echo", pacs_id)[0] == 1 and myphr("list") == (0, "")
