"""Where a verb writes is tried before it computes, and held while it writes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

RUNS = {
    "pretrain": ("pretrain", "--preset", "wd-spikingformer-tiny", "--data", "none", "--out"),
    "pretrain --resume": ("pretrain", "--resume", "--out"),
    "distill": ("distill", "--teacher", "none", "--student", "none", "--data", "none", "--out"),
    "train-vision": ("train-vision", "--preset", "a2os2a-digits", "--data", "none", "--out"),
    "convert": ("convert", "none", "--calibration", "none", "--out"),
    "finetune-attention": ("finetune-attention", "none", "--data", "none", "--out"),
    "finetune": ("finetune", "none", "--task", "sst2", "--data-dir", "none", "--out"),
    "demo": ("demo", "--out"),
}
RESULTS = {
    "evaluate vision": ("evaluate", "vision", "none", "--data", "none", "--report"),
    "evaluate zeroshot": ("evaluate", "zeroshot", "none", "--tasks", "piqa", "--out"),
    "compare": ("compare", "none", "nothing", "--out"),
    "energy": ("energy", "none", "--data", "none", "--report"),
    "export engine": ("export", "engine", "none", "--out"),
}


def place_for(verb: str, folder: Path) -> Path:
    return folder / "page.html" if verb in ("compare", "evaluate vision") else folder


def refused(ended: object, code: int, *message: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert ended.err.count("error: ") == 1
    for part in ("Traceback", "--debug"):
        assert part not in ended.err
    for part in message:
        assert part in " ".join(ended.err.split())


@pytest.mark.parametrize("verb", [*RUNS, *RESULTS])
def test_a_place_that_takes_no_files_is_refused_before_anything_is_read(spikeformers, verb):
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    if "zeroshot" in verb and importlib.util.find_spec("lm_eval") is None:
        pytest.skip("the harness is not installed")
    place = place_for(verb, Path("/proc/mine/out"))
    # The models and texts do not exist: a check that came later would never be reached.
    ended = spikeformers(*(RUNS | RESULTS)[verb], place)
    refused(ended, 1, " cannot be written: /proc takes no files.")


@pytest.mark.parametrize("verb", [*RUNS, *RESULTS])
def test_a_file_in_the_way_is_named_before_anything_is_read(spikeformers, verb, tmp_path):
    if "zeroshot" in verb and importlib.util.find_spec("lm_eval") is None:
        pytest.skip("the harness is not installed")
    (tmp_path / "file").write_text("mine")
    place = place_for(verb, tmp_path / "file" / "below")
    refused(spikeformers(*(RUNS | RESULTS)[verb], place), 2, f"{tmp_path / 'file'} is a file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", RUNS)
def test_a_run_folder_that_is_held_is_refused_before_anything_is_read(spikeformers, verb, tmp_path):
    there = {"pid": 1, "host": "elsewhere", "boot": "x", "began": "", "started": "", "command": ""}
    folder = tmp_path / "sst2" / "seed-0" if verb == "finetune" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.lock").write_text(json.dumps(there))
    ended = spikeformers(*RUNS[verb], tmp_path)
    refused(ended, 2, "is held by process 1 on elsewhere", f"remove {folder / 'run.lock'}.")


def test_a_model_folder_that_cannot_take_the_scores_is_refused_before_scoring(
    spikeformers, causal, tmp_path
):
    pytest.importorskip("lm_eval", reason="the harness is not installed")
    model = tmp_path / "model"
    shutil.copytree(causal, model)
    (model / "evaluations").write_text("mine")
    ended = spikeformers("evaluate", "zeroshot", model, "--tasks", "piqa", "--data-dir", tmp_path)
    refused(ended, 2, f"{model / 'evaluations'} is a file; name a folder.")


def test_a_conversion_that_would_be_tuned_into_a_run_is_refused_first(spikeformers, tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "run.json").write_text("{}")
    arguments = ("convert", "none", "--calibration", "none", "--tune", 5, "--out", tmp_path)
    refused(spikeformers(*arguments), 2, "tuned already holds a run (run.json)")


def test_runs_leave_no_lock(causal):
    assert not list(causal.rglob("run.lock"))


def test_a_resume_says_that_it_passes_over_a_damaged_checkpoint(
    spikeformers, tiny, text, causal, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(causal, out)
    last = max((out / "checkpoints").iterdir())
    (shard,) = last.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    shutil.copytree(last, out / "checkpoints" / "step-0000007")  # a damaged one, and again
    ended = spikeformers("pretrain", "--out", out, "--resume")
    refused(ended, 1, "No checkpoint in", "step-0000006", "step-0000007", "bytes instead of")
    shutil.copytree(max((causal / "checkpoints").iterdir()), last, dirs_exist_ok=True)
    ended = spikeformers("pretrain", "--out", out, "--resume")
    message = " ".join(ended.err.split())
    assert ended.code == 0, ended.err
    assert "Resuming from step-0000006 instead" in message
    assert "damaged-step-0000007, and may be deleted" in message


def test_weights_that_are_not_finite_are_refused_by_every_verb(
    spikeformers, causal, text, tmp_path
):
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(causal, model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    message = "values of model.layers.0.mlp.up.weight are NaN or infinite"
    for arguments in (
        ("info", model),
        ("generate", model, "--prompt", "the "),
        ("generate", model, "--prompt", "the ", "--engine"),
        ("export", "engine", model, "--out", tmp_path / "model.engine"),
        ("energy", model, "--data", text),
        ("audit", model, "--data", text),
        ("evaluate", "perplexity", model, "--data", text),
        ("evaluate", "agreement", causal, "--data", text, "--reference", model),
        ("bench", "decode", model),
        ("compare", causal, model, "--names", "a,b", "--data", text, "--out", tmp_path / "x.html"),
    ):
        refused(spikeformers(*arguments), 1, message)
    assert not (tmp_path / "model.engine").exists()
