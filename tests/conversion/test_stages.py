"""Conversion of tiny models, module by module against references written out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from spikeformers.conversion import Rule, convert, convert_module, finish, make_plan
from spikeformers.conversion.calibration import Sample, collect, read_sample
from spikeformers.data import make_tokenizer
from spikeformers.errors import ConfigError, DataError, UsageError
from spikeformers.models import NeurTransformerForCausalLM

ARCHITECTURES = ("gpt2", "gpt_neox", "llama", "qwen2")
LARGEST = Rule("percentile", 100)
Dense = Callable[..., PreTrainedModel]


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer("byte")


def counted(x: Tensor, theta: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """round(x / s).clamp(-T, T), halves away from zero, and s = theta / T by sign."""
    s = (theta[0] if len(theta) == 1 else torch.where(x >= 0, theta[0], theta[1])) / steps
    return ((x / s).abs() + 0.5).floor().clamp(max=steps) * x.sign(), s


def said(x: Tensor, theta: Tensor, steps: int) -> Tensor:
    """The value of the counts."""
    count, s = counted(x, theta, steps)
    return count * s


def sample_of(model: PreTrainedModel, windows: Tensor, folder: Path, layer: int) -> Sample:
    collect(model, windows, folder)
    return read_sample(folder, layer)


def feed_forward(model: PreTrainedModel, layer: int, x: Tensor, through: Any) -> Tensor:
    """The dense feed-forward block by its formula; ``through(name, value)`` at both points."""
    kind = model.config.model_type
    mlp: Any
    x = through("fire_in", x)
    if kind == "gpt2":
        mlp = model.transformer.h[layer].mlp
        h = F.gelu(x @ mlp.c_fc.weight + mlp.c_fc.bias, approximate="tanh")
        return through("fire_hidden", h) @ mlp.c_proj.weight + mlp.c_proj.bias
    if kind == "gpt_neox":
        mlp = model.gpt_neox.layers[layer].mlp
        up, down = mlp.dense_h_to_4h, mlp.dense_4h_to_h
        h = F.gelu(x @ up.weight.t() + up.bias)
        return through("fire_hidden", h) @ down.weight.t() + down.bias
    mlp = model.model.layers[layer].mlp
    h = F.silu(x @ mlp.gate_proj.weight.t()) * (x @ mlp.up_proj.weight.t())
    return through("fire_hidden", h) @ mlp.down_proj.weight.t()


@torch.no_grad()
@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("ffn", ["signed-if", "ni-lif"])
def test_feed_forward_against_its_formula(
    dense: Dense, windows: Tensor, tmp_path: Path, kind: str, ffn: str
) -> None:
    model = dense(kind)
    sample = sample_of(model, windows, tmp_path, 1)
    plan = make_plan(model, ffn=ffn, attention="kept", steps=8)
    module: Any = convert_module(model, plan.config, 1, "mlp", sample, LARGEST)

    plain = feed_forward(model, 1, sample.mlp_in, lambda _, x: x)
    torch.testing.assert_close(plain, sample.mlp_out, atol=1e-4, rtol=1e-4)

    inputs = sample.mlp_in.flatten(0, 1)
    on, off = inputs.amax(0), (-inputs).amax(0)
    wanted = torch.stack((torch.where(on > 0, on, off), torch.where(off > 0, off, on)))
    assert torch.equal(module.fire_in.threshold, wanted)

    spiking = feed_forward(
        model, 1, sample.mlp_in, lambda name, x: said(x, getattr(module, name).threshold, 8)
    )
    torch.testing.assert_close(module(sample.mlp_in), spiking, atol=2e-4, rtol=1e-4)
    assert 0.001 < float((spiking - plain).norm() / plain.norm()) < 0.2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_qcfs_against_its_formula(dense: Dense, windows: Tensor, tmp_path: Path, kind: str) -> None:
    model = dense(kind)
    sample = sample_of(model, windows, tmp_path, 0)
    plan = make_plan(model, ffn="qcfs", attention="kept", steps=4)
    module: Any = convert_module(model, plan.config, 0, "mlp", sample, Rule())
    x = said(sample.mlp_in, module.fire_in.threshold, 4)
    theta = module.fire_act.threshold[0]

    def h(z: Tensor) -> Tensor:
        return theta * (z * 4 / theta + 0.5).floor().clamp(0, 4) / 4

    if kind == "gpt2":
        mlp: Any = model.transformer.h[0].mlp
        z = x @ mlp.c_fc.weight + mlp.c_fc.bias
        left = (F.gelu(z, approximate="tanh") - h(z)).flatten(0, 1).mean(0)
        expected = (h(z) + left) @ mlp.c_proj.weight + mlp.c_proj.bias
    else:
        mlp = model.model.layers[0].mlp
        product = h(x @ mlp.gate_proj.weight.t()) * (x @ mlp.up_proj.weight.t())
        expected = said(product, module.fire_hidden.threshold, 4) @ mlp.down_proj.weight.t()
    torch.testing.assert_close(module(sample.mlp_in), expected, atol=2e-4, rtol=1e-4)


def heads(x: Tensor, weight: Tensor, bias: Tensor | None, width: int) -> Tensor:
    y = x @ weight.t() if bias is None else x @ weight.t() + bias
    return y.unflatten(-1, (-1, width)).transpose(1, 2)


def turned(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions, pair by pair."""
    cos, sin = rotary[0][0], rotary[1][0]
    half = cos.shape[-1] // 2
    y = x.clone()
    for c in range(half):
        a, b = x[..., c], x[..., c + half]
        y[..., c] = a * cos[:, c] - b * sin[:, c]
        y[..., c + half] = b * cos[:, c + half] + a * sin[:, c + half]
    return y


