"""Whole runs: exact resume, divergence, interruption, what is written, and where it stops."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from spikeformers.errors import ConfigError, DataError, StorageError, TrainingDiverged, UsageError
from spikeformers.meters import stopwatch
from spikeformers.models import load_model
from spikeformers.training import TrainResult, task, train
from spikeformers.training.checkpoint import checkpoints
from spikeformers.training.journal import read_metrics

KINDS = ("gpt2", "bert", "wd", "we")
TIMES = ("seconds", "tokens_per_second")


def lines(out: Path) -> list[dict[str, Any]]:
    """The metrics, without what the clock says."""
    entries = read_metrics(out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMES} for line in entries]


def last_shard(out: Path) -> dict[str, torch.Tensor]:
    """Weights and optimiser moments of the newest checkpoint of one process."""
    (file,) = checkpoints(out / "checkpoints")[-1].glob("*.safetensors")
    return load_file(file)


def interrupt_at(*steps: int) -> Callable[[int, Mapping[str, float]], None]:
    def on_step(step: int, _: Mapping[str, float]) -> None:
        if step in steps:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


@pytest.fixture(scope="session")
def whole(fresh: Any, config: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run of every kind of model."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind) / "run"
        train(*fresh(kind), folders[kind], config(), progress=False)
    return folders


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(kind=st.sampled_from(KINDS), stops=st.sets(st.integers(1, 5), min_size=1, max_size=3))
def test_an_interrupted_run_ends_bit_for_bit_as_the_uninterrupted_one(
    kind: str,
    stops: set[int],
    fresh: Any,
    config: Any,
    whole: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out = tmp_path_factory.mktemp("interrupted") / "run"
    for number, stop in enumerate([*sorted(stops), 0]):
        model, store, tokenizer = fresh(kind, seed=number)  # matters at the beginning only
        result = train(
            model, store, tokenizer, out, config(),
            resume=number > 0, progress=False, on_step=interrupt_at(stop),
        )  # fmt: skip
        assert (result.steps, result.interrupted) == ((stop, True) if stop else (6, False))
    expected = load_file(whole[kind] / "model.safetensors")
    tensors = load_file(out / "model.safetensors")
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert lines(out) == lines(whole[kind])
    moments, exact = last_shard(out), last_shard(whole[kind])
    assert all(torch.equal(moments[name], value) for name, value in exact.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_current_step_with_a_checkpoint(
    number: signal.Signals, tmp_path: Path, fresh: Any, config: Any
) -> None:
    seen: list[int] = []

    def on_step(step: int, _: Mapping[str, float]) -> None:
        seen.append(step)
        if step == 3:
            os.kill(os.getpid(), number)

    result = train(*fresh("wd"), tmp_path, config(save_every=0), progress=False, on_step=on_step)
    assert seen == [1, 2, 3]
    assert (result.interrupted, result.steps, result.final_validation) == (True, 3, {})
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == ["step-0000003"]
    assert not (tmp_path / "model.safetensors").exists()


def test_a_crashed_run_resumes_from_its_last_checkpoint_without_double_lines(
    tmp_path: Path, fresh: Any, config: Any, whole: dict[str, Path]
) -> None:
    def on_step(step: int, _: Mapping[str, float]) -> None:
        if step == 5:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(*fresh("wd"), tmp_path, config(), progress=False, on_step=on_step)
    assert [line["step"] for line in lines(tmp_path) if line["kind"] == "train"] == [1, 2, 3, 4, 5]
    steps: list[int] = []
    train(
        *fresh("wd"), tmp_path, config(), resume=True, progress=False,
        on_step=lambda step, _: steps.append(step),
    )  # fmt: skip
    assert steps == [5, 6]
    assert lines(tmp_path) == lines(whole["wd"])
    assert (tmp_path / "model.safetensors").read_bytes() == (
        whole["wd"] / "model.safetensors"
    ).read_bytes()


def test_what_is_logged(whole: dict[str, Path]) -> None:
    entries = lines(whole["wd"])
    assert [(line["kind"], line["step"]) for line in entries] == [
        ("train", 1), ("train", 2), ("train", 3), ("validation", 3),
        ("train", 4), ("train", 5), ("train", 6), ("validation", 6),
    ]  # fmt: skip
    assert [line["tokens_seen"] for line in entries[:3]] == [64, 128, 192]
    first = entries[0]
    assert first["loss"] == pytest.approx(first["lm_loss"] + first["rate_loss"])
    assert first["rate_loss"] > 0
    assert first["grad_norm"] > 0
    assert first["learning_rate"] == 1e-2
    assert len(first["density_by_layer"]) == 15  # seven in each of two blocks, one at the head
    assert 0 < first["density"] < 1
    assert first["dead_layers"] == [n for n, d in first["density_by_layer"].items() if d == 0]
    assert set(entries[3]) == {
        "kind", "step", "loss", "perplexity", "bits_per_byte", "tokens_seen",
    }  # fmt: skip
    assert entries[7]["loss"] < entries[3]["loss"] < first["loss"]  # it learns
    dense = lines(whole["gpt2"])[0]
    assert "density" not in dense
    assert dense["loss"] == dense["lm_loss"]
    assert "rate_loss" not in dense


def test_a_rate_penalty_is_logged_apart_and_not_validated(
    tmp_path: Path, fresh: Any, config: Any
) -> None:
    model, store, tokenizer = fresh("wd", firing_rate_weight=2.0)
    train(model, store, tokenizer, tmp_path, config(), progress=False)
    first, last = lines(tmp_path)[0], lines(tmp_path)[-1]
    assert first["rate_loss"] > 0
    assert first["loss"] > first["lm_loss"] + 0.1
    assert last["kind"] == "validation"
    assert last["loss"] < first["lm_loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_model_is_the_trained_one(
    kind: str, whole: dict[str, Path], fresh: Any
) -> None:
    model, tokenizer = load_model(whole[kind])
    assert len(tokenizer) == len(fresh(kind)[2])
    shard = last_shard(whole[kind])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, shard[f"model.{name}"]), name
    saved = json.loads((whole[kind] / "config.json").read_text())
    assert saved["architectures"] == [type(fresh(kind)[0]).__name__]
    if kind in ("gpt2", "wd"):
        assert saved["use_cache"] is True


def test_the_result_and_the_card(tmp_path: Path, fresh: Any, config: Any) -> None:
    def card(result: TrainResult) -> str:
        return f"loss {result.final_validation['loss']:.3f} after {result.tokens_seen}\n"

    result = train(*fresh("wd"), tmp_path, config(), progress=False, model_card=card)
    last = lines(tmp_path)[-1]
    assert result.final_validation == {k: last[k] for k in ("loss", "perplexity", "bits_per_byte")}
    assert (result.steps, result.tokens_seen, result.interrupted) == (6, 384, False)
    assert (tmp_path / "README.md").read_text() == f"loss {last['loss']:.3f} after 384\n"


def test_only_training_steps_count_as_seconds_and_they_add_up(
    tmp_path: Path, fresh: Any, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(ticks)))
    plain = task.validate

    def slow(*args: Any) -> dict[str, float]:
        for _ in range(1000):
            next(ticks)
        return plain(*args)

    monkeypatch.setattr(task, "validate", slow)
    first = train(*fresh("wd"), tmp_path, config(), progress=False, on_step=interrupt_at(4))
    assert first.seconds == 4.0  # one tick a step
    second = train(*fresh("wd"), tmp_path, config(), resume=True, progress=False)
    assert (second.seconds, second.tokens_per_second) == (6.0, 64.0)


def poison(model: Any, at: int, what: str) -> None:
    """Make the loss, or only the gradient, of forward number ``at`` in training NaN."""
    calls = count(1)

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if module.training and next(calls) == at:
            if what == "loss":
                output.loss = output.loss * float("nan")
            else:
                output.loss.register_hook(lambda gradient: gradient * float("inf"))
        return output

    model.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("what", ["loss", "grad_norm"])
def test_a_number_that_is_not_finite_stops_before_the_weights_change(
    what: str, tmp_path: Path, fresh: Any, config: Any
) -> None:
    after: dict[int, dict[str, torch.Tensor]] = {}
    model, store, tokenizer = fresh("wd")

    def on_step(step: int, _: Mapping[str, float]) -> None:
        after[step] = {k: v.clone() for k, v in model.state_dict().items()}

    poison(model, at=4, what=what)
    with pytest.raises(TrainingDiverged, match=rf"{what} is .* at step 4;.*good.*step-0000002"):
        train(model, store, tokenizer, tmp_path, config(), progress=False, on_step=on_step)
    assert sorted(after) == [1, 2, 3]
    assert all(torch.equal(after[3][k], v) for k, v in model.state_dict().items())
    for name, value in last_shard(tmp_path).items():
        if name.startswith("model."):
            assert torch.equal(value, after[2][name.removeprefix("model.")]), name
    assert not (tmp_path / "model.safetensors").exists()


def test_divergence_before_any_checkpoint_is_reported(
    tmp_path: Path, fresh: Any, config: Any
) -> None:
    model, store, tokenizer = fresh("gpt2")
    poison(model, at=1, what="loss")
    with pytest.raises(TrainingDiverged, match=r"at step 1;.*None was saved before"):
        train(model, store, tokenizer, tmp_path, config(), progress=False)


def test_a_run_is_not_written_over(whole: dict[str, Path], fresh: Any, config: Any) -> None:
    before = {p: p.read_bytes() for p in whole["wd"].rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="already holds a run"):
        train(*fresh("wd"), whole["wd"], config(), progress=False)
    with pytest.raises(ConfigError, match="seed was 0, now 5"):
        train(*fresh("wd"), whole["wd"], config(seed=5), resume=True, progress=False)
    assert {p: p.read_bytes() for p in whole["wd"].rglob("*") if p.is_file()} == before


def test_nothing_is_written_for_a_request_that_cannot_be_met(
    tmp_path: Path, fresh: Any, config: Any
) -> None:
    for wrong in ({"context": 33}, {"strategy": "fsdp"}, {"device": "cuda"}):
        if wrong == {"device": "cuda"} and torch.cuda.is_available():
            continue
        with pytest.raises(ConfigError):
            train(*fresh("wd"), tmp_path / "run", config(**wrong), progress=False)
    model, store, tokenizer = fresh("wd")
    empty = dataclasses.replace(store.split("validation"), num_tokens=0)
    splits = {"train": store.split("train"), "validation": empty}
    without = SimpleNamespace(split=splits.__getitem__, manifest=store.manifest)
    with pytest.raises(DataError, match="validation text is empty"):
        train(model, without, tokenizer, tmp_path / "run", config(), progress=False)
    assert not (tmp_path / "run").exists()


def test_resuming_a_complete_run_exports_again(tmp_path: Path, fresh: Any, config: Any) -> None:
    done = train(*fresh("wd"), tmp_path, config(), progress=False)
    content = (tmp_path / "model.safetensors").read_bytes()
    before = lines(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    again = train(*fresh("wd", seed=3), tmp_path, config(), resume=True, progress=False)
    assert again == done
    assert (tmp_path / "model.safetensors").read_bytes() == content
    assert lines(tmp_path) == before


def test_a_finished_run_continued_ends_as_one_that_was_begun_so(
    tmp_path: Path, fresh: Any, config: Any, whole: dict[str, Path]
) -> None:
    at_once, later = tmp_path / "at-once", tmp_path / "later"
    longer = config(steps=9, schedule_steps=6)
    train(*fresh("wd"), at_once, longer, progress=False)
    train(*fresh("wd"), later, config(), progress=False)
    assert lines(later) == lines(whole["wd"])
    result = train(*fresh("wd", seed=3), later, longer, resume=True, progress=False)
    assert (result.steps, result.interrupted) == (9, False)
    expected = load_file(at_once / "model.safetensors")
    tensors = load_file(later / "model.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    trained = [line for line in lines(later) if line["kind"] == "train"]
    assert [line["step"] for line in trained] == list(range(1, 10))
    assert [line["learning_rate"] for line in trained[5:]] == pytest.approx([1e-3] * 4)


def test_a_full_disk_stops_and_the_run_resumes_exactly(
    tmp_path: Path, fresh: Any, config: Any, full_disk: Any, whole: dict[str, Path]
) -> None:
    with pytest.raises(StorageError, match=r"step-0000004.*last good one is .*step-0000002"):
        _train_on_a_disk_that_fills_up(tmp_path, fresh, config, full_disk)
    train(*fresh("wd"), tmp_path, config(), resume=True, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        whole["wd"] / "model.safetensors"
    ).read_bytes()


def _train_on_a_disk_that_fills_up(out: Path, fresh: Any, config: Any, full_disk: Any) -> None:
    disk = full_disk(20_000)
    try:
        train(
            *fresh("wd"), out, config(), progress=False,
            on_step=lambda step, _: disk.__enter__() if step == 3 else None,
        )  # fmt: skip
    finally:
        disk.__exit__(None, None, None)


def test_gradient_accumulation_gives_the_losses_of_the_undivided_batch(
    tmp_path: Path, fresh: Any, config: Any
) -> None:
    for kind in KINDS:
        losses: dict[int, list[float]] = {}
        for parts in (1, 4):
            loss = losses.setdefault(parts, [])
            train(
                *fresh(kind, dropout=0.0), tmp_path / f"{kind}-{parts}",
                config(gradient_accumulation=parts, steps=3), progress=False,
                on_step=lambda _, m, loss=loss: loss.append((m["loss"], m["grad_norm"])),
            )  # fmt: skip
        for whole, in_four in zip(losses[1], losses[4], strict=True):
            assert in_four == pytest.approx(whole, rel=1e-4), kind


def test_bf16_trains_close_to_fp32(tmp_path: Path, fresh: Any, config: Any, whole: Any) -> None:
    train(*fresh("gpt2"), tmp_path, config(precision="bf16"), progress=False)
    first, exact = lines(tmp_path)[0], lines(whole["gpt2"])[0]
    assert first["loss"] != exact["loss"]
    assert first["loss"] == pytest.approx(exact["loss"], abs=0.02)
    assert {v.dtype for v in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses(tmp_path: Path, fresh: Any, config: Any) -> None:
    for compiled in (False, True):
        train(
            *fresh("wd", dropout=0.0), tmp_path / str(compiled),
            config(compile=compiled, steps=3), progress=False,
        )  # fmt: skip
    plain, fast = lines(tmp_path / "False"), lines(tmp_path / "True")
    assert fast[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-5)
    assert fast[2]["loss"] == pytest.approx(plain[2]["loss"], rel=1e-2)
    assert fast[0]["density"] == pytest.approx(plain[0]["density"], abs=0.01)
    load_model(tmp_path / "True")


@pytest.mark.parametrize("kind", ["wd", "we"])
def test_our_models_train_under_the_transformers_trainer(
    kind: str, tmp_path: Path, fresh: Any, config: Any
) -> None:
    from transformers import Trainer, TrainingArguments

    from spikeformers.training.batches import TrainBatches, make_objective
    from spikeformers.training.distributed import World

    model, store, tokenizer = fresh(kind, dropout=0.0)
    objective = make_objective(model, tokenizer, config())
    alone = World(0, 1, torch.device("cpu"), "single")
    batches = TrainBatches(store.split("train"), objective, config(), alone)
    rows = [
        {"input_ids": ids, "labels": labels}
        for step in range(20)
        for part in batches.of(step)
        for ids, labels in zip(part.input_ids, part.labels, strict=True)
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=20, per_device_train_batch_size=4, logging_steps=1,
        learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 1.0
