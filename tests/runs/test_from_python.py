"""The other runs from Python: each leaves the folder that its verb leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import spikeformers
from spikeformers import runs
from spikeformers.conversion import Rule
from spikeformers.errors import ConfigError, DataError, UsageError
from spikeformers.models import load_model, load_vision_model

from .conftest import (
    SMALL,
    Listener,
    assignments,
    files_of,
    interrupted_at,
    record,
    same_runs,
    verb,
    weights,
)

WD = "wd-spikingformer-tiny"
TUNING = {"steps": 2, "batch_size": 2, "context": 16, "eval_batches": 1, "save_every": 1}
IMAGES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "model.steps": 2, "steps": 4, "batch_size": 8, "learning_rate": 0.01, "save_every": 2,
    "device": "cpu", "validation_fraction": 0.2,
}  # fmt: skip


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("machine", "versions")}


@pytest.fixture(scope="module")
def spiking(twin: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense twin, converted from Python."""
    out = tmp_path_factory.mktemp("spiking") / "model"
    spikeformers.convert(
        twin, out=out, calibration=text, settings={"steps": 4, "attention": "cwssa"},
        calibration_tokens=128, tokens=256, context=16,
    )  # fmt: skip
    return out


def test_distillation(twin: Path, text: Path, tmp_path: Path, listener: Listener) -> None:
    out, of_verb = tmp_path / "python", tmp_path / "verb"
    short = SMALL | {"steps": 3}
    arguments = ("--teacher", twin, "--student", WD, "--data", text, "--without", "saa")
    verb("distill", *arguments, "--out", of_verb, *assignments(short))
    result = spikeformers.distill(
        WD, twin, out=out, data=text, without=["saa"], settings=short, **listener.callbacks
    )
    same_runs(out, of_verb)
    assert result.verb == "distill"
    assert {"teacher_agreement", "teacher_kl"} < result.training.final_validation.keys()
    assert listener.messages[0].startswith(f"teacher   {twin}: gpt_neox, ")
    assert listener.stages["training"] == (3, 3, "steps")
    assert "| terms | ea 0.2, sfa 0.1, sta 0.3, hta 0.3 |" in (out / "README.md").read_text()


def test_an_interrupted_distillation_resumes_to_the_same_weights(
    twin: Path, text: Path, tmp_path: Path
) -> None:
    short, whole = SMALL | {"steps": 3}, tmp_path / "whole"
    runs.distill(WD, twin, out=whole, data=text, settings=short)
    out = tmp_path / "run"
    with interrupted_at(2):
        assert runs.distill(WD, twin, out=out, data=text, settings=short).interrupted
    assert not runs.distill(out=out, resume=True).interrupted
    assert weights(out) == weights(whole)


def test_distillation_refuses_by_type(twin: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="no teacher was named"):
        runs.distill(WD, out=out, data=text)
    with pytest.raises(ConfigError, match="Unknown term 'sas'"):
        runs.distill(WD, twin, out=out, data=text, without=["sas"])
    with pytest.raises(ConfigError, match="predicts masked tokens"):
        runs.distill("we-spikingformer-tiny", twin, out=out, data=text)
    assert not out.exists()


def test_conversion(
    spiking: Path, twin: Path, text: Path, tmp_path: Path, listener: Listener
) -> None:
    of_verb, again = tmp_path / "verb", tmp_path / "again"
    arguments = ("--calibration-tokens", 128, "--tokens", 256, "--context", 16)
    options = ("--steps", 4, "--attention", "cwssa")
    verb("convert", twin, "--calibration", text, "--out", of_verb, *options, *arguments)
    assert files_of(spiking) == files_of(of_verb)
    assert weights(spiking) == weights(of_verb)
    reports = [json.loads((out / "report.json").read_text()) for out in (spiking, of_verb)]
    assert untimed(reports[0]) == untimed(reports[1])
    result = runs.convert(
        str(twin), out=again, calibration=str(text), settings=["steps=4", "attention=cwssa"],
        rule=Rule(), calibration_tokens=128, tokens=256, context=16, **listener.callbacks,
    )  # fmt: skip
    assert result.report is not None
    assert untimed(result.report) == untimed(reports[0])
    assert result.model is not None
    assert result.model.config.steps == 4
    assert listener.stages["conversion"] == (4, 4, "")
    assert "conversion: 4 of 4 (100 %)" in (again / "progress.log").read_text()
    assert any("GPTNeoXMLP -> SpikingFeedForward" in message for message in listener.messages)


