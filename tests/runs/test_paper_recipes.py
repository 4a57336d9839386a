"""Recipes named -paper build exactly the configs that are written here, whatever presets become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.models import build_config, build_model
from spikeformers.models.presets import known_keys
from spikeformers.neurons import ILIF, NILIF, neurons_of
from spikeformers.runs.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
COMMON: dict[str, Any] = {
    # the paper's neuron everywhere, 1x4, and no other
    "neuron": "ni-lif", "neuron_options": None, "neurons": None, "levels": 4, "steps": 1,
    "integer_gradient": "rectangular", "surrogate_margin": 0.0, "surrogate_leak": 0.0,
    "budget": None, "budget_weight": 1.0,
    "firing_rate_target": 0.1, "firing_rate_targets": None, "firing_rate_weight": 0.05,
    # the block
    "norm": "layer", "norm_eps": 1e-5, "neuron_gain": 1.0,
    "pre_norm": True, "projection_norm": True, "sum_norm": True, "output_norm": False,
    "bias": True, "dropout": 0.0, "initializer_range": 0.02, "token_shift": False,
    # attention
    "winners": 3, "weight_digits": 2, "winner_weight": "one", "attention_options": None,
    "attention_scale": None,
    "learn_attention_scale": True, "surrogate_temperature": 1.0,
    "position": "relative", "relative_slope": 1.0,
    # the head, and what tokenizers give
    "spiking_head": True, "tie_word_embeddings": True, "vocab_size": 50257,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    # of other neurons and attentions, which these models do not have
    "amplitude": "learnable", "threshold": 1.0, "threshold_ratio": 0.5, "decay": 0.5,
    "reset": "soft", "surrogate": "arctan", "surrogate_sharpness": 2.0,
    "signed": True, "step_size": 0.25, "dead_zone": 0.3, "gain": None,
    "attention_order": "scores", "query_neuron": "binary", "key_neuron": "relu",
    "value_neuron": "ternary", "ternary_decay": 0.25,
}  # fmt: skip
CAUSAL = {**COMMON, "attention": "cwssa", "use_cache": True, "max_position_embeddings": 1024}
SMALLER = {
    **CAUSAL,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "wd-spikingformer-0.4b-paper-hard": {**SMALLER, "wta": "hard"},
    "wd-spikingformer-0.4b-paper-sparsemax": {**SMALLER, "wta": "sparsemax"},
    "wd-spikingformer-0.4b-paper-top-k": {**SMALLER, "wta": "top_k"},
    "wd-spikingformer-1.0b-paper": {
        **CAUSAL,
        "wta": "hard",
        "hidden_size": 1792,
        "intermediate_size": 7168,
        "num_hidden_layers": 24,
        "num_attention_heads": 28,
    },
    "we-spikingformer-base-paper": {
        **COMMON,
        "attention": "wssa",
        "wta": "hard",
        "use_cache": False,
        "pooling": "mean",
        "max_position_embeddings": 512,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}


def built(name: str) -> Any:
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    return recipe, build_config(recipe.preset, 50257, recipe.model)


def test_every_recipe_of_the_paper_s_language_models_is_written_here() -> None:
    named = {path.stem for path in RECIPES.glob("w[de]-spikingformer-*paper*.yaml")}
    assert named == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_of_the_paper_builds_its_config(name: str) -> None:
    recipe, config = built(name)
    assert {key: getattr(config, key) for key in known_keys(recipe.preset)} == CONFIGS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_of_the_paper_has_its_neuron_everywhere(name: str) -> None:
    _, config = built(name)
    config.num_hidden_layers = 1
    with torch.device("meta"):
        neurons = neurons_of(build_model(config))
    assert {type(neuron) for neuron in neurons.values()} <= {NILIF, ILIF}
    assert all(neuron.gradient == "rectangular" for neuron in neurons.values())
