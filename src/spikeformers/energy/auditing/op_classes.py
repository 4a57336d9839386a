"""The class of arithmetic of each operation of the dispatcher, for an audit.

An operation is free (additions, comparisons, moving values, making constants), or has one of the
classes below, or is "unknown", which fails every audit. Fused kernels that combine several classes
(recurrent layers, bilinear maps) are unknown on purpose.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from spikeformers.energy.counting import operations as ops

What = Literal[
    "product",
    "softmax",
    "exponential",
    "transcendental",
    "normalisation",
    "division",
    "multiplication",
    "comparison",
    "unknown",
]

# fmt: off
_PRODUCTS = frozenset((
    "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "addr", "ger", "dot", "vdot",
    "matmul", "linear", "mkldnn_linear", "convolution", "_convolution", "mkldnn_convolution",
    "cudnn_convolution", "miopen_convolution", "_conv_depthwise2d", "_int_mm", "_scaled_mm",
    "_grouped_mm",
))
_EXPONENTIALS = frozenset((
    "exp", "exp2", "expm1", "sinh", "cosh", "logaddexp", "logaddexp2", "logcumsumexp",
    "_logcumsumexp", "special_erfcx",
))
_TRANSCENDENTALS = frozenset((
    "sigmoid", "tanh", "gelu", "silu", "erf", "erfc", "erfinv", "softplus", "mish", "elu", "celu",
    "selu", "glu", "log", "log2", "log10", "log1p", "log_sigmoid_forward", "logit", "sin", "cos",
    "tan", "asin", "acos", "atan", "atan2", "asinh", "acosh", "atanh",
))
_NORMALISATIONS = frozenset((
    "native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm", "linalg_vector_norm",
    "norm", "renorm", "var", "std", "var_mean", "std_mean", "sqrt", "rsqrt", "hypot",
))
_BATCH_NORMS = frozenset((
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update",
))
_DIVISIONS = frozenset((
    "div", "true_divide", "floor_divide", "remainder", "fmod", "reciprocal", "addcdiv", "mean",
    "hardsigmoid",
))
_MULTIPLICATIONS = frozenset((
    "mul", "addcmul", "square", "lerp", "prod", "cumprod", "leaky_relu", "_prelu_kernel",
    "hardswish",
))
_COMPARISONS = frozenset(("argmax", "argmin", "topk", "sort", "kthvalue", "mode", "median"))
_FREE = frozenset((
    # additions
    "add", "sub", "rsub", "neg", "abs", "sum", "nansum", "cumsum", "index_add", "scatter_add",
    "count_nonzero", "bincount", "ldexp",  # which adds to the exponent
    # comparisons, logic, rounding
    "max", "min", "amax", "amin", "aminmax", "maximum", "minimum", "fmax", "fmin", "cummax",
    "cummin", "clamp", "clamp_min", "clamp_max", "relu", "hardtanh", "threshold", "round", "floor",
    "ceil", "trunc", "sign", "sgn", "signbit", "heaviside", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or",
    "bitwise_not", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "__lshift__",
    "__rshift__", "isnan", "isinf", "isfinite", "isin", "any", "all", "equal",
    "searchsorted", "bucketize", "nan_to_num", "frexp",
    # selection and moves
    "where", "masked_fill", "masked_select", "masked_scatter", "index", "index_put",
    "_index_put_impl_", "index_copy", "index_fill", "scatter", "take", "put", "embedding",
    "tril", "triu", "diagonal", "diag_embed", "roll", "flip", "repeat", "repeat_interleave",
    "unfold", "as_strided", "constant_pad_nd", "nonzero", "copy", "_to_copy", "fill", "zero",
    "slice_scatter", "select_scatter", "unsafe_split", "unsafe_chunk", "chunk", "pin_memory",
    "view_as_real", "view_as_complex", "_conj", "resize", "set", "one_hot", "_unique2",
    # constants
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
    "new_empty", "new_empty_strided", "_local_scalar_dense",
)) | ops.MOVES
_REDUCING = ("reduce", "value_reduce")  # overloads of scatter that may multiply
# fmt: on


def class_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> What | None:
    """Class of one operation; None if it is free."""
    name, namespace = ops.base_name(func), func._schema.name.split("::")[0]
    if namespace != "aten" or func._overloadname in _REDUCING:
        return "unknown"
    if name == "pow":
        return _class_of_power(args)
    if name in ("add", "sub", "rsub") and kwargs.get("alpha", 1) not in (1, -1):
        return "multiplication"
    if name == "_local_scalar_dense" and args[0].is_floating_point():
        return "unknown"  # a value becomes a Python number and may come back as a constant
    if name in _FREE:
        return None
    for op_class, names in _CLASSES.items():
        if name in names:
            return op_class
    if is_fused_attention(name) or name in _PRODUCTS:
        return "product"
    return "softmax" if "softmax" in name or name == "logsumexp" else "unknown"


def is_fused_attention(name: str) -> bool:
    """Whether one kernel computes both products of attention and the softmax between them."""
    return "scaled_dot_product" in name or name in (
        "_flash_attention_forward",
        "_efficient_attention_forward",
    )


def is_batch_norm_of_constants(name: str, args: tuple[Any, ...]) -> bool:
    """Whether this is batch norm with running statistics: a fixed scale and shift."""
    if name in ("_native_batch_norm_legit_no_training", "_batch_norm_no_update"):
        return True
    return name in _BATCH_NORMS and len(args) > 5 and args[5] is False


def operands_of(
    name: str, what: What, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """The operands: two tensors or numbers, or the single tensor of a function."""
    if what == "product":
        return ops.factors(name, args)
    if what == "multiplication":
        return _factors(name, args, kwargs)
    if what == "division":
        if name == "mean":
            return args[0], float(_averaged(args))
        if name in ("reciprocal", "pow"):
            return 1.0, args[0]
        if name == "hardsigmoid":
            return args[0], 6.0
        return args[1:3] if name == "addcdiv" else args[:2]
    return tuple(x for x in args if isinstance(x, Tensor))[:1]


def _factors(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    if name in ("mul", "_prelu_kernel"):
        return args[:2]
    if name == "addcmul":
        return args[1:3]
    if name == "lerp":
        return args[0], args[2]
    if name == "leaky_relu":
        return args[0], args[1] if len(args) > 1 else 0.01
    if name in ("add", "sub", "rsub"):
        return args[1], kwargs["alpha"]
    return args[0], args[0]


def _class_of_power(args: tuple[Any, ...]) -> What | None:
    base, exponent = args[:2]
    if isinstance(exponent, Tensor):
        return "exponential"
    if abs(exponent) == 0.5:
        return "normalisation"
    if exponent in (0, 1):
        return None
    if exponent == int(exponent):
        return "multiplication" if exponent > 0 else "division"
    assert isinstance(base, Tensor)
    return "transcendental"


def _averaged(args: tuple[Any, ...]) -> int:
    """The number of values that each mean is taken over."""
    x: Tensor = args[0]
    number = 1
    for dim in reduced(x.dim(), args):
        number *= x.shape[dim]
    return number


def reduced(dims: int, args: tuple[Any, ...]) -> tuple[int, ...]:
    """Dimensions that a sum or mean runs over, counted from the front."""
    dims_argument = args[1] if len(args) > 1 else None
    if dims_argument is None or isinstance(dims_argument, torch.dtype) or dims_argument == []:
        return tuple(range(dims))
    return tuple(
        dim % dims for dim in ([dims_argument] if isinstance(dims_argument, int) else dims_argument)
    )


_CLASSES: dict[What, frozenset[str]] = {
    "exponential": _EXPONENTIALS,
    "transcendental": _TRANSCENDENTALS,
    "normalisation": _NORMALISATIONS | _BATCH_NORMS,
    "division": _DIVISIONS,
    "multiplication": _MULTIPLICATIONS,
    "comparison": _COMPARISONS,
}
