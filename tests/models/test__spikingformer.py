"""What WD and WE share: spikes in every product, binary expansion, gradients, rates, files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from spikeformers.errors import ConfigError
from spikeformers.models import WDSpikingformerConfig, WESpikingformerConfig, build_model
from spikeformers.neurons import TLIF, Neuron, observe

Make = Callable[..., Any]
Choices = dict[str, Any]
F64 = torch.float64
both = pytest.mark.parametrize("kind", ["wd", "we"])


def ids(seed: int, batch: int, tokens: int, vocab: int = 23) -> Tensor:
    return torch.randint(0, vocab, (batch, tokens), generator=torch.Generator().manual_seed(seed))


# --- every product inside the blocks has a spike operand ------------------------------------------

PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
    torch.ops.aten.linear.default: (0, 1),
    torch.ops.aten.matmul.default: (0, 1),
}


class Products(TorchDispatchMode):
    """Records, for every matrix product, how far its operands are from whole spikes."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit, self.inside = unit, False
        self.errors: list[float] = []
        self.zeros = 0

    def distance(self, x: Tensor) -> float:
        # A2OS2A's own neurons emit ones, whatever the others do.
        whole = (x / unit for unit in (self.unit, 1.0))
        return min(float((counts - counts.round()).abs().max()) for counts in whole)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside and func in PRODUCTS:
            operands = [args[i] for i in PRODUCTS[func]]
            distances = [self.distance(x) for x in operands]
            self.errors.append(min(distances))
            self.zeros += not operands[distances.index(min(distances))].any()
        return func(*args, **(kwargs or {}))


def products(model: Any, tokens: Tensor) -> Products:
    unit = next(m.unit for m in model.modules() if isinstance(m, Neuron))
    mode = Products(unit)
    handles = []
    for block in model.model.layers:
        handles.append(block.register_forward_pre_hook(lambda *_: setattr(mode, "inside", True)))
        handles.append(block.register_forward_hook(lambda *_: setattr(mode, "inside", False)))
    with mode, torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return mode


@both
def test_every_product_in_the_blocks_has_a_spike_operand(
    make_model: Make, kind: str, attention: Choices, neuron: Choices
) -> None:
    model = make_model(kind, **attention, **neuron)
    traced = products(model, ids(1, 3, 10))
    # Six linear maps and Q K^T; the weights times V are a product unless winners are gathered.
    gathered = attention["attention"] == "wta" and attention["wta"] != "sparsemax"
    # A causal state adds K^T V to the two products inside its blocks.
    extra = kind == "wd" and attention.get("attention_order") == "state"
    assert len(traced.errors) == 2 * (6 + (1 if gathered else 2) + extra)
    assert max(traced.errors) < 1e-5
    assert traced.zeros == 0


def test_a_product_without_a_spike_operand_is_found(make_model: Make) -> None:
    model = make_model("wd")
    model.model.layers[1].mlp.fire_hidden.neuron = torch.nn.Tanh()
    errors = products(model, ids(1, 3, 10)).errors
    assert [e > 1e-2 for e in errors].count(True) == 1


# --- gradients ------------------------------------------------------------------------------------


def backward(model: Any, kind: str) -> None:
    model.train()
    tokens = ids(4, 4, 16)
    labels = tokens.masked_fill(ids(5, 4, 16) > 9, -100) if kind == "we" else tokens
    model(tokens, labels=labels).loss.backward()


def dead(model: Any) -> list[str]:
    return [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any() or not p.grad.isfinite().all())
    ]


@both
def test_gradient_reaches_every_parameter(
    make_model: Make, kind: str, attention: Choices, neuron: Choices
) -> None:
    model = make_model(kind, learn_attention_scale=True, **attention, **neuron)
    backward(model, kind)
    assert dead(model) == []


