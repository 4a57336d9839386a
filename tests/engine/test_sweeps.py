"""A product of one token reads the rows that fired, or its matrix from end to end.

The engine chooses by the share of inputs that fired in the last tokens.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from spikeformers.engine import Description, NormSpec
from spikeformers.engine.build import build
from spikeformers.kernels import native

pytest.importorskip("spikeformers.kernels._native")

WIDTH = 100
SWEEPING = [name for name, there, _ in native().paths() if there and name.startswith("avx")]
ALL, HALF, LESS, FEW = range(4)  # tokens, by how many of their inputs fire
FIRED = {ALL: 100, HALF: 52, LESS: 47, FEW: 5}


def program(path: str, least: bool = False) -> Any:
    to = Description(vocabulary=WIDTH)
    to.real("x", WIDTH)
    to.counts("c", WIDTH)
    to.real("y", WIDTH)
    to.real("last", WIDTH)
    to.embed("x", "table", by_column=False)
    to.encode("x", "c", NormSpec(), steps=8, reach=64.0, dead_zone=0.0, power_of_two=False)
    to.linear("c", "y", "w")
    to.select("y", "last")
    to.finish("last")
    rng = np.random.default_rng(0)
    table = np.zeros((WIDTH, WIDTH), np.float32)
    for token, fired in FIRED.items():
        at = rng.permutation(WIDTH)[:fired]
        table[token, at] = rng.uniform(0.5, 1.0, fired) * rng.choice([-1, 1], fired)
    w = rng.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)
    if least:
        w[3, 5] = -128
    tensors: dict[str, Any] = {"table": table, "w": w, "w.scale": np.ones(WIDTH, np.float32)}
    return build(asdict(to), tensors, path, 1).program


@pytest.mark.parametrize("path", SWEEPING)
def test_the_choice_follows_what_fired_and_hesitates_at_the_border(path: str) -> None:
    run, rows = program(path), program("portable")
    text, other = run.sequence(), rows.sequence()

    def sweeps(token: int, times: int) -> int:
        before = run.counters()["sweeps"]
        for _ in range(times):
            swept = run.forward([text], [token], [0])
            assert swept.tobytes() == rows.forward([other], [token], [0]).tobytes()
        after: int = run.counters()["sweeps"]
        return after - before

    assert sweeps(LESS, 20) == 0  # 0.47 of the inputs: below a half
    assert sweeps(HALF, 400) > 200  # 0.52
    assert sweeps(LESS, 400) == 400  # still: it is not far enough below
    assert sweeps(FEW, 400) < 100
    assert sweeps(FEW, 100) == 0
    assert 0 < 100 - sweeps(ALL, 100) < 60
    assert rows.counters()["sweeps"] == 0


@pytest.mark.parametrize("path", SWEEPING)
def test_the_first_tokens_of_a_dense_product_are_counted_only(path: str) -> None:
    run = program(path)
    text = run.sequence()
    for _ in range(20):
        run.forward([text], [ALL], [0])
    assert run.counters()["sweeps"] == 13


@pytest.mark.parametrize("path", SWEEPING)
def test_a_matrix_with_the_least_weight_is_never_swept(path: str) -> None:
    run, rows = program(path, least=True), program("portable", least=True)
    text, other = run.sequence(), rows.sequence()
    for _ in range(20):
        swept = run.forward([text], [ALL], [0])
        assert swept.tobytes() == rows.forward([other], [ALL], [0]).tobytes()
    assert run.counters()["sweeps"] == 0
