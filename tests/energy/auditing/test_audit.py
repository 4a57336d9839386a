"""The audit of single operations, written as functional calls inside a toy block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikeformers.energy import AuditReport, audit
from spikeformers.errors import ConfigError
from spikeformers.neurons import LIF, NILIF, TLIF, Neuron

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
IDS = torch.arange(24).reshape(2, 12)


class Block(nn.Module):
    """``call(x, spikes, weight)``, written as a functional call in a block."""

    def __init__(self, call: Call, neuron: Neuron | None = None) -> None:
        super().__init__()
        self.call, self.fire = call, neuron or LIF(threshold=0.5)
        self.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.fire(x.unsqueeze(0)).squeeze(0), self.weight)


class Toy(nn.Module):
    """Embedding, one block, head."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.ModuleList([block])
        self.head = nn.Linear(16, 16)

    def forward(self, input_ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.layers[0](self.embed(input_ids)))
        return y


def audited(call: Call, neuron: Neuron | None = None) -> AuditReport:
    """Audit of a block that multiplies by spikes, and also does ``call``."""
    torch.manual_seed(1)
    return audit(Toy(Block(lambda x, s, w: call(x, s, w) + s @ w, neuron)), [IDS])


def row(report: AuditReport, what: str) -> Any:
    """The only row of that class in the block."""
    (result,) = [entry for entry in report.within("blocks") if entry.title == what]
    return result


# --- hidden products ---------------------------------------------------------------------------

