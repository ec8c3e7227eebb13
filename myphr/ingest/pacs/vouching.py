"""What makes a link to a PACS one that the operator's page confirmed: keyed hashes that nobody makes who only writes to
the database. Pure. Called by `links`, and by whoever fetches by a link."""

import hmac
import json

from myphr.ingest.pacs.models import PacsLink
from myphr.ingest.pacs.plan import Patient


def patient_key(index_key: bytes, pacs_id: str, patient: Patient) -> str:
    """Equal for two links to the same number of the same PACS."""
    text = json.dumps(["pacs-patient", pacs_id, patient.issuer, patient.number])
    return hmac.digest(index_key, text.encode(), "sha256").hex()


def vouched(index_key: bytes, row: PacsLink, patient: Patient) -> str:
    """That the owner of this link is this patient there."""
    who = [patient.number, patient.issuer, patient.birth_date]
    text = json.dumps(["pacs-vouched", row.id, row.account_id, row.pacs_id, *who])
    return hmac.digest(index_key, text.encode(), "sha256").hex()


def is_vouched(index_key: bytes, row: PacsLink, patient: Patient) -> bool:
    """Whether it was the operator's page that said so: anybody can seal to a public key, and who writes to the database
    without the portal's keys must not thereby fetch somebody else's images."""
    return row.state == "confirmed" and hmac.compare_digest(row.vouched or "", vouched(index_key, row, patient))
