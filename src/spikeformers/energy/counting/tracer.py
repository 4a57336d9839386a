"""The tracer of energy and audit: it counts a real forward pass.

Hooks count modules that have a closed form (rules.py). Below them a dispatch mode sees every
operation, including functional calls, and checks the hooks: a matrix product that belongs to no
counted module is an error that names it, never a silent zero.

Counted: Linear, Conv1D and Conv2d, scaled_dot_product_attention, spiking cores, attention written
out as product, softmax, product, embeddings, norms, neurons, and elementwise operations elsewhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.pytorch_utils import Conv1D

from spikeformers.attention import Attention
from spikeformers.energy.counting import operations as ops
from spikeformers.energy.counting import rules
from spikeformers.energy.counting.hooks import DispatchMode, FunctionMode, Recorder
from spikeformers.energy.counting.module_stack import (
    ACCOUNTS,
    ATTENTION,
    CLOSED,
    Frame,
    attention_written_out,
    complaint,
    elementwise_component,
    kind_of,
    layer_of,
    linear_component,
    product_in_words,
)
from spikeformers.energy.counting.operands import Place, Rows, Spikes
from spikeformers.energy.counting.trace import Trace
from spikeformers.errors import SpikeformersError
from spikeformers.kernels.triton import suspended
from spikeformers.neurons import Neuron


class Tracer:
    """A context in which ``model`` runs: the running modules, and the counts of their hooks."""

    def __init__(self, model: nn.Module, rows: Rows, recorder: Recorder | None) -> None:
        self.model, self.rows, self.recorder = model, rows, recorder
        stored = sum(p.numel() for p in model.parameters())
        self.trace = Trace(
            tokens=rows.tokens,
            unit="image" if rows.images else "token",
            window=rows.shape[1],
            parameters=stored,
            other_parameters=stored,
        )
        self.held: set[int] = set()  # parameters of counted modules: a tied one counts once
        self.stack: list[Frame] = []  # running modules, innermost last
        self.stated: Any = WeakTensorKeyDictionary()
        """Tensors that hold a neuron's spikes, and the neuron's statement about these."""
        self.decoded_from: Any = WeakTensorKeyDictionary()
        """Tensors of decoded values, and the spikes that they were decoded from."""
        self.scales_sums: Any = WeakTensorKeyDictionary()
        """Decoded values whose spikes have a value per token, a factor of each sum."""
        self.last_spikes: dict[nn.Module, Tensor] = {}
        self.paused = False
        self.width = 0
        """Width of the embeddings, which identifies residual additions."""
        self.unaccounted: list[str] = []
        self._open = ExitStack()
        if recorder is not None:
            recorder.begin(self.stated)

    def __enter__(self) -> Tracer:
        for name, module in self.model.named_modules():
            for handle in (
                module.register_forward_pre_hook(self._enter(name), with_kwargs=True),
                module.register_forward_hook(self._leave(name), with_kwargs=True),
            ):
                self._open.callback(handle.remove)
        self._open.enter_context(suspended())  # a fused kernel hides the operations to be counted
        self._open.enter_context(FunctionMode(self))
        self._open.enter_context(DispatchMode(self))
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def complain(self) -> None:
        """Raise if a matrix product was not counted."""
        if self.unaccounted:
            raise SpikeformersError(complaint(type(self.model).__name__, self.unaccounted))

    def place(self, name: str, component: str) -> Place:
        """The place of the module ``name`` in the model."""
        return Place(name, component, layer_of(name))

    # --- modules -----------------------------------------------------------------------------

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.paused:  # a counter is computing the core's weights again
                return
            self.stack.append(Frame(name, module, kind_of(module)))

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            if self.paused:
                return
            frame = self.stack.pop()
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
        module = frame.running
        entered = next(iter(inputs.values())) if frame.decoded is None else frame.decoded
        x: Tensor = self.decoded_from.get(entered, entered)
        self._hold(module.weight)
        weight = module.weight if isinstance(module, Conv1D) else module.weight.t()
        place = self.place(frame.name, linear_component(self.stack, frame.name))
        expected = rules.linear(self.trace, place, self.rows, x, self.stated.get(x), weight)
        self._check(frame, expected, expected)
        self.trace.synapses.append(
            rules.synapses_of_linear(self.rows, x, self.stated.get(x), weight)
        )
        steps = output.shape[0] if getattr(module, "adds_bias_once", False) else 1
        sums = self.rows.select(output).numel() // steps
        self.trace.add_operations(
            place.component,
            place.layer,
            add=0 if module.bias is None else sums,
            mult=sums if entered in self.scales_sums else 0,
        )

    def _conv(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        module: nn.Conv2d = frame.running
        self._hold(module.weight)
        x: Tensor = next(iter(inputs.values()))
        place = self.place(frame.name, linear_component(self.stack, frame.name))
        expected = rules.convolution(
            self.trace, place, self.rows, module, x, self.stated.get(x), output
        )
        self._check(frame, expected, expected)
        self.trace.synapses.append(rules.synapses_of_convolution(x, self.stated.get(x), module))
        if module.bias is not None:
            self.trace.add_operations(place.component, place.layer, add=output.numel())

    def _hold(self, weight: Any) -> None:
        if id(weight) not in self.held and isinstance(weight, nn.Parameter):
            self.held.add(id(weight))
            self.trace.other_parameters -= weight.numel()

    def _embedding(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        rows = self.rows.tokens if output.shape[-2] == self.rows.shape[1] else output.shape[-2]
        self._hold(frame.module.weight)
        self.width = self.width or output.shape[-1]
        self.trace.add_operations("embedding", layer_of(frame.name), lookup=rows * output.shape[-1])

    def _norm(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        kind = str(rules.norm_kind(frame.module))
        rules.norm(self.trace, self.place(frame.name, "norms"), self.rows, output, kind)

    def _neuron(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        module: Neuron = frame.running
        around = self.stack[-1] if self.stack else None
        if around is not None and getattr(around.module, "weights_are_fired", False):
            self.stated[output] = rules.spikes_by(module)
            around.edges = (frame.name, module, output)  # counted by the core, which has the mask
            return
        place = self.place(frame.name, "neurons")
        current = inputs["current"]
        self.stated[output] = rules.neuron(self.trace, place, self.rows, module, current, output)
        if module.expanded:
            self.last_spikes[module] = output

    def _decodes(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        self.decoded_from[output] = inputs["spikes"]
        if getattr(frame.module, "scales_sums", False):
            self.scales_sums[output] = True
        if self.stack:
            self.stack[-1].decoded = output

    def _core(self, frame: Frame, inputs: dict[str, Any], output: Tensor) -> None:
        module: Attention = frame.running
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        bias = inputs.get("bias")
        stated = self._stated_of(q, k, v)
        place = self.place(frame.name, ATTENTION)
        if module.keeps_state:
            rules.state_attention(self.trace, place, self.rows, (q, k, v), stated)
            expected = module.state_macs(q)
            self._check(frame, expected, expected)
            return
        allowed = inputs["allowed"]
        weights = self._spiking_attention(place, module, (q, k, v), stated, allowed, bias)
        if frame.edges is not None:
            name, neuron, spikes = frame.edges
            edges = self.place(name, "neurons")
            rules.edges(self.trace, edges, self.rows, neuron, spikes, allowed)
        # A core may skip keys that no query of a block sees, and gather V instead of multiplying.
        pairs = q.numel() // q.shape[-1] * k.shape[-2]
        allowed_pairs = int(allowed.expand(*q.shape[:-1], k.shape[-2]).sum())
        if self.recorder is not None and frame.dispatched <= pairs * q.shape[-1]:
            self.recorder.rows_gathered([*self.stack, frame], weights, v)
        self._check(frame, allowed_pairs * q.shape[-1], pairs * (q.shape[-1] + v.shape[-1]))
        if module.hands_on_one_row and stated[2] is not None:
            self.stated[output] = stated[2]  # each output row is one row of V

    def _expanded(self, frame: Frame, inputs: dict[str, Any], output: Any) -> None:
        """Count a core on binary sub-steps: scores sum over all their pairs before competition."""
        module = frame.running
        summed = module.summed_sub_steps(self.last_spikes.pop)
        operands = tuple(counts for counts, _ in summed)
        stated = tuple(Spikes("integer", unit) for _, unit in summed)
        place = self.place(f"{frame.name}.core", ATTENTION)
        self._spiking_attention(
            place, module.core, operands, stated, inputs["allowed"], inputs.get("bias")
        )

    def _spiking_attention(
        self,
        place: Place,
        core: Attention,
        operands: Any,
        stated: Any,
        allowed: Tensor,
        bias: Any,
    ) -> Tensor:
        weights = core.weights(operands[0], operands[1], allowed, bias)
        pairs = rules.attention(
            self.trace, place, self.rows, operands, stated, allowed, weights, core
        )
        rules.core(self.trace, place, core, pairs, bias is not None)
        return weights

    def _stated_of(self, *operands: Tensor) -> Any:
        return tuple(self.stated.get(x) for x in operands)

    def _written_out(self, frame: Frame) -> None:
        """Count attention that is written as two products around a softmax of masked scores."""
        operands = attention_written_out(frame)
        if operands is not None:
            self.softmax_attention(frame.name, *operands)
            return
        self.unaccounted += [product_in_words(op, a, b, frame.name) for op, a, b in frame.products]

    def enter_sdpa(self) -> str:
        """Open a frame for an SDPA call in the running module."""
        name = self.stack[-1].name if self.stack else "sdpa"
        self.stack.append(Frame(name, self.model, "sdpa"))
        return name

    def leave_sdpa(self) -> None:
        """Close the frame of the SDPA call."""
        self.stack.pop()

    def softmax_attention(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor
    ) -> None:
        """Count softmax attention over the allowed pairs."""
        place = self.place(name, ATTENTION)
        stated = self._stated_of(q, k, v)
        pairs = rules.attention(self.trace, place, self.rows, (q, k, v), stated, allowed, None)
        rules.softmax(self.trace, place, int(pairs.sum()))

    def _check(self, frame: Frame, least: int, most: int) -> None:
        if not least <= frame.dispatched <= most:
            self.unaccounted.append(
                f"{frame.name} ({type(frame.module).__name__}) did {frame.dispatched} MACs where "
                f"{least}{f' to {most}' if most > least else ''} are counted"
            )

    # --- operations --------------------------------------------------------------------------

    def before_op(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An operation of the dispatcher is about to run."""
        if self.recorder is not None and not self.paused:
            self.recorder.before_op(func, args, kwargs, self.stack)

    def after_op(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Count the operation, unless a running module is counted in closed form."""
        if self.paused:
            return
        if self.recorder is not None:
            self.recorder.after_op(func, args, kwargs, out)
        name = ops.base_name(func)
        if func._schema.is_mutable and args and isinstance(args[0], Tensor):
            self.stated.pop(args[0], None)
        elif name in ops.MOVES or ops.pads_with_zeros(name, args):
            self._carry(args, out)
        if ops.is_product(name):
            self._product(name, args, out)
        elif name in ("_softmax", "_safe_softmax"):
            self._softmax(args[0])
        elif not any(frame.kind in CLOSED for frame in self.stack):
            self._elementwise(name, args, kwargs, out)

    def _carry(self, args: tuple[Any, ...], out: Any) -> None:
        sources = args[0] if isinstance(args[0], (list, tuple)) else args[:1]
        kinds = {self.stated.get(x) for x in sources if isinstance(x, Tensor)}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind is not None:
            for tensor in out if isinstance(out, (list, tuple)) else (out,):
                if tensor.is_floating_point():  # not an index
                    self.stated[tensor] = kind

    def _product(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        result = out[0] if isinstance(out, tuple) else out
        for frame in reversed(self.stack):
            if frame.kind in ACCOUNTS:
                frame.dispatched += ops.macs_of(name, args, result)
                return
        left, right = ops.factors(name, args)
        top = self.stack[-1] if self.stack else None
        if top is not None and name in ("bmm", "baddbmm"):
            top.products.append((name, left, right))
        else:
            self.unaccounted.append(product_in_words(name, left, right, top.name if top else ""))

    def _softmax(self, scores: Tensor) -> None:
        if self.stack and self.stack[-1].products:
            self.stack[-1].softmaxes.append(scores)

    def _elementwise(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        frame = self.stack[-1] if self.stack else Frame("", self.model, "open")
        if len(frame.products) == 1:  # between the two products: counted with the softmax
            return
        operations = ops.elementwise(name, args, kwargs, out)
        if operations:
            joins = name == "add" and self.rows.join_stream(args, self.width)
            component = elementwise_component(self.stack, frame, name, joins_stream=joins)
            place = self.place(frame.name, component)
            share = self.rows.share
            self.trace.add_operations(
                place.component, place.layer, **{k: round(n * share) for k, n in operations.items()}
            )


_COUNTERS: dict[str, Callable[[Tracer, Frame, dict[str, Any], Any], None]] = {
    "linear": Tracer._linear,
    "conv": Tracer._conv,
    "embedding": Tracer._embedding,
    "norm": Tracer._norm,
    "neuron": Tracer._neuron,
    "core": Tracer._core,
    "decodes": Tracer._decodes,
    "expanded": Tracer._expanded,
}
