from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from spikeformers.models import load_model
from spikeformers.training.journal import Journal

WD = ("--preset", "wd-spikingformer-tiny", "--tokenizer", "byte")


def weights(folder: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load_file(folder / "model.safetensors").items()}


def record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def test_a_run_leaves_a_model_that_loads(causal):
    model, tokenizer = load_model(causal)
    assert model.config.model_type == "wd_spikingformer"
    assert (model.config.hidden_size, model.config.max_position_embeddings) == (16, 32)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 256
    assert model.config.use_cache
    assert {"README.md", "run.json", "metrics.jsonl"} <= {p.name for p in causal.iterdir()}


def test_run_json_records_the_request_and_the_run(causal, text):
    report = record(causal)
    assert report["config"]["steps"] == 6
    assert report["model"]["hidden_size"] == 16
    assert report["data"]["request"] == {
        "preset": "wd-spikingformer-tiny",
        "control": False,
        "model_choices": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        "source": str(text),
        "tokenizer": "byte",
        "text_field": "text",
        "validation_fraction": 0.05,
        "config_name": None,
    }


def test_a_masked_model_and_a_dense_twin(masked, control):
    assert type(load_model(masked)[0]).__name__ == "WESpikingformerForMaskedLM"
    twin, _ = load_model(control)
    assert twin.config.model_type not in ("wd_spikingformer", "we_spikingformer")
    assert record(control)["data"]["request"]["control"] is True


def test_json_is_all_that_goes_to_standard_output(spikeformers, tiny, text, tmp_path):
    out = tmp_path / "run"
    ended = spikeformers("pretrain", *WD, "--data", text, "--out", out, *tiny(steps=2), "--json")
    assert ended.code == 0
    assert ended.json["steps"] == 2
    assert ended.json["tokens_seen"] == 2 * 4 * 32
    assert ended.json["interrupted"] is False
    assert set(ended.json["validation"]) == {"loss", "perplexity", "bits_per_byte"}
    assert ended.json["parameters"] == load_model(out)[0].num_parameters()
    assert "sha256" in ended.err


def test_a_profile_is_a_trace_in_the_run_folder(spikeformers, tiny, text, tmp_path):
    out = tmp_path / "run"
    ended = spikeformers("pretrain", *WD, "--data", text, "--out", out, *tiny(), "--profile")
    assert ended.code == 0, ended.err
    assert [path.name for path in (out / "profile").iterdir()] == ["steps-3-5-rank-0.json"]


def test_context_and_positions_follow_each_other(spikeformers, tiny, text, tmp_path):
    arguments = ("pretrain", *WD, "--data", text)
    first, second = tmp_path / "one", tmp_path / "two"
    assert spikeformers(*arguments, "--out", first, *tiny(steps=1, context=16)).code == 0
    assert record(first)["model"]["max_position_embeddings"] == 16
    both = tiny(steps=1, context=16, max_position_embeddings=24)
    assert spikeformers(*arguments, "--out", second, *both).code == 0
    assert record(second)["model"]["max_position_embeddings"] == 24
    assert record(second)["config"]["context"] == 16


