from __future__ import annotations

import base64
from html.parser import HTMLParser

from spikeformers.reporting.html import Page, Section, write_page

VOID = {"meta", "img", "br", "wbr"}


class Strict(HTMLParser):
    """Fails on tags that do not match; collects text and references."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.references += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_stands_alone_and_escapes(tmp_path):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    section = Section(
        "One <two>",
        text="a & b",
        header=("", "value", ""),
        rows=[("x", "1 < 2", "estimated"), ("y", "3", "measured"), ("estimated energy", "4", "")],
        samples=[("spiking", "The <b>", " & more")],
        pictures=[(picture, 'A "caption"')],
    )
    path = tmp_path / "report.html"
    write_page(path, Page("Title <x>", "lead", [section]))
    page = path.read_text(encoding="utf-8")
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    text = "".join(parser.text)
    for message in ("Title <x>", "One <two>", "a & b", "1 < 2", "The <b> & more", 'A "caption"'):
        assert message in text
    encoded = base64.b64encode(picture.read_bytes()).decode()
    assert parser.references == ["#term-estimated-and-measured", f"data:image/png;base64,{encoded}"]
    assert page.count('<span class="kind">') == 2
    assert "prefers-color-scheme: dark" in page


def page_of(tmp_path, header, rows):
    write_page(tmp_path / "p.html", Page("Title", "lead", [Section("T", header=header, rows=rows)]))
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    return page, "".join(parser.text)


def test_commands_and_links_to_files_beside_the_page(tmp_path):
    section = Section("T", "text", commands=["run 'a b' <x>", "again"], links=[("a b.txt", "What")])
    write_page(tmp_path / "p.html", Page("Title", "lead", [section]))
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<pre>run &#x27;a b&#x27; &lt;x&gt;\nagain</pre>" in page
    assert '<p>What: <a href="a%20b.txt">a b.txt</a></p>' in page


def test_a_table_scrolls_in_a_box_of_its_own(tmp_path):
    page, _ = page_of(tmp_path, ("", "value"), [("x", "1")])
    assert page.count('<div class="scroll"><table>') == 1
    assert "data-head" not in page.partition("<body>")[2]


def test_a_table_of_many_columns_names_each_cell_for_a_narrow_screen(tmp_path):
    page, _ = page_of(tmp_path, ("", "a", "b", "c", 'the "d"'), [("x", "1", "2", "3", "4")])
    assert '<table class="wide">' in page
    assert '<td data-head="the &quot;d&quot;">4</td>' in page


def test_long_words_may_be_broken_and_stay_whole_when_copied(tmp_path):
    digest, name = "0123456789abcdef" * 4, "model.layers.0.attention.fire_query.neuron"
    page, text = page_of(tmp_path, (), [("sha256", digest), (name, "1,234,567.89")])
    assert digest in text
    assert name in text
    assert "<wbr>".join(["01234567", "89abcdef"] * 4) in page
    assert "model.<wbr>layers.<wbr>0.<wbr>attention.<wbr>fire_<wbr>query.<wbr>neuron" in page
    assert "1,234,567.89" in page
