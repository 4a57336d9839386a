"""The model card: the README.md of a model folder, YAML front matter first.

Hugging Face's format, https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import spikeformers
from spikeformers.foreign import read_text
from spikeformers.models.registry import MODELS, is_masked
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text
from spikeformers.studies.results import read_zeroshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.data import TokenStore
    from spikeformers.training import TrainConfig, TrainResult

ZEROSHOT = "## Zero-shot scores"


@dataclass(frozen=True)
class CardFacts:
    """What a model card needs to know from a config."""

    title: str
    origin: str
    """Address of the paper, or the model's purpose; may be empty."""
    spiking: bool
    rows: dict[str, str]
    """Rows about spikes, for the table of shapes."""
    made: str
    """How the weights were made: trained from scratch, or converted."""

    @property
    def heading(self) -> str:
        """Title and origin."""
        return f"{self.title} ({self.origin})" if self.origin else self.title

    def tags(self, kind: str) -> list[str]:
        """Tags of the front matter for a model of type ``kind``."""
        return ["spikeformers", kind, *(["spiking-neural-network"] if self.spiking else [])]


def facts_of(config: Mapping[str, Any]) -> CardFacts:
    """Card facts for ``config``, a plain dictionary with its model_type."""
    kind = str(config["model_type"])
    origin = "trained from scratch"
    if config.get("source"):
        origin = f"converted from a trained {config['source']['model_type']} and fine-tuned"
    entry = MODELS.get(kind)
    if entry is None:
        return CardFacts(kind, "", spiking=False, rows={}, made=origin)
    spiking = bool(getattr(entry.config, "spiking", False))
    stated: Any = entry.config.from_dict(dict(config))
    rows = stated.card_rows() if spiking else {}
    return CardFacts(entry.title, entry.paper, spiking, rows, origin)


def training_card(
    name: str,
    model: PreTrainedModel,
    store: TokenStore,
    config: TrainConfig,
    result: TrainResult,
    more: Mapping[str, str] | None = None,
) -> str:
    """The card of a model that `train` has just trained; ``more`` are rows about its training."""
    manifest = store.manifest
    return model_card(
        name,
        model.config.to_dict(),
        masked=is_masked(model.config),
        parameters=model.num_parameters(),
        data={
            "name": manifest["corpus"]["name"],
            "sha256": manifest["corpus"]["digest"],
            "split": manifest["corpus"]["split_by"],
            "training tokens in the text": f"{store.split('train').num_tokens:,}",
            "tokenizer": f"{manifest['tokenizer']['vocab_size']:,} tokens",
        },
        training={
            "steps": f"{result.steps:,}",
            "tokens seen": f"{result.tokens_seen:,}",
            "context": f"{config.context} tokens",
            "batch": f"{config.batch_size} windows",
            "learning rate": f"{config.learning_rate:g}, {config.schedule}",
            "seed": str(config.seed),
            "time": f"{result.seconds:,.1f} s (measured)",
            **(more or {}),
        },
        results=result.final_validation,
    )


