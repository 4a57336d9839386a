"""The arithmetic that a model really does: operands and verdicts of a traced run.

Every operation of the run that is more than additions and moves is a row: matrix products (in
modules, functional calls, fused kernels, or written as multiplication and sum), softmax,
exponentials, other transcendentals, normalisations, divisions, multiplications, comparisons that
rank (argmax, topk, sort), and any operation that the audit does not know. Its verdict names the
hardware that it needs:

    binary       a product with an operand in {0, u}, u one constant: only an adder
    adder        a product with a ternary or integer operand (signed or repeated additions), a
                 multiplication by spikes, by a power of two (a shift), a comparison
    scale        multiplication or division by numbers fixed before the run; batch norm with fixed
                 statistics. It may fold into neighbouring weights or thresholds (not checked)
    multiplier   a product or multiplication of two reals, division by data, softmax, exponential,
                 a norm by statistics of the data
    silent       a product whose only candidate for spikes was always zero: proves nothing
    unknown      an operation that the audit has no class for

A requirement forbids operations in its scope, "blocks" (modules with a number in their path) or
"model":

    binary          a product that is not binary
    addition-only   a product that is neither binary nor adder
    softmax-free    a softmax (also inside a fused kernel), or an exponential of data
    any of them     an unknown operation
    strict          with binary or addition-only: also elementwise operations that are not adder

All of this is evidence from one run over some tokens, not a proof for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from spikeformers.energy.auditing.recorder import OperationRecorder, Row
from spikeformers.energy.counting.forward_pass import trace_into
from spikeformers.energy.counting.operands import Batch
from spikeformers.energy.counting.trace import Operand, Trace
from spikeformers.errors import ConfigError, DataError, nearest

Requirement = Literal["binary", "addition-only", "softmax-free"]
Scope = Literal["blocks", "model"]
REQUIREMENTS: tuple[Requirement, ...] = get_args(Requirement)
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass
class AuditReport:
    """Rows of a run, in the order of its forward pass."""

    model: str
    tokens: int
    rows: list[Row]
    populations: dict[str, Operand] = field(default_factory=dict)
    """Of layers with several kinds of neurons, by layer and kind, such as ``0.mlp.fire_in.far``:
    how many there are, and how many fired. Their products are those of the layer."""

    def products(self, scope: Scope = "blocks") -> dict[str, Row]:
        """Matrix products by name; where a name has several, the later ones are ``name#2`` ..."""
        by_name: dict[str, Row] = {}
        for row in self.within(scope):
            if row.title == "product":
                number = sum(other.name == row.name for other in by_name.values())
                by_name[f"{row.name}#{number + 1}" if number else row.name] = row
        return by_name

    def within(self, scope: Scope) -> list[Row]:
        """Rows of the blocks, or all rows for the scope "model"."""
        return [row for row in self.rows if scope == "model" or row.layer is not None]

    def failures(
        self, requirement: Requirement, *, scope: Scope = "blocks", strict: bool = False
    ) -> list[Row]:
        """Rows that violate the requirement; empty if it is met.

        ConfigError for a wrong request (``check_request``), and if the scope has no matrix product,
        so that the answer would mean nothing.
        """
        check_request([requirement], scope, strict)
        if not self.products(scope):
            hint = " Blocks are modules with a number in their path; scope model has all modules."
            raise ConfigError(
                f"no matrix product ran in the {scope} of {self.model}, so {requirement} would say "
                f"nothing there.{hint if scope == 'blocks' else ''}"
            )
        return [row for row in self.within(scope) if _falls_short(row, requirement, strict)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``falls_short`` names rows, null for a scope without products."""
        return {
            "model": self.model,
            "tokens": self.tokens,
            "rows": [row.as_dict() for row in self.rows],
            "populations": {
                name: {"size": spikes.size, "fired": spikes.nonzero, **spikes.as_dict()}
                for name, spikes in self.populations.items()
            },
            "falls_short": {
                scope: {
                    requirement: [row.name for row in self.failures(requirement, scope=scope)]
                    for requirement in REQUIREMENTS
                }
                if self.products(scope)
                else None
                for scope in SCOPES
            },
        }


def audit(model: nn.Module, batches: Iterable[Batch]) -> AuditReport:
    """Trace the forward passes over ``batches`` and list their arithmetic.

    A batch is ids ``[B, T]``, ``{"input_ids", "attention_mask"}`` or ``{"pixel_values"}``. Raises
    DataError if there are no tokens.
    """
    recorder = OperationRecorder(model)
    total = Trace()
    for batch in batches:
        total.merge(trace_into(recorder, model, batch))
    if total.tokens == 0:
        raise DataError("there is no token to audit on: give at least one batch of ids.")
    rows = list(recorder.rows.values())
    return AuditReport(type(model).__name__, total.tokens, rows, total.populations)


def check_request(requirements: Sequence[str], scope: str, strict: bool) -> None:
    """ConfigError for an unknown requirement or scope, or for strict where it has no meaning."""
    for requirement in requirements:
        if requirement not in REQUIREMENTS:
            raise ConfigError(
                f"unknown requirement {requirement!r}; known: {', '.join(REQUIREMENTS)}."
                f"{nearest(requirement, REQUIREMENTS)}"
            )
    if scope not in SCOPES:
        raise ConfigError(
            f"unknown scope {scope!r}; known: {', '.join(SCOPES)}.{nearest(scope, SCOPES)}"
        )
    if strict and not {"binary", "addition-only"} & set(requirements):
        raise ConfigError(
            "strict sharpens the requirements binary and addition-only; require one of them."
        )


def _falls_short(row: Row, requirement: Requirement, strict: bool) -> bool:
    if row.verdict == "unknown":
        return True
    if requirement == "softmax-free":
        return row.title in ("softmax", "exponential")
    if row.title == "product":
        return row.verdict not in (("binary",) if requirement == "binary" else ("binary", "adder"))
    return strict and row.verdict != "adder"
