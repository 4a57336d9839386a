"""Progress of long work: a bar on a terminal, elsewhere a plain line now and then.

    with Progress() as progress:
        perplexity(..., progress=progress.stage("scoring", "tokens"))

Functions of the library take a `Move` or a `Tell` and print nothing themselves. On a terminal Rich
draws a bar; if standard error is a file or a pipe, it receives lines such as this one:

    scoring: 4,096 of 16,384 tokens (25 %), 12 s, about 36 s left

The first line comes ``EVERY`` seconds after a stage began. The next one comes after another
``EVERY`` seconds if a hundredth of the work was done meanwhile, and after ``AT_MOST`` seconds in
any case, even if the work reports nothing. A log file gets the same lines with their times.
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
"""Called with the number of items done and the total, None if that is not known."""
Tell = Callable[[str, int, "int | None"], None]
"""The same, preceded by the name of the stage."""
Item = TypeVar("Item")


class Listener(Protocol):
    """Receives the progress of a run: a `Progress`, or a function of the caller's.

    A function takes the stage, the number of items done and the total (None if that is not known),
    and by keyword their unit ("steps") and current figures ("loss 2.310"); one that needs neither
    is declared as ``def listen(stage, done, total, **more)``.
    """

    def __call__(
        self, stage: str, done: int, total: int | None, *, unit: str = "", shown: str = ""
    ) -> None: ...


EVERY = 5.0  # seconds between two lines, at least, and before the first
AT_MOST = 60.0  # seconds between two lines, at most
LOG = "progress.log"  # in a run folder
SHARE = 0.01  # least share of the work between two lines that are less than AT_MOST apart


def is_main_process() -> bool:
    """Whether this process reports: it runs alone, or is the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


class Stage:
    """One part of the work and its progress."""

    def __init__(self, name: str, done: int, now: float) -> None:
        self.name, self.unit, self.shown = name, "", ""
        self.done = self.first = done
        self.total: int | None = None
        self.began = now

    @property
    def share(self) -> float | None:
        """The share that is done, between 0 and 1; None if the total is not known."""
        return min(1.0, self.done / self.total) if self.total else None

    def amount(self) -> str:
        """Text such as ``120 of 500 steps``; empty if nothing is counted."""
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
    """A context manager; shows the progress with which it is called (stage, items done, total).

    With ``show`` false nothing is shown and only the file ``log`` is appended to. With ``keep`` the
    bar stays on the terminal at the end. ``listener`` receives each call as well. ``units`` are
    units of stages, by the stage's name up to its first comma. Under torchrun only the first
    process reports.
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
        reports = is_main_process()
        self._listener = listener if reports else None
        self._show, self._log, self._keep = show and reports, log if reports else None, keep
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
            self._displays.append(_Lines(_to_file(self._log), self._every, is_log=True))
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
        """Report that ``done`` of ``total`` are done in ``stage``; ``shown`` is appended text."""
        with self._lock:
            now = self._clock()
            if self._stage is None or self._stage.name != stage:
                self._close()
                self._stage = Stage(stage, done, now)
            current = self._stage
            current.done, current.total, current.shown = done, total, shown
            current.unit = unit or self._units.get(stage.partition(",")[0], "")
            for display in self._displays:
                display.show(current, now)
        if self._listener is not None:
            self._listener(stage, done, total, unit=unit, shown=shown)

    def stage(self, name: str, unit: str = "") -> Move:
        """Begin a stage and return the function that reports its progress."""
        self(name, 0, None, unit=unit)
        return lambda done, total: self(name, done, total, unit=unit)

    def _close(self) -> None:
        """End the current stage."""
        if self._stage is not None:
            for display in self._displays:
                display.end(self._stage, self._clock())
        self._stage = None

    def _tick(self) -> None:
        """Print lines even while the work reports nothing."""
        while not self._ended.wait(max(0.05, self._every / 5)):
            with self._lock:
                if self._stage is not None:
                    for display in self._displays:
                        display.tick(self._stage, self._clock())


class _Lines:
    """Passes plain lines to ``write``.

    ``is_log``: every stage ends with a line, and there are none while the work reports nothing.
    """

    def __init__(self, write: Callable[[str], None], every: float, *, is_log: bool = False) -> None:
        self._write, self._every, self._is_log = write, every, is_log
        self._stage: Stage | None = None  # of the last line
        self._when = self._share = 0.0
        self._done = 0

    def show(self, stage: Stage, now: float) -> None:
        first = self._stage is not stage
        waited = now - (stage.began if first else self._when)
        moved = first or stage.share is None or stage.share - self._share >= SHARE
        if waited >= (self._every if moved else max(self._every, AT_MOST)):
            self._say(stage, now)

    def tick(self, stage: Stage, now: float) -> None:
        if not self._is_log:
            self.show(stage, now)

    def end(self, stage: Stage, now: float) -> None:
        moved = self._stage is stage and self._done != stage.done
        if self._is_log or moved:
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
    """Whether Rich's console can redraw a line."""
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
    """Print a line; if nobody reads standard error any more, the work continues without lines."""
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
    """Text such as ``42 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def watched(items: Iterable[Item], move: Move | None) -> Iterator[Item]:
    """Yield the items; ``move`` is called with the number of items that are finished."""
    total = len(items) if isinstance(items, Sized) else None
    if move is not None:
        move(0, total)
    for number, item in enumerate(items, 1):
        yield item
        if move is not None:
            move(number, total)
