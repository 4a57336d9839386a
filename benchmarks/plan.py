"""The memory that ``spikeformers plan`` estimates, beside the memory that a training step takes.

    python benchmarks/plan.py [--json FILE]

On the CPU, in float32, with PyTorch's own kernels: presets ``tiny`` and ``small`` and their dense
twins, with and without activation checkpointing. Measured is the most that a step holds beside
weights and optimiser state, by the allocations that torch.profiler records.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from spikeformers.models import build_config, build_model, control_of
from spikeformers.storage import write_text
from spikeformers.studies.step_memory import estimated_step_bytes, measured_step_bytes

VOCABULARY = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for preset in ("wd-spikingformer-tiny", "wd-spikingformer-small"):
        spiking = build_config(preset, VOCABULARY)
        for name, config in ((preset, spiking), (f"{preset}, dense twin", control_of(spiking))):
            config.use_cache = False
            for checkpointed in (False, True):
                torch.manual_seed(0)
                model = build_model(config).train()
                if checkpointed:
                    model.gradient_checkpointing_enable({"use_reentrant": False})
                ids = torch.randint(0, VOCABULARY, (args.windows, args.context))
                optimizer = torch.optim.AdamW(model.parameters(), fused=True)
                measured = measured_step_bytes(model, optimizer, ids)
                estimated = estimated_step_bytes(
                    config, args.windows, args.context, checkpointed=checkpointed
                )
                error = estimated / measured - 1
                rows.append(
                    {
                        "model": name,
                        "checkpointed": checkpointed,
                        "estimated": estimated,
                        "measured": measured,
                        "error": error,
                    }
                )
                kind = "checkpointed" if checkpointed else ""
                print(
                    f"{name:36s} {kind:12s} estimated {estimated / 1e6:8.1f} MB   "
                    f"measured {measured / 1e6:8.1f} MB   {error:+.1%}",
                    flush=True,
                )
    if args.json:
        setting = {"windows": args.windows, "context": args.context, "vocabulary": VOCABULARY}
        write_text(args.json, json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
