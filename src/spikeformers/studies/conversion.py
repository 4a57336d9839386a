"""What a conversion changed: the dense original and the spiking model read the same windows.

Energies are counted by one tracer. The attention block's energy is its linear maps, scores and
values (papers' sum), and, in the fuller sum, its neurons, softmax, rotations and norms as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spikeformers.energy import EnergyReport
from spikeformers.evaluation import agreement
from spikeformers.neurons import neurons_of
from spikeformers.progress import Tell
from spikeformers.studies.quality import ENERGY_TOKENS, measure_model, selected, windows_of_a_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data import TokenSplit

ATTENTION = ("attention projections", "attention scores and values")
QUALITY = ("perplexity", "nats_per_token", "bits_per_byte", "tokens")


def measure_conversion(
    spiking: PreTrainedModel,
    original: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: TokenSplit,
    *,
    context: int,
    tokens: int,
    energy_tokens: int = ENERGY_TOKENS,
    original_figures: Mapping[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Quality and agreement of both models on ``tokens`` of the split, energy on ``energy_tokens``.

    ``original_figures`` are those that an earlier call returned under "original".
    Returns plain values: original and spiking (perplexity, nats_per_token, bits_per_byte, tokens,
    energy), agreement, context.
    """
    tell = progress or (lambda *_: None)

    def side(name: str, model: PreTrainedModel) -> dict[str, Any]:
        figures = measure_model(
            model, tokenizer, split, context=context, stride=context - 1, tokens=tokens,
            energy_tokens=energy_tokens,
            scoring=partial(tell, f"perplexity, {name}"), counting=partial(tell, f"energy, {name}"),
        )  # fmt: skip
        energy = block_energies(figures.energy, model)
        return selected(figures.quality, QUALITY) | {"energy": energy}

    sides = {
        "original": dict(original_figures) if original_figures else side("original", original),
        "spiking": side("spiking", spiking),
    }
    compared = agreement(
        spiking, original, split, context=context, max_tokens=tokens,
        batch_size=windows_of_a_batch(spiking, context), progress=partial(tell, "agreement"),
    )  # fmt: skip
    return sides | {"agreement": compared.as_dict(), "context": context}


def block_energies(report: EnergyReport, model: PreTrainedModel) -> dict[str, Any]:
    """Picojoules per token by the papers' sum and the fuller one, in total and for attention."""
    neurons = block_neurons(report, model, "attn", "attention")
    papers = sum(report.by_component[name].picojoules for name in ATTENTION)
    fuller = sum(report.by_component[name].with_elementwise for name in ATTENTION)
    return {
        "tokens": report.tokens,
        "papers": report.picojoules_per_token,
        "with_elementwise": report.with_elementwise_per_token,
        "attention_papers": papers,
        "attention_with_elementwise": fuller + neurons + _norms(model, report),
        "mlp_papers": report.by_component["mlp"].picojoules,
        "density": report.density,
        "mean_count": _mean([spikes.mean_count for spikes in report.neurons.values()]),
        "by_component": {
            name: share.with_elementwise
            for name, share in report.by_component.items()
            if share.with_elementwise
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def block_neurons(report: EnergyReport, model: PreTrainedModel, *parts: str) -> float:
    """Picojoules per token of the neurons whose path contains one of ``parts``."""
    neurons = neurons_of(model)
    total = 0.0
    for name, spikes in report.neurons.items():
        module = neurons[name]
        if any(part in name for part in parts):
            steps = getattr(module, "simulated", 1) if getattr(module, "unrolled", False) else 1
            total += report.prices.of_operations(module.operations(spikes.size, steps))
    return total / report.tokens


def _norms(model: PreTrainedModel, report: EnergyReport) -> float:
    """Picojoules per token of the norms inside spiking attention, as the modules state them."""
    stated = [getattr(module, "norm_operations", None) for module in model.modules()]
    return sum(report.prices.of_operations(operations()) for operations in stated if operations)
