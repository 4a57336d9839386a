"""``spikeformers generate``: text from a prompt, shown as it is written."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from spikeformers.cli._options import Json, Model


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to go on from; - reads standard input.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, help="Draw from the K likeliest tokens; 0: from all.")
    ] = 50,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest that sum to this.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text, often.", show_default=False)
    ] = None,
    stream: Annotated[bool, typer.Option(help="Show the text while it is written.")] = True,
    as_json: Json = False,
) -> None:
    """Write text that goes on from a prompt.

    Only what is new goes to standard output, as it is written. A text ends at the model's end
    token, at a stop string, after --max-new-tokens, or where the model's positions end.

    JSON: prompt, text, tokens, prompt_tokens, seconds, tokens_per_second, finish_reason (end,
    stop, length, context), seed.
    """
    from spikeformers.cli._generation import write
    from spikeformers.cli._output import print_json, say, start
    from spikeformers.errors import UsageError
    from spikeformers.models import load_model

    start(verbose=False)
    if top_p == 0:
        raise UsageError("--top-p is 0; it must be greater, up to 1, which draws from all tokens.")
    loaded, tokenizer = load_model(model)
    text = sys.stdin.read() if prompt == "-" else prompt

    def show(piece: str) -> None:
        if stream and not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    written = write(
        loaded,
        tokenizer,
        text,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop or [],
        show=show,
    )
    if as_json:
        print_json(written.as_dict())
        return
    print("" if stream else written.text)
    speed = f"{written.tokens} tokens, {written.tokens_per_second:,.0f} tokens/s (measured)"
    why = {"context": f"; the context of {written.context} tokens is full"}
    say(f"[dim]{speed}{why.get(written.finish_reason, '')}[/]")
