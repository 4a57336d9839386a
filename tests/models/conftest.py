"""Tiny models of every kind, with every choice stated, and a byte tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from spikeformers.models import (
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    NeurTransformerConfig,
    NeurTransformerForCausalLM,
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
    WESpikingformerConfig,
    WESpikingformerForMaskedLM,
    WESpikingformerForSequenceClassification,
)

Make = Callable[..., Any]

BASE: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "wta": "hard",
    "winners": 3,
    "winner_weight": "one",
    "attention_scale": None,
    "learn_attention_scale": False,
    "surrogate_temperature": 1.0,
    "neuron": "ni-lif",
    "levels": 4,
    "steps": 1,
    "decay": 0.5,
    "threshold": 1.0,
    "threshold_ratio": 0.5,
    "amplitude": "learnable",
    "reset": "soft",
    "surrogate": "arctan",
    "surrogate_sharpness": 2.0,
    "integer_gradient": "rectangular",
    "surrogate_margin": 0.0,
    "surrogate_leak": 0.0,
    "norm": "layer",
    "norm_eps": 1e-5,
    "pre_norm": True,
    "projection_norm": True,
    "output_norm": True,
    "neuron_gain": 1.0,
    "position": "both",
    "relative_slope": 1.0,
    "spiking_head": False,
    "dropout": 0.0,
    "initializer_range": 0.02,
    "bias": True,
    "tie_word_embeddings": True,
    "firing_rate_weight": 0.0,
    "firing_rate_target": 0.0,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

KINDS = {
    "wd": (WDSpikingformerConfig, WDSpikingformerForCausalLM),
    "we": (WESpikingformerConfig, WESpikingformerForMaskedLM),
    "we-classifier": (WESpikingformerConfig, WESpikingformerForSequenceClassification),
}

ATTENTIONS: dict[str, dict[str, Any]] = {
    "hard": {"attention": "wta", "wta": "hard"},
    "top-3": {"attention": "wta", "wta": "top_k", "winners": 3},
    "top-2-mean": {"attention": "wta", "wta": "top_k", "winners": 2, "winner_weight": "mean"},
    "sparsemax": {"attention": "wta", "wta": "sparsemax"},
    "ssa": {"attention": "ssa", "position": "learned"},
    "a2os2a": {"attention": "a2os2a", "position": "learned"},
    "a2os2a-state": {"attention": "a2os2a", "attention_order": "state", "position": "learned"},
    "softmax": {"attention": "softmax"},
    "power-of-two": {"attention": "power-of-two"},
}

NEURONS: dict[str, dict[str, Any]] = {
    "ni-lif-1x4": {"neuron": "ni-lif", "levels": 4, "steps": 1},
    "ni-lif-2x2": {"neuron": "ni-lif", "levels": 2, "steps": 2},
    "i-lif-1x2": {"neuron": "i-lif", "levels": 2, "steps": 1},
    "lif-3": {"neuron": "lif", "steps": 3, "threshold": 0.5},
    "t-lif-2": {"neuron": "t-lif", "steps": 2, "threshold": 0.75},
}


SOURCES: dict[str, Any] = {
    "gpt2": GPT2Config,
    "gpt_neox": GPTNeoXConfig,
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
}
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
WIDER: dict[str, dict[str, Any]] = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {"intermediate_size": 24, "hidden_act": "relu"},
    "llama": {"intermediate_size": 24, "num_key_value_heads": 2},
    "qwen2": {"intermediate_size": 24, "num_key_value_heads": 2},
}
OURS: dict[str, tuple[Any, Any]] = {
    **KINDS,
    "bispikclm": (BiSpikCLMConfig, BiSpikCLMForCausalLM),
}


@pytest.fixture(scope="session")
def make_family() -> Make:
    """``make_family("wd", tied=False, ...)``, ``make_family("llama", attention="cwssa")``.

    Every family with random weights: ours by their names, a converted model by its source's.
    """

    def make(
        kind: str, *, tied: bool = False, dtype: torch.dtype = torch.float64, **choices: Any
    ) -> PreTrainedModel:
        torch.manual_seed(5)
        shape = SMALL | {"tie_word_embeddings": tied}
        model: PreTrainedModel
        if kind in SOURCES:
            source = SOURCES[kind](**shape, **WIDER[kind]).to_dict()
            config = NeurTransformerConfig(source=source, **({"steps": 4} | choices))
            model = NeurTransformerForCausalLM(config)
        else:
            config_class, model_class = OURS[kind]
            model = model_class(config_class(**(shape | choices)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "threshold" in name:
                    parameter.uniform_(0.8, 1.2)
                elif not name.endswith("amplitude"):
                    spread = 1.0 if "embed" in name or "wte" in name else 0.3
                    parameter += spread * torch.randn_like(parameter)
        return model.to(dtype).eval()

    return make


@pytest.fixture(params=ATTENTIONS)
def attention(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ATTENTIONS[request.param]


@pytest.fixture(params=NEURONS)
def neuron(request: pytest.FixtureRequest) -> dict[str, Any]:
    return NEURONS[request.param]


@pytest.fixture(scope="session")
def make_config() -> Make:
    """``make_config("wd" or "we" or "we-classifier", **overrides)``; attention "wta" is both's."""

    def make(kind: str = "wd", **overrides: Any) -> Any:
        values = {"attention": "wta", **BASE, **overrides}
        if values["attention"] == "wta":
            values["attention"] = "cwssa" if kind == "wd" else "wssa"
        return KINDS[kind][0](**values)

    return make


@pytest.fixture(scope="session")
def make_model(make_config: Make) -> Make:
    """Model in eval mode whose every parameter is random, so that none is neutral by its start.

    ``dtype=torch.float64`` for equalities: float32 sums in another order may move a membrane
    across its threshold, and then one spike, and everything after it, differs.
    """

    def make(
        kind: str = "wd", seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
    ) -> PreTrainedModel:
        torch.manual_seed(seed)
        model: PreTrainedModel = KINDS[kind][1](make_config(kind, **overrides))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("amplitude"):  # 0.75 and 1 keep T-LIF's scores exact
                    spread = 1.0 if "embed" in name else 0.3
                    parameter += spread * torch.randn_like(parameter)
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, then <pad>, <eos> and <mask>: 259 in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        padding_side="left",
    )
