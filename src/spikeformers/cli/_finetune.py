"""From the options of `finetune-attention`, or an earlier run's ``run.json``, to what trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.cli._output import tokenize
from spikeformers.cli._resumed import (
    REQUEST,
    TEXT,
    VERB,
    read_record,
    refuse_another_verb,
    verb_of,
)
from spikeformers.cli._run import Run
from spikeformers.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from spikeformers.training.task import Task

NAME = "finetune-attention"
DEFAULTS: dict[str, Any] = {
    "steps": 1000,
    "batch_size": 16,
    "learning_rate": 5e-4,
    "weight_decay": 0.0,
    "eval_every": 100,
    "save_every": 100,
}
"""Where fine-tuning departs from ``TrainConfig``. Unspecified by the paper."""
ASKED: dict[str, Any] = {
    **TEXT,
    **{"model": str, "text_field": str, "part": str, "teacher": str, "gguf_file": str},
    **{"kd": float, "tau": float},
}
"""What a run's record says of the options, beside what older releases did not have."""


@dataclass(frozen=True)
class Tuning:
    """The options; ``teacher`` empty means the language model's loss alone."""

    model: str
    out: Path
    data: str
    text_field: str
    part: str
    teacher: str
    gguf_file: str
    kd: float = 0.5
    tau: float = 2.0
    train: dict[str, Any] = field(default_factory=dict)
    teacher_dtype: str = "auto"
    transfer: bool = False


def prepare(asked: Tuning) -> tuple[Run, Task]:
    """Load model, text and teacher, and freeze what is not trained. Raises ``UsageError``."""
    from spikeformers.data import load_corpus
    from spikeformers.evaluation import context_of
    from spikeformers.models import load_model
    from spikeformers.models.reference import load_reference
    from spikeformers.training import TrainConfig
    from spikeformers.training.transfer import AttentionTransfer
    from spikeformers.training.tune_converted import DistilledTuning, FineTuning, train_only

    if not asked.data:
        raise UsageError("no text was named. Give --data: builtin, a file, a folder ...")
    if asked.transfer and not asked.teacher:
        raise UsageError("--transfer learns from the dense original: name it with --teacher.")
    if asked.transfer and asked.part != "attention":
        raise UsageError(
            f"--transfer trains the attention alone, not {asked.part}; use --train in a second run."
        )
    if asked.transfer and (asked.kd, asked.tau) != (Tuning.kd, Tuning.tau):
        raise UsageError("--kd and --tau weigh the teacher's probabilities; --transfer reads none.")
    values = DEFAULTS | asked.train
    TrainConfig.from_dict(values)  # before anything is read
    corpus = load_corpus(asked.data, text_field=asked.text_field)
    model, tokenizer = load_model(asked.model)
    train_only(model, asked.part)
    values.setdefault("context", min(context_of(model), 128))
    config = TrainConfig.from_dict(values)
    task: Task
    if asked.teacher:
        teacher, theirs = load_reference(
            asked.teacher, gguf_file=asked.gguf_file, dtype=asked.teacher_dtype
        )
        if theirs.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"{asked.teacher} has other tokens than {asked.model}; give the model that it was "
                "converted from."
            )
        if asked.transfer:
            task = AttentionTransfer(model, teacher)
        else:
            task = DistilledTuning(model, teacher, asked.part, asked.kd, asked.tau)
    else:
        task = FineTuning(model, asked.part)
    store = tokenize(corpus, tokenizer)  # type: ignore[arg-type]
    request = {
        VERB: NAME,
        **{"source": asked.data, "text_field": asked.text_field, "tokenizer": asked.model},
        **{"model": asked.model, "part": asked.part, "teacher": asked.teacher},
        **{"gguf_file": asked.gguf_file, "kd": asked.kd, "tau": asked.tau},
        **{"teacher_dtype": asked.teacher_dtype, "transfer": asked.transfer},
    }
    store.manifest[REQUEST] = request
    return Run(corpus, tokenizer, store, model, config, request), task  # type: ignore[arg-type]


def reopen(out: Path, changes: dict[str, Any]) -> tuple[Run, Task]:
    """Everything as ``out/run.json`` says, with the training keys of ``changes`` on top."""
    record = read_record(out)
    refuse_another_verb(out, record.request, verb_of(record.request) == NAME)
    request = record.asked(ASKED)
    record.train({})
    asked = Tuning(
        request["model"], out, request["source"], request["text_field"], request["part"],
        request["teacher"], request["gguf_file"], request["kd"], request["tau"],
        record.train(changes).as_dict(),
        str(request.get("teacher_dtype", "auto")), bool(request.get("transfer")),
    )  # fmt: skip
    return prepare(asked)
