"""Tuning: train a part of a converted model, with surrogate gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.conversion import allocate, calibration_windows
from spikeformers.conversion.dead_zones import check_density, density_of, places_of
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
from spikeformers.training.density_schedule import Course, DensitySchedule
from spikeformers.training.transfer import AttentionTransfer
from spikeformers.training.tune_converted import ConvertedTuning, DistilledTuning, train_only

if TYPE_CHECKING:
    from torch import Tensor
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
ALLOCATED_ON = 2048  # training tokens on which the densities of layers are chosen
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
    density: float | None = None

    def check(self) -> None:
        """Raise ``UsageError`` for options that contradict each other."""
        if not self.data:
            raise UsageError("no text was named. Give --data: builtin, a file, a folder ...")
        if self.density is not None:
            check_density(self.density)
        if not self.transfer:
            return
        if not self.teacher:
            raise UsageError("--transfer learns from the dense original: give it with --teacher.")
        if self.part != "attention":
            raise UsageError(
                f"--transfer trains only the attention, not {self.part}; use --train in a second "
                "run."
            )
        if self.density is not None:
            raise UsageError(
                "--density applies to a run through the whole model; --transfer calls only the "
                "attention. Give it in another run."
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
            **({} if self.density is None else {"density": self.density}),
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
    density: float | None = None,
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
    ``density``, in (0, 1), is the share of the spiking maps' weights that a token reads in the end,
    of a model with thresholds per token: its dead zones go there during the first half of the run.
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
            teacher_dtype, transfer, density,
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
    teacher = _teacher(options, tokenizer) if options.teacher else None
    store = reporter.tokenize(corpus, tokenizer)
    schedule = None
    if options.density is not None:
        windows = calibration_windows(store.split("train"), config.context, ALLOCATED_ON)
        schedule = _schedule(model, windows, options.density, reporter)
    task = _task(options, model, teacher, schedule)
    rows = {"converted model": options.model, "trained": options.part}
    request = options.request()
    return prepare_text(tokenizer, store, model, config, request, task=task, rows=rows)


def _teacher(options: TuningOptions, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    teacher, teacher_tokenizer = load_reference(
        options.teacher, gguf_file=options.gguf_file, dtype=options.teacher_dtype
    )
    if teacher_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"{options.teacher} has another tokenizer than {options.model}; give the model that it "
            "was converted from."
        )
    return teacher


def _schedule(
    model: PreTrainedModel, windows: Tensor, density: float, reporter: Reporter
) -> DensitySchedule:
    """From the densities that the model has to those of dead zones allocated for ``density``."""
    zones = [place.neuron.dead_zone for place in places_of(model)]
    before = [float(zone.detach()) for zone in zones]
    started, shares = density_of(model, windows)
    rows = allocate(model, windows, density, reporter.stage("dead zones", "windows"))
    for zone, tau in zip(zones, before, strict=True):
        zone.data.fill_(tau)
    reporter.say(f"density   {started:.1%} of the weights read; on the way to {density:.1%}")
    courses = {row["name"]: Course(shares[row["name"]], row["density"]) for row in rows}
    return DensitySchedule(model, courses)


def _task(
    options: TuningOptions,
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    schedule: DensitySchedule | None,
) -> Task:
    if teacher is None:
        return ConvertedTuning(model, options.part, schedule)
    if options.transfer:
        return AttentionTransfer(model, teacher)
    return DistilledTuning(model, teacher, options.part, options.kd, options.tau, schedule)


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
        None if request.get("density") is None else float(request["density"]),
    )  # fmt: skip
    return prepare(options, reporter or Reporter())
