"""What is known of viewers that were tried with our own samples. Written by `myphr.still_opens`, read by pages, which
hand it to `viewers.suggest`.
"""

from collections.abc import Iterable

from sqlmodel import select

from myphr.database import Database, now
from myphr.machines.models import ViewerCheck
from myphr.viewers.suggest import Check


def checks(database: Database, modalities: Iterable[str] = ()) -> dict[tuple[str, str], Check]:
    """The last try by viewer and format. Of DICOM there are samples for each modality: it counts as tried when all
    modalities in question were, and as failed when one of them did. What was never tried is not in it."""
    wanted = set(modalities)
    with database.read() as db:
        rows = db.exec(select(ViewerCheck)).all()
    found: dict[tuple[str, str], Check] = {}
    dicom: dict[str, dict[str, ViewerCheck]] = {}
    for row in rows:
        code, _, modality = row.sample.partition(" ")
        if not modality:
            found[row.viewer, code] = _said([row])
        elif modality in wanted:
            dicom.setdefault(row.viewer, {})[modality] = row
    for viewer, tried in dicom.items():
        if set(tried) == wanted or any(row.reason is not None for row in tried.values()):
            found[viewer, "dicom"] = _said(list(tried.values()))
    return found


def _said(rows: list[ViewerCheck]) -> Check:
    """The day of the oldest success, or of a failure."""
    failed = [row.looked_at for row in rows if row.reason is not None]
    day = max(failed) if failed else min(row.looked_at for row in rows)
    return Check(not failed, f"{day.day} {day:%B}")


def note(database: Database, viewer: str, sample: str, template_vmid: int, reason: str | None) -> None:
    """The outcome of one try, just now; `reason` is None when it opened."""
    moment = now()
    with database.write() as db:
        row = db.get(ViewerCheck, (viewer, sample)) or ViewerCheck(viewer=viewer, sample=sample)
        row.template_vmid, row.looked_at, row.reason = template_vmid, moment, reason
        if reason is None:
            row.worked_at = moment
        else:
            row.failed_at = moment
        db.add(row)
