"""The engine against PyTorch: spikes, logits, text; one token, many, and several sequences."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.engine import Engine, Packed
from spikeformers.errors import CheckpointError, EngineUnavailable, UsageError
from spikeformers.export import pack
from spikeformers.export.quantising import int4
from spikeformers.kernels import native
from spikeformers.layers import TokenShift
from spikeformers.neurons import observe

Make = Callable[..., Any]
Ids = Callable[..., list[int]]

SIGNED = {"neuron": "dead-zone", "levels": 64, "step_size": 0.125, "dead_zone": 0.3}
VARIANTS: dict[str, dict[str, Any]] = {
    "hard": {},
    "top-3": {"wta": "top_k"},
    "top-2-mean": {"wta": "top_k", "winners": 2, "winner_weight": "mean"},
    "top-1": {"wta": "top_k", "winners": 1},
    "sparsemax": {"wta": "sparsemax"},
    "ssa": {"attention": "ssa"},
    "softmax": {"attention": "softmax"},
    "power-of-two": {"attention": "power-of-two", "weight_digits": 1},
    "power-of-two, four digits": {"attention": "power-of-two", "weight_digits": 4},
    "learned-positions": {"position": "learned"},
    "both-positions": {"position": "both"},
    "no-positions": {"position": "none"},
    "short-bias": {"position": "relative", "max_position_embeddings": 7},
    "levels-3": {"levels": 3, "wta": "top_k"},
    "levels-1": {"levels": 1},
    "ni-lif-2x2": {"steps": 2, "levels": 2},
    "i-lif": {"neuron": "i-lif", "levels": 4},
    "lif-3": {"neuron": "lif", "steps": 3, "threshold": 0.5},
    "lif-hard-reset": {"neuron": "lif", "steps": 2, "reset": "hard", "wta": "top_k"},
    "lif-delayed": {"neuron": "lif", "steps": 2, "reset": "delayed"},
    "t-lif-2": {"neuron": "t-lif", "steps": 2, "threshold": 0.75},
    "t-lif-ssa": {"neuron": "t-lif", "threshold": 0.75, "attention": "ssa"},
    "rms": {"norm": "rms"},
    "norms-of-the-paper": {"pre_norm": False, "output_norm": True},
    "no-projection-norm": {"projection_norm": False},
    "real-head": {"spiking_head": False},
    "untied": {"tie_word_embeddings": False},
    "no-bias": {"bias": False},
    "token-shift": {"token_shift": True},
    "token-shift, 3 steps": {"token_shift": True, "neuron": "lif", "steps": 3, "threshold": 0.5},
    "token-shift, odd widths": {
        **{"token_shift": True, "hidden_size": 42, "num_attention_heads": 3},
        **{"intermediate_size": 51, "wta": "top_k"},
    },
    "odd-widths": {"hidden_size": 42, "num_attention_heads": 3, "intermediate_size": 51},
    "wide-heads": {"hidden_size": 140, "num_attention_heads": 2},
    "dead-zone": {"neurons": dict.fromkeys(("in", "query", "key", "head"), SIGNED)},
    "dead-zone, one-sided": SIGNED | {"signed": False, "levels": 5, "step_size": 0.5},
    "dead-zone, every place its own": {
        **{"token_shift": True, "wta": "top_k", "steps": 2},
        "neurons": {
            **{"in": SIGNED, "mlp_in": SIGNED | {"levels": 7, "signed": False}},
            **{"query": SIGNED | {"levels": 3}, "key": SIGNED | {"levels": 12}},
            **{"value": SIGNED | {"levels": 64}, "out": SIGNED | {"levels": 9, "step_size": 0.3}},
            **{"hidden": {"neuron": "i-lif", "levels": 8}, "head": {"neuron": "lif"}},
        },
    },
    "dead-zone everywhere, a signed winner": SIGNED | {"token_shift": True},
    "dead-zone, a gain in place of norms": SIGNED | {"gain": 1.7, "projection_norm": False},
    "dead-zone, another gain in each place": {
        **{"projection_norm": False, "token_shift": True, "steps": 2},
        "neurons": {
            **{"in": SIGNED, "query": SIGNED | {"gain": 0.9}, "key": SIGNED | {"gain": 2.3}},
            **{"value": SIGNED | {"gain": 3.1}, "hidden": SIGNED | {"gain": 0.7, "signed": False}},
            "head": SIGNED,
        },
    },
    "dead-zone-ssa": SIGNED | {"attention": "ssa"},
    "dead-zone-power-of-two": SIGNED | {"attention": "power-of-two"},
    "dead-zone-power-of-two, wide heads": {
        **{"attention": "power-of-two", "hidden_size": 140, "num_attention_heads": 2},
        **SIGNED,
    },
    "dead-zone-power-of-two, no norm of sums": {
        **{
            "attention": "power-of-two",
            "sum_norm": False,
            "neurons": {"value": SIGNED, "out": SIGNED},
        },
        **{"learn_attention_scale": True, "attention_scale": 0.25},
    },
    "dead-zone-softmax": SIGNED | {"attention": "softmax"},
    "dead-zone-softmax, no norm of sums": {
        **{"attention": "softmax", "sum_norm": False, "projection_norm": False},
        "neurons": {"in": SIGNED, "out": SIGNED | {"gain": 4.0, "levels": 64}},
    },
    "top-k, no norm of sums": {"wta": "top_k", "sum_norm": False, "neurons": {"out": SIGNED}},
    "dead-zone-sparsemax": SIGNED | {"wta": "sparsemax"},
}


@torch.no_grad()
def torch_side(model: Any, tokens: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits ``[T, V]`` and every neuron's counts, in double: exact next to float's rounding."""
    seen: list[np.ndarray] = []
    with observe(model, lambda _, n, s: seen.append((s / n.unit).round().flatten(0, -2).numpy())):
        logits = model(torch.tensor([tokens])).logits[0]
    return logits.numpy(), seen


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest, make_model: Make) -> Any:
    return make_model(**VARIANTS[request.param])


