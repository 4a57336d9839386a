"""Model cards of image classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

import spikeformers
from spikeformers.reporting.card import facts_of, table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.training import TrainConfig, TrainResult
    from spikeformers.training.vision import ImageStore


def vision_card(
    name: str,
    model: PreTrainedModel,
    store: ImageStore,
    config: TrainConfig,
    result: TrainResult,
) -> str:
    """The card of an image classifier that `train` has just trained."""
    settings: Any = model.config
    kind, data = str(settings.model_type), store.data
    facts = facts_of(settings.to_dict())
    front = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": facts.tags(kind),
    }
    shape = {
        "width": settings.hidden_size,
        "layers": settings.num_hidden_layers,
        "heads": settings.num_attention_heads,
        "image": f"{settings.num_channels} x {settings.image_size} x {settings.image_size}",
    }
    shape |= facts.rows
    images = {
        "name": data.name,
        "sha256": data.digest,
        "images": ", ".join(f"{len(part):,} {split}" for split, part in data.splits.items()),
        "validation": data.split_by,
    }
    training = {
        "steps": f"{result.steps:,}",
        "images seen": f"{result.tokens_seen:,}",
        "batch": str(config.batch_size),
        "learning rate": f"{config.learning_rate:g}, {config.schedule}",
        "seed": str(config.seed),
        "time": f"{result.seconds:,.1f} s (measured)",
    }
    results = {key: f"{value:.4f}" for key, value in result.final_validation.items()}
    prep = store.prep
    loading = (
        "## Loading it\n\n```python\nimport spikeformers  # registers the models\n"
        "from transformers import AutoModelForImageClassification\n\n"
        'model = AutoModelForImageClassification.from_pretrained(".").eval()  # this folder\n'
        f"# pixel_values: [B, {', '.join(map(str, prep.shape))}], "
        f"(byte / 255 - {prep.mean}) / {prep.std}\n"
        "logits = model(pixel_values=pixel_values).logits\n```"
    )
    sections = [
        f"# {name}\n\n{facts.heading}, {model.num_parameters():,} "
        f"parameters, trained from scratch with spikeformers {spikeformers.__version__}.",
        loading,
        "## Shape\n\n" + table({key: str(value) for key, value in shape.items()}),
        "## Data\n\n" + table(images),
        "## Training\n\n" + table(training),
        "## Results\n\nOn validation images, at the end of training (measured):\n\n"
        + table(results),
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"
