"""Generate a text that continues a prompt, with a PyTorch model or the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from spikeformers.engine import Engine
from spikeformers.errors import UsageError
from spikeformers.foreign import encoding, foreign
from spikeformers.generation.text_stream import TextStream
from spikeformers.meters import Stopwatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.engine.tokens import EngineTokenizer


@dataclass(frozen=True)
class Generation:
    """A generated text and its statistics; ``seconds`` are measured and include the prompt."""

    prompt: str
    text: str
    tokens: int
    prompt_tokens: int
    seconds: float
    finish_reason: str
    """"end" (the end token), "stop" (a stop string), "length" (``max_new_tokens``), "context"."""
    seed: int
    context: int

    @property
    def tokens_per_second(self) -> float:
        """By wall-clock time, reading the prompt included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled; ``temperature`` 0 takes the most likely one."""

    temperature: float
    top_k: int
    top_p: float
    seed: int


Push = Callable[[int], bool]
"""Receives each new token; returns whether the text ends with it."""


class TextWriter(Protocol):
    """A causal model with its tokenizer, run by PyTorch or by the engine."""

    tokenizer: Any
    context: int
    """Length of the longest text in tokens, prompt included."""
    vocabulary: int
    """Rows of the embedding."""

    def write(self, ids: Sequence[int], room: int, sampling: Sampling, push: Push) -> None:
        """Pass up to ``room`` tokens after ``ids`` to ``push``, until either ends the text."""


def generate_text(
    model: PreTrainedModel | Engine,
    prompt: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    chat: bool = False,
    show: Callable[[str], None] = lambda piece: None,
) -> Generation:
    """Continue ``prompt``; ``show`` receives each piece of text as soon as it is certain.

    With ``chat`` the prompt is a user's message in the format of the tokenizer's chat template, and
    the text is the answer.

    ``model`` is a causal Transformers model, which needs its ``tokenizer``, or an `Engine`, which
    contains one. The same seed gives the same text. At temperature 0 (in fp32) both generate the
    same text; otherwise each samples with its own random generator. The text ends at the end token,
    before one of the ``stop`` strings, after ``max_new_tokens``, or at the end of the context.
    Raises UsageError for a model that does not generate text, without a tokenizer, without a chat
    template that ``chat`` needs, and for a prompt that fills the context; DataError for a prompt
    that cannot be encoded in UTF-8.
    """
    writer = EngineWriter(model) if isinstance(model, Engine) else TorchWriter(model, tokenizer)
    end = writer.tokenizer.eos_token_id
    text = _as_chat(writer.tokenizer, prompt) if chat else prompt
    ids = prompt_ids(writer.tokenizer, text, writer.vocabulary, special=not chat)
    room = _room(ids, writer.context, max_new_tokens)
    stream = TextStream(writer.tokenizer, ids, stop)
    new: list[int] = []

    def push(token: int) -> bool:
        new.append(token)
        show(stream.push(token))
        return stream.stopped or token == end

    watch = Stopwatch()
    writer.write(ids, room, Sampling(temperature, top_k, top_p, seed), push)
    show(stream.finish())
    seconds = watch.read().wall
    reason = why_ended(stream, new, end, max_new_tokens)
    return Generation(
        prompt, stream.text, len(new), len(ids), seconds, reason, seed, writer.context
    )


class TorchWriter:
    """A Transformers model, run by its own ``generate``."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
        if not model.can_generate():
            raise UsageError(
                f"{type(model).__name__} does not generate text, but fills masks. Give a causal "
                "model, such as a wd-spikingformer."
            )
        if tokenizer is None:
            raise UsageError(
                "a Transformers model needs its tokenizer to generate text: give tokenizer=."
            )
        self.model, self.tokenizer = model, tokenizer
        self.context = int(model.config.max_position_embeddings)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])

    def write(self, ids: Sequence[int], room: int, sampling: Sampling, push: Push) -> None:
        """Pass up to ``room`` tokens after ``ids`` to ``push``, until either ends the text."""
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        streamer, device = _Streamer(push), self.model.device
        sampled: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            sampled = {"do_sample": True, "temperature": sampling.temperature}
            sampled |= {"top_k": sampling.top_k, "top_p": sampling.top_p}
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        config = GenerationConfig(
            max_new_tokens=room,
            eos_token_id=end,
            pad_token_id=end if pad is None else pad,
            **sampled,
        )

        def stopped(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((len(input_ids),), streamer.ended, dtype=torch.bool)

        torch.manual_seed(sampling.seed)
        with torch.inference_mode():
            self.model.generate(
                torch.tensor([list(ids)], device=device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([stopped]),
                streamer=streamer,
            )


class _Streamer:
    """A streamer for Transformers' ``generate``, which passes it the prompt, then each token."""

    def __init__(self, push: Push) -> None:
        self._push, self._began = push, False
        self.ended = False

    def put(self, value: Any) -> None:
        """Receive the prompt first, then one token at a time."""
        if self._began:
            self.ended = self._push(int(value.reshape(-1)[0]))
        self._began = True

    def end(self) -> None:
        """Do nothing: no token is buffered."""


class EngineWriter:
    """The event-driven engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.tokenizer = engine, engine.tokenizer
        self.context, self.vocabulary = engine.context, engine.vocabulary

    def write(self, ids: Sequence[int], room: int, sampling: Sampling, push: Push) -> None:
        """Pass up to ``room`` tokens after ``ids`` to ``push``, until it ends the text."""
        for token in self.engine.generate(ids, room, **asdict(sampling)):
            if push(token):
                break


def _room(ids: Sequence[int], context: int, max_new_tokens: int) -> int:
    """The number of tokens that may follow the prompt; UsageError if it fills the context."""
    if len(ids) >= context:
        raise UsageError(
            f"the prompt is longer than the context: it has {len(ids)} tokens, and the model "
            f"takes {context}, of which at least one must remain for new text. Shorten the prompt."
        )
    return min(max_new_tokens, context - len(ids))


def why_ended(stream: TextStream, new: Sequence[int], end: int | None, max_new_tokens: int) -> str:
    """`Generation.finish_reason` of a text of the tokens ``new``."""
    if stream.stopped:
        return "stop"
    if new and new[-1] == end:
        return "end"
    return "length" if len(new) == max_new_tokens else "context"


def _as_chat(tokenizer: PreTrainedTokenizerBase | EngineTokenizer, message: str) -> str:
    """The text of a user's first message, up to where the answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "this tokenizer has no chat template, so the model only continues a text: leave out "
            "--chat. An engine file of an earlier version holds none; export it again."
        )
    with foreign("the chat template cannot be used"):
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
        )
    return text


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase | EngineTokenizer,
    prompt: str,
    rows: int,
    *,
    special: bool = True,
) -> list[int]:
    """Token ids of the prompt, for a model of ``rows`` tokens; an empty one begins a document.

    ``special``: whether the tokenizer adds its own tokens, which a chat template has written.
    Raises DataError for a text that cannot be encoded, UsageError for an empty one where no token
    begins a text, and for a token that the model lacks.
    """
    with encoding("the prompt"):
        ids: list[int] = tokenizer(prompt, add_special_tokens=special)["input_ids"]
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
            f"the prompt contains the token {max(ids)}, and the model has {rows} (from 0): it "
            "was added to the tokenizer but not to the model. Leave it out of the prompt."
        )
    return ids
