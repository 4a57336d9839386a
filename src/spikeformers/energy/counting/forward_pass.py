"""One forward pass of a model, counted by a `Tracer`."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from spikeformers.energy.counting.hooks import Recorder
from spikeformers.energy.counting.module_stack import key_heads_of
from spikeformers.energy.counting.operands import Batch, inputs_of
from spikeformers.energy.counting.trace import Trace
from spikeformers.energy.counting.tracer import Tracer


def trace(model: nn.Module, batch: Batch) -> Trace:
    """Count one forward pass over ids ``[B, T]``, or ``{"input_ids", "attention_mask"}``.

    ``{"pixel_values"}`` ``[B, C, H, W]`` are images; then an image takes the place of a token.

    The model runs in eval mode, without cache or gradients, and its mode is restored. Raises
    SpikeformersError if a matrix product belongs to no counted module.
    """
    tracer = _run(model, batch, None)
    tracer.complain()
    return tracer.trace


def trace_into(recorder: Recorder, model: nn.Module, batch: Batch) -> Trace:
    """Pass every operation of one forward pass to ``recorder``, whether it is counted or not.

    Returns what was counted. The model runs as in ``trace``.
    """
    return _run(model, batch, recorder).trace


def _run(model: nn.Module, batch: Batch, recorder: Recorder | None) -> Tracer:
    inputs, rows = inputs_of(batch)
    rows.key_heads = key_heads_of(model)
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" in parameters:
        inputs["use_cache"] = False
    tracer = Tracer(model, rows, recorder)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), tracer:
            model(**inputs)
    finally:
        model.train(training)
    return tracer
