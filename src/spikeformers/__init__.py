"""Spiking transformers for language.

Importing this package is quick: its names are loaded when they are first used, and the models are
registered with Transformers' Auto classes when those are loaded (`spikeformers._auto`).

    import spikeformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("runs/demo/spiking")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spikeformers._auto import register_when_needed

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spikeformers.attention import register_attention
    from spikeformers.conversion import Rule, calibration_windows, make_plan
    from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
    from spikeformers.energy import audit, energy_of
    from spikeformers.engine import load_engine
    from spikeformers.evaluation.agreement import agreement
    from spikeformers.evaluation.perplexity import perplexity
    from spikeformers.evaluation.vision import classify
    from spikeformers.evaluation.zeroshot import evaluate_zeroshot
    from spikeformers.export import open_engine, pack
    from spikeformers.generation import Chat, generate_text
    from spikeformers.models import (
        BiSpikCLMConfig,
        BiSpikCLMForCausalLM,
        ModelEntry,
        NeurTransformerConfig,
        NeurTransformerForCausalLM,
        SpikingViTConfig,
        SpikingViTForImageClassification,
        WDSpikingformerConfig,
        WDSpikingformerForCausalLM,
        WESpikingformerConfig,
        WESpikingformerForMaskedLM,
        WESpikingformerForSequenceClassification,
        build_config,
        build_model,
        build_vision_config,
        control_of,
        load_model,
        load_reference,
        load_vision_model,
        register_model,
    )
    from spikeformers.neurons import register_neuron
    from spikeformers.packaged import weights
    from spikeformers.runs import (
        demo,
        finetune,
        finetune_attention,
        pretrain,
        tokenize,
        train_vision,
    )
    from spikeformers.runs.overloads import convert, distill
    from spikeformers.serving import serve
    from spikeformers.studies import (
        audit_folder,
        bench_decode,
        bench_memory,
        bench_prefill,
        compare,
        describe,
        evaluate_agreement,
        evaluate_images,
        evaluate_perplexity,
        measure_energy,
        plan,
        read_input,
    )
    from spikeformers.training import TrainConfig, train
    from spikeformers.training.distillation import SpADConfig

_ROOM_OF = {
    "BiSpikCLMConfig": "models",
    "BiSpikCLMForCausalLM": "models",
    "Chat": "generation",
    "ModelEntry": "models",
    "NeurTransformerConfig": "models",
    "NeurTransformerForCausalLM": "models",
    "Rule": "conversion",
    "SpADConfig": "training.distillation",
    "SpikingViTConfig": "models",
    "SpikingViTForImageClassification": "models",
    "TrainConfig": "training",
    "WDSpikingformerConfig": "models",
    "WDSpikingformerForCausalLM": "models",
    "WESpikingformerConfig": "models",
    "WESpikingformerForMaskedLM": "models",
    "WESpikingformerForSequenceClassification": "models",
    "agreement": "evaluation.agreement",
    "audit": "energy",
    "audit_folder": "studies",
    "bench_decode": "studies",
    "bench_memory": "studies",
    "bench_prefill": "studies",
    "build_config": "models",
    "build_model": "models",
    "build_vision_config": "models",
    "calibration_windows": "conversion",
    "classify": "evaluation.vision",
    "compare": "studies",
    "control_of": "models",
    "convert": "runs.overloads",
    "demo": "runs",
    "describe": "studies",
    "distill": "runs.overloads",
    "energy_of": "energy",
    "evaluate_agreement": "studies",
    "evaluate_images": "studies",
    "evaluate_perplexity": "studies",
    "evaluate_zeroshot": "evaluation.zeroshot",
    "finetune": "runs",
    "finetune_attention": "runs",
    "generate_text": "generation",
    "load_corpus": "data",
    "load_engine": "engine",
    "load_model": "models",
    "load_reference": "models",
    "load_vision_model": "models",
    "make_plan": "conversion",
    "make_tokenizer": "data",
    "measure_energy": "studies",
    "open_engine": "export",
    "pack": "export",
    "perplexity": "evaluation.perplexity",
    "plan": "studies",
    "pretrain": "runs",
    "read_input": "studies",
    "register_attention": "attention",
    "register_model": "models",
    "register_neuron": "neurons",
    "serve": "serving",
    "tokenize": "runs",
    "tokenize_corpus": "data",
    "train": "training",
    "train_vision": "runs",
    "weights": "packaged",
}

__all__ = [
    "BiSpikCLMConfig",
    "BiSpikCLMForCausalLM",
    "Chat",
    "ModelEntry",
    "NeurTransformerConfig",
    "NeurTransformerForCausalLM",
    "Rule",
    "SpADConfig",
    "SpikingViTConfig",
    "SpikingViTForImageClassification",
    "TrainConfig",
    "WDSpikingformerConfig",
    "WDSpikingformerForCausalLM",
    "WESpikingformerConfig",
    "WESpikingformerForMaskedLM",
    "WESpikingformerForSequenceClassification",
    "agreement",
    "audit",
    "audit_folder",
    "bench_decode",
    "bench_memory",
    "bench_prefill",
    "build_config",
    "build_model",
    "build_vision_config",
    "calibration_windows",
    "classify",
    "compare",
    "control_of",
    "convert",
    "demo",
    "describe",
    "distill",
    "energy_of",
    "evaluate_agreement",
    "evaluate_images",
    "evaluate_perplexity",
    "evaluate_zeroshot",
    "finetune",
    "finetune_attention",
    "generate_text",
    "load_corpus",
    "load_engine",
    "load_model",
    "load_reference",
    "load_vision_model",
    "make_plan",
    "make_tokenizer",
    "measure_energy",
    "open_engine",
    "pack",
    "perplexity",
    "plan",
    "pretrain",
    "read_input",
    "register_attention",
    "register_model",
    "register_neuron",
    "serve",
    "tokenize",
    "tokenize_corpus",
    "train",
    "train_vision",
    "weights",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room, or the room of all runs."""
    if name == "runs":
        return importlib.import_module(f"{__name__}.runs")
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM_OF})


register_when_needed()
