"""WD-Spikingformer: causality, the cache, generation, and what it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, pipeline

from spikeformers.errors import ConfigError
from spikeformers.models import build_model

Make = Callable[..., Any]
Choices = dict[str, Any]
F64 = torch.float64


def ids(seed: int, batch: int, tokens: int, vocab: int = 23) -> Tensor:
    return torch.randint(0, vocab, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def left_pad(rows: list[Tensor], to: int) -> tuple[Tensor, Tensor]:
    """Batch of rows padded with arbitrary tokens on the left, and its mask."""
    batch, mask = ids(99, len(rows), to), torch.zeros(len(rows), to, dtype=torch.long)
    for i, row in enumerate(rows):
        batch[i, to - len(row) :] = row
        mask[i, to - len(row) :] = 1
    return batch, mask


# --- every attention with every neuron -----------------------------------------------------------


@torch.no_grad()
def test_cached_logits_equal_the_whole_forward(
    make_model: Make, attention: Choices, neuron: Choices
) -> None:
    model = make_model("wd", dtype=F64, **attention, **neuron)
    tokens = ids(1, 2, 12)
    whole = model(tokens, use_cache=False)
    assert whole.past_key_values is None
    assert whole.logits.std() > 0.1
    cache, parts = DynamicCache(), []
    for start, stop in [(0, 5), (5, 6), (6, 7), (7, 10), (10, 12)]:  # prompt, single, chunks
        out = model(tokens[:, start:stop], past_key_values=cache, use_cache=True)
        parts.append(out.logits)
        assert cache.get_seq_length() == stop
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=0, atol=1e-9)


@torch.no_grad()
def test_left_padded_batch_equals_unpadded(
    make_model: Make, attention: Choices, neuron: Choices
) -> None:
    model = make_model("wd", dtype=F64, **attention, **neuron)
    rows = [ids(2, 1, n)[0] for n in (3, 8, 5)]
    batch, mask = left_pad(rows, 8)
    out = model(batch, attention_mask=mask, use_cache=True)
    follow, more = ids(3, 3, 1), torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], 1)
    cached = model(follow, attention_mask=more, past_key_values=out.past_key_values, use_cache=True)
    for i, row in enumerate(rows):
        alone = model(torch.cat([row, follow[i]])[None]).logits[0]
        torch.testing.assert_close(out.logits[i, -len(row) :], alone[:-1], rtol=0, atol=1e-9)
        torch.testing.assert_close(cached.logits[i, 0], alone[-1], rtol=0, atol=1e-9)


@torch.no_grad()
def test_future_and_neighbours_never_matter(
    make_model: Make, attention: Choices, neuron: Choices
) -> None:
    model = make_model("wd", dtype=F64, **attention, **neuron)
    tokens = ids(4, 2, 10)
    before = model(tokens).logits
    other = tokens.clone()
    other[0, 6:] = (other[0, 6:] + 1 + ids(5, 1, 4)[0] % 21) % 23  # each one another token
    other[1] = ids(6, 1, 10)[0]
    after = model(other).logits
    torch.testing.assert_close(after[0, :6], before[0, :6], rtol=0, atol=1e-9)
    assert (after[0, 6:] - before[0, 6:]).abs().amax(-1).min() > 1e-3
    alone = model(tokens[:1]).logits
    torch.testing.assert_close(alone, before[:1], rtol=0, atol=1e-9)


# --- generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2])
def test_greedy_generation_with_and_without_cache(make_model: Make, steps: int) -> None:
    model = make_model("wd", dtype=F64, steps=steps)
    batch, mask = left_pad([ids(7, 1, 6)[0], ids(8, 1, 3)[0]], 6)
    settings = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    cached = model.generate(batch, use_cache=True, **settings)
    whole = model.generate(batch, use_cache=False, **settings)
    assert torch.equal(cached, whole)
    row = batch[1, 3:]  # the same by hand, without padding
    with torch.no_grad():
        for _ in range(12):
            row = torch.cat([row, model(row[None]).logits[0, -1].argmax(-1, keepdim=True)])
    assert torch.equal(cached[1, 3:], row)
    assert len(row[3:].unique()) > 1


def test_generation_in_training_mode_is_the_same(make_model: Make) -> None:
    """Callers that sample between training steps forget eval(); without dropout nothing differs."""
    model = make_model("wd", dtype=F64)
    tokens = ids(7, 2, 6)
    expected = model.generate(tokens, max_new_tokens=8, do_sample=False)
    model.train()
    assert torch.equal(model.generate(tokens, max_new_tokens=8, do_sample=False), expected)


@pytest.mark.parametrize("steps", [1, 2])
def test_beam_search_finds_the_best_of_all_continuations(make_model: Make, steps: int) -> None:
    """With as many beams as sequences of two tokens, beam search is exhaustive."""
    vocab = 5
    model = make_model("wd", dtype=F64, vocab_size=vocab, steps=steps)
    prompt = ids(9, 1, 4, vocab)
    generated = model.generate(
        prompt, num_beams=vocab**2, max_new_tokens=3, do_sample=False, use_cache=True
    )
    pairs = torch.cartesian_prod(*[torch.arange(vocab)] * 3)
    with torch.no_grad():
        logits = model(torch.cat([prompt.expand(len(pairs), -1), pairs], 1)).logits
    score = sum(
        logits[:, 3 + i].log_softmax(-1).gather(-1, pairs[:, i : i + 1])[:, 0] for i in range(3)
    )
    assert torch.equal(generated[0, 4:], pairs[score.argmax()])


def test_text_generation_pipeline(make_model: Make, byte_tokenizer: Any) -> None:
    model = make_model("wd", dtype=F64, vocab_size=len(byte_tokenizer))
    write = pipeline("text-generation", model=model, tokenizer=byte_tokenizer)
    prompts = ["once upon", "ab"]
    texts = write(prompts, max_new_tokens=6, do_sample=False, batch_size=2)
    for prompt, text in zip(prompts, texts, strict=True):
        tokens = byte_tokenizer(prompt, return_tensors="pt").input_ids
        assert tokens.tolist()[0] == byte_tokenizer.encode(prompt)
        assert tokens.shape[1] == len(prompt.encode())
        expected = model.generate(tokens, max_new_tokens=6, do_sample=False)
        text = text[0]["generated_text"]
        assert text.startswith(prompt)
        assert text == byte_tokenizer.decode(expected[0], skip_special_tokens=True)


def test_too_long_an_input_is_refused(make_model: Make) -> None:
    model = make_model("wd", position="learned")
    with pytest.raises(ConfigError, match="25 tokens do not fit the 24 positions"):
        model(ids(0, 1, 25))
    cache = model(ids(0, 1, 24)).past_key_values
    with pytest.raises(ConfigError, match="25 tokens do not fit the 24 positions"):
        model(ids(0, 1, 1), past_key_values=cache)
    with torch.no_grad():  # a relative bias has no end
        logits = make_model("wd", position="relative")(ids(0, 1, 40)).logits
    assert torch.isfinite(logits).all()


# --- loss ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_loss_is_next_token_cross_entropy(make_model: Make) -> None:
    model = make_model("wd")
    tokens = ids(10, 2, 7)
    labels = tokens.clone()
    labels[0, 5:] = -100
    out = model(tokens, labels=labels)
    assert out.rate_loss is None
    nats = F.cross_entropy(
        out.logits[:, :-1].reshape(-1, 23), tokens[:, 1:].reshape(-1), reduction="none"
    )
    keep = (labels[:, 1:] != -100).reshape(-1)
    assert out.loss.item() == pytest.approx(nats[keep].mean().item(), rel=1e-5)
    assert torch.equal(out.lm_loss, out.loss)
    assert model(tokens).loss is None


@torch.no_grad()
def test_logits_to_keep_and_inputs_embeds(make_model: Make) -> None:
    model = make_model("wd", dtype=F64)
    tokens = ids(11, 2, 7)
    logits = model(tokens).logits
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, logits[:, -2:])
    embeds = model.get_input_embeddings()(tokens)
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, logits)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(tokens, inputs_embeds=embeds)


# --- learning ------------------------------------------------------------------------------------


def train(
    model: Any, batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, rate: float
) -> float:
    """AdamW with warm-up and linear decay; returns the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / 20) * (1 - i / steps)
    )
    model.train()
    for i in range(steps):
        tokens, labels = batch(i)
        loss = model(tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return loss.item()


def test_overfits_a_short_sequence(make_config: Make) -> None:
    torch.manual_seed(0)
    model = build_model(make_config("wd", hidden_size=32, intermediate_size=64))
    tokens = ids(12, 1, 20)
    tokens[0, 10:] = tokens[0, :10]
    with torch.no_grad():
        start = model(tokens, labels=tokens).loss.item()
    assert 2.8 < start < 3.6  # about ln 23
    assert train(model, lambda _: (tokens, tokens), 100, 1e-2) < 0.05
    prompt = tokens[:, :3]
    assert torch.equal(model.generate(prompt, max_new_tokens=17, do_sample=False), tokens)


def test_learns_to_recall_by_content(make_config: Make) -> None:
    """One member of each class in random order, then each class asked for in random order.

    The answer stands somewhere before the question, so only attention finds it: without it, one
    guess in four is right.
    """
    classes, members = 4, 4
    generator = torch.Generator().manual_seed(0)

    def batch(rows: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, members, (rows, classes), generator=generator)
        chosen += torch.arange(classes) * members
        order, targets = torch.rand(2, rows, classes, generator=generator).argsort(-1)
        answers = torch.stack([classes * members + targets, chosen.gather(1, targets)], -1).flatten(
            1
        )
        tokens = torch.cat([chosen.gather(1, order), answers], 1)
        labels = tokens.clone()
        labels[:, :classes] = -100
        labels[:, classes::2] = -100
        return tokens, labels

    torch.manual_seed(0)
    model = build_model(
        make_config(
            "wd",
            vocab_size=classes * (members + 1),
            hidden_size=32,
            intermediate_size=64,
            integer_gradient="sigmoid",
            attention_scale=1.0,
            learn_attention_scale=True,
            output_norm=False,
            position="learned",
        )
    )
    train(model, lambda _: batch(32), 250, 1e-2)
    tokens, labels = batch(256)
    with torch.no_grad():
        guess = model(tokens).logits[:, :-1].argmax(-1)
    targets = labels[:, 1:] != -100
    assert (guess == tokens[:, 1:])[targets].float().mean().item() > 0.95
