"""The zero-shot tasks, and the place of each definition in lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence

from spikeformers.errors import ConfigError, nearest

TASKS: dict[str, str] = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "boolq": "super_glue/boolq",
    "headqa_en": "headqa",
    "openbookqa": "openbookqa",
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "winogrande": "winogrande",
    "lambada_openai": "lambada",
    "sciq": "sciq",
    "blimp": "blimp",
    "wsc": "super_glue/wsc",
    "wsc273": "wsc273",
    "copa": "super_glue/copa",
    "social_iqa": "siqa",
    "truthfulqa_mc1": "truthfulqa",
    "truthfulqa_mc2": "truthfulqa",
}
"""Name in the harness -> folder of its definition below ``lm_eval/tasks``."""

ALIASES = {"headqa": "headqa_en", "lambada": "lambada_openai", "siqa": "social_iqa"}

GROUPS: dict[str, tuple[str, ...]] = {
    "question answering": ("arc_easy", "arc_challenge", "boolq", "headqa_en", "openbookqa"),
    "commonsense": ("hellaswag", "piqa", "winogrande"),
}
"""The groups for which arXiv 2604.11321 gives means."""

SUITES: dict[str, tuple[str, ...]] = {
    "paper": tuple(name for names in GROUPS.values() for name in names),
    "truthfulqa": ("truthfulqa_mc1", "truthfulqa_mc2"),
}


def resolve(spec: str | Sequence[str]) -> list[str]:
    """The harness' names for ``"paper,copa"``, each once; ConfigError for an unknown name."""
    names: dict[str, None] = {}
    parts = spec.split(",") if isinstance(spec, str) else spec
    known_names = [*SUITES, *TASKS, *ALIASES]
    for part in (part.strip() for part in parts):
        for name in SUITES.get(part, (ALIASES.get(part, part),)):
            if name not in TASKS and not name.startswith("blimp_"):
                raise ConfigError(
                    f"unknown zero-shot task {part!r}.{nearest(part, known_names)} "
                    f"Known: {', '.join(known_names)}, and blimp's parts as blimp_..."
                )
            names[name] = None
    return list(names)
