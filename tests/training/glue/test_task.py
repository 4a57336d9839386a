"""Fine-tuning through the training loop: it learns, resumes exactly, and pads harmlessly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spikeformers.data import make_tokenizer
from spikeformers.data.glue import TASKS, Examples, SentenceData
from spikeformers.errors import CheckpointError, ConfigError
from spikeformers.models import build_config, build_model, control_of, load_model
from spikeformers.models.classifier import load_classifier
from spikeformers.training import TrainConfig, train
from spikeformers.training.config import TrainConfig as Config
from spikeformers.training.distributed import World
from spikeformers.training.glue import SentenceFinetuning, SentenceStore, measure_run
from spikeformers.training.glue.examples import Encoded, ExampleBatches
from spikeformers.training.glue.outcome import submission
from spikeformers.training.glue.task import predict

CPU = torch.device("cpu")


def settings(**changes: Any) -> TrainConfig:
    usual: dict[str, Any] = {
        "steps": 60, "batch_size": 8, "context": 24, "learning_rate": 5e-3, "device": "cpu",
        "eval_every": 30, "save_every": 0, "weight_decay": 0.0, "log_every": 20,
    }  # fmt: skip
    return Config(**(usual | changes))


def toy(name: str = "sst2", pairs: bool = False) -> SentenceData:
    """Class 1 begins with x, class 0 with o; a score is how long the run is."""

    def part(count: int) -> Examples:
        texts, labels = [], []
        for n in range(count):
            label = n % 2
            texts.append((("x" if label else "o") * (3 + n % 5), "and")[: 2 if pairs else 1])
            labels.append(float(5 * label) if name == "stsb" else label)
        return Examples(texts, labels)  # type: ignore[arg-type]

    test = Examples([("xxx",), ("ooo",)] if not pairs else [("xxx", "a"), ("ooo", "a")], None)
    return SentenceData(TASKS[name], part(24), {"dev": part(11)}, {"test": test}, "toy")


@pytest.fixture
def pretrained(tmp_path: Path) -> Callable[..., Path]:
    """``pretrained("we")`` or ``"bert"``: the folder of a small masked model."""

    def make(kind: str = "we", **overrides: Any) -> Path:
        torch.manual_seed(2)
        tokenizer = make_tokenizer("byte", masked=True)
        sizes = {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 32,
        }  # fmt: skip
        config: Any = build_config("we-spikingformer-tiny", len(tokenizer), sizes | overrides)
        if kind != "we":
            config = control_of(config, "learned" if kind == "bert" else "rotary")
        config.pad_token_id = tokenizer.pad_token_id
        folder = tmp_path / f"pretrained-{kind}"
        build_model(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def run(folder: Path, out: Path, data: SentenceData, config: TrainConfig, **more: Any) -> Any:
    model, tokenizer = load_classifier(folder, data.task.labels, config.seed)
    task = SentenceFinetuning(model, {"started_from": "test"})
    return train(model, SentenceStore(data), tokenizer, out, config, task=task, progress=False,
                 **more)  # fmt: skip


@pytest.mark.parametrize("kind", ["we", "bert", "roformer"])
def test_it_learns_and_is_measured(pretrained: Any, tmp_path: Path, kind: str) -> None:
    data = toy()
    ended = run(pretrained(kind), tmp_path / "run", data, settings())
    assert ended.final_validation["accuracy"] == 1.0
    result = measure_run(tmp_path / "run", *load_model(tmp_path / "run"), data, {"commit": "c"})
    assert result["dev"]["accuracy"] == 1.0
    ones = sum(data.dev["dev"].labels or [])
    assert result["dev_majority"] == {"accuracy": max(ones, 11 - ones) / 11}
    assert result["predictions"] == {"dev": data.dev["dev"].labels, "test": [1, 0]}
    assert (tmp_path / "run/SST-2.tsv").read_text() == "index\tprediction\n0\t1\n1\t0\n"
    assert result["best_dev_step"]["accuracy"] == 1.0
    assert result["data_sha256"] == data.digest
    assert json.loads((tmp_path / "run/result.json").read_text()) == result


def test_regression(pretrained: Any, tmp_path: Path) -> None:
    data = toy("stsb", pairs=True)
    ended = run(pretrained(), tmp_path / "run", data, settings(steps=120))
    assert ended.final_validation["pearson"] > 0.9
    assert ended.final_validation["loss"] < 1
    result = measure_run(tmp_path / "run", *load_model(tmp_path / "run"), data, {})
    assert all(0 <= value <= 5 for value in result["predictions"]["dev"])
    first = (tmp_path / "run/STS-B.tsv").read_text().splitlines()[1]
    assert first == f"0\t{result['predictions']['test'][0]:.3f}"


def test_a_resumed_run_is_the_same_run(pretrained: Any, tmp_path: Path) -> None:
    folder, data = pretrained(), toy()
    config = settings(steps=10, save_every=4, eval_every=0)
    complete = run(folder, tmp_path / "whole", data, config)

    def stop(step: int, _: Any) -> None:
        if step == 5:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    stopped = run(folder, tmp_path / "parted", data, config, on_step=stop)
    assert stopped.interrupted
    assert stopped.steps < 10
    ended = run(folder, tmp_path / "parted", data, config, resume=True)
    assert ended.final_validation == complete.final_validation
    first, second = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parted")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(ConfigError, match=r"begun with another data: .*sha256"):
        run(folder, tmp_path / "parted", toy(pairs=True), config, resume=True)


@pytest.mark.parametrize("kind", ["we", "bert"])
def test_neighbours_and_padding_change_no_output(pretrained: Any, kind: str) -> None:
    model, tokenizer = load_classifier(pretrained(kind), ("no", "yes"), 0)
    encoded = Encoded(toy().train, tokenizer, 24)
    alone, _ = predict(model, encoded, 1, CPU)
    for size in (3, 24):
        together, _ = predict(model, encoded, size, CPU)
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_batches_are_a_function_of_seed_and_step(pretrained: Any) -> None:
    _, tokenizer = load_classifier(pretrained(), ("no", "yes"), 0)
    encoded = Encoded(toy().train, tokenizer, 24)
    config = settings(batch_size=10, gradient_accumulation=5)

    def batches(rank: int = 0, size: int = 1, **changes: Any) -> ExampleBatches:
        chosen = settings(batch_size=10, **changes)
        return ExampleBatches(encoded, chosen, World(rank, size, CPU, "single"))

    complete = batches()
    seen = np.concatenate([complete.numbers(step) for step in range(12)])
    for epoch in range(5):  # 24 examples each, all of them once
        assert sorted(seen[24 * epoch : 24 * (epoch + 1)]) == list(range(24))
    assert list(seen[:24]) != list(seen[24:48])
    ranks = [batches(rank, 2).of(3)[0].starts for rank in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(ranks), complete.numbers(3))
    parts = ExampleBatches(encoded, config, World(0, 1, CPU, "single")).of(3)
    np.testing.assert_array_equal(np.concatenate([p.starts for p in parts]), complete.numbers(3))
    assert list(batches(seed=1).numbers(0)) != list(complete.numbers(0))


def test_what_is_refused(pretrained: Any, tmp_path: Path) -> None:
    folder = pretrained()
    with pytest.raises(ConfigError, match="context is 64; this model takes at most 32"):
        run(folder, tmp_path / "run", toy(), settings(context=64))
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_classifier(tmp_path / "none", ("no", "yes"), 0)
    causal = build_model(build_config("wd-spikingformer-tiny", 300))
    causal.save_pretrained(tmp_path / "wd")
    with pytest.raises(ConfigError, match="does not predict masked tokens"):
        load_classifier(tmp_path / "wd", ("no", "yes"), 0)


def test_submission_names_the_classes() -> None:
    assert submission(TASKS["rte"], [1, 0]).splitlines()[1:] == [
        "0\tnot_entailment",
        "1\tentailment",
    ]
    assert submission(TASKS["mnli"], [2]).splitlines()[1:] == ["0\tcontradiction"]
    assert TASKS["mnli"].submission == ("MNLI-m.tsv", "MNLI-mm.tsv")
