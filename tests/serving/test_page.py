"""The page without a browser: it needs nothing but itself, and its policy allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib import resources
from typing import Any

PAGE = (resources.files("spikeformers.serving") / "page.html").read_text("utf-8")


class Elements(HTMLParser):
    """Start tags with their attributes, and the text in scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.cdata_elem in self.inline:
            self.inline[self.cdata_elem].append(data)


def parsed() -> Elements:
    elements = Elements()
    elements.feed(PAGE)
    return elements


def test_it_is_one_file_that_names_no_other() -> None:
    for tag, attributes in parsed().tags:
        assert tag not in ("link", "img", "iframe", "object", "embed"), tag
        assert not {"src", "href", "action", "style"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", PAGE))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nothing fetches
    assert "@import" not in PAGE
    assert "url(" not in PAGE


def test_the_policy_allows_its_script_and_style_and_its_own_server(running: Any) -> None:
    answer = running.http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == PAGE
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    for name in ("script", "style"):
        (text,) = parsed().inline[name]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"


def test_each_field_has_a_label_and_each_region_a_name() -> None:
    elements = parsed()
    labelled = {attributes.get("for") for tag, attributes in elements.tags if tag == "label"}
    inside = re.findall(r"<label[^>]*>(?:(?!</label>).)*<input[^>]*>", PAGE, re.DOTALL)
    fields = [attributes for tag, attributes in elements.tags if tag in ("input", "textarea")]
    assert len(fields) == len(inside) + 1
    assert "prompt" in labelled
    for tag, attributes in elements.tags:
        if tag in ("section", "aside", "form", "canvas"):
            assert "aria-label" in attributes or "aria-labelledby" in attributes, tag
    assert ("html", {"lang": "en"}) in elements.tags
