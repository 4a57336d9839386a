"""The spiking vision transformer: equations, switches, what learns, saving, its dense twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageClassification, ViTConfig

from spikeformers.energy import audit, energy_of
from spikeformers.errors import CheckpointError, ConfigError
from spikeformers.models import (
    VISION_PRESETS,
    SpikingViTConfig,
    SpikingViTForImageClassification,
    build_model,
    build_vision_config,
    control_of,
    load_model,
    load_vision_model,
)
from spikeformers.neurons import LIF, TLIF, Neuron, Rectifier

SMALL: dict[str, Any] = {
    "image_size": 8, "num_channels": 3, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "sps_stages": 2, "sps_pools": 1,
    "steps": 2, "num_labels": 5,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "a2os2a": {},
    "state": {"attention_order": "state"},
    "all binary": {"key_neuron": "binary", "value_neuron": "binary"},
    "relu K only": {"value_neuron": "binary"},
    "ternary V only": {"key_neuron": "binary"},
    "ssa": {"attention": "ssa"},
    "wssa": {"attention": "wssa"},
    "normed": {"attention_norm": True, "position": "learned"},
    "no projection": {"output_projection": False, "position": "none"},
}


def make(seed: int = 0, **changes: Any) -> SpikingViTForImageClassification:
    torch.manual_seed(seed)
    model = SpikingViTForImageClassification(SpikingViTConfig(**{**SMALL, **changes}))
    with torch.no_grad():  # livelier than at the start, so that every layer fires
        for name, parameter in model.named_parameters():
            if "norm.bias" in name:
                parameter.normal_(0.2, 0.5)
    return model


def images(batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_a_block_is_the_papers_equations() -> None:
    model = make().eval()
    recorded: list[Tensor] = []
    block = model.model.layers[0]
    block.register_forward_hook(lambda _m, args, out: recorded.extend([args[0], out[0]]))
    with torch.no_grad():
        model(images())
        u, after = recorded
        a, m = block.attention, block.mlp
        s = a.fire_in.neuron(u)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (2, 8)).transpose(-3, -2)

        def norm(bn: Any, x: Tensor) -> Tensor:
            scale = bn.weight / (bn.running_var + bn.eps).sqrt()
            return (x - bn.running_mean) * scale + bn.bias

        q = heads((norm(a.fire_query.norm, s @ a.query.weight.T)).clone())
        q = a.fire_query.neuron(q)
        k = heads(norm(a.fire_key.norm, s @ a.key.weight.T)).relu()
        v = a.fire_value.neuron(heads(norm(a.fire_value.norm, s @ a.value.weight.T)))
        y = ((q @ k.transpose(-1, -2)) @ v).transpose(-3, -2).flatten(-2)
        stream = u + norm(a.out_norm, a.fire_out.neuron(y) @ a.out.weight.T)
        hidden = m.fire_hidden.neuron(
            norm(m.fire_hidden.norm, m.fire_in.neuron(stream) @ m.up.weight.T)
        )
        two = stream + norm(m.out_norm, hidden @ m.down.weight.T)
    assert set(q.unique().tolist()) == {0, 1}
    assert set(v.unique().tolist()) == {-1, 0, 1}
    torch.testing.assert_close(after, two)


def test_the_head_reads_mean_rates_of_patches() -> None:
    model = make().eval()
    with torch.no_grad():
        out = model(images(), output_hidden_states=True)
        rates = model.model(images()).last_hidden_state
    assert rates.shape == (3, 16, 16)
    assert {round(x * 2, 6) for x in rates.unique().tolist()} <= {0, 1, 2}  # of two steps
    torch.testing.assert_close(out.logits, model.head(rates.mean(1)))
    assert [h.shape for h in out.hidden_states] == [(3, 16, 16)] * 3


def test_no_neuron_layer_is_shared() -> None:
    model = make()
    neurons = [m for m in model.modules() if isinstance(m, Neuron)]
    # 2 in SPS (a stage and the position), 6 a block (K has a rectifier), 1 at the end
    assert len(neurons) == len({id(n) for n in neurons}) == 2 + 2 * 6 + 1
    assert sum(isinstance(m, Rectifier) for m in model.modules()) == 2
    calls: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(
                lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1})
            )
    model(images())
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_projection_learns(variant: str) -> None:
    """Q, K and V all get a gradient: the trap of a re-implementation."""
    model = make(**VARIANTS[variant]).train()
    out = model(images(6), labels=torch.tensor([0, 1, 2, 3, 4, 0]))
    out.loss.backward()
    for block in model.model.layers:
        for name in ("query", "key", "value"):
            assert getattr(block.attention, name).weight.grad.norm() > 1e-7, name
    dead = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert dead == []


def test_switches_choose_neurons() -> None:
    def kinds(**changes: Any) -> list[type]:
        a = make(**changes).model.layers[0].attention
        return [type(f.neuron) for f in (a.fire_query, a.fire_key, a.fire_value)]

    assert kinds() == [LIF, Rectifier, TLIF]
    assert kinds(attention="ssa") == [LIF, LIF, LIF]
    assert kinds(key_neuron="binary") == [LIF, LIF, TLIF]
    assert kinds(value_neuron="binary") == [LIF, Rectifier, LIF]
    assert make(output_projection=False).model.layers[0].attention.out is None


@torch.no_grad()
def test_both_orders_are_equal() -> None:
    by_scores = make().double().eval()
    two = make(attention_order="state").double().eval()
    two.load_state_dict(by_scores.state_dict())
    x = images().double()
    torch.testing.assert_close(by_scores(x).logits, two(x).logits, rtol=0, atol=1e-9)


@torch.no_grad()
def test_one_image_does_not_matter_to_another() -> None:
    model = make().eval()
    both = model(images(4)).logits
    torch.testing.assert_close(model(images(4)[:1]).logits, both[:1])
    assert both.std() > 1e-3


def test_saving_and_loading(tmp_path: Any) -> None:
    model = make(seed=4).eval()
    model.train()(images())  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(again) is SpikingViTForImageClassification
    assert AutoConfig.from_pretrained(tmp_path).key_neuron == "relu"
    with torch.no_grad():
        assert torch.equal(again.eval()(images()).logits, model(images()).logits)
        assert torch.equal(load_vision_model(tmp_path)(images()).logits, model(images()).logits)
    with pytest.raises(CheckpointError, match="model of images"):
        load_model(tmp_path)


def test_presets_build() -> None:
    sizes = ((16, 4), (64, 4), (64, 4), (64, 4), (289, 10), (64, 16), (196, 4))
    for preset, (patches, steps) in zip(VISION_PRESETS, sizes, strict=True):
        config = build_vision_config(preset)
        with torch.device("meta"):
            model = build_model(config)
        assert config.num_patches == patches
        assert (config.steps, config.decay, config.threshold) == (steps, 0.5, 1.0)
        assert model.num_parameters() > 50_000
    config = build_vision_config("a2os2a-cifar-2-384", {"num_labels": 100, "steps": 2})
    assert (config.num_labels, config.hidden_size, config.steps) == (100, 384, 2)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'a2os2a-digits'"):
        build_vision_config("a2os2a-digit")
    with pytest.raises(ConfigError, match="Did you mean 'attention'"):
        build_vision_config("a2os2a-digits", {"attenton": "ssa"})
    for changes, message in (
        ({"hidden_size": 18, "num_attention_heads": 4}, "does not divide by 4"),
        ({"image_size": 9}, "cannot be halved"),
        ({"sps_pools": 3}, "between 0 and sps_stages"),
        ({"key_neuron": "rely"}, "Did you mean 'relu'"),
        ({"attention": "cwssa"}, "Did you mean 'wssa'"),
        ({"steps": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_vision_config("a2os2a-digits", changes)
    with pytest.raises(ConfigError, match="images of 1 x 8 x 8 came"):
        make()(images()[:, :1])


def test_the_dense_twin_has_the_same_shape() -> None:
    config = SpikingViTConfig(**SMALL)
    twin = control_of(config)
    assert isinstance(twin, ViTConfig)
    assert (twin.image_size, twin.patch_size, twin.num_channels) == (8, 2, 3)
    assert (twin.hidden_size, twin.num_hidden_layers, twin.intermediate_size) == (16, 2, 32)
    model = build_model(twin)
    assert model(images()).logits.shape == (3, 5)
    with pytest.raises(ConfigError, match="learned positions"):
        control_of(config, "rotary")


# --- counting and auditing -----------------------------------------------------------------------


def test_attention_is_addition_only() -> None:
    report = audit(make().eval(), [{"pixel_values": images()}])
    assert report.failures("addition-only") == []
    assert report.failures("softmax-free", scope="model") == []
    cores = [row for row in report.rows if row.module.endswith(".core")]
    assert {row.title for row in cores} == {"product", "multiplication"}
    assert [row.verdict for row in cores if row.title == "product"] == ["binary", "adder"] * 2
    assert {row.verdict for row in cores if row.title == "multiplication"} == {"adder"}  # the mask
    assert not [row for row in report.rows if row.verdict == "unknown"]
    norms = [row for row in report.rows if row.title == "normalisation"]
    assert len(norms) == 2 + 1 + 2 * 6
    assert {row.verdict for row in norms} == {"scale"}  # fixed statistics


def test_wssa_and_ssa_are_addition_only_too() -> None:
    for attention in ("ssa", "wssa"):
        report = audit(make(attention=attention).eval(), [{"pixel_values": images()}])
        assert report.failures("addition-only") == []


def test_convolutions_are_counted_by_a_loop() -> None:
    model = make().eval()
    seen: dict[str, Tensor] = {}
    conv = model.model.embeddings.stage2.conv  # 3x3, padding 1, of spikes 8 x 8
    conv.register_forward_hook(lambda _m, args, _out: seen.update(x=args[0]))
    report = energy_of(model, [{"pixel_values": images()}])
    products = {product.name: product for product in report.products}
    first = products["model.embeddings.stage1.conv"]
    assert (first.left.kind, first.sop) == ("real", 0)  # pixels
    assert first.macs == 3 * 8 * 8 * (3 * 9) * 8
    second = products["model.embeddings.stage2.conv"]
    x = seen["x"]
    assert set(x.unique().tolist()) == {0, 1}
    expected = 0
    for row in range(8):
        for column in range(8):
            windows = (3 - (row in (0, 7))) * (3 - (column in (0, 7)))
            expected += int(x[:, :, row, column].sum()) * windows * 16
    assert second.left.kind == "binary"
    assert second.sop == expected
    assert second.macs == 2 * 3 * 8 * 8 * (8 * 9) * 16
    assert report.unit == "image"
    assert report.tokens == 3
    shares = report.by_component
    assert shares["embedding"].sop > 0
    # membranes: two additions a block, and the position's
    assert shares["residual"].operations["add"] == 2 * 2 * 2 * 16 * 16
    assert shares["norms"].operations["add"] == shares["norms"].operations["mult"]


def test_the_twin_is_counted_too() -> None:
    twin = build_model(control_of(SpikingViTConfig(**SMALL))).eval()
    report = energy_of(twin, [{"pixel_values": images()}])
    assert report.density is None
    assert report.sop_per_token == 0
    patches = 16 * (3 * 4) * 16
    tokens = 17  # with the class token
    block = tokens * (4 * 16 * 16 + 2 * 16 * 32) + 2 * tokens * tokens * 16
    assert report.macs_per_token == patches + 2 * block + 16 * 5
