from __future__ import annotations

import re
from pathlib import Path

import pytest

from spikeformers.reporting.html import Page, Section, write_page
from spikeformers.reporting.terms import TERMS, link_terms, term_list

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"


def glossary():
    """Heading -> text of each entry, without its links, marks of emphasis and line ends."""
    entries = {}
    for entry in re.split(r"^### ", GLOSSARY.read_text(encoding="utf-8"), flags=re.M)[1:]:
        name, _, text = entry.partition("\n")
        text = re.split(r"^## ", text, flags=re.M)[0]
        text = re.sub(r"(?:\[[^]]*\]\([^)]*\)[,\s]*)+$", "", text)  # the pages that say more
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
        entries[name] = " ".join(re.sub(r"[*`]", "", text).split())
    return entries


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_report_means_what_the_glossary_means(term):
    assert glossary()[term.name] == term.meaning


def used(body):
    linked, terms = link_terms(body)
    return linked, [term.name for term in terms]


def test_the_first_use_is_linked_and_no_other():
    linked, names = used("<p>Density of spikes.</p><p>The density, again.</p>")
    assert names == ["Density", "Spike"]
    assert linked.count('href="#term-density"') == 1
    assert re.search(r">Density</a> of <a [^>]*#term-spike[^>]*>spikes</a>", linked)
    assert "<p>The density, again.</p>" in linked


def test_a_longer_term_is_not_taken_for_the_one_in_it():
    assert used("<td>NI-LIF</td>")[1] == ["NI-LIF"]
    assert used("<td>CWSSA, hard</td>")[1] == ["CWSSA"]
    assert used("<p>thresholds per token</p>")[1] == ["Threshold per token"]
    assert used("<p>the IF; if only; an LIF-like neuron</p>")[1] == ["IF"]


def test_headings_commands_samples_and_attributes_are_left_as_they_are():
    body = '<h2>Spikes</h2><pre><b>spike</b> density</pre><td data-head="density">1</td>'
    assert link_terms(body) == (body, [])


def test_a_page_ends_with_the_terms_it_used(tmp_path):
    section = Section("T", "Bits per byte beside the dense twin.", ("", "density"), [("x", "1")])
    write_page(tmp_path / "p.html", Page("Title", "lead", [section]))
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    targets = set(re.findall(r'href="#([^"]*)"', page))
    assert targets == set(re.findall(r'<dt id="([^"]*)"', page))
    assert targets == {"term-bits-per-byte", "term-dense-twin", "term-density"}
    assert term_list([]) == ""
