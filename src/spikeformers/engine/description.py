"""An architecture in the engine's terms: buffers, and steps of shared kernels between them.

    x = Description(vocabulary=50257)
    x.real("x", 768); x.spikes("s", 768, NeuronSpec("integer", levels=16, unit=1 / 16))
    x.embed("x", table="head"); x.fire("x", "s", norm=...); x.linear("s", "y", weight="up"); ...

It is data: `spikeformers.export` writes one for a model, the engine file carries it as JSON, and
`engine.build` hands it to the native program, which checks every shape. A new architecture is a new
description, not a new engine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class NeuronSpec:
    """One neuron layer; `spikeformers.neurons` has the equations."""

    type: str
    """binary, integer or ternary."""
    levels: int = 1
    unit: float = 1.0
    """Value of one spike; a ternary neuron's amplitude."""
    decay: float = 0.0
    threshold: float = 1.0
    ratio: float = 0.5
    reset: str = "soft"
    signed: bool = False
    """Integer: counts of either sign."""
    step: float = 1.0
    """Integer: the change of a membrane potential, times ``gain``, that is one count."""
    dead_zone: float = 0.0
    """Integer: potentials, times ``gain``, up to this size are silent, and it is taken off those
    beyond."""
    gain: float = 1.0


@dataclass(frozen=True)
class NormSpec:
    """A norm by kind ("none", "layer", "rms") and the names of its tensors."""

    kind: str = "none"
    weight: str | None = None
    bias: str | None = None
    eps: float = 1e-5


