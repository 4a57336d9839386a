from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.evaluation import decoding_speed, decoding_speeds

Make = Callable[..., tuple[Any, Any]]


class Slow(nn.Module):
    """Takes ``seconds`` a token, more for the prompt, and notes what it is asked."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.config = SimpleNamespace(max_position_embeddings=32)
        self.device = torch.device("cpu")
        self.asked: list[tuple[int, Any]] = []

    def forward(self, input_ids: Tensor, use_cache: bool, past_key_values: Any = None) -> Any:
        assert use_cache
        self.asked.append((input_ids.shape[1], past_key_values))
        time.sleep(self.seconds if past_key_values else 10 * self.seconds)
        logits = torch.zeros(1, input_ids.shape[1], 5)
        return SimpleNamespace(logits=logits, past_key_values=(past_key_values or 0) + 1)


def test_only_decoding_is_timed() -> None:
    model = Slow(0.02)
    speed = decoding_speed(model, [1, 2, 3], new_tokens=4, repeats=3, warmup=1)  # type: ignore[arg-type]
    assert 20 < speed.tokens_per_second <= 50  # with the prompt it would be at most 14
    assert speed.slowest <= speed.tokens_per_second <= speed.fastest
    assert (speed.prompt_tokens, speed.new_tokens, speed.repeats) == (3, 4, 3)
    assert (speed.batch_size, speed.threads, speed.device) == (1, torch.get_num_threads(), "cpu")
    calls = [(3, None), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert model.asked == calls * 4  # one warm-up, three repeats


def test_models_take_turns() -> None:
    a, b = Slow(0.001), Slow(0.004)
    result = decoding_speeds({"a": a, "b": b}, [1], new_tokens=5, repeats=3)  # type: ignore[dict-item]
    assert list(result) == ["a", "b"]
    assert result["a"].tokens_per_second > result["b"].tokens_per_second


@pytest.mark.parametrize("twin", [None, "learned", "rotary"])
def test_real_models(setup: Make, twin: str | None) -> None:
    model, _ = setup("wd", twin)
    speed = decoding_speed(model.train(), [1, 2, 3], new_tokens=4, repeats=2)
    assert speed.tokens_per_second > 0
    assert model.training
    assert speed.as_dict()["new_tokens"] == 4


def test_decoding_is_greedy_generation(setup: Make) -> None:
    model, _ = setup()
    fed: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(int(kwargs["input_ids"][0, -1])), with_kwargs=True
    )
    decoding_speed(model, [5, 6], new_tokens=6, repeats=1, warmup=0)
    handle.remove()
    ids = torch.tensor([[5, 6]])
    expected = model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert fed[1:] == expected[0, 2:].tolist()


@pytest.mark.parametrize(
    ("prompt", "new_tokens", "message"), [([], 4, "prompt"), ([1], 0, "new_tokens"),
                                          ([1] * 30, 4, "do not fit the 32 positions of model")],
)  # fmt: skip
def test_bad_requests(prompt: list[int], new_tokens: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decoding_speed(Slow(0.0), prompt, new_tokens=new_tokens)  # type: ignore[arg-type]
