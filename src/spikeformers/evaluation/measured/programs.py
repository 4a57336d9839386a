"""What is measured: a system, opened in its own process, and the work that it does."""

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
    ``step(token)`` (``evaluation.systems.System``), and optionally ``weight_bytes`` and
    ``counters()``. ``libraries`` are imported first, to measure their memory separately.
    """

    opener: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    libraries: Sequence[str] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class TextWork:
    """Read the first ``prompt_tokens`` of ``ids``, then append the others one by one."""

    ids: Sequence[int]
    prompt_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.prompt_tokens < len(self.ids):
            raise ConfigError(
                f"measuring needs a prompt and at least one more token; got {self.prompt_tokens} "
                f"prompt tokens of {len(self.ids)}."
            )

    @property
    def units(self) -> dict[str, tuple[int, str]]:
        """Number and name of the units of each phase."""
        new = len(self.ids) - self.prompt_tokens
        return {"prefill": (self.prompt_tokens, "token"), "decode": (new, "token")}

    @property
    def requests(self) -> dict[str, dict[str, Any]]:
        """The request of each phase to the process of a system (`spikeformers.meters.child`)."""
        ids = [int(token) for token in self.ids]
        return {
            "prefill": {"do": "begin", "ids": ids[: self.prompt_tokens]},
            "decode": {"do": "steps", "ids": ids[self.prompt_tokens :]},
        }

    @property
    def setting(self) -> dict[str, Any]:
        """Sizes, for the report."""
        new = len(self.ids) - self.prompt_tokens
        return {"batch_size": 1, "prompt_tokens": self.prompt_tokens, "new_tokens": new}


@dataclass(frozen=True)
class Whole:
    """One forward pass over a batch: ``number`` images, or tokens of a masked text."""

    number: int
    unit: str
    batch_size: int

    def __post_init__(self) -> None:
        if self.number < 1 or self.batch_size < 1:
            raise ConfigError(
                f"measuring needs at least one {self.unit}; got {self.number} in a batch of "
                f"{self.batch_size}."
            )

    @property
    def units(self) -> dict[str, tuple[int, str]]:
        """Number and name of the units of each phase."""
        return {"forward": (self.number, self.unit)}

    @property
    def requests(self) -> dict[str, dict[str, Any]]:
        """The request of each phase to the process of a system (`spikeformers.meters.child`)."""
        return {"forward": {"do": "begin"}}

    @property
    def setting(self) -> dict[str, Any]:
        """Sizes, for the report."""
        return {"batch_size": self.batch_size, f"{self.unit}s": self.number}


def text_program(folder: str | Path, *, threads: int = 1, device: str = "cpu") -> Program:
    """A causal model folder in PyTorch."""
    arguments = {"folder": str(folder), "threads": threads, "device": device}
    return Program(f"{_HERE}:open_torch", arguments, _TORCH, device)


def whole_program(
    folder: str | Path, batch: str | Path, *, threads: int = 1, device: str = "cpu"
) -> Program:
    """A masked or image model folder in PyTorch; ``batch`` is a safetensors file of its inputs."""
    arguments = {"folder": str(folder), "batch": str(batch), "threads": threads, "device": device}
    return Program(f"{_HERE}:open_forward", arguments, _TORCH, device)


def engine_program(file: str | Path, *, threads: int = 1) -> Program:
    """An engine file in the event-driven engine; its process imports no torch."""
    arguments = {"file": str(file), "threads": threads}
    return Program("spikeformers.engine.runtime:open_system", arguments, ("spikeformers.engine",))


def save_batch(batch: Mapping[str, Tensor] | Tensor, path: Path) -> None:
    """Write inputs for `whole_program`; ids alone are ``input_ids``."""
    from safetensors.torch import save_file

    inputs = dict(batch) if isinstance(batch, Mapping) else {"input_ids": batch}
    save_file({k: x.contiguous() for k, x in inputs.items() if k != "labels"}, path)


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
        raise ConfigError(
            f"device {device!r} was requested, but torch finds no accelerator on this machine."
        )
    model: Any = load_weights(Path(folder))
    return model.to(device)
