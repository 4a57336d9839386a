"""The tables and the page of a spiking model beside its dense twin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.progress import Tell
from spikeformers.reporting import pictures
from spikeformers.reporting.html import Page, Section, pairs, write_page
from spikeformers.storage import write_text

if TYPE_CHECKING:
    from spikeformers.studies.pair import PairStudy

ROWS = (
    ("validation bits per byte", "bits_per_byte", "{:.3f}", "measured"),
    ("validation perplexity, per token", "perplexity", "{:,.1f}", "measured"),
    ("firing density", "density", "{:.3f}", "measured"),
    ("energy, matrix products, nJ per token", "energy_pj_per_token", "{:,.1f}", "estimated"),
    (
        "energy with elementwise work, nJ per token",
        "energy_with_elementwise_pj_per_token",
        "{:,.1f}",
        "estimated",
    ),
    ("share of weights read per token", "weights_read", "{:.3f}", "measured"),
    ("parameters", "parameters", "{:,}", ""),
    ("training tokens seen", "tokens_seen", "{:,}", ""),
    ("training time, s", "train_seconds", "{:,.1f}", "measured"),
    ("training speed, tokens/s", "tokens_per_second", "{:,.0f}", "measured"),
    (
        "generation speed in PyTorch, tokens/s",
        "generation_tokens_per_second",
        "{:,.0f}",
        "measured",
    ),
)
HEADER = ("", "spiking", "dense twin", "")


def report_pair(
    out: Path,
    study: PairStudy,
    progress: Tell | None = None,
    engine: Section | None = None,
) -> dict[str, Any]:
    """Write pictures, report.html, then summary.json into ``out``; returns the summary.

    ``engine`` says how to run the spiking model in the engine.
    """
    if progress is not None:
        progress("drawing", 0, None)
    drawn = _draw(out / "pictures", study)
    write_pair_page(out / "report.html", study.summary, drawn, engine)
    content = json.dumps(study.summary, indent=2, ensure_ascii=False)
    write_text(out / "summary.json", content + "\n")
    return study.summary


def _draw(folder: Path, study: PairStudy) -> dict[str, Path]:
    """Draw all pictures; PNG files by name."""
    files = ("loss", "density", "raster", "attention", "energy")
    drawn = {name: folder / f"{name}.png" for name in files}
    pictures.loss_curves(drawn["loss"], study.curves)
    pictures.density_by_layer(drawn["density"], study.densities, study.outside)
    raster = study.raster
    pictures.spike_raster(drawn["raster"], raster.spikes, raster.tokens, raster.levels)
    pictures.attention_map(drawn["attention"], study.weights, study.sentence)
    pictures.energy_by_component(drawn["energy"], study.energies)
    return drawn


def pair_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(title, spiking, dense twin, "measured" or "estimated") for every figure of a summary."""
    rows = []
    for title, key, form, kind in ROWS:
        cells = []
        for side in ("spiking", "control"):
            value = summary[side].get(key)
            if value is not None and "nJ" in title:
                value /= 1000
            cells.append("-" if value is None else form.format(value))
        rows.append((title, cells[0], cells[1], kind))
    engine = summary.get("engine", {"absent": ""})
    if "absent" in engine:
        return rows
    title = f"generation speed, engine ({engine['weights']}), tokens/s"
    return [*rows, (title, f"{engine['generation_tokens_per_second']:,.0f}", "-", "measured")]


def engine_note(summary: Mapping[str, Any]) -> str:
    """The engine's speed, or why it did not run; empty if it was not requested."""
    engine = summary.get("engine", {"absent": ""})
    if "absent" in engine:
        return f"The engine did not run: {engine['absent']}" if engine["absent"] else ""
    speed = engine["generation_tokens_per_second"]
    spiking, twin = (summary[s]["generation_tokens_per_second"] for s in ("spiking", "control"))
    return (
        "PyTorch also multiplies by zeros. The engine reads only weights of neurons that fire: "
        f"{speed:,.0f} "
        f"tokens per second, {speed / spiking:,.1f} times the spiking model in PyTorch and "
        f"{speed / twin:,.1f} times the dense twin there ({engine['weights']} weights beside fp32, "
        f"{engine['threads']} thread(s), the systems took turns; measured)."
    )


def write_pair_page(
    path: Path,
    summary: Mapping[str, Any],
    drawn: Mapping[str, Path],
    engine: Section | None = None,
) -> None:
    """Write the report of a pair; ``drawn`` names the PNG files of `report_pair`."""
    spiking, control, corpus = summary["spiking"], summary["control"], summary["corpus"]
    gap = spiking["bits_per_byte"] - control["bits_per_byte"]
    share = spiking["energy_pj_per_token"] / control["energy_pj_per_token"]
    lead = (
        f"A {spiking['model_type']} of {spiking['parameters']:,} parameters beside its dense twin "
        f"({control['model_type']}), trained on the same {spiking['tokens_seen']:,} tokens in the "
        f"same order, seed {summary['seed']}. On validation text it needs "
        f"{spiking['bits_per_byte']:.3f} bits per byte where the twin needs "
        f"{control['bits_per_byte']:.3f} ({gap:+.3f}). It fires at a density of "
        f"{spiking['density']:.2f}, and by the papers' sum its matrix products take "
        f"{share:.3f} of the twin's energy (estimated)."
    )
    where = {
        **summary["machine"],
        **summary["versions"],
        "text": f"{corpus['name']}: {corpus['split_by']}",
        "sha256 of the text": corpus["sha256"],
        "tokens": ", ".join(f"{name} {count:,}" for name, count in summary["tokens"].items()),
        "evaluation": f"sliding window of {spiking['context']} tokens, stride {spiking['stride']}, "
        f"{spiking['evaluated_tokens']:,} tokens",
    }
    sections = [
        Section("Results", text=engine_note(summary), header=HEADER, rows=pair_rows(summary)),
        Section(
            "Training",
            pictures=[(drawn["loss"], "Loss of both models over the tokens they saw (measured).")],
        ),
        Section(
            "Spikes",
            text="Density is the share of a neuron layer's outputs that are not zero, on "
            "validation text. The rasters show up to 64 evenly spaced units per layer of one "
            "block.",
            pictures=[
                (drawn["density"], "Firing density of every neuron layer (measured)."),
                (drawn["raster"], "Spikes of one block while it reads one sentence (measured)."),
                (
                    drawn["attention"],
                    "Attention in the same sentence: how many heads of a block chose each earlier "
                    "token, or how much weight they gave it together. Spaces are shown as dots "
                    "(measured).",
                ),
            ],
        ),
        Section(
            "Energy",
            text="Every figure here is estimated: events were counted in a real run on validation "
            "text and multiplied by the 45 nm prices of Horowitz, ISSCC 2014 (4.6 pJ per "
            "multiply-accumulate, 0.9 pJ per accumulate). Nothing was metered. Moving data is "
            "not included, and a CPU or GPU would not skip the zeros.",
            pictures=[
                (
                    drawn["energy"],
                    "Energy by component, elementwise work such as norms and comparisons "
                    "included (estimated).",
                )
            ],
        ),
        Section(
            "Samples",
            text="Sampled with the same seed from the same prompt, which is printed in bold.",
            samples=[
                ("spiking", summary["prompt"], spiking["sample"]),
                ("dense twin", summary["prompt"], control["sample"]),
            ],
        ),
        *([engine] if engine else []),
        Section("Machine and versions", rows=pairs(where)),
    ]
    write_page(path, Page("A spiking language model beside its dense twin", lead, sections))