@both
@pytest.mark.parametrize(
    "choices",
    [
        {"pre_norm": False},
        {"projection_norm": False},
        {"attention": "softmax", "sum_norm": False, "neuron": "dead-zone", "levels": 64},
        {"output_norm": False},
        {"norm": "rms"},
        {"position": "learned"},
        {"position": "relative"},
        {"spiking_head": True},
        {"tie_word_embeddings": False},
        {"integer_gradient": "sigmoid"},
        {"neuron": "lif", "reset": "hard", "steps": 2},
        {"neuron": "lif", "reset": "delayed", "steps": 2, "surrogate": "sigmoid"},
        {"neuron": "t-lif", "amplitude": "first-batch"},
    ],
    ids=str,
)
def test_gradient_reaches_every_parameter_with_other_choices(
    make_model: Make, kind: str, choices: Choices
) -> None:
    model = make_model(kind, **choices)
    backward(model, kind)
    assert dead(model) == []


def test_gradient_reaches_every_parameter_from_the_initial_weights(make_config: Make) -> None:
    for kind in ("wd", "we"):
        torch.manual_seed(0)
        model = build_model(make_config(kind, learn_attention_scale=True))
        backward(model, kind)
        assert dead(model) == []


def test_padding_leaves_gradients_finite(make_model: Make, attention: Choices) -> None:
    model = make_model("wd", **attention)
    model.train()
    tokens = ids(6, 2, 6)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, :3] = 0
    model(tokens, attention_mask=mask, labels=tokens.masked_fill(mask == 0, -100)).loss.backward()
    assert dead(model) == []


def test_checkpointing_gives_the_same_gradients(make_model: Make) -> None:
    grads = []
    for checkpointing in (False, True):
        model = make_model("wd", dtype=F64, firing_rate_weight=0.5)
        if checkpointing:
            model.activation_checkpointing_enable()
        backward(model, "wd")
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-9, atol=1e-12, msg=name)


# --- firing rate ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("choices", [{}, {"neuron": "t-lif", "threshold": 0.75, "steps": 2}])
def test_rate_loss_by_hand(make_model: Make, kind: str, choices: Choices) -> None:
    """``weight * sum_l mean_count_l * [density_l > target]``."""
    tokens = ids(7, 2, 8)
    counts: list[float] = []
    densities: list[float] = []

    def note(name: str, neuron: Neuron, spikes: Tensor) -> None:
        counts.append(spikes.abs().mean().item() / neuron.unit)
        densities.append((spikes != 0).float().mean().item())

    model = make_model(kind, **choices).train()
    with observe(model, note):
        model(tokens)
    target = sorted(densities)[len(densities) // 2]  # half the layers are above it
    weight = 0.7
    model = make_model(kind, firing_rate_weight=weight, firing_rate_target=target, **choices)
    out = model.train()(tokens, labels=tokens)
    over = [c for c, d in zip(counts, densities, strict=True) if d > target]
    assert 0 < len(over) < len(counts)
    assert out.rate_loss.item() == pytest.approx(weight * sum(over), rel=1e-4)
    assert out.loss.item() == pytest.approx((out.lm_loss + out.rate_loss).item())
    model.eval()
    out = model(tokens, labels=tokens)
    assert out.rate_loss is None
    assert torch.equal(out.loss, out.lm_loss)


def test_a_penalty_lowers_the_rates_to_the_target(make_model: Make) -> None:
    target = 0.2
    model = make_model("wd", firing_rate_weight=1.0, firing_rate_target=target)
    tokens = ids(8, 4, 12)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.train()
    densities: list[float] = []
    with observe(model, lambda n, m, s: densities.append((s != 0).float().mean().item())):
        for _ in range(60):
            rate = model(tokens).rate_loss
            if rate.item() == 0:
                break
            optimizer.zero_grad()
            rate.backward()
            optimizer.step()
    layers = sum(isinstance(m, Neuron) for m in model.modules())
    assert max(densities[:layers]) > 1.5 * target
    assert max(densities[-layers:]) <= target  # every layer, and then the term is zero
    assert rate.item() == 0


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "auto"),
    [
        ("wd", AutoModelForCausalLM),
        ("we", AutoModelForMaskedLM),
        ("we-classifier", AutoModelForSequenceClassification),
    ],
)
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"neuron": "t-lif", "amplitude": "first-batch", "steps": 2},
        {"neuron": "lif", "tie_word_embeddings": False, "norm": "rms"},
    ],
    ids=["ni-lif", "t-lif", "lif"],
)
def test_save_and_load_is_bit_identical(
    make_model: Make, tmp_path: Path, kind: str, auto: Any, choices: Choices
) -> None:
    model = make_model(kind, learn_attention_scale=True, **choices)
    tokens = ids(9, 2, 7)
    model.train()(tokens)  # calibrates T-LIF
    model.eval()
    with torch.no_grad():
        logits = model(tokens).logits
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path)
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, logits)
    assert {p.name for p in tmp_path.iterdir()} - {"generation_config.json"} == {
        "config.json",
        "model.safetensors",
        "modeling_spikeformers.py",
    }
    # Parameters and T-LIF's calibration; no membrane.
    saved = set(load_file(tmp_path / "model.safetensors"))
    expected = {name for name, _ in model.named_parameters()}
    expected |= {f"{name}.calibrated" for name, m in model.named_modules() if isinstance(m, TLIF)}
    assert saved == expected
    assert again.config.to_dict() == {
        **model.config.to_dict(),
        "architectures": again.config.architectures,
        "dtype": again.config.to_dict()["dtype"],
        "_name_or_path": again.config.to_dict().get("_name_or_path"),
    }


