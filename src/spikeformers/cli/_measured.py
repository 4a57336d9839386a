"""A model folder, its dense twin and the engine, as `evaluation.measured` measures them."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.engine import write
from spikeformers.errors import EngineUnavailable, UsageError
from spikeformers.evaluation.measured import (
    MeasuredReport,
    Program,
    Text,
    Whole,
    measure,
    text_program,
    whole_program,
)
from spikeformers.evaluation.measured.programs import save_batch
from spikeformers.export import pack
from spikeformers.kernels import choose
from spikeformers.models.registry import is_masked, is_vision
from spikeformers.progress import Move

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENGINE = ("spikeformers.engine.runtime:open_system", ("spikeformers.engine",))


def measure_folder(
    folder: Path,
    model: PreTrainedModel,
    twin: PreTrainedModel | None,
    batches: list[Any],
    *,
    prompt_tokens: int | None = None,
    new_tokens: int = 32,
    repeats: int = 5,
    warmup: int = 1,
    threads: int = 1,
    device: str = "cpu",
    progress: Move | None = None,
) -> MeasuredReport:
    """Measure the model of ``folder`` as "model", ``twin`` as "control", and the engine.

    ``model`` is what is in the folder and ``batches`` what it runs over (``read_material``): the
    text of a causal model is the first sequence, up to ``prompt_tokens`` (half of it unless given)
    and ``new_tokens`` more, batch 1; a masked model or one of images reads the first batch whole.
    Where the engine ("engine-int8", "engine-fp32") cannot run the model, the report says why.
    """
    with tempfile.TemporaryDirectory() as made:
        folders = {"model": folder}
        if twin is not None:
            folders["control"] = Path(made) / "control"
            twin.save_pretrained(folders["control"])
        text = partial(text_program, threads=threads, device=device)
        whole = partial(whole_program, threads=threads, device=device)
        first = batches[0]
        if is_masked(model.config) or is_vision(model.config):
            batch = Path(made) / "batch.safetensors"
            save_batch(first, batch)
            programs = {n: whole(f, batch) for n, f in folders.items()}
            work: Text | Whole = _whole(first)
        else:
            programs = {name: text(f) for name, f in folders.items()}
            work = _text(first, prompt_tokens, new_tokens)
        absent = {}
        try:
            programs |= _engines(model, Path(made), threads)
        except (UsageError, EngineUnavailable) as error:
            absent["engine"] = str(error)
        return measure(
            programs, work, repeats=repeats, warmup=warmup, threads=threads, absent=absent,
            progress=progress,
        )  # fmt: skip


def _engines(model: PreTrainedModel, made: Path, threads: int) -> dict[str, Program]:
    """The engine's programs; UsageError for a model that it does not run."""
    choose()
    opener, libraries = ENGINE
    found = {}
    for kind in ("int8", "fp32"):
        file = made / f"{kind}.engine"
        write(pack(model, None, kind), file)
        arguments = {"file": str(file), "threads": threads}
        found[f"engine-{kind}"] = Program(opener, arguments, libraries)
    return found


def _text(first: Any, prompt_tokens: int | None, new_tokens: int) -> Text:
    ids = first if not isinstance(first, dict) else first["input_ids"]
    row = ids[0].tolist()
    prompt = len(row) // 2 if prompt_tokens is None else prompt_tokens
    if prompt + new_tokens > len(row) and prompt_tokens is not None:
        raise UsageError(
            f"{prompt} prompt tokens and {new_tokens} new ones are more than the {len(row)} tokens "
            "of a sequence of this data and model; ask for fewer."
        )
    return Text(row[: prompt + new_tokens], prompt)


def _whole(first: Any) -> Whole:
    if isinstance(first, dict) and "pixel_values" in first:
        images = first["pixel_values"].shape[0]
        return Whole(images, "image", images)
    ids = first if not isinstance(first, dict) else first["input_ids"]
    return Whole(ids.numel(), "token", ids.shape[0])
