"""Tables of plain strings in each of their forms."""

from __future__ import annotations

import subprocess
import sys

from spikeformers.reporting.html import Section
from spikeformers.reporting.tables import Table, as_csv, dash, markdown, row
from spikeformers.reporting.terminal import print_tables

TABLE = Table("Speed", ("", "model", "twin"), [row("tokens/s", [1234.5, 7]), ("note", "a, b", "-")])


def test_markdown_and_csv_have_the_same_cells() -> None:
    assert markdown(TABLE.columns, TABLE.rows) == (
        "|  | model | twin |\n| --- | --- | --- |\n| tokens/s | 1,234.50 | 7.00 |\n"
        "| note | a, b | - |\n"
    )
    assert as_csv(TABLE.columns, TABLE.rows) == (
        ',model,twin\ntokens/s,"1,234.50",7.00\nnote,"a, b",-\n'
    )


def test_a_value_that_is_not_there_is_a_dash() -> None:
    assert (dash(None), dash(0.5), dash(1234.0, "{:,.0f}")) == ("-", "0.5000", "1,234")


def test_a_section_of_a_table_has_its_title_cells_and_note() -> None:
    section = Section.of(TABLE._replace(note="in turns"), head="mine: ")
    assert (section.title, section.text) == ("mine: Speed", "in turns")
    assert (section.header, section.rows) == (TABLE.columns, TABLE.rows)
    assert Section.of(TABLE, "why").text == "why"


def test_the_note_stands_under_the_table_on_a_terminal(capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")
    print_tables([TABLE._replace(note="in turns"), TABLE])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "Speed"
    assert lines.count("in turns") == 1
    assert lines.index("in turns") < len(lines) - 1 - lines[::-1].index("Speed")


def test_a_table_on_a_terminal_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys\nimport spikeformers.reporting.terminal\n"
        "sys.exit(', '.join({'torch', 'matplotlib', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
