"""A conversion's report: report.json, pictures, report.html, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spikeformers.conversion import Plan
from spikeformers.reporting import conversion_pictures, pictures
from spikeformers.reporting.engine_section import engine_section
from spikeformers.reporting.html import Page, Section, pairs, write_page
from spikeformers.storage import write_text
from spikeformers.studies.machine import machine, versions

HEADER = ("", "spiking", "original", "")
LAYER_HEADER = (
    *("module", "relative error", "cosine", "neuron", "clipped", "rate", "density"),
    *("threshold, mean", "smallest", "largest"),
)


def conversion_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(title, spiking, original, "measured" or "estimated") for every figure of a report."""
    spiking, original, agree = summary["spiking"], summary["original"], summary["agreement"]

    def row(title: str, key: str, form: str) -> tuple[str, str, str, str]:
        return (title, form.format(spiking[key]), form.format(original[key]), "measured")

    def energy(title: str, key: str) -> tuple[str, str, str, str]:
        cells = [f"{side['energy'][key] / 1000:,.1f}" for side in (spiking, original)]
        share = spiking["energy"][key] / original["energy"][key]
        name = f"{title}, nJ per token ({share:.3f} of the original's)"
        return (name, *cells, "estimated")  # type: ignore[return-value]

    density, mean_count = (spiking["energy"][key] for key in ("density", "mean_count"))
    return [
        row("perplexity, per token", "perplexity", "{:,.2f}"),
        row("bits per byte", "bits_per_byte", "{:.4f}"),
        ("same most likely token", f"{agree['agreement']:.4f}", "1", "measured"),
        ("cosine of logits", f"{agree['logit_cosine']:.4f}", "1", "measured"),
        ("cosine of last hidden states", f"{agree['hidden_cosine']:.4f}", "1", "measured"),
        ("density of neuron layers", f"{density:.3f}", "-", "measured"),
        ("spikes per output of a neuron layer", f"{mean_count:.2f}", "-", "measured"),
        energy("attention block, papers' sum", "attention_papers"),
        energy("attention block, with elementwise work", "attention_with_elementwise"),
        energy("feed-forward, papers' sum", "mlp_papers"),
        energy("whole model, papers' sum", "papers"),
        energy("whole model, with elementwise work", "with_elementwise"),
    ]


def layer_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per neuron layer of each converted module that was measured."""
    rows = []
    for layer in _measured(summary["layers"]):
        head = (layer["module"], f"{layer['relative_error']:.4f}", f"{layer['cosine']:.4f}")
        for name, neuron in layer["neurons"].items():
            figures = (
                f"{neuron['clipped']:.4f}",
                f"{neuron['rate']:.3f}",
                f"{neuron['density']:.3f}",
                *(f"{neuron[f'threshold_{key}']:.4g}" for key in ("mean", "min", "max")),
            )
            rows.append((*head, name, *figures))
            head = ("", "", "")
    return rows


def _measured(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The modules whose change was measured; without calibration text there are none."""
    return [layer for layer in layers if "relative_error" in layer]


def write_conversion_page(
    path: Path, summary: Mapping[str, Any], drawn: Mapping[str, Path]
) -> None:
    """Write the report; ``drawn`` names the PNG files."""
    spiking, original, method = summary["spiking"], summary["original"], summary["method"]
    change = spiking["perplexity"] / original["perplexity"] - 1
    dense = summary["left_dense"]
    lead = (
        f"{summary['source']} ({summary['source_type']}) converted to spikes: feed-forward "
        f"{method['ffn']}, attention {method['attention']}, T = {method['steps']}. Perplexity "
        f"{original['perplexity']:,.2f} becomes {spiking['perplexity']:,.2f} ({change:+.2%}) on "
        f"{spiking['tokens']:,} tokens; {summary['plan'][-1]['module']} stay real."
    )
    coverage = f"Left dense: {', '.join(dense)}." if dense else "Every block is converted."
    varying = [
        layer["time_varying_error"] for layer in summary["layers"] if "time_varying_error" in layer
    ]
    pipelined = ""
    if varying:
        pipelined = (
            " If the IF neurons received their input step by step (schedule pipelined), the "
            f"feed-forward output would differ by {min(varying):.3f} to {max(varying):.3f}."
        )
    engine = engine_section([path.parent])
    sections = [
        Section("Results", "Both models read the same windows.", HEADER, conversion_rows(summary)),
        Section(
            "Energy",
            "Estimated: events of a real run times 45 nm prices; no memory traffic.",
            pictures=[(drawn["energy"], "Energy by component, elementwise work included.")],
        ),
        _module_section(summary, drawn, f"{coverage}{pipelined}"),
        Section(
            "Plan",
            "",
            ("module", "was", "becomes", "by"),
            [tuple(row.values()) for row in summary["plan"]],
        ),
        Section("Method and calibration", "", (), pairs({**method, **summary["calibration"]})),
        *([engine] if engine else []),
        Section(
            "Machine and versions", "", (), pairs({**summary["machine"], **summary["versions"]})
        ),
    ]
    write_page(path, Page("Conversion into a spiking model", lead, sections))


def _module_section(summary: Mapping[str, Any], drawn: Mapping[str, Path], note: str) -> Section:
    if not _measured(summary["layers"]):
        text = "No module was measured on its own: thresholds per token need no calibration text, "
        return Section("By module", f"{text}and none was given. {note}")
    return Section(
        "By module",
        "On the calibration text. Each module gets the original's activations as input, so that "
        f"errors of earlier blocks are not included. {note}",
        LAYER_HEADER,
        layer_rows(summary),
        pictures=[
            (drawn["errors"], "Relative error of each module's output."),
            (drawn["rates"], "Spikes per neuron pair and step."),
        ],
    )


def report_conversion(
    out: Path,
    plan: Plan,
    layers: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Any],
    dead_zones: Sequence[Mapping[str, Any]] = (),
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
                *("ffn", "attention", "wta", "winners", "weight_digits", "steps", "code"),
                *("attention_neuron", "ssa_norm", "schedule"),
                *("threshold", "token_reach", "power_of_two_units"),
            )
        },
        "calibration": dict(calibration),
        "plan": [
            {"module": row.module, "was": row.was, "becomes": row.becomes, "method": row.method}
            for row in plan.rows
        ],
        "left_dense": [row.module for row in plan.left_dense],
        "layers": [dict(layer) for layer in layers],
        "dead_zones": [dict(place) for place in dead_zones],
        **measured,
        "machine": machine(),
        "versions": versions(),
        "kinds": {"estimated": ["energy"], "measured": ["everything else"]},
    }
    folder = out / "pictures"
    drawn = {name: folder / f"{name}.png" for name in ("errors", "rates", "energy")}
    if measured_layers := _measured(layers):
        conversion_pictures.by_block(drawn["errors"], measured_layers, "relative_error")
        conversion_pictures.rates(drawn["rates"], measured_layers)
    parts = {side: measured[side]["energy"]["by_component"] for side in ("spiking", "original")}
    pictures.energy_by_component(drawn["energy"], parts)
    write_conversion_page(out / "report.html", summary, drawn)
    write_text(out / "report.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary
