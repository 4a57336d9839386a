"""A fork of a sequence continues on its own, and shares what is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spikeformers.engine import Engine
from spikeformers.errors import CheckpointError, UsageError
from spikeformers.export import pack

KINDS = ["wd", "wd-ssa", "bispikclm", "converted-ssa", "converted-cwssa", "converted-token"]
LENGTHS = [1, 63, 64, 70]


@pytest.fixture(scope="module")
def engine_of(
    make_model: Callable[..., Any], make_other: Callable[..., Any]
) -> Callable[[str], Engine]:
    engines: dict[str, Engine] = {}

    def engine(kind: str) -> Engine:
        if kind not in engines:
            model = (
                make_model(attention="ssa" if kind == "wd-ssa" else "cwssa", token_shift=True)
                if kind.startswith("wd")
                else make_other(kind)
            )
            engines[kind] = Engine(pack(model, None, "fp32"), threads=1)
        return engines[kind]

    return engine


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_and_its_source_continue_as_if_alone(
    kind: str, length: int, engine_of: Callable[[str], Engine], ids: Callable[..., list[int]]
) -> None:
    engine = engine_of(kind)
    shared, one, other = ids(0, length), ids(1, 9), ids(2, 9)
    source = engine.sequence()
    engine.feed(source, shared)
    fork = engine.fork(source)
    assert fork.tokens == length
    assert fork.bytes == source.bytes
    of_source = engine.feed_all(source, one)
    of_fork = engine.feed_all(fork, other)
    for logits, tail in ((of_source, one), (of_fork, other)):
        alone = engine.feed_all(engine.sequence(), [*shared, *tail])[length:]
        assert np.array_equal(logits, alone)


def test_a_fork_outlives_its_source(
    engine_of: Callable[[str], Engine], ids: Callable[..., list[int]]
) -> None:
    engine = engine_of("wd")
    source = engine.sequence()
    engine.feed(source, ids(0, 70))
    fork = engine.fork(source)
    engine.feed(source, ids(3, 10))
    del source
    logits = engine.feed(fork, [5])
    assert np.array_equal(logits, engine.feed(engine.sequence(), [*ids(0, 70), 5]))


def test_only_a_sound_sequence_of_this_engine_is_forked(
    engine_of: Callable[[str], Engine], make_model: Callable[..., Any]
) -> None:
    engine, other = engine_of("wd"), engine_of("bispikclm")
    with pytest.raises(UsageError, match="another program"):
        engine.fork(other.sequence())
    with pytest.raises(UsageError):
        engine.fork(None)  # type: ignore[arg-type]
    model = make_model()
    model.model.embed_tokens.weight.data[3] = 3e38
    broken = Engine(pack(model, None, "fp32"), threads=1)
    sequence = broken.sequence()
    with pytest.raises(CheckpointError):
        broken.feed(sequence, [3])
    with pytest.raises(UsageError, match="half-way"):
        broken.fork(sequence)
