"""C-MOVE over TLS both ways: a real Orthanc that is asked over TLS, and that sends to the real receiver over TLS with a
certificate of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from myphr.errors import PacsRefused
from myphr.ingest.pacs import fetching
from myphr.portal import Portal
from tests import cast as cast_module
from tests.cast import SignedIn
from tests.integration.providers.conftest import Keys, Process, items_of, partial
from tests.pacs import VERA, Orthanc, fetched, linked, on_the_list, study_of


@pytest.fixture
def receiver(receiver_over_tls: Process) -> Process:
    return receiver_over_tls


@pytest.fixture
def portal(tmp_path: Path, redis_url: str, ours: Keys) -> Iterator[Portal]:
    made = cast_module.new_portal(
        tmp_path / "home", redis_url, pacs_silence_seconds=5, pacs_tls_cert_file=str(ours.certificate),
        pacs_tls_key_file=str(ours.key),
    )  # fmt: skip
    yield made
    made.database.dispose()
    made.redis.close()


@pytest.fixture
def archive(receiver: Process, ours: Keys, tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """`archive(keys, tls=...)`: shows these keys, sends in TLS or not, lets in and believes ours."""
    started: list[Orthanc] = []

    def start(keys: Keys, *, tls: bool = True) -> Orthanc:
        there = {"AET": "MYPHR", "Host": "127.0.0.1", "Port": receiver.port, "UseDicomTls": tls}
        made = Orthanc(
            tmp_path / "archive", DicomTlsEnabled=True, DicomTlsCertificate=str(keys.certificate),
            DicomTlsPrivateKey=str(keys.key), DicomTlsRemoteCertificateRequired=True,
            DicomTlsTrustedCertificates=str(ours.certificate), DicomAlwaysAllowGet=False,
            DicomModalities={"portal": there},
        )  # fmt: skip
        started.append(made)
        return made

    yield start
    for one in started:
        one.__exit__()


def test_a_study_comes_over_tls_both_ways(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Any, theirs: Keys
) -> None:
    orthanc = archive(theirs)
    orthanc.put(study_of(VERA, 4))
    with pytest.raises(PacsRefused):  # it speaks nothing else
        on_the_list(portal, orthanc.port, moves=True)
    link_id = linked(portal, patient, operator, orthanc.port, tls=True, ca_pem=theirs.certificate.read_text(),
                     moves=True)  # fmt: skip
    done = fetched(portal, patient, link_id)
    assert (done.state, done.items_count, done.missing_count, done.refused_count) == ("done", 4, 0, 0), done.reason
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 4 and partial(portal) == []
    again = fetched(portal, patient, link_id)
    assert (again.state, again.items_count, again.known_count) == ("done", 0, 4)


@pytest.mark.parametrize("wrong", ["in-clear", "another-certificate"])
def test_what_does_not_come_as_agreed_does_not_get_in(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Any, theirs: Keys, tmp_path: Path, wrong: str,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(fetching, "AWAY_SECONDS", (0.1, 0.1))
    keys = Keys(tmp_path / "foreign") if wrong == "another-certificate" else theirs
    orthanc = archive(keys, tls=wrong != "in-clear")
    orthanc.put(study_of(VERA, 2))
    link_id = linked(portal, patient, operator, orthanc.port, tls=True, ca_pem=keys.certificate.read_text(),
                     moves=True)  # fmt: skip
    done = fetched(portal, patient, link_id)
    assert done.state == "failed" and "could not send them to this portal" in done.reason
    assert items_of(portal) == [] and list(portal.store.keys()) == [] and partial(portal) == []
