"""Lifecycle of a fetch from a hospital. `FETCH.move` is the only code that changes such a state."""

from myphr.ingest.fhir.models import FhirFetch
from myphr.state_tables import StateTable

FETCH = StateTable(
    "fetch from a hospital", FhirFetch, "asked",
    {
        ("asked", "return"): ("take the answer of the hospital's sign-in page, once", "exchanging"),
        ("asked", "lapse"): ("nobody came back: forget the question", "lapsed"),
        ("asked", "withdraw"): ("forget the question", "withdrawn"),
        ("exchanging", "accept"): ("seal the permission to the worker and queue the job", "waiting"),
        ("exchanging", "fail"): ("say why; nothing was fetched", "failed"),
        ("exchanging", "lapse"): ("whoever took the answer is gone: it cannot be used again", "lapsed"),
        ("waiting", "begin"): ("ask what the hospital offers", "running"),
        ("waiting", "fail"): ("erase the permission", "failed"),
        ("waiting", "withdraw"): ("erase the permission", "withdrawn"),
        ("running", "begin"): ("go on where the row says: an earlier run was cut off", "running"),
        ("running", "step"): ("file one answer and what is to be asked next, in one commit", "running"),
        ("running", "finish"): ("erase the permission; say what was not given", "done"),
        ("running", "fail"): ("erase the permission; what came stays", "failed"),
        ("running", "withdraw"): ("erase the permission; what came stays", "withdrawn"),
    },
)  # fmt: skip