def test_spikes_and_logits_are_pytorchs(model: Any, ids: Ids) -> None:
    tokens = ids(1, 90)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    computed = engine.feed_all(engine.sequence(), tokens)
    logits, spikes = torch_side(model.double(), tokens)
    names = [
        operation["out"] for operation in engine.packed.description["operations"]
        if operation["op"] == "fire"
    ]  # fmt: skip
    assert len(names) == len(spikes)
    shifted = {
        operation["to"] for operation in engine.packed.description["operations"]
        if operation["op"] == "shift"
    }  # fmt: skip
    assert len(shifted) == 2 * model.config.num_hidden_layers * model.config.token_shift
    for name, expected in zip(names, spikes, strict=True):
        if name in shifted:  # in place, so that the buffer holds what the product reads
            by_step = torch.from_numpy(expected).unflatten(0, (-1, 1, len(tokens)))
            expected = TokenShift(expected.shape[-1])(by_step).flatten(0, 2).numpy()
        assert (engine.values(name) == expected).all(), name
        assert expected.any() or name == "head.in"
    assert np.abs(computed - logits).max() < 1e-4
    assert logits.std() > 0.1


def test_one_token_at_a_time_gives_the_bits_of_the_prompt(
    model: Any, ids: Ids, assert_same_bits: Any
) -> None:
    tokens = ids(2, 70)
    packed = pack(model, None, "int8")
    assert_same_bits(packed, tokens)


@pytest.mark.parametrize("variant", ["hard", "softmax", "lif-3", "token-shift"])
def test_texts_with_one_beginning_have_the_bits_of_each_alone(
    variant: str, make_model: Make, ids: Ids
) -> None:
    engine = Engine(pack(make_model(**VARIANTS[variant]), None, "int8"), threads=1)
    start = ids(3, 40)
    for texts, counts, read in (
        ([[*start, *ids(4, 6)], [*start, *ids(5, 2)], [*start, *ids(6, 9)]], [7, 1, 9], 39 + 20),
        ([[1, 2, 3], [4, 5]], [3, 1], 5),  # nothing in common
        ([[1, 2, 3], [1, 2, 3]], [1, 2], 1 + 2 + 2),  # the same, but for what is wanted of them
        ([start], [40], 40),
        ([[*start, i, *start] for i in range(6)], [41] * 6, 40 + 6 * 41),
        ([[*start, i, *start] for i in range(7)], [41] * 7, 7 * 81),  # too many for one call
    ):
        before = engine.counters()["tokens"]
        together = engine.tails(texts, counts)
        assert engine.counters()["tokens"] - before == read
        for logits, tokens, count in zip(together, texts, counts, strict=True):
            assert np.array_equal(logits, engine.tail(tokens, count))
    assert engine.tails([], []) == []
    with pytest.raises(UsageError, match="logits of 3 tokens are wanted, of a text of 2"):
        engine.tails([[1, 2, 3], [1, 2]], [1, 3])


@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_signed_counts_give_the_same_bits_however_weights_are_packed(
    weights: str, make_model: Make, ids: Ids, assert_same_bits: Any
) -> None:
    model = make_model(5, **VARIANTS["dead-zone, every place its own"])
    assert_same_bits(pack(model, None, weights), ids(3, 70))