def test_a_recipe_and_options_on_top(spikeformers, tiny, text, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    content = {
        "preset": "wd-spikingformer-tiny",
        "model": {"wta": "top_k", "winners": 2, "steps": 2},
        "train": {"steps": 50},
        "data": {"source": "nowhere.txt", "tokenizer": "byte"},
    }
    recipe.write_text(yaml.safe_dump(content))
    out = tmp_path / "run"
    arguments = ("--recipe", recipe, "--data", text, "--out", out)
    ended = spikeformers("pretrain", *arguments, *tiny(steps=1))
    assert ended.code == 0, ended.err
    report = record(out)
    assert (report["config"]["steps"], report["model"]["steps"]) == (1, 2)
    assert (report["model"]["wta"], report["model"]["winners"]) == ("top_k", 2)


def test_ctrl_c_and_resume_end_as_if_nothing_had_happened(
    spikeformers, tiny, text, causal, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    advance = Journal.advance

    def interrupting(self: Journal, step: int, values: Any) -> None:
        advance(self, step, values)
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "advance", interrupting)
        ended = spikeformers("pretrain", *WD, "--data", text, "--out", out, *tiny())
    assert ended.code == 130
    assert "Stopped after step 4" in ended.err
    assert not (out / "config.json").exists()
    unfinished = spikeformers("info", out)
    assert unfinished.code == 1
    assert "--resume" in unfinished.err

    ended = spikeformers("pretrain", "--out", out, "--resume")
    assert ended.code == 0, ended.err
    assert weights(out) == weights(causal)
    before, after = record(causal), record(out)
    assert (before["config"], before["model"]) == (after["config"], after["model"])


def test_resume_takes_what_may_change_and_refuses_the_rest(spikeformers, causal, text, tmp_path):
    arguments = ("pretrain", "--out", causal, "--resume")
    assert spikeformers(*arguments, "--set", "log_every=2").code == 0
    ended = spikeformers(*arguments, "--set", "learning_rate=0.5")
    assert ended.code == 2
    assert "learning_rate was 0.01, now 0.5" in ended.err
    ended = spikeformers(*arguments, "--set", "hidden_size=32")
    assert ended.code == 2
    assert "not with hidden_size=32; --resume cannot change the model" in ended.err
    assert spikeformers(*arguments, "--preset", "we-spikingformer-tiny").code == 2
    (other := tmp_path / "other.txt").write_text("Another text than before.\n\n" * 40)
    ended = spikeformers(*arguments, "--data", other)
    assert ended.code == 2, ended.err
    assert "text" in ended.err or "data" in ended.err, ended.err


def test_the_command_that_started_a_run_resumes_it(spikeformers, tiny, text, tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text("model:\n  neurons: {head: {levels: 2}}\n  decay: 0.25\n")
    command = ("pretrain", *WD, "--recipe", recipe, "--data", text, "--out", out, *tiny())
    assert spikeformers(*command).code == 0
    before = weights(out)
    ended = spikeformers(*command, "--resume")
    assert ended.code == 0, ended.err
    assert weights(out) == before
    recipe.write_text("model:\n  neurons: {head: {levels: 4}}\n  decay: 0.25\n")
    ended = spikeformers(*command, "--resume")
    assert ended.code == 2
    assert "not with neurons={'head': {'levels': 4}}; --resume cannot change" in ended.err
    assert weights(out) == before

    started = json.loads((out / "run.json").read_text())
    del started["data"]["request"]["model_choices"]  # as earlier versions wrote it
    (out / "run.json").write_text(json.dumps(started))
    ended = spikeformers(*command, "--resume")
    assert ended.code == 2
    assert "was given; --resume cannot change the model. Leave this out" in ended.err
    assert spikeformers("pretrain", "--out", out, "--resume").code == 0


def test_a_finished_run_is_continued_for_more_steps(spikeformers, tiny, text, tmp_path):
    out = tmp_path / "run"
    assert spikeformers("pretrain", *WD, "--data", text, "--out", out, *tiny()).code == 0
    six = weights(out)
    again = ("pretrain", "--out", out, "--resume")
    ended = spikeformers(*again, "--set", "steps=9", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["steps"] == 9
    assert "9 steps of 128 tokens; the last 3 at the schedule's final learning rate" in ended.err
    nine = weights(out)
    assert nine != six
    report = record(out)["config"]
    assert (report["steps"], report["schedule_steps"]) == (9, 6)
    ended = spikeformers(*again, "--json")  # from now on it is a run of nine
    assert (ended.json["steps"], weights(out)) == (9, nine)
    fewer = spikeformers(*again, "--set", "steps=5")
    assert fewer.code == 2
    assert "for more steps, not for fewer" in fewer.err
    other = spikeformers(*again, "--set", "steps=12", "--set", "schedule_steps=12")
    assert other.code == 2
    assert "schedule_steps was 6, now 12" in other.err


def test_resume_finds_the_same_text_in_another_place(spikeformers, causal, text, tmp_path):
    import shutil

    moved = tmp_path / text.name
    shutil.copytree(text, moved)
    assert spikeformers("pretrain", "--out", causal, "--resume", "--data", moved).code == 0
    assert record(causal)["data"]["request"]["source"] == str(text)


def test_resume_without_a_run(spikeformers, tmp_path):
    ended = spikeformers("pretrain", "--out", tmp_path / "none", "--resume")
    assert ended.code == 2
    assert "nothing to resume" in ended.err


def test_a_taken_folder_is_refused_and_untouched(spikeformers, tiny, text, causal):
    before = weights(causal)
    ended = spikeformers("pretrain", *WD, "--data", text, "--out", causal, *tiny(seed=9))
    assert ended.code == 2
    assert "already holds a run" in ended.err
    assert weights(causal) == before


@pytest.mark.torchrun
def test_two_processes_train_one_model(text, tmp_path):
    import subprocess
    import sys

    pytest.importorskip("torch.distributed")
    sets = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "steps": 2}
    sets |= {"context": 16, "batch_size": 4, "eval_batches": 1}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "spikeformers", "pretrain", *WD]
    command += ["--data", str(text), "--out", str(tmp_path / "run"), "--json"]
    command += [part for k, v in sets.items() for part in ("--set", f"{k}={v}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert load_model(tmp_path / "run")[0].config.hidden_size == 16
