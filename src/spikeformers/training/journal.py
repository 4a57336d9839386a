"""The records of a run: ``metrics.jsonl``, TensorBoard files, and its progress.

``metrics.jsonl`` has one JSON object per line, with ``kind`` "train" or "validation", ``step``
(steps completed), ``tokens_seen`` (``images_seen`` or ``examples_seen`` in other tasks) and
``seconds`` (of training steps only). Progress goes to ``progress.log``, and to the terminal or
standard error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spikeformers.errors import StorageError
from spikeformers.foreign import check_object, foreign, read_text
from spikeformers.progress import LOG, Listener, Progress
from spikeformers.storage import write_text

SEEN = "seen"  # stands for tokens_seen, images_seen or examples_seen
NUMBERS = ("loss", "lm_loss", "density", "accuracy", "bits_per_byte")
"""Values that pictures and tables read if a line has them."""
ADVICE = "Repair the line, or move the file away: resuming does not need it."
BY_LAYER = {"density_by_layer": "density", "grad_norm_by_projection": "grad_norm"}


class Journal:
    """A context manager that logs on the main process and does nothing on the others.

    ``progress``: whether to show progress, or the callback that receives it instead.
    """

    def __init__(
        self,
        out: Path,
        *,
        step: int,
        total: int,
        enabled: bool = True,
        progress: bool | Listener = True,
    ) -> None:
        self.path, self.step, self.total = out / "metrics.jsonl", step, total
        self.enabled = enabled
        self._listener = None if isinstance(progress, bool) else progress
        self._show = enabled and progress is True
        self._shown: dict[str, float] = {}

    def __enter__(self) -> Journal:
        if not self.enabled:
            return self
        from torch.utils.tensorboard import SummaryWriter

        try:
            truncate(self.path, self.step)
            self._lines = self.path.open("a", encoding="utf-8")
            folder = self.path.parent / "tensorboard"
            self._board = SummaryWriter(str(folder), purge_step=self.step + 1)
        except OSError as error:
            raise StorageError(f"Could not write {self.path}: {error}") from error
        log = self.path.parent / LOG
        self._progress = Progress(show=self._show, log=log, keep=True, listener=self._listener)
        self._progress.__enter__()
        self._progress("training", self.step, self.total, unit="steps")
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self._progress.__exit__()
            self._lines.close()
            self._board.close()

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; metrics by layer become one TensorBoard curve per layer."""
        if not self.enabled:
            return
        try:
            line = {"kind": kind, "step": step, **values}
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
            for key, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{key}", value, step)
            for key, name in BY_LAYER.items():
                for layer, value in values.get(key, {}).items():
                    self._board.add_scalar(f"{name}/{layer}", value, step)
        except OSError as error:
            raise StorageError(f"Could not write {self.path}: {error}") from error

    def advance(self, step: int, values: Mapping[str, Any]) -> None:
        """Show progress; values that are not given (density is not always) stay as before."""
        if not self.enabled:
            return
        self._shown |= values
        words = {"loss": "loss {:.3f}", "tokens_per_second": "{:,.0f} tokens/s"}
        words |= {"images_per_second": "{:,.0f} images/s", "accuracy": "accuracy {:.3f}"}
        words |= {"examples_per_second": "{:,.0f} examples/s"}
        words |= {"density": "density {:.3f}", "mfu": "MFU {:.3f}"}
        shown = [words[key].format(self._shown[key]) for key in words if key in self._shown]
        self._progress("training", step, self.total, unit="steps", shown="  ".join(shown))


def read_metrics(path: Path, *, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line cut off by a crash is left out.

    ``needed`` are numbers that each line must have; ``SEEN`` may be one of them. Raises
    ``CheckpointError`` with the line's number for an invalid line.
    """
    if not path.is_file():
        return []
    lines = read_text(path, advice=ADVICE).split("\n")[:-1]  # text may hold other line breaks
    return [
        _line(f"{path}, line {number}", line, needed)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _line(where: str, line: str, needed: Sequence[str]) -> dict[str, Any]:
    with foreign(f"{where}, is not valid JSON", advice=ADVICE):
        value = json.loads(line)
    entry = check_object(value, {"kind": str, "step": int}, where, advice=ADVICE)
    seen_key = next((key for key in entry if key.endswith("s_seen")), "tokens_seen")
    numbers = dict.fromkeys((seen_key if key == SEEN else key for key in needed), float)
    optional = dict.fromkeys(NUMBERS, float)
    return check_object(entry, numbers, where, advice=ADVICE, optional=optional)


def truncate(path: Path, step: int) -> None:
    """Drop the lines after ``step``: the resumed run will write them again."""
    earlier = [line for line in read_metrics(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in earlier))
