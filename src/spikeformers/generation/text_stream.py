"""Text from token ids, piece by piece, as early as possible.

A token may end inside a character (bytes) or change how the one before it is spelled, so a piece
is returned once the text of the last few tokens ends in a complete character. Text that could be
the beginning of a stop string is held back until it is clear that it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"  # decoded from bytes that are not a complete character yet
LONGEST = 4  # bytes of a character in UTF-8; after as many tokens the bytes are invalid


class TextStream:
    """``push(id)`` returns the text that is certain; ``stopped`` is True after a stop string."""

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int] = (), stop: Sequence[str] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = [text for text in stop if text]
        self.stopped = False
        self.text = ""
        self._context = list(prompt[-8:])  # the first token is decoded after these
        self._waiting: list[int] = []
        self._held = ""

    def push(self, token: int) -> str:
        """Add the next token; returns the text to show now, which may be empty."""
        if self.stopped:
            return ""
        self._waiting.append(token)
        before = self._decode(self._context)
        now = self._decode(self._context + self._waiting)
        piece = now[len(before) :]
        if piece.endswith(REPLACEMENT) and len(self._waiting) < LONGEST:
            return ""
        self._context, self._waiting = (self._context + self._waiting)[-8:], []
        return self._emit(piece, last=False)

    def finish(self) -> str:
        """Return the text held back so far, as no token follows."""
        if self.stopped:
            return ""
        before = self._decode(self._context)
        piece = self._decode(self._context + self._waiting)[len(before) :]
        self._waiting = []
        return self._emit(piece, last=True)

    def _emit(self, piece: str, *, last: bool) -> str:
        held = self._held + piece
        stops = [place for text in self.stop if (place := held.find(text)) >= 0]
        if stops:
            self.stopped, shown, self._held = True, held[: min(stops)], ""
        else:
            keep = 0 if last else _possible_start(held, self.stop)
            shown, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += shown
        return shown

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def _possible_start(text: str, stop: Sequence[str]) -> int:
    """Length of the longest suffix of ``text`` that begins a stop string."""
    longest = 0
    for stop_string in stop:
        for length in range(min(len(stop_string) - 1, len(text)), longest, -1):
            if text.endswith(stop_string[:length]):
                longest = length
                break
    return longest
