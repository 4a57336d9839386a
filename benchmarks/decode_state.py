"""Decoding by A2OS2A's state beside keys and values: time and memory of a token over the context.

    python benchmarks/decode_state.py --contexts 256 1024 4096 --threads 1

An untrained WD-Spikingformer of wd-spikingformer-tiny's shape reads a random prompt, then decodes
token by token. There is one line per order and context: milliseconds per token (median, measured)
and the bytes of the cache. Writes ``benchmarks/results/decode_state.json`` and the table in
docs/results/;
``--table`` writes the table again from the kept figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from functools import partial
from typing import Any

from _sweep import RESULTS, commit, fill_pages
from spikeformers.meters import clock
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

ORDERS = ("scores", "state")
KEPT = RESULTS / "decode_state.json"


def measure(order: str, context: int, tokens: int) -> dict[str, Any]:
    import torch

    from spikeformers.models import build_config, build_model

    torch.manual_seed(0)
    shape = {"attention": "a2os2a", "attention_order": order, "position": "none"}
    shape["neuron"] = "ni-lif"
    model = build_model(build_config("wd-spikingformer-tiny", 512, shape)).eval()
    ids = torch.randint(0, 512, (1, context))
    times = []
    with torch.no_grad():
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        for _ in range(tokens):
            step = partial(model, ids[:, :1], past_key_values=cache, use_cache=True)
            times.append(clock(step).wall)
    held = sum(
        x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values)
    )
    return {
        "order": order,
        "context": context,
        "milliseconds": 1000 * statistics.median(times),
        "cache_bytes": held,
    }


def table(record: dict[str, Any]) -> str:
    rows = [
        [
            result["order"],
            f"{result['context']:,}",
            f"{result['milliseconds']:.2f}",
            f"{result['cache_bytes']:,}",
        ]
        for result in record["rows"]
    ]
    head = (
        "A2OS2A in the causal model, `wd-spikingformer-tiny`'s shape, NI-LIF elsewhere, untrained; "
        f"PyTorch; commit {record['commit']}; torch {record['torch']}, {record['machine']}. "
        "Measured."
    )
    columns = ["order", "context", "ms/token", "cache, bytes"]
    return f"{head}\n\n{markdown(columns, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only the table, of kept figures")
    args = parser.parse_args()
    if not args.table:
        import torch

        torch.set_num_threads(args.threads)
        record = {
            "rows": [measure(order, n, args.tokens) for order in ORDERS for n in args.contexts],
            "commit": commit(),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {platform.system()}, {args.threads} thread(s)",
        }
        write_text(KEPT, json.dumps(record, indent=1) + "\n")
    text = table(json.loads(KEPT.read_text(encoding="utf-8")))
    fill_pages("decode-state", text)
    print(text)


if __name__ == "__main__":
    main()
