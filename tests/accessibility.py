"""axe-core on a page at rest: a colour halfway through its change is nobody's contrast."""

import os
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}
# What turns for as long as it stands never finishes; a change of colour does.
AT_REST = """() => document.getAnimations().every(
    one => one.playState !== 'running' || one.effect.getComputedTiming().endTime === Infinity)"""


def violations(page: Page, *, exclude: tuple[str, ...] = ()) -> list[str]:
    """Each broken rule with the elements that break it, in words; none on a page that everybody can use."""
    page.wait_for_function(AT_REST)
    context: Any = {"exclude": [[one] for one in exclude]} if exclude else None
    found = Axe().run(page, context=context, options=RULES).response["violations"]
    return [f"{v['id']}: {n['html'][:120]} ({n['failureSummary'][:160]})" for v in found for n in v["nodes"]]


def seen(page: Page, name: str) -> None:
    """Nobody is kept out of this page; a picture of it below TEST_PICTURES_DIR where one is wanted."""
    assert violations(page) == []
    if folder := os.environ.get("TEST_PICTURES_DIR"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)
