"""The audit of a model folder: what arithmetic it really does, and where it falls short."""

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
    """A report, and which rows fall short of what was required."""

    report: AuditReport
    scope: Scope
    strict: bool
    short: dict[str, list[Row]]
    """Requirement -> rows that fall short of it; empty where it is met."""
    name: str
    """Of the text or the images."""
    unit: str
    facts: dict[str, Any]
    """data, split, sha256, and context (of text)."""

    @property
    def met(self) -> bool:
        """Whether nothing falls short."""
        return not any(self.short.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as ``spikeformers audit --json`` prints them."""
        names = {wanted: [row.name for row in rows] for wanted, rows in self.short.items()}
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
    """Trace a model folder over ``data`` and hold it against what ``require`` names.

    ``strict`` judges elementwise operations too, for binary and addition-only. One sequence or
    image per pass, so that a unit that depends on it is seen to change. Raises ConfigError for an
    unknown requirement or scope; more errors as ``read_input`` and ``spikeformers.audit``.
    """
    wanted = list(dict.fromkeys(require))
    check_request(wanted, scope, strict)
    source = read_input(
        model, data, split=split, tokens=tokens, text_field=text_field, images=images, root=root,
        batch_size=1, progress=progress,
    )  # fmt: skip
    move = None if progress is None else partial(progress, "tracing")
    report = audit(source.model, watched(source.batches, move))
    short: dict[str, list[Row]] = {
        each: report.failures(each, scope=scope, strict=strict and each != "softmax-free")
        for each in wanted
    }
    return AuditStudy(report, scope, strict, short, source.name, source.unit, source.facts)
