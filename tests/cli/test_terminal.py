"""How a run of the library is shown by a verb."""

from __future__ import annotations

import io

import pytest
import rich
from rich.console import Console

from spikeformers import progress
from spikeformers.cli._output import Terminal, on_terminal


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 100 characters gets."""
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    return file


def test_a_stage_ends_with_the_next_one_or_a_message(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 1e9)  # only a stage that ends after a line says another
    opened: list[str] = []
    ended: list[str] = []

    class Recording(progress.Progress):
        def __call__(self, stage, *moved, **more):
            self.name = stage
            super().__call__(stage, *moved, **more)

        def __enter__(self):
            opened.append("")
            return super().__enter__()

        def __exit__(self, *_):
            ended.append(self.name)
            super().__exit__()

    monkeypatch.setattr("spikeformers.cli._output.Progress", Recording)
    terminal = Terminal()
    terminal("reading", 0, None)
    terminal("reading", 1, 2)
    terminal("training", 0, 4, unit="steps")
    assert ended == ["reading"]
    terminal.say("model")
    assert ended == ["reading", "training"]
    terminal.close()
    assert (len(opened), ended) == (2, ["reading", "training"])


def test_the_bar_of_training_stays_and_others_go(screen):
    terminal = Terminal()
    terminal("reading the text", 1, 2, unit="bytes")
    terminal("training", 4, 4, unit="steps", shown="loss 2.000")
    terminal.close()
    last = screen.getvalue().rsplit("training", 1)[-1]
    assert "4 of 4 steps" in last
    assert "loss 2.000" in last
    assert "reading the text" not in last


def test_bars_are_closed_when_a_run_fails(monkeypatch):
    closed = []
    monkeypatch.setattr(Terminal, "close", lambda self: closed.append(self))
    with pytest.raises(ValueError, match="broken"), on_terminal() as callbacks:
        raise ValueError("broken")
    assert closed == [callbacks["progress"]]
