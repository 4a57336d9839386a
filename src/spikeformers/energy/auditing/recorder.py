"""Records the rows of an audit: every operation that is more than an addition or a move.

The rows come from the dispatcher, so they state what was really computed: the operands of a product
are its input tensors, whatever the module around it is called. The arithmetic of a norm module is
one row. Operations on constants only are left out, because they can be done before the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from spikeformers.energy.auditing import op_classes
from spikeformers.energy.auditing.constants import Constants, tensors_in
from spikeformers.energy.auditing.op_classes import What
from spikeformers.energy.auditing.operand_history import (
    KEEP_CHANNELS,
    OperandHistory,
    history_of,
    history_of_number,
    history_of_reals,
    is_unit_per_token,
    units_of,
    with_unit_per_token,
    with_units,
)
from spikeformers.energy.counting import operations as ops
from spikeformers.energy.counting.module_stack import Frame, layer_of

Verdict = Literal["binary", "adder", "silent", "scale", "multiplier", "unknown"]
_NORM_ARITHMETIC = ("normalisation", "division", "multiplication")


@dataclass
class Row:
    """One operation of one module, over all its calls."""

    module: str
    """Name of the innermost running module; "" is the model itself."""
    title: What
    """Class of the operation, such as "product" or "softmax"."""
    op: str
    operands: tuple[OperandHistory, ...]
    role: str = ""
    """"scores" or "values" for the products of attention."""
    note: str = ""

    @property
    def name(self) -> str:
        """Module and, for products of attention, role."""
        return ".".join(part for part in (self.module, self.role) if part)

    @property
    def layer(self) -> int | None:
        """Number of its block; None outside the blocks (embedding, final norm, head)."""
        return layer_of(self.module)

    @property
    def verdict(self) -> Verdict:
        """The arithmetic that the operation needs: see ``audit``."""
        if self.title == "unknown":
            return "unknown"
        if self.title == "comparison":
            return "adder"
        if self.title == "product":
            return self._of_product()
        if self.title == "multiplication":
            return self._of_factors()
        if self.title == "division":
            return self._scaled_by(self.operands[1])
        return "scale" if self.note == FIXED_NORM else "multiplier"

    def _of_product(self) -> Verdict:
        kinds = {operand.kind for operand in self.operands if operand.unit_per is None}
        if "binary" in kinds:
            return "binary"
        if any(operand.is_spikes for operand in self.operands):
            return "adder"
        return "silent" if "silent" in kinds else "multiplier"

    def _of_factors(self) -> Verdict:
        if any(operand.is_spikes and not operand.constant for operand in self.operands):
            return "adder"
        constants = [operand for operand in self.operands if operand.constant]
        if constants:
            return self._scaled_by(constants[0])
        silent = any(operand.kind == "silent" for operand in self.operands)
        return "silent" if silent else "multiplier"

    @staticmethod
    def _scaled_by(operand: OperandHistory) -> Verdict:
        if operand.is_shift:
            return "adder"
        return "scale" if operand.constant else "multiplier"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "module": self.module,
            "layer": self.layer,
            "what": self.title,
            "op": self.op,
            "operands": [operand.as_dict() for operand in self.operands],
            "verdict": self.verdict,
            "note": self.note,
        }


FIXED_NORM = "statistics fixed before the run: a scale and a shift"


class OperationRecorder:
    """Rows in the order of the forward pass; receives every operation from the tracer."""

    def __init__(self, model: nn.Module) -> None:
        self.rows: dict[tuple[str, What, str, str, int], Row] = {}
        self._model, self._constants = model, Constants(model)
        self._stated: Any = {}
        self._multiplied: Any = WeakTensorKeyDictionary()
        """Results of ``a * b``: operands and shapes of both (None once moved)."""
        self._factors: tuple[tuple[OperandHistory, ...], Any] | None = None
        self._scaled: Any = WeakTensorKeyDictionary()
        """Results of spikes times a unit per channel or token, as operands."""
        self._making: OperandHistory | None = None

    def begin(self, stated: Any) -> None:
        """A forward pass starts; ``stated`` maps tensors to the spikes their neurons made."""
        self._stated = stated

    def before_op(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], stack: list[Frame]
    ) -> None:
        """An operation is about to run: its operands still hold their values."""
        self._factors = self._making = None
        if all(x in self._constants for x in tensors_in((args, kwargs))):
            return
        name, op_class = ops.base_name(func), op_classes.class_of(func, args, kwargs)
        frame = self._innermost(stack)
        norm = next((frame for frame in reversed(stack) if frame.kind == "norm"), None)
        fixed = op_classes.is_batch_norm_of_constants(name, args)
        if norm is not None and not fixed and (op_class in _NORM_ARITHMETIC or op_class is None):
            kind = type(norm.module).__name__
            if op_class is not None and not norm.listed[f"normalisation {kind}"]:
                self._add(norm, "normalisation", kind, args[:1])
        elif name == "mean" and frame.kind == "part of a product":
            return  # only additions: the divisor cancels against a factor of the operand
        elif name in ("sum", "mean") and self._is_product(args):
            self._add(frame, "product", "mul, then sum", self._multiplied[args[0]][0])
        elif op_class == "product" and op_classes.is_fused_attention(name):
            self._fused_attention(frame, f"aten.{name}", *args[:3])
        elif op_class is not None:
            operands = op_classes.operands_of(name, op_class, args, kwargs)
            if (
                op_class == "product"
                and operands[0] in self._scaled
                and self._is_weights(operands[1])
            ):
                operands = (self._scaled[operands[0]], operands[1])
            note = FIXED_NORM if fixed else ""
            self._add(frame, op_class, func._schema.name.replace("::", "."), operands, note=note)
            if name == "mul" and all(isinstance(x, Tensor) and x.dim() for x in operands):
                histories = tuple(self._history(x) for x in operands)
                self._factors = (histories, [history.shape for history in histories])
                self._making = self._scaled_history(operands, histories)

    def after_op(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """The operation has returned ``out``."""
        self._constants.follow(func, args, kwargs, out)
        if func._schema.is_mutable:
            self._forget(args[0])
        if self._making is not None:
            self._scaled[out] = self._making
        elif ops.base_name(func) in KEEP_CHANNELS:
            for tensor in tensors_in(out):
                scaled = self._scaled.get(args[0])
                if scaled is not None and tensor.shape[-1:] == args[0].shape[-1:]:
                    self._scaled[tensor] = scaled
        if self._factors is not None:
            self._multiplied[out] = self._factors
        elif ops.base_name(func) in ops.MOVES:
            source = next((x for x in tensors_in(args) if x in self._multiplied), None)
            for tensor in tensors_in(out) if source is not None else ():
                self._multiplied[tensor] = (self._multiplied[source][0], None)

    def rows_gathered(self, stack: list[Frame], weights: Tensor, v: Tensor) -> None:
        """Attention read rows of V by index: ``weights @ v`` without a product."""
        operands = (history_of(weights, None, False), v)
        self._add(self._innermost(stack), "product", "rows gathered", operands, role="values")

    def _scaled_history(
        self, operands: tuple[Any, ...], histories: tuple[OperandHistory, ...]
    ) -> OperandHistory | None:
        """History of a neuron's spikes times a unit per channel or token; None for others."""
        for place, history in enumerate(histories):
            if history.source == "neuron" and history.is_spikes and not history.constant:
                spikes, factor = operands[place], operands[1 - place]
                units = units_of(spikes, factor, fixed=histories[1 - place].constant)
                if units is not None:
                    return with_units(history, units)
                if self._stated[spikes].per_token and is_unit_per_token(spikes, factor):
                    return with_unit_per_token(history)
        return None

    def _forget(self, written: Any) -> None:
        """``written`` was overwritten, and so was every view of it."""
        if isinstance(written, Tensor):
            pointer = written.untyped_storage().data_ptr()
            for x in list(self._scaled):
                if x.untyped_storage().data_ptr() == pointer:
                    self._scaled.pop(x, None)

    def _is_weights(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x in self._constants

    def _innermost(self, stack: list[Frame]) -> Frame:
        open_ = Frame("", self._model, "open")
        return next((frame for frame in reversed(stack) if frame.kind != "sdpa"), open_)

    def _is_product(self, args: tuple[Any, ...]) -> bool:
        """Whether a sum over ``args[0]``, which is ``a * b``, contracts a dimension of both."""
        if args[0] not in self._multiplied:
            return False
        _, shapes = self._multiplied[args[0]]
        if shapes is None:  # reshaped in between: assume a product
            return True
        dims = args[0].dim()
        padded = [(1,) * (dims - len(shape)) + shape for shape in shapes]
        return any(
            all(shape[dim] > 1 for shape in padded) for dim in op_classes.reduced(dims, args)
        )

    def _fused_attention(self, frame: Frame, op: str, q: Tensor, k: Tensor, v: Tensor) -> None:
        weights = history_of_reals((*q.shape[:-1], k.shape[-2]))
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
        by_pairs = not getattr(frame.module, "keeps_state", False)
        if frame.kind == "core" and what == "product" and not role and by_pairs:
            role = "values" if frame.listed["scores"] else "scores"
        place = role or f"{what} {op}"
        frame.listed[place] += 1
        key = (frame.name, what, op, role, frame.listed[place])
        row = self.rows.get(key)
        if row is None:
            histories = tuple(
                self._history(x, divides=what == "division" and number == 1)
                for number, x in enumerate(operands)
            )
            self.rows[key] = Row(frame.name, what, op, histories, role, note)
            return
        for number, (history, x) in enumerate(zip(row.operands, operands, strict=False)):
            if not (history.constant and self._is_constant(x)):  # constants do not change
                history.merge(self._history(x, divides=what == "division" and number == 1))

    def _is_constant(self, x: Any) -> bool:
        if isinstance(x, OperandHistory):
            return x.constant
        return x in self._constants if isinstance(x, Tensor) else True

    def _history(self, x: Any, *, divides: bool = False) -> OperandHistory:
        if isinstance(x, OperandHistory):
            return replace(x)  # a copy, since each row merges into its own
        if isinstance(x, Tensor):
            return history_of(x, self._stated.get(x), x in self._constants, divides=divides)
        return history_of_number(float(x))
