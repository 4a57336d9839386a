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
        attention: SpikingAttention = block.attention  # type: ignore[assignment]
        mlp: SpikingMLP = block.mlp  # type: ignore[assignment]
        rule = attention.core.engine_rule()  # refuses what the engine does not know
        prefix = f"layers.{number}"
        fire("x", f"{prefix}.attention.in", attention.fire_in)
        if attention.shift is not None:
            to.shift(f"{prefix}.attention.in", attention.shift.moved)
        linear(
            f"{prefix}.attention.in",
            "qkv",
            f"{prefix}.qkv",
            attention.query,
            attention.key,
            attention.value,
        )
        parts = (
            ("query", attention.fire_query),
            ("key", attention.fire_key),
            ("value", attention.fire_value),
        )
        for place, (name, layer) in enumerate(parts):
            fire("qkv", f"{prefix}.{name}", layer, offset=place * width)
        winner = f"{prefix}.winner" if attention.fire_out is None else "y"
        if attention.fire_out is None:
            to.spikes(winner, width, neuron_spec(attention.fire_value.neuron))
        scale = pack.keep(f"{prefix}.scale", attention.core.scale().flatten())
        to.attend(
            *(f"{prefix}.query", f"{prefix}.key", f"{prefix}.value", winner),
            heads=attention.heads,
            scale=scale,
            bias=pack.vector(f"{prefix}.relative", body.relative_bias(number)),
            **rule,
        )
        if attention.fire_out is not None:
            fire("y", f"{prefix}.attention.out", attention.fire_out)
            winner = f"{prefix}.attention.out"
        linear(winner, "y", f"{prefix}.out", attention.out)
        normalise(f"{prefix}.out_norm", attention.out_norm)
        to.add("y", "x")
        fire("x", f"{prefix}.mlp.in", mlp.fire_in)
        if mlp.shift is not None:
            to.shift(f"{prefix}.mlp.in", mlp.shift.moved)
        linear(f"{prefix}.mlp.in", "hidden", f"{prefix}.up", mlp.up)
        fire("hidden", f"{prefix}.mlp.hidden", mlp.fire_hidden, size=hidden)
        linear(f"{prefix}.mlp.hidden", "y", f"{prefix}.down", mlp.down)
        normalise(f"{prefix}.mlp.out_norm", mlp.out_norm)
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