def projections(model: PreTrainedModel, layer: int, x: Tensor, sample: Sample) -> list[Tensor]:
    """q, k, v ``[B, H, T, K]`` of the dense model, by its own layout, k and v repeated."""
    kind = model.config.model_type
    if kind == "gpt2":
        fused = model.transformer.h[layer].attn.c_attn
        parts = (x @ fused.weight + fused.bias).split(16, -1)
        return [one.unflatten(-1, (4, 4)).transpose(1, 2) for one in parts]
    if kind == "gpt_neox":
        fused = model.gpt_neox.layers[layer].attention.query_key_value
        qkv = (x @ fused.weight.t() + fused.bias).unflatten(-1, (4, 12)).transpose(1, 2)
        q, k, v = qkv.split(4, -1)
    else:
        own = model.model.layers[layer].self_attn
        q, k, v = (heads(x, p.weight, p.bias, 4) for p in (own.q_proj, own.k_proj, own.v_proj))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    assert sample.rotary is not None
    return [turned(q, sample.rotary), turned(k, sample.rotary), v]


def out_weight(model: PreTrainedModel, layer: int) -> tuple[Tensor, Any]:
    kind = model.config.model_type
    if kind == "gpt2":
        out = model.transformer.h[layer].attn.c_proj
        return out.weight.t(), out.bias
    if kind == "gpt_neox":
        out = model.gpt_neox.layers[layer].attention.dense
    else:
        out = model.model.layers[layer].self_attn.o_proj
    return out.weight, out.bias


