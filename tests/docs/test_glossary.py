"""Pages link a term of the field where they first use it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spikeformers.reporting.terms import TERMS, pattern_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for folder in ("", "methods", "results")
    for page in (DOCS / folder).glob("*.md")
    if page.name not in ("glossary.md", "log.md")  # the log is for readers who know the terms
)
OTHERWISE = {"Event"}
"""Terms that the pages use in another sense, too: event cameras have events."""
NOT_PROSE = re.compile(
    r"^```.*?^```$"
    r"|^<!-- (?!end)[^\n]*-->$.*?^<!-- end -->$"  # what scripts fill in
    r"|^#[^\n]*$|^\|[^\n]*$|^    [^\n]*$"
    r"|`[^`\n]*`|\*\*[^*]+\*\*",
    re.M | re.S,
)
LINK = re.compile(r"!?\[([^]]*)\]\([^)]*\)")


def not_linked(text):
    """Names of terms whose first use in a page is in no link."""
    prose = NOT_PROSE.sub("", text)
    pattern, first = pattern_of(TERMS), {}
    inside = [link.span() for link in LINK.finditer(prose)]
    for match in pattern.finditer(prose):
        name = TERMS[int(match.lastgroup[1:])].name
        first.setdefault(name, any(start <= match.start() < end for start, end in inside))
    return {name for name, linked in first.items() if not linked} - OTHERWISE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_term_is_linked_at_its_first_use(page):
    assert not_linked(page.read_text(encoding="utf-8")) == set()


def test_what_counts_as_a_use():
    assert not_linked("The density of\nspikes.") == {"Density", "Spike"}
    assert not_linked("The [density](glossary.md#density), and a density.") == set()
    assert not_linked("A density, and [density](glossary.md#density).") == {"Density"}
    assert not_linked("# Density\n\n`density`\n\n| density |\n\n```text\nspike\n```\n") == set()
    assert not_linked("bits\nper byte") == {"Bits per byte"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_leads_to_an_entry(page):
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", glossary, flags=re.M)
    anchors = {re.sub(r"[^a-z0-9-]", "", name.lower().replace(" ", "-")) for name in headings}
    linked = set(re.findall(r"glossary\.md#([^)]*)\)", page.read_text(encoding="utf-8")))
    assert linked <= anchors
