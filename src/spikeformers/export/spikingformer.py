"""WD-Spikingformer for the engine: its description, and its weights input-major.

    embed -> [ SN(Norm(x)) W_qkv -> SN(Norm(.)) -> attention -> (SN(Norm)) W_o + x
               SN(Norm(x)) W_1 -> SN(Norm(.)) W_2 + x ] * layers -> mean over S -> Norm (SN) W_head

The forward of `spikeformers.models._spikingformer` and `_block`, step by step. A tied head is
stored once: embedding a token reads a column of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spikeformers.attention import SSA, WTA, ScaledAttention, SoftmaxAttention
from spikeformers.engine import Description, NeuronSpec, NormSpec
from spikeformers.errors import ConfigError
from spikeformers.export.quantising import int4, int8
from spikeformers.layers import RelativeBias
from spikeformers.models._block import Fire, SpikingBlock
from spikeformers.neurons import ILIF, LIF, NILIF, TLIF, Neuron

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spikeformers.models import WDSpikingformerForCausalLM

MAX_LEVELS = 64  # of the kernels


class Packer:
    """Collects tensors under names, quantised where they are matrices and int8 is asked for."""

    def __init__(self, weights: str) -> None:
        self.weights = weights
        self.tensors: dict[str, NDArray[Any]] = {}

    def vector(self, name: str, tensor: torch.Tensor | None) -> str | None:
        """Keep a tensor in float32; None stays None."""
        if tensor is None:
            return None
        self.tensors[name] = tensor.detach().float().cpu().contiguous().numpy().copy()
        return name

    def matrix(self, name: str, tensor: torch.Tensor, scale_of: int = 0, fine: bool = False) -> str:
        """Keep ``[in, out]``, whole weights with one scale for each column (``scale_of`` 1: row).

        A ``fine`` matrix stays int8 where int4 is asked for.
        """
        real = tensor.detach().float().cpu().contiguous().numpy()
        if self.weights == "fp32":
            self.tensors[name] = real.copy()
        elif self.weights == "int4" and not fine:
            self.tensors[name], self.tensors[f"{name}.scale"] = int4(real)
        else:
            self.tensors[name], self.tensors[f"{name}.scale"] = int8(real, scale_of)
        return name

    def norm(self, name: str, module: nn.Module) -> NormSpec:
        """Keep a norm's parameters."""
        if isinstance(module, nn.LayerNorm):
            weight = self.vector(f"{name}.weight", module.weight)
            return NormSpec("layer", weight, self.vector(f"{name}.bias", module.bias), module.eps)
        if isinstance(module, nn.RMSNorm):
            assert module.eps is not None
            return NormSpec("rms", self.vector(f"{name}.weight", module.weight), None, module.eps)
        return NormSpec("none")


def neuron_spec(neuron: Neuron) -> NeuronSpec:
    """A neuron layer in the engine's words. Raises ConfigError for more levels than it has."""
    if isinstance(neuron, (NILIF, ILIF)):
        if neuron.levels > MAX_LEVELS:
            raise ConfigError(
                f"the engine counts to {MAX_LEVELS} in one step, and this model has "
                f"levels={neuron.levels}."
            )
        return NeuronSpec("integer", neuron.levels, neuron.unit, neuron.decay)
    if isinstance(neuron, TLIF):
        return NeuronSpec(
            "ternary",
            unit=neuron.unit,
            decay=neuron.decay,
            ratio=neuron.threshold_ratio,
            reset=neuron.reset,
        )
    if isinstance(neuron, LIF):
        return NeuronSpec(
            "binary", decay=neuron.decay, threshold=neuron.threshold, reset=neuron.reset
        )
    raise ConfigError(f"the engine does not know the neuron {type(neuron).__name__}.")


def attention_rule(core: nn.Module) -> dict[str, Any]:
    """How an attention core weighs keys, in the engine's words."""
    if isinstance(core, WTA) and core.competition == "sparsemax":
        return {"rule": "sparsemax"}
    if isinstance(core, WTA):
        return {"rule": "winners", "winners": core.winners, "weight": core.weight}
    if isinstance(core, (SSA, SoftmaxAttention)):
        return {"rule": "ssa" if isinstance(core, SSA) else "softmax"}
    raise ConfigError(f"the engine does not know the attention {type(core).__name__}.")


