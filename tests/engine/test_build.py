"""The native program by itself: what it is given is checked, whoever calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from spikeformers.engine import Description, NeuronSpec, NormSpec
from spikeformers.engine.build import build
from spikeformers.errors import CheckpointError
from spikeformers.kernels import native

EYE = np.eye(4, dtype=np.float32)
SILENT = NormSpec()


def described(*, finished: bool = True) -> Description:
    """Four tokens, each a spike of its own, which the head reads back."""
    to = Description(vocabulary=4)
    to.real("x", 4)
    to.spikes("s", 4, NeuronSpec("integer", levels=4))
    to.real("y", 4)
    to.real("last", 4)
    to.embed("x", "eye", by_column=False)
    to.fire("x", "s", SILENT)
    to.linear("s", "y", "eye")
    to.select("y", "last")
    if finished:
        to.finish("last")
    return to


def program(to: Description, **tensors: Any) -> Any:
    return build(asdict(to), {"eye": EYE} | tensors, "portable", 1).program


def test_the_program_answers() -> None:
    run = program(described())
    assert run.finished
    assert run.forward([run.sequence()] * 2, [2, 3], [0, 1]).tolist() == [
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


def test_what_is_no_sequence_of_this_program_is_refused() -> None:
    run, other = program(described()), program(described())
    for item, message in (
        (None, "sequence 1 is of type NoneType; it must be one that"),
        (3, "sequence 1 is of type int"),
        (run, "sequence 1 is of type"),
        (other.sequence(), "a sequence of another program"),
    ):
        with pytest.raises(ValueError, match=message):
            run.forward([run.sequence(), item], [1, 2], [0, 1])
    with pytest.raises(TypeError):
        run.advance(None, 0)
    with pytest.raises(TypeError):
        run.forward(None, [0], [0])


@pytest.mark.parametrize(
    ("sequences", "tokens", "expected", "message"),
    [
        (0, [], [], "no tokens"),
        (1, [1, 2], [0], "1 sequences for 2 tokens"),
        (2, [1], [0], "2 sequences for 1 tokens"),
        (1, [4], [0], "token 4 is not among the 4"),
        (1, [-1], [0], "token -1 is not among the 4"),
        (2, [1, 2], [2], "a row that is not there"),
        (2, [1, 2], [-1], "a row that is not there"),
        (2, [1, 2], [1, 0], "do not ascend"),
        (2, [1, 2], [1, 1], "do not ascend"),
        (65537, [1] * 65537, [0], "65537 tokens in one call: at most 65536"),
    ],
)
def test_rows_that_there_are_not_are_refused_and_change_nothing(
    sequences: int, tokens: list[int], expected: list[int], message: str
) -> None:
    run = program(described())
    text = run.sequence()
    with pytest.raises(ValueError, match=message):
        run.forward([text] * sequences, tokens, expected)
    assert (text.tokens, run.counters()["tokens"]) == (0, 0)
    assert run.forward([text], [1], [0]).tolist() == [[0, 1, 0, 0]]


def test_a_program_without_an_end_has_no_sequences() -> None:
    with pytest.raises(CheckpointError, match="its last step must be finish"):
        program(described(finished=False))
    run = native().Program("portable", 1, 1, 4)
    with pytest.raises(ValueError, match=r"without finish\(\) has no sequences"):
        run.sequence()


def test_nothing_is_added_to_a_finished_program() -> None:
    """Its sequences have a cache for each attention that there was when they were made."""
    run = program(described())
    with pytest.raises(ValueError, match="finished"):
        run.real(4)
    with pytest.raises(ValueError, match="finished"):
        run.add(2, 2)
    with pytest.raises(ValueError, match="finished"):
        run.fire(0, 1, 0, "none", None, None, 0.0)


def changed(change: Callable[[Description], None]) -> Description:
    to = described(finished=False)
    change(to)
    to.finish("last")
    return to


def test_a_buffer_keeps_its_rows_and_its_neuron() -> None:
    """What reads it knows its simulation steps, and how many planes its counts have."""

    def other_rows(to: Description) -> None:
        to.norm("last", "x", SILENT)

    def other_neuron(to: Description) -> None:
        to.spikes("winner", 4, NeuronSpec("integer", levels=3))
        to.operations.insert(2, {"op": "attend", "query": "s", "key": "s", "value": "s"})
        to.operations[2] |= {"out": "winner", "heads": 1, "rule": "winners", "winners": 1}
        to.operations[2] |= {"weight": 1.0, "scale": "one", "bias": None}

    for change, message in (
        (other_rows, "written again, with other rows"),
        (other_neuron, "another neuron than the values"),
    ):
        with pytest.raises(CheckpointError, match=message):
            program(changed(change), one=np.ones(1, np.float32))


def test_the_shortest_of_several_positions_ends_a_text() -> None:
    """The longer table, given last, once let the shorter be read past its end."""
    to = described()
    to.operations[0]["positions"] = "short"
    to.operations.insert(1, to.operations[0] | {"positions": "long"})
    positions = {"short": np.zeros((2, 4), np.float32), "long": np.zeros((500, 4), np.float32)}
    run = program(to, **positions)
    assert run.positions == 2
    with pytest.raises(ValueError, match="token 3 is past the 2 positions"):
        run.forward([run.sequence()] * 3, [1, 2, 3], [0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_an_answer(value: float) -> None:
    """Neither a token nor silence: where one comes up the call fails, and its texts end."""
    broken = np.diag([1, 1, 1, value]).astype(np.float32)
    for name, message in (
        ("head", "the logits are not finite"),
        ("table", "step 2 of 4 reads values"),
    ):
        to = described()
        to.operations[0 if name == "table" else 2]["table" if name == "table" else "weight"] = name
        run = program(to, **{name: broken})
        good, bad = run.sequence(), run.sequence()
        assert run.forward([good], [0], [0]).tolist() == [[1, 0, 0, 0]]
        with pytest.raises(OverflowError, match=message):
            run.forward([bad], [3], [0])
        with pytest.raises(ValueError, match="failed half-way: begin a new one"):
            run.forward([bad], [0], [0])
        assert run.advance(good, 1) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_norm_that_is_not_finite_is_refused(part: str, value: float) -> None:
    """The neuron behind it would be silent about it."""
    to = described()
    to.operations[1]["norm"] = asdict(NormSpec("layer", "weight", "bias"))
    vectors = {"weight": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    vectors[part][2] = value
    with pytest.raises(CheckpointError, match=f"the norm's {part} is not finite"):
        program(to, **vectors)


def test_sums_beyond_the_range_of_floats_are_not_an_answer() -> None:
    """Every weight is finite, as a checked file's are, and what they give is not."""
    to = described()
    to.operations[2]["bias"] = "most"
    run = program(
        to, most=np.full(4, 3e38, np.float32), eye=np.diag([1, 1, 3e38, 3e38]).astype(np.float32)
    )
    assert run.forward([run.sequence()], [0], [0])[0, 1] == np.float32(3e38)
    with pytest.raises(OverflowError, match="the logits are not finite"):
        run.forward([run.sequence()], [2], [0])
