"""Runs: what each training verb of the command line does, as a function.

    pretraining    pretrain             a language model from scratch
    distillation   distill              a student from a teacher
    vision         train_vision         an image classifier from scratch
    conversion     convert              a dense model into a spiking one
    tuning         finetune_attention   the spiking attention of a converted model
    sentences      finetune             a masked model on sentence tasks, and their scores
    tokenization   tokenize             a token store of shards, of a corpus of any size
    demonstration  demo                 a spiking model and its dense twin, and a report on both

A recipe (``recipe``) defines what is trained, a run's record (``record``) how a resumed run was
started; a `PreparedRun` (``prepared``) is ready to be trained. Nothing is printed: ``progress`` and
``on_message`` are callbacks (``reporter``).
"""

from __future__ import annotations

from spikeformers.runs.conversion import ConversionResult, convert
from spikeformers.runs.demonstration import DemoSettings, demo
from spikeformers.runs.distillation import distill
from spikeformers.runs.prepared import RunResult, check_out
from spikeformers.runs.pretraining import pretrain
from spikeformers.runs.recipe import Recipe, read_recipe
from spikeformers.runs.sentences import FinetuneResult, finetune, score_finetuned
from spikeformers.runs.tokenization import TokenizeResult, tokenize
from spikeformers.runs.tuning import finetune_attention
from spikeformers.runs.vision import train_vision

__all__ = [
    "ConversionResult",
    "DemoSettings",
    "FinetuneResult",
    "Recipe",
    "RunResult",
    "TokenizeResult",
    "check_out",
    "convert",
    "demo",
    "distill",
    "finetune",
    "finetune_attention",
    "pretrain",
    "read_recipe",
    "score_finetuned",
    "tokenize",
    "train_vision",
]
