"""Which teacher layer each student layer learns from, and where shapes have to be projected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spikeformers.errors import ConfigError
from spikeformers.training.distillation.config import SpADConfig


@dataclass(frozen=True)
class Shape:
    """Sizes of a language model."""

    layers: int
    heads: int
    width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """What a Transformers config says; a model without heads has 0."""
        text = config.get_text_config()
        heads = getattr(text, "num_attention_heads", None) or 0
        return cls(text.num_hidden_layers, heads, text.hidden_size, text.vocab_size)


@dataclass(frozen=True)
class Alignment:
    """Student and teacher side by side; ``layers`` are pairs (student, teacher), from 1."""

    student: Shape
    teacher: Shape
    layers: tuple[tuple[int, int], ...]

    def describe(self, spad: SpADConfig) -> list[str]:
        """A line for each thing that is mapped or projected by an active term."""
        s, t = self.student, self.teacher
        told = []
        if "ea" in spad.active:
            told.append(f"ea: width {s.width}" + _arrow(t.width, s.width, "linear"))
        pairs = ", ".join(f"{one}->{other}" for one, other in self.layers)
        if "saa" in spad.active or "sfa" in spad.active:
            told.append(f"layers, student->teacher: {pairs} (of {s.layers} and {t.layers})")
        if "saa" in spad.active:
            told.append(f"saa: heads {s.heads}" + _arrow(t.heads, s.heads, spad.saa_heads))
        if "sfa" in spad.active:
            hidden = spad.sfa_hidden or t.width
            projected = spad.sfa_project_always or s.width != t.width
            told.append(
                f"sfa: width {s.width}"
                + (f" -> {hidden} -> {t.width} (MLP, LayerNorm)" if projected else " on both sides")
            )
        return told


def align(student: Shape, teacher: Shape, spad: SpADConfig) -> Alignment:
    """Pair the layers; ``ConfigError`` for another vocabulary, or a map that does not fit."""
    if student.vocabulary != teacher.vocabulary:
        raise ConfigError(
            f"The student has a vocabulary of {student.vocabulary} and the teacher one of "
            f"{teacher.vocabulary}; soft targets compare them token by token. Build the student "
            "with the teacher's tokenizer and vocab_size."
        )
    if "saa" in spad.active and not teacher.heads:
        raise ConfigError("The teacher has no attention heads: leave out saa.")
    depth = student.layers
    if not spad.layer_map:  # ceil: every student layer has one, and the last has the last
        chosen = [-(-layer * teacher.layers // depth) for layer in range(1, depth + 1)]
    else:
        chosen = list(spad.layer_map)
    if len(chosen) != depth or max(chosen) > teacher.layers or not any(chosen):
        raise ConfigError(
            f"layer_map is {chosen}; it must name a teacher layer from 1 to {teacher.layers}, or "
            f"0, for each of the student's {depth} layers, and not only 0."
        )
    pairs = tuple((layer, of) for layer, of in enumerate(chosen, 1) if of)
    return Alignment(student, teacher, pairs)


def _arrow(wanted: int, had: int, how: str) -> str:
    return f" -> {wanted} ({how})" if wanted != had else " on both sides"
