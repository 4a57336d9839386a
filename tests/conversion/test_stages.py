"""The stages of a conversion on tiny models: its folder, stopping and resuming, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from spikeformers.conversion import Rule, convert, finish, make_plan
from spikeformers.data import make_tokenizer
from spikeformers.errors import ConfigError, DataError, UsageError
from spikeformers.models import NeurTransformerForCausalLM

ARCHITECTURES = ("gpt2", "gpt_neox", "llama", "qwen2")
LARGEST = Rule("percentile", 100)
Dense = Callable[..., PreTrainedModel]


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer("byte")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_converted_folder_is_a_model(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    model = dense(kind)
    plan = make_plan(model, steps=4, attention="cwssa")
    out = tmp_path / "out"
    converted = convert(model, tokenizer, windows, plan, out)
    finish(out)
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors"),
        "modeling_spikeformers.py",
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    loaded = AutoModelForCausalLM.from_pretrained(out).eval()
    assert isinstance(loaded, NeurTransformerForCausalLM)
    with torch.no_grad():
        assert torch.equal(loaded(windows).logits, converted.model(windows).logits)
    assert [(row["layer"], row["part"]) for row in converted.layers] == [
        (0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp"),
    ]  # fmt: skip
    # What is not converted is the source's, bit for bit.
    ours = loaded.model.state_dict()
    for name, weight in model.state_dict().items():
        if "mlp" not in name and "att" not in name:
            assert torch.equal(ours[name], weight), name
    neurons = converted.layers[1]["neurons"]
    assert set(neurons) == {"fire_in", "fire_hidden"}
    assert 0 < neurons["fire_in"]["rate"] <= neurons["fire_in"]["density"] <= 1
    assert 0 <= neurons["fire_in"]["clipped"] < 0.5


def test_more_steps_come_closer(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path
) -> None:
    model = dense("llama")
    errors = []
    for steps in (1, 4, 32, 256):
        plan = make_plan(model, steps=steps, attention="kept")
        converted = convert(model, tokenizer, windows, plan, tmp_path / str(steps), rule=LARGEST)
        with torch.no_grad():
            errors.append(float((converted.model(windows).logits - model(windows).logits).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 50


def test_stops_and_resumes(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dense("gpt2")
    plan = make_plan(model, steps=4)
    whole = convert(model, tokenizer, windows, plan, tmp_path / "whole")
    out = tmp_path / "parts"

    def stop(stage: str, done: int, of: int) -> None:
        if (stage, done) == ("conversion", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(model, tokenizer, windows, plan, out, progress=stop)
    assert sorted(path.stem for path in (out / "conversion/converted").glob("*.json")) == [
        *("0.attention", "0.mlp"),
    ]
    with pytest.raises(UsageError, match="has not finished; --resume continues it"):
        convert(model, tokenizer, windows, plan, out)
    with pytest.raises(ConfigError, match="was begun with another config"):
        convert(model, tokenizer, windows, make_plan(model, steps=5), out, resume=True)
    with pytest.raises(ConfigError, match="was begun with another calibration_sha256"):
        convert(model, tokenizer, windows[:2], plan, out, resume=True)
    with pytest.raises(ConfigError, match="was begun with another rule"):
        convert(model, tokenizer, windows, plan, out, resume=True, rule=LARGEST)

    stages: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "spikeformers.conversion.stages.collect", lambda *_: pytest.fail("collected again")
    )
    converted = convert(
        model, tokenizer, windows, plan, out, resume=True,
        progress=lambda stage, done, of: stages.append((stage, done)),
    )  # fmt: skip
    assert stages == [("conversion", n) for n in (0, 1, 2, 3, 4)]
    assert converted.layers == whole.layers
    ours, theirs = converted.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_a_resume_finds_damaged_is_made_anew(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = dense("gpt2")
    plan = make_plan(model, steps=4)
    whole = convert(model, tokenizer, windows, plan, tmp_path / "whole")
    out = tmp_path / "parts"

    def stop(stage: str, done: int, of: int) -> None:
        if (stage, done) == ("conversion", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(model, tokenizer, windows, plan, out, progress=stop)
    folder = out / "conversion"
    for name in ("calibration/layer-000.safetensors", "converted/0.mlp.safetensors"):
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1  # a bit of a tensor: the file still opens
        (folder / name).write_bytes(content)
    record = folder / "converted" / "0.attention.json"
    record.write_text(record.read_text().replace('"cosine": 0', '"cosine": 1', 1))
    converted = convert(model, tokenizer, windows, plan, out, resume=True)
    for name in ("layer-000.safetensors", "0.mlp.safetensors", "0.attention.json"):
        assert f"{name} is damaged (its content is not what was written)" in caplog.text
    assert converted.layers == whole.layers
    ours, theirs = converted.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_calibration_ids_beyond_the_vocabulary_are_refused(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path
) -> None:
    model = dense("gpt2")
    windows = windows.clone()
    windows[-1, -1] = model.config.vocab_size
    with pytest.raises(DataError, match=f"token id {model.config.vocab_size}, and the model's"):
        convert(model, tokenizer, windows, make_plan(model, steps=4), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_machine_holds_is_refused(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path
) -> None:
    model = dense("gpt2")
    there = {"pid": 1, "host": "elsewhere", "boot": "x", "began": "", "started": "", "command": ""}
    (tmp_path / "run.lock").write_text(json.dumps(there))
    with pytest.raises(UsageError, match="is held by process 1 on elsewhere"):
        convert(model, tokenizer, windows, make_plan(model, steps=4), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_nothing_to_resume_and_a_taken_folder(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path
) -> None:
    model = dense("gpt2")
    plan = make_plan(model, steps=2)
    with pytest.raises(UsageError, match="Nothing to resume"):
        convert(model, tokenizer, windows, plan, tmp_path / "new", resume=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"already holds a model \(config.json\)"):
        convert(model, tokenizer, windows, plan, tmp_path / "taken")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        convert(model, tokenizer, windows, plan, tmp_path / "file")
    with pytest.raises(UsageError, match=r"below cannot be made: .*file is a file"):
        convert(model, tokenizer, windows, plan, tmp_path / "file/below")


def test_the_request_is_written_down(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path
) -> None:
    model = dense("gpt_neox")
    convert(model, tokenizer, windows, make_plan(model, steps=3), tmp_path)
    request = json.loads((tmp_path / "conversion/request.json").read_text())
    assert request["rule"] == {"name": "mse", "percentile": 99.9, "margin": 1.0}
    assert request["config"]["steps"] == 3
    assert request["config"]["source"]["model_type"] == "gpt_neox"


def test_an_adapter_is_merged_before_a_conversion(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path
) -> None:
    model = dense("gpt2")
    get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    with pytest.raises(ConfigError, match="2 maps have an adapter that is not merged"):
        convert(model, tokenizer, windows, make_plan(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()