def test_a_plan_alone_writes_nothing(twin: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    result = spikeformers.convert(twin, out=out, calibration=text, plan_only=True)
    assert [row.becomes for row in result.plan.rows[:2]] == [
        *("SpikingSelfAttention", "SpikingFeedForward"),
    ]
    assert (result.model, result.report) == (None, None)
    assert not out.exists()


def test_conversion_refuses_by_type(twin: Path, text: Path, spiking: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="Did you mean 'steps'"):
        runs.convert(twin, out=out, calibration=text, settings={"stepps": 4})
    with pytest.raises(ConfigError, match="at most 32 tokens"):
        runs.convert(twin, out=out, calibration=text, context=4096)
    with pytest.raises(UsageError, match="Nothing to resume"):
        runs.convert(twin, out=out, calibration=text, resume=True)
    with pytest.raises(UsageError, match="already holds a model"):
        runs.convert(twin, out=spiking, calibration=text)
    with pytest.raises(DataError, match=r"none\.txt"):
        runs.convert(twin, out=out, calibration=tmp_path / "none.txt")
    assert not (out / "config.json").exists()


def test_tuning(spiking: Path, twin: Path, text: Path, tmp_path: Path, listener: Listener) -> None:
    out, of_verb = tmp_path / "python", tmp_path / "verb"
    arguments = ("--data", text, "--teacher", twin, "--train", "norms", "--out", of_verb)
    verb("finetune-attention", spiking, *arguments, *assignments(TUNING))
    result = spikeformers.finetune_attention(
        spiking, data=text, out=out, teacher=twin, part="norms", settings=TUNING,
        **listener.callbacks,
    )  # fmt: skip
    same_runs(out, of_verb)
    assert record(out)["data"]["request"]["part"] == "norms"
    assert (result.verb, result.training.steps) == ("finetune-attention", 2)
    assert listener.stages["training"] == (2, 2, "steps")
    longer = spikeformers.finetune_attention(spiking, out=out, resume=True, settings=["steps=3"])
    assert longer.training.steps == 3
    with pytest.raises(UsageError, match="give it with --teacher"):
        runs.finetune_attention(spiking, data=text, out=tmp_path / "x", transfer=True)
    with pytest.raises(UsageError, match="no text was named"):
        runs.finetune_attention(spiking)
    assert not (spiking / "tuned").exists()


def test_images(stripes: Path, tmp_path: Path, listener: Listener) -> None:
    out, of_verb = tmp_path / "python", tmp_path / "verb"
    arguments = ("--preset", "a2os2a-digits", "--data", stripes, "--out", of_verb)
    verb("train-vision", *arguments, *assignments(IMAGES))
    with interrupted_at(2):
        stopped = spikeformers.train_vision("a2os2a-digits", out=out, data=stripes, settings=IMAGES)
    assert (stopped.interrupted, stopped.training.steps) == (True, 2)
    result = spikeformers.train_vision(out=out, resume=True, **listener.callbacks)
    assert weights(out) == weights(of_verb)
    assert record(out) == record(of_verb)
    assert (result.unit, result.as_dict()["images_seen"]) == ("image", 4 * 8)
    assert set(result.training.final_validation) == {"loss", "accuracy"}
    assert listener.messages[0].startswith("images    ")
    assert load_vision_model(out).config.num_labels == 3
    with pytest.raises(ConfigError, match="reads text: use spikeformers pretrain"):
        runs.train_vision(WD, out=tmp_path / "x", data=stripes)
    with pytest.raises(DataError, match="no images were named"):
        runs.train_vision("a2os2a-digits", out=tmp_path / "x")


def test_sentences(text: Path, sst2: Path, tmp_path: Path, listener: Listener) -> None:
    masked, out, of_verb = tmp_path / "masked", tmp_path / "python", tmp_path / "verb"
    runs.pretrain(
        "we-spikingformer-tiny", out=masked, data=text, tokenizer="byte",
        settings=SMALL | {"steps": 1},
    )  # fmt: skip
    short = {"steps": 2, "batch_size": 4, "context": 24, "device": "cpu", "log_every": 2}
    arguments = ("--task", "sst2", "--data-dir", sst2, "--out", of_verb)
    verb("finetune", masked, *arguments, *assignments(short))
    result = spikeformers.finetune(
        masked, "sst2", out=out, data_dir=sst2, settings=short, **listener.callbacks
    )
    assert result.summary == json.loads((out / "glue.json").read_text())
    theirs = json.loads((of_verb / "glue.json").read_text())
    assert result.summary["tasks"] == theirs["tasks"]
    assert weights(out / "sst2/seed-0") == weights(of_verb / "sst2/seed-0")
    assert files_of(out) == files_of(of_verb)
    assert listener.stages["scoring dev"] == (12, 12, "examples")
    assert listener.messages == [
        f"sst2, seed 0: 12 examples, 2 steps of 4; {result.summary['runs'][0]['origin']}"
    ]
    assert runs.score_finetuned(out) == result.summary
    assert runs.score_finetuned(out, again=True, data_dir=sst2)["tasks"] == theirs["tasks"]
    again = spikeformers.finetune(
        masked, "sst2", out=out, data_dir=sst2, settings=short, resume=True
    )
    assert again.summary == result.summary
    with pytest.raises(ConfigError, match="only fields of TrainConfig"):
        runs.finetune(masked, "sst2", out=out, data_dir=sst2, settings={"levels": 4})
    with pytest.raises(UsageError, match="no finished run"):
        runs.score_finetuned(sst2)


def test_a_demo_begins_only_where_it_may(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        spikeformers.demo(tmp_path / "none", resume=True)
    with pytest.raises(UsageError, match="exclude each other"):
        spikeformers.demo(tmp_path / "none", resume=True, overwrite=True)
    mine = tmp_path / "mine"
    (mine / "spiking").mkdir(parents=True)
    with pytest.raises(UsageError, match="no demo wrote"):
        spikeformers.demo(mine)


def test_the_spiking_model_of_a_run_is_the_one_in_its_folder(causal: Path, text: Path) -> None:
    result = spikeformers.pretrain(out=causal, resume=True)
    kept = load_model(causal)[0].state_dict()
    assert all(value.equal(kept[key]) for key, value in result.model.state_dict().items())