PRODUCTS: dict[str, Call] = {
    "matmul": lambda x, s, w: torch.matmul(x, w),
    "operator on views": lambda x, s, w: (x.unflatten(-1, (2, 8)) @ w[:8, :8].t()).flatten(-2),
    "einsum": lambda x, s, w: torch.einsum("btd,de->bte", x, w),
    "linear": lambda x, s, w: F.linear(x, w),
    "bmm": lambda x, s, w: torch.bmm(torch.bmm(x, x.transpose(1, 2)), s),
    "addmm": lambda x, s, w: torch.addmm(w[0], x.flatten(0, 1), w).view_as(x),
    "conv1d": lambda x, s, w: F.conv1d(x.transpose(1, 2), w.unsqueeze(-1)).transpose(1, 2),
    "mv": lambda x, s, w: (x @ w[0]).unsqueeze(-1),
    "dot": lambda x, s, w: torch.dot(x[0, 0], w[0]),
    "written out": lambda x, s, w: (x.unsqueeze(-1) * w).sum(-2),
    "written out, as a mean": lambda x, s, w: (x.unsqueeze(-1) * w).mean(-2),
    "written out, on a view": lambda x, s, w: (x.unsqueeze(-1) * w).transpose(0, 1).sum(0).sum(),
    "mixture of experts": lambda x, s, w: torch.baddbmm(x, x, w.expand(2, 16, 16)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_reals_in_a_functional_call_fails(name: str) -> None:
    report = audited(PRODUCTS[name])
    failures = report.failures("addition-only")
    assert failures[0].module == "layers.0"
    assert [(entry.title, entry.verdict) for entry in failures] == [("product", "multiplier")]
    assert report.failures("binary") == failures
    assert failures[0].operands[0].kind == "real"
    assert report.failures("softmax-free") == []


@pytest.mark.parametrize("name", sorted(set(PRODUCTS) - {"bmm", "mixture of experts"}))
@pytest.mark.parametrize(
    ("neuron", "verdict"),
    [(LIF(threshold=0.3), "binary"), (TLIF(), "adder"), (NILIF(levels=4), "adder")],
)
def test_the_same_product_of_spikes_does_not(name: str, neuron: Neuron, verdict: str) -> None:
    report = audited(lambda x, s, w: PRODUCTS[name](s, s, w), neuron)
    assert report.failures("addition-only") == []
    assert {entry.verdict for entry in report.products().values()} == {verdict}
    assert (report.failures("binary") == []) == (verdict == "binary")


def test_fused_attention_in_a_functional_call_fails() -> None:
    def attend(x: Tensor, s: Tensor, w: Tensor) -> Tensor:
        s, x = s.unsqueeze(1), x.unsqueeze(1)
        return F.scaled_dot_product_attention(s, s, x).squeeze(1)

    report = audited(attend)
    assert [
        (entry.name, entry.title, entry.verdict) for entry in report.rows if entry.layer == 0
    ] == [
        ("layers.0.scores", "product", "binary"),
        ("layers.0", "softmax", "multiplier"),
        ("layers.0.values", "product", "multiplier"),
        ("layers.0", "product", "binary"),
    ]
    assert [entry.name for entry in report.failures("binary")] == ["layers.0.values"]
    assert [entry.name for entry in report.failures("softmax-free")] == ["layers.0"]


def test_attention_of_torch_itself_fails() -> None:
    class Attends(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=False)[0]

    report = audit(Toy(Attends(16, 2)), [IDS])
    products = report.failures("addition-only")  # in_proj in one, scores, values, out_proj
    assert [entry.role for entry in products] == ["", "scores", "values", ""]
    assert [entry.title for entry in report.failures("softmax-free")] == ["softmax"]


def test_attention_that_is_not_fused_fails_too() -> None:
    report = audited(lambda x, s, w: F.scaled_dot_product_attention(x, s, x))  # no heads
    assert {entry.op for entry in report.within("blocks")} >= {"aten.bmm", "aten._safe_softmax"}
    assert [entry.op for entry in report.failures("addition-only")] == ["aten.bmm"]
    assert [entry.title for entry in report.failures("softmax-free")] == ["softmax"]


def test_a_gain_before_a_mean_is_not_a_product() -> None:
    report = audited(lambda x, s, w: (x.expand(4, 2, 12, 16) * w[0]).mean(0))
    assert report.failures("addition-only") == []
    assert row(report, "multiplication").verdict == "scale"


def test_a_neuron_with_a_wrong_statement_is_found() -> None:
    class Liar(Neuron):
        spike_type = "binary"

        def fire(self, u: Tensor) -> Tensor:
            return u.round()

        def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
            return u

    report = audited(lambda x, s, w: s, Liar())
    assert row(report, "product").operands[0].kind == "integer"
    assert row(report, "product").operands[0].source == "values"


# --- softmax and exponentials ------------------------------------------------------------------

SOFTMAXES: dict[str, Call] = {
    "method": lambda x, s, w: x.softmax(-1),
    "function": lambda x, s, w: F.softmax(x, dim=-1),
    "logarithm": lambda x, s, w: F.log_softmax(x, -1),
    "of spikes": lambda x, s, w: s.softmax(-1),
    "logsumexp": lambda x, s, w: x - torch.logsumexp(x, -1, keepdim=True),
    "written out": lambda x, s, w: x.exp() / x.exp().sum(-1, keepdim=True),
    "in place": lambda x, s, w: x.clone().exp_(),
    "base two": lambda x, s, w: torch.exp2(x * math.log2(math.e)),
    "a power": lambda x, s, w: math.e**x,
    "expm1": lambda x, s, w: torch.expm1(x) + 1,
    "hyperbolic": lambda x, s, w: torch.cosh(x) + torch.sinh(x),
    "into zeros": lambda x, s, w: torch.zeros_like(x).index_add(0, torch.arange(2), x).exp(),
    "through a view": lambda x, s, w: _filled(torch.zeros_like(x), x).exp(),
    "through numpy": lambda x, s, w: torch.from_numpy(x.numpy()).exp(),
}


def _filled(zeros: Tensor, x: Tensor) -> Tensor:
    zeros.view(-1)[3:7] = x.flatten()[3:7]
    return zeros


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_hidden_softmax_fails(name: str) -> None:
    report = audited(SOFTMAXES[name])
    failures = report.failures("softmax-free")
    assert {entry.module for entry in failures} == {"layers.0"}
    assert {entry.title for entry in failures} <= {"softmax", "exponential"}
    assert {entry.verdict for entry in failures} == {"multiplier"}
    assert report.failures("addition-only") == report.failures("binary") == []
    assert set(map(id, failures)) <= set(map(id, report.failures("binary", strict=True)))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, s, w: x * w[0].exp(),  # of a parameter: fixed before the run
        lambda x, s, w: x * torch.arange(16.0).neg().exp(),
        lambda x, s, w: x.argmax(-1, keepdim=True) * s,
        lambda x, s, w: x.relu() / x.relu().sum(-1, keepdim=True),
        lambda x, s, w: x.sigmoid(),
    ],
)
def test_operations_that_are_not_a_softmax(call: Call) -> None:
    assert audited(call).failures("softmax-free") == []


