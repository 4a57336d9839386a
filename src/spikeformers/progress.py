"""What long work shows of itself: a bar on a terminal, elsewhere a plain line now and then.

    with Progress() as progress:
        perplexity(..., progress=progress.stage("scoring", "tokens"))

Functions of the library take a `Move` or a `Tell` and print nothing themselves. On a terminal Rich
draws a bar; where standard error is a file or a pipe, lines such as these go to it:

    scoring: 4,096 of 16,384 tokens (25 %), 12 s, about 36 s left

The first comes ``EVERY`` seconds after a stage began, another when as many have passed and a
hundredth of the work is done, and at the latest after ``AT_MOST``, even while the work itself
reports nothing. A log file gets the same lines with their times.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from spikeformers.errors import StorageError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Move = Callable[[int, "int | None"], None]
"""Things done, and things in all, None where that is not known."""
Tell = Callable[[str, int, "int | None"], None]
"""The same, with the stage of the work before them."""
Item = TypeVar("Item")


class Listener(Protocol):
    """What a run reports its progress to: a `Progress`, or a function of the caller's.

    A function takes the stage, things done, things in all (None where that is not known), and by
    keyword the unit they are counted in ("steps") and figures of the moment ("loss 2.310"); one
    that needs neither is declared as ``def listen(stage, done, total, **more)``.
    """

    def __call__(
        self, stage: str, done: int, total: int | None, *, unit: str = "", shown: str = ""
    ) -> None: ...


EVERY = 5.0  # seconds between two lines at least, and before the first
AT_MOST = 60.0  # seconds between two lines at most
LOG = "progress.log"  # in a run folder
SHARE = 0.01  # of the work, between two lines that are less than AT_MOST apart


def is_main_process() -> bool:
    """Whether this process reports: it runs alone, or is the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


class Stage:
    """One part of the work and how far it is."""

    def __init__(self, name: str, done: int, now: float) -> None:
        self.name, self.unit, self.shown = name, "", ""
        self.done = self.first = done
        self.total: int | None = None
        self.began = now

    @property
    def share(self) -> float | None:
        """Done of all, between 0 and 1; None where all is not known."""
        return min(1.0, self.done / self.total) if self.total else None

    def amount(self) -> str:
        """Such as ``120 of 500 steps``; empty where nothing is counted."""
        if self.total is None and not self.done:
            return ""
        if self.unit == "bytes":
            of = "" if self.total is None else f" of {self.total / 1e6:,.1f}"
            return f"{self.done / 1e6:,.1f}{of} MB"
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{self.done:,}{of} {self.unit}".rstrip()

    def line(self, now: float) -> str:
        """The stage as one plain line."""
        amount, share, spent = self.amount(), self.share, now - self.began
        if amount and share is not None:
            amount += f" ({100 * share:.0f} %)"
        parts = [amount, duration(spent)]
        if self.total and self.first < self.done < self.total:
            left = spent * (self.total - self.done) / (self.done - self.first)
            parts.append(f"about {duration(left)} left")
        text = f"{self.name}: {', '.join(part for part in parts if part)}"
        return f"{text}; {self.shown}" if self.shown else text


