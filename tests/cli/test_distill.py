from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from spikeformers.models import load_model
from spikeformers.training.journal import Journal, read_metrics

TERMS = ("ea", "saa", "sfa", "sta", "hta")


def one_message(ended: Any, code: int, *message: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.err.count("error: ") == 1
    for part in message:
        assert part in ended.err


def weights(folder: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load_file(folder / "model.safetensors").items()}


def first_line(out: Path) -> dict[str, Any]:
    return read_metrics(out / "metrics.jsonl")[0]


@pytest.fixture
def distil(spikeformers, tiny, text, teacher, tmp_path):
    """``distil("out", "--without", "saa", steps=2)`` runs the verb; ``.out`` holds its folder."""

    def run(name: str, *more: object, who: Any = teacher, data: Any = text, **changes: Any) -> Any:
        arguments = ("--teacher", who, "--student", "wd-spikingformer-tiny", "--data", data)
        out = tmp_path / name
        return spikeformers("distill", *arguments, "--out", out, *tiny(**changes), *more)

    return run


def test_a_run_leaves_a_student_that_loads(student, teacher):
    model, tokenizer = load_model(student)
    assert model.config.model_type == "wd_spikingformer"
    assert tokenizer.get_vocab() == load_model(teacher)[1].get_vocab()
    assert tokenizer.padding_side == "left"
    record = json.loads((student / "run.json").read_text())
    assert record["data"]["request"]["distill"] == {
        "teacher": str(teacher), "gguf_file": "", "teacher_dtype": "auto", "cache_teacher": "",
    }  # fmt: skip
    assert record["task"]["sta"] == 0.3
    card = (student / "README.md").read_text()
    assert f"| distilled from | {teacher} |" in card
    assert "| terms | ea 0.2, saa 0.1, sfa 0.1, sta 0.3, hta 0.3 |" in card


def test_it_says_what_is_mapped_and_logs_each_term(distil, tmp_path):
    ended = distil("run", "--json", steps=2, hidden_size=24, num_attention_heads=3)
    assert ended.code == 0, ended.err
    assert {"teacher_agreement", "teacher_kl", "loss"} <= set(ended.json["validation"])
    for message in (
        "ea: width 24 -> 16 (linear)",
        "layers, student->teacher: 1->1, 2->2",
        "saa: heads 3 -> 2 (learned)",
        "sfa: width 24 -> 16 -> 16 (MLP, LayerNorm)",
        "gpt_neox",
    ):
        assert message in ended.err
    result = first_line(tmp_path / "run")
    assert all(result[f"loss/{term}"] > 0 and result[f"grad_norm/{term}"] > 0 for term in TERMS)


def test_terms_left_out(distil, tmp_path):
    assert distil("less", "--without", "saa", "--without", "ea", steps=1).code == 0
    assert distil("zero", "--set", "saa=0", "--set", "ea=0", steps=1).code == 0
    less, zero = first_line(tmp_path / "less"), first_line(tmp_path / "zero")
    assert {k for k in less if k.startswith("loss/")} == {"loss/sfa", "loss/sta", "loss/hta"}
    assert less["loss"] == zero["loss"]


def test_cross_entropy_alone_is_pretraining(distil, causal, tmp_path):
    """The same tokens in the same order, from the same weights."""
    alone = [part for term in TERMS[:-1] for part in ("--without", term)]
    ended = distil("hta", *alone, "--set", "hta=1")
    assert ended.code == 0, ended.err
    assert weights(tmp_path / "hta") == weights(causal)


def test_a_recipe_and_a_dense_student(spikeformers, tiny, text, teacher, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    content = {
        "preset": "wd-spikingformer-tiny",
        "data": {"source": str(text)},
        "distill": {"teacher": str(teacher), "sta": 1, "saa": 0, "layer_map": [0, 2]},
    }
    recipe.write_text(yaml.safe_dump(content))
    arguments = ("--recipe", recipe, "--out", tmp_path / "run", *tiny(steps=1), "--control")
    ended = spikeformers("distill", *arguments, "--set", "tau=3")
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["task"]["sta"], record["task"]["tau"]) == (1.0, 3.0)
    assert record["task"]["layer_map"] == [0, 2]
    assert load_model(tmp_path / "run")[0].config.model_type == "gpt_neox"
    ended = spikeformers("pretrain", *arguments[:-1], "--out", tmp_path / "other")
    one_message(ended, 2, "use spikeformers distill")


def test_ctrl_c_and_resume_end_as_if_nothing_had_happened(
    spikeformers, distil, student, tmp_path, monkeypatch
):
    advance = Journal.advance

    def interrupting(self: Journal, step: int, values: Any) -> None:
        advance(self, step, values)
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "advance", interrupting)
        ended = distil("run")
    assert ended.code == 130
    assert f"spikeformers distill --out {tmp_path / 'run'} --resume" in ended.err.replace("\n", "")
    ended = spikeformers("distill", "--out", tmp_path / "run", "--resume")
    assert ended.code == 0, ended.err
    assert weights(tmp_path / "run") == weights(student)


def test_resume_takes_what_may_change_and_refuses_the_rest(spikeformers, student, causal, tmp_path):
    arguments = ("distill", "--out", student, "--resume")
    ended = spikeformers(*arguments, "--set", "log_every=2", "--cache-teacher", tmp_path / "cache")
    assert ended.code == 0, ended.err
    one_message(spikeformers(*arguments, "--set", "hta=1"), 2, "hta was 0.3, now 1.0")
    one_message(spikeformers(*arguments, "--teacher", causal), 2, "teacher_sha256 was")
    one_message(spikeformers("pretrain", *arguments[1:]), 2, "`spikeformers distill`")
    one_message(spikeformers("distill", "--out", causal, "--resume"), 2, "`spikeformers pretrain`")


