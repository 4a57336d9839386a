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
    how = config.residual
    for number, block in enumerate(body.layers):
        on = f"layers.{number}"
        at: BinaryAttention = block.attention  # type: ignore[assignment]
        mlp: BinaryMLP = block.mlp  # type: ignore[assignment]
        if at.fire_in is not None:
            source = fire("stream", f"{on}.attention.in", at.fire_in)
        elif number == 0:
            source = "encoder"
        else:
            source = f"{on}.attention.in"
            to.spikes(source, width, BINARY)
            to.recount("stream", source)
        writer.linear(source, "qkv", f"{on}.qkv", at.query, at.key, at.value)
        parts = (("query", at.fire_query), ("key", at.fire_key), ("value", at.fire_value))
        for place, (name, layer) in enumerate(parts):
            fire("qkv", f"{on}.{name}", layer, offset=place * width)
        neuron: LIF = at.core.neuron  # type: ignore[assignment]
        if neuron.reset != "delayed":
            raise ConfigError(
                "the engine's edges have a delayed reset, and those of this model have a "
                f"{neuron.reset} one."
            )
        threshold = torch.as_tensor(neuron.v_th, dtype=torch.float32).flatten().expand(at.heads)
        to.edges(
            *(f"{on}.query", f"{on}.key", f"{on}.value", "y"),
            heads=at.heads,
            decay=neuron.decay,
            scale=pack.keep(f"{on}.scale", at.core.scale().flatten()),
            threshold=pack.keep(f"{on}.threshold", threshold),
            bias=pack.vector(f"{on}.relative", body.relative_bias(number)),
        )
        writer.linear("y", "x", f"{on}.out", at.out)
        to.join(fire("x", f"{on}.attention.out", at.fire_out), "stream", how)
        fire("stream", f"{on}.mlp.in", mlp.fire_in)
        writer.linear(f"{on}.mlp.in", "hidden", f"{on}.up", mlp.up)
        fire("hidden", f"{on}.mlp.hidden", mlp.fire_hidden, size=hidden)
        writer.linear(f"{on}.mlp.hidden", "x", f"{on}.down", mlp.down)
        to.join(fire("x", f"{on}.mlp.out", mlp.fire_out), "stream", how)

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
