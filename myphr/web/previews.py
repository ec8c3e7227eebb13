"""What was read out of a file, on its owner's pages: its picture, its narrative, facts.

A picture or narrative is served from here alone, opened with the owner's key, kept by no browser. The narrative stands
in a sandboxed document of its own, so that markup which slipped through the cleaning runs nothing and reaches nothing.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Sequence

from flask import Blueprint, Response

from myphr.errors import NotFound
from myphr.records import items as records
from myphr.records import readings
from myphr.records.items import ItemView, StudyPage
from myphr.records.models import Item
from myphr.records.reading import Reading, media_type_of
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN_POLL, policy

blueprint = Blueprint("previews", __name__)

NARRATIVE_STYLE = (
    "body{margin:0;padding:1rem;font:1rem/1.5 system-ui,sans-serif;color:#16242c;background:#fff}"
    "body{overflow-wrap:anywhere}"
    "h1,h2,h3,h4{line-height:1.25;margin:1.2em 0 .4em}h1{font-size:1.3rem;margin-top:0}"
    "h2{font-size:1.15rem}h3,h4{font-size:1rem}"
    "table{border-collapse:collapse;margin:.5rem 0}th,td{border:1px solid #c9d4da;padding:.35rem .5rem;text-align:left;"
    "vertical-align:top}thead th{background:#eef3f5}caption{text-align:left;font-weight:600}pre{white-space:pre-wrap}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(NARRATIVE_STYLE.encode()).digest()).decode()
NARRATIVE_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; sandbox; frame-ancestors 'self'"
PREVIEW_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; sandbox; frame-ancestors 'none'"


def _item(item_id: object) -> Item:
    return records.load_item(portal().database, this_login().account.id, str(item_id))


@blueprint.get("/item/<uuid:item_id>/preview")
@policy(SIGNED_IN_POLL)  # a list that refreshes itself asks for them again: no sign that anybody is there
def preview(item_id: object) -> Response:
    row = _item(item_id)
    found = readings.preview_of(portal().database, row.id, records.dek_of(this_login().ring(), row))
    if found is None:
        raise NotFound("preview")
    answer = Response(found, mimetype=media_type_of(found) or "application/octet-stream")
    answer.headers["Content-Security-Policy"] = PREVIEW_POLICY
    answer.headers["Content-Disposition"] = "inline"
    return answer


@blueprint.get("/item/<uuid:item_id>/narrative")
@policy(SIGNED_IN_POLL)
def narrative(item_id: object) -> Response:
    row = _item(item_id)
    found = readings.narrative_of(portal().database, row.id, records.dek_of(this_login().ring(), row))
    if found is None:
        raise NotFound("narrative")
    answer = Response(narrative_document(found), mimetype="text/html")
    answer.headers["Content-Security-Policy"] = NARRATIVE_POLICY
    answer.headers["X-Frame-Options"] = "SAMEORIGIN"
    return answer


def narrative_document(html: str) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>What the document says</title>'
        f"<style>{NARRATIVE_STYLE}</style></head><body>{html}</body></html>"
    )


@dataclasses.dataclass(frozen=True)
class Told:
    """What the page of one file says about it. `facts` are pairs, the most important first."""

    item_id: str
    reading: Reading
    facts: tuple[tuple[str, str], ...]


def told_of(row: Item) -> Told | None:
    """For the page of one file; None when nothing was read (yet)."""
    reading = readings.readings_of(portal().database, this_login().ring(), [row]).get(row.id)
    return Told(row.id, reading, facts_of(reading)) if reading else None


def facts_of(reading: Reading) -> tuple[tuple[str, str], ...]:
    first = (
        ("What", reading.title or reading.kind_words), ("Date", reading.date_words), ("Where", reading.place),
        ("By", reading.author), ("About", reading.patient),
    )  # fmt: skip
    return tuple((name, value) for name, value in first if value) + reading.facts


def lines_of(items: Sequence[ItemView]) -> dict[str, str]:
    """What files say of themselves in one line, for a list: "Discharge letter, 26 August 2024, Harbour Hospital"."""
    login = this_login()
    rows = records.load_items(portal().database, login.account.id, [item.id for item in items])
    names = {item.id: item.name.lower() for item in items}
    lines = {}
    for item_id, one in readings.readings_of(portal().database, login.ring(), rows).items():
        title = one.title if one.title.lower() not in names[item_id] else ""
        lines[item_id] = ", ".join(filter(None, (title, one.date_words, one.place)))
    return lines


def of_items(items: Sequence[ItemView]) -> set[str]:
    """Which of these have a picture."""
    return readings.with_preview(portal().database, [item.id for item in items])


def of_studies(study_ids: Sequence[str]) -> dict[str, str]:
    """An item with a picture for each study that has one, from its middle."""
    return readings.middle_previews(portal().database, this_login().account.id, study_ids)


def of_series(page: StudyPage) -> list[str | None]:
    """For each series of the page, in its order, the item nearest to the middle that has a picture."""
    groups: dict[str, list[ItemView]] = {}
    for item in page.items:
        groups.setdefault(str((item.headers or {}).get("series_uid") or ""), []).append(item)
    if len(groups) != len(page.study.series):
        return [None] * len(page.study.series)
    numbers = {uid: (group[0].headers or {}).get("series_number") for uid, group in groups.items()}
    ordered = sorted(groups, key=lambda uid: (numbers[uid] is None, numbers[uid] or 0))
    have = of_items(page.items)
    return [_nearest_middle([item.id for item in groups[uid]], have) for uid in ordered]


def _nearest_middle(item_ids: list[str], have: set[str]) -> str | None:
    middle = len(item_ids) // 2
    there = [at for at, item_id in enumerate(item_ids) if item_id in have]
    return item_ids[min(there, key=lambda at: abs(at - middle))] if there else None