def describe(
    model: WDSpikingformerForCausalLM, weights: str
) -> tuple[Description, dict[str, NDArray[Any]]]:
    """Description and tensors of a WD-Spikingformer."""
    config, body = model.config, model.model
    width, hidden = config.hidden_size, config.intermediate_size
    assert hidden is not None
    pack = Packer(weights)
    to = Description(config.vocab_size, config.steps)
    for name, size in (("x", width), ("qkv", 3 * width), ("y", width), ("hidden", hidden)):
        to.real(name, size)

    head = pack.matrix("head", model.lm_head.weight.T, fine=True)  # int4 costs here, and only here
    tied = model.lm_head.weight is body.embed_tokens.weight
    table = (
        head if tied else pack.matrix("embedding", body.embed_tokens.weight, scale_of=1, fine=True)
    )
    learned = body.embed_positions
    positions = None if learned is None else pack.vector("positions", learned.weight)
    to.embed("x", table, tied, positions)

    def fire(source: str, out: str, layer: Fire, offset: int = 0, size: int = width) -> None:
        """Norm and neuron of ``layer`` into a buffer of spikes of its own."""
        to.spikes(out, size, neuron_spec(layer.neuron))
        to.fire(source, out, pack.norm(out, layer.norm), offset)

    def linear(source: str, out: str, name: str, *maps: nn.Linear) -> None:
        """Maps of the same input side by side."""
        weight = pack.matrix(name, torch.cat(tuple(one.weight for one in maps)).T)
        biases = tuple(one.bias for one in maps if one.bias is not None)
        bias = pack.vector(f"{name}.bias", torch.cat(biases)) if biases else None
        to.linear(source, out, weight, bias)

    for number, block in enumerate(body.layers):
        assert isinstance(block, SpikingBlock)
        at, mlp = block.attention, block.mlp
        attention_rule(at.core)  # refuses what the engine does not know
        assert isinstance(at.core, ScaledAttention)
        on = f"layers.{number}"
        fire("x", f"{on}.attention.in", at.fire_in)
        linear(f"{on}.attention.in", "qkv", f"{on}.qkv", at.query, at.key, at.value)
        parts = (("query", at.fire_query), ("key", at.fire_key), ("value", at.fire_value))
        for place, (name, layer) in enumerate(parts):
            fire("qkv", f"{on}.{name}", layer, offset=place * width)
        winner = f"{on}.winner" if at.fire_out is None else "y"
        if at.fire_out is None:
            to.spikes(winner, width, neuron_spec(at.fire_value.neuron))
        scale = pack.vector(f"{on}.scale", at.core.scale().flatten())
        relative = body.relative[number] if len(body.relative) else None
        bias = relative.bias if isinstance(relative, RelativeBias) else None
        assert scale is not None
        to.attend(
            *(f"{on}.query", f"{on}.key", f"{on}.value", winner),
            heads=at.heads,
            scale=scale,
            bias=pack.vector(f"{on}.relative", bias),
            **attention_rule(at.core),
        )
        if at.fire_out is not None:
            fire("y", f"{on}.attention.out", at.fire_out)
            winner = f"{on}.attention.out"
        linear(winner, "y", f"{on}.out", at.out)
        if not isinstance(at.out_norm, nn.Identity):
            to.norm("y", "y", pack.norm(f"{on}.out_norm", at.out_norm))
        to.add("y", "x")
        fire("x", f"{on}.mlp.in", mlp.fire_in)
        linear(f"{on}.mlp.in", "hidden", f"{on}.up", mlp.up)
        fire("hidden", f"{on}.mlp.hidden", mlp.fire_hidden, size=hidden)
        linear(f"{on}.mlp.hidden", "y", f"{on}.down", mlp.down)
        if not isinstance(mlp.out_norm, nn.Identity):
            to.norm("y", "y", pack.norm(f"{on}.mlp.out_norm", mlp.out_norm))
        to.add("y", "x")

    to.real("last", width)
    to.real("logits", config.vocab_size)
    to.select("x", "last")
    norm = pack.norm("norm", body.norm)
    if model.head_neuron is None:
        to.norm("last", "last", norm)
        to.linear("last", "logits", head)
    else:
        to.spikes("head.in", width, neuron_spec(model.head_neuron))
        to.fire("last", "head.in", norm)
        to.linear("head.in", "logits", head)
    to.finish("logits")
    return to, pack.tensors