@pytest.mark.parametrize("activation", [F.gelu, F.silu, torch.tanh, torch.sigmoid, torch.erf])
def test_transcendentals_are_listed_and_fail_strict_only(activation: Any) -> None:
    report = audited(lambda x, s, w: activation(x))
    operation = row(report, "transcendental")
    assert operation.verdict == "multiplier"
    assert report.failures("binary") == []
    assert report.failures("binary", strict=True) == [operation]


def test_a_softmax_in_a_norm_is_not_overlooked() -> None:
    class HonestLayerNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(-1) / x.std(-1, keepdim=True)

    report = audit(Toy(nn.Sequential(HonestLayerNorm(), nn.Linear(16, 16))), [IDS])
    inside = [(entry.title, entry.op) for entry in report.within("blocks")]
    assert inside == [
        ("softmax", "aten._softmax"),
        ("normalisation", "HonestLayerNorm"),
        ("product", "aten.addmm"),
    ]


# --- divisions, factors, norms -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "verdict"),
    [
        (lambda x, s, w: x / 8, "adder"),
        (lambda x, s, w: x / 0.25, "adder"),
        (lambda x, s, w: x / 3, "scale"),
        (lambda x, s, w: x / w[0], "scale"),
        (lambda x, s, w: x / w[0].detach().sign(), "adder"),
        (lambda x, s, w: x / x.sum(-1, keepdim=True), "multiplier"),
        (lambda x, s, w: x.clone().div_(x.max()), "multiplier"),
        (lambda x, s, w: 1 / x, "multiplier"),
        (lambda x, s, w: x**-1, "multiplier"),
        (lambda x, s, w: x[:, :8].mean(1, keepdim=True), "adder"),
        (lambda x, s, w: x.mean(1, keepdim=True), "scale"),  # of twelve
    ],
)
def test_divisions(call: Call, verdict: str) -> None:
    report = audited(call)
    operation = row(report, "division")
    assert operation.verdict == verdict
    strictly = report.failures("addition-only", strict=True)
    assert (operation in strictly) == (verdict != "adder")
    assert report.failures("addition-only") == []


@pytest.mark.parametrize(
    ("call", "verdict"),
    [
        (lambda x, s, w: x * s, "adder"),
        (lambda x, s, w: x * (x > 0), "adder"),
        (lambda x, s, w: x * 0.5, "adder"),
        (lambda x, s, w: x * 0.9, "scale"),
        (lambda x, s, w: x * torch.full((1, 1), 0.9), "scale"),
        (lambda x, s, w: x * w[0], "scale"),
        (lambda x, s, w: x * x, "multiplier"),
        (lambda x, s, w: x**2, "multiplier"),
        (lambda x, s, w: s.clone().mul_(x), "adder"),
        (lambda x, s, w: torch.add(x, s, alpha=0.3), "adder"),
        (lambda x, s, w: torch.add(s, x, alpha=0.3), "scale"),
        (lambda x, s, w: torch.addcmul(x, x, x), "multiplier"),
        (lambda x, s, w: F.hardswish(x), "multiplier"),
    ],
)
def test_factors(call: Call, verdict: str) -> None:
    assert row(audited(call), "multiplication").verdict == verdict


@pytest.mark.parametrize(
    ("call", "ops"),
    [
        (lambda x, s, w: F.layer_norm(x, (16,)), {"aten.native_layer_norm"}),
        (lambda x, s, w: x * x.pow(2).mean(-1, keepdim=True).rsqrt(), {"aten.rsqrt"}),
        (lambda x, s, w: x - x.var(-1, keepdim=True).sqrt(), {"aten.var", "aten.sqrt"}),
        (lambda x, s, w: F.normalize(x, dim=-1), {"aten.linalg_vector_norm"}),
    ],
)
def test_norms_in_functional_calls(call: Call, ops: set[str]) -> None:
    report = audited(call)
    norms = [entry for entry in report.within("blocks") if entry.title == "normalisation"]
    assert {entry.op for entry in norms} == ops
    assert {entry.verdict for entry in norms} == {"multiplier"}


