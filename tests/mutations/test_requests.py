"""Recipes and price tables: YAML that a user writes."""

from __future__ import annotations

import json
import random
from importlib import resources
from pathlib import Path

import yaml

from spikeformers.energy.pricing.price_table import load_table
from spikeformers.runs.recipe import from_assignments, read_recipe

from .conftest import Survive, change_bytes, change_value

RECIPE = """\
preset: wd-spikingformer-tiny
control: false
model: {wta: top_k, winners: 3, attention_scale: 0.5, firing_rate_targets: {mlp: 0.1}}
train: {steps: 20, context: 16, learning_rate: 2e-3, betas: [0.9, 0.95], schedule: cosine}
data: {source: builtin, tokenizer: bpe:300, text_field: text, validation_fraction: 0.1}
distill: {teacher: runs/x, sta: 0.3, layer_map: [1, 2], saa_heads: learned, sfa_hidden: 0}
"""


def change_yaml(content: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return change_bytes(content, draw)
    changed = change_value(yaml.safe_load(content), draw)
    if draw.random() < 0.5:
        return json.dumps(changed).encode()
    return yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")


def test_recipe(survive: Survive, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        read_recipe(file).check()

    came = survive(RECIPE.encode(), change_yaml, use)
    assert came["fine"]
    assert came["refused"]


def test_assignments(survive: Survive) -> None:
    lines = [f"{key}={json.dumps(value)}" for part in yaml.safe_load(RECIPE).values()
             if isinstance(part, dict) for key, value in part.items()]  # fmt: skip
    given = ("preset=wd-spikingformer-tiny", "source=builtin")

    def use(mutant: bytes) -> None:
        from_assignments([*given, mutant.decode("utf-8", "replace")]).check()

    came = survive("\n".join(lines).encode(), _change_one, use)
    assert came["fine"]
    assert came["refused"]


def _change_one(content: bytes, draw: random.Random) -> bytes:
    return change_bytes(draw.choice(content.splitlines()), draw)


def test_price_table(survive: Survive, tmp_path: Path) -> None:
    folder = resources.files("spikeformers.energy.pricing") / "price_tables"
    content = min(folder.iterdir(), key=lambda path: path.name).read_bytes()
    file = tmp_path / "prices.yaml"

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        table = load_table(str(file))
        json.dumps(table.as_dict())
        table.home(1e9)

    came = survive(content, change_yaml, use)
    assert came["refused"]
