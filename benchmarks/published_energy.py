"""The published energies of four papers, recomputed: what makes each row, or that nothing does.

    python benchmarks/published_energy.py

Writes results/published-energy.json and .md. Everything here is arithmetic on shapes and published
figures: 4.6 pJ per multiply-accumulate, 0.9 pJ per accumulate, MACs of
`energy.counting.sizes` (which a test compares with the tracer). Values that none of the four
papers states (tokens, which products, firing rates) are solved for, and compared with the firing of
our own small models in a counted run (quality-wikitext-2.json, distill-wikitext-2.json).
docs/published-energy.md discusses the results.
"""

from __future__ import annotations

import json
import math
from typing import Any, get_args

from _sweep import RESULTS, save_table
from spikeformers.energy.counting.sizes import Macs, Pairs, TransformerShape
from spikeformers.energy.pricing.paper_sum import ADD_FP32, MAC_FP32
from spikeformers.reporting.tables import markdown

MAC, AC = MAC_FP32.picojoules, ADD_FP32.picojoules
LENGTHS = (128, 256, 512, 1024, 2048)
HEADS = ("left out", "counted")

# Shapes: the models' public configs, and for WD-Spikingformer, whose widths the notes on the paper
# do not have, those of the presets (0.35 and 1.02 billion parameters).
QWEN = TransformerShape(1536, 28, 8960, 151936, key_width=256, gated=True)
QWEN_MHA = TransformerShape(1536, 28, 8960, 151936, gated=True)
OPT_125M = TransformerShape(768, 12, 3072, 50272)
OPT_1B3 = TransformerShape(2048, 24, 8192, 50272)
WD = {
    "WD-0.4B": TransformerShape(1024, 24, 4096, 50257),
    "WD-1.0B": TransformerShape(1792, 24, 7168, 50257),
}
OTHER_1B0 = {
    "1536 x 32": TransformerShape(1536, 32, 6144, 50257),
    "2048 x 20": TransformerShape(2048, 20, 8192, 50257),
}
GPT2 = {"GPT-2 124M": 768, "GPT-2 355M": 1024, "GPT-2 774M": 1280}

PUBLISHED_MJ = {
    **{"Qwen-1.5B": 3398.0, "WD-0.4B": 238.4, "WD-1.0B": 575.0},
    **{"OPT-125M": 126.0, "BiSpikCLM-125M, T = 4": 9.43},
}
BISPIKCLM = {  # share of the dense model's energy, steps, shape
    "BiSpikCLM-125M, T = 2": (0.0416, 2, OPT_125M),
    "BiSpikCLM-125M, T = 4": (9.43 / 126, 4, OPT_125M),
    "BiSpikCLM-1.3B, T = 2": (0.0587, 2, OPT_1B3),
    "BiSpikCLM-1.3B, T = 4": (0.106, 4, OPT_1B3),
}
SSA_SAVED = (0.6471, 0.8528)


def millijoules(macs: float, price: float = MAC) -> float:
    return macs * price * 1e-9


def dense_row(published: float, shapes: dict[str, TransformerShape]) -> list[dict[str, Any]]:
    """Energies at round lengths, and the length that would give the published one."""
    rows = []
    for name, shape in shapes.items():
        for pairs in get_args(Pairs):
            for head in HEADS:

                def energy(tokens: int, shape=shape, pairs=pairs, head=head) -> float:
                    macs = shape.macs(tokens, pairs)
                    return millijoules(macs.total if head == "counted" else macs.blocks)

                rows.append(
                    {
                        **{"shape": name, "attention": pairs, "head": head},
                        "millijoules": {tokens: energy(tokens) for tokens in LENGTHS},
                        "tokens_needed": solve(energy, published),
                    }
                )
    return rows


def solve(energy: Any, published: float) -> float:
    """The number of tokens, between whole ones by a straight line, at which ``energy`` is that."""
    low = 1
    while energy(2 * low) < published:
        low *= 2
    step = low
    while step >= 1:
        if energy(low + step) < published:
            low += step
        else:
            step //= 2
    return low + (published - energy(low)) / (energy(low + 1) - energy(low))


def nearest_round(rows: list[dict[str, Any]], published: float) -> dict[str, Any]:
    """The variant and round length whose energy is nearest."""
    best = min(
        ((row, tokens) for row in rows for tokens in LENGTHS),
        key=lambda candidate: abs(math.log(candidate[0]["millijoules"][candidate[1]] / published)),
    )
    row, tokens = best
    computed = row["millijoules"][tokens]
    kept = {key: row[key] for key in ("shape", "attention", "head")}
    return {**kept, "tokens": tokens, "millijoules": computed, "off_by": computed / published - 1}


