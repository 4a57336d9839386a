"""The report of an image classifier: accuracy, curves, entropy of Q, K and V, as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from spikeformers.reporting._style import CYCLE, GREY, SPIKING, drawing
from spikeformers.reporting.engine_section import engine_section
from spikeformers.reporting.evaluation_tables import image_tables
from spikeformers.reporting.html import Page, Section, pairs, write_page
from spikeformers.studies.machine import machine, versions

if TYPE_CHECKING:
    from spikeformers.evaluation import Entropy, VisionReport
    from spikeformers.studies.images import ImageStudy

TITLES = {"query": "Q", "key": "K", "value": "V"}


def entropy_picture(path: Path, entropies: Sequence[Entropy]) -> None:
    """Bars of measured bits per value by layer and role, each with its ceiling."""
    layers = sorted({entropy.layer for entropy in entropies})
    roles = [role for role in TITLES if any(entropy.role == role for entropy in entropies)]
    width = 0.8 / max(1, len(roles))
    with drawing(path, max(7.2, 1.1 * len(layers) + 3), 4.2) as figure:
        axes = figure.subplots()
        for place, role in enumerate(roles):
            by_layer = {entropy.layer: entropy for entropy in entropies if entropy.role == role}
            at = [i + (place - (len(roles) - 1) / 2) * width for i, _ in enumerate(layers)]
            ordered = [by_layer[layer] for layer in layers]
            label = f"{TITLES[role]}, {ordered[0].kind}"
            bits = [entropy.bits for entropy in ordered]
            axes.bar(at, bits, width * 0.9, color=CYCLE[place], label=label)
            for x, entropy in zip(at, ordered, strict=True):
                axes.plot(
                    [x - width / 2, x + width / 2], [entropy.ceiling] * 2, color=GREY, linewidth=2
                )
                axes.text(
                    x,
                    entropy.ceiling,
                    f"{entropy.ceiling:.2f}",
                    ha="center",
                    va="bottom",
                    fontsize=7,
                )
        axes.set_xticks(range(len(layers)), [str(layer + 1) for layer in layers])
        axes.set_xlabel("block")
        axes.set_ylabel("bits per value")
        axes.set_title("Entropy of Q, K and V, measured; lines are the ceilings")
        axes.grid(axis="x", visible=False)
        axes.set_ylim(0, max(entropy.ceiling for entropy in entropies) * 1.12)
        figure.legend(loc="outside right upper")


def accuracy_curve(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Validation accuracy over the images seen in training."""
    validations = [line for line in lines if line["kind"] == "validation" and "accuracy" in line]
    with drawing(path, 7.2, 3.8) as figure:
        axes = figure.subplots()
        seen = [line["images_seen"] for line in validations]
        axes.plot(seen, [line["accuracy"] for line in validations], color=SPIKING, marker="o")
        axes.set_xlabel("training images seen")
        axes.set_ylabel("accuracy on validation images")
        axes.set_title("Validation accuracy while training")
        axes.set_ylim(top=1.0)
        axes.set_xlim(left=0)


def gradient_norms(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Gradient norms of the Q, K and V projections, one panel per role, one line per block."""
    logged = [line for line in lines if line.get("grad_norm_by_projection")]
    names = [name for name in logged[0]["grad_norm_by_projection"] if ".attention." in name]
    with drawing(path, 9.0, 3.4) as figure:
        grid = figure.subplots(1, len(TITLES), sharey=True)
        for axes, (role, title) in zip(grid, TITLES.items(), strict=True):
            for place, name in enumerate(n for n in names if n.endswith(f".{role}")):
                values = [line["grad_norm_by_projection"][name] for line in logged]
                colour = CYCLE[place % len(CYCLE)]
                axes.plot([line["step"] for line in logged], values, color=colour, linewidth=1)
            axes.set_yscale("log")
            axes.set_title(f"projection of {title}")
            axes.set_xlabel("step")
        grid[0].set_ylabel("norm of the gradient")


def confusion_picture(path: Path, report: VisionReport) -> None:
    """Images by true and predicted class; the correct ones on the diagonal stay grey."""
    wrong = np.array(report.confusion, dtype=float)
    np.fill_diagonal(wrong, np.nan)
    names = list(report.per_class)
    side = min(11.0, 3.2 + 0.34 * len(names))
    with drawing(path, side + 1, side) as figure:
        axes = figure.subplots()
        image = axes.imshow(wrong, cmap="Blues", vmin=0)
        axes.set_facecolor("#DDDDDD")
        axes.grid(visible=False)
        if len(names) <= 25:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title("Mistakes")
        figure.colorbar(image, ax=axes, shrink=0.6, ticks=MaxNLocator(5, integer=True))


def write_image_page(path: Path, study: ImageStudy) -> None:
    """Write ``path`` and, beside it, a folder of pictures."""
    pictures = path.parent / f"{path.stem}-pictures"
    report, entropies, lines = study.report, study.entropies, study.journal
    figures, classes, *entropy = image_tables(study)
    sections = [Section("Results", "Measured on these images.", figures.columns, figures.rows)]
    drawn = []
    if any(line["kind"] == "validation" for line in lines):
        accuracy_curve(pictures / "accuracy.png", lines)
        drawn.append((pictures / "accuracy.png", "Validation accuracy over training images seen."))
    confusion_picture(pictures / "confusion.png", report)
    drawn.append((pictures / "confusion.png", "Which classes are confused with which."))
    sections.append(Section("Accuracy", pictures=drawn))
    for table in entropy:
        entropy_picture(pictures / "entropy.png", entropies)
        shown = [(pictures / "entropy.png", "Entropy of Q, K and V on these images.")]
        sections.append(Section.of(table, CEILINGS, pictures=shown))
    if any(
        ".attention." in name for line in lines for name in line.get("grad_norm_by_projection", ())
    ):
        gradient_norms(pictures / "gradients.png", lines)
        shown = [(pictures / "gradients.png", "A projection whose line is at zero never learned.")]
        sections.append(Section("Do Q, K and V learn?", pictures=shown))
    sections.append(Section.of(classes))
    sections.append(Section("What was run", "", (), _facts(study)))
    if engine := engine_section([study.folder]):
        sections.append(engine)
    sections.append(Section("Machine and versions", rows=pairs({**machine(), **versions()})))
    lead = f"{report.accuracy:.2%} of {report.images:,} images."
    write_page(path, Page(f"Images: {study.folder.name}", lead, sections))


CEILINGS = (
    "A binary value carries at most 1 bit, a ternary one log2 3 = 1.585, a real one its own width "
    "(A2OS2A, Proposition 1). Real values are counted in 256 bins and zero, so that their ceiling "
    "here is log2 257."
)


def _facts(study: ImageStudy) -> list[tuple[str, str]]:
    """Model and data, and the energy if events were counted."""
    facts = {
        "model": str(study.folder),
        "images": f"{study.name}, {study.facts['split']}; {study.split_by}",
        "sha256": str(study.facts["sha256"]),
    }
    if study.energy is not None:
        products = study.energy.picojoules_per_token
        with_elementwise = study.energy.with_elementwise_per_token
        facts |= {
            "energy of the products, nJ per image (estimated)": f"{products / 1000:,.1f}",
            "with elementwise work, nJ per image (estimated)": f"{with_elementwise / 1000:,.1f}",
        }
    return list(facts.items())
