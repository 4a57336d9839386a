"""Fine-tuning on sentence tasks: GLUE and the sentiment sets of spiking papers."""

from __future__ import annotations

from spikeformers.training.glue.metrics import METRICS
from spikeformers.training.glue.outcome import measure_run
from spikeformers.training.glue.summary import summarise
from spikeformers.training.glue.task import SentenceFinetuning, SentenceStore

__all__ = ["METRICS", "SentenceFinetuning", "SentenceStore", "measure_run", "summarise"]
