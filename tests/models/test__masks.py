"""What a query may see: masks of padding, and masks that say it of each query and key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import StaticCache
from transformers.masking_utils import create_causal_mask

from spikeformers.errors import ConfigError
from spikeformers.models._masks import Sight, fitted, visible

Make = Callable[..., Any]
CPU = torch.device("cpu")
PADDING = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
CHOICES: dict[str, dict[str, Any]] = {
    "hard": {},
    "softmax": {"attention": "softmax"},
    "power-of-two": {"attention": "power-of-two"},
    "ssa": {"attention": "ssa", "position": "learned"},
    "shift": {"token_shift": True},
    "shift, a2os2a": {"attention": "a2os2a", "position": "learned", "token_shift": True},
}


def by_pairs(padding: torch.Tensor, past: int, columns: int) -> torch.Tensor:
    """The mask [B, 1, T, J] that says what ``padding`` says, and hides columns beyond."""
    keys = padding.shape[1]
    pairs = torch.ones(keys, keys, dtype=torch.bool).tril() & padding[:, None, None].bool()
    return torch.nn.functional.pad(pairs[:, :, past:], (0, columns - keys))


def test_pairs_say_what_padding_says() -> None:
    for past in (0, 1, 3):
        new = 5 - past
        rows = Sight(PADDING, past, new, True, CPU)
        pairs = Sight(by_pairs(PADDING, past, 9), past, new, True, CPU)
        assert torch.equal(pairs.allowed(), rows.allowed())
        assert torch.equal(pairs.present(), rows.present())
        assert torch.equal(pairs.positions(), rows.positions())
        real = rows.present()
        assert torch.equal(pairs.before() & real, rows.before() & real)
    assert rows.before().tolist() == [[1, 1], [1, 1]]
    assert Sight(PADDING, 0, 5, True, CPU).before().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert Sight(PADDING, 2, 3, True, CPU).positions().tolist() == [[0, 1, 2], [2, 3, 4]]
    assert Sight(None, 2, 3, True, CPU).positions().tolist() == [[2, 3, 4]]
    assert Sight(None, 2, 3, True, CPU).present() is None


@torch.no_grad()
@pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.float32])
@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_a_model_reads_both(make_model: Make, choices: dict[str, Any], kind: Any) -> None:
    """Whole, and in two parts with the columns that a static cache brings."""
    model = make_model("wd", **choices)
    text = torch.randint(0, 23, (2, 5), generator=torch.Generator().manual_seed(2))

    def mask(past: int, columns: int) -> torch.Tensor:
        pairs = by_pairs(PADDING, past, columns)
        if not kind.is_floating_point:
            return pairs.to(kind)
        return torch.zeros(pairs.shape).masked_fill(~pairs, float("-inf"))

    real = PADDING.bool()
    expected = model(text, attention_mask=PADDING).logits[real]
    assert torch.equal(model(text, attention_mask=mask(0, 5)).logits[real], expected)
    cache = StaticCache(config=model.config, max_cache_len=9)
    head = model(text[:, :3], attention_mask=mask(0, 9)[:, :, :3], past_key_values=cache).logits
    tail = model(text[:, 3:], attention_mask=mask(3, 9), past_key_values=cache).logits
    got = torch.cat((head, tail), 1)[real]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_two_texts_in_one_row_are_as_each_alone(make_model: Make, choices: dict[str, Any]) -> None:
    """A mask that packs them: positions start anew, and a shift does not cross from one over."""
    model = make_model("wd", **choices)
    text = torch.randint(0, 23, (1, 7), generator=torch.Generator().manual_seed(2))
    pairs = torch.block_diag(torch.ones(3, 3).tril(), torch.ones(4, 4).tril())[None, None].bool()
    packed = model(text, attention_mask=pairs).logits
    alone = torch.cat((model(text[:, :3]).logits, model(text[:, 3:]).logits), 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_encoder_reads_pairs_as_well(make_model: Make) -> None:
    text = torch.randint(0, 23, (2, 5), generator=torch.Generator().manual_seed(2))
    pairs = PADDING[:, None, None].bool() & PADDING[:, None, :, None].bool()
    real = PADDING.bool()
    masked = make_model("we")
    expected = masked(text, attention_mask=PADDING).logits[real]
    assert torch.equal(masked(text, attention_mask=pairs).logits[real], expected)
    for pooling in ("first", "mean"):
        classifier = make_model("we-classifier", pooling=pooling)
        expected = classifier(text[1:], attention_mask=PADDING[1:]).logits
        assert torch.equal(classifier(text[1:], attention_mask=pairs[1:]).logits, expected)
    expected = classifier(text, attention_mask=PADDING).logits
    assert torch.equal(classifier(text, attention_mask=pairs).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(1, 3), "3 columns, and there are 5 positions"),
        (torch.ones(1, 2, 2, 5).bool(), r"\[B, 1, 2, 5\], one for all heads, not \[1, 2, 2, 5\]"),
        (torch.ones(1, 1, 2, 4).bool(), r"not \[1, 1, 2, 4\]"),
        (torch.ones(1, 1, 2, 5), "0 shows a key and -inf hides it"),
        (torch.ones(1, 2, 5), r"not \[1, 2, 5\]"),
        ({"full_attention": None}, "not dict"),
    ],
)
def test_a_mask_of_another_shape_is_named(make_model: Make, mask: Any, words: str) -> None:
    model = make_model("wd")
    cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    with pytest.raises(ConfigError, match=words):
        model(torch.tensor([[4, 5]]), attention_mask=mask, past_key_values=cache)


@torch.no_grad()
def test_a_state_takes_no_mask_of_pairs(make_model: Make) -> None:
    model = make_model("wd", attention="a2os2a", attention_order="state", position="learned")
    text = torch.tensor([[1, 2, 3]])
    with pytest.raises(ConfigError, match=r"give a mask \[B, J\]"):
        model(text, attention_mask=torch.ones(1, 1, 3, 3).tril().bool())
    longer = torch.tensor([[1, 1, 1, 0, 0]])  # as beside a cache of five positions
    assert torch.equal(model(text, attention_mask=longer).logits, model(text).logits)


def test_masks_of_transformers_are_cut_to_the_keys_there_are(make_model: Make) -> None:
    config = make_model("wd").config
    cache = StaticCache(config=config, max_cache_len=9)
    made = create_causal_mask(config, torch.zeros(2, 5, 1), PADDING, cache)
    assert made.shape == (2, 1, 5, 9)
    expected = by_pairs(PADDING, 0, 5)
    assert torch.equal(visible(made, 5, 5), expected)
    cut = fitted({"full_attention": made, "sliding_attention": None}, 5)
    assert torch.equal(cut["full_attention"], made[..., :5])
    assert cut["sliding_attention"] is None
    with pytest.raises(ConfigError, match="attn_implementation='sdpa'"):
        visible(PADDING, 5, 5)
