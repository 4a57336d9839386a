"""BiSpikCLM for the engine: a stream of integers between neurons, edges that fire.

    embed -> SN(Norm) -> R
    [ SN(Norm(R)) W_qkv -> SN(Norm(.)) -> edges -> W_o -> SN(Norm) joins R
      SN(Norm(R)) W_1 -> SN(Norm(.)) W_2 -> SN(Norm) joins R ] * layers
    mean over S -> Norm (SN) W_head

The forward of `spikeformers.models.bispikclm`, step by step; R <- R + spikes, or R or spikes. Where
the stream is binary and no neuron stands before W_qkv it is read as it is. W_o reads sums of
spikes, and of those only what is not zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from spikeformers.engine import Description, NeuronSpec
from spikeformers.errors import ConfigError
from spikeformers.export.packer import MAX_LEVELS, DescriptionWriter, neuron_spec
from spikeformers.layers import Fire
from spikeformers.models.bispikclm import BinaryAttention, BinaryMLP
from spikeformers.neurons import LIF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spikeformers.models import BiSpikCLMForCausalLM

BINARY = NeuronSpec("binary")  # of a stream of zeros and ones; nothing fires


def describe(
    model: BiSpikCLMForCausalLM, weights: str
) -> tuple[Description, dict[str, NDArray[Any]]]:
    """Description and tensors of a BiSpikCLM."""
    config, body = model.config, model.model
    width, hidden = config.hidden_size, config.intermediate_size
    assert hidden is not None
    if model.head_neuron is not None and config.steps > MAX_LEVELS:
        raise ConfigError(
            f"the engine sums the head's spikes of at most {MAX_LEVELS} steps, and this model has "
            f"steps={config.steps} with spiking_head."
        )
    writer = DescriptionWriter(config.vocab_size, config.steps, weights)
    to, pack = writer.to, writer.pack
    for name, size in (("x", width), ("stream", width), ("qkv", 3 * width), ("y", width)):
        to.real(name, size)
    to.real("hidden", hidden)
    head = writer.embed(body.embed_tokens, model.lm_head, body.embed_positions)

    def fire(source: str, out: str, layer: Fire, offset: int = 0, size: int = width) -> str:
        return writer.fire(source, out, size, layer.norm, layer.neuron, offset)

    to.join(fire("x", "encoder", body.encoder), "stream", "set")
    residual_rule = config.residual
    for number, block in enumerate(body.layers):
        prefix = f"layers.{number}"
        attention: BinaryAttention = block.attention  # type: ignore[assignment]
        mlp: BinaryMLP = block.mlp  # type: ignore[assignment]
        if attention.fire_in is not None:
            source = fire("stream", f"{prefix}.attention.in", attention.fire_in)
        elif number == 0:
            source = "encoder"
        else:
            source = f"{prefix}.attention.in"
            to.spikes(source, width, BINARY)
            to.recount("stream", source)
        writer.linear(
            source, "qkv", f"{prefix}.qkv", attention.query, attention.key, attention.value
        )
        parts = (
            ("query", attention.fire_query),
            ("key", attention.fire_key),
            ("value", attention.fire_value),
        )
        for place, (name, layer) in enumerate(parts):
            fire("qkv", f"{prefix}.{name}", layer, offset=place * width)
        neuron: LIF = attention.core.neuron  # type: ignore[assignment]
        if neuron.reset != "delayed":
            raise ConfigError(
                "the engine's edges have a delayed reset, and those of this model have a "
                f"{neuron.reset} one."
            )
        threshold = (
            torch.as_tensor(neuron.v_th, dtype=torch.float32).flatten().expand(attention.heads)
        )
        to.edges(
            *(f"{prefix}.query", f"{prefix}.key", f"{prefix}.value", "y"),
            heads=attention.heads,
            decay=neuron.decay,
            scale=pack.keep(f"{prefix}.scale", attention.core.scale().flatten()),
            threshold=pack.keep(f"{prefix}.threshold", threshold),
            bias=pack.vector(f"{prefix}.relative", body.relative_bias(number)),
        )
        writer.linear("y", "x", f"{prefix}.out", attention.out)
        to.join(fire("x", f"{prefix}.attention.out", attention.fire_out), "stream", residual_rule)
        fire("stream", f"{prefix}.mlp.in", mlp.fire_in)
        writer.linear(f"{prefix}.mlp.in", "hidden", f"{prefix}.up", mlp.up)
        fire("hidden", f"{prefix}.mlp.hidden", mlp.fire_hidden, size=hidden)
        writer.linear(f"{prefix}.mlp.hidden", "x", f"{prefix}.down", mlp.down)
        to.join(fire("x", f"{prefix}.mlp.out", mlp.fire_out), "stream", residual_rule)

    to.real("last", width)
    to.real("logits", config.vocab_size)
    to.select("stream", "last")
    to.norm("last", "last", pack.norm("norm", body.norm))
    if model.head_neuron is None:
        to.linear("last", "logits", head)
    else:
        counts = NeuronSpec("integer", config.steps, 1 / config.steps)
        to.spikes("head.in", width, counts)
        to.rate("last", "head.in", neuron_spec(model.head_neuron), config.steps)
        to.linear("head.in", "logits", head)
    to.finish("logits")
    return to, pack.tensors
