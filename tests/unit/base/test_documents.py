"""The documents lead somewhere and keep up with the code: links, the index, Redis keys, the names of the seams."""

import importlib
import re
from collections.abc import Callable
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


# -- the security page: every line of its table is shown by tests ----------------------------------------
_PROOF = re.compile(r"^- (T\d+) `(test_\w+)`$")


def unshown(text: str, sources: Callable[[str], str]) -> list[str]:
    """Lines of the table without a test, and tests that are not there. `sources(path)`: the text of a file of tests."""
    table = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    named, faults, path = {}, [], ""
    for line in text.splitlines():
        if heading := re.match(r"^\[(tests/\S+\.py)\]\(\.\./tests/", line):
            path = heading[1]
        elif proof := _PROOF.match(line):
            named[proof[1]] = proof[2]
            if f"\ndef {proof[2]}(" not in sources(path):
                faults.append(f"{path}::{proof[2]}")
    for cells in table[1:]:
        shown = re.findall(r"T\d+", cells[3])
        if not (shown or "threat-model.md" in cells[3]) or not set(shown) <= named.keys():
            faults.append(cells[1].strip())
    return faults


def test_every_line_of_the_security_page_is_shown_by_tests_that_exist() -> None:
    text = (DOCS / "security.md").read_text()
    assert len(re.findall(r"^- T\d+ `", text, re.MULTILINE)) >= 30
    assert unshown(text, lambda path: (ROOT / path).read_text()) == []


def test_a_line_without_a_test_and_a_test_that_is_gone_would_be_found() -> None:
    text = ("| attacker | opens | shown by |\n| a | nothing | T1 |\n| b | nothing | |\n| c | nothing | T3 |\n"
            "[tests/x.py](../tests/x.py):\n- T1 `test_one`\n- T2 `test_two`\n")  # fmt: skip
    assert unshown(text, lambda path: "\ndef test_one() -> None:\n") == ["tests/x.py::test_two", "b", "c"]


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
    "drop_offs": "ingest", "exports": "records", "deletions": "records",
    "catalogue": "viewers", "suggest": "viewers", "builder": "viewers", "proxmox": "machines", "lease": "machines",
    "vm_sessions": "machines", "pool": "machines", "reaper": "machines", "templates": "machines",
    "left_over": "machines", "addresses": "machines", "tickets": "sharing", "shares": "sharing", "live": "sharing",
    "app_keys": "sharing", "mails": "sharing", "drop_off_links": "sharing", "correction": "records",
    "search": "records",
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
