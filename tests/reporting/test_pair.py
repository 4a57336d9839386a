from __future__ import annotations

import json

import pytest

from spikeformers.energy import energy_of
from spikeformers.reporting import Trained, pair_rows, report_pair, windows_of
from spikeformers.training import TrainConfig, train


@pytest.fixture
def pair(build, tokens, tmp_path):
    """Both sides, trained for three steps."""
    config = TrainConfig(
        steps=3, context=32, batch_size=4, eval_batches=1, log_every=1, device="cpu"
    )
    sides = {}
    for name in ("spiking", "control"):
        model, folder = build(control=name == "control"), tmp_path / name
        train(model, tokens.store, tokens.tokenizer, folder, config, progress=False)
        sides[name] = Trained(folder, model, tokens.tokenizer, f"text of <{name}>")
    return sides


def test_the_report_of_a_pair(pair, tokens, tmp_path):
    summary = report_pair(
        tmp_path,
        pair["spiking"],
        pair["control"],
        tokens.store,
        corpus=tokens.corpus,
        context=32,
        seed=4,
        prompt="the ",
        sentence="the spike wins",
        settings={"steps": 3},
    )
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    windows = windows_of(tokens.store.split("validation"), 32, 4096)
    for name, one in pair.items():
        energy = energy_of(one.model, windows)
        assert summary[name]["energy_pj_per_token"] == energy.picojoules_per_token
        assert summary[name]["tokens_seen"] == 3 * 4 * 32
        parts = summary[name]["energy_by_component_pj_per_token"]
        assert sum(parts.values()) == pytest.approx(energy.with_elementwise_per_token)
    assert summary["spiking"]["density"] == energy_of(pair["spiking"].model, windows).density
    assert summary["corpus"]["sha256"] == tokens.corpus.digest

    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 5
    assert "text of &lt;spiking&gt;" in page
    assert "seed 4" in page
    energy = [row for row in pair_rows(summary) if "energy" in row[0]]
    assert {row[3] for row in energy} == {"estimated"}
    measured = [row for row in pair_rows(summary) if "speed" in row[0] or "time" in row[0]]
    assert {row[3] for row in measured} == {"measured"}
    assert len(energy) == 2
    assert len(measured) == 3


def test_rows_say_what_a_side_has_not():
    side = dict.fromkeys(
        ("bits_per_byte", "perplexity", "word_perplexity", "energy_pj_per_token"), 2000.0
    )
    side |= dict.fromkeys(("parameters", "tokens_seen"), 12345)
    rows = {row[0]: row[1:] for row in pair_rows({"spiking": side, "control": side})}
    assert rows["firing density"] == ("-", "-", "measured")
    assert rows["energy, matrix products, nJ a token"] == ("2.0", "2.0", "estimated")
    assert rows["parameters"] == ("12,345", "12,345", "")
