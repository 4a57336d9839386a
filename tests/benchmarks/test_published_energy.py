"""The script behind docs/published-energy.md, against sums done by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "published_energy.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_energy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # the script imports its neighbour
        spec.loader.exec_module(module)
    return module


def test_energies_and_lengths_by_hand(script):
    rows = script.dense_row(126.0, {"OPT-125M": script.OPT_125M})
    plain = next(r for r in rows if (r["attention"], r["head"]) == ("none", "left out"))
    # 12 layers of 12 * 768^2 weights: 84,934,656 MACs per token, 0.39070 mJ
    assert plain["millijoules"][512] == pytest.approx(512 * 84_934_656 * 4.6e-9)
    assert plain["tokens_needed"] == pytest.approx(126 / (84_934_656 * 4.6e-9))
    square = next(r for r in rows if (r["attention"], r["head"]) == ("square", "counted"))
    tokens = square["tokens_needed"]
    whole = (84_934_656 + 768 * 50272) * tokens + 12 * 2 * 768 * tokens**2
    assert whole * 4.6e-9 == pytest.approx(126, rel=1e-4)


def test_ratios_need_no_length(script):
    two, four = script.bispikclm_rows()[:2]
    assert two["count_needed"] == pytest.approx(0.0416 * 46 / 9)
    assert two["rate_needed"] == pytest.approx(two["count_needed"] / 2)
    assert four["share_of_dense"] == pytest.approx(0.0748, abs=1e-4)
    # a head of 768 x 50272 beside blocks of 84.9 M and attention of 2048 tokens
    head, blocks = 768 * 50272, 84_934_656 + 12 * 2 * 768 * 2049 / 2
    assert two["least_share_with_a_real_head"] == pytest.approx(head / (head + blocks))


def test_a_real_part_needs_a_long_text(script):
    row = script.ssa_rows()[0]
    assert row["count_needed"] == pytest.approx((1 - 0.6471) * 46 / 9)
    tokens = row["least_tokens_with_real_projections"]["GPT-2 124M"]["Q, K, V"]
    share = [3 * 768 / (4 * 768 + 2 * n) for n in (tokens - 1, tokens)]
    assert share[1] <= 1 - 0.6471 < share[0]
    assert "output" not in row["least_tokens_with_real_projections"]["GPT-2 124M"]


def test_spiking_rows(script):
    rows = script.spiking_row(238.4, script.WD["WD-0.4B"])
    counts = {(r["tokens"], r["head"]): r["count_needed"] for r in rows}
    blocks = 512 * 301_989_888 + 24 * 2 * 1024 * 512 * 513 / 2
    head = 512 * 1024 * 50257
    assert counts[512, "left out"] == pytest.approx(238.4e9 / (0.9 * blocks))
    assert counts[512, "real, 4.6 pJ"] == pytest.approx((238.4e9 - 4.6 * head) / (0.9 * blocks))
    assert counts[1024, "real, 4.6 pJ"] is None  # the head alone is 242 mJ


def test_what_is_kept_is_what_the_script_says(script):
    kept = json.loads((SCRIPT.parent / "results" / "published-energy.json").read_text("utf-8"))
    now = json.loads(json.dumps(script.recompute()))
    kept.pop("own_counts"), now.pop("own_counts")  # of other results, which may be made anew
    assert kept == now
