"""Report of a conversion: the attention block's energy by hand, rows, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from spikeformers.energy import energy_of
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.reporting import conversion_rows
from spikeformers.reporting.conversion_pictures import against_steps, by_block, rates
from spikeformers.studies.conversion import block_energies

CONFIG = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def test_energy_of_the_attention_block() -> None:
    torch.manual_seed(0)
    dense = GPT2LMHeadModel(CONFIG).eval()
    result = block_energies(energy_of(dense, [IDS]), dense)
    # a token: 2 layers of q, k, v, out (4 x 16 x 16), and scores and values of (i + 1) keys, i < 9
    macs = 2 * (4 * 16 * 16 + 2 * 16 * 5)
    assert result["attention_papers"] == pytest.approx(4.6 * macs)
    assert result["attention_with_elementwise"] > result["attention_papers"]
    assert result["density"] is None
    spiking = NeurTransformerForCausalLM(
        NeurTransformerConfig(source=CONFIG.to_dict(), attention="ssa", ffn="kept", steps=2)
    ).eval()
    report = energy_of(spiking, [IDS])
    ours = block_energies(report, spiking)
    parts = ("attention projections", "attention scores and values")
    assert ours["attention_papers"] == sum(report.by_component[p].picojoules for p in parts)
    neurons = report.by_component["neurons"].elementwise  # all of them are attention's
    norms = 2 * (16 * (0.9 + 3 * 3.7) + 2 * 3.7)
    elementwise = sum(report.by_component[p].with_elementwise for p in parts)
    assert ours["attention_with_elementwise"] == pytest.approx(elementwise + neurons + norms)


def summary() -> dict[str, Any]:
    def side(perplexity: float, scale: float, density: float | None) -> dict[str, Any]:
        energy = dict.fromkeys(
            (
                *("papers", "with_elementwise", "mlp_papers"),
                *("attention_papers", "attention_with_elementwise"),
            ),
            1000.0 * scale,
        )
        return {
            "perplexity": perplexity,
            "bits_per_byte": 1.5,
            "energy": energy | {"density": density, "mean_count": 2.0},
        }

    return {
        "spiking": side(30.5, 1.0, 0.7),
        "original": side(30.0, 4.0, None),
        "agreement": {"agreement": 0.9, "logit_cosine": 0.99, "hidden_cosine": 0.98},
    }


def test_rows() -> None:
    rows = {row[0]: row[1:] for row in conversion_rows(summary())}
    assert rows["perplexity, per token"] == ("30.50", "30.00", "measured")
    assert rows["same most likely token"] == ("0.9000", "1", "measured")
    assert rows["attention block, papers' sum, nJ per token (0.250 of the original's)"] == (
        *("1.0", "4.0", "estimated"),
    )


def test_pictures(tmp_path: Path) -> None:
    layers = [
        {
            "layer": layer,
            "part": part,
            "relative_error": 0.1,
            "neurons": {"fire_in": {"rate": 0.2}},
        }
        for layer in range(2)
        for part in ("attention", "mlp")
    ]
    by_block(tmp_path / "a.png", layers, "relative_error")
    rates(tmp_path / "b.png", layers)
    against_steps(
        tmp_path / "c.png",
        {"signed-if": {1: 3.0, 2: 2.0}},
        ylabel="perplexity",
        title="",
        level=1.0,
    )
    for name in "abc":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
