"""How to run the models of a report in the engine: the commands, or why it does not run them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from spikeformers.models import MODELS
from spikeformers.reporting.html import Section

TITLE = "In the engine"
READS = (
    "The engine runs it on a CPU; of a spiking model it reads only weights of neurons that fire."
)
PROMPT = "Once upon a time"


def engine_section(
    folders: Iterable[Path], *, file: Path | None = None, prompt: str = PROMPT
) -> Section | None:
    """Commands that run the models in ``folders``; None without a model folder.

    ``file`` is an engine file of the only folder, in the folder of the page, which links to it.
    """
    folders = list(folders)
    kinds = {folder: kind for folder in folders if (kind := _model_type(folder))}
    runs = [folder for folder, kind in kinds.items() if kind in MODELS and MODELS[kind].engine]
    if not kinds:
        return None
    if not runs:
        runnable = ", ".join(entry.title for entry in MODELS.values() if entry.engine)
        return Section(TITLE, f"The engine runs {runnable}; it does not run this model.")
    text = f"The engine runs {'it' if len(runs) == 1 else 'them'} on a CPU; {READS}"
    write = f"--prompt {shlex.quote(prompt)}"
    if file is not None:
        commands = [f"spikeformers generate {shlex.quote(str(file))} {write}"]
        return Section(TITLE, text, commands=commands, links=[(file.name, "Its engine file")])
    commands = []
    for folder in runs:
        packed = folder.with_name(f"{folder.name}.engine")
        source, target = (shlex.quote(str(path)) for path in (folder, packed))
        commands += [
            f"spikeformers export engine {source} --out {target}",
            f"spikeformers generate {target} {write}",
        ]
    return Section(TITLE, text, commands=commands)


def _model_type(folder: Path) -> str:
    """What config.json says; empty for anything but a model folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""
