"""SMART App Launch 2.2 (standalone launch) as pure rules: what a server says about itself, where the patient is sent,
what may come back, and what a token answer means. No network, clock or rows.

RFC 6749 (authorization code, state: 10.12), RFC 7636 (PKCE, S256 only), RFC 9207 (iss). Called by `fetches`, `servers`
and `fetching`.
"""

import base64
import dataclasses
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from myphr.errors import HospitalRefused
from myphr.ingest.fhir.reasons import refused

WELL_KNOWN = "/.well-known/smart-configuration"
OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
URL_CHARACTERS_MAX = 2048
TOKEN_CHARACTERS_MAX = 16_384
CODE_CHARACTERS_MAX = 4096
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclasses.dataclass(frozen=True)
class Endpoints:
    """Where to sign in and where to ask. `issuer` is what RFC 9207 compares with; "" if the server names none."""

    base: str
    authorization: str
    token: str
    revocation: str = ""
    issuer: str = ""
    iss_promised: bool = False
    scopes_v2: bool = False


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What the patient's consent gave us, for the length of one fetch."""

    access: str = dataclasses.field(repr=False)
    refresh: str = dataclasses.field(repr=False)
    patient: str = dataclasses.field(repr=False)
    expires_in: int


# -- addresses ------------------------------------------------------------------------------------
def checked_url(url: object, *, loopback: bool) -> str:
    """`url` if we may call it: https, no user, no fragment, a name with a dot; with `loopback` also http to this
    computer, for development. Raises HospitalRefused.

    https alone keeps us out of the inner network: a service there has no certificate for the name that was asked."""
    text = url if isinstance(url, str) else ""
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        raise refused("address") from None
    clean = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    if not clean or len(text) > URL_CHARACTERS_MAX or parts.username is not None or parts.fragment:
        raise refused("address")
    name, _, top = host.rpartition(".")
    if parts.scheme == "https" and name and ":" not in host and top[:1].isalpha():  # 0x7f.0x1 is an address too
        return text
    if loopback and parts.scheme in ("http", "https") and host in LOOPBACK:
        return text
    raise refused("address")


def origin(url: str) -> str:
    """Scheme, host and port, with the port always written."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def csp_origin(url: str) -> str:
    """The same as a content security policy writes it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def is_below(url: str, base: str) -> bool:
    """Whether an address that a server gave us lies on that server: links to the next page and to attachments may."""
    try:
        return origin(url) == origin(base) and urlsplit(url).username is None
    except ValueError:
        return False


def checked_base(url: str, *, loopback: bool) -> str:
    """A FHIR server's address as the operator typed it, without a slash at the end. Raises HospitalRefused."""
    parts = urlsplit(checked_url(url.strip(), loopback=loopback))
    if parts.query:
        raise refused("address")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


# -- discovery ------------------------------------------------------------------------------------
def endpoints_of_configuration(base: str, document: object, *, loopback: bool) -> Endpoints:
    """From `.well-known/smart-configuration` (SMART App Launch 2.2, 4.7). Raises HospitalRefused."""
    if not isinstance(document, Mapping):
        raise refused("discovery")
    methods = document.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        raise refused("no-pkce")  # SMART 2 demands S256; a list without it will not check our verifier
    capabilities = document.get("capabilities")
    issuer = document.get("issuer")
    return Endpoints(
        base=base,
        authorization=checked_url(document.get("authorization_endpoint"), loopback=loopback),
        token=checked_url(document.get("token_endpoint"), loopback=loopback),
        revocation=_optional_url(document.get("revocation_endpoint"), loopback=loopback),
        issuer=issuer if isinstance(issuer, str) else "",
        iss_promised=document.get("authorization_response_iss_parameter_supported") is True,
        scopes_v2=isinstance(capabilities, list) and "permission-v2" in capabilities,
    )


def endpoints_of_capabilities(base: str, document: object, *, loopback: bool) -> Endpoints:
    """From the CapabilityStatement's extension, for servers of SMART 1. Raises HospitalRefused."""
    if not isinstance(document, Mapping) or document.get("resourceType") != "CapabilityStatement":
        raise refused("discovery")
    found: dict[str, str] = {}
    for rest in _dicts(document.get("rest")):
        security = rest.get("security")
        for extension in _dicts(security.get("extension")) if isinstance(security, Mapping) else []:
            if extension.get("url") == OAUTH_URIS:
                found |= {str(one.get("url")): str(one.get("valueUri")) for one in _dicts(extension.get("extension"))}
    return Endpoints(
        base=base, authorization=checked_url(found.get("authorize"), loopback=loopback),
        token=checked_url(found.get("token"), loopback=loopback),
        revocation=_optional_url(found.get("revoke"), loopback=loopback),
    )  # fmt: skip


