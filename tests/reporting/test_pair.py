from __future__ import annotations

import json

import pytest

from spikeformers.energy import energy_of
from spikeformers.engine import Engine
from spikeformers.export import pack
from spikeformers.reporting import engine_note, pair_rows, report_pair
from spikeformers.studies import Trained, measure_pair, windows_of
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
    study = measure_pair(
        pair["spiking"],
        pair["control"],
        tokens.store,
        corpus=tokens.corpus,
        context=32,
        seed=4,
        prompt="the ",
        sentence="the spike wins",
        settings={"steps": 3},
        no_engine="no compiler",
    )
    summary = report_pair(tmp_path, study)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    windows = windows_of(tokens.store.split("validation"), 32, 4096)
    for name, run in pair.items():
        energy = energy_of(run.model, windows)
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
    assert summary["engine"] == {"absent": "no compiler"}
    assert "The engine did not run: no compiler" in page
    assert engine_note(summary) == "The engine did not run: no compiler"


def test_the_engine_stands_beside_pytorch(pair, tokens, tmp_path):
    pytest.importorskip("spikeformers.kernels._native")
    packed = pack(pair["spiking"].model, tokens.tokenizer, "int8")
    stages = []
    study = measure_pair(
        pair["spiking"],
        pair["control"],
        tokens.store,
        corpus=tokens.corpus,
        context=32,
        seed=4,
        prompt="the ",
        sentence="the spike wins",
        settings={"steps": 3},
        engine=Engine(packed, threads=1),
        progress=lambda stage, done, of: stages.append(stage),
    )
    summary = report_pair(tmp_path, study, lambda stage, done, of: stages.append(stage))
    speed = summary["engine"]["generation_tokens_per_second"]
    assert speed > 0
    assert summary["engine"]["weights"] == "int8"
    row = ("generation speed, engine (int8), tokens/s", f"{speed:,.0f}", "-", "measured")
    assert pair_rows(summary)[-1] == row
    ratio = speed / summary["spiking"]["generation_tokens_per_second"]
    assert f"{ratio:,.1f} times the spiking model in PyTorch" in engine_note(summary)
    assert engine_note(summary).split(".")[0] in (tmp_path / "report.html").read_text()
    assert {"timing", "scoring, spiking", "scoring, dense twin", "drawing"} <= set(stages)


def test_a_perplexity_per_word_is_not_among_the_rows(pair):
    side = dict.fromkeys(("bits_per_byte", "word_perplexity"), 3_588_127.0)
    assert not [row for row in pair_rows({"spiking": side, "control": side}) if "word" in row[0]]


def test_rows_say_what_a_side_has_not():
    side = dict.fromkeys(
        ("bits_per_byte", "perplexity", "word_perplexity", "energy_pj_per_token"), 2000.0
    )
    side |= dict.fromkeys(("parameters", "tokens_seen"), 12345)
    rows = {row[0]: row[1:] for row in pair_rows({"spiking": side, "control": side})}
    assert rows["firing density"] == ("-", "-", "measured")
    assert rows["energy, matrix products, nJ per token"] == ("2.0", "2.0", "estimated")
    assert rows["parameters"] == ("12,345", "12,345", "")