def test_a_cache_of_the_teacher(distil, tmp_path, student, masked, causal):
    ended = distil("one", "--cache-teacher", tmp_path / "cache", steps=3)
    assert ended.code == 0, ended.err
    assert "0 of 12 windows are there" in ended.err
    ended = distil("two", "--cache-teacher", tmp_path / "cache", steps=3)
    assert "12 of 12 windows are there" in ended.err
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    ended = distil("three", "--cache-teacher", tmp_path / "cache", who=causal)
    one_message(ended, 2, "outputs of another teacher", "teacher_sha256")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--without", "sas"), 2, "Unknown term 'sas'"),
        (("--set", "sta=-1"), 2, "sta is -1.0; it must be 0 or greater"),
        (("--set", "taau=1"), 2, "Did you mean 'tau'?"),
        ([p for t in TERMS for p in ("--without", t)], 2, "All weights are 0"),
        (("--set", "context=64"), 2, "the teacher takes at most 32 tokens"),
        (("--set", "tokenizer=bpe:300"), 2, "which are not the teacher's"),
        (("--set", "vocab_size=300"), 2, "vocabulary of 300 and the teacher one of 258"),
        (("--set", "layer_map=[1, 9]"), 2, "from 1 to 2"),
        (("--student", "we-spikingformer-tiny"), 2, "predicts masked tokens"),
        (("--student", "wd-spikingformer-tinny"), 2, "Did you mean 'wd-spikingformer-tiny'?"),
        (("--teacher-dtype", "fp8"), 2, "must be one of auto, fp32, bf16, fp16"),
        (("--gguf-file", "none.gguf"), 1, "has no none.gguf"),
    ],
)
def test_bad_requests(distil, tmp_path, more, code, message):
    one_message(distil("run", *more), code, message)
    assert not (tmp_path / "run").exists()


def test_teachers_that_cannot_teach(distil, masked, tmp_path):
    one_message(distil("run", who=masked), 2, "predicts masked tokens")
    one_message(distil("run", who=tmp_path / "none"), 1, "none does not exist")
    one_message(distil("run", who="nobody/has-this-model"), 1, "HF_HUB_OFFLINE")
    one_message(distil("run", who=""), 2, "no teacher was named")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    one_message(distil("run", who=tmp_path / "pickled"), 1, "pickles are never loaded")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_vocabulary_than_its_tokenizer(distil, teacher, tmp_path):
    """A tokenizer with more tokens than the teacher has logits for."""
    broken = tmp_path / "teacher"
    shutil.copytree(teacher, broken)
    tokens = json.loads((broken / "tokenizer.json").read_text())
    extra = dict(tokens["added_tokens"][-1], id=258, content="<|more|>")
    tokens["added_tokens"].append(extra)
    (broken / "tokenizer.json").write_text(json.dumps(tokens))
    one_message(distil("run", who=broken), 2, "The tokenizer has 259 tokens")


def test_agreement_of_student_and_teacher(spikeformers, student, teacher, causal, text, tmp_path):
    arguments = ("evaluate", "agreement", student, "--reference", teacher, "--data", text)
    ended = spikeformers(*arguments, "--json")
    assert ended.code == 0, ended.err
    assert set(ended.json) == {
        *("tokens", "context", "agreement", "kl", "cosine", "logit_cosine", "hidden_cosine"),
        *("model", "reference", "data", "split", "sha256"),
    }
    assert ended.json["context"] == 32
    assert 0 <= ended.json["agreement"] <= 1
    assert ended.json["kl"] > 0
    assert "KL from the reference" in spikeformers(*arguments).out
    itself = ("evaluate", "agreement", teacher, "--reference", teacher, "--data", text, "--json")
    assert spikeformers(*itself).json["agreement"] == 1


@pytest.mark.slow
@pytest.mark.torchrun
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_distil_one_student(strategy, distil, text, teacher, tiny, tmp_path):
    import subprocess
    import sys

    assert distil("one", steps=3).code == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "spikeformers", "distill", "--json"]
    command += ["--teacher", str(teacher), "--student", "wd-spikingformer-tiny"]
    command += ["--data", str(text), "--out", str(tmp_path / "two")]
    command += ["--cache-teacher", str(tmp_path / "cache")]
    command += tiny(steps=3, strategy=strategy)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3
    first, second = first_line(tmp_path / "one"), first_line(tmp_path / "two")
    for term in TERMS:
        assert second[f"loss/{term}"] == pytest.approx(first[f"loss/{term}"], rel=1e-4)
        assert second[f"grad_norm/{term}"] == pytest.approx(first[f"grad_norm/{term}"], rel=1e-4)
    assert (
        load_file(tmp_path / "two" / "model.safetensors").keys()
        == load_file(tmp_path / "one" / "model.safetensors").keys()
    )
    assert load_model(tmp_path / "two")[0].config.hidden_size == 16


@pytest.mark.torchrun
def test_two_processes_may_leave_parameters_without_a_gradient(text, teacher, tiny, tmp_path):
    """Embeddings alone: DDP has to know that the blocks get none."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "spikeformers", "distill", "--teacher", str(teacher)]
    command += ["--student", "wd-spikingformer-tiny", "--data", str(text)]
    command += ["--out", str(tmp_path / "run"), *tiny(steps=2, firing_rate_weight=0)]
    command += [part for term in TERMS[1:] for part in ("--without", term)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
