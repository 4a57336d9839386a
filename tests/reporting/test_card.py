from __future__ import annotations

import math

import pytest
import yaml

from spikeformers.reporting import model_card, training_card
from spikeformers.training import TrainConfig, TrainResult

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
    assert ("| neuron | ni-lif, 1x4 (T x D) |" in text) != control
    assert ("masked tokens" in text) == (task == "fill-mask")


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
    given = {"masked": False, "parameters": 1, "data": {}, "training": {}}
    config = {"model_type": "gpt2", "vocab_size": 3}
    front, text = front_and_text(model_card("x", config, results={}, **given))
    assert front["model-index"][0]["results"][0]["metrics"] == []
    assert "no validation result" in text
    front, _ = front_and_text(model_card("x", config, results={"loss": math.inf}, **given))
    assert front["model-index"][0]["results"][0]["metrics"] == []
