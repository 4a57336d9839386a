"""The plan of a conversion: one row per module of the source, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spikeformers.errors import ConfigError
from spikeformers.models import NeurTransformerConfig
from spikeformers.models._converted import SpikingFeedForward, SpikingSelfAttention
from spikeformers.models._neurtransformer_config import SPIKING_MAPS
from spikeformers.models._sources import source_of, unsupported
from spikeformers.models._spiking_inputs import SpikingHead, SpikingInput
from spikeformers.models.neurtransformer import neurtransformer_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FFN = {
    "signed-if": "signed IF pairs around {act}",
    "qcfs": "IF neurons in place of {act} (QCFS), signed IF pairs at the input",
    "ni-lif": "ON and OFF NI-LIF neurons around {act}, counts in one step",
}
ATTENTION = {
    "ssa": "SSA on {neuron} counts of q, k, v",
    "hard": "CWSSA, one winner, on {neuron} counts of q, k, v",
    "power-of-two": "weights of {digits} binary digits, on {neuron} counts of q, k, v",
    "top_k": "CWSSA, {winners} winners, on {neuron} counts of q, k, v",
}


TOKEN = "thresholds per token"
MAPS = {"qkv": "q, k and v", "out": "the output map"}


@dataclass(frozen=True)
class PlanRow:
    """One module: its place, what it is, what it becomes, and by which method (or why not)."""

    module: str
    layer: int | None
    part: str
    was: str
    becomes: str
    method: str
    converts: bool = True
    """Whether this module becomes spiking."""


@dataclass(frozen=True)
class Plan:
    """The config of the spiking model, and its rows in the order of the forward pass."""

    config: NeurTransformerConfig
    rows: list[PlanRow]

    @property
    def needs_calibration(self) -> bool:
        """Whether any neuron has a fixed threshold, which is calibrated on text."""
        return self.config.threshold == "channel" or self.config.attention != "kept"

    @property
    def left_dense(self) -> list[PlanRow]:
        """Blocks' modules that stay as they are."""
        return [row for row in self.rows if row.layer is not None and not row.converts]


def make_plan(model: PreTrainedModel, *, allow_dense: bool = False, **choices: Any) -> Plan:
    """The plan for ``model`` with fields of ``NeurTransformerConfig``, steps and methods.

    With ``threshold="token"``, ``steps`` are 8, ``code`` is "phase", ``attention`` "kept" (the
    softmax) and every linear map spikes, the head included, unless given. Raises ConfigError for a
    module that the methods do not convert, by its name, unless ``allow_dense``, and where nothing
    would be converted.
    """
    choices = with_defaults(choices)
    described = model.config
    source = source_of(described.model_type)
    probe = neurtransformer_config(**choices)
    refused = unsupported(described, attention=probe.attention, ffn=probe.ffn)
    if refused and not allow_dense:
        examples = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:4])
        more = f"; and {len(refused) - 4} more" if len(refused) > 4 else ""
        raise ConfigError(
            f"{len(refused)} modules have no conversion ({examples}{more}). --allow-dense leaves "
            "them as they are and lists them."
        )
    config = neurtransformer_config(
        source=source_values(described), dense=sorted(refused) or None, **choices
    )
    rows = []
    for layer, block in enumerate(source.blocks(model)):
        for part, name in (("attention", source.attention), ("mlp", source.mlp)):
            was = type(getattr(block, name)).__name__
            reason = refused.get(f"{layer}.{part}", "as asked for (kept)")
            becomes, method = was, f"stays dense: {reason}"
            if converts := not config.is_dense(layer, part):
                becomes, method = _method(config, part, source.shape(described).activation)
            module = f"{source.layers}.{layer}.{name}"
            rows.append(PlanRow(module, layer, part, was, becomes, method, converts))
    stays = "embedding, norms, residual"
    if "head" in config.maps:
        head = _head_name(model)
        was = type(model.get_submodule(head)).__name__
        method = f"{TOKEN} at its input, T = {config.steps}"
        rows.append(PlanRow(head, None, "head", was, SpikingHead.__name__, method))
    else:
        stays += ", head"
    if not any(row.converts for row in rows):
        raise ConfigError("nothing would be converted: attention and ffn are both kept.")
    rows.append(PlanRow(stays, None, "", "dense", "dense", "stay real", converts=False))
    return Plan(config, rows)


def with_defaults(choices: Mapping[str, Any]) -> dict[str, Any]:
    """``choices`` with the defaults that thresholds per token have of their own.

    Their ``spiking_maps`` without "ffn" leave the feed-forward blocks dense.
    """
    if choices.get("threshold") != "token":
        return dict(choices)
    completed = {"steps": 8, "code": "phase", "attention": "kept", **choices}
    if "ffn" not in (completed.get("spiking_maps") or ("ffn",)):
        completed.setdefault("ffn", "kept")
    if completed["attention"] == "kept" and completed.get("ffn") != "kept":
        completed.setdefault("spiking_maps", list(SPIKING_MAPS))
    return completed


def _head_name(model: PreTrainedModel) -> str:
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def source_values(config: Any) -> dict[str, Any]:
    """The source's config as plain values, without those that belong to a file."""
    values = config.to_dict()
    file = ("_name_or_path", "transformers_version", "architectures", "dtype", "use_cache")
    for key in (*file, "quantization_config"):
        values.pop(key, None)
    return dict(values)


def _method(config: NeurTransformerConfig, part: str, activation: str) -> tuple[str, str]:
    steps = f", T = {config.steps}{', phase-coded' if config.code == 'phase' else ''}"
    if config.threshold == "token":
        steps = f", {TOKEN}{steps}"
    if part == "mlp":
        return SpikingFeedForward.__name__, FFN[config.ffn].format(act=activation) + steps
    if config.attention == "kept":
        maps = " and ".join(MAPS[name] for name in config.maps_of_attention)
        return SpikingInput.__name__, f"softmax kept, spikes at the input of {maps}{steps}"
    kind = config.wta if config.attention == "cwssa" else config.attention
    method = ATTENTION[kind].format(
        neuron=config.attention_neuron, winners=config.winners, digits=config.weight_digits
    )
    return SpikingSelfAttention.__name__, method + steps
