from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import pytest
import rich
from rich.console import Console

from spikeformers import progress as shown
from spikeformers.errors import StorageError
from spikeformers.progress import Progress, duration, watched


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(clock: Clock, capsys: pytest.CaptureFixture[str], work: Callable[[Progress], None]):
    with Progress(clock=clock, every=5.0) as progress:
        work(progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_line_every_few_seconds_if_standard_error_is_not_a_terminal(clock, capsys):
    def work(progress: Progress) -> None:
        move = progress.stage("scoring", "tokens")
        for done in range(0, 2001, 100):
            clock.now += 1
            move(done, 2000)

    assert lines(clock, capsys, work) == [
        "scoring: 400 of 2,000 tokens (20 %), 5 s, about 20 s left",
        "scoring: 900 of 2,000 tokens (45 %), 10 s, about 12 s left",
        "scoring: 1,400 of 2,000 tokens (70 %), 15 s, about 6 s left",
        "scoring: 1,900 of 2,000 tokens (95 %), 20 s, about 1 s left",
        "scoring: 2,000 of 2,000 tokens (100 %), 21 s",
    ]


def test_stages_have_the_units_that_were_given(clock, capsys):
    units = {"scoring": "tokens", "timing": "turns"}
    with Progress(clock=clock, every=5.0, units=units) as progress:
        for stage in ("scoring, spiking", "drawing"):
            progress(stage, 0, 9)
            clock.now += 6
            progress(stage, 3, 9)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("scoring, spiking: 3 of 9 tokens (33 %)")
    assert lines[1].startswith("drawing: 3 of 9 (33 %)")


def test_short_work_prints_nothing(clock, capsys):
    def work(progress: Progress) -> None:
        for done in range(4):
            clock.now += 1
            progress("scoring", done, 4)

    assert lines(clock, capsys, work) == []


def test_long_work_prints_a_line_per_hundredth_and_at_least_every_minute(clock, capsys):
    def work(progress: Progress) -> None:
        for done in range(1001):  # 0.1 % every two seconds
            progress("training", done, 1000, unit="steps")
            clock.now += 2

    printed = lines(clock, capsys, work)
    assert printed[0] == "training: 3 of 1,000 steps (0 %), 6 s, about 33 min 14 s left"
    assert 90 < len(printed) < 102

    def slower(progress: Progress) -> None:
        for done in range(100):  # 0.01 % every two seconds
            progress("training", done, 10_000, unit="steps")
            clock.now += 2

    assert len(lines(clock, capsys, slower)) == 1 + 3 + 1  # after 6 s, each minute, the last


def test_a_resumed_stage_estimates_the_time_left_from_its_own_start(clock, capsys):
    def work(progress: Progress) -> None:
        progress("training", 500, 1000)
        clock.now += 10
        progress("training", 600, 1000)

    assert lines(clock, capsys, work)[0] == "training: 600 of 1,000 (60 %), 10 s, about 40 s left"


def test_stages_follow_one_another_and_show_their_own_units(clock, capsys):
    def work(progress: Progress) -> None:
        move = progress.stage("reading the text", "bytes")
        clock.now += 6
        move(2_500_000, None)
        progress.stage("packing")
        clock.now += 7
        progress("packing", 0, None, shown="layer 3")

    assert lines(clock, capsys, work) == [
        "reading the text: 2.5 MB, 6 s",
        "packing: 7 s; layer 3",
    ]


def test_work_that_reports_nothing_is_heard_of_all_the_same(capsys):
    heard = ""
    with Progress(every=0.02) as progress:
        progress.stage("opening the model")
        until = time.monotonic() + 20
        while not heard and time.monotonic() < until:
            time.sleep(0.01)
            heard = capsys.readouterr().err
    assert heard.startswith("opening the model: 0 s\n")


def test_nothing_is_left_behind(capsys):
    before = set(threading.enumerate())  # another test's may still end
    for _ in range(3):
        with Progress(every=0.01) as progress:
            progress("x", 1, 2)
    until = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_a_log_has_every_stage_and_its_end_with_the_time(clock, tmp_path, capsys):
    log = tmp_path / "progress.log"
    log.write_text("an earlier run\n")
    with Progress(show=False, log=log, clock=clock) as progress:
        progress("training", 1, 2, unit="steps", shown="loss 3.000")
        clock.now += 1
        progress("training", 2, 2, unit="steps", shown="loss 2.500")
        progress("export", 0, None)
    printed = log.read_text().splitlines()
    assert printed[0] == "an earlier run"
    assert [line[21:] for line in printed[1:]] == [
        "training: 2 of 2 steps (100 %), 1 s; loss 2.500",
        "export: 0 s",
    ]
    assert printed[1][4:5] == "-"
    assert printed[1][13:14] == ":"
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="Could not write"), Progress(log=tmp_path) as progress:
        progress("x", 1, 1)


def test_other_processes_of_torchrun_are_silent(clock, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with Progress(clock=clock, log=tmp_path / "log") as progress:
        progress("x", 1, 3)
        clock.now += 10
        progress("x", 2, 3)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "log").exists()


def test_a_listener_gets_each_call_and_the_log_stays_the_same(clock, capsys, tmp_path, monkeypatch):
    calls = []

    def listen(*moved: object, **more: object) -> None:
        calls.append((*moved, more))

    with Progress(show=False, log=tmp_path / "log", listener=listen, clock=clock) as progress:
        progress("training", 1, 2, unit="steps", shown="loss 2.000")
        progress.stage("scoring")(3, None)
    assert calls == [
        ("training", 1, 2, {"unit": "steps", "shown": "loss 2.000"}),
        ("scoring", 0, None, {"unit": "", "shown": ""}),
        ("scoring", 3, None, {"unit": "", "shown": ""}),
    ]
    assert "training: 1 of 2 steps (50 %)" in (tmp_path / "log").read_text()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "1")
    with Progress(show=False, listener=listen) as progress:
        progress("training", 2, 2)
    assert len(calls) == 3


def test_on_a_terminal_it_is_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    with Progress(keep=True) as progress:
        progress("training", 3, 4, unit="steps", shown="loss 2.000")
    assert "3 of 4 steps" in screen.getvalue()
    assert "loss 2.000" in screen.getvalue()
    assert "━" in screen.getvalue()
    assert capsys.readouterr().err == ""


def test_a_reader_that_went_away_does_not_end_the_work(clock, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(shown.sys, "stderr", Gone())
    with Progress(clock=clock) as progress:
        progress("x", 1, 3)
        clock.now += 10
        progress("x", 2, 3)


def test_watched_items_move_it_after_each():
    moves: list[tuple[int, int | None]] = []
    taken = []
    for item in watched("abc", lambda *moved: moves.append(moved)):
        taken.append((item, len(moves)))
    assert taken == [("a", 1), ("b", 2), ("c", 3)]
    assert moves == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert list(watched(iter("ab"), None)) == ["a", "b"]


@pytest.mark.parametrize(
    ("seconds", "printed"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")],
)
def test_durations_are_written_for_people(seconds, printed):
    assert duration(seconds) == printed
