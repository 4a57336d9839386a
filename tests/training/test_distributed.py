"""Two processes on gloo, DDP and FSDP2, against one process on the same global batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spikeformers.data import load_corpus, make_tokenizer, tokenize_shards
from spikeformers.data.store import TokenStore
from spikeformers.errors import ConfigError
from spikeformers.models import load_model
from spikeformers.training import TrainConfig, train
from spikeformers.training.checkpoint import checkpoints, load_checkpoint
from spikeformers.training.distributed import (
    World,
    blocks,
    choose_device,
    choose_strategy,
    full_state,
    open_world,
    spread,
)
from spikeformers.training.journal import read_metrics
from spikeformers.training.optim import make_optimizer

KINDS = ("gpt2", "bert", "wd", "we")
ALONE = World(0, 1, torch.device("cpu"), "single")


def make_shards(folder: Path) -> None:
    """The text of ``folder`` in several shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spikeformers.data.encoding.BATCH", 3000)
        corpus, tokenizer = load_corpus(folder / "text"), make_tokenizer("byte")
        store = tokenize_shards(corpus, tokenizer, folder / "shards", shard_tokens=2000)
    assert len(store.split("train").shards) > 2


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    corpus_text: Callable[[Path], Path],
) -> Path:
    """What two ranks wrote (see torchrun_worker.py)."""
    folder = tmp_path_factory.mktemp(request.param)
    corpus_text(folder / "text")
    make_shards(folder)
    worker = Path(__file__).with_name("torchrun_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(worker), request.param, str(folder)],
        capture_output=True, text=True, timeout=500, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def alone(fresh: Any, config: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The losses and gradient norms of one process."""
    outcome: dict[str, Any] = {}
    for kind in KINDS:
        steps = outcome.setdefault(kind, [])
        train(
            *fresh(kind, dropout=0.0), tmp_path_factory.mktemp(kind) / "run", config(),
            progress=False, on_step=lambda _, m, s=steps: s.append([m["loss"], m["grad_norm"]]),
        )  # fmt: skip
    return outcome


@pytest.mark.torchrun
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_give_the_losses_of_one(kind: str, pair: Path, alone: dict[str, Any]) -> None:
    plain = json.loads((pair / f"{kind}.json").read_text())
    assert len(plain) == 3  # one rank was told to stop, and both did
    for (loss, norm), (loss_of_one, norm_of_one) in zip(plain, alone[kind][:3], strict=True):
        assert loss == pytest.approx(loss_of_one, abs=1e-5)
        assert norm == pytest.approx(norm_of_one, rel=1e-4)


@pytest.mark.torchrun
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_ranks_resumes_on_one(
    kind: str, pair: Path, alone: dict[str, Any], fresh: Any, config: Any
) -> None:
    steps: list[list[float]] = []
    result = train(
        *fresh(kind, dropout=0.0, seed=5), pair / kind, config(), resume=True, progress=False,
        on_step=lambda _, m: steps.append([m["loss"], m["grad_norm"]]),
    )  # fmt: skip
    assert (result.steps, len(steps)) == (6, 3)
    assert steps[0][0] == pytest.approx(alone[kind][3][0], abs=1e-4)
    assert result.final_validation["loss"] < alone[kind][0][0]
    logged = [
        m["step"] for m in read_metrics(pair / kind / "metrics.jsonl") if m["kind"] == "train"
    ]
    assert logged == [1, 2, 3, 4, 5, 6]
    load_model(pair / kind)


@pytest.mark.torchrun
def test_two_ranks_export_the_model_they_trained(pair: Path, fresh: Any) -> None:
    (path,) = checkpoints(pair / "whole" / "checkpoints")[-1:]
    assert len(list(path.glob("*.safetensors"))) in (1, 2)
    model = fresh("we", seed=9)[0]
    state = load_checkpoint(path, model, make_optimizer(model, TrainConfig()), ALONE)
    assert state.step == 3
    exported, _ = load_model(pair / "whole")
    assert type(exported) is type(model)
    assert all(torch.equal(v, exported.state_dict()[k]) for k, v in model.state_dict().items())
    saved = json.loads((pair / "whole" / "config.json").read_text())
    assert saved["architectures"] == ["WESpikingformerForMaskedLM"]


@pytest.mark.torchrun
def test_shards_muon_and_background_checkpoints_on_two_ranks_resume_on_one(
    pair: Path, fresh: Any, config: Any, tmp_path: Path
) -> None:
    store = TokenStore(pair / "shards")
    muon = {"optimizer": "muon"}
    alone: list[float] = []
    model, _, tokenizer = fresh("wd", dropout=0.0)
    train(
        model, store, tokenizer, tmp_path / "alone", config(**muon), progress=False,
        on_step=lambda _, m: alone.append(m["loss"]),
    )  # fmt: skip
    losses = json.loads((pair / "scale.json").read_text())
    assert len(losses) == 3
    assert losses[0] == pytest.approx(alone[0], abs=1e-5)
    assert losses == pytest.approx(alone[:3], abs=0.02)  # Muon's sums are in bf16
    names = [path.name for path in checkpoints(pair / "scale" / "checkpoints")]
    assert names == ["step-0000002", "step-0000003"]
    resumed: list[float] = []
    result = train(
        fresh("wd", dropout=0.0, seed=5)[0], store, tokenizer, pair / "scale", config(**muon),
        resume=True, progress=False, on_step=lambda _, m: resumed.append(m["loss"]),
    )  # fmt: skip
    assert (result.steps, len(resumed)) == (6, 3)
    assert resumed == pytest.approx(alone[3:], abs=0.05)


@pytest.mark.torchrun
def test_a_nan_on_one_rank_stops_both(pair: Path) -> None:
    messages = [(pair / f"diverged-{rank}").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "loss is nan at step 1;" in messages[0]


@pytest.mark.torchrun
def test_a_folder_that_is_held_stops_every_rank(pair: Path) -> None:
    assert "is held by process 1 on elsewhere" in (pair / "held-0").read_text()
    assert "is refused by the first process" in (pair / "held-1").read_text()
    assert [path.name for path in (pair / "held").iterdir()] == ["run.lock"]
    assert not list(pair.glob("*/run.lock"))[1:]  # the other runs let go


def test_sharding_leaves_no_pickle(pair: Path) -> None:
    suffixes = {p.suffix for p in (pair / "whole" / "checkpoints").rglob("*") if p.is_file()}
    assert suffixes == {".json", ".safetensors"}
    for path in (pair / "whole" / "checkpoints").rglob("*.safetensors"):
        assert load_file(path)


def test_strategies_are_chosen_or_refused() -> None:
    assert choose_strategy("auto", 1) == "single"
    assert choose_strategy("auto", 2) == "ddp"
    assert choose_strategy("fsdp", 2) == "fsdp"
    with pytest.raises(ConfigError, match=r"single process. Start it with torchrun"):
        choose_strategy("fsdp", 1)
    with pytest.raises(ConfigError, match=r"'single' in 2 processes"):
        choose_strategy("single", 2)


def test_an_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", 0) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device is 'cuda', and torch finds none"):
        choose_device("cuda", 0)


def test_a_batch_that_the_processes_cannot_share_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = TrainConfig(batch_size=8, gradient_accumulation=2, device="cpu")
    with pytest.raises(ConfigError, match=r"batch_size is 8; with 3 .* must be a multiple of 6"):
        open_world(config)


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_of_a_model(kind: str, fresh: Any) -> None:
    assert len(blocks(fresh(kind)[0])) == 2


def test_alone_there_is_nothing_to_spread_or_sum() -> None:
    model = nn.Linear(2, 1, bias=False)
    assert spread(model, ALONE, compiled=False) is model
    assert (ALONE.sum([1.0, 2.0]), ALONE.mean([3.0]), ALONE.any(True)) == ([1.0, 2.0], [3.0], True)
    assert torch.equal(full_state(model)["weight"], model.weight)
