"""Counts of the tracer against loops over single spikes, on random small models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeformers.attention import Attention
from spikeformers.energy import FP32, Phase, trace, work_of
from spikeformers.models import build_config, build_model
from spikeformers.neurons import Neuron

SHAPES = st.fixed_dictionaries(
    {
        "hidden_size": st.sampled_from([4, 8]),
        "num_hidden_layers": st.integers(1, 2),
        "num_attention_heads": st.sampled_from([1, 2]),
        "intermediate_size": st.integers(3, 9),
        "levels": st.integers(1, 4),
        "neuron": st.sampled_from(["ni-lif", "lif", "t-lif"]),
        "steps": st.integers(1, 3),
        "spiking_head": st.booleans(),
    }
)
CORES = st.sampled_from(
    [
        {"wta": "hard"},
        {"wta": "top_k", "winners": 2},
        {"attention": "ssa"},
        {"attention": "softmax"},
    ]
)


@contextmanager
def inputs_of(
    model: nn.Module, seen: dict[str, tuple[nn.Module, dict[str, Any]]]
) -> Iterator[None]:
    """What entered each linear map and attention core."""

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            names = ("q", "k", "v", "allowed", "bias")
            seen[name] = (module, dict(zip(names, args, strict=False)) | kwargs)

        return keep

    handles = [
        module.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Attention))
    ]
    with torch.no_grad():
        yield
    for handle in handles:
        handle.remove()


def whole(x: Tensor, unit: float) -> Any:
    """Counts as nested lists of whole numbers."""
    return (x / unit).round().abs().int().tolist()


def events_of_linear(x: Tensor, unit: float, outputs: int) -> tuple[int, int]:
    """Additions, and weights that some token needs, by walking over ``[S, B, T, D]``."""
    additions = 0
    needed = set()
    for step, batch in enumerate(whole(x, unit)):
        assert step >= 0
        for row, tokens in enumerate(batch):
            for at, values in enumerate(tokens):
                for place, count in enumerate(values):
                    for _ in range(count):
                        additions += outputs
                    if count:
                        needed.add((row, at, place))
    return additions, len(needed) * outputs


def events_of_attention(
    core: Attention, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None,
    unit: float,
) -> tuple[int, int]:  # fmt: skip
    """Coincidences, and events of V that queries read, by walking over ``[S, B, H, T, K]``."""
    weights = core.weights(q, k, allowed, bias)
    mask = allowed.expand(weights.shape).flatten(0, 2).tolist()
    sides = [whole(x.flatten(0, 2), unit) for x in (q, k, v)]
    met = read = 0
    for lane, chosen in enumerate(weights.flatten(0, 2).tolist()):
        queries, keys, values = (side[lane] for side in sides)
        for i, query in enumerate(queries):
            for j, key in enumerate(keys):
                if not mask[lane][i][j]:
                    continue
                for q_count, k_count in zip(query, key, strict=True):
                    met += q_count * k_count
                if chosen[i][j]:
                    read += sum(values[j])
    return met, read


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(shape=SHAPES, core=CORES, seed=st.integers(0, 99))
def test_every_event_is_counted_once(
    shape: dict[str, Any], core: dict[str, Any], seed: int
) -> None:
    torch.manual_seed(seed)
    config = build_config(
        "wd-spikingformer-tiny", 11, {**shape, **core, "max_position_embeddings": 8}
    )
    model = build_model(config).eval()
    ids = torch.randint(0, 11, (2, 3))
    counted = trace(model, ids)
    seen: dict[str, tuple[nn.Module, dict[str, Any]]] = {}
    with inputs_of(model, seen):
        model(ids)
    units = {m.unit for m in model.modules() if isinstance(m, Neuron)}
    unit = min(units)  # the head's counts are whole, those of NI-LIF multiples of 1 / D
    lines = work_of(counted, FP32, Phase("decode", 3, 1))
    read = {
        line.name: line.amount / 32 * counted.tokens
        for line in lines
        if (line.kind, line.of) == ("read", "weights")
    }
    checked = 0
    for name, (module, given_) in seen.items():
        if isinstance(module, Attention):
            met, gathered = events_of_attention(
                module, given_["q"], given_["k"], given_["v"], given_["allowed"],
                given_.get("bias"), unit,
            )  # fmt: skip
            assert counted.products[f"{name}.scores"].sop == met
            assert counted.products[f"{name}.values"].sop == gathered
            continue
        assert isinstance(module, nn.Linear)
        x = next(iter(given_.values()))
        product = counted.products[name]
        if not product.left.is_spikes:
            assert product.macs == x.numel() * module.out_features
            assert read[name] == counted.tokens * module.weight.numel()
            continue
        whose = 1.0 if name == "lm_head" and shape["neuron"] != "lif" else unit
        x = x if x.dim() == 4 else x.unsqueeze(0)
        additions, needed = events_of_linear(x, whose, module.out_features)
        assert product.sop == additions
        assert abs(read.get(name, 0.0) - needed) < 1e-6 * max(1, needed)
        checked += 1
    assert checked
