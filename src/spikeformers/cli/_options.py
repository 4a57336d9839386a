"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.values import MOST_THREADS

Model = Annotated[
    Path,
    typer.Argument(help="Model folder, or books.", metavar="MODEL", show_default=False),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Text: builtin, a text, JSONL or Parquet file, a folder, or a data set on the hub.",
        metavar="SOURCE",
        show_default=False,
    ),
]
AnyData = Annotated[
    str,
    typer.Option(
        "--data",
        help="For a language model, text: builtin, a file, a folder, or a data set on the hub. "
        "For a vision model, images: digits, cifar10, ..., or a folder.",
        metavar="SOURCE",
        show_default=False,
    ),
]
Images = Annotated[
    int, typer.Option("--images", min=1, help="Images to run on (vision models only).")
]
Root = Annotated[
    str,
    typer.Option(
        "--root", help="Folder that holds the image set named by --data, such as cifar10."
    ),
]
Split = Annotated[str, typer.Option(help="Part of the data: train, validation or test.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
TextField = Annotated[
    str,
    typer.Option("--text-field", help="Field of JSONL or column of Parquet that holds the text."),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, help="Number of CPU threads.", show_default="all"),
]

# --- shared by the verbs that train --------------------------------------------------------------

Out = Annotated[Path, typer.Option("--out", help="Run folder: checkpoints, log and trained model.")]
RunData = Annotated[
    str,
    typer.Option(
        "--data",
        help="Text: builtin, a text, JSONL or Parquet file, a folder, or a data set on the hub.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe key; repeatable.", metavar="KEY=VALUE"),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        help="YAML recipe: preset, and model, train and data keys (also distill keys for distill, "
        "vision keys for train-vision).",
    ),
]
Control = Annotated[
    bool,
    typer.Option("--control", help="Train the preset's dense twin instead of the spiking model."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue the interrupted run in --out, with the same result."),
]
GGUFFile = Annotated[
    str,
    typer.Option("--gguf-file", help="Name of a GGUF file in the model's folder or repository."),
]
TeacherDtype = Annotated[
    str,
    typer.Option(
        "--teacher-dtype", help="Number format of the teacher: auto (as stored), fp32, bf16, fp16."
    ),
]
