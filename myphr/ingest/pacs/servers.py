"""The operator's list of PACS: adding, asking whether one answers (C-ECHO), taking one off. Called by the operator's
page and the command line, and by the rest of this package to reach one."""

import dataclasses
import ipaddress
import re
import ssl
import time
from collections.abc import Sequence

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.database import now
from myphr.errors import FormRefused, NotFound
from myphr.ingest.dimse import upper_layer
from myphr.ingest.fetch import places
from myphr.ingest.pacs import links
from myphr.ingest.pacs.models import Pacs
from myphr.ingest.pacs.reasons import refused
from myphr.ingest.pacs.requestor import Peer, Requestor
from myphr.people.accounts import normal_name
from myphr.records.items import RecordParts
from myphr.settings import Settings

PACS_MAX = 200
ECHO_SECONDS_MAX = 15  # somebody waits before a page
CA_CHARACTERS_MAX = 64 * 1024
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")
_AE_TITLE = re.compile(r"[!-~]([ -~]{0,14}[!-~])?")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the operator enters."""

    name: str
    host: str
    port: str
    called_ae: str
    calling_ae: str
    tls: bool = True
    ca_pem: str = ""
    moves: bool = False


def offered(parts: RecordParts) -> Sequence[Pacs]:
    """By name."""
    return places.offered(parts, Pacs)


def are_offered(parts: RecordParts) -> bool:
    return places.are_offered(parts, Pacs)


def one(parts: RecordParts, pacs_id: str) -> Pacs:
    """Raises NotFound, also for one that was taken off the list."""
    return places.one(parts, Pacs, pacs_id, "PACS")


def add(parts: RecordParts, actor: Actor, entry: Entry) -> Pacs:
    """Put a PACS on the list, if it answers a C-ECHO. Raises FormRefused, PacsRefused."""
    pacs = _checked(parts.settings, entry)
    echo(parts, pacs)
    with parts.database.write() as db:
        open_ones = places.on_the_list(db, Pacs)
        if len(open_ones) >= PACS_MAX:
            raise FormRefused(reason=f"there are {PACS_MAX} already")
        if any(other.name.casefold() == pacs.name.casefold() for other in open_ones):
            raise FormRefused(reason="a practice of this name is on the list already")
        where = (pacs.host, pacs.port, pacs.called_ae)
        if any((other.host, other.port, other.called_ae) == where for other in open_ones):
            raise FormRefused(reason="this archive is on the list already")  # one number is one account at each
        db.add(pacs)
        db.flush()
        trail.record(db, "pacs-added", account_id=None, actor=actor, pacs=pacs.id)
    return pacs


def close(parts: RecordParts, actor: Actor, pacs_id: str) -> None:
    """Off the list, with all links to it; what is being fetched stops at its next step. Raises NotFound."""
    with parts.database.write() as db:
        pacs = db.get(Pacs, pacs_id, with_for_update=True)  # nobody is connected with it meanwhile
        if pacs is None or pacs.closed_at is not None:
            raise NotFound("PACS")
        pacs.closed_at = now()
        db.add(pacs)
        trail.record(db, "pacs-removed", account_id=None, actor=actor, pacs=pacs.id)
        links.end_all(db, pacs.id, actor)


def echo(parts: RecordParts, pacs: Pacs) -> None:
    """Returns if it answers and lets us in. Raises PacsRefused."""
    with Requestor(
        peer_of(parts.settings, pacs), [upper_layer.VERIFICATION], ends_at=time.monotonic() + ECHO_SECONDS_MAX,
        silence_seconds=ECHO_SECONDS_MAX,
    ) as line:  # fmt: skip
        line.echo()


def peer_of(settings: Settings, pacs: Pacs) -> Peer:
    """Raises PacsRefused if our own TLS files cannot be used."""
    try:
        tls = _tls(settings, pacs) if pacs.tls else None
    except (OSError, ValueError):
        raise refused("tls") from None
    return Peer(pacs.host, pacs.port, pacs.called_ae, pacs.calling_ae, tls)


def _tls(settings: Settings, pacs: Pacs) -> ssl.SSLContext:
    """Its certificate has to carry the name that we call it by. Ours, if there is one, is shown to every PACS."""
    context = ssl.create_default_context(cadata=pacs.ca_pem or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.pacs_tls_cert_file:
        context.load_cert_chain(settings.pacs_tls_cert_file, settings.pacs_tls_key_file or None)
    return context


def _checked(settings: Settings, entry: Entry) -> Pacs:
    host, port = entry.host.strip(), entry.port.strip()
    called, calling, ca_pem = entry.called_ae.strip(), entry.calling_ae.strip(), entry.ca_pem.strip()
    if not _HOST.fullmatch(host):
        raise FormRefused(reason="enter the name or the address of the computer, without a port")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise FormRefused(reason="enter the port, between 1 and 65535")
    if not _AE_TITLE.fullmatch(called) or not _AE_TITLE.fullmatch(calling) or "\\" in called + calling:
        raise FormRefused(reason="an AE title has 1 to 16 letters, digits and signs")
    if not entry.tls and not settings.pacs_plain and not _is_loopback(host):
        raise FormRefused(reason="without TLS only a PACS behind a VPN may be called, once MYPHR_PACS_PLAIN is 1")
    if entry.moves:
        _check_receiver(settings, host)
    if entry.tls and ca_pem:
        try:
            if len(ca_pem) > CA_CHARACTERS_MAX:
                raise ValueError
            ssl.create_default_context(cadata=ca_pem)
        except (ssl.SSLError, ValueError):
            raise FormRefused(reason="the certificate has to be text (PEM), from BEGIN to END") from None
    return Pacs(
        name=normal_name(entry.name), host=host, port=int(port), called_ae=called, calling_ae=calling, tls=entry.tls,
        ca_pem=ca_pem if entry.tls else "", moves=entry.moves,
    )  # fmt: skip


def _check_receiver(settings: Settings, host: str) -> None:
    """Raises FormRefused if a PACS there cannot reach our receiver."""
    if not settings.receiver_bind:
        raise FormRefused(reason="C-MOVE sends to the receiver: set MYPHR_RECEIVER_BIND first")
    if _is_loopback(settings.receiver_bind.rpartition(":")[0].strip("[]")) and not _is_loopback(host):
        raise FormRefused(reason="C-MOVE sends to the receiver, and that listens on this computer only")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
