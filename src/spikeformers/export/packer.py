"""Shared by descriptions: tensors under names, neurons in the engine's terms, common steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikeformers.engine import Description, NeuronSpec, NormSpec
from spikeformers.errors import ConfigError
from spikeformers.export.quantising import int4, int4_grouped, int8
from spikeformers.neurons import Neuron

if TYPE_CHECKING:
    from numpy.typing import NDArray


MAX_LEVELS = 64  # of the kernels


class Packer:
    """Collects tensors under names; matrices become integers if requested."""

    def __init__(self, weights: str, grouped: bool = False) -> None:
        self.weights, self.grouped = weights, grouped
        self.tensors: dict[str, NDArray[Any]] = {}

    def vector(self, name: str, tensor: torch.Tensor | None) -> str | None:
        """Keep a tensor in float32; None stays None."""
        return None if tensor is None else self.keep(name, tensor)

    def keep(self, name: str, tensor: torch.Tensor) -> str:
        """Keep a tensor in float32."""
        self.tensors[name] = tensor.detach().float().cpu().contiguous().numpy().copy()
        return name

    def matrix(self, name: str, tensor: torch.Tensor, scale_of: int = 0, fine: bool = False) -> str:
        """Keep ``[in, out]``, integer weights with one scale per column (``scale_of`` 1: row).

        A ``fine`` matrix stays int8 if int4 is requested; ``grouped`` int4 has a scale and a
        minimum for each 32 inputs.
        """
        real = tensor.detach().float().cpu().contiguous().numpy()
        if self.weights == "fp32":
            self.tensors[name] = real.copy()
        elif self.weights == "int4" and self.grouped and not fine:
            packed, scale, minimum = int4_grouped(real)
            self.tensors |= {name: packed, f"{name}.scale": scale, f"{name}.minimum": minimum}
        elif self.weights == "int4" and not fine:
            self.tensors[name], self.tensors[f"{name}.scale"] = int4(real)
        else:
            self.tensors[name], self.tensors[f"{name}.scale"] = int8(real, scale_of)
        return name

    def norm(self, name: str, module: Any, offset: float = 0.0) -> NormSpec:
        """Keep a norm's parameters; its gain is its weight plus ``offset``.

        Raises ConfigError for a norm that the engine does not run.
        """
        if isinstance(module, nn.Identity):
            return NormSpec("none")
        weight, eps = getattr(module, "weight", None), getattr(module, "eps", None)
        if isinstance(module, nn.LayerNorm):
            gain = self.vector(f"{name}.weight", weight)
            return NormSpec("layer", gain, self.vector(f"{name}.bias", module.bias), module.eps)
        eps = getattr(module, "variance_epsilon", eps)  # as most models of Transformers name it
        if weight is None or eps is None or not _is_rms(module, weight, offset, float(eps)):
            raise ConfigError(f"the engine does not know the norm {type(module).__name__}.")
        gain = self.keep(f"{name}.weight", weight.float() + offset)
        return NormSpec("rms", gain, None, float(eps))


@torch.no_grad()
def _is_rms(norm: nn.Module, weight: Tensor, offset: float, eps: float) -> bool:
    """Whether a norm of any class computes ``x / sqrt(mean(x^2) + eps) * (weight + offset)``."""
    x = torch.linspace(-1.0, 2.0, weight.numel(), device=weight.device)  # its mean is not zero
    expected = x * torch.rsqrt(x.square().mean() + eps) * (weight.float() + offset)
    try:
        result = norm(x.to(weight.dtype)).float()
    except (RuntimeError, ValueError):  # it does not take one vector
        return False
    return result.shape == x.shape and torch.allclose(result, expected, rtol=0.02, atol=1e-3)


def neuron_spec(neuron: Neuron) -> NeuronSpec:
    """A neuron layer in the engine's words; ConfigError for one that the engine does not run."""
    spec = NeuronSpec(**neuron.engine_spec())
    if spec.levels > MAX_LEVELS:
        raise ConfigError(
            f"the engine counts to {MAX_LEVELS} in one step, and this model has "
            f"levels={spec.levels}."
        )
    return spec


class DescriptionWriter:
    """A description and its tensors, written together; ``to`` takes the steps."""

    def __init__(self, vocabulary: int, steps: int, weights: str, grouped: bool = False) -> None:
        self.to = Description(vocabulary, steps)
        self.pack = Packer(weights, grouped)

    def embed(self, table: nn.Module, head: nn.Linear, positions: nn.Module | None) -> str:
        """Tokens into "x"; returns the head's name. A tied head is stored once.

        Both stay int8 if int4 is requested: only there does int4 cost quality.
        """
        name = self.pack.matrix("head", head.weight.T, fine=True)
        tied, weight = head.weight is table.weight, table.weight
        rows = name if tied else self.pack.matrix("embedding", weight, scale_of=1, fine=True)  # type: ignore[arg-type]
        learned = None if positions is None else positions.weight
        self.to.embed("x", rows, tied, self.pack.vector("positions", learned))  # type: ignore[arg-type]
        return name

    def fire(
        self, source: str, out: str, size: int, norm: nn.Module, neuron: Neuron, offset: int = 0
    ) -> str:
        """Norm and neuron into a buffer of spikes of its own."""
        self.to.spikes(out, size, neuron_spec(neuron))
        self.to.fire(source, out, self.pack.norm(out, norm), offset)
        return out

    def linear(self, source: str, out: str, name: str, *maps: nn.Linear) -> None:
        """Maps of the same input side by side."""
        weight = self.pack.matrix(name, torch.cat(tuple(linear.weight for linear in maps)).T)
        biases = tuple(linear.bias for linear in maps if linear.bias is not None)
        bias = self.pack.vector(f"{name}.bias", torch.cat(biases)) if biases else None
        self.to.linear(source, out, weight, bias)
