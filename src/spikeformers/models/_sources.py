"""The dense language models that can become a NeurTransformer, and where their weights are.

    gpt2              LayerNorm, learned positions, one fused c_attn, GELU; weights [in, out]
    gpt_neox          LayerNorm, (partial) rotary positions, q, k, v interleaved by head, GELU
    llama, qwen2      RMSNorm, rotary positions, grouped key-value heads, gated feed-forward
    mistral           the same, and every layer may see a window of the keys only
    qwen3             the same as llama, and norms of q and k per head
    gemma3_text       norms of q and k per head, four norms per block, windows in some layers,
                      scaled embeddings, gated feed-forward with tanh GELU, tied head

A converted module has the same weights under names of its own, ``[out, in]``: up, gate, down;
query, key, value, out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from spikeformers.errors import ConfigError, nearest
from spikeformers.models._checks import check_labels, config_errors

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """The facts about a source that a converted module needs."""

    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    activation: str
    gated: bool
    ffn_bias: bool
    qkv_bias: bool
    out_bias: bool
    dropout: float = 0.0

    @property
    def groups(self) -> int:
        """Query heads per key-value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Source:
    """One architecture: paths of its parts, its shape, how its weights are read."""

    layers: str
    attention: str
    mlp: str
    shape: Callable[[Any], Shape]
    read_mlp: Callable[[Any], Weights]
    read_attention: Callable[[Any, Shape], Weights]
    out: str
    """Name of an attention's output map."""
    norms: tuple[str, ...]
    """Names of a block's norms: before and after attention, before and after feed-forward; two
    names are those before each."""
    norm_offset: float = 0.0
    """What a norm adds to its weight: its gain is their sum."""
    head_norms: Mapping[str, str] = field(default_factory=dict)
    """Names of an attention's norms of each head, of "query" and of "key", before rotation."""

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of a source model, in order."""
        return list(model.get_submodule(self.layers).children())

    def norms_of(self, block: nn.Module, part: str) -> tuple[nn.Module, nn.Module | None]:
        """The norms before and after the "attention" or "mlp" of a block; None: there is none."""
        half = len(self.norms) // 2
        names = self.norms[:half] if part == "attention" else self.norms[half:]
        before, *after = (block.get_submodule(name) for name in names)
        return before, after[0] if after else None


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: each pair of channels turns by ``frequency`` radians per token."""

    name: str
    """Which of a source's several they are; empty if it has one for all layers."""
    kind: str
    frequency: Tensor
    factor: float
    """On the rotated channels."""


def _linear(prefix: str, weight: Tensor, bias: Tensor | None) -> Weights:
    weights = {f"{prefix}.weight": weight.detach()}
    return weights if bias is None else weights | {f"{prefix}.bias": bias.detach()}


def _gpt2_shape(config: Any) -> Shape:
    width = config.hidden_size
    return Shape(
        width=width,
        hidden=config.n_inner or 4 * width,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_width=width // config.num_attention_heads,
        activation=config.activation_function,
        gated=False,
        ffn_bias=True,
        qkv_bias=True,
        out_bias=True,
        dropout=config.resid_pdrop,
    )


def _gpt2_mlp(mlp: Any) -> Weights:
    return _linear("up", mlp.c_fc.weight.t(), mlp.c_fc.bias) | _linear(
        "down", mlp.c_proj.weight.t(), mlp.c_proj.bias
    )


def _gpt2_attention(attention: Any, shape: Shape) -> Weights:
    weights = attention.c_attn.weight.t().chunk(3)
    biases = attention.c_attn.bias.chunk(3)
    tensors = _linear("out", attention.c_proj.weight.t(), attention.c_proj.bias)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        tensors |= _linear(name, weight, bias)
    return tensors


def _neox_shape(config: Any) -> Shape:
    heads = config.num_attention_heads
    return Shape(
        width=config.hidden_size,
        hidden=config.intermediate_size,
        heads=heads,
        kv_heads=heads,
        head_width=config.hidden_size // heads,
        activation=config.hidden_act,
        gated=False,
        ffn_bias=True,
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
    )


def _neox_mlp(mlp: Any) -> Weights:
    up, down = mlp.dense_h_to_4h, mlp.dense_4h_to_h
    return _linear("up", up.weight, up.bias) | _linear("down", down.weight, down.bias)


def _neox_attention(attention: Any, shape: Shape) -> Weights:
    fused = attention.query_key_value
    tensors = _linear("out", attention.dense.weight, attention.dense.bias)
    # Rows are [head, (q, k, v), head width].
    weights = fused.weight.unflatten(0, (shape.heads, 3, -1)).unbind(1)
    biases = [None] * 3
    if fused.bias is not None:
        biases = [b.flatten() for b in fused.bias.unflatten(0, (shape.heads, 3, -1)).unbind(1)]
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        tensors |= _linear(name, weight.flatten(0, 1), bias)
    return tensors


def _llama_shape(config: Any) -> Shape:
    heads = config.num_attention_heads
    kind = config.model_type
    bias = kind in ("llama", "qwen3", "gemma3_text") and config.attention_bias
    return Shape(
        width=config.hidden_size,
        hidden=config.intermediate_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        activation=getattr(config, "hidden_activation", None) or config.hidden_act,
        gated=True,
        ffn_bias=kind == "llama" and config.mlp_bias,
        qkv_bias=bias or kind == "qwen2",
        out_bias=bias,
    )