def model_card(
    name: str,
    config: Mapping[str, Any],
    *,
    masked: bool,
    parameters: int,
    data: Mapping[str, str],
    training: Mapping[str, str],
    results: Mapping[str, float],
) -> str:
    """Markdown for a model of ``config``; ``results`` holds loss, perplexity, bits_per_byte."""
    facts = facts_of(config)
    task = "fill-mask" if masked else "text-generation"
    front = {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": facts.tags(str(config["model_type"])),
        "model-index": [_index(name, task, data, results)],
    }
    auto = "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"
    sections = [
        f"# {name}\n\n{facts.heading}, {parameters:,} parameters, {facts.made} with "
        f"spikeformers {spikeformers.__version__}.",
        _loading(auto, masked),
        "## Shape\n\n" + table(_shape(config) | facts.rows),
        "## Data\n\n" + table(data),
        "## Training\n\n" + table(training),
        "## Results\n\n" + _results(results, masked),
        "## Limits\n\nA research model, trained on little text: its text is neither true "
        "nor safe to rely on. Energy figures of spikeformers are estimates from counted events "
        "and 45 nm prices, never a meter's reading; times are measured on the machine of the run.",
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"


def add_zeroshot(card: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """``card`` with a section of zero-shot scores, which replaces an earlier one.

    ``results``: task -> its part of a zero-shot result.
    """
    rows = []
    for task, result in sorted(results.items()):
        for metric in ("acc", "acc_norm"):
            if metric not in result["metrics"]:
                continue
            measured = result["metrics"][metric]
            chance, majority = (
                "" if measured[key] is None else f"{100 * measured[key]:.1f}"
                for key in ("chance", "majority")
            )
            score = f"{100 * measured['value']:.1f} ± {100 * measured['stderr']:.1f}"
            mark = "at chance" if measured["at_chance"] else ""
            count = f"{task} ({result['documents']:,}, {result['split']})"
            rows.append((count, metric, score, chance, majority, mark))
    section = (
        f"{ZEROSHOT}\n\nIn percent, ± standard error over the documents (measured); at chance: "
        "within two standard errors of it. `evaluations/` has all settings.\n\n"
        + markdown(("task", "metric", "score", "chance", "majority", ""), rows)
    )
    before, heading, after = card.partition(f"{ZEROSHOT}\n")
    rest = after.partition("\n## ")
    later = f"\n## {rest[2]}" if heading and rest[1] else ""
    return f"{before.rstrip()}\n\n{section}{later}"


def add_evaluations(folder: Path) -> None:
    """Show the complete evaluations of ``MODEL/evaluations`` in the model's README.md.

    Does nothing if the folder has another name or the model has no card. CheckpointError names a
    damaged result.
    """
    card = folder.parent / "README.md"
    if folder.name != "evaluations" or not card.is_file():
        return
    complete: dict[str, Any] = {}
    for file in sorted(folder.glob("zeroshot-*.json")):
        tasks = read_zeroshot(file, for_card=True)
        complete |= {name: result for name, result in tasks.items() if result["limit"] is None}
    if complete:
        write_text(card, add_zeroshot(read_text(card), complete))


def _index(
    name: str, task: str, data: Mapping[str, str], results: Mapping[str, float]
) -> dict[str, Any]:
    metrics = [
        {"type": key, "value": round(value, 4)}
        for key, value in results.items()
        if math.isfinite(value)
    ]
    described = {"name": data.get("name", "unknown"), "type": data.get("name", "unknown")}
    return {
        "name": name,
        "results": [{"task": {"type": task}, "dataset": described, "metrics": metrics}],
    }


def _loading(auto: str, masked: bool) -> str:
    use = 'tokenizer("The [MASK] of a list.", return_tensors="pt")'
    then = "logits = model(**inputs).logits"
    if not masked:
        use = 'tokenizer("The", return_tensors="pt")'
        then = "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))"
    return (
        "## Loading it\n\n```python\nimport spikeformers  # registers the models\n"
        f"from transformers import {auto}, AutoTokenizer\n\n"
        'folder = "."  # this folder\n'
        f"model = {auto}.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"inputs = {use}\n{then}\n```"
    )


def _shape(config: Mapping[str, Any]) -> dict[str, str]:
    def first(*keys: str) -> Any:
        return next((config[key] for key in keys if config.get(key) is not None), "")

    shape = {
        "width": first("hidden_size", "n_embd"),
        "layers": first("num_hidden_layers", "n_layer"),
        "heads": first("num_attention_heads", "n_head"),
        "vocabulary": f"{first('vocab_size'):,}",
        "positions": first("max_position_embeddings", "n_positions"),
    }
    return {key: str(value) for key, value in shape.items()}


def _results(results: Mapping[str, float], masked: bool) -> str:
    if not results:
        return "The run has no validation result."
    titles = {
        "loss": ("loss", "nats per token"),
        "perplexity": ("perplexity", "per token"),
        "bits_per_byte": ("bits per byte", "of the text"),
        "masked_perplexity": ("masked perplexity", "per masked token"),
        "teacher_agreement": ("same most likely token as the teacher", "share of tokens"),
        "teacher_kl": ("KL from the teacher", "nats per token"),
    }
    rows = {
        f"{titles[key][0]}, {titles[key][1]}" if key in titles else key: f"{value:,.4f}"
        for key, value in results.items()
    }
    of = "masked tokens of " if masked else ""
    return f"On {of}held-out text, at the end of training (measured):\n\n{table(rows)}"


def table(rows: Mapping[str, str]) -> str:
    """A Markdown table of two columns without names."""
    return markdown(("", ""), list(rows.items())).rstrip()
