"""Fine-tuning on tasks of sentences: GLUE and the sentiment sets of spiking papers."""

from __future__ import annotations

from spikeformers.training.finetuning.metrics import METRICS
from spikeformers.training.finetuning.outcome import measure_run
from spikeformers.training.finetuning.summary import summarise
from spikeformers.training.finetuning.task import Finetuning, SentenceStore

__all__ = ["METRICS", "Finetuning", "SentenceStore", "measure_run", "summarise"]
