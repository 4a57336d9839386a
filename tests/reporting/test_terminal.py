from __future__ import annotations

import pytest

from spikeformers.reporting.terminal import make_table, print_table

HEADS = ("where", "what it is", "tokens/s")
ROWS = [
    ("model.layers.*.attention.fire_query.neuron", "a product of spikes and weights", "1,234.5"),
    ("model.head", "weights", "7.0"),
]
WORDS = {word for row in (HEADS, *ROWS) for cell in row for word in cell.split()}


def printed(capsys: pytest.CaptureFixture[str], title: str = "") -> list[str]:
    print_table(make_table(title, HEADS, ROWS))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [40, 60, 70, 80, 200])
def test_no_word_is_broken_however_narrow_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = printed(capsys)
    assert {word for line in lines for word in line.split()} >= WORDS
    least = len("model.layers.*.attention.fire_query.neuron") + len("product") + len("tokens/s")
    assert max(len(line.rstrip()) for line in lines) <= max(width, least + 10)


def test_a_table_in_a_file_has_one_line_per_row(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = [" ".join(line.split()) for line in printed(capsys)]
    assert " ".join(ROWS[0]) in lines
    assert " ".join(HEADS) in lines


def test_a_long_title_is_wrapped_between_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    title = "Energy relative to the twin's, and the density below which it is less " * 3
    lines = printed(capsys, title)
    assert " ".join(" ".join(lines).split()).startswith(title.strip())
