"""Zero-shot tasks on a model given by name: a folder, a model on the hub, or an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikeformers.engine import Engine
from spikeformers.errors import UsageError
from spikeformers.models import load_reference
from spikeformers.progress import Tell
from spikeformers.training.distributed import choose_device

if TYPE_CHECKING:
    from spikeformers.evaluation.zeroshot import TaskReport

ENGINE_TAKES = {"gguf_file": ("",), "device": ("auto", "cpu"), "dtype": ("auto", "fp32")}


class TaskStudy:
    """Runs zero-shot tasks on a model, one by one; ``reports`` are those of finished tasks."""

    def __init__(
        self,
        model: str | Path,
        *,
        engine: Engine | None = None,
        gguf_file: str = "",
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        progress: Tell | None = None,
        **options: Any,
    ) -> None:
        """Open the model; ``engine`` runs it instead of PyTorch, one text at a time on the CPU.

        ``options`` go to `Zeroshot`: batch_size, max_length, cached. Raises UsageError for options
        that an engine does not take; more errors as ``load_reference`` and `Zeroshot`.
        """
        # Of an extra, and slow to import.
        from spikeformers.evaluation.zeroshot import Zeroshot
        from spikeformers.studies.engine_reader import EngineReader, tokenizer_of

        self.reports: list[TaskReport] = []
        scored: Any
        if engine is not None:
            _check_engine({"gguf_file": gguf_file, "device": device, "dtype": dtype})
            scored, tokenizer = EngineReader(engine), tokenizer_of(engine)
        else:
            if threads is not None:
                torch.set_num_threads(threads)
            scored, tokenizer = load_reference(str(model), gguf_file=gguf_file, dtype=dtype)
            scored.to(choose_device(device, 0))
        name = " ".join(part for part in (str(model), gguf_file) if part)
        self._runner = Zeroshot(name, scored, tokenizer, progress=progress, **options)

    def run(
        self,
        names: Sequence[str],
        *,
        data_dir: Path | None = None,
        limit: int | None = None,
        keep: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Score the tasks; plain values for JSON, as ``evaluate zeroshot --json`` prints them.

        ``keep`` receives the name and the result of each task when it is finished. After an
        interruption the same call continues with all results computed so far.
        """
        for name in names:
            report = self._runner.run(name, data_dir=data_dir, limit=limit)
            self.reports.append(report)
            if keep is not None:
                keep(name, self._runner.result([report]))
        return self._runner.result(self.reports)


def _check_engine(options: dict[str, str]) -> None:
    for option, value in options.items():
        if value not in ENGINE_TAKES[option]:
            raise UsageError(
                "the engine runs a spiking model on the CPU, in fp32 or in the format of its "
                f"file; --{option.replace('_', '-')} {value} does not apply to it."
            )
