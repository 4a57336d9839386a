"""Modules of the source whose input becomes spikes, while they themselves do not change.

    SpikingInput    inner(E(x))     an attention, whose q, k and v read one E; an output map
    SpikingHead     E(x) W + b      the head of a language model

E is a layer of neurons with a threshold per token, `spikeformers.neurons.token_if`: the decoded
spikes, ``unit * s``, go into the source's own linear maps, and softmax, rotation, norms of q and k
and the cache are the source's. Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spikeformers.models._converted import decoder_of, encoded
from spikeformers.models._sources import Source
from spikeformers.neurons import TokenIF

if TYPE_CHECKING:
    from spikeformers.models._neurtransformer_config import NeurTransformerConfig


class SpikingInput(nn.Module):
    """``inner`` of its first argument in spikes, which ``weights`` weights of its maps read."""

    def __init__(self, inner: nn.Module, fire: TokenIF, weights: int) -> None:
        super().__init__()
        self.fire, self.inner, self.weights = fire, inner, weights
        self.decode = decoder_of(fire, keeps_step=False)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(encoded(self.fire, self.decode, hidden_states), *args, **kwargs)

    def readers(self) -> dict[str, int]:
        """The number of weights that read the spikes of each of its neuron layers."""
        return {"fire": self.weights}


class SpikingHead(nn.Linear):
    """A language model's head that reads spikes; it keeps the weight of ``dense``, tied or not."""

    def __init__(self, dense: nn.Linear, fire: TokenIF) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.weight, self.bias = dense.weight, dense.bias
        self.fire, self.decode = fire, decoder_of(fire, keeps_step=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(encoded(self.fire, self.decode, hidden_states))

    def readers(self) -> dict[str, int]:
        """The number of weights that read the spikes of its neuron layer."""
        return {"fire": self.weight.numel()}


def neuron_of(config: NeurTransformerConfig, width: int) -> TokenIF:
    """The neurons of ``width`` values with a threshold per token, as ``config`` describes them."""
    return TokenIF(
        width, config.steps, config.token_reach, config.power_of_two_units, config.unrolled
    )


def spiking_attention(
    attention: nn.Module, source: Source, described: Any, config: NeurTransformerConfig
) -> nn.Module:
    """``attention`` of a source, with spikes at the inputs of those of its maps that ``config``
    names; its output map is changed in place.
    """
    shape, maps = source.shape(described), config.maps_of_attention
    heads = shape.heads * shape.head_width
    if "out" in maps:
        out = getattr(attention, source.out)
        fire = neuron_of(config, heads)
        setattr(attention, source.out, SpikingInput(out, fire, heads * shape.width))
    if "qkv" not in maps:
        return attention
    weights = shape.width * (heads + 2 * shape.kv_heads * shape.head_width)
    return SpikingInput(attention, neuron_of(config, shape.width), weights)


def spike_head(model: Any, config: NeurTransformerConfig, fire: TokenIF | None = None) -> None:
    """Make the head of a source model read spikes: of ``fire``, or of new neurons."""
    head = model.get_output_embeddings()
    if fire is None:
        fire = neuron_of(config, head.in_features).to(head.weight.device)
    model.set_output_embeddings(SpikingHead(head, fire))
