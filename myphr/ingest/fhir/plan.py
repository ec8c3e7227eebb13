"""What a fetch still has to ask, and with which permission: the worker's own, sealed to it in the row. Pure.

Called by `fetches` (the first plan) and `fetching` (every step)."""

import dataclasses
import json
import time
from typing import Any

from myphr.crypto import envelope
from myphr.ingest.fhir import smart


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to ask. `what`: offer, patient, everything, search, file. `kind` is a resource type; `page` counts."""

    what: str
    url: str = dataclasses.field(repr=False)
    kind: str = ""
    page: int = 1
    title: str = dataclasses.field(default="", repr=False)
    media_type: str = ""


@dataclasses.dataclass
class Plan:
    """What the worker knows of a fetch; sealed to it, gone at the end."""

    server: str
    hospital: str = dataclasses.field(repr=False)
    client_id: str
    endpoints: smart.Endpoints
    tokens: smart.Tokens = dataclasses.field(repr=False)
    tokens_end_at: float
    ends_at: float | None
    todo: list[Step] = dataclasses.field(repr=False)
    asked: list[str] = dataclasses.field(repr=False)  # short hashes of addresses: a page may not name itself the next
    not_given: list[str] = dataclasses.field(default_factory=list)
    cut_short: list[str] = dataclasses.field(default_factory=list)
    elsewhere: int = 0
    pages: int = 0
    files: int = 0

    @property
    def whom(self) -> str:
        return self.hospital

    @classmethod
    def new(
        cls, server: str, hospital: str, client_id: str, endpoints: smart.Endpoints, tokens: smart.Tokens
    ) -> "Plan":  # fmt: skip
        return cls(
            server, hospital, client_id, endpoints, tokens, time.time() + tokens.expires_in, None,
            [Step("offer", endpoints.base + "/metadata")], [],
        )  # fmt: skip


def _worker_context(fetch_id: str) -> bytes:
    return envelope.context_for("fhir-worker", fetch_id)


def notes_context(fetch_id: str) -> bytes:
    return envelope.context_for("fhir-notes", fetch_id)


def seal(worker_public_key: bytes, fetch_id: str, plan: Plan) -> bytes:
    text = json.dumps(dataclasses.asdict(plan), separators=(",", ":"))
    return envelope.seal_to(worker_public_key, text.encode(), context=_worker_context(fetch_id))


def open_with(worker_private_key: bytes, fetch_id: str, sealed: bytes) -> Plan:
    """Raises EnvelopeError."""
    text = envelope.open_with(worker_private_key, sealed, context=_worker_context(fetch_id))
    facts: dict[str, Any] = json.loads(text)
    facts["endpoints"] = smart.Endpoints(**facts["endpoints"])
    facts["tokens"] = smart.Tokens(**facts["tokens"])
    facts["todo"] = [Step(**step) for step in facts["todo"]]
    return Plan(**facts)
