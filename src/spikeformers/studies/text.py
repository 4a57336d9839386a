"""Perplexity of a model folder on a text, and its agreement with another model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from spikeformers.data import load_corpus
from spikeformers.errors import ConfigError
from spikeformers.evaluation import (
    AgreementReport,
    PerplexityReport,
    agreement,
    context_of,
    perplexity,
)
from spikeformers.models import load_model, load_reference
from spikeformers.progress import Tell
from spikeformers.studies.model_input import read_split


class Report(Protocol):
    """Figures with plain values for JSON."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""


ReportT = TypeVar("ReportT", bound=Report)


@dataclass(frozen=True)
class TextStudy(Generic[ReportT]):
    """A report, with its model and text."""

    report: ReportT
    name: str
    """Of the text."""
    facts: dict[str, Any]
    """model, reference (of an agreement), data, split, sha256 of the text."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as the verbs of ``spikeformers evaluate`` print them."""
        return self.report.as_dict() | self.facts


def evaluate_perplexity(
    model: str | Path,
    data: str,
    *,
    split: str = "validation",
    context: int | None = None,
    stride: int | None = None,
    tokens: int | None = None,
    batch_size: int = 8,
    text_field: str = "text",
    progress: Tell | None = None,
) -> TextStudy[PerplexityReport]:
    """Perplexity of a model folder on ``tokens`` (default: all) of a text.

    ``data`` and ``text_field`` as ``load_corpus``; the rest, and errors, as ``perplexity`` and
    ``load_model``. ``progress`` receives the stages.
    """
    tell = progress or (lambda *_: None)
    loaded, tokenizer = load_model(model)
    corpus = load_corpus(data, text_field=text_field)
    part = read_split(corpus, tokenizer, split, tell)
    report = perplexity(
        loaded, tokenizer, part, context=context, stride=stride, max_tokens=tokens,
        batch_size=batch_size, progress=partial(tell, "scoring"),
    )  # fmt: skip
    facts = {"model": str(model), "data": data, "split": split, "sha256": corpus.digest}
    return TextStudy(report, corpus.name, facts)


def evaluate_agreement(
    model: str | Path,
    reference: str | Path,
    data: str,
    *,
    gguf_file: str = "",
    split: str = "validation",
    context: int | None = None,
    tokens: int | None = None,
    batch_size: int = 8,
    text_field: str = "text",
    progress: Tell | None = None,
) -> TextStudy[AgreementReport]:
    """Agreement of a causal model with a ``reference`` of the same tokenizer, such as its teacher.

    Both are folders or names on the hub; ``gguf_file`` is the reference's. Raises ConfigError
    if the tokenizers differ; more errors as ``agreement`` and ``load_reference``.
    """
    tell = progress or (lambda *_: None)
    loaded, tokenizer = load_reference(str(model))
    other, other_tokenizer = load_reference(str(reference), gguf_file=gguf_file)
    if tokenizer.get_vocab() != other_tokenizer.get_vocab():
        raise ConfigError(
            f"{model} and {reference} have different tokenizers: they cannot be compared token "
            "by token."
        )
    corpus = load_corpus(data, text_field=text_field)
    report = agreement(
        loaded, other, read_split(corpus, tokenizer, split, tell),
        context=context_of(loaded) if context is None else context,
        max_tokens=tokens, batch_size=batch_size, progress=partial(tell, "comparing"),
    )  # fmt: skip
    facts = {"model": str(model), "reference": str(reference), "data": data, "split": split}
    return TextStudy(report, corpus.name, facts | {"sha256": corpus.digest})