@torch.no_grad()
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_signed_counts_times_integer_weights_are_those_of_the_rounded_model(
    weights: str, make_model: Make, ids: Ids
) -> None:
    """The model's maps take the weights that the file holds; spikes and logits then agree."""
    model, tokens = make_model(5, **VARIANTS["dead-zone"]), ids(3, 60)
    packed = pack(model, None, weights)
    engine = Engine(packed, threads=1)
    computed = engine.feed_all(engine.sequence(), tokens)
    put_rounded_weights(model, packed)
    logits, spikes = torch_side(model.double(), tokens)
    fired = [each["out"] for each in packed.description["operations"] if each["op"] == "fire"]
    for name, expected in zip(fired, spikes, strict=True):
        assert (engine.values(name) == expected).all(), name
    assert min(engine.values("layers.0.query").min(), engine.values("head.in").min()) < 0
    assert np.abs(computed - logits).max() < 1e-4


def put_rounded_weights(model: Any, packed: Packed) -> None:
    """Give the model the integer weights of the file, times their scales."""

    def rounded(name: str) -> torch.Tensor:
        matrix, scale = packed.tensors[name], packed.tensors[f"{name}.scale"]
        if matrix.dtype == np.uint8:
            halves = matrix.reshape(len(matrix), -1, 1, 32)
            blocks = np.concatenate([halves & 15, halves >> 4], axis=2).astype(int) - 8
            matrix = blocks.reshape(len(matrix), -1)[:, : len(scale)]
        return torch.from_numpy(matrix * scale.astype(np.float64)).T

    model.lm_head.weight.copy_(rounded("head"))
    width = model.config.hidden_size
    for number, block in enumerate(model.model.layers):
        parts = rounded(f"layers.{number}.qkv").split(width)
        for linear, part in zip(
            (block.attention.query, block.attention.key, block.attention.value), parts, strict=True
        ):
            linear.weight.copy_(part)
        for name, linear in (
            *(("out", block.attention.out), ("up", block.mlp.up), ("down", block.mlp.down)),
        ):
            linear.weight.copy_(rounded(f"layers.{number}.{name}"))


@torch.no_grad()
@pytest.mark.parametrize(
    "variant",
    ["hard", "top-3", *(pytest.param(v, marks=pytest.mark.slow) for v in ("ssa", "token-shift"))],
)
def test_greedy_text_of_512_tokens_is_pytorchs(variant: str, make_model: Make, ids: Ids) -> None:
    model = make_model(7, max_position_embeddings=600, **VARIANTS[variant])
    prompt = ids(4, 8)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    written = model.generate(torch.tensor([prompt]), max_new_tokens=512, do_sample=False)
    assert list(engine.generate(prompt, 512)) == written[0, 8:].tolist()


def test_int8_stays_near_fp32(make_model: Make, ids: Ids) -> None:
    """A weight moves by half a step at most, 1/254 of its column's largest."""
    packed = pack(make_model(), None, "int8")
    exact = pack(make_model(), None, "fp32")
    for name, tensor in packed.tensors.items():
        if tensor.dtype == np.int8:
            scale = packed.tensors[f"{name}.scale"]
            error = np.abs(tensor * scale - exact.tensors[name])
            assert (error <= scale / 2 * 1.0001).all()


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("variant", ["hard", "real-head", "untied", "odd-widths", "t-lif-2"])
def test_whole_weights_are_what_they_stand_for(
    variant: str, weights: str, make_model: Make, ids: Ids
) -> None:
    """The same text as with the reals that they stand for; one token alone gives the same bits."""
    model = make_model(**VARIANTS[variant])
    packed = pack(model, None, weights)
    tensors = dict(packed.tensors)
    if weights == "int4":  # export keeps the head in int8; the engine takes it in int4 as well
        tensors["head"], tensors["head.scale"] = int4(pack(model, None, "fp32").tensors["head"])
        packed = replace(packed, tensors=tensors)
    real = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.dtype == np.float32:
            continue
        scale = real.pop(f"{name}.scale")
        if tensor.dtype == np.uint8:
            halves = tensor.reshape(len(tensor), -1, 1, 32)
            whole = np.concatenate([halves & 15, halves >> 4], 2).reshape(len(tensor), -1)
            real[name] = (whole[:, : len(scale)] - np.float32(8)) * scale
        else:
            real[name] = tensor * (scale if tensor.shape[1] == len(scale) else scale[:, None])
    stood_for = Engine(replace(packed, tensors=real), threads=1)
    tokens = ids(4, 40)
    expected = stood_for.feed_all(stood_for.sequence(), tokens)
    for name, runs, _ in native().paths():
        if not runs:
            continue
        engine = Engine(packed, threads=2, kernels=name)
        computed = engine.feed_all(engine.sequence(), tokens)
        assert np.abs(computed - expected).max() < 1e-4
        text = engine.sequence()
        assert all((engine.feed(text, [t]) == computed[i]).all() for i, t in enumerate(tokens))


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_a_context_of_many_pages(weights: str, make_model: Make, ids: Ids) -> None:
    """1,000 tokens: chunks of a prompt and pages of a cache meet at odd places."""
    model = make_model(9, max_position_embeddings=128)
    tokens = ids(6, 1000)
    engine = Engine(pack(model, None, weights), threads=2)
    text = engine.sequence()
    parts = [engine.feed_all(text, tokens[a:b]) for a, b in ((0, 1), (1, 300), (300, 1000))]
    if weights == "fp32":
        logits, _ = torch_side(model.double(), tokens)
        assert np.abs(np.concatenate(parts) - logits).max() < 1e-4
    # Counts to 16 are five planes: keys take a bit of each a feature, values a word of each.
    per_token_and_head = text.bytes / text.tokens / (2 * 2)
    assert per_token_and_head < 5 * (16 / 8 + 8) * 1.2
    assert engine.counters()["pages_skipped"] > 0


