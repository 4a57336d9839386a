"""Tables of ``spikeformers evaluate``: perplexity, agreement, images, tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spikeformers.reporting.tables import Table, dash

if TYPE_CHECKING:
    from spikeformers.evaluation import AgreementReport, PerplexityReport
    from spikeformers.evaluation.zeroshot import TaskReport
    from spikeformers.studies.images import ImageStudy
    from spikeformers.studies.text import TextStudy

SENSIBLE = 100_000  # a perplexity per word above the number of words has no meaning
QUALITIES = {
    "bits_per_byte": ("bits per byte", "{:.4f}"),
    "perplexity": ("perplexity per token", "{:,.2f}"),
    "word_perplexity": ("perplexity per word", "{:,.2f}"),
    "nats_per_token": ("loss, nats per token", "{:.4f}"),
    "masked_loss": ("loss, nats per masked token", "{:.4f}"),
    "masked_perplexity": ("perplexity per masked token", "{:,.2f}"),
    "masked_accuracy": ("accuracy on masked tokens", "{:.4f}"),
}
RULES = {
    "truncated": "inputs truncated at the left to fit",
    "split": "options longer than the context, scored in windows",
    "merged": "options joined with their context by the tokenizer",
    "unaligned": "options encoded by themselves",
}


def perplexity_table(study: TextStudy[PerplexityReport]) -> Table:
    """All figures of a causal or masked model, without a meaningless perplexity per word."""
    report, figures = study.report, study.report.as_dict()
    rows = [
        (title, form.format(figures[key]))
        for key, (title, form) in QUALITIES.items()
        if figures[key] is not None and (key != "word_perplexity" or figures[key] < SENSIBLE)
    ]
    sizes = f"{report.tokens:,} tokens, {report.words:,} words, {report.bytes:,} bytes"
    rows += [("text", f"{study.name}, {study.facts['split']}: {sizes}")]
    rows += [("window", f"{report.context} tokens, stride {report.stride}")]
    return Table("", (study.facts["model"], report.kind), rows)


def agreement_table(study: TextStudy[AgreementReport]) -> Table:
    """Shares, divergence and cosines."""
    report = study.report
    hidden = "widths differ" if report.hidden_cosine is None else f"{report.hidden_cosine:.4f}"
    rows = [
        ("same most likely token", f"{report.agreement:.4f} of tokens"),
        ("KL from the reference", f"{report.kl:.4f} nats per token"),
        ("cosine of logits less their mean", f"{report.cosine:.4f}"),
        ("cosine of logits", f"{report.logit_cosine:.4f}"),
        ("cosine of last hidden states", hidden),
        ("text", f"{study.name}, {study.facts['split']}: {report.tokens:,} tokens"),
        ("window", f"{report.context} tokens"),
    ]
    return Table("", (study.facts["model"], study.facts["reference"]), rows)


def image_tables(study: ImageStudy) -> list[Table]:
    """Figures, accuracy per class and, if the model has Q, K and V, their entropy."""
    report = study.report
    rows = [
        ("accuracy", f"{report.accuracy:.4f}"),
        ("loss, nats per image", f"{report.loss:.4f}"),
        ("images", f"{report.images:,} of {study.name}, {study.facts['split']}"),
    ]
    if study.energy is not None and study.energy.density is not None:
        rows.append(("firing density", f"{study.energy.density:.3f}"))
    if study.skipped:
        rows.append(("skipped", f"{len(study.skipped)}: {', '.join(list(study.skipped)[:8])}"))
    classes = [(name, dash(share)) for name, share in report.per_class.items()]
    tables = [
        Table("Figures (measured)", (study.facts["model"], ""), rows),
        Table("By class", ("class", "accuracy"), classes),
    ]
    bits = [
        (str(e.layer + 1), e.role, e.kind, f"{e.bits:.3f}", f"{e.ceiling:.3f}")
        for e in study.entropies
    ]
    if bits:
        heads = ("block", "of", "values", "bits", "ceiling")
        tables.append(Table("Entropy of Q, K and V, bits per value (measured)", heads, bits))
    return tables


def task_tables(
    model: str, reports: Sequence[TaskReport], means: Mapping[str, Mapping[str, Any]]
) -> list[Table]:
    """Scores per task, and the means of complete groups."""
    limit = reports[0].limit
    title = model if limit is None else f"{model}, the first {limit:,} documents of each task"
    shown: tuple[tuple[str, str, Mapping[str, Mapping[str, Any]]], ...] = (
        (title, "task", {report.task: report.metrics for report in reports}),
        ("Means of acc_norm, or of acc for tasks without it", "group", means),
    )
    return [
        Table(
            title,
            (kind, "metric", "score ± stderr", "chance", "majority", ""),
            [
                (name, metric, *_score(score))
                for name, metrics in scores.items()
                for metric, score in metrics.items()
            ],
        )
        for title, kind, scores in shown
        if scores
    ]


def _score(score: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{dash(score['value'])} ± {score['stderr']:.4f}",
        *(dash(score.get(key)) for key in ("chance", "majority")),
        "at chance" if score.get("at_chance") else "",
    )


def task_remarks(reports: Sequence[TaskReport]) -> list[str]:
    """Remarks on the scores: another split than defined, inputs that did not fit."""
    lines = []
    for report in reports:
        if report.split != report.official_split:
            lines.append(
                f"{report.task}: the {report.split} split; the definition scores "
                f"{report.official_split}, which the folder does not contain."
            )
        remarks = [f"{count:,} {RULES[rule]}" for rule, count in report.rules.items()]
        if remarks:
            lines.append(f"{report.task}: of {report.requests:,} requests {'; '.join(remarks)}.")
    return lines
