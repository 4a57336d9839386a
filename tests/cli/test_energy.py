from __future__ import annotations

import pytest

from spikeformers.energy import energy_of
from spikeformers.models import load_model


def test_json_of_a_model_and_a_fresh_twin(spikeformers, causal, control, text):
    given = ("energy", causal, "--data", text, "--tokens", 64, "--json")
    said = spikeformers(*given).json
    assert said["control_weights"] == "fresh"
    assert said["context"] == 32
    assert said["model"]["label"] == said["control"]["label"] == "estimated"
    assert said["model"]["tokens"] == said["control"]["tokens"] == 64
    assert said["model"]["density"] > 0
    assert said["control"]["density"] is None
    assert said["model"]["sop_per_token"] < said["control"]["macs_per_token"]
    trained = spikeformers(*given, "--control", control).json
    assert trained["control_weights"] == str(control)
    # What a dense model costs does not depend on its weights.
    assert trained["control"]["picojoules_per_token"] == said["control"]["picojoules_per_token"]


def test_the_sums_are_those_of_energy_of(spikeformers, causal, text):
    import torch

    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.reporting import windows_of

    model, tokenizer = load_model(causal)
    split = tokenize_corpus(load_corpus(text), tokenizer).split("validation")
    windows = windows_of(split, 32, 96)
    assert sum(ids.numel() for ids in windows) == 96
    assert torch.equal(windows[0][0], torch.tensor(split.tokens[:32].astype("int64")))
    said = spikeformers("energy", causal, "--data", text, "--tokens", 96, "--json").json
    assert said["model"] == energy_of(model, windows).as_dict()


def test_a_dense_model_has_nothing_beside_it(spikeformers, control, text):
    said = spikeformers("energy", control, "--data", text, "--tokens", 32, "--json").json
    assert (said["control"], said["control_weights"]) == (None, None)


@pytest.mark.parametrize("kind", ["causal", "masked", "control"])
def test_tables_say_estimated(spikeformers, request, text, kind):
    folder = request.getfixturevalue(kind)
    ended = spikeformers("energy", folder, "--data", text, "--tokens", 32)
    assert ended.code == 0
    assert "nJ a token, estimated" in ended.out
    assert "matrix products alone" in ended.out
    assert "measured" in ended.out