def _optional_url(url: object, *, loopback: bool) -> str:
    try:
        return checked_url(url, loopback=loopback)
    except HospitalRefused:
        return ""


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


# -- there and back -------------------------------------------------------------------------------
def new_verifier() -> str:
    """43 characters of 32 random bytes (RFC 7636, 4.1)."""
    return secrets.token_urlsafe(32)


def challenge_of(verifier: str) -> str:
    """S256 (RFC 7636, 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def authorization_url(endpoints: Endpoints, *, client_id: str, redirect_uri: str, state: str, verifier: str) -> str:
    """Where the patient is sent. No offline_access: there is no connection left when the fetch is over."""
    asked = {
        "response_type": "code", "client_id": client_id, "redirect_uri": redirect_uri,
        "scope": "launch/patient " + ("patient/*.rs" if endpoints.scopes_v2 else "patient/*.read"),
        "state": state, "aud": endpoints.base,
        "code_challenge": challenge_of(verifier), "code_challenge_method": "S256",
    }  # fmt: skip
    parts = urlsplit(endpoints.authorization)
    query = "&".join(filter(None, (parts.query, urlencode(asked))))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def code_of_answer(endpoints: Endpoints, answer: Mapping[str, str]) -> str:
    """The code that came back with a patient. Its state was checked before. Raises HospitalRefused: "denied" if the
    patient or the server said no."""
    iss = answer.get("iss")
    if iss is None:
        if endpoints.iss_promised:
            raise refused("foreign-issuer")
    elif not hmac.compare_digest(iss.encode(), (endpoints.issuer or endpoints.base).encode()):
        raise refused("foreign-issuer")  # RFC 9207, 2.4: before anything else in the answer is believed
    error = answer.get("error")
    if error is not None:
        raise refused("denied" if error == "access_denied" else "sign-in-error")
    code = answer.get("code", "")
    if not 0 < len(code) <= CODE_CHARACTERS_MAX:
        raise refused("sign-in-error")
    return code


def token_request(*, code: str, verifier: str, client_id: str, redirect_uri: str) -> dict[str, str]:
    return {
        "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "client_id": client_id,
        "code_verifier": verifier,
    }  # fmt: skip


def refresh_request(*, refresh: str, client_id: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": client_id}


def tokens_of(status: int, body: bytes, *, before: Tokens | None = None) -> Tokens:
    """From the token endpoint's answer (RFC 6749, 5; SMART: "patient"). `before`: it was refreshed, and keeps what the
    new answer leaves out. Raises HospitalRefused."""
    document = json_of(body)
    if not isinstance(document, Mapping):
        raise refused("token")
    if status != 200:
        raise refused("code-refused" if document.get("error") == "invalid_grant" else "token")
    access, refresh = document.get("access_token"), document.get("refresh_token")
    patient, expires = document.get("patient"), document.get("expires_in")
    if not _is_token(access) or str(document.get("token_type")).lower() != "bearer":
        raise refused("token")
    if before is not None:
        patient = patient if isinstance(patient, str) else before.patient
        refresh = refresh if _is_token(refresh) else before.refresh
    if not is_id(patient):
        raise refused("no-patient")
    seconds = int(expires) if isinstance(expires, (int, float)) and 0 < expires < 10**9 else 3600
    return Tokens(str(access), str(refresh) if _is_token(refresh) else "", str(patient), seconds)


def is_id(value: object) -> bool:
    """R4 "id"; it becomes part of an address."""
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"  # "_": seen, though R4 has none
    if not isinstance(value, str) or not 0 < len(value) <= 128 or value in (".", ".."):
        return False
    return all(character in allowed for character in value)


def _is_token(value: object) -> bool:
    """b64token of RFC 6750, loosely: whatever is one word can be a header."""
    if not isinstance(value, str) or not 0 < len(value) <= TOKEN_CHARACTERS_MAX:
        return False
    return value.isascii() and value.isprintable() and " " not in value


def json_of(body: bytes) -> Any:
    """What the bytes say, or None. Deep nesting and numbers of a million digits are no answers."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
