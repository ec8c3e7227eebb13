"""The documents lead somewhere and keep up with the code: links, the index, Redis keys, the names of the seams."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def broken_links(page: Path, text: str) -> list[str]:
    """Links of this page to files that are not there."""
    own = [target for target in _LINK.findall(text) if "://" not in target and not target.startswith("mailto:")]
    return [target for target in own if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_leads_nowhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_would_be_found() -> None:
    assert broken_links(DOCS / "x.md", "[a](glossary.md#owner) ![b](images/nothing.png)") == ["images/nothing.png"]


def test_every_document_stands_in_the_index() -> None:
    index = set(_LINK.findall((DOCS / "README.md").read_text()))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page != DOCS / "README.md"}
    assert index == there


def test_every_key_and_channel_in_redis_stands_in_the_architecture() -> None:
    """Keys are written as literals "myphr:<name>"; the architecture lists what may lie in Redis."""
    text = (DOCS / "architecture.md").read_text()
    found: set[str] = set()
    for source in [*ROOT.glob("myphr/**/*.py"), *ROOT.glob("jobs/*.py")]:
        found.update(re.findall(r"""["']myphr:([a-z]+)""", source.read_text()))
    assert {"results", "revoked", "lease"} <= found, "the search finds nothing any more"
    assert {name for name in found if f"`myphr:{name}" not in text} == set()


PACKAGES = {
    "container": "crypto", "envelope": "crypto", "passwords": "crypto", "service_keys": "people", "accounts": "people",
    "login_sessions": "people", "trail": "audit", "store": "records", "items": "records", "manifest": "records",
    "uploads": "ingest", "identify": "ingest", "dicom": "ingest", "archives": "ingest", "demo": "ingest",
    "catalogue": "viewers", "suggest": "viewers", "builder": "viewers", "proxmox": "machines", "lease": "machines",
    "vm_sessions": "machines", "pool": "machines", "reaper": "machines", "templates": "machines",
    "left_over": "machines", "addresses": "machines", "tickets": "sharing", "shares": "sharing", "live": "sharing",
    "mails": "sharing",
}  # fmt: skip
_SEAM = re.compile(r"\b(" + "|".join(PACKAGES) + r")\.([A-Za-z_]+)\b(?!\.md)")


def seams() -> list[tuple[str, str]]:
    text = (DOCS / "architecture.md").read_text()
    text = text[text.index("## The seams") : text.index("## Redis:")]
    return sorted({(module, name) for module, name in _SEAM.findall(text) if name != "py"})


def test_the_seams_are_found() -> None:
    assert ("vm_sessions", "request") in seams() and len(seams()) > 40


@pytest.mark.parametrize(("module", "name"), seams())
def test_every_seam_of_the_architecture_is_in_the_code(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(f"myphr.{PACKAGES[module]}.{module}"), name)
