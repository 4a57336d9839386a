"""What each rank does in test_distributed.py: ``torchrun torchrun_worker.py STRATEGY FOLDER``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from conftest import MASKED, MODELS, tiny
from spikeformers.data import load_corpus, make_tokenizer, read_store_tokenizer, tokenize_corpus
from spikeformers.data.store import TokenStore
from spikeformers.errors import TrainingDiverged, UsageError
from spikeformers.training import train


def main(strategy: str, folder: Path) -> None:
    """Train each kind, interrupted by one rank, then a whole run, then one that diverges."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    corpus = load_corpus(str(folder / "text"))
    for kind, make in MODELS.items():
        tokenizer = make_tokenizer("byte", masked=kind in MASKED)
        store = tokenize_corpus(corpus, tokenizer, folder / "cache")
        losses: list[list[float]] = []

        def on_step(step: int, metrics: Mapping[str, float], losses=losses) -> None:
            losses.append([metrics["loss"], metrics["grad_norm"]])
            if step == 3 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        model = make(tokenizer, dropout=0.0, seed=rank)  # rank 0's weights must win
        result = train(
            model, store, tokenizer, folder / kind, tiny(strategy=strategy),
            progress=False, on_step=on_step,
        )  # fmt: skip
        assert result.interrupted
        if rank == 0:
            (folder / f"{kind}.json").write_text(json.dumps(losses))

    model = MODELS["we"](tokenizer, dropout=0.0)
    config = tiny(strategy=strategy, gradient_accumulation=2, steps=3)
    train(model, store, tokenizer, folder / "whole", config, progress=False)

    at_scale(strategy, folder)

    model = MODELS["we"](tokenizer, dropout=0.0)
    if rank == 1:
        model.register_forward_hook(lambda *a: setattr(a[2], "loss", a[2].loss * float("nan")))
    try:
        train(model, store, tokenizer, folder / "nan", tiny(strategy=strategy), progress=False)
    except TrainingDiverged as error:
        (folder / f"diverged-{rank}").write_text(str(error))

    held = folder / "held"
    if rank == 0:
        held.mkdir()
        there = {"pid": 1, "host": "elsewhere", "boot": "another", "began": "1"}
        (held / "run.lock").write_text(json.dumps({**there, "started": "", "command": ""}))
    model = MODELS["we"](tokenizer, dropout=0.0)
    try:
        train(model, store, tokenizer, held, tiny(strategy=strategy), progress=False)
    except UsageError as error:
        (folder / f"held-{rank}").write_text(str(error))


def at_scale(strategy: str, folder: Path) -> None:
    """Train on shards with Muon, checkpointed blocks and checkpoints in the background."""
    rank = int(os.environ["RANK"])
    store = TokenStore(folder / "shards", content=rank == 0)
    tokenizer = read_store_tokenizer(store)
    losses: list[float] = []

    def on_step(step: int, metrics: Mapping[str, float]) -> None:
        losses.append(metrics["loss"])
        if step == 3 and rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    config = tiny(
        strategy=strategy, optimizer="muon", activation_checkpointing=True, async_checkpoints=True
    )
    model = MODELS["wd"](tokenizer, dropout=0.0)
    train(
        model, store, tokenizer, folder / "scale", config, progress=False, on_step=on_step,
        profile=True,
    )  # fmt: skip
    if rank == 0:
        (folder / "scale.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
