"""Rows of an audit: every operation of a traced run that is more than additions and moves.

The rows come from the dispatcher, so they hold what was really computed: the operands of a product
are the tensors that entered it, whatever the module around it is called. Inside a norm module its
arithmetic is one row. Operations on constants alone are left out, because they can be done before
the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from spikeformers.energy import arithmetic
from spikeformers.energy import operations as ops
from spikeformers.energy.arithmetic import What
from spikeformers.energy.constants import Constants, tensors_in
from spikeformers.energy.frames import Frame, layer_of
from spikeformers.energy.sides import Side, real_side, side_of, side_of_number, with_units
from spikeformers.energy.units import KEEP_CHANNELS, units_of

Verdict = Literal["binary", "adder", "silent", "scale", "multiplier", "unknown"]
_NORM_ARITHMETIC = ("normalisation", "division", "multiplication")


@dataclass
class Row:
    """One operation of one module, over all its calls."""

    module: str
    """Name of the innermost module that runs; "" is the model itself."""
    what: What
    op: str
    operands: tuple[Side, ...]
    role: str = ""
    """"scores" or "values" for the products of attention."""
    note: str = ""

    @property
    def name(self) -> str:
        """Module and, for products of attention, role."""
        return ".".join(part for part in (self.module, self.role) if part)

    @property
    def layer(self) -> int | None:
        """Block it is in; None outside (embedding, final norm, head)."""
        return layer_of(self.module)

    @property
    def verdict(self) -> Verdict:
        """What it takes to compute: see ``audit``."""
        if self.what == "unknown":
            return "unknown"
        if self.what == "comparison":
            return "adder"
        if self.what == "product":
            return self._of_product()
        if self.what == "multiplication":
            return self._of_factors()
        if self.what == "division":
            return self._of_constant(self.operands[1])
        return "scale" if self.note == FIXED_NORM else "multiplier"

    def _of_product(self) -> Verdict:
        kinds = {side.kind for side in self.operands if side.units is None}
        if "binary" in kinds:
            return "binary"
        if any(side.is_spikes for side in self.operands):
            return "adder"
        return "silent" if "silent" in kinds else "multiplier"

    def _of_factors(self) -> Verdict:
        if any(side.is_spikes and not side.constant for side in self.operands):
            return "adder"
        constants = [side for side in self.operands if side.constant]
        if constants:
            return self._of_constant(constants[0])
        return "silent" if any(side.kind == "silent" for side in self.operands) else "multiplier"

    @staticmethod
    def _of_constant(side: Side) -> Verdict:
        if not side.constant:
            return "multiplier"
        return "adder" if side.shift else "scale"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "module": self.module,
            "layer": self.layer,
            "what": self.what,
            "op": self.op,
            "operands": [side.as_dict() for side in self.operands],
            "verdict": self.verdict,
            "note": self.note,
        }


FIXED_NORM = "statistics fixed before the run: a scale and a shift"


class Listing:
    """Rows in the order of the forward pass; the tracer tells it of every operation."""

    def __init__(self, model: nn.Module) -> None:
        self.rows: dict[tuple[str, What, str, str, int], Row] = {}
        self._model, self._constants = model, Constants(model)
        self._known: Any = {}
        self._multiplied: Any = WeakTensorKeyDictionary()
        """Results of ``a * b``: sides and shapes of both (None once moved)."""
        self._factors: tuple[tuple[Side, ...], Any] | None = None
        self._scaled: Any = WeakTensorKeyDictionary()
        """Spikes times a unit a channel: the side of the result."""
        self._making: Side | None = None

    def begin(self, known: Any) -> None:
        """A forward pass starts; ``known`` maps tensors to the spikes their neurons made."""
        self._known = known

    def before(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], frames: list[Frame]
    ) -> None:
        """One operation is about to run: its operands are still what they were."""
        self._factors = self._making = None
        if all(x in self._constants for x in tensors_in((args, kwargs))):
            return
        name, what = ops.base_name(func), arithmetic.class_of(func, args, kwargs)
        frame = self._innermost(frames)
        norm = next((frame for frame in reversed(frames) if frame.kind == "norm"), None)
        fixed = arithmetic.is_batch_norm_of_constants(name, args)
        if norm is not None and not fixed and (what in _NORM_ARITHMETIC or what is None):
            kind = type(norm.module).__name__
            if what is not None and not norm.listed[f"normalisation {kind}"]:
                self._add(norm, "normalisation", kind, args[:1])
        elif name == "mean" and frame.kind == "part of a product":
            return  # additions; what divides them cancels against a factor of the operand
        elif name in ("sum", "mean") and self._is_product(args):
            self._add(frame, "product", "mul, then sum", self._multiplied[args[0]][0])
        elif what == "product" and arithmetic.is_fused_attention(name):
            self._fused_attention(frame, f"aten.{name}", *args[:3])
        elif what is not None:
            operands = arithmetic.operands_of(name, what, args, kwargs)
            if what == "product" and operands[0] in self._scaled and self._is_weights(operands[1]):
                operands = (self._scaled[operands[0]], operands[1])
            note = FIXED_NORM if fixed else ""
            self._add(frame, what, func._schema.name.replace("::", "."), operands, note=note)
            if name == "mul" and all(isinstance(x, Tensor) and x.dim() for x in operands):
                sides = tuple(self._side(x) for x in operands)
                self._factors = (sides, [side.shape for side in sides])
                self._making = self._scaled_side(operands, sides)

    def after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """It has run."""
        self._constants.follow(func, args, kwargs, out)
        if func._schema.is_mutable:
            self._forget(args[0])
        if self._making is not None:
            self._scaled[out] = self._making
        elif ops.base_name(func) in KEEP_CHANNELS:
            for made in tensors_in(out):
                side = self._scaled.get(args[0])
                if side is not None and made.shape[-1:] == args[0].shape[-1:]:
                    self._scaled[made] = side
        if self._factors is not None:
            self._multiplied[out] = self._factors
        elif ops.base_name(func) in ops.MOVES:
            source = next((x for x in tensors_in(args) if x in self._multiplied), None)
            for made in tensors_in(out) if source is not None else ():
                self._multiplied[made] = (self._multiplied[source][0], None)

    def gathered(self, frames: list[Frame], weights: Tensor, v: Tensor) -> None:
        """Attention read rows of V by index: ``weights @ v`` without a product."""
        operands = (side_of(weights, None, False), v)
        self._add(self._innermost(frames), "product", "rows gathered", operands, role="values")

    def _scaled_side(self, operands: tuple[Any, ...], sides: tuple[Side, ...]) -> Side | None:
        """What a neuron's spikes times a unit a channel are; None for any other product."""
        for place, side in enumerate(sides):
            if side.source == "neuron" and side.is_spikes and not side.constant:
                spikes, factor = operands[place], operands[1 - place]
                units = units_of(spikes, factor, fixed=sides[1 - place].constant)
                if units is not None:
                    return with_units(side, units)
        return None

    def _forget(self, written: Any) -> None:
        """``written`` holds something else now, and so does every view of it."""
        if isinstance(written, Tensor):
            pointer = written.untyped_storage().data_ptr()
            for x in list(self._scaled):
                if x.untyped_storage().data_ptr() == pointer:
                    self._scaled.pop(x, None)

    def _is_weights(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x in self._constants

    def _innermost(self, frames: list[Frame]) -> Frame:
        open_ = Frame("", self._model, "open")
        return next((frame for frame in reversed(frames) if frame.kind != "sdpa"), open_)

    def _is_product(self, args: tuple[Any, ...]) -> bool:
        """Whether a sum over ``args[0]``, which is ``a * b``, contracts a dimension of both."""
        if args[0] not in self._multiplied:
            return False
        _, shapes = self._multiplied[args[0]]
        if shapes is None:  # reshaped in between: take it for one
            return True
        dims = args[0].dim()
        padded = [(1,) * (dims - len(shape)) + shape for shape in shapes]
        return any(
            all(shape[dim] > 1 for shape in padded) for dim in arithmetic.reduced(dims, args)
        )

    def _fused_attention(self, frame: Frame, op: str, q: Tensor, k: Tensor, v: Tensor) -> None:
        weights = real_side((*q.shape[:-1], k.shape[-2]))
        self._add(frame, "product", op, (q, k), role="scores")
        self._add(frame, "softmax", op, (weights,))
        self._add(frame, "product", op, (weights, v), role="values")

    def _add(
        self,
        frame: Frame,
        what: What,
        op: str,
        operands: tuple[Any, ...],
        *,
        role: str = "",
        note: str = "",
    ) -> None:
        by_scores = getattr(frame.module, "order", "scores") == "scores"
        if frame.kind == "core" and what == "product" and not role and by_scores:
            role = "values" if frame.listed["scores"] else "scores"
        place = role or f"{what} {op}"
        frame.listed[place] += 1
        key = (frame.name, what, op, role, frame.listed[place])
        row = self.rows.get(key)
        if row is None:
            sides = tuple(self._side(x) for x in operands)
            self.rows[key] = Row(frame.name, what, op, sides, role, note)
            return
        for mine, x in zip(row.operands, operands, strict=False):
            if not (mine.constant and self._is_constant(x)):  # weights were read the first time
                mine.merge(self._side(x))

    def _is_constant(self, x: Any) -> bool:
        if isinstance(x, Side):
            return x.constant
        return x in self._constants if isinstance(x, Tensor) else True

    def _side(self, x: Any) -> Side:
        if isinstance(x, Side):
            return replace(x)  # rows merge into theirs
        if isinstance(x, Tensor):
            return side_of(x, self._known.get(x), x in self._constants)
        return side_of_number(float(x))
