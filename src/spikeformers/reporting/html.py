"""Self-contained HTML pages: pictures are inlined as PNG, and no other place is linked."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

from spikeformers.reporting.tables import Table
from spikeformers.reporting.terms import link_terms, term_list
from spikeformers.storage import write_text

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --page: #ffffff;
  --card: #f6f8fa; --line: #d1d9e0; --mark: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --page: #0d1117;
  --card: #161b22; --line: #3d444d; --mark: #6cb6ff; } }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p.lead, figcaption, .note { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
.scroll { overflow-x: auto; background: linear-gradient(to right, var(--page) 50%, transparent),
  linear-gradient(to left, var(--page) 50%, transparent) right,
  linear-gradient(to right, var(--line), transparent),
  linear-gradient(to left, var(--line), transparent) right;
  background-repeat: no-repeat; background-size: 3rem 100%, 3rem 100%, .6rem 100%, .6rem 100%;
  background-attachment: local, local, scroll, scroll; }
table.wide { font-size: .85rem; } table.wide th, table.wide td { padding: .35rem .45rem; }
th, td { padding: .4rem .75rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
figure { margin: 1rem 0 1.5rem; }
figure img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: .5rem; padding: .5rem; box-sizing: border-box; }
figcaption { font-size: .9rem; margin-top: .35rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; }
pre b { color: var(--mark); }
a { color: var(--mark); }
a.term { color: inherit; text-decoration: underline dotted var(--soft);
  text-underline-offset: 3px; }
dt { font-weight: 600; } dt:target { color: var(--mark); }
dd { margin: 0 0 .6rem; color: var(--soft); }
.kind { border: 1px solid var(--line); border-radius: 1rem; padding: 0 .5rem; font-size: .75rem;
  color: var(--soft); white-space: nowrap; }
@media (max-width: 45rem) {
  body { padding: 1rem .75rem 3rem; } table, table.wide { font-size: .8rem; }
  th, td, table.wide th, table.wide td { padding: .3rem .35rem; } .kind { padding: 0 .3rem; }
  table.wide thead { display: none; }
  table.wide, table.wide tbody, table.wide tr, table.wide td { display: block; }
  table.wide tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
  table.wide td { border: 0; display: flex; justify-content: space-between; gap: 1rem; }
  table.wide td:first-child { font-weight: 600; } table.wide td:empty { display: none; }
  table.wide td::before { content: attr(data-head); color: var(--soft); text-align: left;
    font-weight: 400; }
}
"""
WIDE = 5  # from this many columns, smaller type, and stacked rows on a narrow screen
LONG = 24  # longer words may be broken, at punctuation or every 8 characters

_MARKS = re.compile(r"[^./_,:-]*[./_,:-]+|[^./_,:-]+")


@dataclass
class Section:
    """A heading and its content, in this order: text, commands, links, table, samples, pictures."""

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    samples: Sequence[tuple[str, str, str]] = ()
    """(title, prompt, text)"""
    pictures: Sequence[tuple[Path, str]] = ()
    """(PNG file, caption)"""
    commands: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()
    """(file in the folder of the page, what it is)"""

    @classmethod
    def of(
        cls,
        table: Table,
        text: str = "",
        *,
        head: str = "",
        pictures: Sequence[tuple[Path, str]] = (),
    ) -> Section:
        """A section of one table; ``head`` is put before its title."""
        title = f"{head}{table.title}"
        return cls(title, text or table.note, table.columns, table.rows, pictures=pictures)


@dataclass
class Page:
    """A report."""

    title: str
    lead: str
    sections: list[Section] = field(default_factory=list)


def write_page(path: Path, page: Page) -> None:
    """Write ``page`` to ``path`` as one file; "estimated" and "measured" in cells are marked.

    Terms of the field are linked where they are first used, to a list of what they mean at the end.
    """
    lead = f'<p class="lead">{escape(page.lead)}</p>'
    body, used = link_terms("\n".join([lead, *map(_section, page.sections)]))
    write_text(
        path,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>{escape(page.title)}</h1>\n{body}\n{term_list(used)}\n</body>\n</html>\n",
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.commands:
        parts.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    for name, title in section.links:
        parts.append(f'<p>{escape(title)}: <a href="{quote(name)}">{escape(name)}</a></p>')
    if section.rows:
        parts.append(_table(section.header, section.rows))
    for title, prompt, text in section.samples:
        parts.append(
            f'<p class="note">{escape(title)}</p><pre><b>{escape(prompt)}</b>{escape(text)}</pre>'
        )
    parts.extend(_figure(path, caption) for path, caption in section.pictures)
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in its own box, which scrolls, with a shadow, if the page is narrower."""
    wide = len(header) >= WIDE
    heads = "".join(f"<th>{_breakable(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{_cells(header if wide else (), row)}</tr>" for row in rows)
    head = f"<thead><tr>{heads}</tr></thead>" if header else ""
    kind = ' class="wide"' if wide else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{lines}</tbody></table></div>'


def _cells(header: Sequence[str], row: Sequence[str]) -> str:
    """The cells of a row, each with its column's name where ``header`` is given."""
    if not header:
        return "".join(f"<td>{_cell(cell)}</td>" for cell in row)
    named = zip(header, row, strict=True)
    return "".join(f'<td data-head="{escape(name)}">{_cell(cell)}</td>' for name, cell in named)


def _cell(text: str) -> str:
    shown = _breakable(text)
    return f'<span class="kind">{shown}</span>' if text in ("estimated", "measured") else shown


def _breakable(text: str) -> str:
    """The text, with break opportunities in long words such as digests and paths."""

    def broken(word: str) -> str:
        if len(word) < LONG:
            return escape(word)
        pieces = _MARKS.findall(word) or [word]
        if max(map(len, pieces)) >= LONG:
            pieces = [piece[i : i + 8] for piece in pieces for i in range(0, len(piece), 8)]
        return "<wbr>".join(escape(piece) for piece in pieces)

    return " ".join(broken(word) for word in text.split(" "))


def _figure(path: Path, caption: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pairs(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Rows of a table of two columns."""
    return [(key, str(value)) for key, value in values.items()]
