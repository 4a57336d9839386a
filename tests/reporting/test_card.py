from __future__ import annotations

import math

import pytest
import yaml

from spikeformers.models import (
    MODELS,
    BiSpikCLMConfig,
    NeurTransformerConfig,
    SpikingViTConfig,
    WDSpikingformerConfig,
    WESpikingformerConfig,
    build_config,
    build_model,
)
from spikeformers.reporting import model_card, training_card
from spikeformers.reporting.card import facts_of
from spikeformers.training import TrainConfig, TrainResult

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SPIKING = (
    BiSpikCLMConfig,
    NeurTransformerConfig,
    SpikingViTConfig,
    WDSpikingformerConfig,
    WESpikingformerConfig,
)
RESULT = TrainResult(10, 2560, 2.0, {"loss": 2.0, "perplexity": 7.389, "bits_per_byte": 2.885})


def front_and_text(card):
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


@pytest.mark.parametrize(
    ("preset", "control", "auto", "task"),
    [
        ("wd-spikingformer-tiny", False, "AutoModelForCausalLM", "text-generation"),
        ("we-spikingformer-tiny", False, "AutoModelForMaskedLM", "fill-mask"),
        ("wd-spikingformer-tiny", True, "AutoModelForCausalLM", "text-generation"),
        ("we-spikingformer-tiny", True, "AutoModelForMaskedLM", "fill-mask"),
    ],
)
def test_a_card_of_every_kind(build, tokens, preset, control, auto, task):
    model = build(preset, control=control)
    card = training_card("mine", model, tokens.store, TrainConfig(context=32), RESULT)
    front, text = front_and_text(card)
    assert front["pipeline_tag"] == task
    assert front["library_name"] == "transformers"
    assert ("spiking-neural-network" in front["tags"]) != control
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert {"type": "bits_per_byte", "value": 2.885} in metrics
    assert f"{auto}.from_pretrained(folder)" in text
    assert tokens.corpus.digest in text
    assert "| tokens seen | 2,560 |" in text
    assert "| time | 2.0 s (measured) |" in text
    assert f"{model.num_parameters():,} parameters" in text
    assert "| width | 16 |" in text
    neuron = "by place" if preset.startswith("wd") else "ni-lif, 1x16 (T x D)"
    assert (f"| neuron | {neuron} |" in text) != control
    assert ("| neuron at hidden | dead-zone, " in text) == (neuron == "by place" and not control)
    assert ("masked tokens" in text) == (task == "fill-mask")


def test_a_binary_model_is_tagged_as_spiking_and_has_its_neuron(tokens):
    model = build_model(build_config("bispikclm-tiny", len(tokens.tokenizer), SMALL))
    card = training_card("mine", model, tokens.store, TrainConfig(context=32), RESULT)
    front, text = front_and_text(card)
    assert front["tags"] == ["spikeformers", "bispikclm", "spiking-neural-network"]
    assert "BiSpikCLM (https://arxiv.org/abs/2605.13859), " in text
    assert "| attention | sfsa |\n| neuron | lif, T = 4 |" in text


def test_every_config_of_a_spiking_model_states_what_a_card_shows():
    for kind in SPIKING:
        config = kind()
        facts = facts_of({"model_type": kind.model_type})
        row = MODELS[kind.model_type]
        assert (facts.title, facts.origin) == (row.title, row.paper)
        assert facts.origin.startswith("https://arxiv.org/abs/")
        assert facts.tags(kind.model_type)[-1] == "spiking-neural-network"
        assert facts.rows == config.card_rows()
        assert facts.rows["attention"]


def test_a_dense_twin_states_nothing():
    facts = facts_of({"model_type": "gpt2"})
    assert (facts.heading, facts.spiking, facts.rows) == ("GPT-2 (a dense twin)", False, {})
    assert facts_of({"model_type": "of nobody"}).heading == "of nobody"


def test_a_converted_model_names_its_source():
    source = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    facts = facts_of({"model_type": "neurtransformer", "source": source, "steps": 8})
    assert facts.made == "converted from a trained gpt2 and fine-tuned"
    assert facts.rows == {"attention": "ssa", "feed-forward": "signed-if, T = 8"}


def test_the_way_to_load_it_works(build, tokens, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    tokens.tokenizer.save_pretrained(tmp_path)
    card = training_card("mine", model, tokens.store, TrainConfig(context=32), RESULT)
    code = card.split("```python\n")[1].split("```")[0].replace('"."', repr(str(tmp_path)))
    code = code.replace("max_new_tokens=40", "max_new_tokens=4")
    loaded: dict[str, object] = {}
    exec(code, loaded)
    assert type(loaded["model"]).__name__ == "WDSpikingformerForCausalLM"


def test_no_result_and_no_number():
    arguments = {"masked": False, "parameters": 1, "data": {}, "training": {}}
    config = {"model_type": "gpt2", "vocab_size": 3}
    front, text = front_and_text(model_card("x", config, results={}, **arguments))
    assert front["model-index"][0]["results"][0]["metrics"] == []
    assert "no validation result" in text
    front, _ = front_and_text(model_card("x", config, results={"loss": math.inf}, **arguments))
    assert front["model-index"][0]["results"][0]["metrics"] == []
