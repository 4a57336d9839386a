from __future__ import annotations

import pytest

from spikeformers.energy import energy_of
from spikeformers.models import load_model


def test_json_of_a_model_and_a_fresh_twin(spikeformers, causal, control, text):
    arguments = ("energy", "--no-measure", causal, "--data", text, "--tokens", 64, "--json")
    result = spikeformers(*arguments).json
    assert result["control_weights"] == "fresh"
    assert result["context"] == 32
    paper = result["paper"]
    assert paper["model"]["label"] == paper["control"]["label"] == "estimated"
    assert paper["model"]["tokens"] == paper["control"]["tokens"] == 64
    assert paper["model"]["density"] > 0
    assert paper["control"]["density"] is None
    assert paper["model"]["sop_per_token"] > 0  # each count is a spike: of a new model, many
    assert paper["control"]["macs_per_token"] > 0
    full = result["full"]
    assert list(full["model"]["formats"]) == ["fp32", "int8"]
    assert list(full["control"]["formats"]) == ["fp32", "fp16", "int8"]
    phases = [(entry["phase"], entry["context"]) for entry in full["model"]["formats"]["int8"]]
    assert phases == [(p, c) for p in ("decode", "prefill") for c in (128, 1024, 8192)]
    assert full["prices"]["name"] == "horowitz45"
    trained = spikeformers(*arguments, "--control", control).json
    assert trained["control_weights"] == str(control)
    # What a dense model costs does not depend on its weights.
    for part in ("picojoules_per_token", "with_elementwise_per_token"):
        assert trained["paper"]["control"][part] == paper["control"][part]
    assert trained["full"]["control"] == full["control"]


def test_the_sums_are_those_of_energy_of(spikeformers, causal, text):
    import torch

    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.studies import windows_of

    model, tokenizer = load_model(causal)
    split = tokenize_corpus(load_corpus(text), tokenizer).split("validation")
    windows = windows_of(split, 32, 96)
    assert sum(ids.numel() for ids in windows) == 96
    assert torch.equal(windows[0][0], torch.tensor(split.tokens[:32].astype("int64")))
    result = spikeformers(
        "energy", "--no-measure", causal, "--data", text, "--tokens", 96, "--json"
    ).json
    assert result["paper"]["model"] == energy_of(model, windows).as_dict()


def test_a_dense_model_has_nothing_beside_it(spikeformers, control, text):
    result = spikeformers(
        "energy", "--no-measure", control, "--data", text, "--tokens", 32, "--json"
    ).json
    assert result["control_weights"] is None
    for part in ("paper", "full"):
        assert result[part]["control"] is None
    assert list(result["full"]["model"]["formats"]) == ["fp32", "fp16", "int8"]
    assert result["full"]["sensitivity"] is None


@pytest.mark.parametrize("kind", ["causal", "masked", "control"])
def test_tables_say_estimated(spikeformers, request, text, kind):
    folder = request.getfixturevalue(kind)
    ended = spikeformers("energy", "--no-measure", folder, "--data", text, "--tokens", 32)
    assert ended.code == 0
    assert "nJ per token, estimated" in ended.out
    assert "matrix products alone" in ended.out
    assert "measured" in ended.out


def test_prices_of_a_file_and_contexts(spikeformers, causal, text, tmp_path):
    from importlib import resources

    packaged = resources.files("spikeformers.energy.pricing") / "price_tables" / "tpu7.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(packaged.read_text().replace("name: tpu7", "name: mine"))
    arguments = (
        "energy",
        "--no-measure",
        causal,
        "--data",
        text,
        "--tokens",
        32,
        "--contexts",
        "16,64",
        "--json",
    )
    full = spikeformers(*arguments, "--price", mine).json["full"]
    same = spikeformers(*arguments, "--price", "tpu7").json["full"]
    assert full["prices"]["name"] == "mine"
    assert full["model"] == same["model"]
    assert [entry["context"] for entry in full["model"]["formats"]["int8"]] == [16, 64, 16, 64]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--price", "horowitz54"), "Did you mean 'horowitz45'"),
        (("--contexts", "128;256"), "--contexts is a list"),
        (("--contexts", "0"), "--contexts is a list"),
    ],
)
def test_wrong_requests(spikeformers, causal, text, given, message):
    ended = spikeformers("energy", "--no-measure", causal, "--data", text, *given)
    assert ended.code == 2
    assert message in ended.err


def test_a_control_that_spikes_is_refused(spikeformers, causal, text):
    ended = spikeformers("energy", "--no-measure", causal, "--data", text, "--control", causal)
    assert ended.code == 2
    assert "must be a dense model" in ended.err
    assert "side by side" in ended.err


def test_a_report_of_several_models(spikeformers, causal, masked, control, text, tmp_path):
    import json

    folder = tmp_path / "report"
    ended = spikeformers(
        "energy",
        "--no-measure",
        causal,
        masked,
        control,
        "--data",
        text,
        "--tokens",
        64,
        "--report",
        folder,
    )
    assert ended.code == 0
    result = json.loads((folder / "energy.json").read_text())
    assert [entry["model"] for entry in result["models"]] == [
        str(causal),
        str(masked),
        str(control),
    ]
    assert [
        entry["phase"] for entry in result["models"][1]["full"]["model"]["formats"]["int8"]
    ] == ["pass"] * 3
    page = (folder / "energy.html").read_text()
    assert 'src="http' not in page
    assert page.count("data:image/png;base64,") == 2 * 8 + 3 - 1


def test_measured_joins_the_other_parts(spikeformers, causal, text):
    arguments = ("energy", causal, "--data", text, "--tokens", 32, "--json")
    result = spikeformers(*arguments).json
    assert list(result)[:3] == ["paper", "full", "measured"]
    assert result["measured"]["label"] == "measured"
    assert {"model", "control"} <= set(result["measured"])
