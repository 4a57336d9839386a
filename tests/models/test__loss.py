"""A batch in parts: whoever trains, the parts' losses add up to the loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from spikeformers.models import (
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    SpikingViTConfig,
    SpikingViTForImageClassification,
)
from spikeformers.models._loss import share_of

Make = Callable[..., Any]
PENALTY: dict[str, Any] = {"firing_rate_weight": 0.5, "firing_rate_target": 0.0}
KINDS = ["wd", "we", "bispikclm", "classes", "classes at once", "numbers", "images"]


def penalised(make_model: Make, kind: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model in training, every layer of which pays where there is a firing-rate term."""
    torch.manual_seed(0)
    if kind == "bispikclm":
        config = BiSpikCLMConfig(
            vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32, steps=2, initializer_range=0.5, **PENALTY,
        )  # fmt: skip
        return BiSpikCLMForCausalLM(config).to(dtype).train()
    if kind == "images":
        config = SpikingViTConfig(
            image_size=8, num_channels=1, hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, sps_stages=2, sps_pools=1, steps=2, num_labels=3,
        )  # fmt: skip
        return SpikingViTForImageClassification(config).to(dtype).train()
    if kind in ("wd", "we"):
        return make_model(kind, dtype=dtype, **PENALTY).train()
    labels = {"num_labels": 1} if kind == "numbers" else {"num_labels": 3}
    return make_model("we-classifier", dtype=dtype, **PENALTY, **labels).train()


def whole_batch(kind: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Eight examples of eight tokens, or eight times one image (batch norm sees no difference)."""
    generator = torch.Generator().manual_seed(3)
    if kind == "images":
        image = torch.randn(1, 1, 8, 8, generator=generator, dtype=dtype)
        return {"pixel_values": image.expand(8, 1, 8, 8), "labels": torch.ones(8, dtype=torch.long)}
    ids = torch.randint(0, 23, (8, 8), generator=generator)
    labels = {
        "classes": torch.arange(8) % 3,
        "classes at once": torch.randint(0, 2, (8, 3), generator=generator).to(dtype),
        "numbers": torch.randn(8, generator=generator, dtype=dtype),
    }.get(kind, ids)
    return {"input_ids": ids, "labels": labels}


def gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_shares_by_hand() -> None:
    labels = torch.tensor([[5, -100, 7, 8], [-100, -100, -100, 1]])
    assert share_of(labels) is None
    assert share_of(None, num_items_in_batch=8) is None
    assert share_of(labels, num_items_in_batch=8) == 4 / 8
    assert share_of(labels, shifted=True, num_items_in_batch=torch.tensor(8)) == 3 / 8
    shift_labels = torch.full_like(labels, -100)
    given = {"shift_labels": shift_labels, "num_items_in_batch": 8}
    assert share_of(labels, shifted=True, **given) == 0
    assert share_of(torch.zeros(2), num_items_in_batch=8, other="ignored") == 2 / 8


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_count_by_their_targets(make_model: Make, kind: str) -> None:
    """Unequal parts, as of two devices: each loss is its own mean times its share of all targets.

    ``num_items_in_batch`` is that of all devices where tokens are averaged over them.
    """
    model, whole = penalised(make_model, kind), whole_batch(kind)
    if kind in ("wd", "we", "bispikclm"):
        whole["labels"] = whole["labels"].clone()
        whole["labels"][:5, 2:] = -100
    skipped = 1 if kind in ("wd", "bispikclm") else 0
    targets = whole["labels"][:, skipped:] if skipped else whole["labels"]
    items = targets.ne(-100).sum()
    total = expected = torch.tensor(0.0)
    for part in (slice(0, 5), slice(5, 7), slice(7, 8)):
        batch = {name: values[part] for name, values in whole.items()}
        out = model(**batch, num_items_in_batch=items)
        alone = model(**batch)
        share = targets[part].ne(-100).sum() / items
        if (term := getattr(alone, "rate_loss", None)) is not None:
            assert term > 0.1
            torch.testing.assert_close(out.rate_loss, term * share.double())
            torch.testing.assert_close(out.loss, out.lm_loss + out.rate_loss)
        total, expected = total + out.loss, expected + alone.loss * share.double()
    torch.testing.assert_close(
        gradient(model, total), gradient(model, expected), rtol=1e-6, atol=1e-7
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_part_without_targets_adds_nothing(make_model: Make) -> None:
    for kind in ("wd", "we", "classes"):
        model, batch = penalised(make_model, kind), whole_batch(kind)
        batch["labels"] = torch.full_like(batch["labels"], -100)
        assert model(**batch, num_items_in_batch=9).loss.item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_trainer_accumulates_to_the_loss_of_the_whole_batch(
    make_model: Make, kind: str, tmp_path: Path
) -> None:
    """8 x 1, 4 x 2 and 2 x 4 examples: one loss, one gradient."""
    batch = whole_batch(kind, torch.float32)
    examples = [{name: values[i] for name, values in batch.items()} for i in range(8)]
    seen = []
    for size in (8, 4, 2):
        arguments = TrainingArguments(
            str(tmp_path / str(size)),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            max_steps=1,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(
            penalised(make_model, kind, torch.float32), arguments, train_dataset=examples
        )
        trainer.train()
        seen.append([trainer.state.log_history[0][key] for key in ("loss", "grad_norm")])
    assert min(seen[0]) > 0
    assert seen[1] == pytest.approx(seen[0], rel=1e-3)
    assert seen[2] == pytest.approx(seen[0], rel=1e-3)
