"""A unit a channel: seen by the audit, and really folded into the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, LlamaConfig

from spikeformers.energy import audit, trace
from spikeformers.energy.auditing.operand_history import folded, joined, units_of
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.models._converted import Decode, SpikeMap
from spikeformers.neurons import NILIF

NAN = float("nan")
S = torch.tensor([[1.0, 2.0, -1.0], [3.0, 0.0, 1.0], [2.0, 1.0, -2.0]])


def same(units: Tensor | None, expected: list[list[float]]) -> bool:
    return units is not None and torch.equal(
        units.nan_to_num(-7.0), torch.tensor(expected, dtype=torch.float64).nan_to_num(-7.0)
    )


def test_units_by_hand() -> None:
    plain = torch.tensor([0.5, 0.25, 2.0])
    assert same(units_of(S, plain, fixed=True), [[0.5, 0.25, 2.0], [NAN, NAN, 2.0]])
    signs = torch.where(S >= 0, plain, torch.tensor([1.0, 1.0, 4.0]))
    assert same(units_of(S, signs, fixed=False), [[0.5, 0.25, 2.0], [NAN, NAN, 4.0]])


def test_a_factor_that_depends_on_the_row_is_not_a_unit() -> None:
    assert units_of(S, torch.tensor([[0.5], [0.5], [0.7]]), fixed=True) is None
    other = torch.full((3, 3), 0.5)
    other[1, 1] = 0.7  # where no spike is: it changes nothing
    assert units_of(S, other, fixed=False) is not None
    other[2, 1] = 0.7
    assert units_of(S, other, fixed=False) is None
    assert units_of(S, torch.ones(2, 3, 3), fixed=True) is None
    assert units_of(torch.zeros(2, 3), torch.ones(3), fixed=True) is None


def test_one_row_proves_nothing_of_a_factor_made_in_the_run() -> None:
    factor = torch.tensor([[0.5, 0.25, 2.0]])
    assert units_of(S[:1], factor, fixed=False) is None
    assert units_of(S[:1], factor, fixed=True) is not None


def test_units_of_two_calls() -> None:
    row = torch.tensor([[0.5, NAN]], dtype=torch.float64)
    both = joined(row, torch.tensor([[0.5, 2.0]], dtype=torch.float64))
    assert both is not None
    assert both.tolist() == [[0.5, 2.0]]
    assert joined(row, torch.tensor([[0.6, 2.0]], dtype=torch.float64)) is None


class Block(nn.Module):
    """Integer spikes times ``factor(x)``, through a linear map."""

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.fire, self.factor = NILIF(levels=4), factor
        self.up = nn.Linear(16, 8, bias=False)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.fire(x.unsqueeze(0)) * self.factor(self, x))
        return y


class Model(nn.Module):
    """Embedding and one block."""

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(4 * torch.rand(20, 16))
        self.layers = nn.ModuleList([Block(factor)])

    def forward(self, input_ids: Tensor) -> Tensor:
        y: Tensor = self.layers[0](self.embed(input_ids))
        return y


IDS = torch.arange(20).reshape(2, 10)


@pytest.mark.parametrize(
    ("factor", "verdict", "kind"),
    [
        (lambda block, x: block.scale, "adder", "integer"),
        (lambda block, x: x.mean(-1, keepdim=True), "multiplier", "real"),
        (lambda block, x: block.scale * x.sigmoid(), "multiplier", "real"),
    ],
)
def test_only_a_unit_of_the_channel_folds(factor: Any, verdict: str, kind: str) -> None:
    torch.manual_seed(2)
    (row,) = audit(Model(factor), [IDS]).products().values()
    assert (row.verdict, row.operands[0].kind) == (verdict, kind)
    assert row.operands[0].as_dict()["unit_per"] == ("channel" if verdict == "adder" else None)


def test_a_unit_that_changes_from_call_to_call_is_none() -> None:
    torch.manual_seed(2)
    model = Model(lambda block, x: block.scale * x.mean())
    report = audit(model, [IDS[:1]])
    assert report.products()["layers.0.up"].operands[0].units is not None  # one call: one factor
    both = audit(model, [IDS[:1], IDS[1:]])
    assert both.products()["layers.0.up"].verdict == "multiplier"


def test_channels_that_were_mixed_have_no_unit() -> None:
    class Turned(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.fire(x.unsqueeze(0)) * self.scale  # [1, 2, 10, 16]
            z: Tensor = y.transpose(-1, -2)[..., :8] @ self.up.weight
            return z

    torch.manual_seed(2)
    model = Model(None)
    model.layers[0] = Turned(None)
    (row,) = audit(model, [IDS]).products().values()
    assert row.verdict == "multiplier"


def test_a_tensor_overwritten_through_a_view_has_no_unit() -> None:
    class Overwrites(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.fire(x.unsqueeze(0)) * self.scale
            y.view(-1)[3] = 0.123
            z: Tensor = self.up(y)
            return z

    torch.manual_seed(2)
    model = Model(None)
    model.layers[0] = Overwrites(None)
    (row,) = audit(model, [IDS]).products().values()
    assert row.verdict == "multiplier"


SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip
SOURCES = {
    "gpt2": GPT2Config(**SIZES, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2, intermediate_size=24),
}


def converted(source: str, **choices: Any) -> NeurTransformerForCausalLM:
    torch.manual_seed(5)
    config = NeurTransformerConfig(source=SOURCES[source].to_dict(), steps=4, **choices)
    model = NeurTransformerForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "threshold" in name:
                parameter.uniform_(0.8, 1.2)
            elif parameter.dim() == 2:
                parameter.normal_(0, 0.3)  # so that most channels fire more than once
    return model


@torch.no_grad()
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "choices",
    [
        *[{"attention": "ssa"}, {"attention": "cwssa"}, {"code": "phase", "attention": "cwssa"}],
        {"code": "phase", "attention": "power-of-two"},
    ],
)
def test_a_converted_model_folds(source: str, choices: dict[str, Any]) -> None:
    model = converted(source, **choices)
    ids = torch.randint(0, 50, (4, 24))
    entered: dict[str, Any] = {}
    spikes_of: dict[torch.Tensor, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Decode):
            module.register_forward_hook(lambda _, args, out: spikes_of.__setitem__(out, args[0]))
        if isinstance(module, SpikeMap):
            module.register_forward_hook(
                lambda m, args, out, name=name: entered.__setitem__(
                    name, (m, spikes_of[args[0]], out)
                )
            )
    report = audit(model, [ids])
    assert report.failures("addition-only") == report.failures("softmax-free") == []
    products, counted = report.products(), trace(model, ids).products
    assert entered
    for name, (module, spikes, out) in entered.items():
        row = products[name]
        units = row.operands[0].units
        assert row.verdict == "adder"
        assert units is not None
        # The same events that energy counts, and the same sums from weights scaled beforehand.
        assert row.operands[0].nonzero == counted[name].left.nonzero
        assert counted[name].sop > 0
        on, off = folded(module.weight, units)
        again = F.linear(spikes.clamp_min(0), on) + F.linear(spikes.clamp_max(0), off)
        again = again if module.bias is None else again + module.bias
        torch.testing.assert_close(again, out, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_adapter_is_counted_and_audited_beside_its_map() -> None:
    """A reads the spikes that the map reads, B reads reals; merged, nothing is left of them."""
    model = converted("gpt2", attention="ssa")
    ids = torch.randint(0, 50, (4, 24))
    name = "model.transformer.h.0.mlp.up"
    alone = trace(model, ids).products[name]
    lora = LoraConfig(r=2, target_modules=[name], init_lora_weights=False)
    adapted = get_peft_model(model, lora)
    products = trace(adapted.base_model.model, ids).products
    events, rows = alone.sop // 64, 4 * 24
    assert products[f"{name}.base_layer"].sop == alone.sop == events * 64 > 0
    assert products[f"{name}.lora_A.default"].sop == events * 2
    second = products[f"{name}.lora_B.default"]
    assert (second.sop, second.macs) == (0, rows * 2 * 64)
    (row,) = audit(adapted.base_model.model, [ids]).failures("addition-only")
    assert row.module == f"{name}.lora_B.default"
    merged = adapted.merge_and_unload()
    assert trace(merged, ids).products[name].sop == alone.sop
    assert audit(merged, [ids]).failures("addition-only") == []