def spiking_row(published: float, shape: TransformerShape) -> list[dict[str, Any]]:
    """Accumulates per MAC (rate times T, or mean count) that would give the published energy."""
    rows = []
    for tokens in LENGTHS:
        macs = shape.macs(tokens)
        for head, real, spiking in (
            ("left out", 0, macs.blocks),
            ("spike-driven", 0, macs.total),
            ("real, 4.6 pJ", macs.head, macs.blocks),
        ):
            left = published - millijoules(real)
            count = left / millijoules(spiking, AC) if left > 0 else None
            rows.append({"tokens": tokens, "head": head, "count_needed": count})
    return rows


def count_with_a_real_head(published: float, shape: TransformerShape, tokens: int) -> float:
    """Accumulates per MAC of the blocks where the head is multiply-accumulates."""
    macs = shape.macs(tokens)
    return (published - millijoules(macs.head)) / millijoules(macs.blocks, AC)


def alike(large: TransformerShape) -> dict[str, float]:
    """The tokens at which WD-0.4B and WD-1.0B would fire alike, with a real head."""
    sides = (("WD-0.4B", WD["WD-0.4B"]), ("WD-1.0B", large))
    needed = {
        tokens: [count_with_a_real_head(PUBLISHED_MJ[n], shape, tokens) for n, shape in sides]
        for tokens in range(64, 1025)
    }
    tokens = min(needed, key=lambda n: abs(needed[n][0] - needed[n][1]))
    count = needed[tokens][0]
    return {"tokens": tokens, "count_needed": count}


def against_the_dense(dense: Macs, spiking: Macs, ratio: float, head: str) -> float:
    """Accumulates per MAC from a ratio of two energies over the same number of tokens."""
    dense_macs, spiking_macs = (
        m.total if head == "counted" else m.blocks for m in (dense, spiking)
    )
    return ratio * MAC * dense_macs / (AC * spiking_macs)


def bispikclm_rows() -> list[dict[str, Any]]:
    rows = []
    for name, (share, steps, shape) in BISPIKCLM.items():
        macs = shape.macs(2048)  # OPT's context: the longer the text, the smaller the head's part
        count = share * MAC / AC
        rows.append(
            {
                **{"row": name, "share_of_dense": share, "steps": steps},
                "count_needed": count,
                "rate_needed": count / steps,
                "least_share_with_a_real_head": macs.head / macs.total,
            }
        )
    return rows


def ssa_rows() -> list[dict[str, Any]]:
    """What the block's savings leave for spikes, and how long a text a real part would need."""
    rows = []
    for saved in SSA_SAVED:
        count = (1 - saved) * MAC / AC
        rows.append(
            {
                **{"saved": saved, "count_needed": count},
                "rate_needed": {steps: count / steps for steps in (2, 4, 8, 16)},
                "least_tokens_with_real_projections": {
                    name: {
                        # real / (real + spiking) <= 1 - saved; per token 4 width^2 and 2 width T
                        real: math.ceil((part / (1 - saved) - 4) * width / 2)
                        for real, part in (("Q, K, V", 3), ("output", 1))
                        if part / (1 - saved) > 4
                    }
                    for name, width in GPT2.items()
                },
            }
        )
    return rows


def own_counts() -> dict[str, dict[str, float]]:
    """Accumulates per MAC of a dense model's in the counted runs of our own small models."""
    counts = {}
    for title, file, row, steps in (
        ("WD tiny, NI-LIF 1x16, firing-rate target 0.1", "quality-wikitext-2", "cwssa-hard", 1),
        ("WD tiny, no firing-rate target", "quality-wikitext-2", "cwssa-hard, any density", 1),
        ("BiSpikCLM tiny, T = 2", "distill-wikitext-2", None, 2),
    ):
        kept = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
        chosen = [result for result in kept if row is None or result.get("row") == row]
        if not chosen:
            raise SystemExit(f"{file}.json has no row {row!r}.")
        energy = chosen[0]["energy"]
        blocks = [
            energy["by_component"][part]
            for part in ("attention projections", "attention scores and values", "mlp")
        ]
        counts[title] = {
            "blocks": steps * sum(p["sop"] for p in blocks) / sum(p["macs"] for p in blocks),
            "with_head": steps * energy["sop_per_token"] / energy["macs_per_token"],
        }
    return counts


