"""BiSpikCLM: what is binary, causality, the cache over all steps, gradients, loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, GPTNeoXConfig

from spikeformers.errors import ConfigError
from spikeformers.models import (
    PRESETS,
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    build_config,
    build_model,
    control_of,
)
from spikeformers.neurons import LIF, Neuron, observe

F64 = torch.float64
SHAPE = {
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "attention_threshold": 1.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "add": {"residual": "add", "steps": 4, "position": "relative"},
    "or": {"residual": "or", "steps": 2, "position": "both"},
    "learned": {
        "steps": 2,
        "position": "learned",
        "learn_threshold": True,
        "learn_attention_threshold": True,
        "learn_attention_scale": True,
    },
    "spiking head": {"steps": 3, "spiking_head": True},
    "no norm": {"steps": 2, "norm": "none", "position": "none", "initializer_range": 0.5},
}


def make(seed: int = 0, dtype: torch.dtype = F64, **choices: Any) -> BiSpikCLMForCausalLM:
    torch.manual_seed(seed)
    model = BiSpikCLMForCausalLM(BiSpikCLMConfig(**{**SHAPE, **choices}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (1.0 if "embed" in name else 0.3) * torch.randn_like(parameter)
    return model.to(dtype).eval()


def ids(seed: int, batch: int, tokens: int) -> Tensor:
    return torch.randint(0, 23, (batch, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    return VARIANTS[request.param]


@torch.no_grad()
def test_every_neuron_emits_zeros_and_ones(variant: dict[str, Any]) -> None:
    model = make(**variant)
    seen: dict[str, list[float]] = {}

    def record(name: str, neuron: Neuron, spikes: Tensor) -> None:
        assert neuron.spike_type == "binary"
        assert neuron.unit == 1
        assert spikes.shape[0] == model.config.steps
        seen[name] = spikes.unique().tolist()

    with observe(model, record):
        model(ids(1, 2, 12))
    assert all(set(values) <= {0.0, 1.0} for values in seen.values())
    assert sum(len(values) == 2 for values in seen.values()) > len(seen) // 2
    assert any("attention.core.neuron" in name for name in seen)


@pytest.mark.parametrize(("residual", "largest"), [("add", [2, 4, 6]), ("or", [1, 1, 1])])
@torch.no_grad()
def test_what_the_residual_stream_holds(residual: str, largest: list[int]) -> None:
    """ "add": integers up to two more a block than at its start; "or": still one bit."""
    model = make(residual=residual, steps=2)
    neurons_by_name: list[Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _m, _a, out: neurons_by_name.append(out[0]))
    model(ids(2, 2, 24))
    for x, most in zip(neurons_by_name, largest, strict=True):
        assert torch.equal(x, x.round())
        assert x.min() == 0
        assert 1 <= x.max() <= most + (residual == "add")


@torch.no_grad()
def test_or_is_or() -> None:
    block = make(residual="or").model.layers[0]
    a, b = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    assert block.join(a, b).tolist() == [0, 1, 1, 1]
    assert make(residual="add").model.layers[0].join(a, b).tolist() == [0, 1, 1, 2]


@torch.no_grad()
def test_or_of_bits_is_a_bit_while_training_with_dropout() -> None:
    """Every stream, and so what W_q, W_k and W_v read, is 0 or 1; some spikes are dropped."""
    model = make(residual="or", steps=2, dropout=0.4).train()
    neurons_by_name: list[Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _m, _a, out: neurons_by_name.append(out[0]))
        block.attention.query.register_forward_pre_hook(
            lambda _m, args: neurons_by_name.append(args[0])
        )
    model(ids(2, 2, 24))
    assert len(neurons_by_name) == 6
    assert all(x.unique().tolist() == [0, 1] for x in neurons_by_name)
    block = model.model.layers[0]
    ones = torch.ones(20_000)
    joined = block.join(torch.zeros(20_000), ones)
    assert joined.unique().tolist() == [0, 1]
    assert float(joined.mean()) == pytest.approx(0.6, abs=0.02)
    assert torch.equal(block.join(ones, ones), ones)


@torch.no_grad()
def test_dropout_of_a_sum_keeps_its_mean() -> None:
    block = make(residual="add", dropout=0.2).train().model.layers[0]
    joined = block.join(torch.ones(20_000, dtype=F64), torch.ones(20_000, dtype=F64))
    assert joined.unique().tolist() == [1, 2.25]
    assert float(joined.mean()) == pytest.approx(2, abs=0.02)


@torch.no_grad()
def test_what_each_linear_map_reads(variant: dict[str, Any]) -> None:
    """Binary everywhere in the blocks but at the output projection, which reads integers."""
    model = make(**variant)
    read: dict[str, set[float]] = {}
    for name, module in model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _m, args, n=name: read.setdefault(n, set()).update(args[0].unique().tolist())
            )
    model(ids(3, 2, 16))
    for name, values in read.items():
        if name.endswith("attention.out"):
            assert all(v == round(v) and 0 <= v <= 16 for v in values)
        else:
            assert values <= {0.0, 1.0}, name


@torch.no_grad()
def test_cached_logits_equal_the_whole_forward_over_all_steps(variant: dict[str, Any]) -> None:
    model = make(**variant)
    tokens = ids(4, 2, 12)
    whole = model(tokens, use_cache=False).logits
    assert whole.std() > 0.1
    cache, parts = DynamicCache(), []
    for start, stop in [(0, 5), (5, 6), (6, 7), (7, 10), (10, 12)]:
        out = model(tokens[:, start:stop], past_key_values=cache, use_cache=True)
        parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-9)


@torch.no_grad()
def test_future_and_neighbours_never_matter(variant: dict[str, Any]) -> None:
    model = make(**variant)
    tokens = ids(5, 2, 10)
    before = model(tokens).logits
    other = tokens.clone()
    other[0, 6:] = (other[0, 6:] + 3) % 23
    other[1] = ids(6, 1, 10)[0]
    after = model(other).logits
    torch.testing.assert_close(after[0, :6], before[0, :6], rtol=0, atol=1e-9)
    assert (after[0, 6] - before[0, 6]).abs().max() > 1e-3
    torch.testing.assert_close(model(tokens[:1]).logits, before[:1], rtol=0, atol=1e-9)
    torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=0)  # nothing is kept


@torch.no_grad()
def test_left_padded_batch_equals_unpadded(variant: dict[str, Any]) -> None:
    model = make(**variant)
    rows = [ids(7, 1, n)[0] for n in (3, 8)]
    batch, mask = ids(8, 2, 8), torch.zeros(2, 8, dtype=torch.long)
    for i, row in enumerate(rows):
        batch[i, 8 - len(row) :], mask[i, 8 - len(row) :] = row, 1
    out = model(batch, attention_mask=mask).logits
    for i, row in enumerate(rows):
        alone = model(row[None]).logits[0]
        torch.testing.assert_close(out[i, -len(row) :], alone, rtol=0, atol=1e-9)


def test_gradients_reach_every_parameter(variant: dict[str, Any]) -> None:
    model = make(**variant).train()
    tokens = ids(9, 4, 16)
    model(tokens, labels=tokens).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_outputs_that_a_teacher_is_held_against() -> None:
    """Embedding, blocks and attention, each the mean over steps and with a gradient."""
    model = make(steps=4).train()
    spikes: dict[str, Tensor] = {}
    with observe(model, lambda name, _n, s: spikes.update({name: s})):
        out = model(ids(10, 2, 8), output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 4
    torch.testing.assert_close(out.hidden_states[0], spikes["model.encoder.neuron"].mean(0))
    edges = [s for name, s in spikes.items() if name.endswith("core.neuron")]
    for neurons_by_name, edge in zip(out.attentions, edges, strict=True):
        torch.testing.assert_close(neurons_by_name, edge.mean(0))
    (out.attentions[2].sum() + out.hidden_states[0].sum()).backward()
    assert model.model.layers[2].attention.key.weight.grad.abs().max() > 0
    assert model.model.embed_tokens.weight.grad.abs().max() > 0


def test_generation_with_cache_and_without() -> None:
    model = make(seed=5, steps=2)
    prompt = ids(11, 2, 5)
    cached = model.generate(prompt, max_new_tokens=10, do_sample=False)
    whole = model.generate(prompt, max_new_tokens=10, do_sample=False, use_cache=False)
    assert torch.equal(cached, whole)
    assert len(cached[:, 5:].unique()) > 1


def test_saved_and_loaded_by_the_auto_class(tmp_path: Path) -> None:
    model = make(dtype=torch.float32, **VARIANTS["learned"])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is BiSpikCLMForCausalLM
    for (name, a), (other, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
    tokens = ids(12, 2, 9)
    assert torch.equal(model(tokens).logits, again.eval()(tokens).logits)


def test_a_fresh_model_starts_from_the_configured_thresholds() -> None:
    config = BiSpikCLMConfig(
        **SHAPE | {"attention_threshold": 2.5},
        threshold=0.7,
        learn_threshold=True,
        learn_attention_threshold=True,
    )
    model = build_model(config)
    neurons_by_name = {n: m for n, m in model.named_modules() if isinstance(m, LIF)}
    for name, neuron in neurons_by_name.items():
        expected = 2.5 if name.endswith("core.neuron") else 0.7
        torch.testing.assert_close(neuron.v_th, torch.full_like(neuron.v_th, expected))
    assert neurons_by_name["model.layers.0.attention.core.neuron"].v_th.shape == (2, 1, 1)
    assert all(neuron.reset == "delayed" for neuron in neurons_by_name.values())


def test_expanding_what_is_binary_already_changes_nothing() -> None:
    model = make(steps=2)
    tokens = ids(13, 1, 8)
    assert torch.equal(model.expand_to_binary()(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("preset", "shape", "millions"),
    [
        ("bispikclm-125m", (12, 768, 3072, 12), (123, 128)),
        ("bispikclm-350m", (24, 1024, 4096, 16), (350, 362)),
        ("bispikclm-1.3b", (24, 2048, 8192, 32), (1300, 1330)),
    ],
)
def test_presets_have_the_shapes_of_opt(
    preset: str, shape: tuple[int, ...], millions: tuple[int, int]
) -> None:
    config = build_config(preset, 50272)
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    assert tuple(getattr(config, key) for key in keys) == shape
    assert config.steps == 4
    with torch.device("meta"):
        count = sum(p.numel() for p in build_model(config).parameters())
    assert millions[0] < count / 1e6 < millions[1]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("residual", "ad", "one of add, or"),
        ("attention_threshold", 0.0, "greater than 0"),
        ("attention_scale", -1.0, "greater than 0"),
        ("steps", 0, "at least 1"),
        ("decay", 1.5, "between 0 and 1"),
        ("levels", 4, "unknown model key 'levels'"),
        ("wta", "hard", "unknown model key 'wta'"),
    ],
)
def test_bad_choices_are_named(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_config("bispikclm-tiny", 23, {key: value})


def test_the_dense_twin_has_the_same_shape() -> None:
    assert "bispikclm-tiny" in PRESETS
    rotary = control_of(build_config("bispikclm-tiny", 23, {"position": "relative"}))
    learned = control_of(build_config("bispikclm-tiny", 23, {"position": "learned"}))
    assert isinstance(rotary, GPTNeoXConfig)
    assert isinstance(learned, GPT2Config)
    assert rotary.hidden_size == learned.hidden_size == 128
