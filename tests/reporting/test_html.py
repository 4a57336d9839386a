from __future__ import annotations

import base64
from html.parser import HTMLParser

from spikeformers.reporting.html import Page, Section, write_page

VOID = {"meta", "img", "br"}


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
    for said in ("Title <x>", "One <two>", "a & b", "1 < 2", "The <b> & more", 'A "caption"'):
        assert said in text
    encoded = base64.b64encode(picture.read_bytes()).decode()
    assert parser.references == [f"data:image/png;base64,{encoded}"]
    assert page.count('<span class="kind">') == 2
    assert "prefers-color-scheme: dark" in page
