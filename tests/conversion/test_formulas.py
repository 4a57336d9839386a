"""Converted modules of tiny models, each against its formula, written out here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from spikeformers.conversion import Rule, convert_module, make_plan
from spikeformers.conversion.calibration import Sample, collect, read_sample

ARCHITECTURES = ("gpt2", "gpt_neox", "llama", "qwen2")
LARGEST = Rule("percentile", 100)
Dense = Callable[..., PreTrainedModel]


def counted(x: Tensor, theta: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """round(x / s).clamp(-T, T), halves away from zero, and s = theta / T by sign."""
    s = (theta[0] if len(theta) == 1 else torch.where(x >= 0, theta[0], theta[1])) / steps
    return ((x / s).abs() + 0.5).floor().clamp(max=steps) * x.sign(), s


def decoded(x: Tensor, theta: Tensor, steps: int) -> Tensor:
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
    expected = torch.stack((torch.where(on > 0, on, off), torch.where(off > 0, off, on)))
    assert torch.equal(module.fire_in.threshold, expected)

    spiking = feed_forward(
        model, 1, sample.mlp_in, lambda name, x: decoded(x, getattr(module, name).threshold, 8)
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
    x = decoded(sample.mlp_in, module.fire_in.threshold, 4)
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
        expected = decoded(product, module.fire_hidden.threshold, 4) @ mlp.down_proj.weight.t()
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
        return [part.unflatten(-1, (4, 4)).transpose(1, 2) for part in parts]
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
    x = decoded(sample.attention_in, module.fire_in.threshold, 16)
    q, k, v = projections(model, 1, x, sample)
    # Counts, whose products are whole numbers and tie exactly.
    q_count, q_unit = counted(q, module.fire_query.threshold, 16)
    k_count, k_unit = counted(k, repeated(module.fire_key.threshold, 4), 16)
    v_values = decoded(v, repeated(module.fire_value.threshold, 4), 16)
    coincidences = q_count @ k_count.transpose(-1, -2)
    scores = coincidences * q_unit * k_unit / 2  # head width 4
    seen = torch.ones(12, 12, dtype=torch.bool).tril()
    won = coincidences.masked_fill(~seen, -torch.inf).argmax(-1)
    rows = v_values.gather(2, won.unsqueeze(-1).expand(-1, -1, -1, 4))
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
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_weights_by_powers_of_two_are_softmaxs_rounded(
    dense: Dense, windows: Tensor, tmp_path: Path, kind: str
) -> None:
    """The more digits a weight has, the less is lost; what remains is the rounding of counts."""
    model = dense(kind)
    sample = sample_of(model, windows, tmp_path, 1)
    q, k, v = projections(model, 1, sample.attention_in, sample)
    seen = torch.ones(12, 12, dtype=torch.bool).tril()
    soft = (q @ k.transpose(-1, -2) / 2).masked_fill(~seen, -torch.inf).softmax(-1) @ v
    weight, bias = out_weight(model, 1)
    expected = soft.transpose(1, 2).flatten(2) @ weight.t() + (0 if bias is None else bias)
    errors = []
    for digits in (1, 2, 4):
        choices: dict[str, Any] = {"attention": "power-of-two", "weight_digits": digits}
        plan = make_plan(model, ffn="kept", steps=8, code="phase", **choices)
        module: Any = convert_module(model, plan.config, 1, "attention", sample, LARGEST)
        given = module(sample.attention_in, position_embeddings=sample.rotary)[0]
        errors.append(float((given - expected).norm() / expected.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.1
    assert errors[2] < 0.05


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ssa_against_its_formula(dense: Dense, windows: Tensor, tmp_path: Path, kind: str) -> None:
    model = dense(kind)
    sample = sample_of(model, windows, tmp_path, 0)
    plan = make_plan(model, ffn="kept", attention="ssa", steps=8)
    module: Any = convert_module(model, plan.config, 0, "attention", sample, LARGEST)
    x = decoded(sample.attention_in, module.fire_in.threshold, 8)
    q, k, v = projections(model, 0, x, sample)
    # Counts of q and k, values of v: the head's norm takes any factor on the scores.
    q = decoded(q, module.fire_query.threshold, 8)
    k = decoded(k, repeated(module.fire_key.threshold, 4), 8)
    v = decoded(v, repeated(module.fire_value.threshold, 4), 8)
    y = (q @ k.transpose(-1, -2)).tril() @ v
    units = module.fire_query.threshold * repeated(module.fire_key.threshold, 4) / 64
    y = y / units[0] * 0.125
    y = y * (y.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt()
    y = y.transpose(1, 2).flatten(2) * module.gain
    weight, bias = out_weight(model, 0)
    fired = decoded(y, module.fire_out.threshold, 8)
    expected = fired @ weight.t() + (0 if bias is None else bias)
    given = module(sample.attention_in, position_embeddings=sample.rotary)[0]
    torch.testing.assert_close(given, expected, atol=3e-4, rtol=1e-3)
