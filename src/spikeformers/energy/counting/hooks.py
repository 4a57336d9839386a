"""What the tracer looks through: every function call for SDPA, every operation for the rest."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Watcher(Protocol):
    """Who is told."""

    paused: bool

    def look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One operation of the dispatcher, about to run."""

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """One operation of the dispatcher, done."""

    def enter_sdpa(self) -> str:
        """An SDPA call begins; returns the name of the module that makes it."""

    def leave_sdpa(self) -> None:
        """It has ended."""

    def softmax_attention(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor
    ) -> None:
        """Attention over the allowed pairs."""


class FunctionMode(TorchFunctionMode):
    """Sees scaled_dot_product_attention before it becomes a kernel of its own."""

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
    """Sees every operation."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.watcher.look(func, args, kwargs)
        out = func(*args, **kwargs)
        self.watcher.see(func, args, kwargs, out)
        return out
