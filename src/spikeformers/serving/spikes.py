"""What fired for an answer, in the form of the interface.

Neurons, events and bytes are the engine's counts. The energy is estimated from them, at prices of
45 nm CMOS (Horowitz, ISSCC 2014), as

    bits of weights read * price of the smallest memory that holds the model
        + weights read * price of an addition

without attention's cache, activations and neurons; `spikeformers energy` estimates all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikeformers.engine import Engine, SpikeCost, TokenDetails

PRICES = "horowitz45"
BYTES_OF_WEIGHT = {"fp32": 4.0, "int8": 1.0, "int4": 0.5}


class SpikeMeter:
    """Turns counts of one engine into the figures of the interface."""

    def __init__(self, engine: Engine) -> None:
        from spikeformers.energy.pricing.price_table import load_table

        table = load_table(PRICES)
        weights = engine.packed.weights
        level = table.home(8 * sum(tensor.nbytes for tensor in engine.packed.tensors.values()))
        add = table.compute["add", "fp32" if weights == "fp32" else "int32"]
        per_weight = BYTES_OF_WEIGHT.get(weights, 1.0)
        self.picojoules_per_byte = 8 * level.picojoules_per_bit + add.picojoules / per_weight
        self.memory = level.name
        self._engine = engine
        self._head = _head_bytes(engine)

    def dense_bytes(self, tokens: int, predicted: int) -> int:
        """Bytes of weights that a dense model of this shape reads for ``tokens`` tokens.

        Each matrix once per token; the head for those ``predicted`` ones whose logits are needed.
        """
        whole = self._engine.dense_weight_bytes
        return tokens * (whole - self._head) + predicted * self._head

    def usage(self, total: SpikeCost, tokens: int, predicted: int) -> SpikeUsage:
        """Figures of a text of which ``tokens`` tokens were read."""
        return SpikeUsage(
            total.neurons,
            total.events,
            total.weight_bytes,
            self.dense_bytes(tokens, predicted),
            self._nanojoules(total.weight_bytes),
        )

    def token(self, token_id: int, text: str, details: TokenDetails) -> dict[str, Any]:
        """Figures of one token: of the step that produced it, which read the token before."""
        cost = details.token
        return {
            "token_id": token_id,
            "text": text,
            "density": cost.density,
            "events": cost.events,
            "weight_bytes_read": cost.weight_bytes,
            "dense_weight_bytes": self.dense_bytes(1, 1),
            "estimated_nanojoules": self._nanojoules(cost.weight_bytes),
            "layers": [layer.cost.density for layer in details.layers],
            "winners": details.winners,
        }

    def _nanojoules(self, weight_bytes: int) -> float:
        return weight_bytes * self.picojoules_per_byte / 1000


@dataclass(frozen=True)
class SpikeUsage:
    """Sums over the tokens that were read for an answer; those of a cached prefix were not."""

    neurons: int = 0
    events: int = 0
    weight_bytes: int = 0
    dense_weight_bytes: int = 0
    nanojoules: float = 0.0

    def __add__(self, other: SpikeUsage) -> SpikeUsage:
        return SpikeUsage(
            self.neurons + other.neurons,
            self.events + other.events,
            self.weight_bytes + other.weight_bytes,
            self.dense_weight_bytes + other.dense_weight_bytes,
            self.nanojoules + other.nanojoules,
        )

    def as_dict(self) -> dict[str, Any]:
        """The ``spikes`` of ``usage``."""
        return {
            "density": self.events / self.neurons if self.neurons else 0.0,
            "events": self.events,
            "weight_bytes_read": self.weight_bytes,
            "dense_weight_bytes": self.dense_weight_bytes,
            "estimated_nanojoules": self.nanojoules,
        }


def _head_bytes(engine: Engine) -> int:
    """Bytes of the matrices after "select": those that only predicted tokens need."""
    operations = engine.packed.description["operations"]
    names = [operation["op"] for operation in operations]
    first = names.index("select") if "select" in names else len(names)
    return sum(
        engine.packed.tensors[operation["weight"]].nbytes
        for operation in operations[first:]
        if operation["op"] == "linear"
    )
