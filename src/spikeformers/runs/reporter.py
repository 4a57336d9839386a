"""What a run says while it works: how far it is, and messages, each to a callback."""

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
    """Passes progress and messages on, of torchrun's processes from the first alone."""

    progress: Listener | None = None
    on_message: OnMessage | None = None

    def __call__(
        self, stage: str, done: int, total: int | None, *, unit: str = "", shown: str = ""
    ) -> None:
        if self.progress is not None and is_main_process():
            self.progress(stage, done, total, unit=unit, shown=shown)

    def stage(self, name: str, unit: str = "") -> Move:
        """Begin a stage; what is returned moves it on."""
        self(name, 0, None, unit=unit)
        return lambda done, total: self(name, done, total, unit=unit)

    def say(self, message: str) -> None:
        """One line about the run."""
        if self.on_message is not None and is_main_process():
            self.on_message(message)

    def tokenize(self, corpus: Corpus, tokenizer: Any) -> TokenStore:
        """The token store of a corpus; making it is a stage."""
        from spikeformers.data import tokenize_corpus

        return tokenize_corpus(corpus, tokenizer, progress=self.stage("reading the text", "bytes"))
