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

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import nn

from spikeformers.errors import ConfigError, nearest
from spikeformers.models import (
    PRESETS,
    WDSpikingformerConfig,
    build_config,
    build_model,
    control_of,
)
from spikeformers.studies.step_memory import (
    FLOAT,
    Precision,
    activation_counter,
    cache_bytes,
    fake_tensors,
    logits_bytes,
    numbers_of,
    scores_bytes,
)
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import blocks
from spikeformers.training.optim import MuonAndAdamW, make_optimizer
from spikeformers.training.utilisation import (
    ACCELERATORS,
    Accelerator,
    training_flops_per_token,
)

ASSUMED_MFU = 0.3
USABLE = 0.9  # of a GPU's memory: the rest is for fragments, buffers of NCCL, the CUDA context
Strategy = Literal["single", "ddp", "fsdp"]


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
    with fake_tensors():
        model = build_model(config)
        parameters = sum(p.numel() for p in model.parameters())
        optimiser = _optimiser_bytes(model, train)
        scores = scores_bytes(model, context)
        largest = max((numbers_of(block) for block in blocks(model)), default=0)
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
        cache=cache_bytes(config, context),
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


def _optimiser_bytes(model: nn.Module, config: TrainConfig) -> int:
    """Two moments per parameter of AdamW, one per matrix of Muon."""
    optimizer = make_optimizer(model, config)
    matrices = optimizer.matrices if isinstance(optimizer, MuonAndAdamW) else frozenset()
    return sum(
        FLOAT * parameter.numel() * (1 if parameter in matrices else 2)
        for parameter in model.parameters()
    )


def _accelerator(name: str) -> Accelerator:
    if name not in ACCELERATORS:
        raise ConfigError(
            f"unknown GPU {name!r}; known: {', '.join(ACCELERATORS)}.{nearest(name, ACCELERATORS)}"
        )
    return ACCELERATORS[name]
