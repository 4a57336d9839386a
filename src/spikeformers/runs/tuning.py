"""Tuning: train the spiking attention of a converted model, with surrogate gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.data import load_corpus
from spikeformers.errors import ConfigError, UsageError
from spikeformers.evaluation import context_of
from spikeformers.models import load_model, load_reference
from spikeformers.progress import Listener
from spikeformers.runs.prepared import PreparedRun, RunResult, carry_out, check_out, prepare_text
from spikeformers.runs.recipe import Settings, setting_values
from spikeformers.runs.record import TEXT, VERB, read_record, refuse_another_verb, verb_of
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.training import TrainConfig
from spikeformers.training.transfer import AttentionTransfer
from spikeformers.training.tune_converted import ConvertedTuning, DistilledTuning, train_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.training.task import Task

NAME = "finetune-attention"
FOLDER = "tuned"  # default, within the model's folder
DEFAULTS: dict[str, Any] = {
    "steps": 1000,
    "batch_size": 16,
    "learning_rate": 5e-4,
    "weight_decay": 0.0,
    "eval_every": 100,
    "save_every": 100,
}
"""Defaults that differ from ``TrainConfig``. Unspecified by the paper."""
RECORDED: dict[str, Any] = {
    **TEXT,
    **{"model": str, "text_field": str, "part": str, "teacher": str, "gguf_file": str},
    **{"kd": float, "tau": float},
}
"""Options in a run's record, without those that older releases did not have."""


@dataclass(frozen=True)
class TuningOptions:
    """What to train and on which text; without a ``teacher`` the loss is the language model's."""

    model: str
    data: str
    text_field: str = "text"
    part: str = "attention"
    teacher: str = ""
    gguf_file: str = ""
    kd: float = 0.5
    tau: float = 2.0
    train: Mapping[str, Any] = field(default_factory=dict)
    teacher_dtype: str = "auto"
    transfer: bool = False

    def check(self) -> None:
        """Raise ``UsageError`` for options that contradict each other."""
        if not self.data:
            raise UsageError("no text was named. Give --data: builtin, a file, a folder ...")
        if not self.transfer:
            return
        if not self.teacher:
            raise UsageError("--transfer learns from the dense original: give it with --teacher.")
        if self.part != "attention":
            raise UsageError(
                f"--transfer trains only the attention, not {self.part}; use --train in a second "
                "run."
            )
        if (self.kd, self.tau) != (TuningOptions.kd, TuningOptions.tau):
            raise UsageError(
                "--kd and --tau apply to the teacher's probabilities; --transfer does not use them."
            )

    def request(self) -> dict[str, Any]:
        """The options, as stored in ``run.json``."""
        return {
            VERB: NAME,
            **{"source": self.data, "text_field": self.text_field, "tokenizer": self.model},
            **{"model": self.model, "part": self.part, "teacher": self.teacher},
            **{"gguf_file": self.gguf_file, "kd": self.kd, "tau": self.tau},
            **{"teacher_dtype": self.teacher_dtype, "transfer": self.transfer},
        }


def finetune_attention(
    model: str | Path,
    *,
    data: str | Path = "",
    out: str | Path | None = None,
    part: str = TuningOptions.part,
    teacher: str | Path = "",
    gguf_file: str = "",
    teacher_dtype: str = TuningOptions.teacher_dtype,
    transfer: bool = False,
    kd: float = TuningOptions.kd,
    tau: float = TuningOptions.tau,
    text_field: str = TuningOptions.text_field,
    settings: Settings | None = None,
    resume: bool = False,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
) -> RunResult:
    """Train the spiking attention of the converted ``model`` into ``out``, MODEL/tuned by default.

    ``part`` is the part to train: "attention", "norms" (attention and norms) or "everything". The
    loss is the language model's; with a ``teacher``, the dense original, (1 - kd) times it plus
    kd tau^2 KL(teacher || model); with ``transfer`` the squared error of each attention's output.
    ``settings`` are fields of TrainConfig. All else as in `pretrain`.

    Raises ``UsageError`` and ``ConfigError`` before anything is written, and what `train` raises.
    """
    folder, reporter = Path(out or Path(model) / FOLDER), Reporter(progress, on_message)
    changes = setting_values(settings)
    check_out(folder, resume=resume)
    if resume:
        run = reopen(folder, changes, reporter)
    else:
        options = TuningOptions(
            str(model), str(data), text_field, part, str(teacher), gguf_file, kd, tau, changes,
            teacher_dtype, transfer,
        )  # fmt: skip
        run = prepare(options, reporter)
    return carry_out(run, folder, reporter, resume=resume)


def prepare(options: TuningOptions, reporter: Reporter) -> PreparedRun:
    """Load model, text and teacher, and freeze all other weights. Raises ``UsageError``."""
    options.check()
    values = DEFAULTS | dict(options.train)
    TrainConfig.from_dict(values)  # before anything is read
    corpus = load_corpus(options.data, text_field=options.text_field)
    model, tokenizer = load_model(options.model)
    train_only(model, options.part)
    values.setdefault("context", min(context_of(model), 128))
    config = TrainConfig.from_dict(values)
    task = _task(options, model, tokenizer)
    store = reporter.tokenize(corpus, tokenizer)
    rows = {"converted model": options.model, "trained": options.part}
    request = options.request()
    return prepare_text(tokenizer, store, model, config, request, task=task, rows=rows)


def _task(
    options: TuningOptions, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Task:
    if not options.teacher:
        return ConvertedTuning(model, options.part)
    teacher, teacher_tokenizer = load_reference(
        options.teacher, gguf_file=options.gguf_file, dtype=options.teacher_dtype
    )
    if teacher_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"{options.teacher} has another tokenizer than {options.model}; give the model that it "
            "was converted from."
        )
    if options.transfer:
        return AttentionTransfer(model, teacher)
    return DistilledTuning(model, teacher, options.part, options.kd, options.tau)


def reopen(out: Path, changes: Mapping[str, Any], reporter: Reporter | None = None) -> PreparedRun:
    """Prepare the run of ``out/run.json``, with the training keys of ``changes`` on top."""
    record = read_record(out)
    refuse_another_verb(out, record.request, verb_of(record.request) == NAME)
    request = record.checked_request(RECORDED)
    options = TuningOptions(
        request["model"], request["source"], request["text_field"], request["part"],
        request["teacher"], request["gguf_file"], request["kd"], request["tau"],
        record.train_config(changes).as_dict(),
        str(request.get("teacher_dtype", "auto")), bool(request.get("transfer")),
    )  # fmt: skip
    return prepare(options, reporter or Reporter())
