"""``spikeformers convert``: a trained language model becomes a spiking one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import Json, TextField

if TYPE_CHECKING:
    from spikeformers.conversion import Plan


def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="Dense causal model: a folder, or a name of the hub.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the spiking model.")],
    calibration: Annotated[
        str,
        typer.Option(
            help="Text that thresholds are chosen on: builtin, a file, a folder, a data set.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    method: Annotated[str, typer.Option(help="neurtransformer.")] = "neurtransformer",
    steps: Annotated[int, typer.Option(help="T, simulation steps.")] = 16,
    ffn: Annotated[
        str, typer.Option(help="Feed-forward: signed-if, qcfs, ni-lif or kept.")
    ] = "signed-if",
    code: Annotated[
        str,
        typer.Option(help="Of signed-if: rate (equal spikes) or phase (binary digits)."),
    ] = "rate",
    attention: Annotated[str, typer.Option(help="Attention: ssa, cwssa or kept.")] = "ssa",
    wta: Annotated[str, typer.Option(help="Competition of cwssa: hard or top_k.")] = "hard",
    winners: Annotated[int, typer.Option(help="K of top_k.")] = 3,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value, often: another field of NeurTransformerConfig.",
            metavar="KEY=VALUE",
        ),
    ] = None,
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
    gguf_file: Annotated[str, typer.Option(help="GGUF file in the folder or repository.")] = "",
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the conversion in --out.")
    ] = False,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Make a trained GPT-2, GPT-NeoX, LLaMA or Qwen2 spike, and report what that changed.

    Examples:
    spikeformers convert runs/twin --calibration builtin --steps 16 --out runs/spiking

    spikeformers convert runs/twin --calibration my_texts/ --attention kept --ffn qcfs --out runs/x

    The plan is printed first: which module becomes what, by which method. Attention is the
    source's scores on spikes (cwssa), or no softmax at all (ssa), and wants fine-tuning:
    --tune STEPS, or spikeformers finetune-attention. A module without a conversion is an error,
    or with --allow-dense listed. Ctrl-C stops between modules; --resume goes on. OUT/report.html
    has every figure: by module, and of the whole model beside the original.

    JSON: source, source_type, method, calibration, plan, left_dense, layers (relative_error,
    cosine, neurons: clipped, rate, density, thresholds), original and spiking (perplexity,
    nats_per_token, bits_per_byte, tokens, energy), agreement (agreement, logit_cosine,
    hidden_cosine), context, machine, versions.
    """
    from spikeformers.cli._convert import Asked, run_conversion
    from spikeformers.cli._output import make_table, print_json, print_table, say, start
    from spikeformers.cli._recipe import parse_assignments
    from spikeformers.cli._run import check_out
    from spikeformers.errors import ConfigError
    from spikeformers.reporting import conversion_rows
    from spikeformers.reporting.conversion_page import HEADER

    start(verbose=False)
    if method != "neurtransformer":
        raise ConfigError(f"--method {method}: the one method is neurtransformer.")
    choices: dict[str, Any] = {
        **{"steps": steps, "code": code, "ffn": ffn},
        **{"attention": attention, "wta": wta, "winners": winners},
        **parse_assignments(assign or []),
    }
    asked = Asked(
        model, gguf_file, out, calibration, text_field, choices, rule, percentile, margin,
        calibration_tokens, context, tokens, allow_dense, resume,
    )  # fmt: skip
    if tune and not plan_only:
        check_out(out / "tuned", resume=False)
    summary = run_conversion(asked, show_plan, plan_only=plan_only)
    if summary is None:
        return
    if not as_json:
        print_table(make_table(str(out), HEADER, conversion_rows(summary)))
        say(f"report    {out / 'report.html'}")
    if tune:
        from spikeformers.cli._finetune import Tuning, prepare
        from spikeformers.cli._run import carry_out

        wanted = {"steps": tune, "context": summary["context"]}
        asked_tuning = Tuning(
            str(out), out / "tuned", calibration, text_field, "attention", "", "", train=wanted
        )
        run, task = prepare(asked_tuning)
        carry_out(run, asked_tuning.out, resume=False, as_json=False, task=task)
    elif attention != "kept":
        given = ["finetune-attention", str(out), "--data", calibration]
        say(f"next      spikeformers {shlex.join(given)}")
    if as_json:
        print_json(summary)


def show_plan(plan: Plan) -> None:
    """The plan to standard error, equal rows of all blocks in one line."""
    from spikeformers.cli._output import say

    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in plan.rows:
        groups.setdefault((row.was, row.becomes, row.method), []).append(row.module)
    for (was, becomes, method), modules in groups.items():
        where = modules[0] if len(modules) == 1 else f"{modules[0]} ... {modules[-1]}"
        what = f"{was} -> {becomes}" if becomes != was else was
        say(f"{len(modules):>4} x {what}: {method}\n       {where}")
