"""What every verb prints with: results on standard output, the rest on standard error."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

from spikeformers.reporting.terminal import make_table, print_table, print_tables

if TYPE_CHECKING:
    from spikeformers.data import Corpus, TokenStore

__all__ = [
    "is_main_process",
    "make_table",
    "print_json",
    "print_table",
    "print_tables",
    "say",
    "start",
    "tokenize",
]


def is_main_process() -> bool:
    """Whether this process speaks: it is alone, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def start(*, verbose: bool = True, transformers: bool = True) -> None:
    """Bars, warnings and log lines to standard error; libraries keep their own to themselves.

    ``transformers`` false: the verb does without it, and its import is saved.
    """
    import rich
    from rich.logging import RichHandler

    rich.reconfigure(stderr=True)
    logger = logging.getLogger("spikeformers")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    logger.handlers = [
        RichHandler(console=rich.get_console(), show_time=False, show_path=False, show_level=False)
    ]
    if transformers:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def say(message: str, style: str = "") -> None:
    """One line to standard error, as it is: a path may hold brackets. ``style`` is Rich's."""
    import rich

    console = rich.get_console()
    console.print(message, style=style or None, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """The result as JSON, alone on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Half a character, which a damaged text may hold, has no UTF-8; its escape is JSON, too.
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def tokenize(corpus: Corpus, tokenizer: Any) -> TokenStore:
    """The token store of a corpus; while it is made, how far it is."""
    from spikeformers.data import tokenize_corpus
    from spikeformers.progress import Progress

    with Progress() as progress:
        return tokenize_corpus(
            corpus, tokenizer, progress=progress.stage("reading the text", "bytes")
        )
