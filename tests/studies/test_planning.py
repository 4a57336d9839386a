"""The plan's memory against what a training step allocates, and its other numbers by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import spikeformers as sf
from spikeformers.errors import ConfigError
from spikeformers.models import build_config, build_model, control_of
from spikeformers.studies.step_memory import estimated_step_bytes, measured_step_bytes

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip


def config_of(kind: str, vocabulary: int = 300) -> Any:
    preset = "bispikclm-tiny" if kind == "bispikclm" else "wd-spikingformer-tiny"
    config = build_config(preset, vocabulary, SHAPE)
    config = control_of(config) if kind == "twin" else config
    config.use_cache = False
    return config


@pytest.mark.parametrize(
    ("kind", "checkpointed", "tolerance"),
    [
        ("wd", False, 0.03), ("wd", True, 0.15),
        pytest.param("twin", False, 0.08, marks=pytest.mark.slow),
        pytest.param("twin", True, 0.15, marks=pytest.mark.slow),
        pytest.param("bispikclm", False, 0.1, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_estimate_is_what_a_step_allocates(
    kind: str, checkpointed: bool, tolerance: float
) -> None:
    config = config_of(kind)
    model = build_model(config).train()
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    measured = measured_step_bytes(model, optimizer, torch.randint(0, 300, (4, 64)))
    estimated = estimated_step_bytes(config, 4, 64, checkpointed=checkpointed)
    assert estimated == pytest.approx(measured, rel=tolerance)


@pytest.fixture(scope="module")
def planned() -> Any:
    return sf.plan("wd-spikingformer-tiny", gpus=2, vocabulary=300, settings=SHAPE, windows=2)


def test_the_parts_by_hand(planned: Any) -> None:
    config = build_config("wd-spikingformer-tiny", 300, SHAPE)
    model = build_model(config)
    count = sum(p.numel() for p in model.parameters())
    assert planned.parameters == count
    assert (planned.strategy, planned.context, planned.precision) == ("fsdp", 64, "bf16")
    assert planned.weights == planned.gradients == 4 * count // 2
    assert planned.optimiser == 4 * count
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    assert planned.gathered == 2 * 4 * block
    logits, scores = 4 * 2 * 64 * 300, 4 * 2 * 4 * 64 * 64
    gradients = 4 * (300 * 64 + 2 * 2 * 64 * 256)  # of the head, and in the widest map
    assert planned.working == max(2 * logits, 4 * scores + gradients - logits)
    assert planned.cache == 2 * 3 * 2 * 64 * 64  # bytes, layers, keys and values, tokens, width
    for checkpointed in (False, True):
        assert planned.total(checkpointed=checkpointed) > planned.fixed
    assert planned.total(checkpointed=True) < planned.total(checkpointed=False)
    assert planned.usable == int(0.9 * 80e9)


def test_speed_and_days_follow_from_the_assumptions(planned: Any) -> None:
    expected = 0.3 * 2 * 989e12 / planned.flops_per_token
    assert planned.tokens_per_second == pytest.approx(expected)
    assert planned.tokens_per_second_checkpointed == pytest.approx(expected * 3 / 4)
    assert planned.tokens == 100_000_000  # the paper's
    assert planned.days == pytest.approx(1e8 / expected / 86400)
    values = planned.as_dict()
    assert values["estimated"] is True
    assert values["total"] == planned.total(checkpointed=False)


@pytest.mark.slow
def test_the_most_windows_fit_and_one_more_does_not() -> None:
    def at(windows: int) -> Any:
        return sf.plan("wd-spikingformer-tiny", gpu="l4", vocabulary=300, windows=windows, **more)

    more: dict[str, Any] = {"settings": SHAPE, "precision": "fp32", "optimizer": "muon"}
    most = at(1).most_windows
    assert most > 100
    assert at(most).total(checkpointed=False) <= at(most).usable
    assert at(most + 1).total(checkpointed=False) > at(most).usable
    assert at(1).gathered == 0


@pytest.mark.slow
def test_muon_keeps_one_moment_of_a_matrix() -> None:
    one = {"vocabulary": 300, "settings": SHAPE, "windows": 1}
    both = [sf.plan("wd-spikingformer-tiny", optimizer=o, **one) for o in ("adamw", "muon")]
    matrices = 3 * (4 * 64 * 64 + 2 * 64 * 256)
    assert both[0].optimiser - both[1].optimiser == 4 * matrices


def test_a_plan_leaves_the_random_state_as_it_was(planned: Any) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sf.plan("wd-spikingformer-tiny", vocabulary=300, settings=SHAPE)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "h10"}, "unknown GPU 'h10'.*Did you mean 'h100'"),
        ({"gpus": 0}, "gpus is 0"),
        ({"mfu": 1.5}, "mfu is 1.5"),
        ({"strategy": "ddp"}, r"'ddp' does not fit 1 GPU"),
        ({"gpus": 2, "strategy": "single"}, r"'single' does not fit 2 GPU"),
        ({"settings": {"hidden_sizes": 3}}, "Did you mean 'hidden_size'"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_a_wrong_request_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sf.plan("wd-spikingformer-tiny", **options)


def test_checkpointed_blocks_of_a_spiking_model_are_freed() -> None:
    """The firing-rate term must not keep the graph that the backward pass computes again."""
    peaks = {}
    for checkpointed in (False, True):
        config = config_of("wd")
        config.num_hidden_layers = 6
        model = build_model(config).train()
        assert config.firing_rate_weight > 0
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        peaks[checkpointed] = measured_step_bytes(model, optimizer, torch.randint(0, 300, (4, 64)))
    assert peaks[True] < 0.5 * peaks[False]
