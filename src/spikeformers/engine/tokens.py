"""Text and tokens without Transformers, and the choice of the next token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import ConfigError, DataError, UsageError
from spikeformers.foreign import check_object, foreign, without_panic_messages
from spikeformers.values import LARGEST_SEED

TOKENIZER: dict[str, Any] = {"rules": str, "bos": int | None, "eos": int | None}
"""What an engine file says of its tokenizer."""


class EngineTokenizer:
    """What generation needs of a tokenizer, from the rules in an engine file."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        check_object(given, TOKENIZER, "the engine file's tokenizer")
        self.bos_token_id: int | None = given["bos"]
        self.eos_token_id: int | None = given["eos"]
        with foreign("the engine file's tokenizer cannot be read"), without_panic_messages():
            self._rules = Tokenizer.from_str(given["rules"])

    def __call__(self, text: str) -> dict[str, list[int]]:
        with foreign("the text cannot be encoded", DataError), without_panic_messages():
            return {"input_ids": self._rules.encode(text).ids}

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Text of ``ids``; the arguments are those of a Transformers tokenizer."""
        if clean_up_tokenization_spaces:
            raise ConfigError("the engine's tokenizer does not clean up spaces.")
        text: str = self._rules.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text


def make_sampler(
    temperature: float, top_k: int, top_p: float, seed: int
) -> Callable[[NDArray[np.float32]], int]:
    """Choose a token from logits ``[V]`` as ``generate`` of Transformers does, seed for seed.

    In its order: temperature, top-k, top-p, then a draw by PyTorch's generator, which is imported
    only here. At temperature 0 the likeliest token wins, the lowest id on ties.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed is {seed}; it must be between 0 and {LARGEST_SEED}.")
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(logits: NDArray[np.float32]) -> int:
        scores = torch.from_numpy(logits) / temperature
        if top_k > 0:
            least = torch.topk(scores, min(top_k, len(scores))).values[-1]
            scores = scores.masked_fill(scores < least, float("-inf"))
        if top_p < 1:
            ordered, places = torch.sort(scores)
            outside = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
            outside[-1] = False
            scores = scores.masked_fill(outside.scatter(0, places, outside), float("-inf"))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=generator))

    return draw
