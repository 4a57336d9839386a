"""``spikeformers chat``: a conversation with a model in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Threads
from spikeformers.values import LARGEST_SEED


def chat(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model folder, engine file, or books.", metavar="MODEL", show_default=False
        ),
    ],
    system: Annotated[
        str | None,
        typer.Option(
            help="System message; needs a tokenizer with a chat template.", show_default=False
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of tokens of an answer.")
    ] = 256,
    temperature: Annotated[
        float,
        typer.Option(min=0.0, help="Sampling temperature; 0 always takes the most likely token."),
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, help="Sample from the K most likely tokens; 0: from all.")
    ] = 50,
    top_p: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Sample from the most likely tokens up to this total probability.",
        ),
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST_SEED, help="Same messages and seed: same answers.", show_default=True
        ),
    ] = 0,
    threads: Threads = None,
    weights: Annotated[
        str, typer.Option(help="Number format for a model folder: fp32, int8 or int4.")
    ] = "fp32",
) -> None:
    """Talk with a causal spiking model, run by the engine.

    If the tokenizer has a chat template, it is used; if not, the model continues a text, of which
    each message is a new line. A line that ends with a backslash continues in the next one, and a
    line of three double quotes begins or ends a message of several lines. /reset begins anew,
    /stats shows what the answers took, /help lists all commands, /quit or Ctrl-D leaves. Ctrl-C
    stops the answer, and the program continues.

    Messages can also be piped in, one per line; answers go to standard output, all else to
    standard error.
    """
    from spikeformers.cli._conversation import Conversation
    from spikeformers.cli._output import start
    from spikeformers.engine import is_engine_file
    from spikeformers.errors import UsageError
    from spikeformers.export import open_engine
    from spikeformers.generation import Chat
    from spikeformers.packaged import engine_or_path

    if top_p == 0:
        raise UsageError("--top-p is 0; it must be greater, up to 1, which draws from all tokens.")
    model = engine_or_path(model)
    start(verbose=False, transformers=not is_engine_file(model))
    engine = open_engine(model, threads=threads, weights=weights)
    conversation = Chat(
        engine, system=system, max_new_tokens=max_new_tokens,
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
    )  # fmt: skip
    Conversation(conversation).run()
