"""What callers get: a dict or a tuple of the same values, and bare logits in a metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, PreTrainedModel, Trainer, TrainingArguments

from spikeformers.models import (
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    NeurTransformerConfig,
    NeurTransformerForCausalLM,
    SpikingViTConfig,
    SpikingViTForImageClassification,
)

Make = Callable[..., Any]
SIZES: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip
SOURCES = {
    "converted gpt2": GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0),
    "converted llama": LlamaConfig(**SIZES, num_key_value_heads=1, intermediate_size=24),
}
KINDS = ["wd", "we", "we-classifier", "bispikclm", *SOURCES, "images"]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, make_model: Make) -> PreTrainedModel:
    kind: str = request.param
    torch.manual_seed(0)
    if kind == "bispikclm":
        return BiSpikCLMForCausalLM(BiSpikCLMConfig(**SIZES, steps=2)).eval()
    if kind in SOURCES:
        config = NeurTransformerConfig(source=SOURCES[kind].to_dict(), steps=4)
        return NeurTransformerForCausalLM(config).eval()
    if kind == "images":
        shape = {"image_size": 8, "num_channels": 1, "sps_stages": 2, "sps_pools": 1}
        config = SpikingViTConfig(**shape, hidden_size=16, num_attention_heads=2, num_labels=3)
        return SpikingViTForImageClassification(config).eval()
    return make_model(kind, firing_rate_weight=0.5)


def examples(model: PreTrainedModel) -> dict[str, Tensor]:
    """Four, with labels."""
    generator = torch.Generator().manual_seed(2)
    if model.main_input_name == "pixel_values":
        pixels = torch.randn(4, 1, 8, 8, generator=generator)
        return {"pixel_values": pixels, "labels": torch.arange(4) % 3}
    ids = torch.randint(0, 23, (4, 9), generator=generator)
    return {
        "input_ids": ids,
        "labels": torch.arange(4) % 2 if hasattr(model, "classifier") else ids,
    }


def same(got: Any, expected: Any) -> bool:
    """Equal tensors, alone or in tuples."""
    if isinstance(expected, tuple):
        return len(got) == len(expected) and all(map(same, got, expected))
    return not isinstance(expected, Tensor) or torch.equal(got, expected)


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_a_tuple_has_the_values_of_the_dict(model: PreTrainedModel, training: bool) -> None:
    """Asked for by the call, or by the config; of the head, and of what is under it."""
    batch = examples(model)
    backbone = model.model
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    batch |= {"output_hidden_states": True}
    for module, given in ((model, batch), (backbone, inputs)):
        module.train(training)
        for part in module.modules():  # every call is to compute the same
            if isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.Dropout)):
                part.eval()
        expected = module(**given)
        assert isinstance(expected, dict)
        got = module(**given, return_dict=False)
        assert type(got) is tuple
        assert same(got, expected.to_tuple())
    model.config.return_dict = False
    got = model(**batch)
    assert type(got) is tuple
    expected = model(**batch, return_dict=True)
    assert isinstance(expected, dict)
    assert same(got, expected.to_tuple())
    assert same(got[0], expected.loss)


def test_a_metric_of_trainer_gets_logits(model: PreTrainedModel, tmp_path: Path) -> None:
    """Not a tuple of logits, loss terms and caches, to which numpy's argmax does not apply."""
    batch, given = examples(model), []

    def accuracy(prediction: Any) -> dict[str, float]:
        given.append(prediction.predictions)
        guess = np.argmax(prediction.predictions, -1)
        return {"accuracy": float((guess == prediction.label_ids).mean())}

    trainer = Trainer(
        model,
        TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=2, report_to=[], use_cpu=True,
            disable_tqdm=True,
        ),
        eval_dataset=[{name: values[i] for name, values in batch.items()} for i in range(4)],
        compute_metrics=accuracy,
    )  # fmt: skip
    measured = trainer.evaluate()
    with torch.no_grad():
        expected = model.eval()(**batch)
    np.testing.assert_allclose(given[0], expected.logits.numpy(), rtol=1e-3, atol=1e-4)
    assert measured["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-4)
    guess = expected.logits.argmax(-1)
    right = (guess == batch["labels"]).double().mean().item()
    assert measured["eval_accuracy"] == pytest.approx(right)
