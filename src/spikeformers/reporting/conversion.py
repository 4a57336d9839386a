"""What a conversion changed, measured: report.json, pictures, report.html.

The dense original and the spiking model read the same windows; energies are counted by one tracer.
The attention block's energy is its linear maps, scores and values (papers' sum), and, in the fuller
sum, its neurons, softmax, rotations and norms as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.conversion import Plan
from spikeformers.energy import EnergyReport, energy_of
from spikeformers.evaluation import agreement, perplexity
from spikeformers.neurons import Neuron
from spikeformers.progress import Tell, watched
from spikeformers.reporting import conversion_pictures, pictures
from spikeformers.reporting.conversion_page import write_conversion_page
from spikeformers.reporting.gather import windows_of
from spikeformers.reporting.machine import machine, versions
from spikeformers.storage import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data import TokenSplit

ATTENTION = ("attention projections", "attention scores and values")
ENERGY_TOKENS = 2048


def measure_pair(
    spiking: PreTrainedModel,
    original: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: TokenSplit,
    *,
    context: int,
    tokens: int,
    known: Mapping[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Quality, agreement and energy of both models on ``tokens`` of the split.

    ``known`` are the figures of the original, as an earlier call gave them under "original".
    """
    tell = progress or (lambda *_: None)
    energy_windows = windows_of(split, context, min(tokens, ENERGY_TOKENS))

    def one(name: str, model: PreTrainedModel) -> dict[str, Any]:
        quality = perplexity(
            model, tokenizer, split, context=context, stride=context - 1, max_tokens=tokens,
            progress=lambda done, of: tell(f"perplexity, {name}", done, of),
        )  # fmt: skip
        counted = watched(energy_windows, lambda done, of: tell(f"energy, {name}", done, of))
        kept = ("perplexity", "nats_per_token", "bits_per_byte", "tokens")
        figures = {key: quality.as_dict()[key] for key in kept}
        return figures | {"energy": _energy(energy_of(model, counted), model)}

    found = {
        "original": dict(known) if known else one("original", original),
        "spiking": one("spiking", spiking),
    }
    compared = agreement(
        spiking, original, split, context=context, max_tokens=tokens,
        progress=lambda done, of: tell("agreement", done, of),
    )  # fmt: skip
    return found | {"agreement": compared.as_dict(), "context": context}


def _energy(found: EnergyReport, model: PreTrainedModel) -> dict[str, Any]:
    """Picojoules a token by the papers' sum and the fuller one, of all and of attention alone."""
    neurons = block_neurons(found, model, "attn", "attention")
    papers = sum(found.by_component[name].picojoules for name in ATTENTION)
    fuller = sum(found.by_component[name].with_elementwise for name in ATTENTION)
    return {
        "tokens": found.tokens,
        "papers": found.picojoules_per_token,
        "with_elementwise": found.with_elementwise_per_token,
        "attention_papers": papers,
        "attention_with_elementwise": fuller + neurons + _norms(model, found),
        "mlp_papers": found.by_component["mlp"].picojoules,
        "density": found.density,
        "mean_count": _mean([one.mean_count for one in found.neurons.values()]),
        "by_component": {
            name: share.with_elementwise
            for name, share in found.by_component.items()
            if share.with_elementwise
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def block_neurons(found: EnergyReport, model: PreTrainedModel, *parts: str) -> float:
    """Picojoules a token of the neurons whose path has one of ``parts`` in it."""
    modules = dict(model.named_modules())
    total = 0.0
    for name, spikes in found.neurons.items():
        module = modules[name]
        assert isinstance(module, Neuron)
        if any(part in name for part in parts):
            steps = getattr(module, "simulated", 1) if getattr(module, "unrolled", False) else 1
            total += found.prices.of_operations(module.operations(spikes.size, steps))
    return total / found.tokens


def _norms(model: PreTrainedModel, found: EnergyReport) -> float:
    """Picojoules per token of the norms inside spiking attention, as the modules state them."""
    stated = [getattr(module, "norm_operations", None) for module in model.modules()]
    return sum(found.prices.of_operations(operations()) for operations in stated if operations)


def report_conversion(
    out: Path,
    plan: Plan,
    layers: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Any],
    *,
    source: str,
    calibration: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``report.json``, ``report.html`` and ``pictures/`` into ``out``; returns the report."""
    summary: dict[str, Any] = {
        "source": source,
        "source_type": plan.config.source["model_type"] if plan.config.source else "",
        "method": {
            key: getattr(plan.config, key)
            for key in (
                *("ffn", "attention", "wta", "winners", "steps", "code"),
                *("attention_neuron", "ssa_norm", "schedule"),
            )
        },
        "calibration": dict(calibration),
        "plan": [
            {"module": row.module, "was": row.was, "becomes": row.becomes, "method": row.method}
            for row in plan.rows
        ],
        "left_dense": [row.module for row in plan.left_dense],
        "layers": [dict(layer) for layer in layers],
        **measured,
        "machine": machine(),
        "versions": versions(),
        "kinds": {"estimated": ["energy"], "measured": ["everything else"]},
    }
    folder = out / "pictures"
    drawn = {name: folder / f"{name}.png" for name in ("errors", "rates", "energy")}
    conversion_pictures.by_block(drawn["errors"], layers, "relative_error")
    conversion_pictures.rates(drawn["rates"], layers)
    parts = {side: measured[side]["energy"]["by_component"] for side in ("spiking", "original")}
    pictures.energy_by_component(drawn["energy"], parts)
    write_conversion_page(out / "report.html", summary, drawn)
    write_text(out / "report.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary
