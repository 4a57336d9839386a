"""One tracer for energy and audit: a real forward pass, counted.

Hooks on modules count what has a closed form (count.py). Below them a dispatch mode sees every
operation, functional calls included, and holds the hooks to account: a matrix product that belongs
to no counted module is an error that names it, never a silent zero.

Counted: Linear, Conv1D and Conv2d, scaled_dot_product_attention, spiking cores, attention written
out as product, softmax, product, embeddings, norms, neurons, and elementwise operations elsewhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.pytorch_utils import Conv1D

from spikeformers.attention import A2OS2A, Attention
from spikeformers.energy import count, synapses
from spikeformers.energy import operations as ops
from spikeformers.energy.count import Place, Rows
from spikeformers.energy.frames import (
    ACCOUNTS,
    CLOSED,
    Frame,
    attention_written_out,
    complaint,
    kind_of,
    layer_of,
    rows_of,
    said,
)
from spikeformers.energy.listing import Listing
from spikeformers.energy.modes import DispatchMode, FunctionMode
from spikeformers.energy.operands import Spikes
from spikeformers.energy.records import Trace
from spikeformers.errors import SpikeformersError
from spikeformers.neurons import Neuron

Batch = Tensor | Mapping[str, Tensor]
_ATTENTION = "attention scores and values"


def trace(model: nn.Module, batch: Batch) -> Trace:
    """Count one forward pass over ids ``[B, T]``, or ``{"input_ids", "attention_mask"}``.

    ``{"pixel_values"}`` ``[B, C, H, W]`` are images, and then an image is what a token is here.

    The model runs in eval mode, without cache or gradients, and is left as it was. Raises
    SpikeformersError where a matrix product belongs to no counted module.
    """
    tracer = _run(model, batch, None)
    tracer.complain()
    return tracer.trace


def trace_into(listing: Listing, model: nn.Module, batch: Batch) -> int:
    """List every operation of one forward pass, whether it can be counted or not.

    Returns the number of tokens, padding left out. The model runs as in ``trace``.
    """
    return _run(model, batch, listing).trace.tokens


def _run(model: nn.Module, batch: Batch, listing: Listing | None) -> _Tracer:
    inputs = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
    inputs.pop("labels", None)
    rows = rows_of(model, inputs)
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" in parameters:
        inputs["use_cache"] = False  # type: ignore[assignment]
    tracer = _Tracer(model, rows, listing)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), tracer:
            model(**inputs)
    finally:
        model.train(training)
    return tracer


class _Tracer:
    """Frames of running modules, and what their hooks counted."""

    def __init__(self, model: nn.Module, rows: Rows, listing: Listing | None) -> None:
        self.model, self.rows, self.listing = model, rows, listing
        stored = sum(p.numel() for p in model.parameters())
        self.trace = Trace(
            tokens=rows.tokens,
            unit="image" if rows.images else "token",
            window=rows.shape[1],
            parameters=stored,
            other_parameters=stored,
        )
        self.held: set[int] = set()  # parameters of counted modules: a tied one counts once
        self.frames: list[Frame] = []
        self.known: Any = WeakTensorKeyDictionary()
        self.said: Any = WeakTensorKeyDictionary()  # what spikes say, and the spikes
        self.last_spikes: dict[nn.Module, Tensor] = {}
        self.paused = False
        self.width = 0  # of the embeddings, by which residual additions are known
        self.unaccounted: list[str] = []
        self._stack = ExitStack()
        if listing is not None:
            listing.begin(self.known)

    def __enter__(self) -> _Tracer:
        for name, module in self.model.named_modules():
            for handle in (
                module.register_forward_pre_hook(self._enter(name), with_kwargs=True),
                module.register_forward_hook(self._leave(name), with_kwargs=True),
            ):
                self._stack.callback(handle.remove)
        self._stack.enter_context(FunctionMode(self))
        self._stack.enter_context(DispatchMode(self))
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def complain(self) -> None:
        """Raise if a matrix product was not counted."""
        if self.unaccounted:
            raise SpikeformersError(complaint(type(self.model).__name__, self.unaccounted))

    def place(self, name: str, component: str) -> Place:
        """Where ``name`` is."""
        return Place(name, component, layer_of(name))

    # --- modules -----------------------------------------------------------------------------

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.paused:  # a counter asks the core for its weights again
                return
            self.frames.append(Frame(name, module, kind_of(module)))

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            if self.paused:
                return
            frame = self.frames.pop()
            self.paused = True
            try:
                count_kind = _COUNTERS.get(frame.kind)
                if count_kind is not None:
                    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
                    count_kind(self, frame, bound, output)
                elif frame.products:
                    self._written_out(frame)
            finally:
                self.paused = False

        return hook

    def _linear(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        module: Any = frame.module
        entered = next(iter(inputs.values()))
        x: Tensor = self.said.get(entered, entered)
        self._hold(module.weight)
        weight = module.weight if isinstance(module, Conv1D) else module.weight.t()
        place = self.place(frame.name, self._linear_component(frame.name))
        expected = count.linear(self.trace, place, self.rows, x, self.known.get(x), weight)
        self._check(frame, expected, expected)
        self.trace.synapses.append(synapses.of_linear(self.rows, x, self.known.get(x), weight))
        if module.bias is not None:
            steps = output.shape[0] if getattr(module, "adds_bias_once", False) else 1
            added = self.rows.select(output).numel() // steps
            self.trace.add_operations(place.component, place.layer, add=added)

    def _conv(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        module = frame.module
        assert isinstance(module, nn.Conv2d)
        self._hold(module.weight)
        x: Tensor = next(iter(inputs.values()))
        place = self.place(frame.name, self._linear_component(frame.name))
        expected = count.convolution(
            self.trace, place, self.rows, module, x, self.known.get(x), output
        )
        self._check(frame, expected, expected)
        self.trace.synapses.append(synapses.of_convolution(x, self.known.get(x), module))
        if module.bias is not None:
            self.trace.add_operations(place.component, place.layer, add=output.numel())

    def _hold(self, weight: Any) -> None:
        if id(weight) not in self.held and isinstance(weight, nn.Parameter):
            self.held.add(id(weight))
            self.trace.other_parameters -= weight.numel()

    def _linear_component(self, name: str) -> str:
        if self.place(name, "").layer is None:
            return "embedding" if "embed" in name else "head"
        inside = any("Attention" in type(frame.module).__name__ for frame in self.frames)
        return "attention projections" if inside else "mlp"

    def _embedding(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        rows = self.rows.tokens if output.shape[-2] == self.rows.shape[1] else output.shape[-2]
        self._hold(frame.module.weight)
        self.width = self.width or output.shape[-1]
        self.trace.add_operations("embedding", layer_of(frame.name), lookup=rows * output.shape[-1])

    def _norm(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        kind = str(count.norm_kind(frame.module))
        count.norm(self.trace, self.place(frame.name, "norms"), self.rows, output, kind)

    def _neuron(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        module = frame.module
        assert isinstance(module, Neuron)
        around = self.frames[-1] if self.frames else None
        if around is not None and around.kind == "core":
            self.known[output] = Spikes(module.spike_type, module.unit)
            around.edges = (frame.name, module, output)  # counted when it is known which may fire
            return
        place = self.place(frame.name, "neurons")
        current = inputs["current"]
        self.known[output] = count.neuron(self.trace, place, self.rows, module, current, output)
        if module.expanded:
            self.last_spikes[module] = output

    def _says(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        self.said[output] = inputs["spikes"]

    def _core(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        module = frame.module
        assert isinstance(module, Attention)
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        bias = inputs.get("bias")
        known = (self.known.get(q), self.known.get(k), self.known.get(v))
        place = self.place(frame.name, _ATTENTION)
        if isinstance(module, A2OS2A) and module.order == "state":
            count.state_attention(self.trace, place, self.rows, (q, k, v), known)
            done = count.state_macs(module, q)
            self._check(frame, done, done)
            return
        allowed = inputs["allowed"]
        weights = self._spiking_attention(place, module, (q, k, v), known, allowed, bias)
        if frame.edges is not None:
            name, neuron, spikes = frame.edges
            edges = self.place(name, "neurons")
            count.edges(self.trace, edges, self.rows, neuron, spikes, allowed)
        # A core may skip keys that no query of a block sees, and gather V instead of multiplying.
        pairs = q.numel() // q.shape[-1] * k.shape[-2]
        seen = int(allowed.expand(*q.shape[:-1], k.shape[-2]).sum())
        if self.listing is not None and frame.dispatched <= pairs * q.shape[-1]:
            self.listing.gathered([*self.frames, frame], weights, v)
        self._check(frame, seen * q.shape[-1], pairs * (q.shape[-1] + v.shape[-1]))
        if module.weights_are_binary and module.winners_per_query == 1 and known[2] is not None:
            self.known[output] = known[2]  # each output row is one row of V

    def _expanded(self, frame: Frame, inputs: dict[str, Any], output: Any) -> None:
        """Binary sub-steps: scores are summed over all pairs of them before the competition."""
        module: Any = frame.module
        fires = (module.fire_query, module.fire_key, module.fire_value)
        sides = tuple(
            module._heads(self.last_spikes.pop(f.neuron).sum(0)) * f.neuron.unit for f in fires
        )
        known = tuple(Spikes("integer", f.neuron.unit) for f in fires)
        place = self.place(f"{frame.name}.core", _ATTENTION)
        self._spiking_attention(
            place, module.core, sides, known, inputs["allowed"], inputs.get("bias")
        )

    def _spiking_attention(
        self, place: Place, core: Attention, sides: Any, known: Any, allowed: Tensor, bias: Any
    ) -> Tensor:
        weights = core.weights(sides[0], sides[1], allowed, bias)
        pairs = count.attention(self.trace, place, self.rows, sides, known, allowed, weights, core)
        count.core(self.trace, place, core, pairs, bias is not None)
        return weights

    def _written_out(self, frame: Frame) -> None:
        """Attention as two products around one softmax of the masked scores."""
        sides = attention_written_out(frame)
        if sides is not None:
            self.softmax_attention(frame.name, *sides)
            return
        self.unaccounted += [said(op, a, b, frame.name) for op, a, b in frame.products]

    def enter_sdpa(self) -> str:
        """Open a frame for an SDPA call in the running module."""
        name = self.frames[-1].name if self.frames else "sdpa"
        self.frames.append(Frame(name, self.model, "sdpa"))
        return name

    def leave_sdpa(self) -> None:
        """Close it."""
        self.frames.pop()

    def softmax_attention(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor
    ) -> None:
        """Count softmax attention over the allowed pairs."""
        place = self.place(name, _ATTENTION)
        known = (self.known.get(q), self.known.get(k), self.known.get(v))
        pairs = count.attention(self.trace, place, self.rows, (q, k, v), known, allowed, None)
        count.softmax(self.trace, place, int(pairs.sum()))

    def _check(self, frame: Frame, least: int, most: int) -> None:
        if not least <= frame.dispatched <= most:
            self.unaccounted.append(
                f"{frame.name} ({type(frame.module).__name__}) did {frame.dispatched} MACs where "
                f"{least}{f' to {most}' if most > least else ''} are counted"
            )

    # --- operations --------------------------------------------------------------------------

    def look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One operation of the dispatcher, about to run."""
        if self.listing is not None and not self.paused:
            self.listing.before(func, args, kwargs, self.frames)

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """One operation of the dispatcher."""
        if self.paused:
            return
        if self.listing is not None:
            self.listing.after(func, args, kwargs, out)
        name = ops.base_name(func)
        if func._schema.is_mutable and args and isinstance(args[0], Tensor):
            self.known.pop(args[0], None)
        elif name in ops.MOVES or ops.pads_with_zeros(name, args):
            self._carry(args, out)
        if ops.is_product(name):
            self._product(name, args, out)
        elif name in ("_softmax", "_safe_softmax"):
            self._softmax(args[0])
        elif not any(frame.kind in CLOSED for frame in self.frames):
            self._elementwise(name, args, kwargs, out)

    def _carry(self, args: tuple[Any, ...], out: Any) -> None:
        sources = args[0] if isinstance(args[0], (list, tuple)) else args[:1]
        kinds = {self.known.get(x) for x in sources if isinstance(x, Tensor)}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind is not None:
            for made in out if isinstance(out, (list, tuple)) else (out,):
                if made.is_floating_point():  # and no index
                    self.known[made] = kind

    def _product(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        made = out[0] if isinstance(out, tuple) else out
        for frame in reversed(self.frames):
            if frame.kind in ACCOUNTS:
                frame.dispatched += ops.macs_of(name, args, made)
                return
        left, right = ops.sides(name, args)
        top = self.frames[-1] if self.frames else None
        if top is not None and name in ("bmm", "baddbmm"):
            top.products.append((name, left, right))
        else:
            self.unaccounted.append(said(name, left, right, top.name if top else ""))

    def _softmax(self, scores: Tensor) -> None:
        if self.frames and self.frames[-1].products:
            self.frames[-1].softmaxes.append(scores)

    def _elementwise(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        frame = self.frames[-1] if self.frames else Frame("", self.model, "open")
        if len(frame.products) == 1:  # between the two products: counted with the softmax
            return
        found = ops.elementwise(name, args, kwargs, out)
        if found:
            place = self.place(frame.name, self._elementwise_component(frame, name, args))
            share = self.rows.share
            self.trace.add_operations(
                place.component, place.layer, **{k: round(n * share) for k, n in found.items()}
            )

    def _elementwise_component(self, frame: Frame, name: str, args: tuple[Any, ...]) -> str:
        if frame.kind == "activation":
            return "activations"
        if self.place(frame.name, "").layer is None:
            return "embedding" if name == "add" else "other"
        if name == "add" and self.rows.join_stream(args, self.width):
            return "residual"
        inside = any("Attention" in type(f.module).__name__ for f in self.frames)
        return _ATTENTION if inside else "activations"


_COUNTERS: dict[str, Callable[[_Tracer, Frame, dict[str, Any], Any], None]] = {
    "linear": _Tracer._linear,
    "conv": _Tracer._conv,
    "embedding": _Tracer._embedding,
    "norm": _Tracer._norm,
    "neuron": _Tracer._neuron,
    "core": _Tracer._core,
    "says": _Tracer._says,
    "expanded": _Tracer._expanded,
}