def test_what_is_not_there_is_refused(make_model: Make, ids: Ids) -> None:
    engine = Engine(pack(make_model(position="learned"), None, "fp32"), threads=1)
    text = engine.sequence()
    for tokens, message in (([61], "not among the 61"), ([-1], "not among"), ([], "no tokens")):
        with pytest.raises(UsageError, match=message):
            engine.feed(text, tokens)
    engine.feed(text, ids(0, 90))
    with pytest.raises(UsageError, match="past the 96 positions"):
        engine.feed(text, ids(0, 7))
    other = Engine(pack(make_model(), None, "fp32"), threads=1)
    with pytest.raises(UsageError, match="another program"):
        other.feed(text, [1])
    for token in (1.5, "5", None, [1], 2**31, 2**70, -(2**40)):
        for call in (engine.feed, engine.advance):
            with pytest.raises(UsageError, match=r"a token is a whole number|not among the 61"):
                call(engine.sequence(), [token] if call == engine.feed else token)
    for texts, tokens, message in (
        ([None], [0], "sequence 0 is of type NoneType"),
        ([engine.sequence(), "text"], [0, 1], "sequence 1 is of type str"),
        ([engine.sequence()], [0, 1], "1 sequences for 2 tokens"),
        ([], [], "no tokens"),
        ([other.sequence()], [0], "another program"),
    ):
        with pytest.raises(UsageError, match=message):
            engine.step(texts, tokens)
    twice = engine.sequence()
    with pytest.raises(UsageError, match="a sequence comes twice"):
        engine.step([twice, engine.sequence(), twice], [1, 2, 3])
    assert twice.tokens == 0
    with pytest.raises(UsageError, match=r"NoneType|incompatible"):
        engine.advance(None, 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no buffer 'z'; there are x, "):
        engine.values("z")
    with pytest.raises(UsageError, match="takes 1 to 1024 threads, not"):
        Engine(engine.packed, threads=0)
    with pytest.raises(EngineUnavailable, match="no such path"):
        Engine(engine.packed, kernels="sse9")


def test_threads_of_python_take_turns(make_model: Make, ids: Ids) -> None:
    engine = Engine(pack(make_model(), None, "fp32"), threads=2)
    expected = engine.feed(engine.sequence(), ids(1, 60))
    computed: list[np.ndarray] = []

    def work() -> None:
        text = engine.sequence()
        for token in ids(1, 60):
            last = engine.feed(text, [token])
        computed.append(last)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(computed) == 4
    assert all((logits == expected).all() for logits in computed)


@pytest.mark.parametrize("threads", [64, 1024])
def test_threads_are_no_more_than_processors(threads: int, make_model: Make) -> None:
    engine = Engine(pack(make_model(), None, "fp32"), threads=threads)
    assert engine.threads == native().processors()


KINDS = ("wd", "bispikclm", "converted-ssa", "converted-cwssa", "converted-kept")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("weights", ["fp32", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_neuron_is_silent_about_weights_that_are_not_finite(
    kind: str, weights: str, value: float, make_model: Make, make_other: Make, ids: Ids
) -> None:
    """Whichever tensor it is, the model is refused or its call fails: there are no tokens of it."""
    packed = pack(make_model(position="both") if kind == "wd" else make_other(kind), None, weights)

    def run(packed: Packed) -> None:
        engine = Engine(packed, threads=2)
        engine.feed(engine.sequence(), ids(1, 40))

    run(packed)
    for name, tensor in packed.tensors.items():
        if tensor.dtype != np.float32:
            continue
        broken = replace(packed, tensors={**packed.tensors, name: np.full_like(tensor, value)})
        with pytest.raises(CheckpointError, match=r"not finite|positive"):
            run(broken)
