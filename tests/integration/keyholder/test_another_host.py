"""An authority on another host: two keyholders that speak TLS with each other, certificates of the CA on both sides."""

import datetime as dt
import json
import socket
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from myphr.crypto import certificates, proofs
from myphr.crypto.abe.multi_authority import AttributeKey, check_key
from myphr.errors import (
    AccessWithheld,
    CertificateRefused,
    IdentityRevoked,
    KeyholderConflict,
    KeyholderUnavailable,
    NotFound,
    PortalError,
    ProofRefused,
)
from myphr.people.keyholder import Held, Rule, check_papers, unpack_keys
from tests.running import free_port
from tests.running_keyholder import RunningKeyholder, Somebody, somebody

LATER = 86_400


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


class Pair:
    """`main` holds the CA and the vault, `away` an authority of a hospital. `client` is the portal's: of `main`."""

    def __init__(self, folder: Path) -> None:
        self.ports = free_port(), free_port()
        self.folder = folder
        self.main = RunningKeyholder(folder / "main", "--listen-tls", f"127.0.0.1:{self.ports[0]}")
        self.away = RunningKeyholder(folder / "away", "--listen-tls", f"127.0.0.1:{self.ports[1]}", ca=False)
        self.client = self.main.client

    def join(self) -> None:
        request, bundle = self.folder / "away.request", self.folder / "away.bundle"
        self.away.initialise()
        self.away.command("request", "--out", request)
        shown = self.main.command("register", "--request", request, "--out", bundle,
                                  "--address", f"127.0.0.1:{self.ports[1]}").stdout  # fmt: skip
        told = self.away.command("join", "--bundle", bundle, "--ca-address", f"127.0.0.1:{self.ports[0]}").stdout
        assert shown.splitlines()[-1] == told.splitlines()[-1], "the two fingerprints to be compared"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    with pair.main:
        pair.join()
        with pair.away:
            yield pair


@pytest.fixture(scope="module")
def operator(pair: Pair) -> Somebody:
    return pair.main.appoint(somebody(pair.client))


class Clinic:
    def __init__(self, pair: Pair, operator: Somebody) -> None:
        self.client = pair.client
        self.officer, self.doctor = somebody(pair.client), somebody(pair.client)
        self.gid = certificates.new_gid()
        self.host = pair.away.client.gid()
        self.papers = self.client.authority_create(operator.speaker, self.gid, [self.officer.gid], host=self.host)

    def grant(self) -> None:
        self.client.attribute_grant(self.officer.speaker, self.gid, self.doctor.gid, "role", "cardiologist",
                                    int(time.time()) + LATER)  # fmt: skip

    def keys(self, person: Somebody) -> list[AttributeKey]:
        return [AttributeKey.from_bytes(key)
                for key in unpack_keys(person.open(self.client.attribute_keys(person.speaker, self.gid)))]


@pytest.fixture
def clinic(pair: Pair, operator: Somebody) -> Clinic:
    return Clinic(pair, operator)


def test_its_authority_is_certified_by_the_ca_and_holds_its_keys_there(pair: Pair, clinic: Clinic) -> None:
    public, _ = check_papers(clinic.papers, pair.client.chain(), now())
    clinic.grant()
    (key,) = clinic.keys(clinic.doctor)
    check_key(key, public)
    assert [member.member for member in pair.client.attribute_members(clinic.officer.speaker, clinic.gid)] == [
        clinic.doctor.gid]  # fmt: skip


def test_made_again_it_is_the_same_and_with_others_refused(pair: Pair, operator: Somebody, clinic: Clinic) -> None:
    again = pair.client.authority_create(operator.speaker, clinic.gid, [clinic.officer.gid], host=clinic.host)
    assert again == clinic.papers
    with pytest.raises(KeyholderConflict):
        pair.client.authority_create(operator.speaker, clinic.gid, [operator.gid], host=clinic.host)
    with pytest.raises(PortalError):
        pair.client.authority_create(operator.speaker, clinic.gid, [clinic.officer.gid])


def test_who_is_no_operator_makes_and_closes_none_there(pair: Pair, clinic: Clinic) -> None:
    gid = certificates.new_gid()
    with pytest.raises(NotFound):
        pair.client.authority_create(clinic.officer.speaker, gid, [clinic.officer.gid], host=clinic.host)
    for call in (pair.client.authority_close, lambda s, g: pair.client.authority_officers(s, g, [clinic.doctor.gid])):
        with pytest.raises(NotFound):
            call(clinic.officer.speaker, clinic.gid)
    with pytest.raises(NotFound):
        pair.client.authority_statement(gid)


def test_the_operator_changes_officers_and_closes_it(pair: Pair, operator: Somebody, clinic: Clinic) -> None:
    pair.client.authority_officers(operator.speaker, clinic.gid, [clinic.doctor.gid])
    with pytest.raises(NotFound):
        clinic.grant()
    pair.client.authority_close(operator.speaker, clinic.gid)
    with pytest.raises(NotFound):
        clinic.keys(clinic.doctor)
    with pytest.raises(CertificateRefused):
        check_papers(clinic.papers, pair.client.chain(), now())


