"""Operations of the dispatcher: which are matrix products, and what the elementwise ones compute.

Elementwise operations are counted here only outside modules with a closed form (rules.py):
residual adds, position adds, activations, rotations.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

# These preserve values: the output has the kind (binary, integer ...) of the input.
# fmt: off
MOVES = frozenset((
    "view", "_unsafe_view", "reshape", "transpose", "t", "permute", "expand", "unsqueeze",
    "squeeze", "clone", "contiguous", "select", "slice", "detach", "alias", "unbind", "split",
    "split_with_sizes", "cat", "stack", "gather", "index_select", "_to_copy", "_reshape_alias",
    "unflatten", "flatten", "narrow", "lift_fresh", "max_pool2d_with_indices",
))
# fmt: on

_LOOKS_LIKE_A_PRODUCT = re.compile(
    r"(^|_)(mm|bmm|addmm|baddbmm|addbmm|matmul|mv|addmv|addr|dot|linear|bilinear|trilinear|einsum"
    r"|convolution|conv\dd|mkldnn)(_|$)|scaled_dot_product|pack_mm"
)
_LEFT = {"addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1, "addr": 1}


def base_name(func: Any) -> str:
    """``addmm`` for ``aten.addmm.default``; in-place variants lose their underscore."""
    name: str = func._schema.name.split("::")[-1]
    return name if name.startswith("_") else name.rstrip("_")


def pads_with_zeros(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the operation pads its argument with zeros, so that spikes stay spikes."""
    return name == "constant_pad_nd" and (len(args) < 3 or args[2] == 0)


def is_product(name: str) -> bool:
    """Whether the operation multiplies matrices."""
    return _LOOKS_LIKE_A_PRODUCT.search(name) is not None


def factors(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Left and right operand of a product."""
    first = _LEFT.get(name, 0)
    return args[first], args[first + 1]


def macs_of(name: str, args: tuple[Any, ...], out: Tensor) -> int:
    """Multiply-accumulates of a product, masked entries included."""
    left, right = factors(name, args)
    if "scaled_dot_product" in name:  # args are q, k, v
        pairs = left.numel() // left.shape[-1] * right.shape[-2]
        return pairs * (left.shape[-1] + args[2].shape[-1])
    if "conv" in name:
        return out.numel() * (right.numel() // right.shape[0])
    if name == "addr":
        return left.numel() * right.numel()
    if name == "addbmm":
        return left.numel() * right.shape[-1]
    return out.numel() * left.shape[-1]


def elementwise(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> dict[str, int]:
    """Operations of one call by kind; empty if it does no arithmetic on real numbers."""
    if name == "max_pool2d_with_indices":
        size = args[1]
        return {"compare": out[0].numel() * (size[0] * size[-1] - 1)}
    if not isinstance(out, Tensor) or not out.is_floating_point():
        return {}
    n = out.numel()
    per_value = _PER_VALUE.get(name)
    if per_value is not None:
        return {kind: times * n for kind, times in per_value.items()}
    if name in ("sum", "mean"):
        additions = args[0].numel() - n
        return {"add": additions, "mult": n if additions and name == "mean" else 0}
    if name == "div":
        # Division by a constant is a multiplication by its reciprocal.
        return {"function" if isinstance(args[1], Tensor) and args[1].dim() else "mult": n}
    if name == "pow":
        exponent = args[1]
        if isinstance(exponent, (int, float)) and exponent == int(exponent) and exponent >= 1:
            return {"mult": n * (int(exponent) - 1)}
        return {"function": n}
    if name == "gelu":
        tanh = kwargs.get("approximate") == "tanh"
        return {"mult": (6 if tanh else 3) * n, "add": (2 if tanh else 1) * n, "function": n}
    return {}


_ADDITIONS = ("add", "sub", "rsub")
_COMPARISONS = ("relu", "clamp", "clamp_min", "maximum", "minimum")
_FUNCTIONS = (
    "exp", "log", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "reciprocal", "sin", "cos",
)  # fmt: skip
_PER_VALUE: dict[str, dict[str, int]] = {
    **{name: {"add": 1} for name in _ADDITIONS},
    **{name: {"compare": 1} for name in _COMPARISONS},
    **{name: {"function": 1} for name in _FUNCTIONS},
    "mul": {"mult": 1},
    "silu": {"function": 1, "mult": 1},
    "_softmax": {"compare": 1, "function": 2, "add": 1},
}
