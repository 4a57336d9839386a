"""Tables of a training plan, from `spikeformers.studies.planning`. All numbers are estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikeformers.progress import duration
from spikeformers.reporting.tables import Table
from spikeformers.values import bytes_in_words

if TYPE_CHECKING:
    from spikeformers.studies import Plan


def plan_tables(plan: Plan, *, paper: str = "") -> list[Table]:
    """Model and speed, and the memory of one GPU; ``paper`` names the source of the tokens."""
    gpus = f"{plan.gpus} x {plan.gpu}, {plan.strategy}"
    shape = f"{plan.windows} windows of {plan.context:,} tokens per GPU and forward pass"
    goal = f"{plan.tokens:,}{f', {paper}' if paper else ''}" if plan.tokens else "give --tokens"
    speed = [
        ("parameters", f"{plan.parameters:,}"),
        ("GPUs", gpus),
        ("optimiser, precision", f"{plan.optimizer}, {plan.precision}"),
        ("batch", shape),
        ("FLOPs per token", f"{plan.flops_per_token:.3g}"),
        ("assumed MFU", f"{plan.mfu:.2f}"),
        ("tokens per second", _both(*_speeds(plan))),
        ("training tokens", goal),
        ("time", _both(*_times(plan))),
    ]
    memory = [
        ("weights", bytes_in_words(plan.weights)),
        ("gradients", bytes_in_words(plan.gradients)),
        ("optimiser", bytes_in_words(plan.optimiser)),
        ("blocks gathered by FSDP2", bytes_in_words(plan.gathered)),
        ("activations", _both(*_bytes(plan.activations, plan.activations_checkpointed))),
        ("of these, tokens x tokens matrices", bytes_in_words(plan.activations_scores)),
        ("working memory", _both(*_bytes(plan.working, plan.working_checkpointed))),
        (
            "together",
            _both(*_bytes(plan.total(checkpointed=False), plan.total(checkpointed=True))),
        ),
        ("usable on the GPU", bytes_in_words(plan.usable)),
        (
            "most windows that fit",
            _both(f"{plan.most_windows:,}", f"{plan.most_windows_checkpointed:,}"),
        ),
        ("cache of one text in generation", bytes_in_words(plan.cache)),
    ]
    note = "In brackets: with activation checkpointing."
    return [
        Table(f"{plan.preset}, estimated", ("", plan.model_type), speed, note),
        Table("Memory of one GPU, estimated", ("part", "bytes"), memory, note),
    ]


def _both(plain: str, checkpointed: str) -> str:
    return plain if plain == checkpointed else f"{plain} ({checkpointed})"


def _bytes(plain: int, checkpointed: int) -> tuple[str, str]:
    return bytes_in_words(plain), bytes_in_words(checkpointed)


def _speeds(plan: Plan) -> tuple[str, str]:
    return f"{plan.tokens_per_second:,.0f}", f"{plan.tokens_per_second_checkpointed:,.0f}"


def _times(plan: Plan) -> tuple[str, str]:
    if plan.days is None or plan.days_checkpointed is None:
        return "-", "-"
    return _time(plan.days), _time(plan.days_checkpointed)


def _time(days: float) -> str:
    return f"{days:,.1f} days" if days >= 1 else duration(days * 86400)
