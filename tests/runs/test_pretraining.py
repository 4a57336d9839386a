"""`spikeformers.pretrain`: the verb's run, from Python."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import spikeformers
from spikeformers.errors import ConfigError, DataError, UsageError
from spikeformers.models import load_model
from spikeformers.runs import Recipe

from .conftest import SMALL, Listener, assignments, interrupted_at, record, same_runs, verb, weights

WD = "wd-spikingformer-tiny"


def test_the_run_is_that_of_the_verb(causal: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "verb" / "run"
    arguments = ("--preset", WD, "--data", text, "--tokenizer", "byte", "--out", out)
    verb("pretrain", *arguments, *assignments(SMALL))
    same_runs(out, causal)


def test_it_reports_to_callbacks_and_prints_nothing(
    text: Path, tmp_path: Path, listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    result = spikeformers.pretrain(
        WD, out=out, data=text, tokenizer="byte", settings=SMALL | {"steps": 2},
        **listener.callbacks,
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert listener.stages["training"] == (2, 2, "steps")
    assert {"looking at the text", "making the tokenizer"} < listener.stages.keys()
    assert [message.split()[0] for message in listener.messages] == [
        *("text", "tokens", "model", "training"),
    ]
    assert "2 steps of 128 tokens" in listener.messages[-1]
    assert "training: 2 of 2 steps" in (out / "progress.log").read_text()
    assert (result.verb, result.interrupted, result.out) == ("pretrain", False, out)
    assert result.training.tokens_seen == 2 * 4 * 32
    assert result.as_dict()["parameters"] == load_model(out)[0].num_parameters()
    assert set(result.as_dict()["validation"]) == {"loss", "perplexity", "bits_per_byte"}


def test_without_callbacks_nothing_is_printed_either(
    text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spikeformers.pretrain(
        WD, out=tmp_path / "run", data=text, tokenizer="byte", settings=SMALL | {"steps": 1}
    )
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_run_resumes_to_the_same_weights(
    causal: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with interrupted_at(4):
        result = spikeformers.pretrain(WD, out=out, data=text, tokenizer="byte", settings=SMALL)
    assert (result.interrupted, result.training.steps) == (True, 4)
    assert not (out / "config.json").exists()
    result = spikeformers.pretrain(out=out, resume=True)
    assert (result.interrupted, result.training.steps) == (False, 6)
    assert weights(out) == weights(causal)
    assert record(out)["config"] == record(causal)["config"]


def test_a_resume_falls_back_on_the_checkpoint_before_a_damaged_one(
    causal: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with interrupted_at(4):
        spikeformers.pretrain(
            WD, out=out, data=text, tokenizer="byte", settings=SMALL | {"save_every": 2}
        )
    newest = out / "checkpoints" / "step-0000004"
    (newest / "checkpoint.json").write_text("{")
    result = spikeformers.pretrain(out=out, resume=True)
    assert result.training.steps == 6
    assert weights(out) == weights(causal)
    assert (out / "checkpoints" / "damaged-step-0000004").is_dir()


@pytest.mark.parametrize("form", ["file", "mapping", "recipe"])
def test_a_recipe_is_a_file_a_mapping_or_a_recipe(form: str, text: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "preset": WD,
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "steps": 2},
        "train": {"steps": 50, "context": 32, "batch_size": 4, "eval_batches": 1, "device": "cpu"},
        "data": {"source": "nowhere.txt", "tokenizer": "byte"},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    sections = {key: dict(content[key]) for key in ("model", "train", "data")}
    forms = {"file": file, "mapping": content, "recipe": Recipe(WD, **sections)}
    out = tmp_path / "run"
    spikeformers.pretrain(out=out, data=text, recipe=forms[form], settings=["train.steps=1"])
    config = record(out)["config"]
    assert (config["steps"], config["batch_size"]) == (1, 4)
    assert record(out)["model"]["steps"] == 2
    assert record(out)["data"]["request"]["source"] == str(text)


def test_errors_have_types_and_nothing_is_written(causal: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="Did you mean 'wd-spikingformer-tiny'"):
        spikeformers.pretrain("wd-spikingformer-tinny", out=out, data=text)
    with pytest.raises(ConfigError, match="no preset was named"):
        spikeformers.pretrain(out=out, data=text)
    with pytest.raises(DataError, match="no text was named"):
        spikeformers.pretrain(WD, out=out)
    with pytest.raises(ConfigError, match=r"settings: unknown key 'stepps'.*'steps'"):
        spikeformers.pretrain(WD, out=out, data=text, settings={"stepps": 3})
    with pytest.raises(ConfigError, match="steps is 'many'; it must be a whole number"):
        spikeformers.pretrain(WD, out=out, data=text, settings={"steps": "many"})
    with pytest.raises(ConfigError, match="it must be key=value"):
        spikeformers.pretrain(WD, out=out, data=text, settings="steps")
    with pytest.raises(UsageError, match="nothing to resume"):
        spikeformers.pretrain(out=out, resume=True)
    assert not out.exists()
    before = weights(causal)
    with pytest.raises(UsageError, match="already holds a run"):
        spikeformers.pretrain(WD, out=causal, data=text)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01, now 0\.5"):
        spikeformers.pretrain(out=causal, resume=True, settings={"learning_rate": 0.5})
    with pytest.raises(UsageError, match="`spikeformers pretrain`"):
        spikeformers.runs.distill(out=causal, resume=True)
    assert weights(causal) == before


def test_a_folder_that_another_process_holds_is_refused(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    content: dict[str, Any] = dict.fromkeys(("boot", "began", "started", "command"), "")
    content |= {"pid": 1, "host": "elsewhere"}
    (out / "run.lock").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is held by process 1 on elsewhere"):
        spikeformers.pretrain(WD, out=out, data=text)
    assert os.listdir(out) == ["run.lock"]
