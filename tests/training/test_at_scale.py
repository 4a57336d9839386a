"""Muon, checkpoints in the background, activation checkpointing, MFU and traces, in whole runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spikeformers.errors import ConfigError, StorageError
from spikeformers.models import build_config, build_model, control_of
from spikeformers.training import checkpoint, train
from spikeformers.training.checkpoint import checkpoints
from spikeformers.training.checkpoint_writer import CheckpointWriter
from spikeformers.training.distributed import World
from spikeformers.training.journal import read_metrics
from spikeformers.training.utilisation import (
    choose_utilisation,
    known_accelerator,
    training_flops_per_token,
)

ALONE = World(0, 1, torch.device("cpu"), "single")


def run(fresh: Any, config: Any, out: Path, kind: str = "wd", **more: Any) -> Any:
    """The weights after a run, by name."""
    options = {key: more.pop(key) for key in ("resume", "profile", "on_step") if key in more}
    model, store, tokenizer = fresh(kind)
    train(model, store, tokenizer, out, config(**more), progress=False, **options)
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Stopped(Exception):
    """Ends a run in the middle, as a crash does."""


def crash_at(step: int) -> Any:
    def on_step(done: int, _: Any) -> None:
        if done == step:
            raise Stopped

    return on_step


@pytest.mark.parametrize("kind", ["wd", "gpt2"])
def test_a_run_with_muon_resumes_exactly(
    kind: str, fresh: Any, config: Any, tmp_path: Path
) -> None:
    muon = {"kind": kind, "optimizer": "muon"}
    whole = run(fresh, config, tmp_path / "whole", **muon)
    assert not same(whole, run(fresh, config, tmp_path / "adamw", kind=kind))
    with pytest.raises(Stopped):
        run(fresh, config, tmp_path / "run", **muon, on_step=crash_at(5))
    assert same(whole, run(fresh, config, tmp_path / "run", **muon, resume=True))
    with pytest.raises(ConfigError, match="optimizer was 'muon', now 'adamw'"):
        run(fresh, config, tmp_path / "run", kind=kind, resume=True)


def test_checkpoints_in_the_background_hold_the_weights_of_their_step(
    fresh: Any, config: Any, tmp_path: Path
) -> None:
    plain = run(fresh, config, tmp_path / "plain")
    assert same(plain, run(fresh, config, tmp_path / "thread", async_checkpoints=True))
    for name in ("step-0000004", "step-0000006"):
        one, other = (tmp_path / place / "checkpoints" / name for place in ("plain", "thread"))
        (file,) = [path.name for path in one.glob("*.safetensors")]
        assert same(load_file(one / file), load_file(other / file))
    assert [
        p.name for p in (tmp_path / "thread" / "checkpoints").iterdir() if "tmp" in p.name
    ] == []
    with pytest.raises(Stopped):
        run(fresh, config, tmp_path / "run", async_checkpoints=True, on_step=crash_at(5))
    resumed = run(fresh, config, tmp_path / "run", resume=True)  # it may change for a resumed run
    assert same(plain, resumed)


def test_training_continues_while_a_checkpoint_is_written(
    fresh: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, publish = threading.Event(), checkpoint.Draft.publish

    def slow(self: Any, *args: Any) -> None:
        if self.final.name == "step-0000002":
            assert reached.wait(60)  # only the third step lets it finish
        publish(self, *args)

    monkeypatch.setattr(checkpoint.Draft, "publish", slow)
    seen: list[list[Path]] = []

    def on_step(step: int, _: Any) -> None:
        if step == 3:
            seen.append(checkpoints(tmp_path / "run" / "checkpoints"))
            reached.set()

    run(fresh, config, tmp_path / "run", async_checkpoints=True, on_step=on_step)
    assert seen == [[]]
    names = [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-0000004", "step-0000006"]


def test_a_disk_that_refuses_in_the_background_ends_the_run_with_its_error(
    fresh: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = checkpoint.Draft.publish

    def full(self: Any, *args: Any) -> None:
        if self.final.name == "step-0000004":
            raise OSError(28, "No space left on device")
        publish(self, *args)

    monkeypatch.setattr(checkpoint.Draft, "publish", full)
    with pytest.raises(StorageError, match=r"step-0000004: .*No space left.*good one is .*0000002"):
        run(fresh, config, tmp_path / "run", async_checkpoints=True)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-0000002"]


def test_a_writer_without_checkpoints_waits_for_nothing(config: Any, tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, ALONE, config(async_checkpoints=True)) as writer:
        writer.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["wd", "we", "gpt2"])
def test_activation_checkpointing_changes_no_bit(
    kind: str, fresh: Any, config: Any, tmp_path: Path
) -> None:
    plain = run(fresh, config, tmp_path / "plain", kind=kind)
    model, store, tokenizer = fresh(kind)
    calls: list[int] = []
    layer = (model.base_model.layers if kind != "gpt2" else model.transformer.h)[0]
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(int(torch.is_grad_enabled())))
    train(
        model, store, tokenizer, tmp_path / "run", config(activation_checkpointing=True),
        progress=False,
    )  # fmt: skip
    assert same(plain, model.state_dict())
    assert sum(calls) == 2 * 6  # forward, and again for the backward pass
    assert not layer.gradient_checkpointing


def test_a_model_that_cannot_checkpoint_its_blocks_is_refused(
    fresh: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh("wd")[0]
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match="does not support"):
        run(fresh, config, tmp_path / "run", activation_checkpointing=True)
    assert not (tmp_path / "run").exists()


def test_flops_per_token_by_hand() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    spiking = build_config("wd-spikingformer-tiny", 100, shape)
    block = 4 * 16 * 16 + 2 * 16 * 64  # query, key, value, out; up, down
    head, square = 100 * 16, 12 * 3 * 16 * 32
    expected = 6 * (3 * block + head) + square
    assert training_flops_per_token(build_model(spiking), 32) == expected
    for positions in ("learned", "rotary"):  # GPT-2 and GPT-NeoX
        twin = build_model(control_of(spiking, positions))  # type: ignore[arg-type]
        assert training_flops_per_token(twin, 32) == expected
    spiking.steps = 4
    four = 4 * (6 * 3 * block + square) + 6 * head
    assert training_flops_per_token(build_model(spiking), 32) == four


def test_mfu_is_logged_where_a_peak_is_given(fresh: Any, config: Any, tmp_path: Path) -> None:
    run(fresh, config, tmp_path / "plain")
    run(fresh, config, tmp_path / "run", device_tflops=0.5)
    lines = {
        place: [m for m in read_metrics(tmp_path / place / "metrics.jsonl") if m["kind"] == "train"]
        for place in ("plain", "run")
    }
    assert all("mfu" not in line for line in lines["plain"])  # a CPU's peak is not guessed
    flops = training_flops_per_token(fresh("wd")[0], 16)
    for line in lines["run"]:
        assert line["mfu"] == pytest.approx(line["tokens_per_second"] * flops / 0.5e12)


def test_peaks_of_gpus_are_found_by_their_names(config: Any, monkeypatch: Any) -> None:
    names = {
        "NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA H200": 989,
        "NVIDIA A100-SXM4-80GB": 312, "NVIDIA L40S": 362, "NVIDIA L4": 121,
    }  # fmt: skip
    for name, tflops in names.items():
        known = known_accelerator(name)
        assert known is not None
        assert known.tflops == tflops
    assert known_accelerator("Radeon") is None
    two = World(0, 2, torch.device("cuda", 0), "ddp")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    chosen = choose_utilisation(1e9, config(device="auto"), two, "bf16")
    assert chosen is not None
    assert chosen.of(989e3) == pytest.approx(0.5)
    assert "989 TFLOP/s per device (NVIDIA H100 SXM, dense bf16" in chosen.assumption
    assert choose_utilisation(1e9, config(device="auto"), two, "fp32") is None
    assert choose_utilisation(None, config(device_tflops=1.0), ALONE, "fp32") is None


def test_a_trace_of_three_steps(fresh: Any, config: Any, tmp_path: Path) -> None:
    plain = run(fresh, config, tmp_path / "plain")
    assert same(plain, run(fresh, config, tmp_path / "run", profile=True))
    (trace,) = (tmp_path / "run" / "profile").iterdir()
    assert trace.name == "steps-3-5-rank-0.json"
    events = json.loads(trace.read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"ProfilerStep#2", "ProfilerStep#4", "aten::linear"} <= names
    assert "ProfilerStep#5" not in names


def test_a_run_too_short_for_a_trace_says_so(
    fresh: Any, config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(fresh, config, tmp_path / "run", profile=True, steps=4)
    assert "no trace: the run ended before step 5" in caplog.text
    assert not (tmp_path / "run" / "profile").exists()


def test_a_model_is_not_compiled_any_more_when_its_training_has_ended(
    tmp_path: Path, fresh: Any, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_without_a_compiler(module: Any) -> None:
        module._compiled_call_impl = module._call_impl
        compiled.append(module)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_without_a_compiler)
    run(fresh, config, tmp_path / "run", compile=True, steps=1)
    assert compiled
    assert all(part._compiled_call_impl is None for each in compiled for part in each.modules())


@pytest.mark.slow
def test_blocks_are_checkpointed_and_compiled_together(
    fresh: Any, config: Any, tmp_path: Path
) -> None:
    losses: dict[str, list[float]] = {}
    for name, options in {"plain": {}, "both": {"compile": True}}.items():
        steps = losses.setdefault(name, [])
        options |= {"activation_checkpointing": bool(options)}
        run(
            fresh, config, tmp_path / name, steps=3, **options,
            on_step=lambda _, m, s=steps: s.append(m["loss"]),
        )  # fmt: skip
    assert losses["both"] == pytest.approx(losses["plain"], abs=1e-3)
