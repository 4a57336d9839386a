"""The measurement that pair, conversion and compare share."""

from __future__ import annotations

from typing import Any

import pytest

from spikeformers.energy import energy_of
from spikeformers.errors import UsageError
from spikeformers.evaluation import agreement, perplexity
from spikeformers.studies import measure_conversion, measure_model, windows_of
from spikeformers.studies.quality import ENERGY_TOKENS, windows_of_a_batch
from spikeformers.studies.twin import FRESH, twin_of


def test_quality_and_energy_are_those_of_the_library(build: Any, tokens: Any) -> None:
    model, split = build(), tokens.store.split("validation")
    moves: dict[str, list[int]] = {"scoring": [], "counting": []}
    figures = measure_model(
        model, tokens.tokenizer, split, context=16, tokens=64,
        scoring=lambda done, of: moves["scoring"].append(done),
        counting=lambda done, of: moves["counting"].append(done),
    )  # fmt: skip
    quality = perplexity(model, tokens.tokenizer, split, context=16, max_tokens=64)
    assert figures.quality == quality
    energy = energy_of(model, windows_of(split, 16, 64))
    assert figures.energy.as_dict() == energy.as_dict()
    assert figures.parameters == model.num_parameters()
    assert moves["counting"] == [0, 1]
    assert moves["scoring"][-1] == 64


def test_events_are_counted_on_a_budget_of_tokens(build: Any, tokens: Any) -> None:
    split = tokens.store.split("validation")
    figures = measure_model(
        build(), tokens.tokenizer, split, context=16, tokens=96, energy_tokens=32
    )
    assert figures.energy.tokens == 32
    assert figures.quality.tokens == 96
    assert ENERGY_TOKENS == 4096


@pytest.mark.parametrize(
    ("context", "vocabulary", "windows"),
    [(128, 2048, 8), (512, 8192, 8), (512, 8193, 7), (512, 49152, 1), (8192, 49152, 1)],
)
def test_a_batch_is_as_large_as_its_logits_allow(
    context: int, vocabulary: int, windows: int, build: Any
) -> None:
    model = build()
    model.config.vocab_size = vocabulary
    assert windows_of_a_batch(model, context) == windows
    assert windows == 1 or windows * context * vocabulary <= 2**25  # 128 MiB in float32


def test_figures_do_not_depend_on_the_batch(
    build: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures() -> dict[str, Any]:
        split = tokens.store.split("validation")
        model, twin = build(), build(control=True)
        return measure_conversion(model, twin, tokens.tokenizer, split, context=16, tokens=128)

    together = figures()
    monkeypatch.setattr("spikeformers.studies.quality.LOGITS", 1)
    alone = figures()
    for side in ("original", "spiking"):
        assert alone[side]["energy"]["papers"] == together[side]["energy"]["papers"]
        assert alone[side]["nats_per_token"] == pytest.approx(together[side]["nats_per_token"])
    assert alone["agreement"] == pytest.approx(together["agreement"])


def test_both_sides_of_a_conversion(build: Any, tokens: Any) -> None:
    spiking, dense = build(), build(control=True)
    split, stages = tokens.store.split("validation"), []
    result = measure_conversion(
        spiking, dense, tokens.tokenizer, split, context=16, tokens=64,
        progress=lambda stage, done, of: stages.append(stage),
    )  # fmt: skip
    agreed = agreement(spiking, dense, split, context=16, max_tokens=64)
    assert result["agreement"] == agreed.as_dict()
    figures = measure_model(dense, tokens.tokenizer, split, context=16, stride=15, tokens=64)
    assert result["original"]["nats_per_token"] == figures.quality.nats_per_token
    assert result["original"]["energy"]["papers"] == figures.energy.picojoules_per_token
    assert {"perplexity, spiking", "energy, original", "agreement"} <= set(stages)
    stages.clear()
    again = measure_conversion(
        spiking, dense, tokens.tokenizer, split, context=16, tokens=64,
        original_figures=result["original"],
        progress=lambda stage, done, of: stages.append(stage),
    )  # fmt: skip
    assert again == result
    assert "perplexity, original" not in stages


def test_the_twin_of_a_config(build: Any, tmp_path: Any) -> None:
    spiking, dense = build(), build(control=True)
    fresh, weights = twin_of(spiking.config)
    assert (type(fresh), weights) == (type(dense), FRESH)
    assert twin_of(dense.config) == (None, None)
    dense.save_pretrained(tmp_path / "dense")
    trained, weights = twin_of(spiking.config, tmp_path / "dense")
    assert weights == str(tmp_path / "dense")
    assert trained.lm_head.weight.equal(dense.lm_head.weight)
    spiking.config.vocab_size = 999
    with pytest.raises(UsageError, match="takes 258 words, fewer than the model's 999"):
        twin_of(spiking.config, tmp_path / "dense")
