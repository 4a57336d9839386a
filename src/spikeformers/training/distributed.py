"""One process or many: ranks and devices, spreading the model, and sums over the ranks."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from spikeformers.errors import ConfigError
from spikeformers.training.config import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """This process among ``size``; ``group`` is a gloo group for numbers and checkpoints.

    ``background`` is another one, for checkpoints that a thread writes meanwhile.
    """

    rank: int
    size: int
    device: torch.device
    strategy: str
    group: Any = None
    background: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum over the ranks, in float64 (the same numbers on each)."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return list(total.tolist())

    def mean(self, values: Sequence[float]) -> list[float]:
        return [value / self.size for value in self.sum(values)]

    def any(self, flag: bool) -> bool:
        return self.sum([float(flag)])[0] > 0


def choose_device(setting: str, local_rank: int) -> torch.device:
    """The device of a setting; ``auto`` is CUDA if available. ConfigError for an absent device."""
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    name = ("cuda" if available["cuda"] else "cpu") if setting == "auto" else setting
    if not available[name]:
        raise ConfigError(f"device is {name!r}, and torch finds none here. Use device=auto.")
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


def choose_strategy(setting: str, size: int) -> str:
    """``auto`` is DDP in more than one process; ConfigError for a strategy that does not fit."""
    if size == 1 and setting in ("ddp", "fsdp") and "RANK" not in os.environ:
        raise ConfigError(
            f"strategy is {setting!r}, and this is a single process. Start it with "
            "torchrun --nproc_per_node N, or use strategy=single."
        )
    if size > 1 and setting == "single":
        raise ConfigError(f"strategy is 'single' in {size} processes. Use ddp or fsdp.")
    return ("ddp" if size > 1 else "single") if setting == "auto" else setting


def open_world(config: TrainConfig) -> World:
    """Join the processes that torchrun started (RANK is set), or run as a single process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    strategy = choose_strategy(config.strategy, size)
    device = choose_device(config.device, int(os.environ.get("LOCAL_RANK", "0")))
    share = size * config.gradient_accumulation
    if config.batch_size % share:
        raise ConfigError(
            f"batch_size is {config.batch_size}; with {size} processes and gradient_accumulation "
            f"{config.gradient_accumulation} it must be a multiple of {share}."
        )
    if strategy == "single":
        return World(0, 1, device, strategy)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    groups = _join("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), size, device, strategy, *groups)


@functools.cache
def _join(backend: str) -> tuple[Any, Any]:
    """Join once, until the process ends: gloo crashes if it is left and joined again.

    Returns two separate groups, because checkpoints hang or abort on the default one, and those of
    a thread must not meet the sums of the training loop.
    """
    if not dist.is_initialized():
        dist.init_process_group(backend)
        atexit.register(dist.destroy_process_group)
    return dist.new_group(backend="gloo"), dist.new_group(backend="gloo")


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks, by the Transformers convention ``_no_split_modules``.

    FSDP2 gives a block's class a name with the prefix FSDP.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [
        block
        for stack in model.modules()
        if isinstance(stack, nn.ModuleList)
        for block in stack
        if type(block).__name__.removeprefix("FSDP") in names
    ]


def spread(
    model: nn.Module, world: World, *, compiled: bool, leaves_unused: bool = False
) -> nn.Module:
    """Move the model to the device and spread it; returns the module that the loop calls.

    The parameters stay in ``model`` itself. Parameters without a gradient are an error under DDP
    unless ``leaves_unused``.
    """
    model.to(world.device)
    if world.strategy == "single":
        if compiled:
            model.compile()
        return model
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    if world.strategy == "ddp":
        if compiled:
            model.compile()
        device_ids = [world.device.index] if world.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=device_ids, find_unused_parameters=leaves_unused
        )
    return _shard(model, world, compiled)


def _shard(model: nn.Module, world: World, compiled: bool) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh

    scalars = [name for name, p in model.named_parameters() if p.ndim == 0]
    if scalars:
        raise ConfigError(
            f"strategy=fsdp cannot shard the scalar parameters {scalars[:3]}. Use strategy=ddp."
        )
    # The warning concerns in-place operations on outputs, which the loop does not have.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    parts = blocks(model)
    if not parts:
        logger.warning("fsdp: the model names no _no_split_modules; it is sharded as one piece")
    for block in parts:
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@contextmanager
def compiled_only_here(module: nn.Module) -> Iterator[None]:
    """Undo what ``spread`` compiles: a trained model is called with caches and other lengths, for
    each of which compiled code would be made anew.
    """
    before = [(part, part._compiled_call_impl) for part in module.modules()]
    try:
        yield
    finally:
        for part, call in before:
            part._compiled_call_impl = call


@contextmanager
def gradient_sync(module: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Exchange gradients in this backward pass, or not yet (gradient accumulation)."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not enabled:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(enabled)
    yield


def average_gradients(model: nn.Module, world: World) -> None:
    """Replace each gradient by its mean over the ranks, if the backward pass did not do so."""
    if world.size > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world.size


def reshard(model: nn.Module) -> None:
    """Reshard FSDP2's gathered parameters, as a backward pass does but a forward pass does not.

    Until then ``named_parameters`` returns tensors that the optimiser does not know.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The complete state dict on the CPU of rank 0; every rank calls this, the others get {}."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
