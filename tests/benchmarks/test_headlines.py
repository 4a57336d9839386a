"""The tables of claims are what the results in the repository say."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def table_of(page: str, mark: str) -> str:
    """What a page has between its marks."""
    _, _, rest = (ROOT / page).read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    return rest.partition("<!-- end -->")[0].strip()


@pytest.mark.parametrize(
    ("page", "mark"), [("README.md", "front"), ("docs/results.md", "headlines")]
)
def test_a_page_has_the_table_of_the_results(
    page: str, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = runpy.run_path(str(ROOT / "benchmarks" / f"{mark}.py"))
    assert table_of(page, mark) == script["table"]().strip()


def test_the_caption_of_the_picture_is_what_the_results_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = runpy.run_path(str(ROOT / "benchmarks" / "front.py"))
    assert "times as fast as llama.cpp" in script["caption"]()
    assert table_of("README.md", "front-caption") == script["caption"]().strip()


def test_each_page_of_results_begins_with_its_claims_and_the_summary_has_ten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = runpy.run_path(str(ROOT / "benchmarks" / "headlines.py"))
    pages = {page.stem for page in (ROOT / "docs" / "results").glob("*.md")}
    assert pages == set(script["TOPICS"])
    for topic in pages:
        shown = table_of(f"docs/results/{topic}.md", f"headlines-{topic}")
        assert shown == script["table"](topic).strip()
    assert len(table_of("docs/results.md", "headlines").splitlines()) == 2 + 10


def test_readme_can_be_read_in_three_minutes() -> None:
    """At most 600 words and one table of eight rows; links and code lines count as what is read."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"\]\([^)]*\)|<!--.*?-->|^\|.*$", " ", text, flags=re.MULTILINE)
    assert len(prose.split()) <= 600
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 1
    assert len(tables[0].splitlines()) <= 2 + 8