def repeated(theta: Tensor, count: int) -> Tensor:
    """Thresholds of key-value heads for each query head."""
    return theta.repeat_interleave(count // theta.shape[1], 1)


@torch.no_grad()
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_hard_winners_against_their_formula(
    dense: Dense, windows: Tensor, tmp_path: Path, kind: str
) -> None:
    """The value of the key with the largest score, times the least-squares gain, into W_o."""
    model = dense(kind)
    sample = sample_of(model, windows, tmp_path, 1)
    plan = make_plan(model, ffn="kept", attention="cwssa", steps=16)
    module: Any = convert_module(model, plan.config, 1, "attention", sample, LARGEST)
    x = said(sample.attention_in, module.fire_in.threshold, 16)
    q, k, v = projections(model, 1, x, sample)
    # Counts, whose products are whole numbers and tie exactly.
    q_said, q_unit = counted(q, module.fire_query.threshold, 16)
    k_said, k_unit = counted(k, repeated(module.fire_key.threshold, 4), 16)
    v_said = said(v, repeated(module.fire_value.threshold, 4), 16)
    coincidences = q_said @ k_said.transpose(-1, -2)
    scores = coincidences * q_unit * k_unit / 2  # head width 4
    seen = torch.ones(12, 12, dtype=torch.bool).tril()
    won = coincidences.masked_fill(~seen, -torch.inf).argmax(-1)
    rows = v_said.gather(2, won.unsqueeze(-1).expand(-1, -1, -1, 4))
    rows = rows.transpose(1, 2).flatten(2)
    soft = (q @ k.transpose(-1, -2) / 2).masked_fill(~seen, -torch.inf).softmax(-1) @ v
    soft = soft.transpose(1, 2).flatten(2)
    gain = (rows * soft).sum((0, 1)) / rows.square().sum((0, 1))
    weight, bias = out_weight(model, 1)
    expected = (rows * gain) @ weight.t() + (0 if bias is None else bias)
    given = module(sample.attention_in, position_embeddings=sample.rotary)[0]
    torch.testing.assert_close(given, expected, atol=2e-4, rtol=1e-3)
    # The factor on the counts makes the scores of the backward pass the source's.
    counts = module.spikes(*module.currents(sample.attention_in, sample.rotary))
    grouped = counts[1].repeat_interleave(4 // counts[1].shape[2], 2)
    torch.testing.assert_close(
        module.core.scores(counts[0], grouped, None)[0], scores, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ssa_against_its_formula(dense: Dense, windows: Tensor, tmp_path: Path, kind: str) -> None:
    model = dense(kind)
    sample = sample_of(model, windows, tmp_path, 0)
    plan = make_plan(model, ffn="kept", attention="ssa", steps=8)
    module: Any = convert_module(model, plan.config, 0, "attention", sample, LARGEST)
    x = said(sample.attention_in, module.fire_in.threshold, 8)
    q, k, v = projections(model, 0, x, sample)
    # Counts of q and k, values of v: the head's norm takes any factor on the scores.
    q = said(q, module.fire_query.threshold, 8)
    k = said(k, repeated(module.fire_key.threshold, 4), 8)
    v = said(v, repeated(module.fire_value.threshold, 4), 8)
    y = (q @ k.transpose(-1, -2)).tril() @ v
    units = module.fire_query.threshold * repeated(module.fire_key.threshold, 4) / 64
    y = y / units[0] * 0.125
    y = y * (y.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt()
    y = y.transpose(1, 2).flatten(2) * module.gain
    weight, bias = out_weight(model, 0)
    fired = said(y, module.fire_out.threshold, 8)
    expected = fired @ weight.t() + (0 if bias is None else bias)
    given = module(sample.attention_in, position_embeddings=sample.rotary)[0]
    torch.testing.assert_close(given, expected, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_converted_folder_is_a_model(
    dense: Dense, windows: Tensor, tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    model = dense(kind)
    plan = make_plan(model, steps=4, attention="cwssa")
    out = tmp_path / "out"
    found = convert(model, tokenizer, windows, plan, out)
    finish(out)
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors"),
        "modeling_spikeformers.py",
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    loaded = AutoModelForCausalLM.from_pretrained(out).eval()
    assert isinstance(loaded, NeurTransformerForCausalLM)
    with torch.no_grad():
        assert torch.equal(loaded(windows).logits, found.model(windows).logits)
    assert [(one["layer"], one["part"]) for one in found.layers] == [
        (0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp"),
    ]  # fmt: skip
    # What is not converted is the source's, bit for bit.
    ours = loaded.model.state_dict()
    for name, weight in model.state_dict().items():
        if "mlp" not in name and "att" not in name:
            assert torch.equal(ours[name], weight), name
    neurons = found.layers[1]["neurons"]
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
        found = convert(model, tokenizer, windows, plan, tmp_path / str(steps), rule=LARGEST)
        with torch.no_grad():
            errors.append(float((found.model(windows).logits - model(windows).logits).norm()))
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
    found = convert(
        model, tokenizer, windows, plan, out, resume=True,
        progress=lambda stage, done, of: stages.append((stage, done)),
    )  # fmt: skip
    assert stages == [("conversion", n) for n in (0, 1, 2, 3, 4)]
    assert found.layers == whole.layers
    ours, theirs = found.model.state_dict(), whole.model.state_dict()
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
    found = convert(model, tokenizer, windows, plan, out, resume=True)
    for name in ("layer-000.safetensors", "0.mlp.safetensors", "0.attention.json"):
        assert f"{name} is damaged (its content is not what was written)" in caplog.text
    assert found.layers == whole.layers
    ours, theirs = found.model.state_dict(), whole.model.state_dict()
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
