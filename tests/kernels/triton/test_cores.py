"""Attention cores, neurons and models by Triton's kernels give what PyTorch's give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton is not installed: pip install 'spikeformers[triton]'")

from spikeformers import kernels
from spikeformers.attention import (
    A2OS2A,
    SFSA,
    WTA,
    Attention,
    Pairs,
    PowerOfTwoAttention,
)
from spikeformers.layers import Fire
from spikeformers.models import build_config, build_model
from spikeformers.neurons import ILIF, LIF, NILIF, TLIF, Activity, mark_padding

CORES: dict[str, Callable[[], Attention]] = {
    "wta": lambda: WTA(0.5, "top_k", 3, heads=2, learn_scale=True),
    "power-of-two": lambda: PowerOfTwoAttention(0.5, heads=2, learn_scale=True),
    "sfsa": lambda: SFSA(LIF(0.9, 1.3, "delayed"), heads=2, learn_scale=True),
    "a2os2a": lambda: A2OS2A("state"),
}


def by(path: str, monkeypatch: pytest.MonkeyPatch, run: Callable[[], list[Tensor]]) -> list[Tensor]:
    monkeypatch.setenv(kernels.VARIABLE, path)
    return [x.detach().float().cpu() for x in run()]


@pytest.mark.parametrize(
    ("name", "half"),
    [
        *[("wta", False), ("wta", True), ("power-of-two", False), ("power-of-two", True)],
        *[("sfsa", False), ("a2os2a", False), ("a2os2a", True)],
    ],
)
def test_a_core_takes_pairs_under_autocast_or_not(
    name: str, half: bool, device: str, close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = CORES[name]().to(device)
    core.exact_in_half = True
    generator = torch.Generator().manual_seed(0)
    shape = (2 if name == "sfsa" else 1, 2, 2, 5, 4)
    spikes = [(torch.rand(shape, generator=generator) < 0.5).float() for _ in range(3)]
    columns = torch.ones(2, 5, dtype=torch.bool)
    columns[0, :2] = False
    line = torch.randn(2, 9, generator=generator).to(device) if core.takes_bias else None

    def run() -> list[Tensor]:
        inputs = [x.to(device, copy=True).requires_grad_() for x in spikes]
        with torch.autocast(device, torch.bfloat16, enabled=half):
            y = core(*inputs, Pairs(True, columns.to(device)), line)
        y.float().square().sum().backward()
        return [y, *(x.grad for x in inputs)]

    plain, streamed = by("torch", monkeypatch, run), by("triton", monkeypatch, run)
    for got, expected in zip(streamed, plain, strict=True):
        close(got, expected, torch.bfloat16 if half else torch.float32)


@pytest.mark.parametrize("unit", [None, 0.3], ids=["exact", "learned unit"])
def test_a_compiled_core_keeps_the_kernel_as_one_node(
    unit: float | None, device: str, close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = WTA(0.5).to(device)
    core.score_unit = None if unit is None else torch.tensor(unit, device=device)
    q, k, v = (torch.rand(1, 1, 1, 5, 4, device=device).requires_grad_() for _ in range(3))
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(str(graph.code))
        return graph.forward

    monkeypatch.setenv(kernels.VARIABLE, "triton")
    expected = core(q, k, v, Pairs(True))
    compiled = torch.compile(core, backend=backend, fullgraph=True)
    close(compiled(q, k, v, Pairs(True)), expected)
    assert len(graphs) == 1
    assert graphs[0].count("torch.ops.spikeformers.wta") == 1


@pytest.mark.parametrize(
    "neuron", [LIF(0.7), LIF(0.7, threshold_shape=(1,)), TLIF(0.7), NILIF(), ILIF()], ids=str
)
def test_fire_gives_spikes_activity_and_gradients(
    neuron: Any, device: str, close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fire = Fire(neuron, nn.LayerNorm(6)).to(device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 3, 6, generator=generator)
    mark_padding(fire, torch.tensor([[False, True, True], [True] * 3], device=device))

    def run() -> list[Tensor]:
        activity: list[Activity] = []
        neuron.activity = activity
        fire.zero_grad()
        own = x.to(device, copy=True).requires_grad_()
        spikes = fire(own)
        (spikes.square().sum() + 3 * activity[0].mean).backward()
        grads = [p.grad.clone() for p in fire.parameters() if p.grad is not None]
        return [spikes, activity[0].mean, activity[0].density, own.grad, *grads]

    plain, streamed = by("torch", monkeypatch, run), by("triton", monkeypatch, run)
    neuron.activity = None
    for got, expected in zip(streamed, plain, strict=True):
        close(got, expected)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("wd-spikingformer-tiny", {}),
        ("wd-spikingformer-tiny", {"attention": "cwssa"}),
        ("bispikclm-tiny", {"steps": 2, "learn_attention_scale": True}),
    ],
)
def test_a_model_trains_on_padded_text_without_a_matrix_of_pairs(
    preset: str, options: dict[str, Any], device: str, close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"intermediate_size": 16, "max_position_embeddings": 8}
    torch.manual_seed(0)
    model = build_model(build_config(preset, 11, {**small, **more, **options})).to(device).train()
    ids = torch.tensor([[1, 2, 3, 4]], device=device)
    mask = torch.tensor([[0, 1, 1, 1]], device=device)
    seen: list[type] = []
    for core in model.modules():
        if isinstance(core, Attention):
            core.register_forward_pre_hook(lambda _, inputs: seen.append(type(inputs[3])))

    def run() -> list[Tensor]:
        model.zero_grad()
        out = model(input_ids=ids, attention_mask=mask, labels=ids)
        out.loss.backward()
        return [out.loss, *(p.grad for p in model.parameters() if p.grad is not None)]

    plain, streamed = by("torch", monkeypatch, run), by("triton", monkeypatch, run)
    assert seen == [Tensor, Pairs]
    for got, expected in zip(streamed, plain, strict=True):
        close(got, expected)
