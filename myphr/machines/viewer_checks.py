"""What is known of viewers that were tried with our own samples: rows in, words for a card out. Written by
`myphr.still_opens`, read by web.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping

from sqlmodel import col, select

from myphr.database import Database, now
from myphr.machines.models import ViewerCheck


@dataclasses.dataclass(frozen=True)
class Tried:
    """`worked`: whether the last try of every kind of file in question went well; `on`: the oldest of those tries."""

    worked: bool
    on: dt.datetime


def sample_names(formats: Iterable[str], modalities: Iterable[str] = ()) -> list[str]:
    """What our samples of these formats are called: by format, and for DICOM by modality too."""
    names = [code for code in formats if code not in ("dicom", "dicomdir")]
    return [*names, *(f"dicom {modality}" for modality in modalities)]


def of_viewers(
    database: Database, viewers: Mapping[str, Iterable[str]], formats: Iterable[str], modalities: Iterable[str] = ()
) -> dict[str, Tried]:
    """For each viewer (name: formats that it opens) of which every kind of file in question was tried. A kind that was
    never tried says nothing about the viewer, so nothing is said."""
    wanted = list(formats)
    with database.read() as db:
        rows = db.exec(select(ViewerCheck).where(col(ViewerCheck.viewer).in_(list(viewers)))).all()
    known = {(row.viewer, row.sample): row for row in rows}
    found = {}
    for viewer, opens in viewers.items():
        opened = [code for code in wanted if code in set(opens)]
        tried = [known.get((viewer, name)) for name in sample_names(opened, modalities if "dicom" in opened else ())]
        moments = [row for row in tried if row is not None]
        if not moments or len(moments) != len(tried):
            continue
        failed = [row.failed_at for row in moments if row.reason is not None and row.failed_at]
        worked = [row.worked_at for row in moments if row.worked_at]
        if failed:
            found[viewer] = Tried(False, max(failed))
        elif len(worked) == len(moments):
            found[viewer] = Tried(True, min(worked))
    return found


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