def test_the_vault_lets_in_who_shows_what_it_signed(pair: Pair, clinic: Clinic) -> None:
    owner, compartment = somebody(pair.client), str(uuid.uuid4())
    rule = Rule(holders=((Held(clinic.gid, "role", "cardiologist"),),))
    half = owner.open(pair.client.vault_create(owner.speaker, compartment, 1, rule))
    clinic.grant()
    holdings = pair.client.attribute_keys(clinic.doctor.speaker, clinic.gid).holdings
    with pytest.raises(AccessWithheld):
        pair.client.vault_release(clinic.doctor.speaker, compartment, 1)
    released = pair.client.vault_release(clinic.doctor.speaker, compartment, 1, holdings=holdings)
    assert clinic.doctor.open(released) == half
    thief = somebody(pair.client)
    with pytest.raises(AccessWithheld):
        pair.client.vault_release(thief.speaker, compartment, 1, holdings=holdings)


def test_a_proof_for_one_keyholder_is_worth_nothing_at_the_other(pair: Pair, clinic: Clinic) -> None:
    arguments = {"authority": clinic.gid, "key_statement": clinic.doctor.speaker.key_statement}
    key, certificate = clinic.doctor.signing_key, clinic.doctor.certificate
    for_main = pair.client.prove(key, certificate, "attribute.keys", arguments)
    with pytest.raises(ProofRefused):
        pair.away.client.send(for_main)
    for_away = pair.client.prove(key, certificate, "attribute.keys", arguments, keyholder=clinic.host)
    pair.client.send(for_away)
    with pytest.raises(ProofRefused, match="seen before"):
        pair.client.send(for_away)


def test_who_is_revoked_is_refused_there_once_the_list_is_handed_over(
    pair: Pair, operator: Somebody, clinic: Clinic
) -> None:
    clinic.grant()
    pair.client.identity_revoke(operator.speaker, clinic.doctor.gid)
    assert pair.client.crl_update(clinic.host) and not pair.client.crl_update(clinic.host)
    with pytest.raises((CertificateRefused, IdentityRevoked)):
        clinic.keys(clinic.doctor)


