"""Convert a dense model, stage by stage; each stage leaves complete files and runs only once.

    OUT/conversion/request.json                  the request
    OUT/conversion/calibration/layer-000...      1. activations of the dense model
    OUT/conversion/converted/0.mlp.safetensors   2. a spiking module's weights and thresholds
    OUT/conversion/converted/0.mlp.json             and what its conversion changed
    OUT/config.json, model.safetensors ...       3. the model
    OUT/report.json ...                          4. the caller's report; `finish` then removes
                                                    OUT/conversion

What the conversion of a module changed is measured on the calibration text, with the dense model's
own activations at its input, so it does not include errors of earlier blocks.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikeformers.conversion import by_scores, ni_lif, qcfs, signed_if, ssa
from spikeformers.conversion.calibration import (
    Sample,
    collect,
    is_collected,
    is_whole,
    read_sample,
    read_tensors,
    write_tensors,
)
from spikeformers.conversion.dead_zones import allocate, check_density
from spikeformers.conversion.measure import changed
from spikeformers.conversion.plan import Plan, PlanRow
from spikeformers.conversion.thresholds import Rule
from spikeformers.errors import CheckpointError, ConfigError, DataError, UsageError
from spikeformers.foreign import read_json
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.models._adapters import refuse_adapters
from spikeformers.models._converted import SpikingFeedForward
from spikeformers.models._sources import source_of
from spikeformers.models._spiking_inputs import spiking_attention
from spikeformers.models.neurtransformer import spiking_feed_forward, spiking_self_attention
from spikeformers.progress import Tell, watched
from spikeformers.storage import digest_of, publishing, run_lock, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLDER = "conversion"
TAKEN = ("config.json", "model.safetensors", "run.json", "report.json")
RECORD_DIGEST = "xxh3"  # key of a module's record
OF_NO_MATTER = ("transformers_version", "_name_or_path")


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """The spiking model, and one record for each converted module."""

    model: NeurTransformerForCausalLM
    layers: list[dict[str, Any]]
    """What the conversion of a module changed; only its name and method without calibration."""
    dead_zones: list[dict[str, Any]] = field(default_factory=list)
    """By layer of neurons: tau, and the share of it that fires (``dead_zones.allocate``)."""


def convert(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Tensor | None,
    plan: Plan,
    out: str | Path,
    *,
    rule: Rule | None = None,
    density: float | None = None,
    resume: bool = False,
    progress: Tell | None = None,
) -> Converted:
    """Convert the dense ``model`` by ``plan`` into the folder ``out``, calibrated on ``windows``.

    ``windows`` are token ids ``[W, T]``; None if the plan needs no calibration and nothing is
    measured. ``density`` in (0, 1) is the share of weights that a token reads, set by dead
    zones (``dead_zones.allocate``), of a plan with thresholds per token. Raises ``UsageError`` for
    a folder that is taken or has nothing to resume, ``ConfigError`` for a resume with another
    request, missing windows or a density that does not apply, ``StorageError``. ``out`` is locked
    against other processes; a resume repeats what it finds damaged.
    """
    refuse_adapters(model, "a conversion")
    _check(model, windows, plan, density)
    folder, rule = Path(out), rule or Rule()
    with run_lock(folder):
        return _convert(model, tokenizer, windows, plan, folder, rule, density, resume, progress)


def _check(
    model: PreTrainedModel, windows: Tensor | None, plan: Plan, density: float | None
) -> None:
    if density is not None:
        check_density(density)
        if not plan.config.maps:
            raise ConfigError(
                "density needs neurons with a threshold per token: convert with threshold='token'."
            )
    if windows is None:
        if plan.needs_calibration or density is not None:
            raise ConfigError(
                "this conversion is calibrated on text: give windows of token ids [W, T]. Only "
                "threshold='token' with attention='kept' and without density needs none."
            )
        return
    vocabulary = int(model.config.vocab_size)
    if int(windows.max()) >= vocabulary:
        raise DataError(
            f"the calibration text holds the token id {int(windows.max())}, and the model's "
            f"vocabulary is {vocabulary}: tokenise it by the model's own tokenizer."
        )


def _convert(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Tensor | None,
    plan: Plan,
    out: Path,
    rule: Rule,
    density: float | None,
    resume: bool,
    progress: Tell | None,
) -> Converted:
    folder, tell = out / FOLDER, progress or (lambda *_: None)
    _open(out, _request(model, windows, plan, rule, density), resume)
    if windows is not None and not is_collected(
        folder / "calibration", model.config.num_hidden_layers
    ):
        collect(model, windows, folder / "calibration",
                lambda done, of: tell("calibration", done, of))  # fmt: skip
    work = [row for row in plan.rows if row.converts and row.layer is not None]
    records = []
    for row in watched(work, lambda done, of: tell("conversion", done, of)):
        records.append(_module(model, plan.config, row, folder, rule, windows is not None))
    spiking = assemble(model, plan, folder / "converted")
    zones = []
    if density is not None:
        assert windows is not None
        zones = allocate(spiking, windows, density, lambda done, of: tell("dead zones", done, of))
    _export(spiking, tokenizer, out)
    return Converted(spiking, records, zones)


def finish(out: str | Path) -> None:
    """Remove the files that only a resume needs, after everything is done."""
    shutil.rmtree(Path(out) / FOLDER, ignore_errors=True)


def refuse_taken(out: Path, *, resume: bool) -> None:
    """Raise UsageError for an ``out`` that holds a model, or has nothing to resume."""
    begun = (out / FOLDER / "request.json").is_file()
    if begun and not resume:
        raise UsageError(f"{out} holds a conversion that has not finished; --resume continues it.")
    if resume and not begun:
        raise UsageError(f"Nothing to resume: {out} holds no conversion. Start without --resume.")
    if not begun and (taken := [name for name in TAKEN if (out / name).exists()]):
        raise UsageError(f"{out} already holds a model ({taken[0]}). Name another --out.")


def _request(
    model: PreTrainedModel,
    windows: Tensor | None,
    plan: Plan,
    rule: Rule,
    density: float | None,
) -> dict[str, Any]:
    ids = b"" if windows is None else windows.to(torch.int64).numpy().tobytes()
    digest = hashlib.sha256(ids).hexdigest()
    weights = hashlib.sha256()
    for name, parameter in model.state_dict().items():
        weights.update(f"{name} {float(parameter.double().sum())!r}".encode())
    config = {k: v for k, v in plan.config.to_dict().items() if k not in OF_NO_MATTER}
    request = {
        "config": config,
        "rule": asdict(rule),
        "density": density,
        "calibration_sha256": digest,
        "source_weights": weights.hexdigest(),
    }
    return dict(json.loads(json.dumps(request)))


def _open(out: Path, request: dict[str, Any], resume: bool) -> None:
    refuse_taken(out, resume=resume)
    path = out / FOLDER / "request.json"
    if resume:
        before = read_json(path, advice="Begin in another --out.")
        if differ := [key for key in request if before.get(key) != request[key]]:
            raise ConfigError(
                f"{out} was begun with another {' and '.join(differ)}. Resume with the same "
                "options, model and data, or begin in another --out."
            )
        return
    write_json(path, request)


def _module(
    model: PreTrainedModel,
    config: NeurTransformerConfig,
    row: PlanRow,
    folder: Path,
    rule: Rule,
    calibrated: bool,
) -> dict[str, Any]:
    """Convert one module unless that is done; returns its record."""
    name = f"{row.layer}.{row.part}"
    record_file = folder / "converted" / f"{name}.json"
    if (done := _finished(record_file)) is not None:
        return done
    assert row.layer is not None
    sample = read_sample(folder / "calibration", row.layer) if calibrated else None
    module = convert_module(model, config, row.layer, row.part, sample, rule)
    record = {"module": row.module, "layer": row.layer, "part": row.part, "method": row.method}
    record |= {} if sample is None else changed(module, row.part, sample)
    record_file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(record_file.with_name(f"{name}.safetensors"), module.state_dict())
    write_json(record_file, {**record, RECORD_DIGEST: _record_digest(record)})
    return record


def _finished(record_file: Path) -> dict[str, Any] | None:
    """The record of a module that is converted; None if it is not, or if its files are damaged."""
    if not record_file.is_file() or not is_whole(record_file.with_suffix(".safetensors")):
        return None
    try:
        record = dict(json.loads(record_file.read_text("utf-8")))
        if record.pop(RECORD_DIGEST, None) != _record_digest(record):
            raise ValueError("its content is not what was written")
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is damaged (%s). It is converted again.", record_file, error)
        return None
    return record


def _record_digest(record: dict[str, Any]) -> str:
    return digest_of([json.dumps(record, sort_keys=True).encode()])


def convert_module(
    model: PreTrainedModel,
    config: NeurTransformerConfig,
    layer: int,
    part: str,
    sample: Sample | None,
    rule: Rule,
) -> nn.Module:
    """The spiking "mlp" or "attention" of one block, with the source's weights, calibrated.

    ``sample`` is None where it has nothing to calibrate.
    """
    source = source_of(model.config.model_type)
    block = source.blocks(model)[layer]
    if part == "attention" and config.attention == "kept":
        attention = copy.deepcopy(getattr(block, source.attention))
        return spiking_attention(attention, source, model.config, config).eval()
    if part == "mlp":
        mlp: Any = getattr(block, source.mlp)
        feed_forward = spiking_feed_forward(model.config, config).eval()
        _load(feed_forward, source.read_mlp(mlp))
        if sample is not None:
            _calibrate(feed_forward, config, sample.mlp_in.flatten(0, 1), rule, mlp)
        return feed_forward
    dense: Any = getattr(block, source.attention)
    module = spiking_self_attention(model.config, config, layer).eval()
    _load(module, source.read_attention(dense, source.shape(model.config)))
    method = ssa if config.attention == "ssa" else by_scores
    assert sample is not None
    method.calibrate(module, sample, rule, float(dense.scaling))
    return module


def _calibrate(
    module: SpikingFeedForward, config: NeurTransformerConfig, x: Tensor, rule: Rule, dense: Any
) -> None:
    """Set the thresholds on the inputs ``x`` ``[N, D]`` of the source's block ``dense``."""
    if config.ffn == "qcfs":
        qcfs.calibrate(module, x, rule, _activation(dense))
    else:
        (ni_lif if config.ffn == "ni-lif" else signed_if).calibrate(module, x, rule)


