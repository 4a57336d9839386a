"""WD-Spikingformer for the engine: its description, and its weights input-major.

    embed -> [ SN(Norm(x)) W_qkv -> SN(Norm(.)) -> attention -> (SN(Norm)) W_o + x
               SN(Norm(x)) W_1 -> SN(Norm(.)) W_2 + x ] * layers -> mean over S -> Norm (SN) W_head

The forward of `spikeformers.models._spikingformer` and `_block`, step by step. A tied head is
stored once: embedding a token reads a column of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from spikeformers.engine import Description
from spikeformers.export.packer import DescriptionWriter, neuron_spec
from spikeformers.layers import Fire
from spikeformers.models._block import SpikingAttention, SpikingMLP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spikeformers.models import WDSpikingformerForCausalLM


def describe(
    model: WDSpikingformerForCausalLM, weights: str
) -> tuple[Description, dict[str, NDArray[Any]]]:
    """Description and tensors of a WD-Spikingformer."""
    config, body = model.config, model.model
    width, hidden = config.hidden_size, config.intermediate_size
    assert hidden is not None
    writer = DescriptionWriter(config.vocab_size, config.steps, weights)
    to, pack, linear = writer.to, writer.pack, writer.linear
    for name, size in (("x", width), ("qkv", 3 * width), ("y", width), ("hidden", hidden)):
        to.real(name, size)
    head = writer.embed(body.embed_tokens, model.lm_head, body.embed_positions)

    def fire(source: str, out: str, layer: Fire, offset: int = 0, size: int = width) -> None:
        """Norm and neuron of ``layer`` into a buffer of spikes of its own."""
        writer.fire(source, out, size, layer.norm, layer.neuron, offset)

    def normalise(name: str, module: nn.Module) -> None:
        norm = pack.norm(name, module)
        if norm.kind != "none":
            to.norm("y", "y", norm)

    for number, block in enumerate(body.layers):
        at: SpikingAttention = block.attention  # type: ignore[assignment]
        mlp: SpikingMLP = block.mlp  # type: ignore[assignment]
        rule = at.core.engine_rule()  # refuses what the engine does not know
        on = f"layers.{number}"
        fire("x", f"{on}.attention.in", at.fire_in)
        if at.shift is not None:
            to.shift(f"{on}.attention.in", at.shift.moved)
        linear(f"{on}.attention.in", "qkv", f"{on}.qkv", at.query, at.key, at.value)
        parts = (("query", at.fire_query), ("key", at.fire_key), ("value", at.fire_value))
        for place, (name, layer) in enumerate(parts):
            fire("qkv", f"{on}.{name}", layer, offset=place * width)
        winner = f"{on}.winner" if at.fire_out is None else "y"
        if at.fire_out is None:
            to.spikes(winner, width, neuron_spec(at.fire_value.neuron))
        scale = pack.keep(f"{on}.scale", at.core.scale().flatten())
        to.attend(
            *(f"{on}.query", f"{on}.key", f"{on}.value", winner),
            heads=at.heads,
            scale=scale,
            bias=pack.vector(f"{on}.relative", body.relative_bias(number)),
            **rule,
        )
        if at.fire_out is not None:
            fire("y", f"{on}.attention.out", at.fire_out)
            winner = f"{on}.attention.out"
        linear(winner, "y", f"{on}.out", at.out)
        normalise(f"{on}.out_norm", at.out_norm)
        to.add("y", "x")
        fire("x", f"{on}.mlp.in", mlp.fire_in)
        if mlp.shift is not None:
            to.shift(f"{on}.mlp.in", mlp.shift.moved)
        linear(f"{on}.mlp.in", "hidden", f"{on}.up", mlp.up)
        fire("hidden", f"{on}.mlp.hidden", mlp.fire_hidden, size=hidden)
        linear(f"{on}.mlp.hidden", "y", f"{on}.down", mlp.down)
        normalise(f"{on}.mlp.out_norm", mlp.out_norm)
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