def recompute() -> dict[str, Any]:
    qwen = dense_row(PUBLISHED_MJ["Qwen-1.5B"], {"grouped keys": QWEN, "as many keys": QWEN_MHA})
    opt = dense_row(PUBLISHED_MJ["OPT-125M"], {"OPT-125M": OPT_125M})
    return {
        "prices": {"mac_pj": MAC, "ac_pj": AC, "source": MAC_FP32.source},
        "published_mj": PUBLISHED_MJ,
        "qwen": {"rows": qwen, "nearest": nearest_round(qwen, PUBLISHED_MJ["Qwen-1.5B"])},
        "opt": {"rows": opt, "nearest": nearest_round(opt, PUBLISHED_MJ["OPT-125M"])},
        "wd": {
            name: {
                "rows": spiking_row(PUBLISHED_MJ[name], shape),
                "count_by_ratio_to_qwen": {
                    head: against_the_dense(
                        QWEN.macs(512),
                        shape.macs(512),
                        PUBLISHED_MJ[name] / PUBLISHED_MJ["Qwen-1.5B"],
                        head,
                    )
                    for head in HEADS
                },
            }
            for name, shape in WD.items()
        },
        "wd_ratio": {
            "published": PUBLISHED_MJ["WD-1.0B"] / PUBLISHED_MJ["WD-0.4B"],
            "macs_of_blocks": WD["WD-1.0B"].macs(512).blocks / WD["WD-0.4B"].macs(512).blocks,
        },
        "wd_alike_with_a_real_head": {
            name: alike(shape) for name, shape in {"1792 x 24": WD["WD-1.0B"], **OTHER_1B0}.items()
        },
        "bispikclm": bispikclm_rows(),
        "ssa": ssa_rows(),
        "own_counts": own_counts(),
    }


def dense_table(rows: list[dict[str, Any]]) -> str:
    return markdown(
        ("shape", "attention", "head", *(f"mJ at {n}" for n in LENGTHS[:-1]), "tokens needed"),
        [
            (
                *(row["shape"], row["attention"], row["head"]),
                *(f"{row['millijoules'][n]:,.1f}" for n in LENGTHS[:-1]),
                f"{row['tokens_needed']:,.1f}",
            )
            for row in rows
        ],
    )


def page(record: dict[str, Any]) -> str:
    """The tables in Markdown."""
    wd = record["wd"]
    parts = ["**Qwen-1.5B, 3398 mJ** (estimated)\n", dense_table(record["qwen"]["rows"])]
    parts += ["**OPT-125M, 126 mJ** (estimated)\n", dense_table(record["opt"]["rows"])]
    parts += [
        "**WD-Spikingformer**: accumulates per MAC that the published energy needs\n",
        markdown(
            ("tokens", "head", *(f"{name}, {PUBLISHED_MJ[name]} mJ" for name in wd)),
            [
                (
                    *(str(rows[0]["tokens"]), rows[0]["head"]),
                    *(
                        "none" if r["count_needed"] is None else f"{r['count_needed']:.2f}"
                        for r in rows
                    ),
                )
                for rows in zip(*(entry["rows"] for entry in wd.values()), strict=True)
            ],
        ),
        "The same, from the ratio to Qwen-1.5B's energy, whatever the number of tokens\n",
        markdown(
            ("head", *wd),
            [
                (head, *(f"{entry['count_by_ratio_to_qwen'][head]:.2f}" for entry in wd.values()))
                for head in HEADS
            ],
        ),
        "Where both would fire alike, were the head real, by the unknown shape of WD-1.0B\n",
        markdown(
            ("WD-1.0B", "tokens", "accumulates per MAC of the blocks"),
            [
                (name, str(entry["tokens"]), f"{entry['count_needed']:.2f}")
                for name, entry in record["wd_alike_with_a_real_head"].items()
            ],
        ),
        "**BiSpikCLM**\n",
        markdown(
            (
                "row",
                "of the dense energy",
                "accumulates per MAC",
                "per step",
                "a real head alone, at 2048 tokens",
            ),
            [
                (
                    *(row["row"], f"{row['share_of_dense']:.2%}", f"{row['count_needed']:.3f}"),
                    f"{row['rate_needed']:.3f}",
                    f"{row['least_share_with_a_real_head']:.1%}",
                )
                for row in record["bispikclm"]
            ],
        ),
        "**SSA block of NeurTransformer**\n",
        markdown(
            ("saved", "accumulates per MAC", "per step at T = 2", "T = 4", "T = 8", "T = 16"),
            [
                (
                    *(f"{row['saved']:.2%}", f"{row['count_needed']:.3f}"),
                    *(f"{rate:.3f}" for rate in row["rate_needed"].values()),
                )
                for row in record["ssa"]
            ],
        ),
        "**Accumulates per MAC of our own small models** (counted)\n",
        markdown(
            ("model", "blocks", "with head"),
            [
                (name, f"{entry['blocks']:.3f}", f"{entry['with_head']:.3f}")
                for name, entry in record["own_counts"].items()
            ],
        ),
    ]
    return "\n".join(parts)


def main() -> None:
    record = recompute()
    save_table("published-energy", page(record), record)
    for name in ("qwen", "opt"):
        print(name, "nearest round length:", record[name]["nearest"])
    print("WD-1.0B to WD-0.4B:", record["wd_ratio"])
    print(json.dumps([row["least_tokens_with_real_projections"] for row in record["ssa"]]))


if __name__ == "__main__":
    main()
