"""Bytes that a training step holds beside weights and optimiser: estimated, and measured on a CPU.

No weight is allocated: the model is built with fake tensors, and its forward pass tells what
autograd would keep. See `spikeformers.studies.planning` for what the parts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from spikeformers.attention import cores_of
from spikeformers.models import build_model
from spikeformers.models.registry import is_masked
from spikeformers.training.distributed import blocks

FLOAT = 4  # bytes
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Activations:
    """Bytes that the forward pass keeps: ``outside`` the blocks, and per block.

    ``scores`` are those of a block's attention, a number per pair of tokens, which a kernel that
    streams does not keep; ``block_input``, the stream and the relative bias, is what checkpointing
    keeps of a block; ``gradients`` are those that exist in a block's backward pass: of the head,
    and on both sides of its widest map.
    """

    outside: int
    block: int
    scores: int
    block_input: int
    gradients: int

    def kept(self, layers: int, *, checkpointed: bool) -> int:
        """What the forward pass of all blocks keeps."""
        return self.outside + layers * (self.block_input if checkpointed else self.block)

    def working(self, logits: int, scores: int, *, checkpointed: bool) -> int:
        """The most that the backward pass needs beside it; bytes of logits and of one attention."""
        in_block = 4 * scores + self.gradients - logits
        return max(2 * logits, in_block + (self.block if checkpointed else 0))


def logits_bytes(windows: int, context: int, vocabulary: int) -> int:
    """Bytes of the logits in float32."""
    return FLOAT * windows * context * vocabulary


def scores_bytes(model: nn.Module, context: int) -> int:
    """Bytes of the scores of one attention for one window; 0 if no matrix of them exists."""
    core = next(iter(cores_of(model)), None)
    if core is None or core.keeps_state:  # a dense twin streams (scaled_dot_product_attention)
        return 0
    config: Any = model.config
    return FLOAT * int(config.steps) * int(config.num_attention_heads) * context**2


def activation_counter(
    config: Any, context: int, precision: Precision
) -> Callable[[int], Activations]:
    """A function that gives the activations of a number of windows, without running the model."""
    counted = {
        (layers, windows): _kept(config, layers, windows, context, precision)
        for layers in (1, 2)
        for windows in (2, 3)
    }

    def of(windows: int) -> Activations:
        def line(first: int, second: int) -> int:
            return first + (windows - 2) * (second - first)

        (saved, saved_two), (scores, scores_two), (inputs, inputs_two) = (
            [line(counted[layers, 2][kind], counted[layers, 3][kind]) for layers in (1, 2)]
            for kind in range(3)
        )
        block, width = saved_two - saved, config.hidden_size
        numbers = getattr(config, "steps", 1) * windows * context
        widest = getattr(config, "intermediate_size", None) or 4 * width
        gradients = FLOAT * (config.vocab_size * width + 2 * numbers * widest)
        return Activations(
            saved - block, block, scores_two - scores, inputs_two - inputs, gradients
        )

    return of


def _kept(
    config: Any, layers: int, windows: int, context: int, precision: Precision
) -> tuple[int, int, int]:
    """Bytes that a forward pass with ``layers`` blocks saves, of these those of attention scores,
    and those of the blocks' inputs.
    """
    shorter = type(config).from_dict({**config.to_dict(), "num_hidden_layers": layers})
    shorter.use_cache = False
    saved: dict[int, tuple[torch.UntypedStorage, bool]] = {}

    inputs: dict[int, torch.UntypedStorage] = {}

    def enter(_: nn.Module, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        for value in (*args, *more.values()):
            if isinstance(value, torch.Tensor):
                inputs[value.untyped_storage()._cdata] = value.untyped_storage()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        pairs = tensor.ndim > 2 and tensor.shape[-2:] == (context, context)
        saved.setdefault(storage._cdata, (storage, pairs))
        return tensor

    with fake_tensors():
        model = build_model(shorter).train()
        for block in blocks(model):
            block.register_forward_pre_hook(enter, with_kwargs=True)
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        ids = torch.zeros((windows, context), dtype=torch.long)
        autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
            output = model(input_ids=ids, labels=ids)
        del output
    sizes = [(s.nbytes(), pairs) for key, (s, pairs) in saved.items() if key not in own]
    scores = sum(size for size, pairs in sizes if pairs)
    entering = sum(storage.nbytes() for storage in inputs.values())
    return sum(size for size, _ in sizes), scores, entering


def cache_bytes(config: Any, context: int) -> int:
    """Bytes of the cache of one text in generation, two per number; 0 for a masked model."""
    if is_masked(config):
        return 0
    shorter = type(config).from_dict({**config.to_dict(), "num_hidden_layers": 1})
    shorter.use_cache = True
    with fake_tensors(), torch.no_grad():
        ids = torch.zeros((1, context), dtype=torch.long)
        cache = build_model(shorter).eval()(input_ids=ids, use_cache=True).past_key_values
        layer = cache.layers[0]
        numbers = sum(v.numel() for v in vars(layer).values() if isinstance(v, torch.Tensor))
    return 2 * int(numbers) * int(config.num_hidden_layers)


def numbers_of(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def measured_step_bytes(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, ids: torch.Tensor
) -> int:
    """The most bytes that a training step on the CPU holds beside weights and optimiser state.

    From the allocations that torch.profiler records; ``ids`` ``[B, T]``. Two steps are made, the
    first of which creates the optimiser's state.
    """
    from torch.profiler import ProfilerActivity, profile

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    results: Any = recorded.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def estimated_step_bytes(
    config: Any, windows: int, context: int, *, checkpointed: bool = False
) -> int:
    """What `measured_step_bytes` measures, estimated as `plan` does, in float32."""
    at_work = activation_counter(config, context, "fp32")(windows)
    with fake_tensors():
        gradients = FLOAT * numbers_of(build_model(config))
    logits = logits_bytes(windows, context, config.vocab_size)
    # On a CPU attention works on a few rows of scores at a time.
    working = at_work.working(logits, 0, checkpointed=checkpointed)
    kept = at_work.kept(config.num_hidden_layers, checkpointed=checkpointed)
    return max(kept + working, gradients)


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors that are made inside have shapes and no memory; the random state stays as it was."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    state = torch.get_rng_state()
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_rng_state(state)