def test_batch_norm_with_fixed_statistics_is_a_scale() -> None:
    report = audit(Toy(nn.Sequential(nn.BatchNorm1d(12), nn.Linear(16, 16))), [IDS])
    operation = row(report, "normalisation")
    assert (operation.verdict, operation.note) == (
        "scale", "statistics fixed before the run: a scale and a shift",
    )  # fmt: skip
    of_data = audited(lambda x, s, w: F.batch_norm(x, None, None, training=True))
    assert row(of_data, "normalisation").verdict == "multiplier"


def test_a_norm_module_is_one_row() -> None:
    report = audit(Toy(nn.Sequential(nn.RMSNorm(16), nn.Linear(16, 16))), [IDS])
    operation = row(report, "normalisation")
    assert (operation.name, operation.op, operation.verdict) == (
        "layers.0.0",
        "RMSNorm",
        "multiplier",
    )


# --- what proves nothing -----------------------------------------------------------------------


def test_silent_neurons_keep_their_kind() -> None:
    silent = row(audited(lambda x, s, w: s, LIF(threshold=1e6)), "product")
    assert (silent.verdict, silent.operands[0].kind) == ("binary", "binary")
    assert silent.operands[0].density == 0


def test_zeros_of_unknown_origin_prove_nothing() -> None:
    report = audited(lambda x, s, w: (x - x) @ w)
    (result,) = report.failures("addition-only")
    assert (result.verdict, result.operands[0].kind) == ("silent", "silent")
    assert report.failures("binary") == [result]


def test_operations_that_the_audit_does_not_know_fail_everything() -> None:
    report = audited(lambda x, s, w: F.bilinear(s, s, w.expand(16, 16, 16)))
    (result,) = report.failures("softmax-free")
    assert (result.op, result.verdict) == ("aten._trilinear", "unknown")
    assert report.failures("binary") == report.failures("addition-only") == [result]


def test_a_number_that_leaves_the_tensors_is_unknown() -> None:
    report = audited(lambda x, s, w: x / x.max().item())
    assert row(report, "unknown").op == "aten._local_scalar_dense"


def test_operations_of_other_libraries_are_unknown() -> None:
    @torch.library.custom_op("spikeformers_tests::relu", mutates_args=())
    def relu(x: Tensor) -> Tensor:
        return x.exp()

    report = audited(lambda x, s, w: relu(x))
    assert row(report, "unknown").op == "spikeformers_tests.relu"


def test_values_with_a_unit_that_changes_between_calls_are_not_spikes() -> None:
    torch.manual_seed(1)

    def scaled(x: Tensor, s: Tensor, w: Tensor) -> Tensor:
        return (s * x.abs().mean()) @ w

    model = Toy(Block(scaled))
    once = audit(model, [IDS])
    assert row(once, "product").verdict == "binary"
    twice = audit(model, [IDS[:1], IDS[1:]])
    assert twice.tokens == once.tokens == 24
    assert row(twice, "product").verdict == "multiplier"


# --- the report --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"requirement": "binari"}, "Did you mean 'binary'"),
        ({"requirement": "binary", "scope": "block"}, "Did you mean 'blocks'"),
        ({"requirement": "softmax-free", "strict": True}, "strict sharpens"),
    ],
)
def test_wrong_requests(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        audited(lambda x, s, w: s).failures(**given)


def test_plain_values() -> None:
    plain = audited(lambda x, s, w: s).as_dict()
    assert (plain["model"], plain["tokens"]) == ("Toy", 24)
    product = next(entry for entry in plain["rows"] if entry["what"] == "product")
    assert (product["name"], product["layer"], product["verdict"]) == ("layers.0", 0, "binary")
    left, right = product["operands"]
    assert (left["kind"], left["source"], left["unit"]) == ("binary", "neuron", 1.0)
    assert 0 < left["density"] < 1
    assert (right["kind"], right["constant"], right["shape"]) == ("real", True, [16, 16])
    assert plain["falls_short"] == {
        "blocks": {"binary": [], "addition-only": [], "softmax-free": []},
        "model": {"binary": ["head"], "addition-only": ["head"], "softmax-free": []},
    }
