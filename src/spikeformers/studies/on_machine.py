"""Measure a model folder, its dense twin and the engine with `evaluation.measured`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.engine import Packed, write
from spikeformers.errors import EngineUnavailable, UsageError
from spikeformers.evaluation.measured import (
    MeasuredReport,
    Program,
    TextWork,
    Whole,
    measure,
    text_program,
    whole_program,
)
from spikeformers.evaluation.measured.programs import engine_program, save_batch
from spikeformers.kernels import choose
from spikeformers.models.registry import is_masked, is_vision
from spikeformers.progress import Move

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pack = Callable[[Any, Any, str], Packed]
"""Packs a model and its tokenizer for the engine with "fp32", "int8" or "int4" weights, as
``spikeformers.pack`` does; it is passed in, because `export` is above this package."""
WEIGHTS = ("int8", "fp32")


def measure_folder(
    folder: Path,
    model: PreTrainedModel,
    twin: PreTrainedModel | None,
    batches: list[Any],
    *,
    pack: Pack | None = None,
    prompt_tokens: int | None = None,
    new_tokens: int = 32,
    repeats: int = 5,
    warmup: int = 1,
    threads: int = 1,
    device: str = "cpu",
    progress: Move | None = None,
) -> MeasuredReport:
    """Measure the model of ``folder`` as "model", ``twin`` as "control", and the engine.

    ``model`` is the content of the folder and ``batches`` its input (`read_input`). A causal model
    reads the first sequence, up to ``prompt_tokens`` (default: half of it), and ``new_tokens``
    more, batch 1; a masked or vision model reads the first batch in one pass. ``pack``
    (``spikeformers.pack``) makes the files of "engine-int8" and "engine-fp32"; without it, or if
    the engine cannot run the model, the report has the reason. Raises UsageError for more tokens
    than a sequence has; more errors as ``evaluation.measured.measure``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"model": folder}
        if twin is not None:
            folders["control"] = Path(temporary) / "control"
            twin.save_pretrained(folders["control"])
        text = partial(text_program, threads=threads, device=device)
        batch_program = partial(whole_program, threads=threads, device=device)
        first = batches[0]
        if is_masked(model.config) or is_vision(model.config):
            batch = Path(temporary) / "batch.safetensors"
            save_batch(first, batch)
            programs = {name: batch_program(file, batch) for name, file in folders.items()}
            work: TextWork | Whole = _whole(first)
        else:
            programs = {name: text(file) for name, file in folders.items()}
            work = _text(first, prompt_tokens, new_tokens)
        engines, absent = _engines(model, pack, Path(temporary), threads)
        programs |= engines
        return measure(
            programs, work, repeats=repeats, warmup=warmup, threads=threads, absent=absent,
            progress=progress,
        )  # fmt: skip


def _engines(
    model: PreTrainedModel, pack: Pack | None, folder: Path, threads: int
) -> tuple[dict[str, Program], dict[str, str]]:
    """The engine's programs; or none, and the reason."""
    if pack is None:
        return {}, {"engine": "not requested (pack=spikeformers.pack)"}
    programs = {}
    try:
        choose()
        for kind in WEIGHTS:
            file = folder / f"{kind}.engine"
            write(pack(model, None, kind), file)
            programs[f"engine-{kind}"] = engine_program(file, threads=threads)
    except (UsageError, EngineUnavailable) as error:
        return {}, {"engine": str(error)}
    return programs, {}


def _text(first: Any, prompt_tokens: int | None, new_tokens: int) -> TextWork:
    ids = first if not isinstance(first, dict) else first["input_ids"]
    row = ids[0].tolist()
    prompt = len(row) // 2 if prompt_tokens is None else prompt_tokens
    if prompt + new_tokens > len(row) and prompt_tokens is not None:
        raise UsageError(
            f"{prompt} prompt tokens and {new_tokens} new ones are more than the {len(row)} tokens "
            "of a sequence of this data and model; request fewer."
        )
    return TextWork(row[: prompt + new_tokens], prompt)


def _whole(first: Any) -> Whole:
    if isinstance(first, dict) and "pixel_values" in first:
        images = first["pixel_values"].shape[0]
        return Whole(images, "image", images)
    ids = first if not isinstance(first, dict) else first["input_ids"]
    return Whole(ids.numel(), "token", ids.shape[0])
