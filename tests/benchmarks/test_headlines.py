"""The tables of claims are what the results in the repository say."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("page", "mark"), [("README.md", "front"), ("docs/results.md", "headlines")]
)
def test_a_page_has_the_table_of_the_results(
    page: str, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = runpy.run_path(str(ROOT / "benchmarks" / f"{mark}.py"))
    text = (ROOT / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"<!-- {mark} -->\n")
    assert rest.partition("<!-- end -->")[0].strip() == script["table"]().strip()


def test_readme_can_be_read_in_three_minutes() -> None:
    """At most 600 words and one table of eight rows; links and code lines count as what is read."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"\]\([^)]*\)|<!--.*?-->|^\|.*$", " ", text, flags=re.MULTILINE)
    assert len(prose.split()) <= 600
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 1
    assert len(tables[0].splitlines()) <= 2 + 8
