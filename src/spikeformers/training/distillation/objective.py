"""Distillation as a task of the training loop: student, projections, and the weighted sum."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

from spikeformers.data.sampling import WindowSampler
from spikeformers.neurons import LIF
from spikeformers.training.batches import MicroBatch, check_context
from spikeformers.training.config import TrainConfig
from spikeformers.training.distillation import losses
from spikeformers.training.distillation.cache import TeacherCache
from spikeformers.training.distillation.config import SpADConfig
from spikeformers.training.distillation.mapping import Alignment, ModelSizes, align
from spikeformers.training.distillation.projections import Projections
from spikeformers.training.distillation.teacher import Needs, Teacher, TeacherOutput
from spikeformers.training.distributed import World
from spikeformers.training.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.data.store import TokenStore

logger = logging.getLogger(__name__)


@dataclass
class DistilledOutput(ModelOutput):
    """``loss`` is ``sum(contributions) + rate_loss``; ``terms`` are unweighted."""

    loss: Tensor | None = None
    lm_loss: Tensor | None = None
    rate_loss: Tensor | None = None
    terms: dict[str, Tensor] | None = None
    contributions: dict[str, Tensor] | None = None


class Distilled(nn.Module):
    """Student and projections: everything that is trained, checkpointed and spread over ranks."""

    def __init__(
        self, student: PreTrainedModel, alignment: Alignment, spad: SpADConfig, seed: int
    ) -> None:
        super().__init__()
        self.student = student
        self.projections = Projections(alignment, spad, seed)
        self.spad = spad
        self.layers = [layer for layer, _ in alignment.layers]
        lif = LIF(spad.rate_decay, spad.rate_threshold, "delayed")  # the paper's reset
        self.rate = partial(losses.firing_rate, neuron=lif, steps=spad.rate_steps)
        self._no_split_modules = student._no_split_modules  # the units of `fully_shard`

    def forward(
        self, input_ids: Tensor, labels: Tensor, teacher: TeacherOutput | None = None
    ) -> Any:
        """The student's own output; a ``DistilledOutput`` if ``teacher`` is given."""
        if teacher is None:
            return self.student(input_ids=input_ids, labels=labels)
        output = self.student(
            input_ids=input_ids,
            output_hidden_states=teacher.embedding is not None or teacher.features is not None,
            output_attentions=teacher.attentions is not None,
        )
        terms = self.terms(output, labels, teacher)
        contributions = {term: weight * terms[term] for term, weight in self.spad.weights.items()}
        loss = torch.stack(list(contributions.values())).sum()
        if (rate_loss := getattr(output, "rate_loss", None)) is not None:
            loss = loss + rate_loss
        lm_loss = terms["hta"] if "hta" in terms else self._unlearned(output.logits, labels)
        return DistilledOutput(loss, lm_loss, rate_loss, terms, contributions)

    def terms(self, output: Any, labels: Tensor, teacher: TeacherOutput) -> dict[str, Tensor]:
        """The active terms, unweighted; see ``losses.py`` for the equations."""
        spad, projections, terms = self.spad, self.projections, {}
        if teacher.embedding is not None:
            embedded = projections.embedding(output.hidden_states[0])
            terms["ea"] = losses.embedding_alignment(embedded, teacher.embedding)
        if teacher.attentions is not None:
            maps = projections.attentions([output.attentions[n - 1] for n in self.layers])
            terms["saa"] = losses.attention_alignment(
                maps, teacher.attentions, self.rate, spad.saa_rate
            )
        if teacher.features is not None:
            features = projections.hidden([output.hidden_states[n] for n in self.layers])
            targets = teacher.features
            if spad.sfa_normalise_teacher:
                targets = tuple(F.layer_norm(x.float(), x.shape[-1:]) for x in targets)
            terms["sfa"] = losses.feature_alignment(features, targets, self.rate, spad.sfa_rate)
        if teacher.logits is not None:
            terms["sta"] = losses.soft_targets(output.logits, teacher.logits, spad.tau)
        if "hta" in spad.active:
            terms["hta"] = losses.hard_targets(output.logits, labels)
        return terms

    @staticmethod
    @torch.no_grad()
    def _unlearned(logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of a run without HTA: only logged, without gradient."""
        return losses.hard_targets(logits, labels)


class Distillation(Task):
    """SpAD of ``student`` (a causal model, spiking or dense) from a causal ``teacher``.

    ``seed`` initialises the projections, which have their own stream of random numbers.
    ``cache_teacher`` is a folder, "auto", or "" for none; see ``cache.py``.
    """

    counts_flops = False

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        spad: SpADConfig,
        seed: int = 0,
        cache_teacher: str = "",
    ) -> None:
        super().__init__(student)
        self.spad, self.teacher = spad, Teacher(teacher)
        self.cache_teacher = cache_teacher
        self.cache: TeacherCache | None = None
        self.digest = ""  # of the teacher; set by `start`
        self.alignment = align(ModelSizes.of(student.config), ModelSizes.of(teacher.config), spad)
        self.distilled = Distilled(student, self.alignment, spad, seed)
        self.module = self.distilled
        self.needs = Needs.of(spad, self.alignment)
        self.terms = spad.active
        self.leaves_unused = not {"sta", "hta"} & set(spad.active)

    def start(self, store: TokenStore, config: TrainConfig, world: World) -> None:
        check_context(self.teacher.model, config.context, "the teacher")
        self.teacher.model.to(world.device)
        lines = self.describe()
        self.digest = self.teacher.digest()
        if self.cache_teacher and self.needs:
            lines.append(self._open_cache(store, config))
        elif self.cache_teacher:
            lines.append("teacher cache: none, as no active term needs the teacher")
        if world.is_main:
            for line in lines:
                logger.info("%s", line)

    def _open_cache(self, store: TokenStore, config: TrainConfig) -> str:
        """Open the cache; returns a line about what this run will add to it."""
        split, manifest, model = store.split("train"), store.manifest, self.teacher.model
        identity = {
            "teacher_sha256": self.digest,
            "teacher": json.loads(model.config.to_json_string(use_diff=False)),
            "attention": model.config._attn_implementation,
            "device": model.device.type,
            **{key: manifest[key] for key in ("corpus", "tokenizer", "splits")},
        }
        self.cache = TeacherCache(
            self.cache_teacher, self.teacher, self.needs, identity, config.context
        )
        windows = WindowSampler(split.num_tokens, config.context, config.batch_size, config.seed)
        starts = (start for step in range(config.total_steps) for start in windows.indices(step))
        return self.cache.plan(starts)

    def close(self) -> None:
        if self.cache is not None:
            self.cache.close()
            self.cache = None

    def describe(self) -> list[str]:
        """Lines about weights, mapping and projections."""
        weights = ", ".join(f"{term} {weight:g}" for term, weight in self.spad.weights.items())
        projected = sum(p.numel() for p in self.distilled.projections.parameters())
        lines = [f"terms: {weights}", *self.alignment.describe(self.spad)]
        return [*lines, f"projections: {projected:,} parameters, trained and not exported"]

    def inputs(self, part: MicroBatch, device: torch.device) -> dict[str, Any]:
        batch: dict[str, Any] = part.to(device)
        targets = TeacherOutput()
        if self.cache is not None:
            targets = self.cache(batch["input_ids"], part.starts)
        elif self.needs:
            targets = self.teacher(batch["input_ids"], self.needs)
        return batch | {"teacher": targets}

    def validation_metrics(
        self, part: MicroBatch, output: Any, device: torch.device
    ) -> dict[str, float]:
        """Share of tokens with the teacher's most likely next token, and KL from it in nats."""
        ids = part.input_ids.to(device)
        teacher_logits = self.teacher(ids, Needs((), logits=True)).logits
        assert teacher_logits is not None
        agree = (output.logits.argmax(-1) == teacher_logits.argmax(-1)).double().mean()
        return {
            "teacher_agreement": agree.item(),
            "teacher_kl": losses.soft_targets(output.logits, teacher_logits, tau=1.0).item(),
        }

    def record(self) -> dict[str, Any]:
        return {**self.spad.as_dict(), "teacher_sha256": self.digest}
