"""``spikeformers serve``: a model behind OpenAI's HTTP interface."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeformers.cli._options import Threads

MODEL = typer.Argument(
    help="Model folder, engine file, or books.", metavar="MODEL", show_default=False
)


def serve(
    model: Annotated[str, MODEL],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    threads: Threads = None,
    slots: Annotated[int, typer.Option(min=1, help="Texts that are written at once.")] = 8,
    context: Annotated[
        int | None,
        typer.Option(
            min=2, help="Longest text in tokens, prompt included.", show_default="the model's"
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="Number format for a model folder: fp32, int8 or int4."),
    ] = "fp32",
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SPIKEFORMERS_API_KEY", help="Key that requests must carry.", show_default=False
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve other machines without a key.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin of a web page that may call the server, or *; repeatable.",
            show_default=False,
        ),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=0, help="Texts that wait for a slot; beyond them: 429.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(help="Seconds until a request is given up, waiting included.")
    ] = 600.0,
    prefix_cache: Annotated[
        int,
        typer.Option(min=0, help="MiB of the cache for the beginnings of prompts; 0: none."),
    ] = 256,
) -> None:
    """Serve a causal spiking model over HTTP, in OpenAI's interface.

    Paths: /v1/completions, /v1/chat/completions, /v1/models, /tokenize, /detokenize, /health,
    /metrics, and a page at / that shows what fires. A model folder is packed first; an engine file
    (`export engine`) opens at once. Where other machines can reach the host, an API key is needed.
    Ctrl-C finishes running requests for a few seconds, then cancels them.

    Needs `pip install 'spikeformers[serve]'`.
    """
    from spikeformers.cli._output import say, start
    from spikeformers.engine import is_engine_file
    from spikeformers.packaged import engine_or_path
    from spikeformers.serving import serve as serve_model
    from spikeformers.serving.options import MEBIBYTE

    start(verbose=False, transformers=not is_engine_file(engine_or_path(model)))
    serve_model(
        model,
        host=host, port=port, threads=threads, slots=slots, context=context, weights=weights,
        api_key=api_key, no_auth=no_auth, cors_origins=tuple(cors_origin or ()),
        max_queue=max_queue, timeout=timeout, prefix_cache=prefix_cache * MEBIBYTE,
        on_message=say,
    )  # fmt: skip
