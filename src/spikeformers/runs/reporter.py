"""Callbacks of a run: its progress and its messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spikeformers.progress import Listener, Move, is_main_process

if TYPE_CHECKING:
    from spikeformers.data import Corpus, TokenStore

OnMessage = Callable[[str], None]
"""Receives one line of text about the run."""


@dataclass(frozen=True)
class Reporter:
    """Forwards progress and messages; only in the first of torchrun's processes."""

    progress: Listener | None = None
    on_message: OnMessage | None = None

    def __call__(
        self, stage: str, done: int, total: int | None, *, unit: str = "", shown: str = ""
    ) -> None:
        if self.progress is not None and is_main_process():
            self.progress(stage, done, total, unit=unit, shown=shown)

    def stage(self, name: str, unit: str = "") -> Move:
        """Begin a stage; returns the function that advances it."""
        self(name, 0, None, unit=unit)
        return lambda done, total: self(name, done, total, unit=unit)

    def say(self, message: str) -> None:
        """Pass on one line about the run."""
        if self.on_message is not None and is_main_process():
            self.on_message(message)

    def tokenize(self, corpus: Corpus, tokenizer: Any) -> TokenStore:
        """Tokenize a corpus as one stage; returns its token store."""
        from spikeformers.data import tokenize_corpus

        return tokenize_corpus(corpus, tokenizer, progress=self.stage("reading the text", "bytes"))