def _activation(mlp: Any) -> nn.Module:
    """The activation of a source's feed-forward block."""
    activation: nn.Module = mlp.act if hasattr(mlp, "act") else mlp.act_fn
    return activation


def _load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy the source's weights; a name that only one of them has is a bug."""
    places = {name: parameter for name, parameter in module.named_parameters()
              if name.endswith((".weight", ".bias")) and not name.startswith("norm")}  # fmt: skip
    if places.keys() != weights.keys():
        raise CheckpointError(
            f"{type(module).__name__} and the source differ in {places.keys() ^ weights.keys()}."
        )
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(weights[name])


def assemble(model: PreTrainedModel, plan: Plan, folder: Path) -> NeurTransformerForCausalLM:
    """The spiking model of the source's weights and the converted modules in ``folder``."""
    return _built(
        model, plan, lambda row: read_tensors(folder / f"{row.layer}.{row.part}.safetensors")
    )


def uncalibrated(model: PreTrainedModel, plan: Plan) -> NeurTransformerForCausalLM:
    """The spiking model, in memory, of a plan without calibration; ConfigError for other plans."""
    refuse_adapters(model, "a conversion")
    _check(model, None, plan, None)

    def weights(row: PlanRow) -> dict[str, Tensor]:
        assert row.layer is not None
        module = convert_module(model, plan.config, row.layer, row.part, None, Rule())
        return dict(module.state_dict())

    return _built(model, plan, weights)


def _built(
    model: PreTrainedModel, plan: Plan, weights_of: Callable[[PlanRow], dict[str, Tensor]]
) -> NeurTransformerForCausalLM:
    spiking = NeurTransformerForCausalLM(plan.config)
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for row in plan.rows:
        path = f"model.{row.module}."
        if row.part == "head":
            zone = "fire.dead_zone"
            weights[path + zone] = spiking.get_output_embeddings().get_parameter(zone).detach()
        elif row.converts:
            weights = {k: v for k, v in weights.items() if not k.startswith(path)}
            weights |= {path + name: tensor for name, tensor in weights_of(row).items()}
    spiking.load_state_dict(weights)
    spiking.tie_weights()
    spiking.generation_config = model.generation_config
    return spiking.eval()


def _export(
    model: NeurTransformerForCausalLM, tokenizer: PreTrainedTokenizerBase, out: Path
) -> None:
    """Save model and tokenizer into ``out``, ``config.json`` last."""
    with publishing(
        out,
        last="config.json",
        failed=f"Could not save the model into {out}",
        advice=f"The converted modules in {out / FOLDER} are complete; free some space and use "
        "--resume.",
    ) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")