@dataclass
class Description:
    """Steps in order; each method adds one. Names are those of buffers and of tensors."""

    vocabulary: int
    steps: int = 1
    """Simulation steps S."""
    buffers: list[dict[str, Any]] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)

    def real(self, name: str, width: int) -> None:
        """Declare a buffer of reals."""
        self.buffers.append({"name": name, "width": width})

    def spikes(self, name: str, width: int, neuron: NeuronSpec) -> None:
        """Declare a buffer of counts, as ``neuron`` emits them."""
        self.buffers.append({"name": name, "width": width, "neuron": asdict(neuron)})

    def counts(self, name: str, width: int) -> None:
        """Declare a buffer of counts whose unit follows their token; `encode` writes it."""
        self.buffers.append({"name": name, "width": width, "counts": True})

    def embed(self, out: str, table: str, by_column: bool, positions: str | None = None) -> None:
        """Rows of ``table``, or columns if it is the head's matrix, plus learned positions."""
        self._add("embed", out=out, table=table, by_column=by_column, positions=positions)

    def fire(self, input: str, out: str, norm: NormSpec, offset: int = 0) -> None:
        """Norm, then the neuron of ``out``; reads each row from ``offset`` on."""
        self._add("fire", input=input, out=out, offset=offset, norm=asdict(norm))

    def norm(self, input: str, out: str, norm: NormSpec, offset: int = 0) -> None:
        """A norm that no neuron follows; "none" copies."""
        self._add("norm", input=input, out=out, offset=offset, norm=asdict(norm))

    def encode(
        self,
        input: str,
        out: str,
        norm: NormSpec,
        *,
        steps: int,
        reach: float,
        dead_zone: float,
        power_of_two: bool,
        offset: int = 0,
    ) -> None:
        """Norm, then neurons whose threshold follows the token (`neurons.token_if`)."""
        self._add(
            "encode",
            **{"input": input, "out": out, "offset": offset, "norm": asdict(norm), "steps": steps},
            **{"reach": reach, "dead_zone": dead_zone, "power_of_two": power_of_two},
        )

    def linear(self, input: str, out: str, weight: str, bias: str | None = None) -> None:
        """A product with a matrix stored input-major, ``[in, out]``."""
        self._add("linear", input=input, out=out, weight=weight, bias=bias)

    def attend(
        self,
        query: str,
        key: str,
        value: str,
        out: str,
        *,
        heads: int,
        rule: str,
        scale: str,
        winners: int = 1,
        weight: float = 1.0,
        bias: str | None = None,
        digits: int | None = None,
    ) -> None:
        """Causal attention over a cache; ``rule``: winners, sparsemax, softmax, powers, ssa.

        Powers, and no others, have ``digits``: how many binary ones a weight has.
        """
        self._add(
            "attend",
            **{"query": query, "key": key, "value": value, "out": out, "heads": heads},
            **{"rule": rule, "winners": winners, "weight": weight, "scale": scale, "bias": bias},
            **({} if digits is None else {"digits": digits}),
        )

    def add(self, input: str, to: str) -> None:
        """Add a residual to ``to``."""
        self._add("add", input=input, to=to)

    def shift(self, to: str, moved: int) -> None:
        """The first ``moved`` spikes of a token are those of the token before, in place."""
        self._add("shift", to=to, moved=moved)

    def join(self, input: str, to: str, how: str) -> None:
        """Spikes into a stream of integers: "set", "add", or "or" of zeros and ones."""
        self._add("join", input=input, to=to, how=how)

    def recount(self, input: str, out: str) -> None:
        """Copy such a stream to a buffer of spikes, without a neuron."""
        self._add("recount", input=input, out=out)

    def rate(self, input: str, out: str, neuron: NeuronSpec, steps: int) -> None:
        """Counts of the spikes of a binary neuron that gets a constant current for ``steps``."""
        self._add("rate", input=input, out=out, steps=steps, neuron=asdict(neuron))

    def edges(
        self,
        query: str,
        key: str,
        value: str,
        out: str,
        *,
        heads: int,
        decay: float,
        scale: str,
        threshold: str,
        bias: str | None = None,
    ) -> None:
        """SFSA over a cache of binary spikes: a neuron (delayed reset) for each query and key."""
        self._add(
            "edges",
            **{"query": query, "key": key, "value": value, "out": out, "heads": heads},
            **{"decay": decay, "scale": scale, "threshold": threshold, "bias": bias},
        )

    def pair(
        self,
        input: str,
        out: str,
        spike: str,
        *,
        largest: int,
        sign: bool,
        counts: bool = False,
        offset: int = 0,
    ) -> None:
        """A pair of neurons per value; writes the decoded values, or the counts.

        ``spike`` names the value of one spike, ``[width]``, or ``[2, width]`` by sign.
        """
        self._add(
            "pair",
            **{"input": input, "out": out, "offset": offset, "spike": spike},
            **{"largest": largest, "sign": sign, "counts": counts},
        )

    def activate(self, to: str, kind: str) -> None:
        """relu, silu, gelu_tanh, gelu_erf or quick_gelu, in place."""
        self._add("activate", to=to, kind=kind)

    def soft_cap(self, to: str, cap: float) -> None:
        """``cap * tanh(to / cap)``, in place."""
        self._add("soft_cap", to=to, cap=cap)

    def multiply(self, input: str, to: str) -> None:
        """Multiply ``to`` by a gate, in place."""
        self._add("multiply", input=input, to=to)

    def scale(self, to: str, scale: str) -> None:
        """A factor per channel, in place."""
        self._add("scale", to=to, scale=scale)

    def rotate(
        self, to: str, *, offset: int, heads: int, width: int, frequency: str, factor: float
    ) -> None:
        """Rotary positions of ``heads`` of ``width`` channels, in place, from ``offset``."""
        self._add(
            "rotate",
            **{"to": to, "offset": offset, "heads": heads, "width": width},
            **{"frequency": frequency, "factor": factor},
        )

    def group_norm(self, input: str, out: str, gain: str, eps: float) -> None:
        """RMS norm of each group of neighbours; a group is as wide as ``gain``."""
        self._add("group_norm", input=input, out=out, gain=gain, eps=eps)

    def mix(
        self,
        query: str,
        key: str,
        value: str,
        out: str,
        *,
        heads: int,
        kv_heads: int,
        rule: str,
        scale: str,
        winners: int = 1,
        weight: float = 1.0,
        largest: int = 0,
        window: int = 0,
        digits: int | None = None,
    ) -> None:
        """Causal attention over a cache of counts up to ``largest``, or of reals (0).

        ``rule``: winners, softmax, powers (which alone have ``digits``, as in ``attend``) or ssa. A
        query of a softmax sees its own key and the ``window - 1`` before it; all with 0.
        """
        self._add(
            "mix",
            **{"query": query, "key": key, "value": value, "out": out, "heads": heads},
            **{"kv_heads": kv_heads, "rule": rule, "winners": winners, "weight": weight},
            **{"scale": scale, "largest": largest, "window": window},
            **({} if digits is None else {"digits": digits}),
        )

    def select(self, input: str, out: str) -> None:
        """Select the rows whose logits are computed, averaged over simulation steps."""
        self._add("select", input=input, out=out)

    def finish(self, logits: str) -> None:
        """Name the logits; the last step."""
        self._add("finish", logits=logits)

    def _add(self, operation: str, **given: Any) -> None:
        self.operations.append({"op": operation, **given})
