"""WE-Spikingformer: padding, masked tokens, classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import pipeline

from spikeformers.models import WESpikingformerForSequenceClassification

Make = Callable[..., Any]
Choices = dict[str, Any]
F64 = torch.float64


def ids(seed: int, batch: int, tokens: int, vocab: int = 23) -> Tensor:
    return torch.randint(0, vocab, (batch, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_unpadded(
    make_model: Make, attention: Choices, neuron: Choices, side: str
) -> None:
    model = make_model("we", dtype=F64, **attention, **neuron)
    batch, mask = ids(1, 3, 8), torch.ones(3, 8, dtype=torch.long)
    lengths = (3, 8, 5)
    for i, n in enumerate(lengths):
        mask[i, n:] = 0
    if side == "left":
        mask = mask.flip(1)
    logits = model(batch, attention_mask=mask).logits
    for i in range(3):
        keep = mask[i].bool()
        alone = model(batch[i][keep][None]).logits[0]
        assert alone.std() > 0.1
        torch.testing.assert_close(logits[i][keep], alone, rtol=0, atol=1e-9)
    assert torch.isfinite(model(batch, attention_mask=torch.zeros_like(mask)).logits).all()


@torch.no_grad()
def test_sees_both_sides_and_no_neighbours(make_model: Make, attention: Choices) -> None:
    model = make_model("we", dtype=F64, **attention)
    tokens = ids(2, 2, 9)
    before = model(tokens).logits
    other = tokens.clone()
    other[0, 8] = (other[0, 8] + 5) % 23
    after = model(other).logits
    assert (after[0, :8] - before[0, :8]).abs().max() > 1e-3
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-9)


@torch.no_grad()
def test_loss_counts_masked_tokens_only(make_model: Make) -> None:
    model = make_model("we")
    tokens = ids(3, 2, 6)
    labels = torch.full_like(tokens, -100)
    labels[0, 2], labels[1, 5] = 4, 7
    out = model(tokens, labels=labels)
    picked = torch.stack([out.logits[0, 2], out.logits[1, 5]])
    expected = F.cross_entropy(picked, torch.tensor([4, 7]))
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_fill_mask_pipeline(make_model: Make, byte_tokenizer: Any) -> None:
    model = make_model("we", vocab_size=len(byte_tokenizer))
    fill = pipeline("fill-mask", model=model, tokenizer=byte_tokenizer)
    text = f"ab{byte_tokenizer.mask_token}d"
    filled = fill(text, top_k=3)
    tokens = byte_tokenizer(text, return_tensors="pt").input_ids
    assert tokens.shape == (1, 4)
    assert tokens[0, 2] == byte_tokenizer.mask_token_id
    with torch.no_grad():
        p = model(tokens).logits[0, 2].softmax(-1)
    best = p.topk(3)
    assert [f["token"] for f in filled] == best.indices.tolist()
    assert [f["score"] for f in filled] == pytest.approx(best.values.tolist(), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_classifier_pools_what_is_not_padding(make_model: Make, pooling: str) -> None:
    model = make_model("we-classifier", dtype=F64, pooling=pooling, num_labels=3)
    tokens = ids(4, 2, 7)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    logits = model(tokens, attention_mask=mask).logits
    hidden = model.model(tokens[1:, :4]).last_hidden_state[0]
    pooled = hidden.mean(0) if pooling == "mean" else hidden[0]
    torch.testing.assert_close(logits[1], model.classifier(pooled), rtol=0, atol=1e-9)
    torch.testing.assert_close(logits[:1], model(tokens[:1]).logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("labels", [2, 1])
def test_classifier_overfits_eight_examples(make_config: Make, labels: int) -> None:
    """Two classes, or (one label) eight numbers to regress."""
    torch.manual_seed(0)
    model = WESpikingformerForSequenceClassification(make_config("we", num_labels=labels))
    tokens = ids(5, 8, 10)
    target = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    if labels == 1:
        target = torch.linspace(-1, 1, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model.train()
    for _ in range(80):
        loss = model(tokens, labels=target).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = model(tokens).logits
    if labels == 1:
        assert (logits[:, 0] - target).abs().max() < 0.3
    else:
        assert torch.equal(logits.argmax(-1), target)
        assert F.cross_entropy(logits, target) < 0.1
