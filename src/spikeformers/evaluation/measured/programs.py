"""What is measured: a system, as a process of its own opens it, and the work it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.errors import ConfigError
from spikeformers.evaluation.systems import ForwardSystem, TorchSystem

if TYPE_CHECKING:
    from torch import Tensor

_HERE = "spikeformers.evaluation.measured.programs"
_TORCH = ("torch", "transformers", "spikeformers.models")


@dataclass(frozen=True)
class Program:
    """A system by the function that opens it: ``opener`` is "module:function".

    The function gets ``arguments`` (plain values), and returns an object with ``begin(ids)`` and
    ``step(token)`` (``evaluation.systems.System``), and if it has them ``weight_bytes`` and
    ``counters()``. ``libraries`` are imported before, so that their memory can be told apart.
    """

    opener: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    libraries: Sequence[str] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Text:
    """Read the first ``prompt_tokens`` of ``ids``, then append the others one by one."""

    ids: Sequence[int]
    prompt_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.prompt_tokens < len(self.ids):
            raise ConfigError(
                f"a prompt and at least one more token are measured; got {self.prompt_tokens} "
                f"prompt tokens of {len(self.ids)}."
            )


@dataclass(frozen=True)
class Whole:
    """One forward pass over a batch: ``units`` images, or tokens of a masked text."""

    units: int
    unit: str
    batch_size: int

    def __post_init__(self) -> None:
        if self.units < 1 or self.batch_size < 1:
            raise ConfigError(
                f"at least one {self.unit} is measured; got {self.units} in a batch of "
                f"{self.batch_size}."
            )


def text_program(folder: str | Path, *, threads: int = 1, device: str = "cpu") -> Program:
    """A causal model folder in PyTorch."""
    given = {"folder": str(folder), "threads": threads, "device": device}
    return Program(f"{_HERE}:open_torch", given, _TORCH, device)


def whole_program(
    folder: str | Path, batch: str | Path, *, threads: int = 1, device: str = "cpu"
) -> Program:
    """A masked or image model folder in PyTorch; ``batch`` is a safetensors file of its inputs."""
    given = {"folder": str(folder), "batch": str(batch), "threads": threads, "device": device}
    return Program(f"{_HERE}:open_forward", given, _TORCH, device)


def engine_program(file: str | Path, *, threads: int = 1) -> Program:
    """An engine file in the event-driven engine; its process imports no torch."""
    given = {"file": str(file), "threads": threads}
    return Program("spikeformers.engine.runtime:open_system", given, ("spikeformers.engine",))


def save_batch(batch: Mapping[str, Tensor] | Tensor, path: Path) -> None:
    """Write inputs for `whole_program`; ids alone are ``input_ids``."""
    from safetensors.torch import save_file

    given = dict(batch) if isinstance(batch, Mapping) else {"input_ids": batch}
    save_file({k: x.contiguous() for k, x in given.items() if k != "labels"}, path)


def open_torch(folder: str, threads: int, device: str) -> TorchSystem:
    """Open a causal model in this process."""
    return TorchSystem(_loaded(folder, threads, device))


def open_forward(folder: str, batch: str, threads: int, device: str) -> ForwardSystem:
    """Open a model that reads a whole batch, and the batch."""
    from safetensors.torch import load_file

    return ForwardSystem(_loaded(folder, threads, device), load_file(batch))


def _loaded(folder: str, threads: int, device: str) -> Any:
    import torch

    from spikeformers.models.loading import load_weights

    torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} is asked for, and torch sees no accelerator here.")
    model: Any = load_weights(Path(folder))
    return model.to(device)
