"""The operator's list of hospitals, and what their servers say of themselves (discovery). Called by the operator's
page, by `fetches`, and by the patient's page for the names."""

import dataclasses
import time
from collections.abc import Sequence

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.database import now
from myphr.errors import FormRefused, HospitalRefused, NotFound
from myphr.ingest.fetch import places
from myphr.ingest.fhir import smart
from myphr.ingest.fhir.dial import SMALL_SECONDS_MAX, Dial
from myphr.ingest.fhir.models import FhirServer
from myphr.ingest.fhir.reasons import refused
from myphr.ingest.fhir.smart import Endpoints
from myphr.people.accounts import normal_name
from myphr.people.login_sessions import Login
from myphr.records.items import RecordParts

SERVERS_MAX = 500
CLIENT_ID_CHARACTERS_MAX = 200


@dataclasses.dataclass(frozen=True)
class Found:
    """What a server said when it was put on the list."""

    server: FhirServer
    endpoints: Endpoints


def offered(parts: RecordParts) -> Sequence[FhirServer]:
    """The hospitals that patients may choose, by name."""
    return places.offered(parts, FhirServer)


def are_offered(parts: RecordParts) -> bool:
    return places.are_offered(parts, FhirServer)


def one(parts: RecordParts, server_id: str) -> FhirServer:
    """Raises NotFound, also for one that was taken off the list."""
    return places.one(parts, FhirServer, server_id, "FHIR server")


def add(parts: RecordParts, login: Login, name: str, base: str, client_id: str) -> Found:
    """Put a hospital on the list. Its server is asked how to sign in; where that leads is kept, and must not change
    without the operator. Raises FormRefused, HospitalRefused."""
    loopback = bool(parts.settings.fhir_loopback)
    name, client_id = normal_name(name), client_id.strip()
    if not 0 < len(client_id) <= CLIENT_ID_CHARACTERS_MAX or not client_id.isprintable():
        raise FormRefused(reason="enter the client id that the hospital gave this portal")
    try:
        base = smart.checked_base(base, loopback=loopback)
    except HospitalRefused:
        raise FormRefused(reason="the address has to be https and a name, without anything after a ? or #") from None
    endpoints = discover(parts, base)
    server = FhirServer(
        name=name, base=base, client_id=client_id, authorization_origin=smart.csp_origin(endpoints.authorization),
        token_origin=smart.csp_origin(endpoints.token),
    )  # fmt: skip
    with parts.database.write() as db:
        open_ones = places.on_the_list(db, FhirServer)
        if len(open_ones) >= SERVERS_MAX:
            raise FormRefused(reason=f"there are {SERVERS_MAX} already")
        if any(other.base == base or other.name.casefold() == name.casefold() for other in open_ones):
            raise FormRefused(reason="a hospital of this name or address is on the list already")
        db.add(server)
        db.flush()
        trail.record(db, "hospital-server-added", account_id=None, actor=_operator(login), server=server.id)
    return Found(server, endpoints)


def close(parts: RecordParts, login: Login, server_id: str) -> None:
    """Off the list: no new fetch begins, and one that runs ends at its next step. Raises NotFound."""
    with parts.database.write() as db:
        server = db.get(FhirServer, server_id)
        if server is None or server.closed_at is not None:
            raise NotFound("FHIR server")
        server.closed_at = now()
        db.add(server)
        trail.record(db, "hospital-server-closed", account_id=None, actor=_operator(login), server=server.id)


def discover(parts: RecordParts, base: str) -> Endpoints:
    """How to sign in at this server: its SMART configuration, else its CapabilityStatement. Raises HospitalRefused."""
    loopback = bool(parts.settings.fhir_loopback)
    with Dial(loopback=loopback, ends_at=time.monotonic() + SMALL_SECONDS_MAX) as dial:
        answer = dial.get(base + smart.WELL_KNOWN, accept="application/json")
        if answer.status == 200:
            document = smart.json_of(answer.body)
            if isinstance(document, dict):
                return smart.endpoints_of_configuration(base, document, loopback=loopback)
        answer = dial.get(base + "/metadata")
        if answer.status != 200:
            raise refused("discovery")
        return smart.endpoints_of_capabilities(base, smart.json_of(answer.body), loopback=loopback)


def checked_endpoints(parts: RecordParts, server: FhirServer) -> Endpoints:
    """The same, and still where the operator saw it lead. Raises HospitalRefused."""
    found = discover(parts, server.base)
    where = (smart.csp_origin(found.authorization), smart.csp_origin(found.token))
    if where != (server.authorization_origin, server.token_origin):
        raise refused("changed")
    return found


def _operator(login: Login) -> Actor:
    return Actor("operator", login.account.id)
