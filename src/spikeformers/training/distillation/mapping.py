"""The teacher layer that each student layer learns from, and the sizes that need a projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spikeformers.errors import ConfigError
from spikeformers.training.distillation.config import SpADConfig


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a language model."""

    layers: int
    heads: int
    width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> ModelSizes:
        """The sizes in a Transformers config; a model without heads has 0 heads."""
        text = config.get_text_config()
        heads = getattr(text, "num_attention_heads", None) or 0
        return cls(text.num_hidden_layers, heads, text.hidden_size, text.vocab_size)


@dataclass(frozen=True)
class Alignment:
    """Sizes of student and teacher; ``layers`` are pairs (student, teacher), from 1."""

    student: ModelSizes
    teacher: ModelSizes
    layers: tuple[tuple[int, int], ...]

    def describe(self, spad: SpADConfig) -> list[str]:
        """One line per mapping or projection of an active term."""
        s, t = self.student, self.teacher
        lines = []
        if "ea" in spad.active:
            lines.append(f"ea: width {s.width}" + _arrow(t.width, s.width, "linear"))
        pairs = ", ".join(f"{student}->{teacher}" for student, teacher in self.layers)
        if "saa" in spad.active or "sfa" in spad.active:
            lines.append(f"layers, student->teacher: {pairs} (of {s.layers} and {t.layers})")
        if "saa" in spad.active:
            lines.append(f"saa: heads {s.heads}" + _arrow(t.heads, s.heads, spad.saa_heads))
        if "sfa" in spad.active:
            hidden = spad.sfa_hidden or t.width
            projected = spad.sfa_project_always or s.width != t.width
            lines.append(
                f"sfa: width {s.width}"
                + (f" -> {hidden} -> {t.width} (MLP, LayerNorm)" if projected else " on both sides")
            )
        return lines


def align(student: ModelSizes, teacher: ModelSizes, spad: SpADConfig) -> Alignment:
    """Pair the layers; ``ConfigError`` for different vocabularies, or a map that does not fit."""
    if student.vocabulary != teacher.vocabulary:
        raise ConfigError(
            f"The student has a vocabulary of {student.vocabulary} and the teacher one of "
            f"{teacher.vocabulary}; soft targets compare them token by token. Build the student "
            "with the teacher's tokenizer and vocab_size."
        )
    if "saa" in spad.active and not teacher.heads:
        raise ConfigError("The teacher has no attention heads: leave out saa.")
    depth = student.layers
    if not spad.layer_map:  # ceil: every student layer has one; the last has the teacher's last
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


def _arrow(teacher: int, student: int, how: str) -> str:
    return f" -> {teacher} ({how})" if teacher != student else " on both sides"
