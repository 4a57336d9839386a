"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.values import MOST_THREADS

Model = Annotated[Path, typer.Argument(help="Model folder.", metavar="MODEL", show_default=False)]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="builtin, a text, JSONL or Parquet file, a folder, or a data set of the hub.",
        metavar="SOURCE",
        show_default=False,
    ),
]
AnyData = Annotated[
    str,
    typer.Option(
        "--data",
        help="A text (builtin, a file, a folder, a data set of the hub), or of a vision model "
        "images (digits, cifar10, ..., a folder).",
        metavar="SOURCE",
        show_default=False,
    ),
]
Images = Annotated[int, typer.Option("--images", min=1, help="Of a vision model: images.")]
Root = Annotated[
    str, typer.Option("--root", help="Folder that holds images named by --data, such as cifar10.")
]
Split = Annotated[str, typer.Option(help="Part of the text: train, validation or test.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
TextField = Annotated[
    str, typer.Option("--text-field", help="Field or column with the text, of JSONL or Parquet.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, help="Threads to compute with.", show_default="all"),
]

# --- of the verbs that train ---------------------------------------------------------------------

Out = Annotated[Path, typer.Option("--out", help="Run folder; the model ends up in it.")]
RunData = Annotated[
    str,
    typer.Option(
        "--data", help="builtin, a text, JSONL or Parquet file, a folder, or a data set of the hub."
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
        help="YAML file with preset, model, train and data keys (distill: and distill keys; "
        "train-vision: and vision keys).",
    ),
]
Control = Annotated[
    bool, typer.Option("--control", help="Train the dense twin of the preset instead.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue what was interrupted in --out, exactly.")
]
GGUFFile = Annotated[
    str, typer.Option("--gguf-file", help="GGUF file in the model's folder or repository.")
]
TeacherDtype = Annotated[
    str,
    typer.Option("--teacher-dtype", help="Of the teacher: auto (its own), fp32, bf16 or fp16."),
]
