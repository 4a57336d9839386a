"""torch.compile takes a language model in training, its firing-rate term too, as one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from spikeformers.models import DEAD_ZONES

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ni-lif": ("wd", {}),
    "dead zones": ("wd", DEAD_ZONES),
    "dead zones, softmax": ("wd", {**DEAD_ZONES, "attention": "softmax"}),
    "powers of two, no norm of sums": (
        "wd",
        {**DEAD_ZONES, "attention": "power-of-two", "sum_norm": False},
    ),
    "top-k": ("wd", {"wta": "top_k", "winners": 2}),
    "sparsemax": ("wd", {"wta": "sparsemax"}),
    "ssa": ("wd", {"attention": "ssa"}),
    "a2os2a": ("wd", {"attention": "a2os2a"}),
    "lif, two steps": ("wd", {"neuron": "lif", "steps": 2}),
    "token shift": ("wd", {"token_shift": True}),
    "masked": ("we", {}),
    "masked, dead zones": ("we", DEAD_ZONES),
    "sfsa": ("bispikclm", {}),
}
QUICK = "dead zones"
"""The kind that is traced in every run of the tests; tracing takes seconds."""


@pytest.fixture(autouse=True)
def forget_graphs() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "kind",
    [kind if kind == QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_a_model_in_training_is_one_graph_with_the_same_loss_and_gradients(
    kind: str, make_family: Callable[..., Any]
) -> None:
    name, changes = KINDS[kind]
    model = make_family(name, **changes, num_hidden_layers=1, dropout=0.0).train()
    ids = torch.randint(0, 23, (2, 8), generator=torch.Generator().manual_seed(0))
    results = []
    # "eager" runs the graph as it was traced: what is tested is that there is one, and its values.
    for run in (model, torch.compile(model, backend="eager", fullgraph=True)):
        model.zero_grad()
        out = run(input_ids=ids, labels=ids)
        out.loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((out.loss.detach(), gradients))
    (loss, gradients), (compiled_loss, compiled) = results
    torch.testing.assert_close(compiled_loss, loss)
    assert gradients.keys() == compiled.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(compiled[key], gradient, msg=key)


@pytest.mark.slow
def test_rows_that_may_attend_to_nothing_have_no_gradient_when_compiled(
    make_family: Callable[..., Any],
) -> None:
    """The mask of such rows is data: the graph holds it in any case."""
    model = make_family("wd", num_hidden_layers=1, dropout=0.0).train()
    ids = torch.randint(0, 23, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    labels = ids.masked_fill(mask == 0, -100)
    losses, gradients = [], []
    for run in (model, torch.compile(model, backend="eager", fullgraph=True)):
        model.zero_grad()
        out = run(input_ids=ids, attention_mask=mask, labels=labels)
        out.loss.backward()
        losses.append(out.loss.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])
