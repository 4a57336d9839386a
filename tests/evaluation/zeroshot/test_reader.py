"""Scores of the engine beside those of PyTorch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
pytest.importorskip("spikeformers.kernels._native")

from spikeformers.engine import Engine
from spikeformers.errors import CheckpointError, ConfigError
from spikeformers.evaluation.zeroshot.reader import ReaderLM
from spikeformers.evaluation.zeroshot.run import Zeroshot
from spikeformers.evaluation.zeroshot.scorer import SpikeformersLM
from spikeformers.export import pack
from spikeformers.neurons import neurons_of
from spikeformers.studies.engine_reader import EngineReader, tokenizer_of

LONG = "all is quiet then it fires again and " * 12
TEXTS = [
    ("the spike", " wins"),
    ("the spike", " w"),
    ("", "a neuron"),
    ("a trailing space ", "stays"),
    (LONG, " x"),  # cut at its left
    ("the spike", LONG),  # in windows
]


@pytest.fixture
def sides(small: Any) -> tuple[Any, Any, Any, Any]:
    """A spiking model and its tokenizer, and the same from an engine in fp32."""
    model, tokenizer = small("wd")
    engine = Engine(pack(model, tokenizer, "fp32"), threads=1)
    return model, tokenizer, EngineReader(engine), tokenizer_of(engine)


def test_log_likelihoods_are_pytorchs(sides: Any) -> None:
    model, tokenizer, reader, own = sides
    result, expected = ReaderLM(reader, own), SpikeformersLM(model, tokenizer, batch_size=1)
    request = [SimpleNamespace(args=pair, task_name="test") for pair in TEXTS]
    for (value, greedy), (theirs, so) in zip(
        result.loglikelihood(request), expected.loglikelihood(request), strict=True
    ):
        assert value == pytest.approx(theirs, abs=1e-3, rel=1e-6)
        assert greedy == so
    assert result.notes == expected.notes
    assert result.notes["truncated"] == result.notes["split"] == 1
    rolling = [SimpleNamespace(args=(LONG,))]
    assert result.loglikelihood_rolling(rolling) == pytest.approx(
        expected.loglikelihood_rolling(rolling), rel=1e-6
    )


def test_an_entry_has_as_many_parameters_whatever_their_bits(small: Any) -> None:
    model, tokenizer = small("wd")
    of = {
        weights: EngineReader(Engine(pack(model, None, weights), threads=1)).record("x", tokenizer)
        for weights in ("fp32", "int8", "int4")
    }
    assert {each["parameters"] for each in of.values()} == {of["fp32"]["parameters"]}
    assert {name: each["dtype"] for name, each in of.items()} == {name: name for name in of}


@pytest.mark.parametrize("task", ["arc_easy", "hellaswag", "lambada_openai"])
def test_tasks_score_as_in_pytorch(sides: Any, sets: Path, task: str, tmp_path: Path) -> None:
    model, tokenizer, reader, own = sides
    spikes = Zeroshot("spikes", reader, own, cache_dir=tmp_path)
    other = Zeroshot("spikes", model, tokenizer, cache_dir=tmp_path)
    result, expected = (side.run(task, data_dir=sets) for side in (spikes, other))
    for metric, values in expected.metrics.items():
        assert result.metrics[metric]["value"] == pytest.approx(values["value"], rel=1e-5)
    assert result.docs_sha256 == expected.docs_sha256
    assert (spikes.record["class"], spikes.record["dtype"]) == ("Engine", "fp32")
    # A file's tensors: thresholds and gains of neurons stand in its description.
    of_neurons = sum(p.numel() for n in neurons_of(model).values() for p in n.parameters())
    assert spikes.record["parameters"] == model.num_parameters() - of_neurons
    assert (spikes.settings["device"], spikes.settings["batch_size"]) == ("engine", 1)
    assert spikes.record["weights_sha256"] != other.record["weights_sha256"]  # no score is shared


def test_refusals(sides: Any) -> None:
    model, _, reader, own = sides
    with pytest.raises(ConfigError, match="--cached is for PyTorch models"):
        ReaderLM(reader, own, cached=True)
    with pytest.raises(ConfigError, match="this model takes 2 to 256"):
        Zeroshot("spikes", reader, own, max_length=300)
    with pytest.raises(CheckpointError, match="without a tokenizer"):
        tokenizer_of(Engine(pack(model, None, "fp32"), threads=1))
