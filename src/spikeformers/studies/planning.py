"""What training a preset would take on given GPUs: memory by part, speed and days, estimated.

Nothing is trained and no weight is allocated: the model is built with fake tensors, and its forward
pass tells what autograd would keep. Memory of one GPU, in bytes:

    weights + gradients + optimiser + activations + working memory

Weights and gradients are float32. Activations are the tensors that PyTorch's own kernels save for
the backward pass (attention scores written out whole), counted for one and two blocks and two and
three windows, which gives any number of both. With checkpointing each block keeps its input only.
The working memory is the larger of two: the gradient of the logits, twice, where the backward pass
begins; and, in the backward pass of a block, when the logits are gone, its gradients, four times
the scores of its attention unless it streams, and with checkpointing its activations. With FSDP2
weights, gradients and optimiser are divided by the number of GPUs, and two blocks are gathered.

Speed is an assumption, the share of the GPUs' peak (MFU) that training reaches; see
`spikeformers.training.utilisation` for its definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedModel

from spikeformers.attention import cores_of
from spikeformers.errors import ConfigError, nearest
from spikeformers.models import (
    PRESETS,
    WDSpikingformerConfig,
    build_config,
    build_model,
    control_of,
)
from spikeformers.models.registry import is_masked
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import blocks
from spikeformers.training.optim import MuonAndAdamW, make_optimizer
from spikeformers.training.utilisation import (
    ACCELERATORS,
    Accelerator,
    training_flops_per_token,
)

FLOAT = 4  # bytes
ASSUMED_MFU = 0.3
USABLE = 0.9  # of a GPU's memory: the rest is for fragments, buffers of NCCL, the CUDA context
Strategy = Literal["single", "ddp", "fsdp"]
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


@dataclass(frozen=True)
class Plan:
    """The estimate; bytes are those of one GPU, ``windows`` those of one forward pass there."""

    preset: str
    model_type: str
    parameters: int
    gpus: int
    gpu: str
    strategy: str
    optimizer: str
    precision: str
    context: int
    windows: int
    vocabulary: int
    weights: int
    gradients: int
    optimiser: int
    gathered: int
    activations: int
    activations_scores: int
    activations_checkpointed: int
    working: int
    working_checkpointed: int
    cache: int
    """Of one text of ``context`` tokens in generation, in two bytes per number; 0 without one."""
    usable: int
    most_windows: int
    most_windows_checkpointed: int
    flops_per_token: float
    mfu: float
    tokens_per_second: float
    tokens_per_second_checkpointed: float
    tokens: int
    days: float | None
    days_checkpointed: float | None

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the text."""
        return self.weights + self.gradients + self.optimiser + self.gathered

    def total(self, *, checkpointed: bool) -> int:
        """All bytes of one GPU."""
        if checkpointed:
            return self.fixed + self.activations_checkpointed + self.working_checkpointed
        return self.fixed + self.activations + self.working

    def as_dict(self) -> dict[str, Any]:
        """The values, the totals and that they are estimated, as ``--json`` prints them."""
        totals = {"total": self.total(checkpointed=False)}
        totals["total_checkpointed"] = self.total(checkpointed=True)
        return {"estimated": True, **asdict(self), **totals}


