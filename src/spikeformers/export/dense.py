"""A dense language model for the engine, to compare a spiking one with on the same kernels.

    embed -> [ Q(Norm(x)) W_qkv -> rotate -> softmax attention -> Q(.) W_o + x
               Q(Norm(x)) W_up -> act -> Q(.) W_down + x ] * layers -> Q(Norm) W_head

With integer weights Q rounds a token's values to whole numbers from -127 to 127 in units of their
largest size / 127, so that products are sums of whole numbers, as in other programs' int8; with
fp32 weights there is no Q. Keys and values are reals (`spikeformers.engine.load_engine`: cache).
Sources: GPT-2 and GPT-NeoX, the dense twins of `spikeformers.models.control_of`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeformers.engine import Description, NormSpec
from spikeformers.export.neurtransformer import MOST_REACH, MOST_TOKEN_STEPS, PLAIN, SourceWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel


def describe(model: PreTrainedModel, weights: str) -> tuple[Description, dict[str, NDArray[Any]]]:
    """Description and tensors of a dense model; ConfigError names what is not supported."""
    return _Dense(model, model, weights).written()


class _Dense(SourceWriter):
    """A dense model being written."""

    def attention_spikes(self, layer: int) -> bool:
        """Never: its attention is the source's softmax."""
        return False

    def feed_forward_spikes(self, layer: int) -> bool:
        """Never."""
        return False

    def kept_input(self, out: str, source: str, size: int) -> str:
        """Whole numbers in units of a token's largest value, in a buffer of their own."""
        return self._rounded(out, source, size, PLAIN)

    def input_of(
        self, out: str, source: str, normed: str, norm: NormSpec, neuron: Any, size: int
    ) -> str:
        """The same behind a norm."""
        if self.pack.weights == "fp32":
            return super().input_of(out, source, normed, norm, neuron, size)
        return self._rounded(out, source, size, norm)

    def _rounded(self, out: str, source: str, size: int, norm: NormSpec) -> str:
        if self.pack.weights == "fp32":
            return source
        self.to.counts(out, size)
        self.to.encode(
            *(source, out, norm),
            steps=MOST_TOKEN_STEPS,  # counts to 127
            reach=float(MOST_REACH),
            dead_zone=0.0,
            power_of_two=False,
        )
        return out