class Progress:
    """A context; called with a stage, things done and things in all, it shows them.

    ``show`` false: nothing is shown, and only ``log`` is written, a file that is appended to.
    ``keep``: the bar stays on the terminal at the end. ``listener`` gets each call, too. ``units``
    are of stages, by the name up to its first comma. Under torchrun only the first process reports.
    """

    def __init__(
        self,
        *,
        show: bool = True,
        log: Path | None = None,
        keep: bool = False,
        listener: Listener | None = None,
        every: float | None = None,
        units: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        speaks = is_main_process()
        self._listener = listener if speaks else None
        self._show, self._log, self._keep = show and speaks, log if speaks else None, keep
        self._every, self._clock = EVERY if every is None else every, clock
        self._units = units or {}
        self._stage: Stage | None = None
        self._displays: list[_Bar | _Lines] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Progress:
        self._ended.clear()
        self._displays = []
        if self._show:
            lines = None if _on_terminal() else _Lines(_to_standard_error, self._every)
            self._displays.append(lines or _Bar(self._keep))
        if self._log is not None:
            self._displays.append(_Lines(_to_file(self._log), self._every, whole=True))
        if self._show:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._lock:
            self._close()
            for display in self._displays:
                display.stop()
            self._displays = []

    def __call__(
        self, stage: str, done: int, total: int | None, *, unit: str = "", shown: str = ""
    ) -> None:
        """Say that ``done`` of ``total`` are done in ``stage``; ``shown`` stands behind them."""
        with self._lock:
            now = self._clock()
            if self._stage is None or self._stage.name != stage:
                self._close()
                self._stage = Stage(stage, done, now)
            at = self._stage
            at.done, at.total, at.shown = done, total, shown
            at.unit = unit or self._units.get(stage.partition(",")[0], "")
            for display in self._displays:
                display.show(at, now)
        if self._listener is not None:
            self._listener(stage, done, total, unit=unit, shown=shown)

    def stage(self, name: str, unit: str = "") -> Move:
        """The stage begins, and what it returns moves it on."""
        self(name, 0, None, unit=unit)
        return lambda done, total: self(name, done, total, unit=unit)

    def _close(self) -> None:
        """The stage is over."""
        if self._stage is not None:
            for display in self._displays:
                display.end(self._stage, self._clock())
        self._stage = None

    def _tick(self) -> None:
        """Lines also while the work reports nothing."""
        while not self._ended.wait(max(0.05, self._every / 5)):
            with self._lock:
                if self._stage is not None:
                    for display in self._displays:
                        display.tick(self._stage, self._clock())


class _Lines:
    """Plain lines, given to ``write``; ``whole``: a last one of every stage, and none unasked."""

    def __init__(self, write: Callable[[str], None], every: float, *, whole: bool = False) -> None:
        self._write, self._every, self._whole = write, every, whole
        self._stage: Stage | None = None  # which the last line was of
        self._when = self._share = 0.0
        self._done = 0

    def show(self, stage: Stage, now: float) -> None:
        first = self._stage is not stage
        waited = now - (stage.began if first else self._when)
        moved = first or stage.share is None or stage.share - self._share >= SHARE
        if waited >= (self._every if moved else max(self._every, AT_MOST)):
            self._say(stage, now)

    def tick(self, stage: Stage, now: float) -> None:
        if not self._whole:
            self.show(stage, now)

    def end(self, stage: Stage, now: float) -> None:
        moved = self._stage is stage and self._done != stage.done
        if self._whole or moved:
            self._say(stage, now)

    def stop(self) -> None:
        """Nothing is held."""

    def _say(self, stage: Stage, now: float) -> None:
        self._stage, self._when = stage, now
        self._done, self._share = stage.done, stage.share or 0.0
        self._write(stage.line(now))


class _Bar:
    """Rich's bar, one at a time."""

    def __init__(self, keep: bool) -> None:
        self._bar, self._keep = _rich(transient=not keep), keep
        self._task: Any = None
        self._bar.start()

    def show(self, stage: Stage, now: float) -> None:
        if self._task is None:
            self._task = self._bar.add_task(stage.name, amount="", shown="", total=stage.total)
        self._bar.update(
            self._task,
            completed=stage.done,
            total=stage.total,
            amount=stage.amount(),
            shown=stage.shown,
        )

    def tick(self, stage: Stage, now: float) -> None:
        """Rich draws by itself."""

    def end(self, stage: Stage, now: float) -> None:
        if self._task is not None and not self._keep:
            self._bar.remove_task(self._task)
        self._task = None

    def stop(self) -> None:
        self._bar.stop()


def _on_terminal() -> bool:
    """Whether Rich's console can draw a line anew."""
    import rich

    console = rich.get_console()
    return (console.is_terminal or console.is_jupyter) and not console.is_dumb_terminal


def _rich(*, transient: bool) -> RichProgress:
    import rich
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[shown]}"), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=rich.get_console(), transient=transient)


def _to_standard_error(line: str) -> None:
    """A reader that has gone away ends the lines, not the work."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _to_file(path: Path) -> Callable[[str], None]:
    def write(line: str) -> None:
        stamp = datetime.now().isoformat(" ", "seconds")
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{stamp}  {line}\n")
        except OSError as error:
            raise StorageError(f"Could not write {path}: {error}") from error

    return write


def duration(seconds: float) -> str:
    """Such as ``42 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def watched(items: Iterable[Item], move: Move | None) -> Iterator[Item]:
    """The items one by one; ``move`` is told how many of them were worked on."""
    total = len(items) if isinstance(items, Sized) else None
    if move is not None:
        move(0, total)
    for number, item in enumerate(items, 1):
        yield item
        if move is not None:
            move(number, total)
