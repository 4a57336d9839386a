"""A text as one stream of tokens, and the sliding windows that score it.

    stream   separator, t_1 ... t_N           so that t_1 has a context too
    window   C consecutive tokens; the model predicts the last C - 1 of them
    stride   windows advance by s; each scores the s tokens that no window before it scored

So every token is scored once, after at least C - s tokens of context (fewer only at the start of
the stream); s = 1 gives each its longest context, s = C - 1 is fastest. The last window starts
earlier, so that it is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.data import TokenSplit
from spikeformers.data.tokenizers import separator_id
from spikeformers.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Text:
    """Tokens, without the leading separator, and the size of their text."""

    tokens: NDArray[np.int64]
    bytes: int
    words: int


def text_of(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str] | TokenSplit,
    max_tokens: int | None = None,
) -> Text:
    """Tokens of the documents, a separator after each; bytes and words of the text alone.

    ``max_tokens`` truncates the text, and its bytes and words accordingly. A character whose bytes
    are cut apart is not counted.
    """
    if isinstance(documents, str):
        raise ConfigError("documents is one string; give a list of texts, or a token split.")
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"max_tokens must be at least 1, not {max_tokens}.")
    end = separator_id(tokenizer)  # type: ignore[arg-type]
    if isinstance(documents, TokenSplit):
        text = _of_split(tokenizer, documents, max_tokens, end)
    else:
        text = _of_documents(tokenizer, documents, max_tokens, end)
    if text.bytes == 0:
        raise DataError("the text to evaluate is empty: give documents with words in them.")
    return text


def _of_split(tokenizer: Any, split: TokenSplit, limit: int | None, end: int) -> Text:
    if limit is None or limit >= split.num_tokens:
        tokens = np.asarray(split.tokens, dtype=np.int64)
        return Text(tokens, split.num_bytes, split.num_words)
    tokens = np.asarray(split.tokens[:limit], dtype=np.int64)
    size = words = 0
    for piece in np.split(tokens, np.flatnonzero(tokens == end) + 1):
        ids = piece[piece != end].tolist()
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip("\ufffd")
        size += len(text.encode("utf-8"))
        words += len(text.split())
    return Text(tokens, size, words)


def _of_documents(tokenizer: Any, documents: Iterable[str], limit: int | None, end: int) -> Text:
    from tokenizers import Tokenizer

    from spikeformers.foreign import encoding

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True  # special tokens spelled in the text are text
    pieces: list[NDArray[np.int64]] = []
    total = size = words = 0
    for text in documents:
        with encoding():
            encoded = backend.encode(text, add_special_tokens=False)
        ids = [*encoded.ids, end]
        if limit is not None and total + len(ids) > limit:
            room = limit - total
            ids = ids[:room]
            if room < len(encoded.ids):
                offsets = encoded.offsets
                text = text[: min(offsets[room - 1][1], offsets[room][0])] if room else ""
        pieces.append(np.array(ids, dtype=np.int64))
        total += len(ids)
        size += len(text.encode("utf-8"))
        words += len(text.split())
        if limit is not None and total >= limit:
            break
    return Text(np.concatenate(pieces) if pieces else np.empty(0, np.int64), size, words)


@dataclass(frozen=True)
class Window:
    """Stream positions ``start ... start + length - 1``; the last ``scored`` are scored."""

    start: int
    length: int
    scored: int


def windows_of(stream: int, context: int, stride: int) -> Iterator[Window]:
    """Windows over a stream of ``stream`` tokens; all except the first are scored."""
    if context < 2:
        raise ConfigError(f"context must be at least 2 tokens, not {context}.")
    if not 1 <= stride < context:
        raise ConfigError(
            f"stride must lie between 1 and context - 1 = {context - 1}, not {stride}: a window of "
            f"{context} tokens predicts {context - 1}."
        )
    length = min(context, stream)
    yield Window(0, length, length - 1)
    done = length
    while done < stream:
        scored = min(stride, stream - done)
        done += scored
        yield Window(done - length, length, scored)
