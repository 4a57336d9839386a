"""One row of a table of trained models: trained by the library's own loop, then measured."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def train_row(
    args: argparse.Namespace,
    out: Path,
    build: Callable[[], Any],
    data: tuple[Any, Any],
    rate: float,
    *,
    validation_tokens: int | None = None,
    **training: Any,
) -> tuple[Any, dict[str, Any]] | None:
    """Train (or resume) one row; the model and what was measured, or None if interrupted.

    ``build`` makes the model, after the seed is set; ``data`` are token store and tokenizer. With a
    searched ``args.rate`` the figures are of the test split, and validation's stand beside them, of
    its first ``validation_tokens`` (None: all).
    """
    import torch
    from transformers import set_seed

    from spikeformers.energy import energy_of
    from spikeformers.evaluation import perplexity
    from spikeformers.models import share_read
    from spikeformers.training import TrainConfig, train

    store, tokenizer = data
    held_out = store.split("test" if args.rate else "validation")
    set_seed(args.seed)
    model = build()
    every = max(1, args.steps // 10)
    config = TrainConfig(
        steps=args.steps,
        batch_size=args.batch,
        context=args.context,
        learning_rate=rate,
        seed=args.seed,
        threads=1,
        eval_every=every,
        save_every=every,
        keep_checkpoints=1,
        **training,
    )
    began, resumed = time.process_time(), (out / "run.json").is_file()
    result = train(model, store, tokenizer, out, config, resume=resumed, progress=False)
    if result.interrupted:
        return None
    report = perplexity(model, tokenizer, held_out, context=args.context)
    chosen_by = {}
    if args.rate:
        validation = perplexity(
            model,
            tokenizer,
            store.split("validation"),
            context=args.context,
            max_tokens=validation_tokens,
        ).as_dict()
        chosen_by = {"validation_loss": validation["nats_per_token"], "validation": validation}
    tokens = torch.tensor(held_out.tokens[: 16 * args.context].astype("int64"))
    energy = energy_of(model, [tokens.view(16, args.context)]).as_dict()
    densities = {name: figures["density"] for name, figures in energy["by_neuron"].items()}
    return model, {
        "learning_rate": rate,
        "parameters": model.num_parameters(),
        "tokens_seen": result.tokens_seen,
        "train_seconds": result.seconds,
        "train_cpu_seconds": None if resumed else time.process_time() - began,
        "perplexity": report.as_dict(),
        **chosen_by,
        "energy": {k: v for k, v in energy.items() if k not in ("products", "prices")},
        "weights_read": share_read(model, densities) if densities else None,  # None: dense
        "validation_by_step": validation_by_step(out),
        "corpus": store.manifest["corpus"]["digest"],
    }


def validation_by_step(out: Path) -> dict[int, float]:
    """Validation losses of a run folder, each over the run's own number of batches."""
    from spikeformers.training.journal import read_metrics

    lines = read_metrics(out / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "validation"}