def plan(
    preset: str,
    *,
    gpus: int = 1,
    gpu: str = "h100",
    control: bool = False,
    context: int = 0,
    windows: int = 4,
    vocabulary: int = 0,
    strategy: Strategy | None = None,
    optimizer: str = "adamw",
    precision: Precision = "bf16",
    mfu: float = ASSUMED_MFU,
    tokens: int = 0,
    settings: dict[str, Any] | None = None,
) -> Plan:
    """Estimate the training of ``preset``, or with ``control`` of its dense twin.

    ``gpu`` is a key of `ACCELERATORS`; ``context`` tokens in a window, as many as the preset has
    positions unless given; ``windows`` in one forward pass of one GPU; ``strategy`` "fsdp" on
    several GPUs unless given; ``mfu`` the assumed share of the peak; ``tokens`` to train on, those
    that the preset's paper states unless given. ``settings`` are fields of the model's config.
    Raises ConfigError for an unknown name or a value out of range.
    """
    accelerator = _accelerator(gpu)
    for name, value in (("gpus", gpus), ("windows", windows)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be 1 or greater.")
    if not 0 < mfu <= 1:
        raise ConfigError(f"mfu is {mfu}; it must lie between 0 and 1.")
    chosen = strategy or ("fsdp" if gpus > 1 else "single")
    if chosen not in get_args(Strategy) or (chosen == "single") != (gpus == 1):
        raise ConfigError(f"strategy {chosen!r} does not fit {gpus} GPU(s).")
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is {precision!r}; it must be bf16 or fp32.")
    size = vocabulary or WDSpikingformerConfig().vocab_size
    overrides = dict(settings or {})
    if context:
        overrides["max_position_embeddings"] = context
    spiking = build_config(preset, size, overrides)
    spiking.validate_architecture()
    config = control_of(spiking) if control else spiking
    context = spiking.max_position_embeddings
    entry = PRESETS.entry(preset)
    train = TrainConfig(optimizer=optimizer, context=context)
    with _fake():
        model = build_model(config)
        parameters = sum(p.numel() for p in model.parameters())
        optimiser = _optimiser_bytes(model, train)
        scores = _scores_bytes(model, context)
        largest = max((_numbers(block) for block in blocks(model)), default=0)
        flops = training_flops_per_token(model, context)
    shards = gpus if chosen == "fsdp" else 1
    fixed = {
        "weights": FLOAT * parameters // shards,
        "gradients": FLOAT * parameters // shards,
        "optimiser": optimiser // shards,
        "gathered": 2 * FLOAT * largest if shards > 1 else 0,
    }
    layers, usable = config.num_hidden_layers, int(USABLE * accelerator.memory * 1e9)
    measure = activation_counter(config, context, precision)
    free = usable - sum(fixed.values())

    def needed(count: int, checkpointed: bool) -> tuple[int, int]:
        at_work, logits = measure(count), logits_bytes(count, context, size)
        working = at_work.working(logits, count * scores, checkpointed=checkpointed)
        return at_work.kept(layers, checkpointed=checkpointed), working

    def most(checkpointed: bool) -> int:
        two, three = (sum(needed(count, checkpointed)) for count in (2, 3))
        return max(0, (free - two) // (three - two) + 2)

    plain, again = needed(windows, False), needed(windows, True)
    speed = mfu * accelerator.tflops * 1e12 * gpus / flops
    slower = speed * 3 / 4  # one more forward pass, a third of forward and backward
    goal = tokens or entry.paper_tokens
    return Plan(
        preset=preset,
        model_type=config.model_type,
        parameters=parameters,
        gpus=gpus,
        gpu=gpu,
        strategy=chosen,
        optimizer=optimizer,
        precision=precision,
        context=context,
        windows=windows,
        vocabulary=size,
        **fixed,
        activations=plain[0],
        activations_scores=layers * measure(windows).scores,
        activations_checkpointed=again[0],
        working=plain[1],
        working_checkpointed=again[1],
        cache=_cache_bytes(config, context),
        usable=usable,
        most_windows=most(False),
        most_windows_checkpointed=most(True),
        flops_per_token=flops,
        mfu=mfu,
        tokens_per_second=speed,
        tokens_per_second_checkpointed=slower,
        tokens=goal,
        days=goal / speed / 86400 if goal else None,
        days_checkpointed=goal / slower / 86400 if goal else None,
    )


def logits_bytes(windows: int, context: int, vocabulary: int) -> int:
    """Bytes of the logits in float32."""
    return FLOAT * windows * context * vocabulary


def _scores_bytes(model: nn.Module, context: int) -> int:
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

    with _fake():
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


def _cache_bytes(config: Any, context: int) -> int:
    """Bytes of the cache of one text in generation, two per number; 0 for a masked model."""
    if is_masked(config):
        return 0
    shorter = type(config).from_dict({**config.to_dict(), "num_hidden_layers": 1})
    shorter.use_cache = True
    with _fake(), torch.no_grad():
        ids = torch.zeros((1, context), dtype=torch.long)
        cache = build_model(shorter).eval()(input_ids=ids, use_cache=True).past_key_values
        layer = cache.layers[0]
        numbers = sum(v.numel() for v in vars(layer).values() if isinstance(v, torch.Tensor))
    return 2 * int(numbers) * int(config.num_hidden_layers)


def _optimiser_bytes(model: nn.Module, config: TrainConfig) -> int:
    """Two moments per parameter of AdamW, one per matrix of Muon."""
    optimizer = make_optimizer(model, config)
    matrices = optimizer.matrices if isinstance(optimizer, MuonAndAdamW) else frozenset()
    return sum(
        FLOAT * parameter.numel() * (1 if parameter in matrices else 2)
        for parameter in model.parameters()
    )


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _accelerator(name: str) -> Accelerator:
    if name not in ACCELERATORS:
        raise ConfigError(
            f"unknown GPU {name!r}; known: {', '.join(ACCELERATORS)}.{nearest(name, ACCELERATORS)}"
        )
    return ACCELERATORS[name]


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
    with _fake():
        gradients = FLOAT * _numbers(build_model(config))
    logits = logits_bytes(windows, context, config.vocab_size)
    # On a CPU attention works on a few rows of scores at a time.
    working = at_work.working(logits, 0, checkpointed=checkpointed)
    kept = at_work.kept(config.num_hidden_layers, checkpointed=checkpointed)
    return max(kept + working, gradients)


@contextmanager
def _fake() -> Iterator[None]:
    """Tensors that are made inside have shapes and no memory; the random state stays as it was."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    state = torch.get_rng_state()
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_rng_state(state)
