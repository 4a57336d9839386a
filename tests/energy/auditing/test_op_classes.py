from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.energy.auditing.op_classes import class_of, operands_of

aten = torch.ops.aten
X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("func", "args", "expected"),
    [
        (aten.add.Tensor, (X, X), None),
        (aten.view.default, (X, [6]), None),
        (aten.masked_fill_.Scalar, (X, X > 0, 0.0), None),
        (aten.__lshift__.Scalar, (X.int(), 23), None),
        (aten.bitwise_right_shift.Tensor, (X.int(), X.int()), None),
        (aten.mm.default, (X, X.t()), "product"),
        (aten._scaled_dot_product_flash_attention.default, (X, X, X), "product"),
        (aten._softmax.default, (X, -1, False), "softmax"),
        (aten.logsumexp.default, (X, [-1]), "softmax"),
        (aten.exp_.default, (X,), "exponential"),
        (aten.pow.Scalar, (2.0, X), "exponential"),
        (aten.pow.Tensor_Tensor, (X, X), "exponential"),
        (aten.pow.Tensor_Scalar, (X, 3), "multiplication"),
        (aten.pow.Tensor_Scalar, (X, -1), "division"),
        (aten.pow.Tensor_Scalar, (X, -0.5), "normalisation"),
        (aten.pow.Tensor_Scalar, (X, 1.7), "transcendental"),
        (aten.pow.Tensor_Scalar, (X, 1), None),
        (aten.gelu.default, (X,), "transcendental"),
        (aten.topk.default, (X, 1), "comparison"),
        (aten.scatter.reduce, (X, 1, X.long(), X), "unknown"),  # may multiply
        (aten.scatter.src, (X, 1, X.long(), X), None),
        (aten._local_scalar_dense.default, (X[0, 0],), "unknown"),
        (aten._local_scalar_dense.default, ((X > 0)[0, 0],), None),
        (aten.mkldnn_rnn_layer.default, (X, X), "unknown"),
        (aten._fft_r2c.default, (X, [1], 0, True), "unknown"),
    ],
)
def test_classes(func: Any, args: tuple[Any, ...], expected: str | None) -> None:
    assert class_of(func, args, {}) == expected


def test_a_scaled_addition_multiplies() -> None:
    assert class_of(aten.add.Tensor, (X, X), {"alpha": 0.5}) == "multiplication"
    assert class_of(aten.sub.Tensor, (X, X), {"alpha": 1}) is None


@pytest.mark.parametrize(
    ("args", "of"), [((X,), 6.0), ((X, [-1]), 3.0), ((X, [0], True), 2.0), ((X, []), 6.0)]
)
def test_a_mean_divides_by_its_number(args: tuple[Any, ...], of: float) -> None:
    assert operands_of("mean", "division", args, {})[1] == of
