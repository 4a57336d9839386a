"""Norm, neuron and list of what fired, in one pass over a row, against each by itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from spikeformers import kernels
from spikeformers.engine import Description, NeuronSpec, NormSpec
from spikeformers.engine.build import build
from spikeformers.kernels import native

pytest.importorskip("spikeformers.kernels._native")

PATHS = [name for name, there, _ in native().paths() if there]
WIDTHS = (1, 7, 31, 32, 33, 40, 64, 101)
NEURONS: dict[str, dict[str, Any]] = {
    "counts": {"levels": 4},
    "signed counts": {"levels": 64, "signed": True, "step": 0.25, "dead_zone": 0.6, "gain": 1.7},
    "steps of 0.3": {"levels": 9, "signed": True, "step": 0.3, "dead_zone": 0.1},
    "one-sided": {"levels": 64, "step": 0.125, "dead_zone": 0.3},
    "binary": {"type": "binary", "threshold": 0.4},
    "ternary": {"type": "ternary", "unit": 0.75, "ratio": 0.5},
}
KERNEL_NAMES = {"type": "spike_type"}


def program(
    width: int, norm: str, neuron: NeuronSpec, weights: str, tensors: Any, path: str
) -> Any:
    """Token t fires over row t of a table; the product with ones on the diagonal reads the list."""
    to = Description(vocabulary=width)
    for name in ("x", "y", "last"):
        to.real(name, width)
    to.spikes("s", width, neuron)
    to.embed("x", "table", by_column=False)
    gain, shift = (None if norm == "none" else "gain"), ("shift" if norm == "layer" else None)
    to.fire("x", "s", NormSpec(norm, gain, shift))
    to.linear("s", "y", "eye")
    to.select("y", "last")
    to.finish("last")
    eye: dict[str, Any] = {"eye": np.eye(width, dtype=np.float32 if weights == "fp32" else np.int8)}
    if weights == "int8":
        eye["eye.scale"] = np.ones(width, np.float32)
    return build(asdict(to), tensors | eye, path, 1).program


@pytest.mark.parametrize("weights", ["int8", "fp32"])
@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("kind", NEURONS)
def test_what_is_listed_is_what_fired(kind: str, norm: str, weights: str) -> None:
    neuron = NeuronSpec(**({"type": "integer"} | NEURONS[kind]))
    for width in WIDTHS:
        rng = np.random.default_rng(width)
        drawn = rng.standard_normal((3, width)).astype(np.float32)
        table = 2 * rng.standard_normal((width, width)).astype(np.float32)
        tensors = {"table": table, "gain": drawn[0], "shift": drawn[1]}
        for path in PATHS:
            run = program(width, norm, neuron, weights, tensors, path)
            tokens = list(range(min(width, 12)))
            computed = run.forward([run.sequence()] * len(tokens), tokens, tokens)
            given = {KERNEL_NAMES.get(name, name): value for name, value in NEURONS[kind].items()}
            for token in tokens:
                u = kernels.norm(
                    table[token],
                    norm,
                    None if norm == "none" else drawn[0],
                    drawn[1] if norm == "layer" else None,
                    path=path,
                )
                fired = kernels.fire(u[None], path=path, **given)[0]
                expected = fired.astype(np.float32) * np.float32(neuron.unit)
                assert (computed[token] == expected).all(), (width, path)
                assert run.counters()["neurons"] == len(tokens) * width
        assert width < 7 or computed.any()


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 31, 32, 39])
def test_a_value_that_is_not_finite_is_refused_wherever_it_is(
    place: int, value: float, norm: str
) -> None:
    width = 40
    table = np.ones((width, width), np.float32)
    table[1, place] = value
    ones = np.ones(width, np.float32)
    neuron = NeuronSpec("integer", levels=4)
    for path in PATHS:
        run = program(
            width, norm, neuron, "int8", {"table": table, "gain": ones, "shift": ones}, path
        )
        run.forward([run.sequence()], [0], [0])
        with pytest.raises(OverflowError, match="not finite"):
            run.forward([run.sequence()], [1], [0])