def test_an_older_list_is_refused(pair: Pair, clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    old = pair.client.ca_crl()
    pair.client.ca_revoke(certificates.read_certificate(clinic.doctor.certificate).serial_hex)
    pair.client.crl_update(clinic.host)
    monkeypatch.setattr(pair.client, "ca_crl", lambda: old)
    with pytest.raises(CertificateRefused, match="older"):
        pair.client.crl_update(clinic.host)


def test_a_restart_of_either_changes_nothing(pair: Pair, clinic: Clinic) -> None:
    clinic.grant()
    pair.away.kill()
    with pytest.raises(KeyholderUnavailable):
        clinic.keys(clinic.doctor)
    pair.away.start()
    assert len(clinic.keys(clinic.doctor)) == 1
    pair.main.kill()
    pair.main.start()
    assert len(clinic.keys(clinic.doctor)) == 1


def test_a_host_that_hangs_holds_up_nobody_else(pair: Pair) -> None:
    gid = certificates.new_gid()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        request = certificates.new_request(certificates.new_signing_key(), gid)
        pair.client.host_register(request, f"127.0.0.1:{silent.getsockname()[1]}")
        errors: list[Exception] = []

        def ask() -> None:
            try:
                pair.client.send(proofs.new_request(gid, "ca.crl", {}, now=int(time.time())))
            except KeyholderUnavailable as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            somebody(pair.client)
        assert errors == [], "they are still waiting"
        silent.close()
        pair.main.kill()  # nobody waits for them to give up
        for thread in threads:
            thread.join()
        assert len(errors) == 20
    pair.main.start()
    pair.client.host_forget(gid)


# -- strangers at the door
def dial(port: int, certificate: bytes = b"", key=None, chain: tuple[bytes, ...] = (), data: bytes = b"") -> bytes:
    """What a TLS server answers to `data` from somebody with this certificate. Raises OSError when shut out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate:
        pem = "".join(map(ssl.DER_cert_to_PEM_cert, (certificate, *chain))).encode() + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as stream:
        stream.sendall(data)
        with stream.makefile("rb") as replies:
            prefix = replies.read(4)
            if len(prefix) < 4:
                raise ConnectionError("shut out")
            return replies.read(proofs.frame_bytes(prefix, proofs.REPLY_BYTES_MAX))


def hello(pair: Pair) -> bytes:
    return proofs.frame(proofs.new_request("", "hello", {}, now=int(time.time())).to_bytes())


def test_without_a_certificate_nobody_gets_a_word(pair: Pair) -> None:
    for port in pair.ports:
        with pytest.raises(OSError):
            dial(port, data=hello(pair))


def test_with_a_certificate_of_another_ca_nobody_gets_a_word(pair: Pair) -> None:
    root = certificates.new_root(now(), dt.timedelta(days=1))
    intermediate = certificates.new_intermediate(root, now(), dt.timedelta(days=1))
    key = certificates.new_signing_key()
    der = certificates.issue(intermediate, certificates.new_gid(), key.public_key(), certificates.Kind.HOST, now())
    for port in pair.ports:
        with pytest.raises(OSError):
            dial(port, der, key, (intermediate.certificate,), hello(pair))


def test_a_person_s_certificate_is_no_keyholder_s(pair: Pair) -> None:
    person = somebody(pair.client)
    _, intermediates = pair.client.ca_chain()
    for port in pair.ports:
        reply = proofs.load(dial(port, person.certificate, person.signing_key, intermediates, hello(pair)))
        assert reply["error"] == "certificate-refused"


def test_over_tls_nobody_gets_a_certificate_or_appoints_an_operator(pair: Pair, tmp_path: Path) -> None:
    """A registered keyholder that turned bad: its own key, its own certificate, the CA's host."""
    gid, key = certificates.new_gid(), certificates.new_signing_key()
    bundle = pair.client.host_register(certificates.new_request(key, gid), "127.0.0.1:1")
    der = proofs.from_base64(bundle["certificate"])
    intermediates = tuple(map(proofs.from_base64, bundle["intermediates"]))
    main = pair.client.gid()

    def ask(call: str, arguments: dict) -> dict:
        request = proofs.new_request(main, call, arguments, now=int(time.time())).to_bytes()
        return proofs.load(dial(pair.ports[0], der, key, intermediates, proofs.frame(request)))

    stranger_key, stranger = certificates.new_signing_key(), certificates.new_gid()
    request = certificates.new_request(stranger_key, stranger)
    for call, arguments in (
        ("ca.issue", {"request": request}), ("ca.revoke", {"serial": "1"}), ("operator.appoint", {"gid": gid}),
        ("host.register", {"request": request, "address": "127.0.0.1:1"}), ("host.renew", {"request": request}),
    ):
        assert ask(call, arguments)["error"] == "not-found", call
    assert ask("ca.certify", {"request": request, "public": b"x"})["error"] != "done"
    assert "done" in ask("host.renew", {"request": certificates.new_request(key, gid)})
    pair.client.host_forget(gid)
    assert ask("hello", {})["error"] == "certificate-refused"


def test_a_forgotten_host_takes_its_authorities_with_it(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with pair.main:
        operator = pair.main.appoint(somebody(pair.client))
        pair.join()
        with pair.away:
            clinic = Clinic(pair, operator)
            pair.main.command("forget-host", "--gid", clinic.host)
            pair.client._forget_chain()
            with pytest.raises(CertificateRefused):
                check_papers(clinic.papers, pair.client.chain(), now())
            with pytest.raises((ProofRefused, KeyholderUnavailable, NotFound)):
                clinic.keys(clinic.doctor)


def test_an_authority_begun_while_the_ca_was_away_is_finished_by_trying_again(
    pair: Pair, operator: Somebody
) -> None:
    """The other host makes its keys first and keeps them; the CA comes back; the same GID gets certified."""
    officer, gid, host = somebody(pair.client), certificates.new_gid(), pair.away.client.gid()
    arguments = {"authority": gid, "officers": [officer.gid]}
    pair.main.kill()
    try:
        request = pair.away.client.prove(operator.signing_key, operator.certificate, "authority.create", arguments,
                                         keyholder=host)  # fmt: skip
        with pytest.raises(KeyholderUnavailable):
            pair.away.client.send(request)
        with pytest.raises(NotFound):
            pair.away.client.send(proofs.new_request(host, "authority.statement", {"authority": gid},
                                                     now=int(time.time())))  # fmt: skip
    finally:
        pair.main.start()
    papers = pair.client.authority_create(operator.speaker, gid, [officer.gid], host=host)
    check_papers(papers, pair.client.chain(), now())


def test_a_bundle_for_another_keyholder_or_with_another_root_is_refused(pair: Pair, tmp_path: Path) -> None:
    bundle = json.loads((pair.folder / "away.bundle").read_text())
    other = RunningKeyholder(tmp_path / "other", ca=False)
    other.initialise()
    file = tmp_path / "bundle"
    root = certificates.new_root(now(), dt.timedelta(days=1))
    for wrong in (bundle, bundle | {"root": proofs.to_base64(root.certificate)}, bundle | {"certificate": "AAAA"}):
        file.write_text(json.dumps(wrong))
        done = other.command("join", "--bundle", file, "--ca-address", "127.0.0.1:1", check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
    with pytest.raises(RuntimeError, match="has not joined"):
        other.start()
