"""A model of a researcher's own: presets, Auto classes, training, energy and reports know it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoModelForCausalLM, PreTrainedConfig

from spikeformers.energy import energy_of
from spikeformers.errors import ConfigError
from spikeformers.models import (
    MODELS,
    PRESETS,
    ModelEntry,
    SpikingformerConfig,
    WESpikingformerConfig,
    WESpikingformerForMaskedLM,
    build_config,
    build_model,
    control_of,
    register_model,
    task_of,
)
from spikeformers.models._spikingformer import SpikingCausalLM, SpikingformerModel
from spikeformers.models.registry import is_masked_model, is_masked_preset
from spikeformers.reporting.card import facts_of

TINY = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"max_position_embeddings": 16},
}


@strict(accept_kwargs=True)
class MineConfig(SpikingformerConfig):
    model_type = "mine"


class MineModel(SpikingformerModel):
    config_class = MineConfig


class MineForCausalLM(SpikingCausalLM):
    config_class = MineConfig

    def __init__(self, config: MineConfig) -> None:
        super().__init__(config, MineModel(config), bias=False)


HEADS = {"AutoModel": MineModel, "AutoModelForCausalLM": MineForCausalLM}
ENTRY = ModelEntry(
    *("Mine", "https://example.org/mine", "causal", MineConfig, HEADS, {"mine-tiny": TINY})
)


@pytest.fixture(autouse=True)
def registered() -> None:
    register_model(ENTRY)  # again before each test, as when a notebook's cell runs again


def test_presets_and_tasks_know_it() -> None:
    assert "mine-tiny" in PRESETS
    assert PRESETS["mine-tiny"] == TINY
    assert not is_masked_preset("mine-tiny")
    config = build_config("mine-tiny", 31, {"levels": 2})
    assert (type(config), config.levels, task_of(config)) == (MineConfig, 2, "causal")
    assert type(build_model(config)) is MineForCausalLM
    assert control_of(config).model_type == "gpt_neox"
    with pytest.raises(ConfigError, match=r"Did you mean 'mine-tiny'\?"):
        build_config("mine-tinny", 31)


def test_it_is_saved_and_loaded_by_the_auto_classes(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = build_model(build_config("mine-tiny", 31)).eval()
    model.save_pretrained(tmp_path)
    ids = torch.arange(12).reshape(1, 12)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert 0 < energy_of(again, [ids]).density < 1


@strict(accept_kwargs=True)
class GapConfig(WESpikingformerConfig):
    model_type = "gap"


class FillsGaps(WESpikingformerForMaskedLM):
    config_class = GapConfig


def test_a_masked_model_is_known_by_what_it_is_registered_as_and_not_by_its_name() -> None:
    heads = {"AutoModelForMaskedLM": FillsGaps}
    register_model(ModelEntry("Gap", "", "masked", GapConfig, heads, {"gap-tiny": TINY}))
    model = build_model(build_config("gap-tiny", 31))
    assert type(model) is FillsGaps
    assert is_masked_model(model)
    assert is_masked_model(build_model(control_of(model.config)))  # a BertForMaskedLM
    assert not is_masked_model(build_model(build_config("mine-tiny", 31)))
    assert not is_masked_model(model.model)


def test_its_card_names_paper_neuron_and_tag() -> None:
    facts = facts_of(build_config("mine-tiny", 31).to_dict())
    assert facts.heading == "Mine (https://example.org/mine)"
    assert facts.rows["neuron"] == "ni-lif, 1x16 (T x D)"
    assert facts.tags("mine") == ["spikeformers", "mine", "spiking-neural-network"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            ModelEntry("X", "", "causal", MineConfig, {"AutoModel": MineModel}),
            "no head AutoModelFor",
        ),
        (ModelEntry("X", "", "speech", MineConfig, HEADS), "has task='speech'; one of causal"),
        (
            ModelEntry("X", "", "causal", MineConfig, HEADS, {"wd-spikingformer-tiny": TINY}),
            "'wd-spikingformer-tiny' is another model's already",
        ),
    ],
)  # type: ignore[arg-type]
def test_rows_that_do_not_fit_together_are_refused(entry: ModelEntry, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        register_model(entry)
    assert MODELS["mine"] is ENTRY


def test_a_model_of_ours_is_not_replaced() -> None:
    class Other(PreTrainedConfig):
        model_type = "bispikclm"

    with pytest.raises(ConfigError, match="'bispikclm' is a model of spikeformers itself"):
        register_model(ModelEntry("X", "", "causal", Other, HEADS))
