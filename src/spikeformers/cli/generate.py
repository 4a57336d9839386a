"""``spikeformers generate``: continue a prompt, printing text as it is generated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from spikeformers.cli._options import Json, Threads
from spikeformers.values import LARGEST_SEED


def generate(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model folder, engine file, or books.", metavar="MODEL", show_default=False
        ),
    ],
    prompt: Annotated[str, typer.Option(help="Text to continue; - reads standard input.")],
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of tokens to generate.")
    ] = 128,
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
            min=0, max=LARGEST_SEED, help="Random seed; the same seed gives the same text."
        ),
    ] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop string; repeatable.", show_default=False)
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Treat the prompt as a message and generate the answer."),
    ] = False,
    stream: Annotated[bool, typer.Option(help="Print the text while it is generated.")] = True,
    engine: Annotated[
        bool,
        typer.Option(
            "--engine", help="Run on the event-driven engine (an engine file always does)."
        ),
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Generate text that continues a prompt.

    Only the new text goes to standard output, as it is generated. It ends at the model's end token,
    at a stop string, after --max-new-tokens, or at the model's longest context. --engine runs the
    same model by additions for what fires (in fp32 from a model folder; `export engine` writes a
    file that opens at once). The same options and seed give the same text again; at temperature 0
    PyTorch and the engine write the same, otherwise each draws with a generator of its own. --chat
    needs a model whose tokenizer has a chat template. books is a model that comes with this
    package: it needs no network, and runs on the engine.

    JSON: prompt, text, tokens, prompt_tokens, seconds, tokens_per_second, finish_reason (end,
    stop, length, context), seed.
    """
    from spikeformers.cli._output import print_json, say, start
    from spikeformers.engine import is_engine_file
    from spikeformers.errors import UsageError
    from spikeformers.generation import generate_text
    from spikeformers.packaged import engine_or_path

    if top_p == 0:
        raise UsageError("--top-p is 0; it must be greater, up to 1, which draws from all tokens.")
    text = _standard_input() if prompt == "-" else prompt

    def show(piece: str) -> None:
        if stream and not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    model = engine_or_path(model)
    packed = is_engine_file(model)
    start(verbose=False, transformers=not packed)
    writer, tokenizer = _open(model, threads, engine or packed)
    generation = generate_text(
        writer, text, tokenizer=tokenizer, max_new_tokens=max_new_tokens, stop=stop or [],
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, chat=chat,
        show=show,
    )  # fmt: skip
    if as_json:
        print_json(generation.as_dict())
        return
    print("" if stream else generation.text)
    speed = f"{generation.tokens} tokens, {generation.tokens_per_second:,.0f} tokens/s (measured)"
    full = generation.finish_reason == "context"
    say(speed + (f"; the context of {generation.context} tokens is full" if full else ""), "dim")


def _standard_input() -> str:
    """Read all of standard input. DataError names the byte that is not UTF-8."""
    from spikeformers.errors import DataError

    if not hasattr(sys.stdin, "buffer"):  # a Python caller replaced it with a text stream
        return sys.stdin.read()
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not UTF-8 text: byte 0x{raw[error.start]:02x} at offset "
            f"{error.start}. Convert it to UTF-8."
        ) from error


def _open(model: Path, threads: int | None, engine: bool) -> tuple[Any, Any]:
    """Open the model or engine, and its tokenizer (None for an engine, which contains one)."""
    if engine:
        from spikeformers.export import open_engine

        return open_engine(model, threads=threads), None
    from spikeformers.models import load_model

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return load_model(model)
