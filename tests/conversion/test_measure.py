"""What a module's record says, against counts made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from spikeformers.conversion import Rule, convert_module, make_plan
from spikeformers.conversion.calibration import collect, read_sample
from spikeformers.conversion.measure import changed, differ

Dense = Callable[..., PreTrainedModel]


def test_difference_by_hand() -> None:
    target = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    output = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    differences = differ(output, target)
    assert differences["relative_error"] == pytest.approx(4 / 29**0.5)
    assert differences["cosine"] == pytest.approx((0.6 + 1) / 2)


@torch.no_grad()
def test_clipped_rate_and_density(dense: Dense, windows: torch.Tensor, tmp_path: Path) -> None:
    model = dense("gpt2")
    collect(model, windows, tmp_path)
    sample = read_sample(tmp_path, 0)
    plan = make_plan(model, ffn="signed-if", attention="kept", steps=4)
    module: Any = convert_module(model, plan.config, 0, "mlp", sample, Rule("percentile", 60))
    record = changed(module, "mlp", sample)
    x, theta = sample.mlp_in.flatten(0, 1), module.fire_in.threshold
    limit = torch.where(x >= 0, theta[0], theta[1])
    counts = (x / (limit / 4)).abs().add(0.5).floor().clamp(max=4)
    neuron = record["neurons"]["fire_in"]
    assert neuron["clipped"] == pytest.approx(float((x.abs() > limit * 1.125).float().mean()))
    assert neuron["clipped"] > 0.1
    assert neuron["rate"] == pytest.approx(float(counts.mean()) / 4)
    assert neuron["density"] == pytest.approx(float((counts > 0).float().mean()))
    assert neuron["threshold_max"] == float(theta.max())
    assert record["relative_error"] == pytest.approx(
        float((module(sample.mlp_in) - sample.mlp_out).norm() / sample.mlp_out.norm())
    )
    assert "time_varying_error" not in record


@torch.no_grad()
def test_a_pipeline_is_measured_and_leaves_no_trace(
    dense: Dense, windows: torch.Tensor, tmp_path: Path
) -> None:
    model = dense("gpt_neox")
    collect(model, windows, tmp_path)
    sample = read_sample(tmp_path, 1)
    choices: dict[str, Any] = {"ffn": "qcfs", "attention": "kept", "steps": 4}
    config = make_plan(model, **choices).config
    module: Any = convert_module(model, config, 1, "mlp", sample, Rule())
    waiting = module(sample.mlp_in)
    record = changed(module, "mlp", sample)
    assert torch.equal(module(sample.mlp_in), waiting)
    pipelined = make_plan(model, **choices, schedule="pipelined").config
    other: Any = convert_module(model, pipelined, 1, "mlp", sample, Rule())
    expected = differ(other(sample.mlp_in), waiting)["relative_error"]
    assert record["time_varying_error"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01
