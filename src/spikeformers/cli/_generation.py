"""Sampling text from a causal model, token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spikeformers.cli._text_stream import TextStream
from spikeformers.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.engine import Engine
    from spikeformers.engine.tokens import EngineTokenizer


@dataclass(frozen=True)
class Written:
    """A text and how it came about; ``seconds`` are measured and include the prompt."""

    prompt: str
    text: str
    tokens: int
    prompt_tokens: int
    seconds: float
    finish_reason: str
    seed: int
    context: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_second": self.tokens_per_second}


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    show: Callable[[str], None] = lambda piece: None,
) -> Written:
    """Continue ``prompt``; ``show`` gets each piece of text as it becomes certain.

    Raises ``UsageError`` for a masked model and for a prompt that fills the model's context.
    """
    import torch
    from transformers import GenerationConfig, StoppingCriteriaList

    if not model.can_generate():
        raise UsageError(
            f"{type(model).__name__} does not write text: it fills masks. Give a causal model, "
            "such as a wd-spikingformer."
        )
    ids = _prompt_ids(tokenizer, prompt, model.get_input_embeddings().weight.shape[0])
    context = int(model.config.max_position_embeddings)
    room = _room(ids, context, max_new_tokens)
    stream = TextStream(tokenizer, ids, stop)
    new: list[int] = []

    class Streamer:
        """What `generate` calls with the prompt, then with each token."""

        def __init__(self) -> None:
            self.began = False

        def put(self, value: torch.Tensor) -> None:
            if self.began:
                new.append(int(value.reshape(-1)[0]))
                show(stream.push(new[-1]))
            self.began = True

        def end(self) -> None:
            show(stream.finish())

    def stopped(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), stream.stopped, dtype=torch.bool)

    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(seed)
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
            generation_config=GenerationConfig(
                max_new_tokens=room,
                eos_token_id=end,
                pad_token_id=end if pad is None else pad,
                **sampling,
            ),
            stopping_criteria=StoppingCriteriaList([stopped]),
            streamer=Streamer(),
        )
    seconds = time.perf_counter() - began
    reason = _why_ended(stream, new, end, max_new_tokens)
    return Written(prompt, stream.text, len(new), len(ids), seconds, reason, seed, context)


def write_by_engine(
    engine: Engine,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    show: Callable[[str], None] = lambda piece: None,
) -> Written:
    """As `write`, by the event-driven engine: the same text for the same options and seed."""
    tokenizer, context = engine.tokenizer, engine.context
    ids = _prompt_ids(tokenizer, prompt, engine.vocabulary)
    room = _room(ids, context, max_new_tokens)
    stream = TextStream(tokenizer, ids, stop)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    new: list[int] = []
    began = time.perf_counter()
    for token in engine.generate(ids, room, seed=seed, **sampling):  # type: ignore[arg-type]
        new.append(token)
        show(stream.push(token))
        if stream.stopped or token == tokenizer.eos_token_id:
            break
    show(stream.finish())
    seconds = time.perf_counter() - began
    reason = _why_ended(stream, new, tokenizer.eos_token_id, max_new_tokens)
    return Written(prompt, stream.text, len(new), len(ids), seconds, reason, seed, context)


def _room(ids: Sequence[int], context: int, max_new_tokens: int) -> int:
    """Tokens that may follow the prompt; UsageError where it fills the context."""
    if len(ids) >= context:
        raise UsageError(
            f"the prompt is longer than the context: it has {len(ids)} tokens, and the model "
            f"takes {context}, of which one must be left to write. Shorten the prompt."
        )
    return min(max_new_tokens, context - len(ids))


def _why_ended(stream: TextStream, new: Sequence[int], end: int | None, max_new_tokens: int) -> str:
    if stream.stopped:
        return "stop"
    if new and new[-1] == end:
        return "end"
    return "length" if len(new) == max_new_tokens else "context"


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase | EngineTokenizer, prompt: str, rows: int
) -> list[int]:
    """Token ids of the prompt, for a model of ``rows`` tokens; an empty one begins a document."""
    from spikeformers.data.tokenizers import encoding

    with encoding("the prompt"):
        ids: list[int] = tokenizer(prompt)["input_ids"]
    if not ids:
        begins = tokenizer.bos_token_id
        begins = tokenizer.eos_token_id if begins is None else begins
        if begins is None:
            raise UsageError(
                "the prompt is empty, and this tokenizer has no token that begins a text."
            )
        ids = [int(begins)]
    if max(ids) >= rows:
        raise UsageError(
            f"the prompt holds the token {max(ids)}, and the model knows {rows} (from 0): it was "
            "added to the tokenizer and not to the model. Leave it out of the prompt."
        )
    return ids
