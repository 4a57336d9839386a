"""Interception of a forward pass: SDPA as a function call, everything else by operation."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from spikeformers.energy.counting.module_stack import Frame


class Watcher(Protocol):
    """Receives every intercepted operation."""

    paused: bool

    def before_op(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An operation of the dispatcher is about to run."""

    def after_op(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """The operation has returned ``out``."""

    def enter_sdpa(self) -> str:
        """An SDPA call begins; returns the name of the module that makes it."""

    def leave_sdpa(self) -> None:
        """The SDPA call has ended."""

    def softmax_attention(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor
    ) -> None:
        """Softmax attention has run over the allowed pairs."""


class Recorder(Protocol):
    """Receives every operation of a traced run together with the modules that are running."""

    def begin(self, stated: Any) -> None:
        """A forward pass starts; ``stated`` maps tensors to the spikes their neurons made."""

    def before_op(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], stack: list[Frame]
    ) -> None:
        """An operation is about to run: its operands still hold their values."""

    def after_op(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """The operation has returned ``out``."""

    def rows_gathered(self, stack: list[Frame], weights: Tensor, v: Tensor) -> None:
        """Attention read rows of V by index: ``weights @ v`` without a product."""


class FunctionMode(TorchFunctionMode):
    """Intercepts scaled_dot_product_attention before it becomes a single kernel."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.watcher.paused:
            return func(*args, **kwargs)
        name = self.watcher.enter_sdpa()
        out = func(*args, **kwargs)
        self.watcher.leave_sdpa()
        self.watcher.paused = True
        try:
            _count_sdpa(self.watcher, name, *args, **kwargs)
        finally:
            self.watcher.paused = False
        return out


def _count_sdpa(
    watcher: Watcher,
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
    if is_causal:
        allowed = allowed.tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        allowed = allowed & attn_mask
    elif attn_mask is not None:
        allowed = allowed & (attn_mask > torch.finfo(attn_mask.dtype).min / 2)
    watcher.softmax_attention(name, query, key, value, allowed)


class DispatchMode(TorchDispatchMode):
    """Intercepts every operation of the dispatcher."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.watcher.before_op(func, args, kwargs)
        out = func(*args, **kwargs)
        self.watcher.after_op(func, args, kwargs, out)
        return out
