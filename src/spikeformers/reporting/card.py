"""The model card: the README.md of a model folder, YAML front matter first.

Hugging Face's format, https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

import spikeformers
from spikeformers.models.registry import is_masked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.data import TokenStore
    from spikeformers.training import TrainConfig, TrainResult

ZEROSHOT = "## Zero-shot scores"
PAPERS = {
    "neurtransformer": ("NeurTransformer", "https://arxiv.org/abs/2510.00133"),
    "bispikclm": ("BiSpikCLM", "https://arxiv.org/abs/2605.13859"),
    "wd_spikingformer": ("WD-Spikingformer", "https://arxiv.org/abs/2604.11321"),
    "we_spikingformer": ("WE-Spikingformer", "https://arxiv.org/abs/2604.11321"),
    "spiking_vit": ("Spiking vision transformer, A2OS2A", "https://arxiv.org/abs/2503.00226"),
    "vit": ("ViT", "a dense twin"),
    "gpt2": ("GPT-2", "a dense twin"),
    "gpt_neox": ("GPT-NeoX", "a dense twin"),
    "bert": ("BERT", "a dense twin"),
    "roformer": ("RoFormer", "a dense twin"),
}


def training_card(
    name: str,
    model: PreTrainedModel,
    store: TokenStore,
    config: TrainConfig,
    result: TrainResult,
    more: Mapping[str, str] | None = None,
) -> str:
    """The card of a model that `train` has just made; ``more`` are rows about its training."""
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
    kind = str(config["model_type"])
    title, origin = PAPERS.get(kind, (kind, ""))
    converted = kind == "neurtransformer"
    spiking = kind.endswith("spikingformer")
    task = "fill-mask" if masked else "text-generation"
    front = {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": [
            "spikeformers",
            kind,
            *(["spiking-neural-network"] if spiking or converted else []),
        ],
        "model-index": [_index(name, task, data, results)],
    }
    auto = "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"
    heading = f"{title} ({origin})" if origin else title
    made = "trained from scratch"
    if converted:
        made = f"converted from a trained {config['source']['model_type']} and fine-tuned"
    sections = [
        f"# {name}\n\n{heading}, {parameters:,} parameters, {made} with "
        f"spikeformers {spikeformers.__version__}.",
        _loading(auto, masked),
        "## Shape\n\n" + table(_shape(config, spiking)),
        "## Data\n\n" + table(data),
        "## Training\n\n" + table(training),
        "## Results\n\n" + _results(results, masked),
        "## Limits\n\nA research model, trained on little text: what it writes is neither true "
        "nor safe to rely on. Energy figures of spikeformers are estimates from counted events "
        "and 45 nm prices, never a meter's reading; times are measured on the machine of the run.",
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"


def add_zeroshot(card: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """``card`` with a section of zero-shot scores, in place of the one that it may have.

    ``found``: task -> its part of a zero-shot result.
    """
    rows = ["| task | metric | score | chance | majority | |", "|---|---|---|---|---|---|"]
    for task, told in sorted(found.items()):
        for metric in ("acc", "acc_norm"):
            if metric not in told["metrics"]:
                continue
            one = told["metrics"][metric]
            chance, majority = (
                "" if one[key] is None else f"{100 * one[key]:.1f}"
                for key in ("chance", "majority")
            )
            score = f"{100 * one['value']:.1f} ± {100 * one['stderr']:.1f}"
            mark = "at chance" if one["at_chance"] else ""
            count = f"{task} ({told['documents']:,}, {told['split']})"
            rows.append(f"| {count} | {metric} | {score} | {chance} | {majority} | {mark} |")
    section = (
        f"{ZEROSHOT}\n\nIn hundredths, ± standard error over the documents (measured); at chance: "
        "within two of it. How to repeat them is in `evaluations/`.\n\n" + "\n".join(rows) + "\n"
    )
    before, heading, after = card.partition(f"{ZEROSHOT}\n")
    rest = after.partition("\n## ")
    kept = f"\n## {rest[2]}" if heading and rest[1] else ""
    return f"{before.rstrip()}\n\n{section}{kept}"


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


def _shape(config: Mapping[str, Any], spiking: bool) -> dict[str, str]:
    def first(*keys: str) -> Any:
        return next((config[key] for key in keys if config.get(key) is not None), "")

    shape = {
        "width": first("hidden_size", "n_embd"),
        "layers": first("num_hidden_layers", "n_layer"),
        "heads": first("num_attention_heads", "n_head"),
        "vocabulary": f"{first('vocab_size'):,}",
        "positions": first("max_position_embeddings", "n_positions"),
    }
    if config["model_type"] == "neurtransformer":
        shape["attention"] = str(config["attention"])
        shape["feed-forward"] = f"{config['ffn']}, T = {config['steps']}"
    if spiking:
        competition = f", {config['wta']}" if config["attention"] in ("cwssa", "wssa") else ""
        shape["attention"] = f"{config['attention']}{competition}"
        shape["neuron"] = f"{config['neuron']}, {config['steps']}x{config['levels']} (T x D)"
    return {key: str(value) for key, value in shape.items()}


def _results(results: Mapping[str, float], masked: bool) -> str:
    if not results:
        return "The run has no validation result."
    told = {
        "loss": ("loss", "nats a token"),
        "perplexity": ("perplexity", "a token"),
        "bits_per_byte": ("bits per byte", "of the text"),
        "masked_perplexity": ("masked perplexity", "a masked token"),
        "teacher_agreement": ("same likeliest token as the teacher", "share of tokens"),
        "teacher_kl": ("KL from the teacher", "nats a token"),
    }
    rows = {
        f"{told[key][0]}, {told[key][1]}" if key in told else key: f"{value:,.4f}"
        for key, value in results.items()
    }
    of = "masked tokens of " if masked else ""
    return f"On {of}held-out text, at the end of training (measured):\n\n{table(rows)}"


def table(rows: Mapping[str, str]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
