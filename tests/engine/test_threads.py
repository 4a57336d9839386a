"""One engine, several threads of Python: whoever looks sees the state between two calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spikeformers.engine import Engine
from spikeformers.export import pack

Make = Callable[..., Any]
Ids = Callable[..., list[int]]


def meanwhile(work: Callable[[], None], look: Callable[[], None]) -> None:
    """Call ``look`` as often as possible while ``work`` runs; fail as either of them does."""
    errors: list[BaseException] = []
    ended = threading.Event()

    def watch() -> None:
        try:
            while not ended.is_set():
                look()
        except BaseException as error:
            errors.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        ended.set()
        watcher.join()
    if errors:
        raise errors[0]


def test_values_are_of_one_call(make_model: Make, ids: Ids) -> None:
    """Calls of 1 and of 200 tokens take turns: buffers grow, and are written anew each time."""
    engine = Engine(pack(make_model(), None, "int8"), threads=2)
    texts = {n: ids(n, n) for n in (1, 200)}
    names = [buffer["name"] for buffer in engine.packed.description["buffers"]]

    def run(n: int) -> None:
        engine.feed_all(engine.sequence(), texts[n])

    allowed: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for n in texts:
        run(n)
        for name in names:
            allowed[name].append(engine.values(name))

    def look() -> None:
        for name in names:
            computed = engine.values(name)
            assert any(np.array_equal(computed, expected) for expected in allowed[name]), name

    meanwhile(lambda: [run(n) for n in [1, 200] * 15] and None, look)


@pytest.mark.parametrize("kind", ["bispikclm", "converted-kept"])
def test_counters_are_those_of_whole_calls(kind: str, make_other: Make, ids: Ids) -> None:
    """Each token adds as many neurons: no look finds some of a call's without the rest."""
    engine = Engine(pack(make_other(kind), None, "int8"), threads=2)
    engine.feed(engine.sequence(), ids(1, 64))
    first = engine.counters()
    each = first["neurons"] // first["tokens"]

    def look() -> None:
        counters = engine.counters()
        assert counters["neurons"] == each * counters["tokens"]
        assert counters["tokens"] % 64 == 0

    def work() -> None:
        for seed in range(30):
            engine.feed_all(engine.sequence(), ids(seed, 64))

    meanwhile(work, look)
    assert engine.counters()["tokens"] == 31 * 64


@pytest.mark.parametrize("kind", ["wd", "converted-cwssa"])
def test_details_are_of_whole_calls(
    kind: str, make_model: Make, make_other: Make, ids: Ids
) -> None:
    """A look finds the details after one of the calls, and never part of the next one's."""
    model = make_model(wta="top_k") if kind == "wd" else make_other(kind)
    engine, tokens = Engine(pack(model, None, "int8"), threads=2), ids(2, 64)
    text = engine.sequence(details=True)
    allowed = [engine.details(text)]
    for token in tokens:
        engine.feed(text, [token])
        allowed.append(engine.details(text))
    texts = [engine.sequence(details=True)]

    def look() -> None:
        assert engine.details(texts[-1]) in allowed

    def work() -> None:
        for _ in range(4):
            texts.append(engine.sequence(details=True))
            for token in tokens:
                engine.feed(texts[-1], [token])

    meanwhile(work, look)
    assert engine.details(texts[-1]) == allowed[-1]


@pytest.mark.parametrize("kind", ["wd", "token-shift", "ssa", "converted-kept"])
def test_a_sequence_has_whole_calls_in_it(
    kind: str, make_model: Make, make_other: Make, ids: Ids
) -> None:
    """Its pages are added a layer at a time; its length and its bytes say that of whole calls."""
    variants: dict[str, dict[str, Any]] = {
        **{"wd": {}, "token-shift": {"token_shift": True}},
        "ssa": {"attention": "ssa", "position": "none"},
    }
    model = make_model(**variants[kind]) if kind in variants else make_other(kind)
    engine = Engine(pack(model, None, "int8"), threads=2)
    tokens = ids(3, 64)
    sizes, text = {0: engine.sequence().bytes}, engine.sequence()
    for _ in range(1 if kind == "converted-kept" else 8):
        engine.feed(text, tokens)
        sizes[text.tokens] = text.bytes
    texts = [engine.sequence()]

    def look() -> None:
        text = texts[-1]
        assert text.tokens in sizes
        assert text.bytes in sizes.values()
        assert engine.sequence().bytes == sizes[0]

    def work() -> None:
        for _ in range(6):
            texts.append(engine.sequence())
            for _ in range(len(sizes) - 1):
                engine.feed(texts[-1], tokens)

    meanwhile(work, look)
    assert [text.bytes for text in texts[1:]] == [max(sizes.values())] * 6


def test_a_list_that_changes_meanwhile_keeps_its_sequences(make_model: Make, ids: Ids) -> None:
    engine = Engine(pack(make_model(), None, "int8"), threads=2)
    program: Any = engine._program
    tokens = ids(5, 200)
    expected = engine.feed_all(engine.sequence(), tokens)
    lists: list[list[Any]] = [[]]

    def work() -> None:
        for _ in range(20):
            lists.append([engine.sequence()] * 200)
            logits = program.forward(lists[-1], tokens, list(range(200)))
            assert (logits == expected).all()

    meanwhile(work, lambda: lists[-1].clear() if len(lists[-1]) == 200 else None)