def _llama_mlp(mlp: Any) -> Weights:
    tensors: Weights = {}
    for name in ("up", "gate", "down"):
        linear = getattr(mlp, f"{name}_proj")
        tensors |= _linear(name, linear.weight, linear.bias)
    return tensors


def _llama_attention(attention: Any, shape: Shape) -> Weights:
    tensors: Weights = {}
    for name in ("query", "key", "value", "out"):
        linear = getattr(attention, f"{name[0]}_proj")
        tensors |= _linear(name, linear.weight, linear.bias)
    return tensors


_TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
_LLAMA = Source(
    "model.layers", "self_attn", "mlp", _llama_shape, _llama_mlp, _llama_attention,
    out="o_proj", norms=_TWO_NORMS,
)  # fmt: skip
_HEAD_NORMS = {"query": "q_norm", "key": "k_norm"}
_GEMMA_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
SOURCES: Mapping[str, Source] = {
    "gpt2": Source(
        "transformer.h", "attn", "mlp", _gpt2_shape, _gpt2_mlp, _gpt2_attention,
        out="c_proj", norms=("ln_1", "ln_2"),
    ),
    "gpt_neox": Source(
        "gpt_neox.layers", "attention", "mlp", _neox_shape, _neox_mlp, _neox_attention,
        out="dense", norms=_TWO_NORMS,
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "mistral": _LLAMA,
    "qwen3": replace(_LLAMA, head_norms=_HEAD_NORMS),
    "gemma3_text": replace(
        _LLAMA, norms=_GEMMA_NORMS, norm_offset=1.0, head_norms=_HEAD_NORMS
    ),
}  # fmt: skip


def rotary_of(model: Any, layer: int) -> Rotary | None:
    """The rotary positions of a layer of a source model; None if its positions are others."""
    source = source_of(model.config.model_type)
    body = model.get_submodule(source.layers.rpartition(".")[0])
    module: Any = getattr(body, "rotary_emb", None)
    if module is None:
        return None
    if isinstance(module.rope_type, str):
        factor = float(module.attention_scaling)
        return Rotary("", module.rope_type, module.inv_freq, factor)
    name = model.config.layer_types[layer]
    factor = float(getattr(module, f"{name}_attention_scaling"))
    frequency = getattr(module, f"{name}_inv_freq")
    return Rotary(name, module.rope_type[name], frequency, factor)


def source_of(model_type: str) -> Source:
    """The architecture called ``model_type``; ConfigError names the known ones."""
    if model_type not in SOURCES:
        raise ConfigError(
            f"model_type {model_type!r} has no conversion; known: {', '.join(SOURCES)}."
            f"{nearest(model_type, SOURCES)}"
        )
    return SOURCES[model_type]


@contextmanager
def watching(
    model: Any,
    parts: Sequence[str],
    tell: Callable[[int, str, Tensor, Tensor, Mapping[str, Any]], None],
) -> Iterator[None]:
    """``tell(layer, part, input, output, keywords)`` of each call of a dense source's blocks.

    ``parts`` are "attention" and "mlp"; input and output ``[B, T, D]``.
    """
    source = source_of(model.config.model_type)

    def hook(layer: int, part: str) -> Callable[..., None]:
        def call(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            tell(layer, part, x, output[0] if isinstance(output, tuple) else output, kwargs)

        return call

    handles = []
    for layer, block in enumerate(source.blocks(model)):
        for part in parts:
            module = getattr(block, source.attention if part == "attention" else source.mlp)
            handles.append(module.register_forward_hook(hook(layer, part), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def source_config(described: Mapping[str, Any]) -> PreTrainedConfig:
    """The source's config from its plain values."""
    if not isinstance(described, Mapping) or not isinstance(described.get("model_type"), str):
        raise ConfigError("source must be the config of a dense model, with its model_type.")
    source_of(described["model_type"])
    values = {key: value for key, value in described.items() if key != "model_type"}
    check_labels(values)
    with config_errors("source does not describe a model"):
        return AutoConfig.for_model(described["model_type"], **values)


def windows(config: Any) -> dict[int, int]:
    """The sliding window of each layer of the source whose attention has one."""
    window = getattr(config, "sliding_window", None)
    if window is None:
        return {}
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # Mistral: a window is every layer's; the others say which layers have one
        every = config.model_type == "mistral"
        kinds = ["sliding_attention" if every else "full_attention"] * config.num_hidden_layers
    return {layer: window for layer, kind in enumerate(kinds) if kind == "sliding_attention"}


RECTIFIERS = ("relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu", "swish")
"""Activations that are near zero left of zero, and near the identity right of it."""


def unsupported(config: Any, *, attention: str, ffn: str) -> dict[str, str]:
    """Modules of the source that these methods do not convert, ``{"3.attention": why}``."""
    source = source_of(config.model_type)
    activation = source.shape(config).activation
    refused: dict[str, str] = {}
    seen = windows(config)
    for layer in range(config.num_hidden_layers):
        if ffn == "qcfs" and activation not in RECTIFIERS:
            refused[f"{layer}.mlp"] = f"QCFS stands in for a rectifier, not for {activation!r}"
        if attention == "kept":
            continue
        if getattr(config, "add_cross_attention", False):
            refused[f"{layer}.attention"] = "a block with cross-attention reads a second text"
        if layer in seen:
            refused[f"{layer}.attention"] = "sliding_attention sees a window of the keys only"
        elif source.head_norms:
            refused[f"{layer}.attention"] = "q and k have a norm per head"
    return refused
