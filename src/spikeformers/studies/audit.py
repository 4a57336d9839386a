"""The audit of a model folder: which arithmetic it really does, and which requirements it meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spikeformers.energy import AuditReport, Row, audit, check_request
from spikeformers.energy.auditing.audit import Requirement, Scope
from spikeformers.progress import Tell, watched
from spikeformers.studies.model_input import read_input


@dataclass(frozen=True)
class AuditStudy:
    """A report, and the rows that violate a requirement."""

    report: AuditReport
    scope: Scope
    strict: bool
    short: dict[str, list[Row]]
    """Requirement -> rows that violate it; empty if it is met."""
    name: str
    """Name of the text or the images."""
    unit: str
    facts: dict[str, Any]
    """data, split, sha256, and context (of text)."""

    @property
    def met(self) -> bool:
        """Whether every requirement is met."""
        return not any(self.short.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as ``spikeformers audit --json`` prints them."""
        names = {
            requirement: [row.name for row in rows] for requirement, rows in self.short.items()
        }
        required = {"scope": self.scope, "strict": self.strict, **names}
        return self.report.as_dict() | {"required": required, **self.facts}


def audit_folder(
    model: str | Path,
    data: str,
    *,
    require: Sequence[Requirement] = (),
    scope: Scope = "blocks",
    strict: bool = False,
    split: str = "validation",
    tokens: int = 2048,
    text_field: str = "text",
    images: int = 8,
    root: str = "",
    progress: Tell | None = None,
) -> AuditStudy:
    """Trace a model folder over ``data`` and check it against ``require``.

    ``strict`` checks elementwise operations too, for binary and addition-only. Each pass has one
    sequence or image, so that a spike value that depends on it is recognised. Raises ConfigError
    for an unknown requirement or scope; more errors as ``read_input`` and ``spikeformers.audit``.
    """
    requirements = list(dict.fromkeys(require))
    check_request(requirements, scope, strict)
    source = read_input(
        model, data, split=split, tokens=tokens, text_field=text_field, images=images, root=root,
        batch_size=1, progress=progress,
    )  # fmt: skip
    move = None if progress is None else partial(progress, "tracing")
    report = audit(source.model, watched(source.batches, move))
    short: dict[str, list[Row]] = {
        requirement: report.failures(
            requirement, scope=scope, strict=strict and requirement != "softmax-free"
        )
        for requirement in requirements
    }
    return AuditStudy(report, scope, strict, short, source.name, source.unit, source.facts)