@torch.no_grad()
@both
def test_hidden_states_and_attentions(make_model: Make, kind: str) -> None:
    model = make_model(kind, steps=2)
    tokens = ids(10, 2, 7)
    out = model(tokens, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3
    embeddings = model.model.embed_tokens(tokens) + model.model.embed_positions.weight[:7]
    torch.testing.assert_close(out.hidden_states[0], embeddings)
    torch.testing.assert_close(model.lm_head(out.hidden_states[-1]), out.logits)
    assert len(out.attentions) == 2
    for weights in out.attentions:  # a mean of one-hot rows over two steps
        assert set(weights.unique().tolist()) <= {0.0, 0.5, 1.0}
        assert (weights.sum(-1) == 1).all()
        assert bool(weights.triu(1).any()) == (kind == "we")


# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "choices", "message"),
    [
        (WDSpikingformerConfig, {"attention": "wssa"}, "Did you mean 'cwssa'"),
        (WESpikingformerConfig, {"attention": "cwssa"}, "Did you mean 'wssa'"),
        (WDSpikingformerConfig, {"wta": "topk"}, "Did you mean 'top_k'"),
        (WDSpikingformerConfig, {"neuron": "nilif"}, "Did you mean 'ni-lif'"),
        (WDSpikingformerConfig, {"norm": "layr"}, "Did you mean 'layer'"),
        (WDSpikingformerConfig, {"position": "relativ"}, "Did you mean 'relative'"),
        (WDSpikingformerConfig, {"surrogate": "arctn"}, "Did you mean 'arctan'"),
        (WDSpikingformerConfig, {"winner_weight": "men"}, "Did you mean 'mean'"),
        (WDSpikingformerConfig, {"integer_gradient": "sigmoidal"}, "Did you mean 'sigmoid'"),
        (WESpikingformerConfig, {"pooling": "max"}, "one of mean, first"),
        (WDSpikingformerConfig, {"levels": 0}, "levels must be at least 1, not 0"),
        (WDSpikingformerConfig, {"weight_digits": 0}, "weight_digits must be 1 to 4, not 0"),
        (WDSpikingformerConfig, {"steps": 0}, "steps must be at least 1, not 0"),
        (
            WDSpikingformerConfig,
            {"hidden_size": 30, "num_attention_heads": 4},
            "hidden_size 30 does not divide into 4 heads",
        ),
        (
            WDSpikingformerConfig,
            {"attention": "ssa", "position": "relative"},
            "use position='learned' or 'none'",
        ),
    ],
)
def test_configs_that_no_model_can_have(config: Any, choices: Choices, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**choices)
