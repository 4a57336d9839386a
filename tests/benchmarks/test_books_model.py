"""The pages of the packaged model say what was measured, and what was not."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spikeformers.export.quantising import int8
from spikeformers.packaged.restoring import columns_of

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("books_model")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def pages(script: Any) -> Any:
    return sys.modules["_books_pages"]


def figures(bits: float) -> dict[str, Any]:
    return {
        **{"bits_per_byte": bits, "nats_per_token": 3.5, "parameters": 1000, "tokens": 50},
        **{"decode_picojoules": 2e6, "tokens_seen": 20},
        "config": {"learning_rate": 2.5e-3, "context": 256, "tokens": 20},
        **{"model": {"budget": 0.2}, "shape": [256, 6, 8, 4096]},
        "curve": [{"tokens_seen": 10, "bits_per_byte": 2.0, "seconds": 1.0}],
    }


def result(**more: Any) -> dict[str, Any]:
    return {
        "spiking": figures(1.5),
        "shipped": figures(1.51) | {"read": 0.21, "density": 0.18, "bytes": {"a": 6_000_000}},
        "data": {
            "splits": {
                "train": {"documents": 2, "tokens": 9},
                "test": {"documents": 1, "tokens": 50},
            },
            "books": {"train": [["A", "B", "1900"], ["C", "", ""]], "test": [["D", "E", ""]]},
        },
        "samples": {"spiking": [f" text {seed}" for seed in range(10)]},
        **{"commit": "abc", "torch": "2"},
        **more,
    }


def test_what_is_shipped_stands_beside_what_was_trained(pages: Any) -> None:
    table = pages.figures_table(result())
    assert "| bits per byte on test | 1.5000 | 1.5100 | not yet trained |" in table
    assert "| weights read per token, counted |  | 0.210 | 1 |" in table
    with_twin = pages.figures_table(result(twin=figures(1.4)))
    assert "| bits per byte on test | 1.5000 | 1.5100 | 1.4000 |" in with_twin
    assert "not yet trained" not in with_twin
    assert "Files: 6.0 MB" in pages.note(result())
    assert "tested on all 50 tokens of 1 others" in pages.note(result())


def test_a_checkpoint_from_before_the_end_says_so(pages: Any) -> None:
    early = result(spiking=figures(1.5) | {"tokens_seen": 15})
    assert pages.note(early).startswith("**A checkpoint of a run that is not finished: 15 of 20 t")
    assert "not finished" not in pages.note(result())


def test_all_samples_are_shown_and_none_is_read_as_markdown(pages: Any) -> None:
    given = result()
    given["samples"]["twin"] = ["\n# *bold* <b>"] * 10
    text = pages.samples_text(given)
    assert [f"**Seed {seed}**" in text for seed in range(10)] == [True] * 10
    assert f"> {pages.PROMPT} text 7" in text
    assert "> \\# \\*bold\\* \\<b\\>" in text
    assert "Not yet trained." in pages.samples_text(result())


def test_books_are_listed_by_title_and_author(script: Any, pages: Any, tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("# Title: A Tale\n\n## Author: N. N.\n\n## Year: 1850\n\nText")
    (tmp_path / "two.md").write_text("No head at all")
    assert script.titles(tmp_path) == [["A Tale", "N. N.", "1850"], ["two", "", ""]]
    listed = pages.list_of_books(result())
    assert listed.startswith("**train** (2 books)\n\n- A, B, 1900\n- C\n")


def test_parameters_are_found_as_columns_of_the_engines_matrices(script: Any) -> None:
    draw = np.random.default_rng(0)
    query, key, vector = (draw.standard_normal(s).astype(np.float32) for s in ((4, 6), (4, 6), 6))
    whole, scale = int8(np.concatenate((query, key)).T)
    packed = {"qkv": whole, "qkv.scale": scale, "norm": vector}
    places, rest = script.split(packed, {"q": query, "k": key, "n": vector, "other": query[:, :5]})
    assert places == {"q": ["qkv", 0, 4], "k": ["qkv", 4, 8]}
    assert rest.keys() == {"n", "other"}
    restored = columns_of(packed, *places["k"])
    assert np.abs(restored - key).max() <= scale.max() * 0.501
    assert np.array_equal(restored, (whole[:, 4:] * scale[4:]).T)


def test_a_twin_of_other_training_does_not_join(script: Any, tmp_path: Path) -> None:
    shared = {"tokens": 20, "batch_size": 8, "context": 256, "gradient_accumulation": 1, "seed": 0}
    kept = result()
    kept["spiking"]["config"] |= shared
    kept["data"]["digest"] = "a"
    model = dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"))
    run = {"config": {**shared, "batch_size": 16, "learning_rate": 1e-3}, "model": model}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    line = {"kind": "validation", "tokens_seen": 20, "bits_per_byte": 1.5, "seconds": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    store = SimpleNamespace(manifest={"corpus": {"digest": "a"}})
    with pytest.raises(SystemExit, match=r"is not a twin: .*'batch_size': 8.*'batch_size': 16"):
        script.add_twin(kept, tmp_path, store)
    assert "twin" not in kept
